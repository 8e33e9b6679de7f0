"""The embedded engine: one process that owns a store, executes its steps and answers who waits for a run.

Owns: `Engine`, the life of its worker, and the waiting for ends of runs.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from sovrun.core.ids import Actor, RunId, Tenant, WorkerId
from sovrun.core.lifecycle import TERMINAL
from sovrun.engine.handler import KnownDag, RunRequest, registration_of, submission_of
from sovrun.engine.worker import Worker
from sovrun.ports import Executor, Files, Identity
from sovrun.store.protocol import RunRecord, Store, Submitted


class Engine:
    """Runs DAGs on a store that this process owns. Use it as an asynchronous context manager.

    Entering takes back every lease, since whoever held one before is dead, and resumes all unfinished runs.
    """

    def __init__(
        self, store: Store, files: Files, executor: Executor, identity: Identity, *, slots: int, name: str
    ) -> None:
        """Args: slots: steps at a time; name: of the worker, printable ASCII."""
        self._store = store
        self._files = files
        self._executor = executor
        worker = WorkerId(f"{name}/{identity.fresh()}")
        self._worker = Worker(worker, store, files, executor, slots=slots)
        store.subscribe(self._run_ended)
        self._working: asyncio.Task[None] | None = None
        self._waiting: dict[RunId, list[asyncio.Future[None]]] = {}
        self.resumed = 0
        """How many leases of an earlier, interrupted engine were taken back."""

    async def __aenter__(self) -> Self:
        self.resumed = await self._store.recover()
        self._working = asyncio.create_task(self._worker.run())
        self._working.add_done_callback(self._worker_ended)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._working is not None  # noqa: S101 -- set on entering
        self._worker.stop()
        if error is not None:
            self._working.cancel()
        await self._store.close()  # answers the worker's waiting claim
        await asyncio.gather(self._working, return_exceptions=True)
        await self._executor.close()

    async def register(self, dag: KnownDag, actor: Actor) -> bool:
        """Make a DAG version known; False when it was already. Raises: StoreUnavailable."""
        return await self._store.register(registration_of(dag, actor))

    async def submit(self, request: RunRequest) -> Submitted:
        """Make a run of a registered DAG version, or return the one that an identical request made before.

        Raises: InvalidInputs, IdempotencyKeyConflict, NotFound, StoreUnavailable.
        """
        submission, inputs = submission_of(request)
        if submission.inputs.body is None:
            self._files.put(submission.tenant, submission.inputs.digest, inputs)
        return await self._store.submit(submission)

    async def wait(self, tenant: Tenant, run: RunId) -> RunRecord:
        """Return a run once it is terminal. Raises: NotFound; StoreUnavailable when this engine cannot go on."""
        record = await self._store.run(tenant, run)
        while record.head.state not in TERMINAL:
            ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(run, []).append(ended)
            self._check_worker()
            await ended
            record = await self._store.run(tenant, run)
        return record

    def _check_worker(self) -> None:
        if self._working is not None and self._working.done():
            self._worker_ended(self._working)

    def _run_ended(self, run: RunId) -> None:
        for ended in self._waiting.pop(run, ()):
            if not ended.done():
                ended.set_result(None)

    def _worker_ended(self, working: asyncio.Task[None]) -> None:
        """Tell everyone who waits that this engine's worker has stopped, and why."""
        error = None if working.cancelled() else working.exception()
        waiting, self._waiting = self._waiting, {}
        for futures in waiting.values():
            for ended in futures:
                if not ended.done():
                    ended.set_exception(error) if error is not None else ended.cancel()
