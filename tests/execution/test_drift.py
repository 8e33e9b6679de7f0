"""Drift: each difference is recorded once, what went on by itself is followed, and nothing is repaired."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sovrun.core.canonical import canonical, decode, sha256_hex
from sovrun.core.commands.journal import BecameUnknown, CommandId, CommandState, Refused, UnknownReason
from sovrun.core.commands.model import CancelOrder, StopDeployment
from sovrun.core.events import ENGINE
from sovrun.core.ids import Tenant
from sovrun.engine.command_desk import CommandDesk, Verdict
from sovrun.execution.adapter_set import AdapterSet
from sovrun.execution.adapters.paper import PaperAdapter, open_adapter
from sovrun.execution.adapters.paper_settings import paper_settings
from sovrun.execution.drift import Comparison, DriftWatch
from sovrun.execution.layer import CommandLayer, CommandRequest
from sovrun.execution.port import (
    Call,
    ExecutionAdapter,
    Listing,
    Order,
    OrderStatus,
    Unreadable,
    UnreadableRecord,
)
from sovrun.store.journal import Drift
from sovrun.store.protocol import Store
from support.clock import START_US, SetClock
from support.ledgers import FaultyLedger
from support.paper import limit, market
from support.providers import Calls
from support.requests import ACTOR, TENANT
from support.served import SetIdentity
from support.stores import memory, sqlite

OTHER = Tenant("other")
LATER_US = START_US + 3_600_000_000
RESTING = {"symbol": "ACME", "side": "buy", "quantity": "2", "price": "1"}
WITHIN_THE_SPREAD = {"symbol": "THIN", "side": "buy", "quantity": "2", "price": "99.8"}


@dataclass
class Yard:
    """A store, the paper provider of which it makes use, and a hand that reaches past the command layer."""

    store: Store
    clock: SetClock
    layer: CommandLayer
    adapter: ExecutionAdapter
    ledger: FaultyLedger
    watch: DriftWatch

    async def placed(
        self, key: str = "k", kind: str = "order.place", tenant: Tenant = TENANT, **payload: Any
    ) -> str:
        """Perform a command; return the provider's id of what came of it."""
        request = CommandRequest(tenant, kind, "paper", payload or RESTING, ACTOR, key=key)
        answered = await self.layer.execute(request, patience_us=20_000_000)
        name: str = decode(answered.body)["resource"]["id"]
        return name

    async def compared(self, tenant: Tenant = TENANT) -> list[tuple[str | None, str | None, str]]:
        """Compare; return what was news."""
        self.clock.advance(60_000_000)
        return _short((await self.watch.compare(tenant, "paper")).drifts)

    async def changes(self) -> Any:
        """Return what differed in the difference that was recorded last."""
        return decode((await self.store.drifts(TENANT, limit=1))[0].changes.encode())

    async def recorded(self, tenant: Tenant = TENANT) -> list[tuple[str | None, str | None, str]]:
        """Return all differences that are recorded, latest first."""
        return _short(await self.store.drifts(tenant, limit=99))

    def behind_it(self, adapter: ExecutionAdapter) -> None:
        """Put another provider behind the adapter's name, as one that has lost everything."""
        configured = self.layer.adapters._adapters
        configured["paper"] = replace(configured["paper"], adapter=adapter)

    def hand(self) -> Call:
        """Return a call that no command of ours has made."""
        return self.calls.effect(tenant=TENANT)

    def __post_init__(self) -> None:
        self.calls = Calls(str(id(self)))


def _short(drifts: Sequence[Drift]) -> list[tuple[str | None, str | None, str]]:
    return [(drift.previous, drift.provider, drift.resolution) for drift in drifts]


@pytest.fixture(params=[memory, sqlite], ids=["memory", "sqlite"])
async def yard(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Yard]:
    clock = SetClock()
    async with request.param(tmp_path, clock) as store, _yard(store, clock) as made:
        yield made


