"""What every provider of orders promises through its adapter."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest

from sovrun.core.commands.model import CancelOrder, PlaceOrder
from sovrun.execution.port import (
    Call,
    Done,
    NotReached,
    Order,
    OrderStatus,
    OutcomeUnknown,
    Rejected,
    UnreadableRecord,
    unreadable_in,
)
from support.providers import ACTOR, NEIGHBOUR, STRANGE, TENANT, UNKNOWN_ID, Calls, Provider

PENDING, FILLED, CANCELLED = OrderStatus.PENDING, OrderStatus.FILLED, OrderStatus.CANCELLED


async def placed(exchange: Provider, call: Call, order: PlaceOrder | None) -> Order:
    """Place an order that the provider accepts."""
    assert order is not None
    outcome = await exchange.adapter.place_order(call, order)
    assert isinstance(outcome, Done), outcome
    assert isinstance(outcome.resource, Order)
    await exchange.settle()
    return outcome.resource


def require_rejected(outcome: Done | Rejected, code: str) -> None:
    """Fail unless the provider refused, under this code."""
    assert isinstance(outcome, Rejected), outcome
    assert outcome.code == code


async def test_a_placed_order_is_found_by_id_and_by_client_id_and_listed(
    exchange: Provider, calls: Calls
) -> None:
    call = calls.effect()
    order = await placed(exchange, call, exchange.resting)
    assert exchange.resting is not None
    assert order.client_id == call.client_id
    assert (order.symbol, order.side, order.type) == (
        exchange.resting.symbol,
        exchange.resting.side,
        exchange.resting.type,
    )
    assert (order.status, order.filled, order.average_price) == (PENDING, Decimal(0), None)
    adapter, read = exchange.adapter, calls.read()
    assert await adapter.get_order(read, order.id) == order
    assert await adapter.find_order(read, str(call.client_id)) == order
    assert await adapter.list_orders(read) == [order]


async def test_a_filled_order_tells_how_much_and_at_what_price(exchange: Provider, calls: Calls) -> None:
    call = calls.effect()
    await placed(exchange, call, exchange.filled)
    order = await exchange.adapter.find_order(calls.read(), str(call.client_id))
    assert order is not None
    assert exchange.filled is not None
    assert (order.status, order.filled) == (FILLED, exchange.filled.quantity)
    assert order.average_price is not None
    assert order.average_price > 0


async def test_what_rests_can_be_cancelled_and_is_found_for_what_it_is(
    exchange: Provider, calls: Calls
) -> None:
    call, read = calls.effect(), calls.read()
    order = await placed(exchange, call, exchange.resting)
    outcome = await exchange.adapter.cancel_order(calls.effect(), CancelOrder(order.id))
    assert isinstance(outcome, Done)
    now = await exchange.adapter.get_order(read, order.id)
    if exchange.remembers:
        assert outcome.resource == now
        assert now == await exchange.adapter.find_order(read, str(call.client_id))
        assert now is not None
    if now is not None:
        assert now.status is CANCELLED
    assert [order for order in await exchange.adapter.list_orders(read) if order.status is PENDING] == []


async def test_cancelling_what_is_cancelled_is_done(exchange: Provider, calls: Calls) -> None:
    order = await placed(exchange, calls.effect(), exchange.resting)
    first = await exchange.adapter.cancel_order(calls.effect(), CancelOrder(order.id))
    second = await exchange.adapter.cancel_order(calls.effect(), CancelOrder(order.id))
    if exchange.remembers:
        assert second == first
    else:
        assert isinstance(second, Done) or second.code == "not_found"


async def test_cancelling_what_is_filled_is_refused_and_changes_nothing(
    exchange: Provider, calls: Calls
) -> None:
    call, read = calls.effect(), calls.read()
    order = await placed(exchange, call, exchange.filled)
    before = await exchange.adapter.find_order(read, str(call.client_id))
    outcome = await exchange.adapter.cancel_order(calls.effect(), CancelOrder(order.id))
    require_rejected(outcome, "already_filled")
    assert await exchange.adapter.find_order(read, str(call.client_id)) == before
    assert before is not None
    assert before.status is FILLED


async def test_an_order_that_does_not_exist_is_neither_read_nor_cancelled(
    exchange: Provider, calls: Calls
) -> None:
    require_rejected(
        await exchange.adapter.cancel_order(calls.effect(), CancelOrder(UNKNOWN_ID)), "not_found"
    )
    assert await exchange.adapter.get_order(calls.read(), UNKNOWN_ID) is None
    assert await exchange.adapter.find_order(calls.read(), calls.client_id()) is None
    assert await exchange.adapter.list_orders(calls.read()) == []


async def test_an_unknown_symbol_is_refused(exchange: Provider, calls: Calls) -> None:
    assert exchange.resting is not None
    if exchange.unknown_symbol is None:
        await placed(exchange, calls.effect(), replace(exchange.resting, symbol="ANY"))
        return
    call = calls.effect()
    order = replace(exchange.resting, symbol=exchange.unknown_symbol)
    require_rejected(await exchange.adapter.place_order(call, order), "unknown_symbol")
    assert await exchange.adapter.find_order(calls.read(), str(call.client_id)) is None
    assert await exchange.adapter.list_orders(calls.read()) == []
    assert await exchange.adapter.quote(calls.read(), exchange.unknown_symbol) is None


async def test_another_tenants_orders_are_invisible_and_cannot_be_cancelled(
    exchange: Provider, calls: Calls
) -> None:
    call = calls.effect()
    order = await placed(exchange, call, exchange.resting)
    adapter, neighbour = exchange.adapter, calls.read(NEIGHBOUR)
    assert await adapter.get_order(neighbour, order.id) is None
    assert await adapter.find_order(neighbour, str(call.client_id)) is None
    assert await adapter.list_orders(neighbour) == []
    outcome = await adapter.cancel_order(calls.effect(tenant=NEIGHBOUR), CancelOrder(order.id))
    require_rejected(outcome, "not_found")
    assert await adapter.get_order(calls.read(), order.id) == order


async def test_a_mode_that_the_adapter_is_not_for_is_refused(exchange: Provider, calls: Calls) -> None:
    assert exchange.resting is not None
    call = calls.effect(mode=exchange.wrong_mode)
    assert call.mode not in exchange.adapter.capabilities.modes
    require_rejected(await exchange.adapter.place_order(call, exchange.resting), "mode_not_allowed")
    assert await exchange.adapter.list_orders(calls.read()) == []
    order = await placed(exchange, calls.effect(), exchange.resting)
    call = calls.effect(mode=exchange.wrong_mode)
    require_rejected(await exchange.adapter.cancel_order(call, CancelOrder(order.id)), "mode_not_allowed")
    assert await exchange.adapter.get_order(calls.read(), order.id) == order


async def test_the_same_client_id_never_makes_a_second_order_while_the_first_is_open(
    exchange: Provider, calls: Calls
) -> None:
    call = calls.effect()
    order = await placed(exchange, call, exchange.resting)
    assert exchange.resting is not None
    again = await exchange.adapter.place_order(call, exchange.resting)
    if isinstance(again, Rejected):
        assert again.duplicate
    else:
        assert again.resource == order
    assert await exchange.adapter.list_orders(calls.read()) == [order]


async def test_one_client_id_sent_several_times_at_once_makes_one_order(
    exchange: Provider, calls: Calls
) -> None:
    assert exchange.resting is not None
    call, order = calls.effect(), exchange.resting
    answers = await asyncio.gather(*(exchange.adapter.place_order(call, order) for _ in range(8)))
    listed = await exchange.adapter.list_orders(calls.read())
    assert [one.client_id for one in listed] == [call.client_id]
    assert any(isinstance(answer, Done) for answer in answers)
    for answer in answers:
        if isinstance(answer, Rejected):
            assert answer.duplicate
        else:
            assert answer.resource == listed[0]


async def test_a_client_id_is_remembered_for_ever_or_declared_to_be_forgotten(
    exchange: Provider, calls: Calls
) -> None:
    if not exchange.remembers:
        assert not exchange.adapter.capabilities.absence_is_conclusive
        return
    assert exchange.resting is not None
    for order in (exchange.resting, exchange.filled):
        assert order is not None
        call = calls.effect()
        first = await placed(exchange, call, order)
        await exchange.adapter.cancel_order(calls.effect(), CancelOrder(first.id))
        before = await exchange.adapter.list_orders(calls.read())
        again = await exchange.adapter.place_order(call, order)
        if isinstance(again, Rejected):
            assert again.duplicate
        else:
            assert again.resource in before
        assert await exchange.adapter.list_orders(calls.read()) == before


async def test_identical_orders_under_two_client_ids_are_two_orders(exchange: Provider, calls: Calls) -> None:
    first = await placed(exchange, calls.effect(), exchange.resting)
    second = await placed(exchange, calls.effect(), exchange.resting)
    assert first.id != second.id
    assert len(await exchange.adapter.list_orders(calls.read())) == 2


async def test_decimals_survive_exactly(exchange: Provider, calls: Calls) -> None:
    call = calls.effect()
    order = await placed(exchange, call, exchange.exact)
    assert exchange.exact is not None
    for told in (order, await exchange.adapter.find_order(calls.read(), str(call.client_id))):
        assert told is not None
        assert (told.quantity, told.price) == (exchange.exact.quantity, exchange.exact.price)


async def test_orders_are_listed_by_id(exchange: Provider, calls: Calls) -> None:
    for _ in range(4):
        await placed(exchange, calls.effect(), exchange.resting)
    ids = [order.id for order in await exchange.adapter.list_orders(calls.read())]
    assert len(ids) == 4
    assert ids == sorted(ids)


async def test_reads_change_nothing(exchange: Provider, calls: Calls) -> None:
    call, read = calls.effect(), calls.read()
    order = await placed(exchange, call, exchange.resting)
    await placed(exchange, calls.effect(), exchange.filled)
    adapter = exchange.adapter

    async def read_all() -> list[object]:
        return [
            await adapter.get_order(read, order.id),
            await adapter.find_order(read, str(call.client_id)),
            await adapter.list_orders(read),
            await adapter.portfolio(read),
            await adapter.quote(read, order.symbol),
        ]

    first = await read_all()
    assert await read_all() == first


async def test_every_status_told_is_one_that_the_adapter_maps(exchange: Provider, calls: Calls) -> None:
    resting = await placed(exchange, calls.effect(), exchange.resting)
    await placed(exchange, calls.effect(), exchange.filled)
    told = list(await exchange.adapter.list_orders(calls.read()))
    outcome = await exchange.adapter.cancel_order(calls.effect(), CancelOrder(resting.id))
    assert isinstance(outcome, Done)
    told += await exchange.adapter.list_orders(calls.read())
    assert told != []
    for order in told:
        assert exchange.raw_statuses[order.raw_status] is order.status


async def test_a_status_that_is_not_mapped_is_named_with_its_word_and_hides_no_other(
    exchange: Provider, calls: Calls
) -> None:
    first, call, read, adapter = calls.effect(), calls.effect(), calls.read(), exchange.adapter
    other = await placed(exchange, first, exchange.resting)
    order = await placed(exchange, call, exchange.resting)
    if exchange.strange is None:  # its words are ours
        assert {other.raw_status, order.raw_status} <= set(exchange.raw_statuses)
        return
    with exchange.strange(str(call.client_id)):
        listed = await adapter.list_orders(read)
        assert listed == [other]
        (named,) = unreadable_in(listed)
        assert (named.kind, named.id, named.client_id, named.raw_status) == (
            *("order", order.id, call.client_id),
            STRANGE,
        )
        for asked in (adapter.get_order(read, order.id), adapter.find_order(read, str(call.client_id))):
            with pytest.raises(UnreadableRecord, match=STRANGE) as unknown:
                await asked
            assert unknown.value.record == named
        assert await adapter.get_order(read, other.id) == other
        assert await adapter.find_order(read, str(first.client_id)) == other
        assert await adapter.find_order(read, calls.client_id()) is None
    assert len(await adapter.list_orders(read)) == 2


async def test_no_answer_in_time_leaves_the_outcome_unknown(exchange: Provider, calls: Calls) -> None:
    assert exchange.resting is not None
    async with exchange.hanging():
        with pytest.raises(OutcomeUnknown) as unknown:
            await exchange.adapter.place_order(calls.effect(timeout_us=300_000), exchange.resting)
    assert not isinstance(unknown.value, NotReached)
    assert unknown.value.reason == "timeout"


async def test_what_was_never_sent_is_told_from_what_is_unknown(exchange: Provider, calls: Calls) -> None:
    assert exchange.resting is not None
    async with exchange.gone():
        with pytest.raises(NotReached):
            await exchange.adapter.place_order(calls.effect(), exchange.resting)
        with pytest.raises(NotReached):
            await exchange.adapter.cancel_order(calls.effect(), CancelOrder(UNKNOWN_ID))
        with pytest.raises(OutcomeUnknown):
            await exchange.adapter.list_orders(calls.read())


async def test_what_was_filled_is_owned_and_was_paid_for(exchange: Provider, calls: Calls) -> None:
    adapter = exchange.adapter
    before = await adapter.portfolio(calls.read())
    assert before.positions == {}
    call = calls.effect()
    await placed(exchange, call, exchange.filled)
    order = await adapter.find_order(calls.read(), str(call.client_id))
    assert order is not None
    assert order.filled > 0
    signed = order.filled if order.side == "buy" else -order.filled
    after = await adapter.portfolio(calls.read())
    assert after.positions == {order.symbol: signed}
    for name, cash in before.cash.items():
        assert order.average_price is not None
        paid = cash - after.cash[name]
        assert abs(paid - signed * order.average_price) < Decimal("1e-9"), "an average may be rounded"
    theirs = await adapter.portfolio(calls.read(NEIGHBOUR))
    assert (theirs.positions, theirs.cash) == ({}, before.cash)


async def test_the_provider_is_told_for_whom_it_is_asked(exchange: Provider, calls: Calls) -> None:
    for tenant in (TENANT, NEIGHBOUR):
        call = calls.effect(tenant=tenant)
        order = await placed(exchange, call, exchange.resting)
        if exchange.asked_by is None:  # then the tenant is in the names that it is given
            assert tenant in order.id
        else:
            assert exchange.asked_by(str(call.client_id)) == (tenant, ACTOR)
