"""The journal's table of moves, and that it holds in whatever order entries come."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.canonical import canonical
from sovrun.core.commands import journal
from sovrun.core.commands.journal import (
    CONCLUDED,
    OPEN,
    UNRESOLVED,
    BecameUnknown,
    Command,
    CommandEvent,
    CommandState,
    Confirmed,
    Intended,
    Looked,
    Parked,
    Refused,
    ResendWanted,
    Sent,
    UnknownReason,
    answer_document,
    evolve_command,
    record_of,
    step_key,
)
from sovrun.core.errors import CorruptHistory, IllegalTransition
from sovrun.core.ids import Digest, StepId, Tenant
from support.clock import START_US
from support.commands import ANSWER, in_state, intention
from support.requests import ACTOR

INTENDED, SENT, CONFIRMED, REFUSED, UNKNOWN = CommandState
TABLE = {
    #            intended sent   confirmed refused unknown
    INTENDED:   (False,   True,  False,    True,   False),
    SENT:       (False,   False, True,     True,   True),
    CONFIRMED:  (False,   False, False,    False,  False),
    REFUSED:    (False,   False, False,    False,  False),
    UNKNOWN:    (False,   True,  True,     True,   False),
}  # fmt: skip
"""The moves of the design, written down a second time."""
EVENTS: dict[CommandState, CommandEvent] = {
    INTENDED: Intended(intention()),
    SENT: Sent("handler-2", START_US + 9),
    CONFIRMED: Confirmed("found", ANSWER.digest, "o-1"),
    REFUSED: Refused("answered", "no", ANSWER.digest),
    UNKNOWN: BecameUnknown(UnknownReason.TIMEOUT, START_US + 9),
}
WITHIN_UNKNOWN = (Looked("absent", START_US + 9), Parked("absent", START_US + 9), ResendWanted(ANSWER.digest))


@pytest.mark.parametrize(("before", "after"), [*product(CommandState, CommandState)])
def test_every_pair_of_states_is_judged_as_the_design_says(before: CommandState, after: CommandState) -> None:
    command = in_state(before)
    if TABLE[before][list(CommandState).index(after)]:
        assert evolve_command(command, EVENTS[after], START_US).state is after
    else:
        with pytest.raises((IllegalTransition, CorruptHistory)):
            evolve_command(command, EVENTS[after], START_US)


def test_the_tables_sets_of_states_are_those_of_the_design() -> None:
    assert set(CONCLUDED) == {CONFIRMED, REFUSED}
    assert set(OPEN) == {INTENDED, SENT, UNKNOWN}
    assert set(UNRESOLVED) == {SENT, UNKNOWN}


@pytest.mark.parametrize("event", WITHIN_UNKNOWN, ids=lambda event: event.type)
@pytest.mark.parametrize("state", CommandState)
def test_looking_parking_and_sending_again_have_a_meaning_only_for_what_is_unknown(
    state: CommandState, event: CommandEvent
) -> None:
    if state is UNKNOWN:
        assert evolve_command(in_state(state), event, START_US).state is UNKNOWN
    else:
        with pytest.raises(IllegalTransition):
            evolve_command(in_state(state), event, START_US)


def test_what_is_sent_again_is_counted_and_keeps_its_name_and_first_time() -> None:
    unknown = in_state(UNKNOWN)
    again = evolve_command(unknown, Sent("handler-2", START_US + 99), START_US + 50)
    assert (again.id, again.sends, again.handler) == (unknown.id, 2, "handler-2")
    assert (again.first_sent_us, again.sent_us, again.due_us) == (START_US, START_US + 50, START_US + 99)


def test_a_send_may_have_had_its_effect_until_the_moment_in_which_its_outcome_was_given_up() -> None:
    """Between the entry and the last byte lies the time of the call: the provider's deadline begins after it."""
    unknown = evolve_command(
        in_state(SENT), BecameUnknown(UnknownReason.TIMEOUT, START_US + 30), START_US + 20
    )
    assert unknown.reached_us == START_US + 20


def test_a_send_that_reached_nobody_proves_nothing_about_the_sends_before_it() -> None:
    lost = BecameUnknown(UnknownReason.NOT_REACHED, START_US + 9)
    assert evolve_command(in_state(SENT), lost, START_US).reached_us is None
    again = evolve_command(in_state(UNKNOWN), Sent("h", START_US + 99), START_US + 50)
    assert evolve_command(again, lost, START_US + 60).reached_us == START_US


def test_a_command_has_one_name_for_its_tenant_kind_and_key_and_nothing_else() -> None:
    one = intention()
    for same in (
        intention(adapter="other"),
        intention(mode="live"),
        intention(payload=Digest("0" * 64)),
        intention(notional="1"),
    ):
        assert same.id == one.id
    names = {one.id, intention("k2").id, intention(tenant=Tenant("u")).id, intention(kind="order.cancel").id}
    assert len(names) == 4
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in names)


def test_a_repeat_is_told_by_payload_adapter_mode_and_version() -> None:
    one = intention()
    assert intention(notional="11", symbol=None, actor=ACTOR, opens=False).fingerprint == one.fingerprint
    others = [
        intention(adapter="other"),
        intention(mode="live"),
        intention(payload=Digest("0" * 64)),
        intention(version=2),
    ]
    assert len({each.fingerprint for each in [one, *others]}) == 5


