"""How long a recorded workflow takes to import, plan and run in-process, with no time spent in its steps.

Printed as JSON with the peak memory of this process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sovrun.core.identity import RunKey
from sovrun.core.ids import Tenant
from sovrun.core.wfformat import import_wfformat
from sovrun.engine.handler import RunRequest
from sovrun.wiring import DOCUMENT_BYTES_MAX, StoreAddress, local_actor, open_engine, read_bounded

TENANT = Tenant("default")
BWA = Path(__file__).parents[1] / "tests" / "data" / "wfinstances" / "bwa-chameleon-large-001.json.gz"


async def measure(file: Path, workers: int, folder: Path) -> dict[str, Any]:
    """Return the figures of one workflow, run once on a new store."""
    begun = time.perf_counter()
    document = import_wfformat(read_bounded(file, DOCUMENT_BYTES_MAX * 8), name=str(file), time_scale=0)
    dag_file = folder / "dag.json"
    dag_file.write_text(json.dumps(document))
    imported = time.perf_counter()
    address = StoreAddress(folder / "runs.db")
    async with open_engine(address, isolation="in-process", slots=workers) as opened:
        dag = opened.load(dag_file, TENANT)
        planned = time.perf_counter()
        await opened.engine.register(dag, local_actor())
        key = RunKey(caller="workflow")
        submitted = await opened.engine.submit(
            RunRequest(dag, {}, key, local_actor(), "in-process", None, 100)
        )
        record = await opened.engine.wait_idle(TENANT, submitted.run)
        ended = time.perf_counter()
    return {
        "benchmark": "workflow",
        "file": file.name,
        "steps": len(dag.spec.steps),
        "status": str(record.head.state),
        "outcomeHash": record.head.outcome,
        "importSeconds": round(imported - begun, 3),
        "planSeconds": round(planned - imported, 3),
        "runSeconds": round(ended - planned, 3),
        "peakMiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def main() -> int:
    """Read the options, measure, print the figures; 1 when the workflow did not complete."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "file", type=Path, nargs="?", default=BWA, help="a WfFormat instance; default: bwa, 1,004 tasks"
    )
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sovrun-workflow-") as folder:
        figures = asyncio.run(measure(options.file, options.workers, Path(folder)))
    print(json.dumps(figures, indent=2))
    return 0 if figures["status"] == "completed" else 1


if __name__ == "__main__":
    sys.exit(main())
