"""Raise storms of any size: callers, a provider behind a line that is cut, an orchestrator that is killed.

    python benchmarks/storm.py orders --count 1000 --kills 20 --seed 7
    python benchmarks/storm.py deployments --count 60 --kills 10

Prints figures as JSON, and exits 1 when the provider holds something else than what was commanded, once each. Orders need
the foreign server (`make foreign`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.storms import deployments_in_a_storm, orders_in_a_storm


async def raised(what: str, folder: Path, seed: int, count: int, kills: int) -> dict[str, int]:
    """Raise one storm; return what it was like. Raises: AssertionError when a rule was broken."""
    if what == "orders":
        return asdict(await orders_in_a_storm(folder, seed=seed, orders=count, kills=kills))
    return asdict(await deployments_in_a_storm(folder, seed=seed, deployments=count, kills=kills))


def main() -> int:
    """Raise the storms that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["orders", "deployments"])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=4)
    given = parser.parse_args()
    begun = time.monotonic()
    with TemporaryDirectory(prefix="sovrun-storm-") as folder:
        try:
            told = asyncio.run(raised(given.what, Path(folder), given.seed, given.count, given.kills))
        except AssertionError as broken:
            print(json.dumps({"broken": str(broken)[:2_000], "seed": given.seed}))
            return 1
    print(json.dumps({**told, "seconds": round(time.monotonic() - begun, 1)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
