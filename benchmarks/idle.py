"""How much CPU `sovrun up` and its workers use while runs wait for somebody and nothing else is to be done.

CPU is user and system time of the server and of every process below it, from /proc/PID/stat at both ends of the
interval, as a share of one core.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kill import descendants
from sovrun.core.identity import RunKey
from sovrun.core.ids import Tenant
from sovrun.engine.handler import RunRequest
from sovrun.wiring import StoreAddress, local_actor, open_submitting

TENANT = Tenant("default")
DAG = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: waits}
steps:
  - {id: go, confirm: {role: boss, show: {question: really}}}
  - {id: after, python: "plug:work", needs: [go]}
"""
PLUG = "def work():\n    return 1\n"


def cpu_seconds(pids: list[int]) -> float:
    """Return the CPU time that processes have used so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def measure(runs: int, seconds: float, folder: Path) -> dict[str, Any]:
    """Make runs that wait, let the server settle, and measure."""
    file = folder / "dag" / "dag.yaml"
    file.parent.mkdir()
    file.write_text(DAG)
    (file.parent / "plug.py").write_text(PLUG)
    address = StoreAddress(folder / "s.db")
    command = [sys.executable, "-m", "sovrun", "up", "--store", str(address), "--isolation", "in-process"]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: ASYNC220, S603
    try:
        while not (folder / "s.db.sock").exists():  # noqa: ASYNC110 -- another process makes it
            await asyncio.sleep(0.05)
        async with open_submitting(address) as opened:
            dag = opened.load(file, TENANT)
            for number in range(runs):
                key = RunKey(caller=f"run-{number}")
                await opened.submit(RunRequest(dag, {}, key, local_actor(), "in-process", None, 100))
            while len(await opened.store.waiting(TENANT, limit=runs)) < runs:  # noqa: ASYNC110 -- the server tells nobody
                await asyncio.sleep(0.1)
            depths = await opened.store.depths(TENANT)
        await asyncio.sleep(3)  # what the submissions set off is over
        pids = [server.pid, *descendants(server.pid)]
        before, begun = cpu_seconds(pids), time.monotonic()
        await asyncio.sleep(seconds)
        used, took = cpu_seconds(pids) - before, time.monotonic() - begun
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    return {
        "benchmark": "idle",
        "waitingRuns": runs,
        "slotsInUse": sum(depth.executing for depth in depths),
        "processes": len(pids),
        "seconds": round(took, 1),
        "cpuSeconds": round(used, 3),
        "cpuPercentOfACore": round(used / took * 100, 3),
        "targetPercent": 1,
    }


def main() -> None:
    """Read the options, measure, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sovrun-idle-") as folder:
        print(json.dumps(asyncio.run(measure(options.runs, options.seconds, Path(folder))), indent=2))


if __name__ == "__main__":
    main()