@asynccontextmanager
async def _yard(store: Store, clock: SetClock) -> AsyncIterator[Yard]:
    ledger = FaultyLedger()
    adapter = open_adapter("paper", {}, ledger=ledger)
    adapters = AdapterSet({"paper": adapter})
    layer = CommandLayer(store, adapters, clock, SetIdentity())
    work = asyncio.create_task(layer.run())
    yield Yard(store, clock, layer, adapter, ledger, DriftWatch(store, adapters))
    await layer.stop()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def test_what_agrees_is_no_difference(yard: Yard) -> None:
    await yard.placed()
    await yard.placed("filled", symbol="ACME", side="buy", type="market", quantity="1")
    assert await yard.compared() == []
    (resting,) = await yard.store.resources(TENANT, live=True)
    assert resting.seen_us == yard.clock.now_us(), "it was compared"


async def test_an_order_that_was_filled_by_itself_is_followed(yard: Yard) -> None:
    name = await yard.placed(**WITHIN_THE_SPREAD)
    await sold(yard, "2")
    assert await yard.compared() == [("pending", "filled", "progressed")]
    kept = await yard.store.resource(TENANT, "paper", "order", name)
    assert kept is not None
    assert (kept.status, kept.live, decode(kept.body)["filled"]) == ("filled", False, "2")
    assert await yard.compared() == []


async def test_a_part_that_was_filled_is_followed_and_recorded(yard: Yard) -> None:
    await yard.placed(**WITHIN_THE_SPREAD)
    await sold(yard, "0.5")
    assert await yard.compared() == [("pending", "pending", "progressed")]
    assert (await yard.changes())["filled"] == {"recorded": "0", "provider": "0.5"}
    (kept,) = await yard.store.resources(TENANT, live=True)
    assert (kept.status, decode(kept.body)["filled"]) == ("pending", "0.5")
    assert await yard.compared() == []


async def test_what_our_own_command_did_is_no_difference(yard: Yard) -> None:
    name = await yard.placed(kind="deployment.create", name="one", artifact="a")
    for key, kind, status in (("p", "deployment.pause", "paused"), ("r", "deployment.resume", "running")):
        await yard.placed(key, kind, deploymentId=name)
        (kept,) = await yard.store.resources(TENANT)
        assert (kept.id, kept.status) == (name, status)
        assert await yard.compared() == []


async def test_what_a_command_is_just_acting_on_does_not_go_on_by_itself(yard: Yard) -> None:
    name = await yard.placed(kind="deployment.create", name="one", artifact="a")
    await yard.layer.stop()
    request = CommandRequest(TENANT, "deployment.stop", "paper", {"deploymentId": name}, ACTOR, key="s")
    command = (await yard.layer.begin(request)).command
    sent = await yard.store.admit(TENANT, command.id, handler="h", due_us=LATER_US)
    await yard.adapter.stop_deployment(yard.calls.effect(command.id, tenant=TENANT), StopDeployment(name))
    assert await yard.compared() == [], "its answer is on its way"
    refused = Refused("answered", "x", sha256_hex(b"{}"))
    await yard.store.note(TENANT, command.id, sent.revision, refused, actor=ENGINE)
    assert await yard.compared() == [("running", "stopped", "progressed")]


class AnsweredMeanwhile(PaperAdapter):
    """A provider of whom a command has an effect, and its answer, after the records were read and before its list is."""

    meanwhile: Callable[[], Awaitable[object]]

    async def list_orders(self, call: Call) -> Sequence[Order]:
        await self.meanwhile()
        return await super().list_orders(call)


async def test_what_our_command_was_answered_during_a_comparison_is_no_difference(yard: Yard) -> None:
    name = await yard.placed()
    slow = AnsweredMeanwhile("paper", paper_settings("paper", {}), yard.ledger)

    async def cancel() -> None:
        yard.clock.advance(1)
        await yard.placed("c", "order.cancel", orderId=name)
        yard.behind_it(yard.adapter)

    yard.behind_it(slow)
    slow.meanwhile = cancel
    assert await yard.compared() == []
    (kept,) = await yard.store.resources(TENANT)
    assert kept.status == "cancelled"


class Strange(PaperAdapter):
    """A provider that tells of all orders in a word of its own."""

    word: str | None = "ON_HOLD"
    lists = True

    async def list_orders(self, call: Call) -> Sequence[Order]:
        told = [self.of(order) for order in await super().list_orders(call)]
        return Listing[Order]([], told if self.lists else [])

    async def get_order(self, call: Call, order: str) -> Order | None:
        found = await super().get_order(call, order)
        if found is None:
            return None
        raise UnreadableRecord(self.of(found))

    def of(self, order: Order) -> Unreadable:
        return Unreadable("order", order.id, order.client_id, self.word, f"no meaning for {self.word}")


