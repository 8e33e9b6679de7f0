"""What an operator says about commands, what they made, and what differs at the provider."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from sovrun.core.commands.gates import DAY_US, AdapterLimits, AdapterLimitsChange, Switch
from sovrun.core.commands.journal import Command, CommandState, Sent
from sovrun.core.ids import Tenant
from sovrun.store.journal import Compared, Drift
from sovrun.store.protocol import Store
from support.clock import START_US, SetClock
from support.commands import admitted, confirmed, intention, noted, refused, seen, unknown
from support.requests import ACTOR, TENANT, payload

OTHER = Tenant("other")
WHY = payload("why")
SECOND_US = 1_000_000
FILLED = '{"filled":{"provider":"2","recorded":"0"}}'
PULLED = Switch(TENANT, tripped=True, actor=ACTOR, rationale=WHY.digest, time_us=0)
LET_GO = replace(PULLED, tripped=False)


async def limit(store: Store, adapter: str = "paper", tenant: Tenant = TENANT, **limits: Any) -> None:
    change = AdapterLimitsChange.to(AdapterLimits(**limits))
    await store.set_adapter_limits(tenant, adapter, change, actor=ACTOR)


async def gate_of(store: Store, key: str, **more: Any) -> str | None:
    """Send a command up to the gates; return the one that stayed shut."""
    return (await admitted(store, intention(key, **more))).gate


# --- gates --------------------------------------------------------------------------------------------------------------


async def test_a_refusal_is_journalled_with_its_gate_and_answer_and_nothing_is_sent(store: Store) -> None:
    await limit(store, symbols=frozenset({"OTHER"}))
    command = await admitted(store)
    assert (command.state, command.gate, command.reason) == (CommandState.REFUSED, "symbol", "symbol")
    assert (command.sends, command.sent_us, command.due_us) == (0, None, None)
    assert command.response is not None
    body = await store.payload(TENANT, command.response)
    assert body is not None
    assert json.loads(body) == {
        "adapter": "paper",
        "code": "symbol",
        "commandId": command.id,
        "gate": "symbol",
        "kind": "order.place",
        "message": "symbol ACME is not among those allowed",
        "mode": "paper",
        "resource": None,
        "status": "refused",
    }
    [_, entry] = await store.command_history(TENANT, command.id)
    assert entry.type == "command.refused"
    assert json.loads(entry.data)["gate"] == "symbol"


async def test_a_refusal_is_the_answer_for_ever_even_when_the_gate_is_opened(store: Store) -> None:
    await limit(store, per_day=0)
    command = await admitted(store)
    await limit(store)
    again = await store.intend(intention())
    assert (again.created, again.command) == (False, command)


async def test_the_switch_of_a_tenant_and_that_of_everybody_stop_what_opens_and_nothing_else(
    store: Store,
) -> None:
    for tenant in (TENANT, None):
        name = str(tenant)
        await store.move_switch(replace(PULLED, tenant=tenant), payloads=[WHY])
        assert await gate_of(store, f"pulled {name}") == "kill_switch"
        assert await gate_of(store, f"ending {name}", opens=False) is None
        await store.move_switch(replace(LET_GO, tenant=tenant), payloads=[WHY])
        assert await gate_of(store, f"let go {name}") is None
    told = await store.switches(TENANT)
    assert [(switch.tenant, switch.tripped, switch.rationale) for switch in told] == [
        (None, False, WHY.digest),
        (TENANT, False, WHY.digest),
    ]
    assert {switch.time_us for switch in told} == {START_US}
    assert await store.payload(TENANT, WHY.digest) == WHY.body


@pytest.mark.owner_only("a client speaks for one tenant only")
async def test_a_tenants_switch_and_limits_are_no_other_tenants(store: Store) -> None:
    await store.move_switch(PULLED, payloads=[WHY])
    await limit(store, per_day=0)
    assert await gate_of(store, "theirs", tenant=OTHER) is None
    assert list(await store.switches(OTHER)) == []
    assert await store.adapter_limits(OTHER) == {}
    await store.move_switch(replace(PULLED, tenant=None), payloads=[WHY])
    assert await gate_of(store, "theirs too", tenant=OTHER) == "kill_switch"


async def test_how_a_switch_was_moved_is_kept_latest_first(store: Store, clock: SetClock) -> None:
    moves = []
    for switch in (PULLED, LET_GO, replace(PULLED, tenant=None), PULLED):
        clock.advance(1)
        await store.move_switch(switch, payloads=[WHY])
        moves.append(replace(switch, time_us=clock.now_us()))
    told = [replace(move, actor=ACTOR) for move in await store.switch_moves(TENANT, limit=9)]
    assert told == moves[::-1], "by whom is the caller's own name"
    assert len(await store.switch_moves(TENANT, limit=2)) == 2


@pytest.mark.owner_only("a client speaks for one tenant only")
async def test_how_a_switch_was_moved_is_shown_to_those_whom_it_concerns(store: Store) -> None:
    everybodys = replace(PULLED, tenant=None)
    for switch in (PULLED, everybodys):
        await store.move_switch(switch, payloads=[WHY])
    assert [move.tenant for move in await store.switch_moves(OTHER, limit=9)] == [None]


async def test_a_refusal_by_the_switch_tells_why_it_was_tripped(store: Store) -> None:
    for number, tenant in enumerate((TENANT, None)):
        await store.move_switch(replace(PULLED, tenant=tenant), payloads=[WHY])
        command = await admitted(store, intention(f"k{number}"))
        assert command.response is not None
        body = await store.payload(TENANT, command.response)
        assert body is not None
        assert WHY.body is not None
        assert json.loads(body)["message"].endswith(f": {WHY.body.decode()}")


async def test_two_who_limit_different_things_at_once_undo_nothing(store: Store) -> None:
    changes = [
        AdapterLimitsChange.of({"perDay": 5}),
        AdapterLimitsChange.of({"symbols": ["ACME"]}),
        AdapterLimitsChange.of({"orderNotional": "7"}),
    ]
    told = await asyncio.gather(
        *(store.set_adapter_limits(TENANT, "paper", change, actor=ACTOR) for change in changes)
    )
    after = AdapterLimits(per_day=5, symbols=frozenset({"ACME"}), order_notional=Decimal(7))
    assert (await store.adapter_limits(TENANT))["paper"] == after
    assert after in told, "each is told what holds after it"


async def test_limits_are_kept_by_adapter_and_replaced_as_a_whole(store: Store) -> None:
    full = {
        "modes": frozenset({"paper"}),
        "symbols": frozenset({"ACME", "B.C"}),
        "rate": (3, 60 * SECOND_US),
        "per_day": 5,
        "order_notional": Decimal("0.5"),
        "day_notional": Decimal(1000000000000000000),
    }
    await limit(store, "b", **full)
    await limit(store, "a", per_day=1)
    told = await store.adapter_limits(TENANT)
    assert list(told.items()) == [("a", AdapterLimits(per_day=1)), ("b", AdapterLimits(**full))]  # type: ignore[arg-type]
    await limit(store, "b", modes=frozenset())
    assert (await store.adapter_limits(TENANT))["b"] == AdapterLimits(modes=frozenset())


async def test_a_rate_counts_what_was_sent_within_a_window_that_slides(store: Store, clock: SetClock) -> None:
    await limit(store, rate=(2, 10 * SECOND_US))
    assert await gate_of(store, "first") is None
    clock.advance(4 * SECOND_US)
    assert await gate_of(store, "second") is None
    assert await gate_of(store, "third") == "rate"
    clock.advance(6 * SECOND_US - 1)
    assert await gate_of(store, "just within") == "rate"
    clock.advance(1)
    assert await gate_of(store, "the first has left") is None
    assert await gate_of(store, "the second has not") == "rate"


async def test_a_day_counts_what_was_sent_within_24_hours(store: Store, clock: SetClock) -> None:
    await limit(store, per_day=1)
    assert await gate_of(store, "first") is None
    clock.advance(DAY_US - 1)
    assert await gate_of(store, "second") == "count"
    clock.advance(1)
    assert await gate_of(store, "third") is None


async def test_the_value_of_a_day_is_what_was_sent_whatever_came_of_it(store: Store, clock: SetClock) -> None:
    await limit(store, day_notional=Decimal(30))
    first = await admitted(store, intention("refused there"))
    event, answer = refused(first)
    await noted(store, first, event, answer)
    await unknown(store, intention("unknown"))
    assert await gate_of(store, "too much", notional="10.000000000000000001") == "notional"
    assert await gate_of(store, "the rest") is None
    assert await gate_of(store, "nothing left", notional="0.000000000000000001") == "notional"
    clock.advance(DAY_US)
    assert await gate_of(store, "a new day", notional="30") is None


async def test_values_are_added_to_the_last_digit(store: Store) -> None:
    large, small = "999999999999999999.5", f"0.{'0' * 35}1"
    await limit(store, day_notional=Decimal(large))
    assert await gate_of(store, "small", notional=small) is None
    assert await gate_of(store, "large", notional=large) == "notional"


async def test_only_what_opens_and_was_sent_through_the_same_adapter_counts(store: Store) -> None:
    await limit(store, per_day=1, rate=(1, SECOND_US), day_notional=Decimal(10))
    assert await gate_of(store, "elsewhere", adapter="other") is None
    assert await gate_of(store, "ending", opens=False) is None
    assert await gate_of(store, "refused by a gate", notional="11") == "notional"
    await store.intend(intention("only intended"))
    assert await gate_of(store, "first") is None
    assert await gate_of(store, "second") == "rate"


async def test_what_is_sent_again_is_counted_once(store: Store, clock: SetClock) -> None:
    await limit(store, per_day=2)
    lost = await unknown(store, intention("first"))
    clock.advance(1)
    await noted(store, lost, Sent("h", START_US + 9))
    assert await gate_of(store, "second") is None
    assert await gate_of(store, "third") == "count"


@pytest.mark.owner_only("a client speaks for one tenant only")
async def test_one_tenants_commands_count_for_nobody_else(store: Store) -> None:
    await limit(store, per_day=1)
    assert await gate_of(store, "theirs", tenant=OTHER) is None
    assert await gate_of(store, "ours") is None


# --- resources ----------------------------------------------------------------------------------------------------------


async def made(store: Store, name: str, **more: Any) -> Command:
    sent = await admitted(store, intention(name))
    event, answer = confirmed(sent)
    return await noted(store, sent, event, answer, resource=seen(sent, name, **more))


async def test_what_commands_made_is_listed_by_adapter_kind_and_id(store: Store) -> None:
    for name, more in (
        ("o-2", {}),
        ("o-1", {"live": False}),
        ("o-3", {"adapter": "a"}),
        ("d", {"kind": "deployment"}),
    ):
        await made(store, name, **more)

    async def names(**more: Any) -> list[str]:
        return [resource.id for resource in await store.resources(TENANT, **more)]

    assert await names() == ["o-3", "d", "o-1", "o-2"]
    assert await names(live=True) == ["o-3", "d", "o-2"]
    assert await names(adapter="paper") == ["d", "o-1", "o-2"]
    assert await names(adapter="nobody's") == []


async def test_what_is_seen_again_is_brought_up_to_date_and_keeps_who_made_it(
    store: Store, clock: SetClock
) -> None:
    command = await made(store, "o-1")
    other = await admitted(store, intention("cancel it", kind="order.cancel", opens=False, target="o-1"))
    clock.advance(5)
    event, answer = confirmed(other)
    now = seen(other, "o-1", status="cancelled", raw="CANCEL", body=b'{"now":1}', live=False)
    await noted(store, other, event, answer, resource=now)
    expected = replace(now, command=command.id, seen_us=START_US + 5)
    assert await store.resource(TENANT, "paper", "order", "o-1") == expected
    assert list(await store.resources(TENANT)) == [expected]


@pytest.mark.owner_only("a client speaks for one tenant only")
async def test_one_provider_id_may_be_of_two_tenants_and_two_kinds(store: Store) -> None:
    for tenant in (TENANT, OTHER):
        sent = await admitted(store, intention(tenant=tenant))
        event, answer = confirmed(sent)
        await noted(store, sent, event, answer, resource=seen(sent, raw=f"of {tenant}"))
    for tenant in (TENANT, OTHER):
        found = await store.resource(tenant, "paper", "order", "o-1")
        assert found is not None
        assert (found.tenant, found.raw) == (tenant, f"of {tenant}")
        assert len(await store.resources(tenant)) == 1
    assert await store.resource(TENANT, "paper", "deployment", "o-1") is None
    assert await store.resource(Tenant("third"), "paper", "order", "o-1") is None


# --- differences --------------------------------------------------------------------------------------------------------


async def test_differences_are_kept_latest_first_with_what_was_seen(store: Store, clock: SetClock) -> None:
    command = await made(store, "o-1")
    drifts = [
        Drift(TENANT, "paper", "order", "o-1", "pending", "filled", "progressed", changes=FILLED),
        Drift(TENANT, "paper", "order", "o-9", None, "pending", "unrecorded"),
        Drift(TENANT, "paper", "order", "o-2", "pending", None, "missing"),
    ]
    clock.advance(7)
    await store.note_drifts(drifts[:2], seen=[seen(command, "o-1", status="filled", live=False)])
    clock.advance(1)
    await store.note_drifts(drifts[2:])
    told = [replace(drift, time_us=START_US + when) for drift, when in zip(drifts, (7, 7, 8), strict=True)]
    assert list(await store.drifts(TENANT, limit=9)) == told[::-1]
    assert list(await store.drifts(TENANT, limit=1)) == told[2:]
    found = await store.resource(TENANT, "paper", "order", "o-1")
    assert found is not None
    assert (found.status, found.live, found.seen_us) == ("filled", False, START_US + 7)


@pytest.mark.owner_only("a client speaks for one tenant only")
async def test_differences_are_shown_to_their_tenant_only(store: Store) -> None:
    await store.note_drifts([Drift(TENANT, "paper", "order", "o-1", "pending", None, "missing")])
    assert len(await store.drifts(TENANT, limit=9)) == 1
    assert list(await store.drifts(OTHER, limit=9)) == []


async def test_when_a_provider_was_last_compared_outlives_what_stands_in_the_way(
    store: Store, clock: SetClock
) -> None:
    assert list(await store.comparisons(TENANT)) == []
    away = Compared(TENANT, "b", "gone")
    await store.note_drifts([], compared=away)
    assert list(await store.comparisons(TENANT)) == [replace(away, tried_us=START_US)], "never compared"
    for compared in (Compared(TENANT, "b"), Compared(TENANT, "a")):
        clock.advance(1)
        await store.note_drifts([], compared=compared)
    clock.advance(1)
    await store.note_drifts([], compared=away)
    assert list(await store.comparisons(TENANT)) == [
        Compared(TENANT, "a", None, START_US + 2, START_US + 2),
        Compared(TENANT, "b", "gone", START_US + 1, START_US + 3),
    ]


# --- ledgers ------------------------------------------------------------------------------------------------------------


@pytest.mark.owner_only("effects are the owner's")
async def test_a_ledger_grows_at_its_end_only(store: Store) -> None:
    assert await store.append(TENANT, "paper", 0, b"first")
    assert not await store.append(TENANT, "paper", 0, b"other")
    assert not await store.append(TENANT, "paper", 2, b"gap")
    assert await store.append(TENANT, "paper", 1, b"\x00\xff")
    assert list(await store.entries(TENANT, "paper", 0)) == [b"first", b"\x00\xff"]
    assert list(await store.entries(TENANT, "paper", 1)) == [b"\x00\xff"]
    assert list(await store.entries(TENANT, "paper", 2)) == []


@pytest.mark.owner_only("effects are the owner's")
async def test_ledgers_are_apart_by_tenant_and_name(store: Store) -> None:
    places = [(TENANT, "a"), (TENANT, "b"), (OTHER, "a")]
    for tenant, name in places:
        assert await store.append(tenant, name, 0, f"{tenant}/{name}".encode())
    for tenant, name in places:
        assert list(await store.entries(tenant, name, 0)) == [f"{tenant}/{name}".encode()]


@pytest.mark.owner_only("effects are the owner's")
async def test_of_many_who_would_take_a_place_one_does(store: Store) -> None:
    taken = await asyncio.gather(*(store.append(TENANT, "paper", 0, f"{n}".encode()) for n in range(30)))
    assert sum(taken) == 1
    assert list(await store.entries(TENANT, "paper", 0)) == [f"{taken.index(True)}".encode()]
