"""Outcomes that nobody knows: found, sent again when it is certain that nothing happened, or shown to a person."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.canonical import decode, sha256_hex
from sovrun.core.commands.journal import (
    Command,
    CommandId,
    CommandState,
    Confirmed,
    Refused,
    ResendWanted,
    answer_document,
)
from sovrun.core.ids import Digest
from sovrun.execution.adapter_set import AdapterSet
from sovrun.execution.port import OrderStatus
from sovrun.store.payload import Payload
from support.layers import DEPLOYMENT, ORDER, Bench, parked
from support.requests import ACTOR, TENANT
from support.scripted_provider import DEADLINE_US, UNSEEN, Trouble, first

CONFIRMED, REFUSED, UNKNOWN = CommandState.CONFIRMED, CommandState.REFUSED, CommandState.UNKNOWN
TROUBLES = sorted(set(Trouble) - {Trouble.REFUSE, Trouble.HANG})
CLOSING = replace(ORDER, kind="account.close", payload={"all": True})


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def at_the_end(bench: Bench, name: CommandId) -> Any:
    """Return the recorded answer of a concluded command."""
    command = await bench.command(name)
    assert command.response is not None
    body = await bench.store.payload(TENANT, command.response)
    assert body is not None
    return decode(body)


# --- every trouble ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deduplicates", [False, True], ids=["acts again", "deduplicates"])
@pytest.mark.parametrize("request_", [ORDER, DEPLOYMENT, CLOSING], ids=lambda request: request.kind)
@pytest.mark.parametrize("trouble", TROUBLES)
async def test_whatever_happens_to_a_call_there_is_one_effect_and_it_is_known(
    bench: Bench, trouble: Trouble, request_: Any, *, deduplicates: bool
) -> None:
    bench.provider.deduplicates = deduplicates
    bench.provider.script = first(trouble)
    name = await bench.intend(request_)
    if trouble is Trouble.BUG:
        with pytest.raises(ZeroDivisionError):
            await bench.turn()
        assert (await bench.command(name)).reason == "bad_answer"
    await bench.settle()
    assert bench.provider.happened() == {name: 1}
    assert (await bench.command(name)).state is CONFIRMED
    assert (await at_the_end(bench, name))["status"] == "confirmed"
    assert bench.provider.sends(name) == (2 if trouble in UNSEEN else 1)


@pytest.mark.parametrize(
    "troubles", [(Trouble.LOST_REQUEST, Trouble.LATE), (Trouble.LATE, Trouble.LOST_REQUEST)]
)
async def test_a_late_effect_is_awaited_and_not_doubled(bench: Bench, troubles: tuple[Trouble, ...]) -> None:
    bench.provider.script = first(*troubles)
    name = await bench.intend()
    await bench.settle()
    assert bench.provider.happened() == {name: 1}
    assert bench.provider.sends(name) == 1 + troubles.index(Trouble.LATE)


async def test_a_time_out_is_unknown_and_then_found_and_adopted(bench: Bench) -> None:
    bench.provider.script = first(Trouble.LOST_ANSWER)
    name = await bench.intend()
    await bench.turn()
    command = await bench.command(name)
    assert (command.state, command.reason, command.sends) == (UNKNOWN, "connection_lost", 1)
    assert await bench.turn() == 0, "it is not looked for before its time"
    await bench.settle()
    assert await bench.types(name) == ["intended", "sent", "unknown", "confirmed"]
    assert (await at_the_end(bench, name))["resource"]["id"] == f"o-{name}"
    found = await bench.store.resource(TENANT, "scripted", "order", f"o-{name}")
    assert found is not None
    assert (found.command, found.status) == (name, "pending")


async def test_what_is_absent_is_sent_again_when_the_deadline_has_passed_and_not_before(bench: Bench) -> None:
    bench.provider.script = first(Trouble.LOST_REQUEST)
    begun_us = bench.clock.now_us()
    name = await bench.intend()
    while bench.provider.sends(name) < 2:
        before_us = bench.clock.now_us()
        if not await bench.turn():
            due_us = (await bench.command(name)).due_us
            assert due_us is not None
            bench.clock.advance(due_us - before_us)
    assert bench.clock.now_us() == begun_us + DEADLINE_US
    assert {call.client_id for _, call, _ in bench.provider.called} == {name}
    assert await bench.types(name) == ["intended", "sent", "unknown", *["looked"] * 4, "sent", "confirmed"]


async def test_a_deadline_is_counted_from_when_the_call_was_given_up(bench: Bench) -> None:
    """It took its time to fail: what it carried may have arrived in its last moment."""
    bench.provider.script = first(Trouble.LATE)

    def slow(_: str) -> None:
        if not bench.provider.called:
            bench.clock.advance(9_000_000)

    bench.provider.point = slow
    name = await bench.intend()
    await bench.settle()
    assert bench.provider.happened() == {name: 1}
    assert bench.provider.sends(name) == 1


async def test_a_refused_connection_proves_that_nothing_happened_and_is_tried_again_soon(
    bench: Bench,
) -> None:
    bench.provider.script = first(Trouble.NOT_REACHED)
    begun_us = bench.clock.now_us()
    name = await bench.intend()
    await bench.settle()
    assert bench.clock.now_us() - begun_us < DEADLINE_US
    assert bench.provider.sends(name) == 2


async def test_a_duplicate_is_what_was_sent_before(bench: Bench) -> None:
    """The looks missed it; the provider did not."""
    bench.provider.deduplicates = bench.provider.blind = True
    bench.provider.script = first(Trouble.LOST_ANSWER)
    name = await bench.intend()
    await bench.settle(lambda command: command.reason == "duplicate")
    assert bench.provider.sends(name) == 2
    bench.provider.blind = False
    await bench.settle()
    assert bench.provider.happened() == {name: 1}
    assert (await bench.command(name)).state is CONFIRMED


# --- a person is asked --------------------------------------------------------------------------------------------------


async def forgotten(bench: Bench, trouble: Trouble) -> CommandId:
    """Send to a provider that finds nothing; return the command once a person is asked."""
    bench.provider.forgets = True
    bench.provider.script = first(trouble)
    name = await bench.intend()
    await bench.settle(parked)
    assert (await bench.command(name)).reason == "absent"
    return name


async def verdict(bench: Bench, name: CommandId, event: Any, *payloads: Payload) -> Command:
    command = await bench.command(name)
    return await bench.store.note(TENANT, name, command.revision, event, actor=ACTOR, payloads=payloads)


@pytest.mark.parametrize("trouble", [Trouble.LOST_REQUEST, Trouble.LOST_ANSWER])
async def test_where_absence_proves_nothing_it_is_never_sent_again_by_itself(
    bench: Bench, trouble: Trouble
) -> None:
    name = await forgotten(bench, trouble)
    for _ in range(100):
        bench.clock.advance(3_600 * 1_000_000)
        await bench.turn()
    command = await bench.command(name)
    assert (command.state, command.parked, command.sends) == (UNKNOWN, True, 1)
    assert bench.provider.sends(name) == 1


async def test_a_person_has_it_sent_again_under_the_same_id(bench: Bench) -> None:
    name = await forgotten(bench, Trouble.LOST_REQUEST)
    why = Payload(sha256_hex(b"why"), b"why")
    await verdict(bench, name, ResendWanted(why.digest), why)
    await bench.settle()
    assert bench.provider.happened() == {name: 1}
    assert (await bench.types(name))[-3:] == ["resend_wanted", "sent", "confirmed"]


async def test_a_persons_word_is_recorded_as_hers(bench: Bench) -> None:
    for key, event, state in (("yes", Confirmed, CONFIRMED), ("no", Refused, REFUSED)):
        bench.provider.script = lambda _client_id, _nth: Trouble.LOST_ANSWER
        bench.provider.forgets = True
        name = await bench.intend(key=key)
        await bench.settle(parked)
        command = await bench.command(name)
        body = answer_document(command.intention, state, message="I have seen it there")
        answer = Payload(sha256_hex(body), body)
        said = (
            Confirmed("person", answer.digest, "o-9")
            if event is Confirmed
            else Refused("person", "told_by_person", answer.digest)
        )
        await verdict(bench, name, said, answer)
        assert (await bench.command(name)).state is state
        assert (await at_the_end(bench, name))["message"] == "I have seen it there"
        last = (await bench.store.command_history(TENANT, name))[-1]
        assert (last.actor, '"how":"person"' in last.data) == (ACTOR, True)
        assert (await bench.layer.answer(TENANT, name, patience_us=0)).body == body
    assert {name: bench.provider.sends(name) for name in bench.provider.happened()} == dict(
        bench.provider.happened()
    )


async def test_what_turns_up_while_a_person_is_asked_is_adopted(bench: Bench) -> None:
    name = await forgotten(bench, Trouble.LOST_ANSWER)
    bench.provider.forgets = False
    await bench.settle()
    assert (await bench.command(name)).state is CONFIRMED
    assert bench.provider.sends(name) == 1


async def test_a_provider_that_is_away_is_waited_for_and_shown_after_a_while(bench: Bench) -> None:
    bench.provider.script = first(Trouble.LOST_ANSWER)
    name = await bench.intend()
    await bench.turn()
    bench.provider.down = True
    begun_us = bench.clock.now_us()
    await bench.settle(parked)
    assert (await bench.command(name)).reason == "unreachable"
    assert bench.clock.now_us() - begun_us >= 900_000_000
    bench.provider.down = False
    await bench.settle()
    assert (await bench.command(name)).state is CONFIRMED
    assert bench.provider.happened() == {name: 1}


async def test_what_never_gets_through_is_shown_after_so_many_sends(bench: Bench) -> None:
    bench.provider.script = lambda _client_id, _nth: Trouble.NOT_REACHED
    name = await bench.intend()
    await bench.settle(parked)
    assert (await bench.command(name)).reason == "sends_exhausted"
    assert bench.provider.sends(name) == 5


# --- what ends something ------------------------------------------------------------------------------------------------


async def ordered(bench: Bench) -> str:
    name = await bench.intend(key="the order")
    await bench.settle()
    return f"o-{name}"


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_cancellation_whose_outcome_is_lost_is_known_by_the_order(
    bench: Bench, trouble: Trouble
) -> None:
    order = await ordered(bench)
    bench.provider.script = first(trouble)
    name = await bench.intend(kind="order.cancel", payload={"orderId": order})
    if trouble is Trouble.BUG:
        with pytest.raises(ZeroDivisionError):
            await bench.turn()
    await bench.settle()
    assert (await bench.command(name)).state is CONFIRMED
    assert bench.provider.happened()[name] == 1
    found = await bench.store.resource(TENANT, "scripted", "order", order)
    assert found is not None
    assert found.status == "cancelled"


async def test_a_cancellation_that_came_too_late_is_refused(bench: Bench) -> None:
    order = await ordered(bench)
    bench.provider.script = first(Trouble.LOST_REQUEST)
    name = await bench.intend(kind="order.cancel", payload={"orderId": order})
    await bench.turn()
    key = order.removeprefix("o-")
    bench.provider.orders[key] = replace(bench.provider.orders[key], status=OrderStatus.FILLED)
    await bench.settle()
    assert (await bench.command(name)).state is REFUSED
    assert (await at_the_end(bench, name))["code"] == "target_is_over"


@pytest.mark.parametrize("trouble", [Trouble.LOST_ANSWER, Trouble.LOST_REQUEST])
async def test_a_stop_whose_outcome_is_lost_is_known_by_the_deployment(
    bench: Bench, trouble: Trouble
) -> None:
    made = await bench.intend(DEPLOYMENT)
    await bench.settle()
    bench.provider.script = first(trouble)
    name = await bench.intend(DEPLOYMENT, kind="deployment.stop", payload={"deploymentId": f"d-{made}"})
    await bench.settle()
    assert (await bench.command(name)).state is CONFIRMED
    assert bench.provider.happened()[name] == 1


# --- adapters that go and fail ------------------------------------------------------------------------------------------


async def test_a_command_of_an_adapter_that_is_gone_is_shown_and_a_person_has_it_sent_when_it_is_back(
    bench: Bench,
) -> None:
    """By itself an order is not sent a quarter of an hour late."""
    name = await bench.intend()
    bench.begin(adapters=AdapterSet({}))
    await bench.settle(parked)
    assert (await bench.command(name)).reason == "unreachable"
    bench.begin()
    await bench.settle(parked)
    assert bench.provider.called == []
    await verdict(bench, name, ResendWanted(Digest("0" * 64)))
    await bench.settle()
    assert bench.provider.happened() == {name: 1}
    assert (await bench.command(name)).state is CONFIRMED


async def test_an_unknown_outcome_of_an_adapter_that_is_gone_stays_unknown_until_it_is_back(
    bench: Bench,
) -> None:
    bench.provider.script = first(Trouble.LOST_ANSWER)
    name = await bench.intend()
    await bench.turn()
    bench.begin(adapters=AdapterSet({}))
    await bench.settle(parked)
    assert (await bench.command(name)).state is UNKNOWN
    bench.begin()
    await bench.settle()
    assert await bench.types(name)
    assert (bench.provider.sends(name), (await bench.command(name)).state) == (1, CONFIRMED)


async def test_a_look_that_fails_by_a_fault_is_told_and_made_again_later(bench: Bench) -> None:
    bench.provider.script = first(Trouble.LOST_ANSWER)
    bench.provider.find_is_broken = True
    name = await bench.intend()
    await bench.turn()
    for _ in range(3):
        due_us = (await bench.command(name)).due_us
        assert due_us is not None
        assert due_us > bench.clock.now_us(), "it would be looked for again and again"
        bench.clock.advance(due_us - bench.clock.now_us())
        with pytest.raises(ZeroDivisionError):
            await bench.turn()
    bench.provider.find_is_broken = False
    await bench.settle()
    assert (bench.provider.happened(), bench.provider.sends(name)) == ({name: 1}, 1)


# --- any mixture --------------------------------------------------------------------------------------------------------


async def played(seed: int, *, forgets: bool, deduplicates: bool) -> Bench:
    """Have commands of all kinds meet troubles drawn from a seed, with processes that die in between; settle all."""
    chance = Random(seed)
    bench = Bench()
    bench.provider.forgets, bench.provider.deduplicates = forgets, deduplicates
    usual = [Trouble.NONE] * 4
    troubles = [trouble for trouble in TROUBLES if trouble is not Trouble.BUG] + usual
    drawn: dict[tuple[str, int], Trouble] = {}
    bench.provider.script = lambda name, nth: drawn.setdefault((name, nth), chance.choice(troubles))
    for number in range(6):
        await bench.intend(chance.choice([ORDER, DEPLOYMENT, CLOSING]), key=f"k{number}")
        if chance.random() < 0.5:
            await bench.turn()
        if chance.random() < 0.3:
            await bench.died()
        bench.clock.advance(chance.choice([0, 1_000_000, DEADLINE_US]))
        bench.provider.down = chance.random() < 0.2
    bench.provider.down = False
    await bench.settle(parked)
    return bench


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), forgets=st.booleans(), deduplicates=st.booleans())
def test_whatever_mixture_comes_nothing_happens_twice_and_nothing_that_happened_is_called_refused(
    seed: int, *, forgets: bool, deduplicates: bool
) -> None:
    async def play() -> None:
        bench = await played(seed, forgets=forgets, deduplicates=deduplicates)
        happened = bench.provider.happened()
        commands = [command for _, command in await bench.store.commands(TENANT, limit=99)]
        assert len(commands) == 6
        assert set(happened.values()) <= {1}
        for command in commands:
            if command.state is CONFIRMED:
                assert happened[command.id] == 1
            else:
                assert (command.state, command.parked) == (UNKNOWN, True)
        if not forgets:
            confirmed = [command.id for command in commands if command.state is CONFIRMED]
            stuck = [command for command in commands if command.parked]
            assert {command.reason for command in stuck} <= {"sends_exhausted"}
            assert len(confirmed) + len(stuck) == 6

    asyncio.run(play())


def test_the_mixtures_are_no_empty_show() -> None:
    seen = set()
    for seed in range(20):
        bench = asyncio.run(played(seed, forgets=bool(seed % 2), deduplicates=False))
        commands = asyncio.run(_states(bench))
        seen |= commands
        assert bench.provider.happened()
    assert ("confirmed", False, 2) in seen, "something was sent again"
    assert ("unknown", True, 1) in seen, "something was parked"


async def _states(bench: Bench) -> set[tuple[str, bool, int]]:
    commands = await bench.store.commands(TENANT, limit=99)
    return {(str(command.state), command.parked, command.sends) for _, command in commands}
