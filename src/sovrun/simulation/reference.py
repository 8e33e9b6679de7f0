"""What a run comes to when nothing goes wrong: the measure of every reproducible run.

Owns: `Reference`. It is one worker with one slot on a store of its own.
"""

from __future__ import annotations

from typing import NamedTuple

from sovrun.core.ids import Digest, RunId, WorkerId
from sovrun.core.lifecycle import TERMINAL
from sovrun.engine.attempt import Attempts
from sovrun.engine.handler import RunRequest, registration_of, submission_of
from sovrun.simulation.clock import SECOND_US, SimulatedClock
from sovrun.simulation.dags import NoFiles, SimulatedExecutor
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
        self._known: dict[tuple[Digest, Digest], Faultless] = {}

    async def of(self, request: RunRequest) -> Faultless:
        """Return what the DAG version and inputs of a request come to."""
        submission, _ = submission_of(request)
        name = (submission.version, submission.inputs.digest)
        if name not in self._known:
            self._known[name] = await self._run(request)
        return self._known[name]

    async def _run(self, request: RunRequest) -> Faultless:
        clock = SimulatedClock()
        store = MemoryStore(clock)
        attempts = Attempts(store, NoFiles(), SimulatedExecutor(lambda: False))
        await store.register(registration_of(request.dag, request.actor))
        submission, _ = submission_of(request)
        run = (await store.submit(submission)).run
        idle = 0
        while (record := await store.run(request.dag.tenant, run)).head.state not in TERMINAL:
            leases = await store.claim(_WORKER, 1)
            idle = 0 if leases else idle + 1
            if idle > _PATIENCE:
                break
            if not leases:
                clock.advance_to(clock.elapsed_us() + 2 * SECOND_US)
            for lease in leases:
                await store.commit([await attempts.execute(lease)], worker=_WORKER)
        return _faultless(run, record)


def _faultless(run: RunId, record: RunRecord) -> Faultless:
    if record.head.outcome is None:
        raise RuntimeError(f"the faultless run {run} of {record.dag} does not end: it is {record.head.state}")
    return Faultless(record.head.outcome, bool(record.head.reproducible))
