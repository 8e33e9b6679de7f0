"""The benchmarks: each runs one workload on the embedded engine, in process, every step durably recorded.

Owns: `SCENARIOS`. Each returns figures as JSON, the machine's raw commit among them, taken in turn with the workload.
"""

from __future__ import annotations

import asyncio
import platform
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from sovrun import __version__
from sovrun.bench.measure import RawCommits, Spread, peak_memory_mib, percentile
from sovrun.bench.workloads import ENTRY, chain, noop, started_at, wide
from sovrun.core.errors import CorruptHistory
from sovrun.core.identity import RunKey, code_digest
from sovrun.core.ids import Tenant, actor
from sovrun.core.lifecycle import State
from sovrun.core.spec.model import DagSpec
from sovrun.engine.engine import Engine
from sovrun.engine.handler import KnownDag, RunRequest, known_dag
from sovrun.sandbox.in_process import InProcessExecutor
from sovrun.store.memory import MemoryStore
from sovrun.store.protocol import Store
from sovrun.stores.files import FileStore
from sovrun.stores.sqlite.store import SqliteStore
from sovrun.wiring import SystemClock, SystemIdentity

TENANT: Final = Tenant("bench")
ACTOR: Final = actor("local:bench")


class Bench:
    """An engine on a fresh store, warmed up, beside a raw file on the same disk."""

    def __init__(self, engine: Engine, raw: RawCommits) -> None:
        self._engine = engine
        self._raw = raw
        self._identity = SystemIdentity()

    async def prepare(self, spec: DagSpec) -> KnownDag:
        """Register a DAG."""
        dag = known_dag(TENANT, spec, code_digest(()))
        await self._engine.register(dag, ACTOR)
        return dag

    async def run(self, dag: KnownDag) -> None:
        """Submit one run and wait for its end. Raises: CorruptHistory when it did not complete."""
        request = RunRequest(dag, {}, RunKey(fresh=self._identity.fresh()), ACTOR, "in-process")
        submitted = await self._engine.submit(request)
        record = await self._engine.wait(TENANT, submitted.run)
        if record.head.state is not State.COMPLETED:
            raise CorruptHistory(f"a no-op run is {record.head.state}")

    async def seconds(self, work: Callable[[], Awaitable[Any]]) -> float:
        """Return how long some work takes."""
        begun = perf_counter()
        await work()
        return perf_counter() - begun

    def raw(self) -> float:
        """Return the machine's raw commit now, in milliseconds."""
        return self._raw.milliseconds()


@asynccontextmanager
async def _bench(kind: str, directory: Path | None) -> AsyncIterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="sovrun-bench-", dir=directory) as scratch:
        place = Path(scratch)
        clock = SystemClock()
        store: Store = (
            MemoryStore(clock) if kind == "memory" else SqliteStore.open_owner(place / "bench.db", clock)
        )
        executor = InProcessExecutor(spool=place, functions={ENTRY: noop})
        raw = RawCommits(place / "raw.db")
        files = FileStore(place / "files")
        async with Engine(store, files, executor, SystemIdentity(), slots=1, name="bench") as engine:
            bench = Bench(engine, raw)
            warm = await bench.prepare(chain(20))
            for _ in range(20):
                await bench.run(warm)
            yield bench
        raw.close()


async def bench_chain(kind: str, directory: Path | None, repeats: int) -> dict[str, Any]:
    """W1: a chain of 100 steps, milliseconds a step."""
    length = 100
    per_step, raw = [], []
    async with _bench(kind, directory) as bench:
        dag = await bench.prepare(chain(length))
        for _ in range(repeats):
            raw.append(bench.raw())
            per_step.append(await bench.seconds(lambda: bench.run(dag)) / length * 1_000)
    above = [step - commit for step, commit in zip(per_step, raw, strict=True)]
    return {
        "steps": length,
        "msPerStep": Spread.of(per_step).json(),
        "rawCommitMs": Spread.of(raw).json(),
        "aboveRawMs": Spread.of(above).json(),
        "ratioToRaw": Spread.of([step / commit for step, commit in zip(per_step, raw, strict=True)]).json(),
    }


