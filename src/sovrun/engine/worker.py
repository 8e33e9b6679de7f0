"""The worker: takes steps, has them executed, reports how they ended.

Owns: the rhythm in which a worker claims, commits and shows that it is alive. It holds no truth: whatever it loses, the
store has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any, Final

from sovrun.core.events import Failure
from sovrun.core.ids import WorkerId
from sovrun.core.step import NO_HASH, Fail
from sovrun.engine.attempt import Attempts
from sovrun.ports import Executor, Files
from sovrun.store.protocol import Lease, Report, Store

PATIENCE_US: Final = 3_600 * 1_000_000
"""How long a claim of a worker that executes steps inline waits for something to do."""
IDLE_US: Final = 20 * 1_000_000
"""How long a claim of an idle worker waits before the worker says that it holds nothing."""
BEAT_US: Final = 1_000_000
"""How often a worker that executes steps says which, and learns which of them are over."""
BATCH_FIRST: Final = 16
BATCH_MAX: Final = 256
BATCH_SECONDS: Final = 0.005
"""How long a batch of steps that run inline may take before the worker asks for fewer at a time."""
REPORT_SECONDS: Final = 0.020
"""How long a finished inline step may wait for the rest of its batch before it is reported."""

ABANDONED: Final = Failure(
    code="abandoned",
    error=NO_HASH,
    step_hash=None,
    environment=NO_HASH,
    circumstance=True,
    retryable=True,
)
"""What a worker reports of an attempt it has killed because its lease was over; no history ever holds it."""


class Worker:
    """Takes and executes steps until it is told to stop."""

    def __init__(self, name: WorkerId, store: Store, files: Files, executor: Executor, *, slots: int) -> None:
        """Args: slots: steps at a time."""
        self._name = name
        self._store = store
        self._executor = executor
        self._attempts = Attempts(store, files, executor)
        self._slots = slots
        self._told_to_stop = asyncio.Event()
        self._claiming: asyncio.Task[Any] | None = None

    @property
    def name(self) -> WorkerId:
        """The name under which it holds its leases."""
        return self._name

    def stop(self) -> None:
        """Take no more steps; `run` returns when those under way are reported."""
        self._told_to_stop.set()
        if self._claiming is not None:
            self._claiming.cancel()  # what it is given in this very moment, the store takes back

    async def run(self) -> None:
        """Work until stopped. Raises: StoreUnavailable when reports cannot be recorded; nothing acknowledged is lost."""
        if self._executor.inline:
            await self._run_inline()
        else:
            await self._run_beside()

    async def _run_inline(self) -> None:
        """Execute steps in turn on this thread: claims are batches, and each commit asks for the next batch."""
        batch = BATCH_FIRST
        leases: Sequence[Lease] = ()
        while (
            leases or not self._told_to_stop.is_set()
        ):  # what it has taken costs an attempt when it is given up
            if not leases:
                leases = await self._claim_inline(batch)
                continue
            begun = since = perf_counter()
            reports: list[Report] = []
            for number, lease in enumerate(leases, 1):
                reports.append(await self._attempts.execute(lease))
                if perf_counter() - since > REPORT_SECONDS and number < len(leases):
                    await self._store.commit(reports, worker=self._name)
                    reports = []
                    since = perf_counter()
            quick = perf_counter() - begun < BATCH_SECONDS
            if not quick:
                batch = max(1, batch // 2)
            elif len(leases) == batch:
                batch = min(BATCH_MAX, batch * 2)
            slots = 0 if self._told_to_stop.is_set() else batch
            leases = (await self._store.commit(reports, worker=self._name, slots=slots)).leases

    async def _claim_inline(self, slots: int) -> Sequence[Lease]:
        self._claiming = asyncio.current_task()
        try:
            return await self._store.claim(self._name, slots, patience_us=PATIENCE_US)
        except asyncio.CancelledError:
            if self._told_to_stop.is_set():
                return ()
            raise
        finally:
            self._claiming = None

    async def _run_beside(self) -> None:
        """Execute steps beside each other, at most `slots` at a time, while one claim waits for more.

        A claim waits no longer than a beat while steps run, for the worker says what it holds only between claims.
        """
        running: dict[asyncio.Task[Report], Lease] = {}
        claim: asyncio.Task[Sequence[Lease]] | None = None
        reserved = 0
        beat = perf_counter()
        try:
            while True:
                free = self._slots - len(running)
                if free > 0 and claim is None and not self._told_to_stop.is_set():
                    reserved = free
                    patience_us = BEAT_US if running else IDLE_US
                    call = self._store.claim(self._name, free, patience_us=patience_us)
                    claim = self._claiming = asyncio.ensure_future(call)
                waiting: set[asyncio.Task[Any]] = {*running, claim} if claim is not None else {*running}
                if not waiting:
                    return
                pause = BEAT_US / 1e6 if running else None
                await asyncio.wait(waiting, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                leases: list[Lease] = []
                if claim is not None and claim.done():
                    leases.extend(() if claim.cancelled() else claim.result())
                    claim, reserved = None, 0
                done = [task for task in running if task.done()]
                if done:
                    reports = [_report_of(task, running.pop(task)) for task in done]
                    free = self._slots - len(running) - len(leases) - reserved
                    slots = 0 if self._told_to_stop.is_set() else free
                    leases.extend((await self._store.commit(reports, worker=self._name, slots=slots)).leases)
                running |= {asyncio.create_task(self._attempts.execute(lease)): lease for lease in leases}
                if claim is None and perf_counter() - beat >= BEAT_US / 1e6:
                    beat = perf_counter()
                    _abandon(running, await self._store.renew(self._name, list(running.values())))
        finally:
            for task in (*running, *(() if claim is None else (claim,))):
                task.cancel()
            await asyncio.gather(*running, *(() if claim is None else (claim,)), return_exceptions=True)


def _abandon(running: dict[asyncio.Task[Report], Lease], over: Sequence[Lease]) -> None:
    """Kill the attempts whose leases have ended without a report."""
    for task, lease in running.items():
        if lease in over and not task.cancelling():
            task.cancel()  # once: another time would break off the killing of what ignores a friendly word


def _report_of(task: asyncio.Task[Report], lease: Lease) -> Report:
    """Return the report of a task that is done; of an abandoned one, that its process is dead, which frees its slot."""
    with suppress(asyncio.CancelledError):
        return task.result()
    return Report(lease, Fail(lease.fence, ABANDONED))
