"""The journal of commands: intended once, admitted once, and every later entry in its place."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from sovrun.core.commands.journal import (
    BecameUnknown,
    Command,
    CommandId,
    CommandState,
    Looked,
    Parked,
    ResendWanted,
    Sent,
    UnknownReason,
)
from sovrun.core.errors import CommandMoved, IdempotencyKeyConflict, IllegalTransition, NotFound
from sovrun.core.ids import Digest, Tenant
from sovrun.store.protocol import Store
from support.clock import START_US, SetClock
from support.commands import (
    HANDLER,
    MINUTE_US,
    ORDER,
    admitted,
    confirmed,
    intention,
    noted,
    refused,
    seen,
    unknown,
)
from support.requests import TENANT, payload

INTENDED, SENT, CONFIRMED, REFUSED, UNKNOWN = CommandState
OTHER = Tenant("other")
LOST = BecameUnknown(UnknownReason.TIMEOUT, START_US)


async def told(store: Store, tenant: Tenant = TENANT) -> list[Any]:
    """Return all that a store tells a tenant of commands."""
    commands = list(await store.commands(tenant, limit=1_000))
    histories = [await store.command_history(tenant, command.id) for _, command in commands]
    return [
        commands,
        [list(history) for history in histories],
        list(await store.resources(tenant)),
        list(await store.drifts(tenant, limit=99)),
        list(await store.comparisons(tenant)),
        list(await store.switches(tenant)),
        list(await store.switch_moves(tenant, limit=99)),
        dict(await store.adapter_limits(tenant)),
    ]


# --- intended once ------------------------------------------------------------------------------------------------------


async def test_an_intention_is_journalled_with_its_payload_and_is_due_at_once(store: Store) -> None:
    intent = await store.intend(intention(), payloads=[ORDER])
    assert intent.created
    command = intent.command
    assert (command.intention, command.state, command.revision) == (
        replace(intention(), actor=command.intention.actor),
        INTENDED,
        1,
    )
    assert (command.created_us, command.due_us, command.sends) == (START_US, START_US, 0)
    assert await store.command(TENANT, command.id) == command
    assert await store.payload(TENANT, ORDER.digest) == ORDER.body
    assert list(await store.due_commands(9)) == [command]
    [entry] = await store.command_history(TENANT, command.id)
    assert (entry.sequence, entry.type, entry.time_us) == (1, "command.intended", START_US)


async def test_the_same_again_is_the_same_command_and_writes_nothing(store: Store, clock: SetClock) -> None:
    first = await store.intend(intention(), payloads=[ORDER])
    before = await told(store)
    clock.advance(MINUTE_US)
    again = await store.intend(intention(notional="11", symbol=None), payloads=[payload("other")])
    assert (again.created, again.command) == (False, first.command)
    assert await told(store) == before
    assert await store.payload(TENANT, payload("other").digest) is None


@pytest.mark.parametrize(
    "other", [{"payload": Digest("0" * 64)}, {"adapter": "other"}, {"mode": "live"}, {"version": 2}], ids=str
)
async def test_something_else_under_the_same_key_is_refused_and_keeps_nothing(
    store: Store, other: dict[str, Any]
) -> None:
    known = (await store.intend(intention(), payloads=[ORDER])).command
    before = await told(store)
    with pytest.raises(IdempotencyKeyConflict) as conflict:
        await store.intend(intention(**other), payloads=[payload("other")])
    assert conflict.value.facts["command"] == known.id
    assert await told(store) == before
    assert await store.payload(TENANT, payload("other").digest) is None


@pytest.mark.owner_only("a client speaks for one tenant only")
async def test_one_key_serves_every_kind_and_every_tenant_once(store: Store) -> None:
    wanted = [
        intention(),
        intention(kind="order.cancel"),
        intention(tenant=OTHER),
        intention(kind="deployment.create", tenant=OTHER),
    ]
    made = [await store.intend(each, payloads=[ORDER]) for each in wanted]
    assert all(each.created for each in made)
    assert len({each.command.id for each in made}) == 4
    assert {command.id for _, command in await store.commands(OTHER, limit=9)} == {
        each.command.id for each in made[2:]
    }
    with pytest.raises(NotFound):
        await store.command(OTHER, made[0].command.id)
    with pytest.raises(NotFound):
        await store.command_history(OTHER, made[0].command.id)
    with pytest.raises(NotFound):
        await store.admit(OTHER, made[0].command.id, handler=HANDLER, due_us=START_US)
    with pytest.raises(NotFound):
        await store.note(OTHER, made[0].command.id, 1, LOST, actor=wanted[0].actor)


async def test_of_many_who_ask_at_once_one_makes_it(store: Store) -> None:
    intents = await asyncio.gather(*(store.intend(intention(), payloads=[ORDER]) for _ in range(50)))
    assert sum(intent.created for intent in intents) == 1
    assert len({intent.command.id for intent in intents}) == 1
    assert len(await store.command_history(TENANT, intents[0].command.id)) == 1


# --- admitted once ------------------------------------------------------------------------------------------------------


async def test_what_is_admitted_is_journalled_as_sent_before_anybody_sends_it(store: Store) -> None:
    command = await admitted(store)
    assert (command.state, command.revision, command.sends, command.handler) == (SENT, 2, 1, HANDLER)
    assert (command.sent_us, command.first_sent_us, command.due_us) == (
        START_US,
        START_US,
        START_US + MINUTE_US,
    )
    assert await store.command(TENANT, command.id) == command
    assert list(await store.due_commands(9)) == []


async def test_of_many_who_would_send_at_once_one_may(store: Store) -> None:
    command = (await store.intend(intention(), payloads=[ORDER])).command
    calls = [store.admit(TENANT, command.id, handler=f"h{n}", due_us=START_US + 1) for n in range(50)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    [sent] = [answer for answer in answers if isinstance(answer, Command)]
    assert sum(isinstance(answer, IllegalTransition) for answer in answers) == 49
    assert await store.command(TENANT, command.id) == sent
    assert [entry.type for entry in await store.command_history(TENANT, command.id)] == [
        "command.intended",
        "command.sent",
    ]


@pytest.mark.parametrize("state", [SENT, UNKNOWN, CONFIRMED, REFUSED])
async def test_only_what_is_intended_is_admitted(store: Store, state: CommandState) -> None:
    command = await admitted(store)
    if state is UNKNOWN:
        await noted(store, command, LOST)
    elif state is not SENT:
        event, answer = confirmed(command) if state is CONFIRMED else refused(command)
        await noted(store, command, event, answer)
    before = await told(store)
    with pytest.raises(IllegalTransition):
        await store.admit(TENANT, command.id, handler=HANDLER, due_us=START_US)
    assert await told(store) == before


async def test_what_does_not_exist_is_not_found(store: Store) -> None:
    nothing = CommandId("0" * 32)
    with pytest.raises(NotFound):
        await store.command(TENANT, nothing)
    with pytest.raises(NotFound):
        await store.command_history(TENANT, nothing)
    with pytest.raises(NotFound):
        await store.admit(TENANT, nothing, handler=HANDLER, due_us=START_US)
    with pytest.raises(NotFound):
        await store.note(TENANT, nothing, 1, LOST, actor=intention().actor)
    assert await store.resource(TENANT, "paper", "order", "o-1") is None


# --- entries ------------------------------------------------------------------------------------------------------------


async def test_an_outcome_is_kept_with_its_answer_and_what_was_made(store: Store) -> None:
    sent = await admitted(store)
    event, answer = confirmed(sent)
    command = await noted(store, sent, event, answer, resource=seen(sent))
    assert (command.state, command.response, command.resource) == (CONFIRMED, answer.digest, "o-1")
    assert (command.due_us, command.ended_us) == (None, START_US)
    assert await store.payload(TENANT, answer.digest) == answer.body
    assert await store.resource(TENANT, "paper", "order", "o-1") == replace(seen(sent), seen_us=START_US)
    assert await store.command(TENANT, command.id) == command


async def test_an_entry_for_a_command_that_has_moved_is_refused_and_keeps_nothing(store: Store) -> None:
    sent = await admitted(store)
    await noted(store, sent, LOST)
    before = await told(store)
    event, answer = confirmed(sent)
    with pytest.raises(CommandMoved) as moved:
        await noted(store, sent, event, answer, resource=seen(sent))
    assert moved.value.facts["revision"] == 3
    assert await told(store) == before
    assert await store.payload(TENANT, answer.digest) is None
    assert await store.resource(TENANT, "paper", "order", "o-1") is None


async def test_an_entry_that_the_table_does_not_allow_is_refused_and_keeps_nothing(store: Store) -> None:
    intended = (await store.intend(intention(), payloads=[ORDER])).command
    before = await told(store)
    event, answer = confirmed(intended)
    with pytest.raises(IllegalTransition):
        await noted(store, intended, event, answer, resource=seen(intended))
    with pytest.raises(IllegalTransition):
        await noted(store, intended, LOST)
    assert await told(store) == before
    assert await store.payload(TENANT, answer.digest) is None
    assert await store.resource(TENANT, "paper", "order", "o-1") is None


async def test_of_many_who_would_conclude_it_at_once_one_does(store: Store) -> None:
    sent = await admitted(store)
    ends = [confirmed(sent), refused(sent)] * 10
    answers = await asyncio.gather(
        *(noted(store, sent, event, answer) for event, answer in ends), return_exceptions=True
    )
    [ended] = [answer for answer in answers if isinstance(answer, Command)]
    assert sum(isinstance(answer, CommandMoved) for answer in answers) == 19
    assert await store.command(TENANT, sent.id) == ended
    assert len(await store.command_history(TENANT, sent.id)) == 3


async def test_the_whole_way_of_an_unknown_outcome_is_in_its_history(store: Store, clock: SetClock) -> None:
    command = await admitted(store)
    entries = [
        LOST,
        Looked("absent", START_US + 9),
        Parked("absent", START_US + 99),
        ResendWanted(ORDER.digest),
        Sent("handler-2", START_US + 999),
        BecameUnknown(UnknownReason.NOT_REACHED, START_US + 1_000),
    ]
    for entry in entries:
        clock.advance(1)
        command = await noted(store, command, entry)
    event, answer = confirmed(command)
    command = await noted(store, command, event, answer)
    history = await store.command_history(TENANT, command.id)
    assert [entry.type for entry in history] == [
        "command.intended",
        "command.sent",
        "command.unknown",
        "command.looked",
        "command.parked",
        "command.resend_wanted",
        "command.sent",
        "command.unknown",
        "command.confirmed",
    ]
    assert [entry.sequence for entry in history] == list(range(1, 10))
    assert [entry.time_us - START_US for entry in history] == [0, 0, 1, 2, 3, 4, 5, 6, 6]
    assert (command.sends, command.reached_us, command.handler) == (2, START_US + 1, "handler-2")
    assert await store.command(TENANT, command.id) == command


# --- what is listed -----------------------------------------------------------------------------------------------------


async def test_commands_are_listed_latest_first_page_by_page_by_state(store: Store) -> None:
    made = [(await store.intend(intention(f"k{n}"), payloads=[ORDER])).command for n in range(5)]
    await store.admit(TENANT, made[1].id, handler=HANDLER, due_us=START_US + 1)
    everything = list(await store.commands(TENANT, limit=9))
    assert [command.id for _, command in everything] == [command.id for command in reversed(made)]
    numbers = [number for number, _ in everything]
    assert numbers == sorted(numbers, reverse=True)
    assert list(await store.commands(TENANT, limit=2)) == everything[:2]
    assert list(await store.commands(TENANT, limit=2, before=numbers[1])) == everything[2:4]
    assert [command.id for _, command in await store.commands(TENANT, limit=9, states=[SENT])] == [made[1].id]
    assert len(await store.commands(TENANT, limit=9, states=[INTENDED, SENT])) == 5
    assert list(await store.commands(TENANT, limit=9, states=[])) == []


# --- what is due --------------------------------------------------------------------------------------------------------


async def test_the_longest_due_come_first_and_only_what_is_due(store: Store, clock: SetClock) -> None:
    late, early = [await admitted(store, intention(key)) for key in ("a", "b")]
    await noted(store, late, BecameUnknown(UnknownReason.TIMEOUT, START_US + 2_000))
    await noted(store, early, BecameUnknown(UnknownReason.TIMEOUT, START_US + 1_000))
    fresh = (await store.intend(intention("c"), payloads=[ORDER])).command
    same = (await store.intend(intention("d"), payloads=[ORDER])).command

    async def due(limit: int = 9) -> list[str]:
        return [command.id for command in await store.due_commands(limit)]

    assert await due() == [fresh.id, same.id]
    clock.advance(1_000)
    assert await due() == [fresh.id, same.id, early.id]
    clock.advance(1_000)
    assert await due() == [fresh.id, same.id, early.id, late.id]
    assert await due(2) == [fresh.id, same.id]


@pytest.mark.owner_only("the owner performs commands")
async def test_what_is_open_is_all_that_is_not_concluded_whenever_it_is_due(store: Store) -> None:
    lost = await unknown(store, intention("lost"), due_us=START_US + MINUTE_US)
    sent = await admitted(store, intention("sent"), due_us=START_US + 2 * MINUTE_US)
    fresh = (await store.intend(intention("fresh", tenant=Tenant("other")), payloads=[ORDER])).command
    done = await admitted(store, intention("done"))
    event, answer = confirmed(done)
    await noted(store, done, event, answer)
    assert [command.id for command in await store.open_commands(9)] == [fresh.id, lost.id, sent.id]
    assert list(await store.open_commands(1)) == [fresh]


@pytest.mark.owner_only("the owner performs commands")
async def test_whoever_waits_is_told_of_a_new_command_and_of_a_move(store: Store) -> None:
    waiting = asyncio.ensure_future(store.due_commands(9, patience_us=60 * MINUTE_US))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    command = (await store.intend(intention(), payloads=[ORDER])).command
    assert list(await asyncio.wait_for(waiting, 10)) == [command]
    sent = await store.admit(TENANT, command.id, handler=HANDLER, due_us=START_US + MINUTE_US)
    waiting = asyncio.ensure_future(store.due_commands(9, patience_us=60 * MINUTE_US))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    lost = await noted(store, sent, LOST)
    assert list(await asyncio.wait_for(waiting, 10)) == [lost]


@pytest.mark.owner_only("the owner performs commands")
async def test_whoever_waits_is_told_when_a_command_becomes_due(store: Store, clock: SetClock) -> None:
    lost = await unknown(store, due_us=START_US + 20_000)
    waiting = asyncio.ensure_future(store.due_commands(9, patience_us=60 * MINUTE_US))
    await asyncio.sleep(0.001)
    clock.advance(20_000)
    assert list(await asyncio.wait_for(waiting, 10)) == [lost]


@pytest.mark.owner_only("the owner performs commands")
async def test_waiting_ends_with_patience_and_with_the_store(store: Store) -> None:
    assert list(await store.due_commands(9, patience_us=0)) == []
    waiting = asyncio.ensure_future(store.due_commands(9, patience_us=60 * MINUTE_US))
    await asyncio.sleep(0.01)
    await store.close()
    assert list(await asyncio.wait_for(waiting, 10)) == []


@pytest.mark.owner_only("the owner performs commands")
async def test_what_a_dead_process_had_sent_is_due_at_once(store: Store) -> None:
    sent = await admitted(store)
    lost = await unknown(store, intention("lost"), due_us=START_US + MINUTE_US)
    fresh = (await store.intend(intention("fresh"), payloads=[ORDER])).command
    waiting = asyncio.ensure_future(store.due_commands(9, patience_us=0))
    assert list(await waiting) == [fresh]
    assert await store.disown_commands() == 1
    assert [command.id for command in await store.due_commands(9)] == [sent.id, fresh.id]
    assert (await store.command(TENANT, sent.id)).revision == sent.revision
    assert (await store.command(TENANT, lost.id)).due_us == START_US + MINUTE_US
    assert await store.disown_commands() == 0
