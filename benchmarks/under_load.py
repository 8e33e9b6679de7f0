"""The benchmarks of the embedded engine, idle and while its process serves a socket that others hammer.

The same process that runs the workload serves the API; a process of its own sends it requests at a fixed rate. Prints
how much slower each figure is under load; at most 2 is wanted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from multiprocessing.queues import Queue
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from sovrun.bench.measure import RawCommits, percentile
from sovrun.bench.scenarios import TENANT, Bench
from sovrun.bench.workloads import ENTRY, chain, noop, wide
from sovrun.engine.engine import Engine
from sovrun.engine.handler import KnownDag
from sovrun.execution.adapter_set import PAPER_ALONE
from sovrun.execution.drift import DriftWatch
from sovrun.sandbox.in_process import InProcessExecutor
from sovrun.service.app import create_app
from sovrun.service.server import serving
from sovrun.stores.files import FileStore
from sovrun.stores.sqlite.store import SqliteStore
from sovrun.wiring import SystemClock, SystemIdentity, open_commands

Workload = Callable[[], Awaitable[float]]


def hammer(socket: str, version: str, rate: float, seconds: float, answers: Queue[dict[str, int]]) -> None:
    """Send `rate` pairs of GET /runs and POST /runs a second, and put the counts of statuses."""
    answers.put(asyncio.run(_hammer(socket, version, rate, seconds)))


async def _hammer(socket: str, version: str, rate: float, seconds: float) -> dict[str, int]:
    statuses: Counter[str] = Counter()
    transport = httpx.AsyncHTTPTransport(uds=socket)
    headers = {"X-Tenant-Id": TENANT}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://sovrun", headers=headers, timeout=60
    ) as client:

        async def pair() -> None:
            listed = await client.get("/api/v1/runs", params={"limit": 50})
            made = await client.post("/api/v1/runs", json={"dagVersion": version})
            statuses[f"GET {listed.status_code}"] += 1
            statuses[f"POST {made.status_code}"] += 1

        end, tasks = time.monotonic() + seconds, []
        while time.monotonic() < end:
            tasks.append(asyncio.create_task(pair()))
            await asyncio.sleep(1 / rate)
        await asyncio.gather(*tasks)
    return dict(statuses)


async def figures(bench: Bench, dags: dict[str, KnownDag], repeats: int) -> dict[str, float]:
    """Return the median of each figure; in all of them less is better."""

    async def once(name: str) -> float:
        return await bench.seconds(lambda: bench.run(dags[name]))

    async def throughput() -> float:
        return await bench.seconds(lambda: asyncio.gather(*(bench.run(dags["three"]) for _ in range(300))))

    async def latency() -> list[float]:
        found = []
        for _ in range(100):
            await asyncio.sleep(0.005)
            found.append(await once("one") * 1_000)
        return found

    latencies = await latency()
    return {
        "chainMsPerStep": median([await once("chain") * 10 for _ in range(repeats)]),
        "throughputUsPerStep": median([await throughput() / 900 * 1e6 for _ in range(repeats)]),
        "wide1000Seconds": median([await once("wide") for _ in range(repeats)]),
        "latencyP50Ms": percentile(latencies, 50),
        "latencyP99Ms": percentile(latencies, 99),
    }


async def measure(rate: float, repeats: int, folder: Path) -> dict[str, Any]:
    """Measure idle, under load, and idle again; the better of the two idle figures counts."""
    store = SqliteStore.open_owner(folder / "bench.db", SystemClock())
    files = FileStore(folder / "files")
    executor = InProcessExecutor(spool=folder, functions={ENTRY: noop})
    raw = RawCommits(folder / "raw.db")
    async with Engine(store, files, executor, SystemIdentity(), slots=1, name="bench") as engine:
        bench = Bench(engine, raw)
        specs = {"one": chain(1), "three": chain(3), "chain": chain(100), "wide": wide(1_000)}
        dags = {name: await bench.prepare(spec) for name, spec in specs.items()}
        commands = open_commands(store, PAPER_ALONE)
        watch = DriftWatch(store, commands.adapters)
        app = create_app(store, files, SystemIdentity(), commands, watch, isolation="in-process")
        async with serving(app, folder / "s"):
            for dag in dags.values():
                await bench.run(dag)  # plans are compiled once
            before = await figures(bench, dags, repeats)
            loaded, statuses = await _loaded(bench, dags, repeats, rate, folder / "s")
            after = await figures(bench, dags, repeats)
    raw.close()
    idle = {name: min(before[name], after[name]) for name in before}
    return {
        "benchmark": "under_load",
        "pairsPerSecond": rate,
        "answers": statuses,
        "idle": {name: round(value, 4) for name, value in idle.items()},
        "underLoad": {name: round(value, 4) for name, value in loaded.items()},
        "ratio": {name: round(loaded[name] / idle[name], 2) for name in idle},
        "targetRatio": 2,
    }


async def _loaded(
    bench: Bench, dags: dict[str, KnownDag], repeats: int, rate: float, socket: Path
) -> tuple[dict[str, float], dict[str, int]]:
    context = multiprocessing.get_context("spawn")
    answers: Queue[dict[str, int]] = context.Queue()
    arguments = (str(socket), dags["one"].version, rate, 20.0, answers)
    process = context.Process(target=hammer, args=arguments)
    process.start()
    await asyncio.sleep(2)  # until it has begun
    loaded = await figures(bench, dags, repeats)
    busy = process.is_alive()
    statuses = await asyncio.to_thread(answers.get)
    process.join()
    assert busy, "the load ended before the figures were taken: measure less or hammer longer"
    return loaded, statuses


def main() -> None:
    """Read the options, measure, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=50, help="pairs of GET and POST a second")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sovrun-load-") as folder:
        print(json.dumps(asyncio.run(measure(options.rate, options.repeats, Path(folder))), indent=2))


if __name__ == "__main__":
    main()
