"""When the command layer may send, and send again: what time has to do with at most one effect.

Each case is one that the simulator has found or would: a process that stood still, an answer that took long, a clock that was set, and
a second layer on the same store. Time is simulated, so that the cases are exact and take none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any

import pytest

from sovrun.core.commands.journal import Command, CommandState
from sovrun.core.commands.model import PlaceOrder
from sovrun.core.ids import Actor, Tenant
from sovrun.execution.adapter_set import AdapterSet
from sovrun.execution.layer import CommandLayer, CommandRequest
from sovrun.execution.port import Call, Done, Order, OutcomeUnknown, Rejected
from sovrun.simulation.clock import SECOND_US, SimulatedClock
from sovrun.simulation.command_faults import Trouble
from sovrun.simulation.command_link import Life, LinkedAdapter, later
from sovrun.simulation.command_world import Names
from sovrun.simulation.ledger import Profile
from sovrun.simulation.provider import Provider
from sovrun.simulation.virtual import run_simulated
from sovrun.store.memory import MemoryStore

TENANT = Tenant("acme")
DEADLINE_S = 10
ORDER = {"symbol": "ACME", "side": "buy", "quantity": "1", "price": "10"}
Wait = Callable[[], Awaitable[None]]


class Scripted(LinkedAdapter):
    """An adapter without faults but those of the case: of its first order only `first`, before its first look `slow`."""

    first: str = "done"
    late_s: float = 0
    slow_look_s: float = 0

    async def place_order(self, call: Call, order: PlaceOrder) -> Done | Rejected:
        how, self.first = self.first, "done"
        if how == "late":  # it is given up at once, and comes about all the same
            later(self.late_s, lambda: super(Scripted, self).place_order(call, order))
            raise OutcomeUnknown("connection_lost", "cut")
        if how == "held":  # the answer does not come, and the request leaves late
            await asyncio.sleep(self.late_s)
        return await super().place_order(call, order)

    async def find_order(self, call: Call, client_id: str) -> Order | None:
        found = await super().find_order(call, client_id)
        if self.slow_look_s and self._clock.elapsed_us() > (DEADLINE_S - 3) * SECOND_US:
            await asyncio.sleep(self.slow_look_s)
        return found


class Place:
    """A store, a provider that does every request again that it gets, and the layers on them."""

    def __init__(self) -> None:
        self.clock = SimulatedClock()
        self.store = MemoryStore(self.clock)
        profile = Profile(DEADLINE_S * SECOND_US, "repeat", forgets=False)
        self.provider = Provider("p", Random(1), self.clock, profile)
        self._names = Names()
        self._tasks: list[asyncio.Task[None]] = []
        self.stall_s = 0.0

    def adapter(self) -> Scripted:
        calm = Trouble(Random(1), frozenset(), 0)
        return Scripted("p", self.provider, Life(self.clock, calm, lambda _: None))

    def layer(self, adapter: Scripted, store: Any = None, *, alone: bool = True) -> CommandLayer:
        layer = CommandLayer(
            store or self.store, AdapterSet({"p": adapter}), self.clock, self._names, alone=alone
        )
        self._tasks.append(asyncio.get_running_loop().create_task(layer.run()))
        return layer

    async def end(self) -> Command:
        """Return the one command once everything is over, and hold it against the provider's books."""
        await asyncio.sleep(600)
        ((_, command),) = await self.store.commands(TENANT, limit=10)
        assert len(self.provider.ledger.effects) == 1
        assert command.state is CommandState.CONFIRMED
        return command


class StallsAfterAdmission:
    """A store whose first answer to `admit` takes long: the process stood still."""

    def __init__(self, store: MemoryStore, stall_s: float) -> None:
        self._store, self._stall_s = store, stall_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def admit(self, *given: Any, **named: Any) -> Command:
        admitted = await self._store.admit(*given, **named)
        stall_s, self._stall_s = self._stall_s, 0
        await asyncio.sleep(stall_s)
        return admitted


async def _ask(layer: CommandLayer) -> None:
    request = CommandRequest(TENANT, "order.place", "p", ORDER, Actor("local:tester"), key="k")
    with pytest.raises(Exception, match="no outcome yet"):
        await layer.execute(request, patience_us=0)


def _run(case: Callable[[Place], Coroutine[Any, Any, None]]) -> None:
    place = Place()
    run_simulated(place.clock, case(place))


def test_what_a_look_did_not_see_counts_from_when_it_was_asked() -> None:
    async def case(place: Place) -> None:
        adapter = place.adapter()
        adapter.first, adapter.late_s, adapter.slow_look_s = "late", DEADLINE_S - 0.5, 9
        await _ask(place.layer(adapter))
        assert (await place.end()).sends == 1

    _run(case)


def test_a_process_that_stood_still_sends_nothing_when_others_may_have_taken_over() -> None:
    async def case(place: Place) -> None:
        slow = place.layer(place.adapter(), StallsAfterAdmission(place.store, 100), alone=False)
        await _ask(slow)
        place.layer(place.adapter(), alone=False)
        await place.end()

    _run(case)


def test_what_another_process_may_still_be_sending_is_waited_for() -> None:
    async def case(place: Place) -> None:
        adapter = place.adapter()
        adapter.first, adapter.late_s = "held", 18
        await _ask(place.layer(adapter, alone=False))
        await asyncio.sleep(1)
        place.clock.jump(3_600 * SECOND_US)  # to the other it looks abandoned
        place.layer(place.adapter(), alone=False)
        await place.end()

    _run(case)


@pytest.mark.parametrize("jump_s", [3_600, -3_600])
def test_a_clock_that_is_set_shortens_no_deadline(jump_s: int) -> None:
    async def case(place: Place) -> None:
        adapter = place.adapter()
        adapter.first, adapter.late_s = "late", DEADLINE_S - 1
        await _ask(place.layer(adapter))
        await asyncio.sleep(2)
        place.clock.jump(jump_s * SECOND_US)
        await asyncio.sleep(4_000)
        await place.end()

    _run(case)


def test_what_is_not_there_is_sent_again_as_soon_as_that_is_certain() -> None:
    async def case(place: Place) -> None:
        adapter = place.adapter()
        adapter.first, adapter.late_s = "late", 10_000  # it never arrives
        await _ask(place.layer(adapter))
        command = await place.end()
        assert command.sends == 2
        (call,) = place.provider.ledger.calls
        assert DEADLINE_S <= call.began_us / SECOND_US < DEADLINE_S + 2

    _run(case)
