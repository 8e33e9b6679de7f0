"""Who asks for runs and for their end: submissions, repeats, conflicts, cancellations.

Owns: `Callers`. A caller repeats its request until it has an answer, and remembers what it was told.
Must not touch: the truth, which is in the store.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from sovrun.core.actions import CancelRun
from sovrun.core.errors import IdempotencyKeyConflict, IllegalTransition, StoreUnavailable
from sovrun.core.ids import Actor, RunId, StepId, Tenant
from sovrun.engine.desk import Desk
from sovrun.engine.handler import RunRequest, submission_of
from sovrun.simulation.clock import SECOND_US
from sovrun.simulation.dags import NoFiles
from sovrun.simulation.faults import Died, Fault
from sovrun.simulation.histories import Violation
from sovrun.store.protocol import Store, Submitted

if TYPE_CHECKING:
    from sovrun.simulation.world import World

OPERATOR = Actor("local:operator")
CALLER = Actor("local:caller")


class Callers:
    """All the callers of a world.

    Attributes:
        submitted: by run, the request that made it; cancelled: runs whose cancellation was acknowledged.
        wrong: answers that no store may give.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.submitted: dict[RunId, RunRequest] = {}
        self.cancelled: dict[RunId, Tenant] = {}
        self.wrong: list[Violation] = []
        self.open = 0

    def plan(self, request: RunRequest) -> None:
        """Have a request made at some time, and perhaps its run cancelled later."""
        self.open += 1
        self._after(self._world.rng.randint(0, 30 * SECOND_US), request)

    def _after(self, delay_us: int, request: RunRequest) -> None:
        async def submit() -> None:
            await self._submit(request)

        self._world.schedule.after(delay_us, submit)

    async def _submit(self, request: RunRequest) -> None:
        world = self._world
        submission, _ = submission_of(request)
        try:
            answer = await world.link.call(lambda store: store.submit(submission))
        except (StoreUnavailable, Died):
            self._after(world.rng.randint(1, 20) * SECOND_US, request)
            return
        self.open -= 1
        if answer.run != submission.id:
            self._say("identity", submission.id, f"the request was answered with run {answer.run}")
        self.submitted[answer.run] = request
        if world.chance.happens(Fault.CONFLICT, 0.05) and request.key.caller is not None:
            await self._conflict(request, answer.run)
        if world.chance.happens(Fault.CANCEL, 0.06):
            self._cancel_later(CancelRun(request.dag.tenant, answer.run, OPERATOR, None))
        if world.chance.happens(Fault.RERUN, 0.06):
            steps = request.dag.spec.steps
            self._rerun_later(
                request, answer.run, world.rng.choice(steps).id if world.rng.random() < 0.5 else None
            )

    def _rerun_later(self, request: RunRequest, run: RunId, from_step: StepId | None) -> None:
        self.open += 1

        async def rerun() -> None:
            await self._rerun(request, run, from_step)

        self._world.schedule.after(self._world.rng.randint(10, 90) * SECOND_US, rerun)

    async def _rerun(self, request: RunRequest, run: RunId, from_step: StepId | None) -> None:
        """Run a run again once it has ended, from some step or from where it failed."""
        self.open -= 1
        try:
            answer = await self._asked_again(request, run, from_step)
        except IllegalTransition:
            self._rerun_later(request, run, from_step)  # it has not ended
            return
        self._world.outsiders.begin()
        self.submitted[answer.run] = request

    async def _asked_again(self, request: RunRequest, run: RunId, from_step: StepId | None) -> Submitted:
        """Ask for a re-run under one key until there is an answer."""
        world, tenant, key = self._world, request.dag.tenant, f"again {run}"

        async def ask(store: Store) -> Submitted:
            desk = Desk(store, NoFiles())
            return await desk.rerun(tenant, run, CALLER, from_step=from_step, note=None, key=key)

        while True:
            with suppress(StoreUnavailable, Died):
                return await world.link.call(ask)

    async def _conflict(self, request: RunRequest, run: RunId) -> None:
        """Use a caller's key again for another request."""
        other = RunRequest(request.dag, {"n": 1_000}, request.key, request.actor, request.isolation)
        submission, _ = submission_of(other)
        try:
            await self._world.backend.store.submit(submission)
        except IdempotencyKeyConflict:
            return
        self._say("identity", run, "its caller's key was accepted for another request")

    def _cancel_later(self, action: CancelRun) -> None:
        async def cancel() -> None:
            await self._cancel(action)

        self._world.schedule.after(self._world.rng.randint(0, 40 * SECOND_US), cancel)

    async def _cancel(self, action: CancelRun) -> None:
        try:
            await self._world.link.call(lambda store: store.act(action))
        except IllegalTransition:
            return  # it had ended by itself
        except (StoreUnavailable, Died):
            self._cancel_later(action)
            return
        self.cancelled[action.run] = action.tenant

    def _say(self, rule: str, run: RunId, text: str) -> None:
        self.wrong.append(Violation(rule, run, 0, text))