@pytest.mark.parametrize("lists", [True, False], ids=["listed", "asked for by its id"])
async def test_a_word_that_is_not_known_is_recorded_as_such(yard: Yard, *, lists: bool) -> None:
    await yard.placed(kind="deployment.create", name="one", artifact="a")
    await yard.placed("o")
    strange = Strange("paper", paper_settings("paper", {}), yard.ledger)
    strange.lists = lists
    yard.behind_it(strange)
    assert await yard.compared() == [("pending", "ON_HOLD", "unmapped")], "what can be read is compared, too"
    assert await yard.changes() == {"rawStatus": {"recorded": "open", "provider": "ON_HOLD"}}
    assert await yard.compared() == []
    kept = next(one for one in await yard.store.resources(TENANT) if one.kind == "order")
    assert (kept.status, kept.live) == ("pending", True), "nothing of it is guessed"
    strange.word = None
    assert await yard.compared() == [("pending", None, "unmapped")]
    assert (await yard.changes())["record"]["provider"] == "no meaning for None"


async def test_what_nobody_ordered_and_nobody_understands_is_recorded_once(yard: Yard) -> None:
    await yard.adapter.place_order(yard.hand(), limit("buy", "1", "1", symbol="ACME"))
    yard.behind_it(Strange("paper", paper_settings("paper", {}), yard.ledger))
    assert await yard.compared() == [(None, "ON_HOLD", "unmapped")]
    assert await yard.compared() == []


async def sold(yard: Yard, quantity: str) -> None:
    """Sell to the order within the spread, with another hand."""
    await yard.adapter.place_order(yard.hand(), market("buy", quantity))
    await yard.adapter.place_order(yard.hand(), limit("sell", quantity, "99.8"))


async def test_a_deployment_that_was_stopped_by_another_hand_is_followed(yard: Yard) -> None:
    name = await yard.placed(kind="deployment.create", name="one", artifact="a")
    await yard.adapter.stop_deployment(yard.hand(), StopDeployment(name))
    assert await yard.compared() == [("running", "stopped", "progressed")]


async def test_what_the_provider_no_longer_has_is_missing_and_recorded_once(yard: Yard) -> None:
    await yard.placed()
    yard.behind_it(open_adapter("paper", {}, ledger=FaultyLedger()))
    assert await yard.compared() == [("pending", None, "missing")]
    assert await yard.compared() == []
    again = DriftWatch(yard.store, yard.layer.adapters)
    assert (await again.compare(TENANT, "paper")).drifts == (), "nor by another process"
    (kept,) = await yard.store.resources(TENANT)
    assert (kept.status, kept.live) == ("pending", True), "the record is left as it is"
    yard.behind_it(yard.adapter)
    assert await yard.compared() == []
    yard.behind_it(open_adapter("paper", {}, ledger=FaultyLedger()))
    assert await yard.compared() == [("pending", None, "missing")], "it was there in between"
    assert len(await yard.recorded()) == 2


class ListsWhatIsOpen(PaperAdapter):
    """A provider whose list ends with an order, as that of many does."""

    async def list_orders(self, call: Call) -> Sequence[Order]:
        return [order for order in await super().list_orders(call) if order.status is OrderStatus.PENDING]


async def test_what_a_list_leaves_out_is_asked_for_by_its_id(yard: Yard) -> None:
    await yard.placed(**WITHIN_THE_SPREAD)
    await sold(yard, "2")
    yard.behind_it(ListsWhatIsOpen("paper", paper_settings("paper", {}), yard.ledger))
    assert await yard.compared() == [("pending", "filled", "progressed")]


