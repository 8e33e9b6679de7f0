"""The worker: takes steps, has them executed, reports how they ended.

Owns: the rhythm in which a worker claims and commits. It holds no truth: whatever it loses, the store has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Any, Final

from sovrun.core.ids import WorkerId
from sovrun.engine.attempt import Attempts
from sovrun.ports import Executor, Files
from sovrun.store.protocol import Lease, Report, Store

PATIENCE_US: Final = 3_600 * 1_000_000
BATCH_FIRST: Final = 16
BATCH_MAX: Final = 256
BATCH_SECONDS: Final = 0.005
"""How long a batch of steps that run inline may take before the worker asks for fewer at a time."""
REPORT_SECONDS: Final = 0.020
"""How long a finished inline step may wait for the rest of its batch before it is reported."""


class Worker:
    """Takes and executes steps until it is told to stop."""

    def __init__(
        self,
        name: WorkerId,
        store: Store,
        files: Files,
        executor: Executor,
        *,
        slots: int,
    ) -> None:
        """Args: slots: steps at a time."""
        self._name = name
        self._store = store
        self._executor = executor
        self._attempts = Attempts(store, files, executor)
        self._slots = slots
        self._told_to_stop = asyncio.Event()

    def stop(self) -> None:
        """Take no more steps; `run` returns when those under way are reported and a waiting claim was answered."""
        self._told_to_stop.set()

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
        while not self._told_to_stop.is_set():
            if not leases:
                leases = await self._claim(batch)
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
            committed = await self._store.commit(reports, worker=self._name, slots=slots)
            leases = committed.leases

    async def _run_beside(self) -> None:
        """Execute steps beside each other, at most `slots` at a time, while one claim waits for more."""
        running: set[asyncio.Task[Report]] = set()
        claim: asyncio.Task[Sequence[Lease]] | None = None
        reserved = 0
        try:
            while True:
                free = self._slots - len(running)
                if free > 0 and claim is None and not self._told_to_stop.is_set():
                    reserved = free
                    claim = asyncio.create_task(self._claim(free))
                waiting: set[asyncio.Task[Any]] = {*running, claim} if claim is not None else {*running}
                if not waiting:
                    return
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                leases: list[Lease] = []
                if claim is not None and claim.done():
                    leases.extend(claim.result())
                    claim, reserved = None, 0
                done = {task for task in running if task.done()}
                running -= done
                if done:
                    free = self._slots - len(running) - len(leases) - reserved
                    committed = await self._store.commit(
                        [task.result() for task in done],
                        worker=self._name,
                        slots=0 if self._told_to_stop.is_set() else free,
                    )
                    leases.extend(committed.leases)
                running |= {asyncio.create_task(self._attempts.execute(lease)) for lease in leases}
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _claim(self, slots: int) -> Sequence[Lease]:
        return await self._store.claim(self._name, slots, patience_us=PATIENCE_US)