def test_the_key_of_a_step_differs_by_run_and_step() -> None:
    runs, steps = [Digest(digit * 64) for digit in "ab"], [StepId("a"), StepId("b")]
    assert len({step_key(run, step) for run in runs for step in steps}) == 4


def test_the_names_of_commands_and_the_bytes_of_answers_are_those_of_the_first_release() -> None:
    """Commands never expire: what names and answers them may not change with a release."""
    wanted = intention()
    assert wanted.id == "3d8a2e3509cf7b924ea785fe19d46e73"
    assert wanted.fingerprint == "e8fe07117d6c9e0486f2428b88b32480678f7f02fb15bd9ea0b154c811e96a27"
    assert (
        step_key(Digest("a" * 64), StepId("buy"))
        == "7c6047a427b4e22880ccfae3675a9ddb60822c02fc0020c0ac5f7ab0a001caba"
    )
    assert answer_document(wanted, CONFIRMED, resource={"z": 1, "id": "o-1"}) == (
        b'{"adapter":"paper","code":null,"commandId":"%s","gate":null,"kind":"order.place","message":null,'
        b'"mode":"paper","resource":{"id":"o-1","z":1},"status":"confirmed"}' % wanted.id.encode()
    )
    assert answer_document(wanted, REFUSED, code="rate", message="é", gate="rate") == (
        b'{"adapter":"paper","code":"rate","commandId":"%s","gate":"rate","kind":"order.place","message":"\xc3\xa9",'
        b'"mode":"paper","resource":null,"status":"refused"}' % wanted.id.encode()
    )


# --- any order of entries -----------------------------------------------------------------------------------------------

soon = st.integers(START_US, START_US + 1_000)
digests = st.sampled_from([ANSWER.digest, Digest("0" * 64)])
events: st.SearchStrategy[CommandEvent] = st.one_of(
    st.builds(Sent, st.sampled_from(["h1", "h2"]), soon),
    st.builds(
        Confirmed, st.sampled_from(["answered", "found", "person"]), digests, st.none() | st.just("o-1")
    ),
    st.builds(
        Refused,
        st.sampled_from(["gate", "answered", "person"]),
        st.just("no"),
        digests,
        st.none() | st.just("rate"),
    ),
    st.builds(BecameUnknown, st.sampled_from(UnknownReason), soon),
    st.builds(Looked, st.sampled_from(["absent", "unreachable"]), soon),
    st.builds(Parked, st.just("absent"), soon),
    st.builds(ResendWanted, digests),
    st.just(Intended(intention())),
)


def may(command: Command, event: CommandEvent) -> bool:
    """Say from the table above whether an entry may follow."""
    by_a_person = getattr(event, "how", None) == "person"
    if by_a_person or type(event) in {type(each) for each in WITHIN_UNKNOWN}:
        return command.state is UNKNOWN
    target = next(state for state, each in EVENTS.items() if type(each) is type(event))
    return TABLE[command.state][list(CommandState).index(target)]


def require_sound(command: Command, history: list[tuple[CommandEvent, int]]) -> None:
    sends = [when for event, when in history if isinstance(event, Sent)]
    reached = [
        when
        for event, when in history
        if isinstance(event, BecameUnknown) and event.reason is not UnknownReason.NOT_REACHED
    ]
    assert command.revision == 1 + len(history)
    assert command.sends == len(sends)
    assert command.sent_us == (sends[-1] if sends else None)
    assert command.first_sent_us == (sends[0] if sends else None)
    assert command.reached_us == (reached[-1] if reached else None)
    assert (command.due_us is None) == (command.state in CONCLUDED) == (command.ended_us is not None)
    assert (command.response is not None) == (command.state in CONCLUDED)
    assert command.unresolved == (command.state in (SENT, UNKNOWN))
    if command.parked or command.resend:
        assert command.state is UNKNOWN


def require_readable(command: Command, event: CommandEvent, now_us: int) -> None:
    entry = record_of(command, event, ACTOR, now_us)
    assert (entry.command, entry.sequence, entry.time_us) == (command.id, command.revision, now_us)
    assert canonical(json.loads(entry.data)).decode() == entry.data
    assert entry.type == event.type


@settings(max_examples=1_000, deadline=None)
@given(tried=st.lists(st.tuples(events, st.integers(0, 50)), max_size=14))
def test_in_whatever_order_entries_come_only_the_tables_moves_are_made(
    tried: list[tuple[CommandEvent, int]],
) -> None:
    now_us = START_US
    command = journal.intend(intention(), now_us)
    history: list[tuple[CommandEvent, int]] = []
    for event, passing in tried:
        now_us += passing
        before = replace(command)
        if may(command, event):
            command = evolve_command(command, event, now_us)
            history.append((event, now_us))
            require_readable(command, event, now_us)
        else:
            with pytest.raises((IllegalTransition, CorruptHistory)):
                evolve_command(command, event, now_us)
            assert command == before
        require_sound(command, history)
