"""The paper provider: what it fills, what it refuses, what stays in its ledger."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest

from sovrun.core.canonical import decode
from sovrun.core.commands.model import CancelOrder, CreateDeployment, PlaceOrder, StopDeployment
from sovrun.core.errors import StoreUnavailable
from sovrun.core.ids import Actor, Tenant
from sovrun.execution.adapters.paper import open_adapter
from sovrun.execution.adapters.paper_rules import PAUSE, RESUME, opening
from sovrun.execution.adapters.paper_settings import paper_settings
from sovrun.execution.port import (
    Call,
    Deployment,
    DeploymentStatus,
    Done,
    ExecutionAdapter,
    NotReached,
    Order,
    OrderStatus,
    OutcomeUnknown,
    Portfolio,
    Rejected,
)
from support.ledgers import FaultyLedger, MemoryLedger
from support.paper import limit, market, views
from support.providers import TENANT, Calls

NAME = "paper"


@pytest.fixture
def calls(request: pytest.FixtureRequest) -> Calls:
    return Calls(request.node.nodeid)


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


@pytest.fixture
def adapter(ledger: MemoryLedger) -> ExecutionAdapter:
    return open_adapter(NAME, {}, ledger=ledger)


async def placed(adapter: ExecutionAdapter, call: Call, order: PlaceOrder) -> Order:
    outcome = await adapter.place_order(call, order)
    assert isinstance(outcome, Done), outcome
    assert isinstance(outcome.resource, Order)
    return outcome.resource


def code_of(outcome: Done | Rejected) -> str:
    assert isinstance(outcome, Rejected), outcome
    return outcome.code


def entries(ledger: MemoryLedger) -> list[dict[str, object]]:
    return [decode(entry) for entry in ledger.kept[TENANT, NAME]]


async def test_a_market_order_takes_the_best_prices_first(adapter: ExecutionAdapter, calls: Calls) -> None:
    order = await placed(adapter, calls.effect(), market("buy", "35"))
    assert [(fill["price"], fill["quantity"]) for fill in order.detail["fills"]] == [
        ("100", "10"),
        ("100.5", "20"),
        ("101", "5"),
    ]
    assert (order.status, order.filled) == (OrderStatus.FILLED, Decimal(35))
    assert order.detail["notional"] == "3515"
    assert order.average_price == Decimal("100.428571428571428571")
    portfolio = await adapter.portfolio(calls.read())
    assert portfolio == Portfolio({"USD": Decimal(996485)}, {"THIN": Decimal(35)})


async def test_a_limit_order_is_filled_as_far_as_its_limit_goes_and_the_rest_waits(
    adapter: ExecutionAdapter, calls: Calls
) -> None:
    order = await placed(adapter, calls.effect(), limit("buy", "35", "100.50"))
    assert (order.status, order.raw_status, order.filled) == (
        OrderStatus.PENDING,
        "partially_filled",
        Decimal(30),
    )
    outcome = await adapter.cancel_order(calls.effect(), CancelOrder(order.id))
    assert isinstance(outcome, Done)
    assert outcome.resource == replace(order, status=OrderStatus.CANCELLED, raw_status="cancelled")


async def test_what_the_market_offered_is_there_only_once_for_an_account(
    adapter: ExecutionAdapter, calls: Calls
) -> None:
    await placed(adapter, calls.effect(), market("buy", "10"))
    order = await placed(adapter, calls.effect(), market("buy", "10"))
    assert order.average_price == Decimal("100.5")
    neighbour = calls.effect(tenant=Tenant("other"))
    assert (await placed(adapter, neighbour, market("buy", "10"))).average_price == Decimal(100)


@pytest.mark.parametrize(
    "order", [market("buy", "81"), limit("buy", "81", "101", tif="ioc")], ids=["market", "ioc"]
)
async def test_what_a_market_or_ioc_order_does_not_get_has_expired(
    adapter: ExecutionAdapter, calls: Calls, order: PlaceOrder
) -> None:
    told = await placed(adapter, calls.effect(), order)
    assert (told.status, told.raw_status, told.filled) == (OrderStatus.CANCELLED, "expired", Decimal(80))
    outcome = await adapter.cancel_order(calls.effect(), CancelOrder(told.id))
    assert outcome == Done(told)
    again = await placed(adapter, calls.effect(), order)
    assert (again.status, again.filled, again.average_price) == (OrderStatus.CANCELLED, Decimal(0), None)


async def test_a_symbol_without_depth_is_traded_at_its_price_in_any_quantity(
    adapter: ExecutionAdapter, calls: Calls
) -> None:
    order = await placed(adapter, calls.effect(), limit("buy", "95238", "11", symbol="ACME"))
    assert (order.status, order.average_price) == (OrderStatus.FILLED, Decimal("10.5"))
    sold = await placed(adapter, calls.effect(), market("sell", "95238", symbol="ACME"))
    assert sold.average_price == Decimal("10.5")
    assert await adapter.portfolio(calls.read()) == Portfolio({"USD": Decimal(1000000)}, {})
    assert await adapter.quote(calls.read(), "ACME") == Decimal("10.50")
    assert await adapter.quote(calls.read(), "NOBODY") is None


async def test_orders_of_one_account_meet_by_price_and_then_by_time(
    adapter: ExecutionAdapter, calls: Calls
) -> None:
    late, early, high = [
        await placed(adapter, calls.effect(), limit("buy", "4", price))
        for price in ("99.60", "99.70", "99.70")
    ]
    await placed(adapter, calls.effect(), market("buy", "20"))
    sold = await placed(adapter, calls.effect(), market("sell", "11"))
    assert [fill.get("against") for fill in sold.detail["fills"]] == [early.id, high.id, late.id]
    partly = await adapter.get_order(calls.read(), late.id)
    assert partly is not None
    assert (partly.raw_status, partly.filled) == ("partially_filled", Decimal(3))
    assert partly.detail["fills"] == [{"price": "99.6", "quantity": "3", "against": sold.id}]
    rest = await placed(adapter, calls.effect(), market("sell", "2"))
    assert [fill["price"] for fill in rest.detail["fills"]] == ["99.6", "99.5"], (
        "the order stands before the market"
    )


async def test_the_market_stands_before_orders_at_the_same_price(
    adapter: ExecutionAdapter, calls: Calls
) -> None:
    await placed(adapter, calls.effect(), market("buy", "15"))
    await placed(adapter, calls.effect(), limit("buy", "5", "99.50"))
    sold = await placed(adapter, calls.effect(), market("sell", "12"))
    assert [("against" in fill, fill["quantity"]) for fill in sold.detail["fills"]] == [
        (False, "10"),
        (True, "2"),
    ]


async def test_more_than_the_cash_cannot_be_bought_and_resting_orders_hold_theirs(
    ledger: MemoryLedger, calls: Calls
) -> None:
    adapter = open_adapter(NAME, {"cash": "1000.00"}, ledger=ledger)
    call = calls.effect()
    assert (
        code_of(await adapter.place_order(call, market("buy", "10.000000000000000001")))
        == "insufficient_funds"
    )
    assert await adapter.find_order(calls.read(), str(call.client_id)) is None
    resting = await placed(adapter, calls.effect(), limit("buy", "10", "60"))
    assert code_of(await adapter.place_order(calls.effect(), market("buy", "4.1"))) == "insufficient_funds"
    assert (await placed(adapter, calls.effect(), market("buy", "4"))).status is OrderStatus.FILLED
    assert code_of(await adapter.place_order(calls.effect(), market("buy", "0.01"))) == "insufficient_funds"
    await adapter.cancel_order(calls.effect(), CancelOrder(resting.id))
    assert (await placed(adapter, calls.effect(), market("buy", "6"))).status is OrderStatus.FILLED
    assert (await adapter.portfolio(calls.read())).cash == {"USD": Decimal(0)}


async def test_a_fill_frees_no_more_and_no_less_than_its_order_held(
    ledger: MemoryLedger, calls: Calls
) -> None:
    adapter = open_adapter(NAME, {"cash": "1000", "shortSelling": True}, ledger=ledger)
    await placed(adapter, calls.effect(), limit("buy", "5", "99.70"))
    await placed(adapter, calls.effect(), limit("sell", "2", "99.60"))
    resting = limit("buy", "7.0000000001", "99.70")  # 1000 are there, 3 * 99.70 of them held
    assert code_of(await adapter.place_order(calls.effect(), replace(resting, quantity=Decimal("7.04")))) == (
        "insufficient_funds"
    )
    assert (await placed(adapter, calls.effect(), resting)).status is OrderStatus.PENDING


async def test_a_refusal_leaves_nothing_behind_so_that_the_order_may_be_placed_later(
    adapter: ExecutionAdapter, ledger: MemoryLedger, calls: Calls
) -> None:
    call = calls.effect()
    assert code_of(await adapter.place_order(call, market("sell", "5"))) == "insufficient_position"
    assert [entry["type"] for entry in entries(ledger)] == ["account.opened"]
    await placed(adapter, calls.effect(), market("buy", "5"))
    assert (await placed(adapter, call, market("sell", "5"))).status is OrderStatus.FILLED


async def test_more_than_is_held_is_sold_only_where_that_is_set(ledger: MemoryLedger, calls: Calls) -> None:
    careful = open_adapter(NAME, {}, ledger=ledger)
    await placed(careful, calls.effect(), market("buy", "10"))
    await placed(careful, calls.effect(), limit("sell", "8", "200"))
    assert (
        code_of(await careful.place_order(calls.effect(), market("sell", "2.5"))) == "insufficient_position"
    )
    short = open_adapter(NAME, {"shortSelling": True}, ledger=ledger)
    await placed(short, calls.effect(), market("sell", "12"))
    assert (await short.portfolio(calls.read())).positions == {"THIN": Decimal(-2)}


async def test_a_client_id_under_another_order_or_deployment_is_a_duplicate(
    adapter: ExecutionAdapter, calls: Calls
) -> None:
    call = calls.effect()
    order = await placed(adapter, call, limit("buy", "1.0", "50"))
    assert await placed(adapter, call, limit("buy", "1", "50.00")) == order, (
        "the spelling is not part of the order"
    )
    other = await adapter.place_order(call, limit("buy", "2", "50"))
    assert isinstance(other, Rejected)
    assert (other.code, other.duplicate) == ("duplicate_client_id", True)
    deployment = CreateDeployment("trend", "any", None, {"a": [1.5]})
    assert isinstance(await adapter.create_deployment(call, deployment), Done), (
        "a client id for each resource"
    )
    other = await adapter.create_deployment(call, replace(deployment, parameters={}))
    assert isinstance(other, Rejected)
    assert (other.code, other.duplicate) == ("duplicate_client_id", True)


@pytest.mark.parametrize(
    "order",
    [
        replace(market("buy", "1"), price=Decimal(1)),
        replace(limit("buy", "1", "1"), price=None),
        replace(limit("buy", "1", "1"), quantity=Decimal(0)),
        replace(limit("buy", "1", "1"), quantity=Decimal(-1)),
        replace(limit("buy", "1", "1"), quantity=Decimal("1e-19")),
        replace(limit("buy", "1", "1"), price=Decimal("1e18")),
        replace(limit("buy", "1", "1"), price=Decimal("Infinity")),
        replace(limit("buy", "1", "1"), side="hold"),
    ],
    ids=str,
)
async def test_what_is_no_order_is_refused(
    adapter: ExecutionAdapter, calls: Calls, order: PlaceOrder
) -> None:
    assert code_of(await adapter.place_order(calls.effect(), order)) == "invalid_order"


async def test_an_effect_without_a_client_id_is_a_mistake_of_the_caller(
    adapter: ExecutionAdapter, ledger: MemoryLedger, calls: Calls
) -> None:
    with pytest.raises(ValueError, match="client id"):
        await adapter.place_order(calls.read(), market("buy", "1"))
    assert entries(ledger) == []


async def test_a_deployment_may_not_use_more_than_there_is(ledger: MemoryLedger, calls: Calls) -> None:
    adapter = open_adapter(NAME, {"cash": "1000"}, ledger=ledger)
    await placed(adapter, calls.effect(), limit("buy", "1", "90"))
    wanted = CreateDeployment("trend", "any", Decimal("910.01"), {})
    assert code_of(await adapter.create_deployment(calls.effect(), wanted)) == "insufficient_funds"
    outcome = await adapter.create_deployment(calls.effect(), replace(wanted, capital=Decimal("910.00")))
    assert isinstance(outcome, Done)
    assert isinstance(outcome.resource, Deployment)
    assert outcome.resource.detail == {
        "actor": "local:tester",
        "artifact": "any",
        "capital": "910",
        "parameters": {},
    }


async def test_a_deployment_is_paused_and_resumed_until_it_is_stopped(
    adapter: ExecutionAdapter, calls: Calls
) -> None:
    outcome = await adapter.create_deployment(calls.effect(), CreateDeployment("trend", "any", None, {}))
    assert isinstance(outcome, Done)
    assert isinstance(outcome.resource, Deployment)
    one = outcome.resource.id
    pause = calls.effect()
    for call in (pause, calls.effect(), pause):
        paused = await adapter.perform_further(call, PAUSE, {"deploymentId": one})
        deployment = await adapter.get_deployment(calls.read(), one)
        assert paused == Done(deployment)  # type: ignore[arg-type]
    assert deployment is not None
    assert deployment.status is DeploymentStatus.PAUSED
    assert await adapter.find_performed(calls.read(), PAUSE, str(pause.client_id)) == deployment
    assert await adapter.find_performed(calls.read(), RESUME, str(pause.client_id)) is None
    other = await adapter.perform_further(pause, PAUSE, {"deploymentId": "another"})
    assert isinstance(other, Rejected)
    assert other.duplicate
    resumed = await adapter.perform_further(calls.effect(), RESUME, {"deploymentId": one})
    assert isinstance(resumed, Done)
    assert isinstance(resumed.resource, Deployment)
    assert (resumed.resource.id, resumed.resource.status) == (one, DeploymentStatus.RUNNING)
    assert isinstance(await adapter.stop_deployment(calls.effect(), StopDeployment(one)), Done)
    assert (
        code_of(await adapter.perform_further(calls.effect(), RESUME, {"deploymentId": one}))
        == "wrong_status"
    )
    assert code_of(await adapter.perform_further(calls.effect(), PAUSE, {"deploymentId": 7})) == "not_found"
    for payload in ({}, {"deploymentId": one, "force": True}):
        assert code_of(await adapter.perform_further(calls.effect(), PAUSE, payload)) == "invalid_payload"


async def test_the_ledger_names_actor_client_id_and_fills_and_is_canonical(
    adapter: ExecutionAdapter, ledger: MemoryLedger, calls: Calls
) -> None:
    call = calls.effect()
    await placed(adapter, call, limit("buy", "12.50", "100.50"))
    assert ledger.kept[TENANT, NAME] == [
        b'{"cash":"1000000","currency":"USD","type":"account.opened","v":1}',
        (
            '{"actor":"local:tester","clientId":"CLIENT","fills":[{"price":"100","quantity":"10"},'
            '{"price":"100.5","quantity":"2.5"}],"id":"o00000001-SHORT","orderType":"limit","price":"100.5",'
            '"quantity":"12.5","side":"buy","symbol":"THIN","timeInForce":"gtc","type":"order.placed","v":1}'
        )
        .replace("CLIENT", str(call.client_id))
        .replace("SHORT", str(call.client_id)[:12])
        .encode(),
    ]


async def test_what_was_traded_does_not_change_with_the_settings(
    adapter: ExecutionAdapter, ledger: MemoryLedger, calls: Calls
) -> None:
    await placed(adapter, calls.effect(), market("buy", "25"))
    before = await views(adapter, TENANT)
    depth = {"THIN": {"asks": [["100.00", "5"], ["100.50", "18"]]}}
    later = open_adapter(NAME, {"prices": {"THIN": "1"}, "depth": depth, "cash": "5"}, ledger=ledger)
    assert await views(later, TENANT) == before
    order = await placed(later, calls.effect(), market("buy", "25"))
    assert [(fill["price"], fill["quantity"]) for fill in order.detail["fills"]] == [("100.5", "3")], (
        "what was taken before counts against what is on offer now"
    )


async def test_the_ledger_of_a_newer_version_is_not_read_and_nothing_is_sent(
    ledger: MemoryLedger, calls: Calls
) -> None:
    ledger.kept[TENANT, NAME].append(b'{"type":"order.placed","v":2}')
    adapter = open_adapter(NAME, {}, ledger=ledger)
    with pytest.raises(NotReached, match="not known to this version"):
        await adapter.place_order(calls.effect(), market("buy", "1"))
    with pytest.raises(OutcomeUnknown):
        await adapter.list_orders(calls.read())
    ledger.kept[TENANT, NAME][:] = [b'{"type":"order.eaten","v":1}']
    with pytest.raises(NotReached, match="not known to this version"):
        await adapter.portfolio(calls.read())


async def test_an_effect_whose_answer_was_lost_is_found_and_sent_again_it_is_the_same(calls: Calls) -> None:
    ledger = FaultyLedger()
    adapter = open_adapter(NAME, {}, ledger=ledger)
    await placed(adapter, calls.effect(), market("buy", "1"))
    call = calls.effect(timeout_us=50_000)
    async with ledger.hanging():
        with pytest.raises(OutcomeUnknown) as unknown:
            await adapter.place_order(call, market("buy", "2"))
    assert unknown.value.reason == "timeout"
    found = await adapter.find_order(calls.read(), str(call.client_id))
    assert await placed(adapter, call, market("buy", "2")) == found
    assert len(await adapter.list_orders(calls.read())) == 2


async def test_what_ends_before_anything_is_written_was_certainly_not_sent(calls: Calls) -> None:
    ledger = FaultyLedger()
    adapter = open_adapter(NAME, {}, ledger=ledger)
    with pytest.raises(NotReached):
        await adapter.place_order(calls.effect(timeout_us=0), market("buy", "1"))
    async with ledger.hanging():
        first = asyncio.create_task(placed(adapter, calls.effect(), market("buy", "2")))
        await asyncio.sleep(0)  # so that it has its turn first
        with pytest.raises(NotReached):
            await adapter.place_order(calls.effect(timeout_us=20_000), market("buy", "3"))
    order = await first
    assert await adapter.list_orders(calls.read()) == [order]


class Lost(MemoryLedger):
    """A ledger that writes and then loses its store."""

    async def append(self, tenant: Tenant, name: str, at: int, entry: bytes) -> bool:
        await super().append(tenant, name, at, entry)
        raise StoreUnavailable("the disk is gone")


class Overtaken(FaultyLedger):
    """A ledger whose next place another takes first, and that is out of reach from then on."""

    async def append(self, tenant: Tenant, name: str, at: int, entry: bytes) -> bool:
        assert await MemoryLedger.append(self, tenant, name, at, opening(paper_settings(NAME, {})).encoded())
        taken = await super().append(tenant, name, at, entry)
        self._reachable = False
        return taken


class Liar(MemoryLedger):
    """A ledger that says of every place that it is taken."""

    async def append(self, *_: object) -> bool:
        return False


async def test_a_write_that_may_have_happened_is_unknown(calls: Calls) -> None:
    adapter = open_adapter(NAME, {}, ledger=Lost())
    with pytest.raises(OutcomeUnknown) as unknown:
        await adapter.place_order(calls.effect(), market("buy", "1"))
    assert unknown.value.reason == "server_error"
    assert not isinstance(unknown.value, NotReached)
    with pytest.raises(OutcomeUnknown) as unknown:
        await open_adapter(NAME, {}, ledger=Liar()).place_order(calls.effect(), market("buy", "1"))
    assert unknown.value.reason == "bad_answer"


async def test_what_found_its_place_taken_was_certainly_not_written(calls: Calls) -> None:
    ledger = Overtaken()
    with pytest.raises(NotReached):
        await open_adapter(NAME, {}, ledger=ledger).place_order(calls.effect(), market("buy", "1"))
    assert len(ledger.kept[TENANT, NAME]) == 1


async def test_several_accounts_lie_in_one_store_by_tenant_and_name(
    ledger: MemoryLedger, calls: Calls
) -> None:
    one, two = (open_adapter(name, {}, ledger=ledger) for name in ("paper", "rehearsal"))
    order = await placed(one, calls.effect(), market("buy", "1"))
    assert await two.list_orders(calls.read()) == []
    assert await one.list_orders(Call(Tenant("other"), Actor("local:other"))) == []
    other = await placed(two, calls.effect(), market("buy", "2"))
    assert await one.list_orders(calls.read()) == [order]
    assert await two.list_orders(calls.read()) == [other]


async def test_those_who_read_at_the_same_time_count_each_entry_once(
    adapter: ExecutionAdapter, ledger: MemoryLedger, calls: Calls
) -> None:
    for _ in range(3):
        await placed(adapter, calls.effect(), market("buy", "1"))
    reader = open_adapter(NAME, {}, ledger=ledger)
    read = calls.read()
    found = await asyncio.gather(*(reader.portfolio(read) for _ in range(5)))
    assert found == [await adapter.portfolio(read)] * 5
