"""The embedded engine: one process that owns a store, executes its steps and answers who waits for a run.

Owns: `Engine`, the life of its worker and its clerk, and the waiting for ends of runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

from sovrun.core.errors import StoreUnavailable
from sovrun.core.ids import Actor, RunId, Tenant, WorkerId
from sovrun.core.lifecycle import TERMINAL, Reason, State
from sovrun.engine.clerk import Clerk
from sovrun.engine.command_steps import CommandSteps
from sovrun.engine.desk import Desk
from sovrun.engine.handler import KnownDag, RunRequest, registration_of, submission_of
from sovrun.engine.hub import LEASE_US
from sovrun.engine.isolation import mixed, require_isolation, unfit
from sovrun.engine.worker import Worker
from sovrun.execution.layer import CommandLayer
from sovrun.ports import Executor, Files, Identity
from sovrun.store.protocol import RunRecord, Store, Submission, Submitted

LOOK_SECONDS: Final = 0.1
GRACE_SECONDS: Final = 10.0
"""How long steps under way may go on when the engine is left; after that they are killed and their leases given back."""
ENDING_SHARE: Final = 4
"""In the last quarter of that time they are told to end."""


class Engine:
    """Runs DAGs on a store that this process owns. Use it as an asynchronous context manager.

    Entering takes back every lease, since whoever held one before is dead, and resumes all unfinished runs.
    """

    def __init__(  # noqa: PLR0913 -- one parameter per part it is made of
        self,
        store: Store,
        files: Files,
        executor: Executor,
        identity: Identity,
        *,
        slots: int,
        name: str,
        grace_seconds: float = GRACE_SECONDS,
        commands: CommandLayer | None = None,
        clerk: Clerk | None = None,
    ) -> None:
        """Make an engine of its parts.

        Args:
            slots: steps at a time; name: of the worker, printable ASCII; grace_seconds: see `GRACE_SECONDS`.
            commands: performs the commands of this store; without it `command` steps are refused.
            clerk: instead of the usual one, for replays.
        """
        self._grace_seconds = grace_seconds
        self._commands = commands
        self._store = store
        self._files = files
        self._executor = executor
        self._worker = Worker(WorkerId(f"{name}/{identity.fresh()}"), store, files, executor, slots=slots)
        steps = None if commands is None else CommandSteps(store, commands)
        self._clerk = clerk or Clerk(store, files, executor.environment, steps)
        self._tasks: list[asyncio.Task[None]] = []
        self._waiting: dict[RunId, list[asyncio.Future[None]]] = {}
        self._under_way: dict[RunId, Tenant] = {}
        """Runs that were made here and have not ended yet, so that `wait` need not read whether they have."""
        self._error: BaseException | None = None
        self.desk = Desk(store, files)
        self.resumed = 0
        """How many leases of an earlier, interrupted engine were taken back."""
        store.subscribe(self._run_ended)

    @property
    def isolation(self) -> str:
        """What it isolates steps by."""
        return self._executor.isolation

    async def __aenter__(self) -> Self:
        try:
            await self._require_fit()
        except BaseException:
            await self._store.close()
            await self._executor.close()
            raise
        self.resumed = await self._store.recover()
        self._start(self._worker.run())
        self._start(self._clerk.run())
        if self._commands is not None:
            self._start(self._commands.run())
        return self

    async def _require_fit(self) -> None:
        """Refuse to begin where steps would be due that are to be isolated otherwise. Raises: InvalidSetting.

        What only waits for somebody may stay as it is: nobody can answer while this process has the store.
        """
        found = [
            record for record in await unfit(self._store, self.isolation) if not await self._asks(record)
        ]
        if found:
            raise mixed(found, self.isolation)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.stop()
        self._clerk.stop()
        if self._commands is not None:
            await self._commands.stop()
        ending = self._grace_seconds / ENDING_SHARE
        if error is None:
            # Steps under way, which the first two see to, are let finish for a while; what does not is given back.
            await asyncio.wait(self._tasks[:2], timeout=self._grace_seconds - ending)
        for task in self._tasks:
            task.cancel()
        working = self._tasks[0]
        await asyncio.wait((working,), timeout=ending)
        while not working.done():
            working.cancel()  # once more, which kills steps that were told to end
            await asyncio.wait((working,), timeout=LOOK_SECONDS)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(StoreUnavailable):  # then the next engine takes them back
            await self._store.take_back(LEASE_US, dead=(self._worker.name,))
        await self._store.close()
        await self._executor.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(self._task_ended)
        self._tasks.append(task)

    async def register(self, dag: KnownDag, actor: Actor) -> bool:
        """Make a DAG version known; False when it was already. Raises: StoreUnavailable."""
        return await self._store.register(registration_of(dag, actor))

    async def submit(self, request: RunRequest, *, parent: RunId | None = None) -> Submitted:
        """Make a run of a registered DAG version, or return the one that an identical request made before.

        Args:
            parent: the run that is replayed: the clerk sees every step first.
        Raises: InvalidInputs, InvalidSetting when it is to be isolated otherwise than this engine isolates,
            IdempotencyKeyConflict, NotFound, StoreUnavailable.
        """
        require_isolation(request.isolation, self.isolation)
        submission, inputs = submission_of(request)
        if submission.inputs.body is None:
            self._files.put(submission.tenant, submission.inputs.digest, inputs)
        if parent is not None:
            submission = replace(submission, parent=parent)
        return await self._made(submission)

    async def _made(self, submission: Submission) -> Submitted:
        """Have a run made that is known to be under way before it can end."""
        self._under_way[submission.id] = submission.tenant
        created = False
        try:
            submitted = await self._store.submit(submission)
            created = submitted.created
        finally:
            if not created:
                self._under_way.pop(submission.id, None)
        return submitted

    async def wait(self, tenant: Tenant, run: RunId) -> RunRecord:
        """Return a run once it is terminal. Raises: NotFound; StoreUnavailable when this engine cannot go on."""
        record = None if self._under_way.get(run) == tenant else await self._store.run(tenant, run)
        while record is None or record.head.state not in TERMINAL:
            if self._error is not None:
                raise self._error
            ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(run, []).append(ended)
            await ended
            record = await self._store.run(tenant, run)
        return record

    async def wait_idle(self, tenant: Tenant, run: RunId) -> RunRecord:
        """Return a run once it is terminal, or waits for nothing but tools, people and operators. Raises: as `wait`."""
        ended = asyncio.create_task(self.wait(tenant, run))
        try:
            while True:
                await asyncio.wait([ended], timeout=LOOK_SECONDS)
                if ended.done():
                    return await ended
                record = await self._store.run(tenant, run)
                if await self._is_left_waiting(record):
                    return record
        finally:
            ended.cancel()

    async def settle_commands(self) -> None:
        """Take every open command as far as it goes now. Raises: StoreUnavailable."""
        if self._commands is not None:
            await self._commands.settle()

    async def _is_left_waiting(self, record: RunRecord) -> bool:
        head = record.head
        if head.state is State.RECEIVED:
            return head.reason is not None  # for a quota or an unpause
        if head.counts.executing == 0 and await self._is_paused(record):
            return True
        return await self._asks(record)

    async def _asks(self, record: RunRecord) -> bool:
        """Return whether a run waits for tools and people alone."""
        head = record.head
        if head.state not in (State.AWAITING_TOOL, State.AWAITING_USER_CONFIRMATION):
            return False
        if head.counts.awaiting_tool == 0:
            return True
        steps = await self._store.steps(head.tenant, head.id)
        waits = (step for step in steps if step.state is State.AWAITING_TOOL)
        return all(
            step.reason == Reason.TOOL for step in waits
        )  # else a retry or a lost lease goes on by itself

    async def _is_paused(self, record: RunRecord) -> bool:
        tenant = record.head.tenant
        limits = (await self._store.tenant_limits(tenant), await self.desk.limits(tenant, record.dag))
        return any(limit.paused for limit in limits)

    def _run_ended(self, run: RunId) -> None:
        self._under_way.pop(run, None)
        for ended in self._waiting.pop(run, ()):
            if not ended.done():
                ended.set_result(None)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """Tell everyone who waits that this engine cannot go on, and why."""
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        self._error = error
        waiting, self._waiting = self._waiting, {}
        for futures in waiting.values():
            for ended in futures:
                if not ended.done():
                    ended.set_exception(error)
