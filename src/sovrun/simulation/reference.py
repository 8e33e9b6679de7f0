"""What a run comes to when nothing goes wrong: the measure of every reproducible run.

Owns: `Reference`. It is one worker with one slot on a store of its own.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from sovrun.core.errors import IllegalTransition
from sovrun.core.ids import Digest, RunId, WorkerId
from sovrun.core.lifecycle import TERMINAL
from sovrun.engine.attempt import Attempts
from sovrun.engine.clerk import Clerk
from sovrun.engine.handler import RunRequest, registration_of, submission_of
from sovrun.simulation.clock import SECOND_US, SimulatedClock
from sovrun.simulation.dags import NoFiles, SimulatedExecutor
from sovrun.simulation.outsiders import reply_of, speak
from sovrun.store.memory import MemoryStore
from sovrun.store.protocol import RunRecord

_WORKER = WorkerId("faultless/1")
_PATIENCE = 200
"""Claims in a row that may give nothing; a step waits at most for a cap of some minutes."""


class Faultless(NamedTuple):
    """The outcome hash of a faultless run, and whether it is marked reproducible."""

    outcome: Digest
    reproducible: bool


class Reference:
    """Runs each request once, faultlessly, and remembers what came out."""

    def __init__(self) -> None:
        self._clock = SimulatedClock()
        self._store = MemoryStore(self._clock)
        self._clerk = Clerk(self._store, NoFiles(), SimulatedExecutor.environment)
        self._attempts = Attempts(self._store, NoFiles(), SimulatedExecutor(lambda: False))
        self._known: dict[tuple[Digest, Digest], Faultless] = {}

    async def of(self, request: RunRequest) -> Faultless:
        """Return what the DAG version and inputs of a request come to."""
        submission, _ = submission_of(request)
        name = (submission.version, submission.inputs.digest)
        if name not in self._known:
            await self._store.register(registration_of(request.dag, request.actor))
            run = (await self._store.submit(submission)).run
            self._known[name] = await self._drain(request, run)
        return self._known[name]

    async def _outside(self, request: RunRequest) -> None:
        """Take up what no worker runs, and give the answers that are waited for."""
        await self._clerk.work_off(await self._store.pending(64))
        for wait in await self._store.waiting(request.dag.tenant):
            step = request.dag.spec.steps[wait.position]
            with suppress(IllegalTransition):  # an answer before this one has ended the run
                await speak(self._store, wait, step, reply_of(wait, step))

    async def _drain(self, request: RunRequest, run: RunId) -> Faultless:
        idle = 0
        while idle < _PATIENCE:
            leases = await self._store.claim(_WORKER, 1)
            for lease in leases:
                await self._store.commit([await self._attempts.execute(lease)], worker=_WORKER)
            if not leases:
                idle += 1
                await self._outside(request)
                record = await self._store.run(request.dag.tenant, run)
                if record.head.state in TERMINAL:
                    return _faultless(record)
                self._clock.advance_to(self._clock.elapsed_us() + 2 * SECOND_US)
        raise RuntimeError(f"the faultless run {run} does not end")


def _faultless(record: RunRecord) -> Faultless:
    if record.head.outcome is None:
        raise RuntimeError(f"the run {record.head.id} ended without an outcome")
    return Faultless(record.head.outcome, bool(record.head.reproducible))
