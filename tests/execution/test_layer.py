"""The command layer with callers: one effect for each intention, the same answer for every repeat, nothing before its entry."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from sovrun.core.canonical import decode
from sovrun.core.commands.gates import AdapterLimits, AdapterLimitsChange, Switch
from sovrun.core.commands.journal import CommandState
from sovrun.core.commands.model import CancelOrder, CreateDeployment, PlaceOrder, StopDeployment
from sovrun.core.errors import (
    AdapterUnavailable,
    IdempotencyKeyConflict,
    IdempotencyKeyInFlight,
    IdempotencyKeyRequired,
    InvalidCommand,
    InvalidIdentifier,
    NotFound,
    PayloadTooLarge,
    SovrunError,
    UnknownSymbol,
)
from sovrun.core.ids import Actor, Digest, Tenant
from sovrun.execution.adapter_set import AdapterSet
from sovrun.execution.layer import AT_ONCE_MAX, Answered
from support.layers import DEPLOYMENT, ORDER, Bench
from support.requests import ACTOR, TENANT
from support.scripted_provider import ScriptedProvider, Trouble, first

OTHER = Tenant("other")
LOOK_US = 1_000_000
"""After so long an unknown outcome is looked for."""


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    async with made.running():
        yield made


def answer_of(answered: Answered) -> Any:
    return json.loads(answered.body)


async def journalled(bench: Bench, tenant: Tenant = TENANT) -> int:
    return len(await bench.store.commands(tenant, limit=1_000))


# --- one effect ---------------------------------------------------------------------------------------------------------


async def test_the_same_deployment_twice_is_one_call_and_one_answer_byte_for_byte(bench: Bench) -> None:
    first_answer = await bench.execute(DEPLOYMENT)
    again = await bench.execute(DEPLOYMENT)
    respelt = await bench.execute(DEPLOYMENT, payload={**DEPLOYMENT.payload, "capital": "1000.00"})
    assert first_answer.body == again.body == respelt.body
    assert len(bench.provider.called) == 1
    assert answer_of(again)["status"] == "confirmed"
    assert answer_of(again)["resource"]["id"] == f"d-{again.command.id}"


@pytest.mark.parametrize(
    ("request_", "change"),
    [
        (DEPLOYMENT, {"payload": {**DEPLOYMENT.payload, "capital": "1000.01"}}),
        (DEPLOYMENT, {"payload": {"name": "maker", "artifact": "bot"}}),
        (ORDER, {"payload": {**ORDER.payload, "quantity": "2.5"}}),
        (ORDER, {"payload": {**ORDER.payload, "side": "sell"}}),
    ],
    ids=["capital", "no capital", "quantity", "side"],
)
async def test_something_else_under_the_same_key_is_a_conflict_and_no_call(
    bench: Bench, request_: Any, change: dict[str, Any]
) -> None:
    done = await bench.execute(request_)
    looked = bench.provider.looked
    with pytest.raises(IdempotencyKeyConflict) as conflict:
        await bench.execute(request_, **change)
    assert conflict.value.facts["command"] == done.command.id
    assert len(bench.provider.called) == 1
    assert bench.provider.looked == looked
    assert await journalled(bench) == 1


async def test_500_callers_with_50_keys_are_50_effects_and_every_caller_has_the_right_answer(
    bench: Bench,
) -> None:
    def quantity(number: int) -> str:
        return f"{number % 50 + 1}"

    async def ask(number: int) -> Answered:
        payload = {**ORDER.payload, "quantity": quantity(number)}
        return await bench.execute(ORDER, key=f"k{number % 50}", payload=payload)

    answers = await asyncio.gather(*(ask(number) for number in range(500)))
    assert len(bench.provider.called) == 50
    assert set(bench.provider.happened().values()) == {1}
    assert len(bench.provider.happened()) == 50
    for number, answered in enumerate(answers):
        assert answered.body == answers[number % 50].body
        assert answer_of(answered)["resource"]["quantity"] == quantity(number)
    assert await journalled(bench) == 50


async def test_one_key_serves_another_kind_another_tenant_and_another_time(bench: Bench) -> None:
    answers = [
        await bench.execute(ORDER),
        await bench.execute(DEPLOYMENT, key=ORDER.key),
        await bench.execute(ORDER, tenant=OTHER),
    ]
    assert len({answered.command.id for answered in answers}) == 3
    assert len(bench.provider.called) == 3
    bench.clock.advance(10 * 365 * 86_400 * 1_000_000)
    assert (await bench.execute(ORDER)).body == answers[0].body
    assert len(bench.provider.called) == 3


async def test_an_answer_outlives_its_adapter_and_is_found_without_asking_any(bench: Bench) -> None:
    market = replace(
        ORDER, key="m", payload={"symbol": "ACME", "side": "buy", "type": "market", "quantity": "1"}
    )
    closing = replace(ORDER, key="c", kind="account.close", payload={"all": True})
    before = [await bench.execute(each) for each in (ORDER, market, closing)]
    looked = bench.provider.looked
    bench.begin(adapters=AdapterSet({}))
    after = [await bench.execute(each, patience_us=0) for each in (ORDER, market, closing)]
    assert [answered.body for answered in after] == [answered.body for answered in before]
    assert bench.provider.looked == looked
    with pytest.raises(AdapterUnavailable):
        await bench.execute(ORDER, key="new")


# --- what travels -------------------------------------------------------------------------------------------------------


async def test_who_asks_travels_on_the_call_with_the_commands_own_name(bench: Bench) -> None:
    answered = await bench.execute(ORDER, actor=Actor("local:alice"))
    [(_, call, wanted)] = bench.provider.called
    assert (call.tenant, call.actor, call.mode, call.client_id) == (
        TENANT,
        "local:alice",
        "paper",
        answered.command.id,
    )
    assert call.timeout_us == 10_000_000
    assert wanted == PlaceOrder("ACME", "buy", "limit", Decimal(2), Decimal(5), "gtc")


async def test_every_kind_goes_to_its_own_effect(bench: Bench) -> None:
    order = answer_of(await bench.execute(ORDER))["resource"]["id"]
    deployment = answer_of(await bench.execute(DEPLOYMENT))["resource"]["id"]
    await bench.execute(ORDER, kind="order.cancel", key=None, payload={"orderId": order})
    await bench.execute(ORDER, kind="deployment.stop", key=None, payload={"deploymentId": deployment})
    closed = await bench.execute(ORDER, kind="account.close", payload={"all": True})
    assert [(kind, wanted) for kind, _, wanted in bench.provider.called] == [
        ("order.place", PlaceOrder("ACME", "buy", "limit", Decimal(2), Decimal(5), "gtc")),
        ("deployment.create", CreateDeployment("maker", "bot", Decimal(1000), {})),
        ("order.cancel", CancelOrder(order)),
        ("deployment.stop", StopDeployment(deployment)),
        ("account.close", {"all": True}),
    ]
    assert answer_of(closed)["resource"]["was"] == {"all": True}
    found = await bench.store.resource(TENANT, "scripted", "order", order)
    assert found is not None
    assert (found.status, found.live) == ("cancelled", False)


async def test_without_a_key_every_cancellation_is_one_of_its_own(bench: Bench) -> None:
    order = answer_of(await bench.execute(ORDER))["resource"]["id"]
    answers = [
        await bench.execute(ORDER, kind="order.cancel", key=None, payload={"orderId": order})
        for _ in range(2)
    ]
    assert answers[0].command.id != answers[1].command.id


async def test_the_value_of_an_order_is_exact_and_that_of_a_market_order_by_the_quote(bench: Bench) -> None:
    digits = "999999999999999999.999999999999999999"
    for payload, notional in (
        (
            {"quantity": digits, "price": digits},
            "999999999999999999999999999999999998.000000000000000000000000000000000001",
        ),
        ({"quantity": "2", "type": "market"}, "14"),
    ):
        prepared = await bench.layer.prepare(
            replace(ORDER, payload={"symbol": "ACME", "side": "buy", **payload})
        )
        assert prepared.intention.notional == notional
    bench.provider.down = True
    prepared = await bench.layer.prepare(
        replace(ORDER, payload={"symbol": "ACME", "side": "buy", "type": "market", "quantity": "2"})
    )
    assert prepared.intention.notional is None


# --- refusals -----------------------------------------------------------------------------------------------------------


async def test_what_the_provider_refuses_is_recorded_and_repeated_without_asking_again(bench: Bench) -> None:
    bench.provider.script = first(Trouble.REFUSE)
    answers = [await bench.execute(ORDER) for _ in range(3)]
    assert len({answered.body for answered in answers}) == 1
    assert (answer_of(answers[0])["status"], answer_of(answers[0])["code"]) == (
        "refused",
        "insufficient_funds",
    )
    assert len(bench.provider.called) == 1


async def test_what_a_gate_refuses_is_recorded_and_repeated_and_never_reaches_the_adapter(
    bench: Bench,
) -> None:
    await bench.store.set_adapter_limits(
        *(TENANT, "scripted", AdapterLimitsChange.to(AdapterLimits(order_notional=Decimal(9)))), actor=ACTOR
    )
    refused = await bench.execute(ORDER)
    assert (answer_of(refused)["status"], answer_of(refused)["gate"]) == ("refused", "notional")
    free = AdapterLimitsChange.to(AdapterLimits())
    await bench.store.set_adapter_limits(TENANT, "scripted", free, actor=ACTOR)
    assert (await bench.execute(ORDER)).body == refused.body
    assert bench.provider.called == []
    assert answer_of(await bench.execute(ORDER, key="another"))["status"] == "confirmed"


async def test_a_pulled_switch_lets_out_only_what_ends_something(bench: Bench) -> None:
    order = answer_of(await bench.execute(ORDER))["resource"]["id"]
    switch = Switch(None, tripped=True, actor=ACTOR, rationale=Digest("0" * 64), time_us=0)
    await bench.store.move_switch(switch)
    assert answer_of(await bench.execute(ORDER, key="k2"))["gate"] == "kill_switch"
    cancel = await bench.execute(ORDER, kind="order.cancel", key=None, payload={"orderId": order})
    assert answer_of(cancel)["status"] == "confirmed"


BAD = {
    "negative quantity": ({"payload": {**ORDER.payload, "quantity": "-1"}}, InvalidCommand),
    "quantity of zero": ({"payload": {**ORDER.payload, "quantity": "0.00"}}, InvalidCommand),
    "float price": ({"payload": {**ORDER.payload, "price": 5.5}}, InvalidCommand),
    "no payload": ({"payload": None}, InvalidCommand),
    "unknown symbol": ({"payload": {**ORDER.payload, "symbol": "NOSUCH"}}, UnknownSymbol),
    "no key": ({"key": None}, IdempotencyKeyRequired),
    "key of 1 MB": ({"key": "k" * 2**20}, InvalidIdentifier),
    "empty key": ({"key": ""}, InvalidIdentifier),
    "key of two lines": ({"key": "a\nb"}, InvalidIdentifier),
    "unknown kind": ({"kind": "order.modify"}, InvalidCommand),
    "no kind at all": ({"kind": "../order"}, InvalidCommand),
    "another mode": ({"mode": "live"}, InvalidCommand),
    "unknown adapter": ({"adapter": "nobody"}, AdapterUnavailable),
    "huge payload": (
        {"kind": "deployment.create", "payload": {**DEPLOYMENT.payload, "parameters": {"x": "y" * 2**21}}},
        PayloadTooLarge,
    ),
    "unknown deployment": (
        {"kind": "deployment.stop", "payload": {"deploymentId": "d-nobodys"}},
        NotFound,
    ),
}


@pytest.mark.parametrize("mistake", list(BAD))
async def test_bad_input_is_refused_under_its_own_code_and_nothing_is_journalled(
    bench: Bench, mistake: str
) -> None:
    change, error = BAD[mistake]
    with pytest.raises(SovrunError) as refused:
        await bench.execute(ORDER, **change)
    assert type(refused.value) is error
    assert bench.provider.called == []
    assert await journalled(bench) == 0


async def test_a_tenant_cannot_act_on_what_another_tenants_commands_made(bench: Bench) -> None:
    deployment = answer_of(await bench.execute(DEPLOYMENT))["resource"]["id"]
    stop = replace(DEPLOYMENT, kind="deployment.stop", key="stop", payload={"deploymentId": deployment})
    with pytest.raises(NotFound):
        await bench.execute(stop, tenant=OTHER)
    assert await journalled(bench, OTHER) == 0
    assert len(bench.provider.called) == 1
    assert answer_of(await bench.execute(stop))["status"] == "confirmed"


# --- under way ----------------------------------------------------------------------------------------------------------


async def test_a_key_in_flight_is_told_with_its_command_and_has_its_answer_later(bench: Bench) -> None:
    bench.provider.script = first(Trouble.HANG)
    for _ in range(2):
        with pytest.raises(IdempotencyKeyInFlight) as in_flight:
            await bench.execute(ORDER, patience_us=0)
    command = await bench.store.command(TENANT, in_flight.value.facts["command"])  # type: ignore[arg-type]
    assert command.state in (CommandState.INTENDED, CommandState.SENT)
    bench.provider.answering.set()
    assert answer_of(await bench.execute(ORDER))["status"] == "confirmed"
    assert len(bench.provider.called) == 1


async def test_a_provider_that_hangs_holds_up_no_other_and_is_asked_so_much_at_a_time() -> None:
    """Were it asked for everything at once, it might answer nothing in time, again and again."""
    bench = Bench()
    bench.provider.script = lambda _client_id, _nth: Trouble.HANG
    other = ScriptedProvider(bench.clock)
    bench.begin(adapters=AdapterSet({"scripted": bench.provider, "other": other}))
    async with bench.running():
        hanging = [await bench.intend(key=f"slow-{number}") for number in range(200)]
        await bench.called(AT_ONCE_MAX)
        quick = await bench.execute(ORDER, key="quick", adapter="other")
        assert answer_of(quick)["status"] == "confirmed"
        states = Counter([(await bench.command(name)).state for name in hanging])
        assert states == {CommandState.SENT: AT_ONCE_MAX, CommandState.INTENDED: 200 - AT_ONCE_MAX}
        bench.provider.answering.set()
        for name in hanging:
            await bench.layer.answer(TENANT, name, patience_us=60_000_000)
    assert set(bench.provider.happened().values()) == {1}


async def test_stopping_lets_what_was_sent_have_its_answer_and_begins_nothing_more() -> None:
    bench = Bench()
    bench.provider.script = first(Trouble.HANG)
    async with bench.running():
        name = await bench.intend()
        await bench.called(1)
        stopping = asyncio.create_task(bench.layer.stop())
        await asyncio.sleep(0)
        late = await bench.intend(key="late")
        bench.provider.answering.set()
        await stopping
    assert (await bench.command(name)).state is CommandState.CONFIRMED
    assert (await bench.command(late)).state is CommandState.INTENDED
    assert len(bench.provider.called) == 1


async def test_an_answer_ready_at_once_while_another_command_is_due_ends_the_layer() -> None:
    """Whoever asks for it leaves at any moment of the other's life, also in that in which the layer hears of its end."""
    bench = Bench()
    async with bench.running():
        known = await bench.execute(ORDER)
    bench.provider.script = first(Trouble.LOST_ANSWER)
    for moment in range(30):
        bench.begin()
        await bench.intend(key=f"due-{moment}")
        await bench.turn()
        bench.clock.advance(LOOK_US)
        async with asyncio.timeout(10), bench.running():
            assert (await bench.execute(ORDER)).body == known.body
            for _ in range(moment):
                await asyncio.sleep(0)


async def test_what_is_recorded_of_a_command_can_be_read_as_it_was_asked(bench: Bench) -> None:
    answered = await bench.execute(ORDER)
    wanted = answered.command.intention
    body = await bench.store.payload(TENANT, wanted.payload)
    assert body is not None
    assert decode(body) == ORDER.payload
    assert (wanted.symbol, wanted.notional, wanted.opens) == ("ACME", "10", True)