async def test_an_order_that_somebody_else_has_placed_is_unrecorded(yard: Yard) -> None:
    await yard.placed()
    placed = await yard.adapter.place_order(yard.hand(), limit("buy", "1", "1", symbol="ACME"))
    await yard.adapter.place_order(yard.hand(), market("buy", "1", symbol="ACME"))
    assert await yard.compared() == [(None, "pending", "unrecorded")], "one that is over is nobody's concern"
    assert await yard.compared() == []
    order = placed.resource  # type: ignore[union-attr]
    assert isinstance(order, Order)
    await yard.adapter.cancel_order(yard.hand(), CancelOrder(order.id))
    assert await yard.compared() == []
    assert await yard.store.resource(TENANT, "paper", "order", order.id) is None, "it does not become ours"


async def test_a_command_without_an_outcome_is_not_called_drift(yard: Yard) -> None:
    request = CommandRequest(TENANT, "order.place", "paper", RESTING, ACTOR, key="k")
    prepared = await yard.layer.prepare(request)
    name = prepared.intention.id
    await yard.placed("other")
    wanted = limit("buy", "2", "1", symbol="ACME")
    await yard.adapter.place_order(yard.calls.effect(name, tenant=TENANT), wanted)
    await yard.layer.stop()
    await yard.store.intend(prepared.intention, payloads=(prepared.payload,))
    assert (await yard.store.command(TENANT, CommandId(name))).state is CommandState.INTENDED
    assert await yard.compared() == []


async def test_what_a_person_called_refused_and_the_provider_has_contradicts(yard: Yard) -> None:
    await yard.placed("other")
    await yard.layer.stop()
    request = CommandRequest(TENANT, "order.place", "paper", RESTING, ACTOR, key="k")
    name = (await yard.layer.begin(request)).command.id
    sent = await yard.store.admit(TENANT, name, handler="h", due_us=LATER_US)
    unknown = BecameUnknown(UnknownReason.TIMEOUT, LATER_US)
    await yard.store.note(TENANT, name, sent.revision, unknown, actor=ENGINE)
    wanted = limit("buy", "2", "1", symbol="ACME")
    await yard.adapter.place_order(yard.calls.effect(name, tenant=TENANT), wanted)
    desk = CommandDesk(yard.store)
    await desk.resolve(TENANT, name, Verdict.REFUSED, actor=ACTOR, rationale="nothing there")
    assert await yard.compared() == [("refused", "pending", "contradicts")]
    assert await yard.compared() == []


@pytest.mark.parametrize(
    ("member", "value"), [("quantity", "3"), ("symbol", "THIN"), ("filled", "1"), ("clientId", "0" * 32)]
)
async def test_what_cannot_have_come_about_contradicts(yard: Yard, member: str, value: str) -> None:
    await yard.placed()
    (kept,) = await yard.store.resources(TENANT)
    told = canonical({**decode(kept.body), member: value})
    await yard.store.note_drifts([], seen=[replace(kept, body=told)])
    assert await yard.compared() == [("pending", "pending", "contradicts")]
    at_the_provider = decode(kept.body)[member]
    assert await yard.changes() == {member: {"recorded": value, "provider": at_the_provider}}
    assert await yard.compared() == []
    (left,) = await yard.store.resources(TENANT)
    assert left.body == told, "nothing is repaired"


async def test_what_is_over_in_the_record_and_lives_at_the_provider_contradicts(yard: Yard) -> None:
    await yard.placed()
    (kept,) = await yard.store.resources(TENANT)
    await yard.store.note_drifts([], seen=[replace(kept, status="cancelled", live=False)])
    assert await yard.compared() == [("cancelled", "pending", "contradicts")]
    assert await yard.compared() == []


async def test_a_provider_out_of_reach_is_said_to_be_and_nothing_is_recorded(yard: Yard) -> None:
    await yard.placed()
    before = await yard.store.resources(TENANT)
    async with yard.ledger.gone():
        comparison = await yard.watch.compare(TENANT, "paper")
    assert comparison.unreachable
    assert comparison.drifts == ()
    assert await yard.store.resources(TENANT) == before
    assert await yard.recorded() == []


@pytest.mark.parametrize(("member", "value"), [("capital", "7"), ("artifact", "b")])
async def test_a_deployment_of_something_else_contradicts(yard: Yard, member: str, value: str) -> None:
    await yard.placed(kind="deployment.create", name="one", artifact="a", capital="1000")
    (kept,) = await yard.store.resources(TENANT)
    body = decode(kept.body)
    there = body["detail"][member]
    told = canonical({**body, "detail": {**body["detail"], member: value}})
    await yard.store.note_drifts([], seen=[replace(kept, body=told)])
    assert await yard.compared() == [("running", "running", "contradicts")]
    assert await yard.changes() == {member: {"recorded": value, "provider": there}}


