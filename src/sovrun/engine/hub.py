"""The hub: what the process that owns a store does when other processes execute the steps.

Owns: `Hub`: the clerk, and taking back the leases of workers that have fallen silent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from sovrun.core.ids import Digest, WorkerId
from sovrun.engine.clerk import Clerk
from sovrun.engine.command_steps import CommandSteps
from sovrun.execution.drift import DriftWatch
from sovrun.execution.layer import CommandLayer
from sovrun.ports import Files
from sovrun.store.protocol import Store

LEASE_US: Final = 15_000_000
"""How long a worker may be silent before its leases are taken back."""
REAP_SECONDS: Final = 2.5
DRIFT_SECONDS: Final = 60.0
"""How often providers are compared with what is recorded."""


class Hub:
    """Keeps an owned store going. Entering takes back every lease, since nobody of before is alive or will be heard."""

    def __init__(
        self,
        store: Store,
        files: Files,
        environment: Digest,
        commands: CommandLayer,
        watch: DriftWatch,
        *,
        drift_seconds: float | None = DRIFT_SECONDS,
        at_once: asyncio.Event | None = None,
        silenced: Callable[[WorkerId, int], None] | None = None,
    ) -> None:
        """Make a hub of its parts.

        Args:
            environment: of the workers, see `Clerk`; commands: performs the commands of this store.
            watch: compares its providers with what is recorded, every `drift_seconds`; None means never.
            at_once: set when nobody is to wait for providers any more.
            silenced: told of each worker that was silent for too long, and how many leases it has lost by that.
        """
        self._watch = watch
        self._drift_seconds = drift_seconds
        self._silenced = silenced
        self._store = store
        self._commands = commands
        self._at_once = at_once or asyncio.Event()
        self._clerk = Clerk(store, files, environment, CommandSteps(store, commands))
        self._tasks: list[asyncio.Task[None]] = []
        self.resumed = 0
        """How many leases of an earlier, interrupted process were taken back."""

    async def __aenter__(self) -> Self:
        self.resumed = await self._store.recover()
        work = [self._clerk.run(), self._commands.run(), self._reap()]
        if self._drift_seconds is not None:
            work.append(self._watch.run(self._drift_seconds))
        self._tasks = [asyncio.create_task(one) for one in work]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clerk.stop()
        await self._let_providers_answer()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._store.close()

    async def _let_providers_answer(self) -> None:
        """Let what was sent have its answer, unless told to end at once: then it is looked for after the next start."""
        answered = asyncio.create_task(self._commands.stop())
        hurried = asyncio.create_task(self._at_once.wait())
        await asyncio.wait([answered, hurried], return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        answered.cancel()  # without effect when it is done
        await asyncio.gather(answered, hurried, return_exceptions=True)

    async def failed(self) -> None:
        """Return when the hub cannot go on; raises what has stopped it."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def bury(self, worker: WorkerId) -> None:
        """Take back what a worker held whose process is known to be over; nobody waits until its silence is noticed."""
        await self._take_back(worker)

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(REAP_SECONDS)
            await self._take_back()

    async def _take_back(self, *dead: WorkerId) -> None:
        """Take back what dead and silent workers hold, and tell of the silent ones."""

        def told(worker: WorkerId, leases: int) -> None:
            if self._silenced is not None and worker not in dead:
                self._silenced(worker, leases)

        await self._store.take_back(LEASE_US, dead=dead, told=told)
