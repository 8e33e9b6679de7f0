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
from sovrun.core.errors import ConfirmationChanged, IllegalTransition, NotAllowed, StoreUnavailable
from sovrun.core.ids import Actor, RunId, StepId
from sovrun.core.lifecycle import TERMINAL
from sovrun.core.spec.model import Kind, StepSpec
from sovrun.engine.desk import Desk, WaitView
from sovrun.simulation.clock import SECOND_US
from sovrun.simulation.dags import TENANTS, NoFiles
from sovrun.simulation.faults import Died, Fault
from sovrun.simulation.histories import Violation
from sovrun.store.protocol import Acted, Store

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


def reply_of(view: WaitView, step: StepSpec) -> Reply:
    """Return what the outside says to what it is shown: the same whoever asks, and however often."""
    seed = sha256(f"{view.kind}:{view.step}:{view.wait.shown}".encode()).digest()
    output: dict[str, Any] = {"value": int.from_bytes(seed[1:4])}
    if step.select:
        output["select"] = [option for place, option in enumerate(step.select) if seed[4 + place] % 3]
    return Reply(seed[0] % 8 != 0, output)


async def speak(store: Store, view: WaitView, reply: Reply) -> Acted:
    """Give a reply through the engine's desk. Raises: what the desk raises."""
    desk, wait = Desk(store, NoFiles()), view.wait
    if view.kind is Kind.TOOL:
        return await desk.answer(
            wait.tenant,
            wait.run,
            view.step,
            TOOL,
            output=reply.output,
            failure=None if reply.good else "the tool cannot say",
        )
    return await desk.decide(
        wait.tenant,
        wait.run,
        view.step,
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
        self._silent: set[tuple[RunId, StepId]] = set()

    def begin(self) -> None:
        """Start to look for what waits."""
        self._world.schedule.after(CLERK_US, self._clerk)
        self._world.schedule.after(OUTSIDE_US, self._look)

    async def _clerk(self) -> None:
        if self._world.attended:
            with suppress(StoreUnavailable, Died):  # another clerk comes
                await self._world.link.call(self._take_up)
        self._world.schedule.after(CLERK_US, self._clerk)

    async def _take_up(self, store: Store) -> None:
        await self._world.clerk.work_off(await store.pending(_CLERK_BATCH))

    async def _look(self) -> None:
        for tenant in TENANTS:
            for view in await Desk(self._world.backend.store, NoFiles()).waiting(tenant):
                await self._face(view)
        self._world.schedule.after(self._world.rng.randint(1, 2 * OUTSIDE_US), self._look)

    async def _face(self, view: WaitView) -> None:
        """Reply to one wait, now or at another time, or never."""
        world, name = self._world, (view.wait.run, view.step)
        request = world.callers.submitted.get(view.wait.run)
        if name in self._silent or request is None:
            return
        if view.wait.until_us is not None and world.chance.happens(Fault.NO_ANSWER, 0.05):
            self._silent.add(name)  # let it expire
            return
        if world.rng.random() < 0.4:
            return
        reply = reply_of(view, request.dag.spec.steps[view.wait.position])
        if view.kind is Kind.CONFIRM and world.chance.happens(Fault.WRONG_APPROVAL, 0.1):
            await self._approve_something_else(view)
        try:
            await world.link.call(lambda store: speak(store, view, reply))
        except (StoreUnavailable, Died, IllegalTransition):
            return  # no answer, or too late
        if world.chance.happens(Fault.SECOND_ANSWER, 0.1):
            await self._speak_again(view, reply)

    async def _approve_something_else(self, view: WaitView) -> None:
        other = replace(view.wait, shown=sha256_hex(b"what was shown before"))
        changed = replace(view, wait=other)
        with suppress(ConfirmationChanged, IllegalTransition):
            await speak(self._world.backend.store, changed, Reply(good=True, output=None))
            self._say(view, "an approval of something else was accepted")

    async def _speak_again(self, view: WaitView, reply: Reply) -> None:
        """The identical answer is acknowledged and writes nothing; a different one is refused."""
        store = self._world.backend.store
        state = (await store.run(view.wait.tenant, view.wait.run)).head.state
        if state in TERMINAL:
            return
        acted = await speak(store, view, reply)
        if acted.changed:
            self._say(view, "the identical answer changed something")
        with suppress(IllegalTransition, NotAllowed):
            await speak(store, view, Reply(not reply.good, {**reply.output, "value": -1}))
            self._say(view, "a different answer was accepted after the first")

    def _say(self, view: WaitView, text: str) -> None:
        self.wrong.append(Violation("waits", view.wait.run, 0, f"{view.step}: {text}"))