async def test_an_amount_that_is_written_otherwise_is_the_same(yard: Yard) -> None:
    await yard.placed()
    (kept,) = await yard.store.resources(TENANT)
    told = canonical({**decode(kept.body), "quantity": "2.000"})
    await yard.store.note_drifts([], seen=[replace(kept, body=told)])
    assert await yard.compared() == []


async def test_when_each_provider_was_last_compared_is_known_and_an_absence_is_told_once(yard: Yard) -> None:
    told: list[str] = []
    watch = DriftWatch(yard.store, yard.layer.adapters, tell=told.append)
    await yard.placed()
    await watch.compare(TENANT, "paper")
    compared_us = yard.clock.now_us()
    for _ in range(2):
        yard.clock.advance(1)
        async with yard.ledger.gone():
            await watch.compare(TENANT, "paper")
    (one,) = await yard.store.comparisons(TENANT)
    assert (one.adapter, one.compared_us, one.tried_us) == ("paper", compared_us, yard.clock.now_us())
    assert one.unreachable is not None
    assert one.unreachable in told[0]
    assert len(told) == 1
    await watch.compare(TENANT, "paper")
    (one,) = await yard.store.comparisons(TENANT)
    assert (one.unreachable, one.compared_us) == (None, yard.clock.now_us())
    assert len(told) == 2, "that it can be compared again"
    assert await yard.store.comparisons(OTHER) == []


async def test_an_adapter_that_is_no_longer_configured_is_said_to_be(yard: Yard) -> None:
    await yard.placed()
    watch = DriftWatch(yard.store, AdapterSet({}))
    (comparison,) = await watch.compare_all()
    assert comparison.unreachable is not None
    assert "no adapter" in comparison.unreachable
    assert await yard.recorded() == []


async def test_tenants_are_compared_apart(yard: Yard) -> None:
    await yard.placed()
    await yard.placed(tenant=OTHER)
    await yard.adapter.place_order(yard.hand(), limit("buy", "1", "1", symbol="ACME"))
    compared = await yard.watch.compare_all()
    assert [(one.tenant, one.adapter, len(one.drifts)) for one in compared] == [
        (OTHER, "paper", 0),
        (TENANT, "paper", 1),
    ]
    assert await yard.recorded(OTHER) == []
    assert await yard.watch.compare_tenant(Tenant("nobody")) == [Comparison(Tenant("nobody"), "paper")]


async def test_what_was_seen_again_meanwhile_is_not_overwritten(yard: Yard) -> None:
    """A comparison that began before a command's answer was recorded must not bring back what was before it."""
    await yard.placed()
    (before,) = await yard.store.resources(TENANT)
    yard.clock.advance(1)
    await yard.store.note_drifts([], seen=[replace(before, status="cancelled", live=False, seen_us=0)])
    yard.clock.advance(1)
    await yard.store.note_drifts([], seen=[before])
    (kept,) = await yard.store.resources(TENANT)
    assert (kept.status, kept.seen_us) == ("cancelled", yard.clock.now_us() - 1)


async def test_the_last_difference_of_a_resource_and_who_was_ever_used_are_known(yard: Yard) -> None:
    assert await yard.store.providers() == []
    assert await yard.store.last_drift(TENANT, "paper", "order", "o") is None
    drifts = [
        Drift(TENANT, "paper", "order", "o", "pending", end, "progressed") for end in ("filled", "failed")
    ]
    await yard.store.note_drifts(drifts)
    last = await yard.store.last_drift(TENANT, "paper", "order", "o")
    assert last == replace(drifts[1], time_us=yard.clock.now_us())
    assert await yard.store.last_drift(TENANT, "paper", "deployment", "o") is None
    for number, tenant in enumerate((TENANT, OTHER, TENANT)):
        await yard.placed(str(number), tenant=tenant)
    assert await yard.store.providers() == [(OTHER, "paper"), (TENANT, "paper")]