async def bench_throughput(kind: str, directory: Path | None, repeats: int) -> dict[str, Any]:
    """W2: 1,000 runs of a chain of 3 steps, steps a second from the first submission to the last end."""
    count, length = 1_000, 3
    rates, raw = [], []
    async with _bench(kind, directory) as bench:
        dag = await bench.prepare(chain(length))
        for _ in range(repeats):
            raw.append(bench.raw())
            took = await bench.seconds(lambda: asyncio.gather(*(bench.run(dag) for _ in range(count))))
            rates.append(count * length / took)
    return {
        "runs": count,
        "stepsPerRun": length,
        "stepsPerSecond": Spread.of(rates).json(),
        "rawCommitMs": Spread.of(raw).json(),
        "ratioToRaw": Spread.of(
            [rate * commit / 1_000 for rate, commit in zip(rates, raw, strict=True)]
        ).json(),
    }


async def bench_wide(kind: str, directory: Path | None, repeats: int) -> dict[str, Any]:
    """W3: one step, N beside each other, one step: seconds, and how the cost of a step grows with N."""
    widths = (200, 1_000, 2_000, 10_000)
    seconds: dict[int, list[float]] = {width: [] for width in widths}
    raw = []
    async with _bench(kind, directory) as bench:
        dags = {width: await bench.prepare(wide(width)) for width in widths}
        for width, dag in dags.items():
            del width
            await bench.run(dag)  # the plan is compiled once per version, like a template
        for _ in range(repeats):
            raw.append(bench.raw())
            for width, dag in dags.items():
                seconds[width].append(await bench.seconds(lambda dag=dag: bench.run(dag)))  # type: ignore[misc]
    growth = [large / 10 / small for small, large in zip(seconds[1_000], seconds[10_000], strict=True)]
    return {
        "seconds": {str(width): Spread.of(values).json() for width, values in seconds.items()},
        "usPerStep": {
            str(w): Spread.of([v / w * 1e6 for v in values]).json() for w, values in seconds.items()
        },
        "growth1000To10000": Spread.of(growth).json(),
        "rawCommitMs": Spread.of(raw).json(),
        "ratioToRaw": Spread.of([s * 1_000 / c for s, c in zip(seconds[1_000], raw, strict=True)]).json(),
        "peakMemoryMiB": round(peak_memory_mib(), 1),
    }


async def bench_latency(kind: str, directory: Path | None, repeats: int) -> dict[str, Any]:
    """W4: one run of one step on an idle system: submit to start and submit to done, milliseconds."""
    count = 200 * repeats
    starts, dones, raw = [], [], []
    async with _bench(kind, directory) as bench:
        dag = await bench.prepare(chain(1))
        for number in range(count):
            if number % 200 == 0:
                raw.append(bench.raw())
            await asyncio.sleep(0.002)
            begun = perf_counter()
            await bench.run(dag)
            dones.append((perf_counter() - begun) * 1_000)
            starts.append((started_at[0] - begun) * 1_000)
    return {
        "runs": count,
        "startMs": {"p50": round(percentile(starts, 50), 4), "p99": round(percentile(starts, 99), 4)},
        "doneMs": {"p50": round(percentile(dones, 50), 4), "p99": round(percentile(dones, 99), 4)},
        "rawCommitMs": Spread.of(raw).json(),
        "ratioToRaw": round(percentile(dones, 50) / Spread.of(raw).median, 3),
    }


SCENARIOS: Final[dict[str, Callable[[str, Path | None, int], Coroutine[Any, Any, dict[str, Any]]]]] = {
    "chain": bench_chain,
    "throughput": bench_throughput,
    "wide": bench_wide,
    "latency": bench_latency,
}


def run_scenario(
    name: str, *, store: str = "sqlite", directory: Path | None = None, repeats: int = 5
) -> dict[str, Any]:
    """Run a benchmark and return its figures with what they were measured on.

    Args:
        name: a key of `SCENARIOS`; store: `sqlite` or `memory`; directory: where the scratch files go.
    """
    figures = asyncio.run(SCENARIOS[name](store, directory, repeats))
    about = {
        "sovrun": __version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "machine": platform.machine(),
        "store": store,
        "durability": "synchronous=FULL" if store == "sqlite" else "none",
    }
    return {"benchmark": name, **figures, "about": about}
