"""Record the ledgers of a paper provider, and what can be read of them: `python tests/replay/record_paper.py FOLDER`.

For a new version of the entries only; what earlier versions wrote is never recorded again.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.ledgers import MemoryLedger
from support.paper import live_a_little


def record(folder: Path) -> None:
    """Write one file for each tenant's ledger, an entry a line, and the state beside them."""
    ledger = MemoryLedger()
    state = asyncio.run(live_a_little(ledger))
    folder.mkdir(parents=True)
    for (tenant, _), entries in ledger.kept.items():
        (folder / f"{tenant}.jsonl").write_bytes(b"".join(entry + b"\n" for entry in entries))
    (folder / "state").write_bytes(state)


if __name__ == "__main__":
    record(Path(sys.argv[1]))
