"""Leaving an engine: steps under way are finished or given back, and none is left with a worker that is gone."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from sovrun.core.events import Event
from sovrun.core.ids import RunId, StepId, WorkerId
from sovrun.core.lifecycle import Reason, State
from sovrun.core.spec.model import SECOND_US, Kind, Resources, Retry, StepSpec
from sovrun.engine.engine import Engine
from sovrun.engine.worker import Worker
from sovrun.sandbox.executor import SandboxExecutor
from sovrun.sandbox.in_process import InProcessExecutor
from sovrun.store.protocol import Lease, Store
from sovrun.stores.files import FileStore
from sovrun.stores.sqlite.store import SqliteStore
from sovrun.wiring import SystemClock, SystemIdentity
from support import dags
from support.clock import SetClock
from support.engines import Bench, calls, until
from support.requests import TENANT, registration, submission
from support.stores import BACK_ENDS, fresh_file
from support.tasks import require_bubblewrap


class Held:
    """A function of a step that tells when it has begun and goes on when it is let go."""

    def __init__(self) -> None:
        self.begun, self.released = threading.Event(), threading.Event()

    def __call__(self) -> int:
        self.begun.set()
        while not self.released.wait(0.002):
            pass
        return 1

    async def has_begun(self) -> bool:
        return self.begun.is_set()


async def left_with(folder: Path, held: Held, *, grace_seconds: float) -> tuple[Path, RunId]:
    """Leave an engine on a file while a step is under way; with time enough, the step is let go meanwhile."""
    path = fresh_file(folder)
    files = FileStore(folder / "files")
    executor = InProcessExecutor(slots=2, functions={"plugin:hold": held}, spool=files.spool)
    store = SqliteStore.open_owner(path, SystemClock())
    async with Engine(
        store, files, executor, SystemIdentity(), slots=2, name="bench", grace_seconds=grace_seconds
    ) as engine:
        run = await Bench(engine, store, files, folder).submit(
            dags.dag(calls("a", "hold", more={"retry": Retry()}), calls("b", "hold", "a"))
        )
        await until(held.has_begun)
        if grace_seconds:
            asyncio.get_running_loop().call_soon(held.released.set)
    return path, run


async def recorded(path: Path, run: RunId) -> tuple[list[State], list[str | None], list[Event]]:
    """Return states and reasons of the steps of a run as its file has them, and its events."""
    store = SqliteStore.open_owner(path, SystemClock())
    steps = await store.steps(TENANT, run)
    events = list(await store.events(TENANT, run))
    await store.close()
    return [step.state for step in steps], [step.reason for step in steps], events


async def test_a_step_under_way_may_end_and_is_recorded(tmp_path: Path) -> None:
    path, run = await left_with(tmp_path, Held(), grace_seconds=60)
    states, _, events = await recorded(path, run)
    assert states == [State.COMPLETED, State.QUEUED], "what followed was left to the next engine"
    assert [event.type for event in events].count("step.executing") == 1


async def test_a_step_that_goes_on_for_longer_is_given_back(tmp_path: Path) -> None:
    held = Held()
    path, run = await left_with(tmp_path, held, grace_seconds=0)
    held.released.set()
    states, reasons, _ = await recorded(path, run)
    assert (states[0], reasons[0]) == (State.AWAITING_TOOL, Reason.LEASE_EXPIRED)


TOLD = """#!/bin/sh
trap 'echo told; {then}' TERM
echo begun
while :; do sleep 0.01; done
"""


@pytest.mark.parametrize("then", ["exit 0", ":"], ids=["ends", "goes on"])
async def test_a_step_in_a_sandbox_is_told_to_end_before_the_time_is_over_and_killed_then(
    tmp_path: Path, then: str
) -> None:
    require_bubblewrap()
    code = tmp_path / "code"
    code.mkdir()
    (code / "program").write_text(TOLD.format(then=then))
    (code / "program").chmod(0o755)
    path = fresh_file(tmp_path)
    files = FileStore(tmp_path / "files")
    executor = await SandboxExecutor.open(files.spool)
    store = SqliteStore.open_owner(path, SystemClock())
    step = StepSpec(StepId("a"), Kind.ARGV, ("program",), resources=Resources(grace_us=600 * SECOND_US))
    async with (
        asyncio.timeout(120),
        Engine(store, files, executor, SystemIdentity(), slots=2, name="bench", grace_seconds=8) as engine,
    ):
        run = await Bench(engine, store, files, tmp_path).submit(dags.dag(step), code=code)
        log = Path(files.log(TENANT, run, step.id, 1))

        async def has_begun() -> bool:
            return "begun" in told_in(log)

        await until(has_begun)
    assert "told" in told_in(log)
    states, reasons, _ = await recorded(path, run)
    assert (states, reasons) == ([State.AWAITING_TOOL], [Reason.LEASE_EXPIRED])


def told_in(log: Path) -> str:
    return log.read_text() if log.exists() else ""


class Overheard:
    """A store that tells when a worker asks it for work."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.asked = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def claim(self, worker: WorkerId, slots: int, *, patience_us: int = 0) -> list[Lease]:
        self.asked.set()
        return list(await self._store.claim(worker, slots, patience_us=patience_us))


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("kind", list(BACK_ENDS))
async def test_a_worker_that_is_told_to_stop_as_its_claim_is_answered_leaves_no_lease(
    tmp_path: Path, kind: str, turns: int, slots: int
) -> None:
    files = FileStore(tmp_path / "files")
    spec = dags.shaped(dags.SINGLE)
    executor = InProcessExecutor(slots=slots, functions={}, spool=files.spool)
    async with BACK_ENDS[kind](tmp_path, SetClock()) as store:
        asking = Overheard(store)
        worker = Worker(WorkerId("w/1"), asking, files, executor, slots=slots)  # type: ignore[arg-type] # by name
        work = asyncio.create_task(worker.run())
        await asking.asked.wait()
        await asyncio.sleep(0)
        await store.register(registration(spec))
        made = asyncio.ensure_future(store.submit(submission(spec, "1")))
        for _ in range(turns):
            await asyncio.sleep(0)
        worker.stop()
        await work
        run = (await made).run
        assert (await store.steps(TENANT, run))[0].state is not State.EXECUTING
        assert [depth.executing for depth in await store.depths(TENANT)] == [0]
    await executor.close()
