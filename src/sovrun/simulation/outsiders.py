"""The people and tools that runs wait for, and the clerk that takes up what no worker runs.

Owns: `Outsiders`, `answer_of`, `decision_of`. What they answer is a function of what they are shown, so that the outside
answers of a faultless run are the same.
Must not touch: the truth, which is in the store.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from sovrun.core.canonical import sha256_hex
from sovrun.core.errors import ConfirmationChanged, IllegalTransition, StoreUnavailable
from sovrun.core.ids import Actor, RunId
from sovrun.core.spec.model import Kind, StepSpec
from sovrun.engine.desk import Desk
from sovrun.simulation.clock import SECOND_US
from sovrun.simulation.dags import TENANTS, NoFiles
from sovrun.simulation.faults import Died, Fault
from sovrun.simulation.histories import Violation
from sovrun.store.protocol import Acted, Store, Wait

if TYPE_CHECKING:
    from sovrun.simulation.world import World

BOSS = Actor("local:boss")
TOOL = Actor("tool:oracle")
ROLES = frozenset({"approver"})
CLERK_US = 3 * SECOND_US
OUTSIDE_US = 8 * SECOND_US
_CLERK_BATCH = 64


class Reply(NamedTuple):
    """What the outside says: an output or a failure of a tool, or whether a person approves."""

    good: bool
    output: Any


def reply_of(wait: Wait, step: StepSpec) -> Reply:
    """Return what the outside says to what it is shown: the same whoever asks, and however often."""
    seed = sha256(f"{step.kind}:{step.id}:{wait.shown}".encode()).digest()
    output: dict[str, Any] = {"value": int.from_bytes(seed[1:4])}
    if step.select:
        output["select"] = [option for place, option in enumerate(step.select) if seed[4 + place] % 3]
    return Reply(seed[0] % 8 != 0, output)


async def speak(store: Store, wait: Wait, step: StepSpec, reply: Reply) -> Acted:
    """Give a reply through the engine's desk. Raises: what the desk raises."""
    desk = Desk(store, NoFiles())
    if step.kind is Kind.TOOL:
        return await desk.answer(
            wait.tenant,
            wait.run,
            step.id,
            TOOL,
            output=reply.output,
            failure=None if reply.good else "the tool cannot say",
        )
    return await desk.decide(
        wait.tenant,
        wait.run,
        step.id,
        BOSS,
        roles=ROLES,
        approve=reply.good,
        shown=wait.shown or sha256_hex(b""),
        rationale=None,
    )


class Outsiders:
    """All who speak from outside, and the clerk.

    Attributes:
        wrong: answers that no store may give.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.wrong: list[Violation] = []
        self._silent: set[tuple[RunId, int]] = set()
        self._begun = False
        self._idle = 0
        self._idle_looks = 0

    def begin(self) -> None:
        """Start to look for what waits, unless that is done already."""
        if not self._begun:
            self._begun = True
            self._world.schedule.after(CLERK_US, self._clerk)
            self._world.schedule.after(OUTSIDE_US, self._look)

    async def _clerk(self) -> None:
        self._idle += 1
        with suppress(StoreUnavailable, Died):  # another clerk comes
            await self._world.link.call(self._take_up)
        self._world.schedule.after(CLERK_US * min(self._idle, 10), self._clerk)

    async def _take_up(self, store: Store) -> None:
        pending = await store.pending(_CLERK_BATCH)
        if pending:
            self._idle = 0
            await self._world.clerk.work_off(pending)

    async def _look(self) -> None:
        found = 0
        for tenant in TENANTS:
            for wait in await self._world.backend.store.waiting(tenant):
                request = self._world.callers.submitted.get(wait.run)
                if request is not None and (wait.run, wait.position) not in self._silent:
                    found += 1
                    await self._face(wait, request.dag.spec.steps[wait.position])
        self._idle_looks = 0 if found else min(self._idle_looks + 1, 8)
        rest_us = OUTSIDE_US * (1 + self._idle_looks)
        self._world.schedule.after(self._world.rng.randint(1, rest_us), self._look)

    async def _face(self, wait: Wait, step: StepSpec) -> None:
        """Reply to one wait, now or at another time, or never."""
        world = self._world
        if wait.until_us is not None and world.chance.happens(Fault.NO_ANSWER, 0.05):
            self._silent.add((wait.run, wait.position))  # let it expire
            return
        if world.rng.random() < 0.4:
            return
        reply = reply_of(wait, step)
        if step.kind is Kind.CONFIRM and world.chance.happens(Fault.WRONG_APPROVAL, 0.1):
            await self._approve_something_else(wait, step)
        try:
            await world.link.call(lambda store: speak(store, wait, step, reply))
        except (StoreUnavailable, Died, IllegalTransition):
            return  # no answer, or too late
        if world.chance.happens(Fault.SECOND_ANSWER, 0.1):
            await self._speak_again(wait, step, reply)

    async def _approve_something_else(self, wait: Wait, step: StepSpec) -> None:
        other = replace(wait, shown=sha256_hex(b"what was shown before"))
        with suppress(ConfirmationChanged, IllegalTransition):
            await speak(self._world.backend.store, other, step, Reply(good=True, output=None))
            self._say(wait, step, "an approval of something else was accepted")

    async def _speak_again(self, wait: Wait, step: StepSpec, reply: Reply) -> None:
        """The identical answer is acknowledged and writes nothing; a different one is refused."""
        store = self._world.backend.store
        acted = await speak(store, wait, step, reply)
        if acted.changed:
            self._say(wait, step, "the identical answer changed something")
        with suppress(IllegalTransition):
            await speak(store, wait, step, Reply(not reply.good, {**reply.output, "value": -1}))
            self._say(wait, step, "a different answer was accepted after the first")

    def _say(self, wait: Wait, step: StepSpec, text: str) -> None:
        self.wrong.append(Violation("waits", wait.run, 0, f"{step.id}: {text}"))
