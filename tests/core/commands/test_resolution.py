"""What follows from looking for a command whose outcome is unknown, over every combination of what is known of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest

from sovrun.core.commands.journal import Command, CommandState
from sovrun.core.commands.resolution import (
    Adopt,
    Deny,
    LookAgain,
    Park,
    Resend,
    Rules,
    Sighting,
    Verdict,
    after_looking,
    look_delay_us,
)
from support.commands import in_state

UNKNOWN = in_state(CommandState.UNKNOWN)
NOW_US = 1_800_000_000_000_000
DEADLINE_US = 10_000_000
PARK_US = 900_000_000
CERTAIN, UNCERTAIN = (
    Rules(DEADLINE_US, conclusive, look_base_us=1_000_000, look_cap_us=60_000_000, park_after_us=PARK_US)
    for conclusive in (True, False)
)

AGES_US = (None, 0, 1, DEADLINE_US - 1, DEADLINE_US, DEADLINE_US + 1, 10**12)
"""How long ago a send may have been reaching the provider; None: none may."""
UNKNOWN_FOR_US = (0, PARK_US - 1, PARK_US, PARK_US + 1)


def combinations() -> Iterator[tuple[Command, Sighting, Rules]]:
    for age_us, since_us, parked, resend, sends, looks, sighting, rules in product(
        *(AGES_US, UNKNOWN_FOR_US, (False, True), (False, True), (1, 4, 5, 6), (0, 1, 7, 1_000)),
        *(Sighting, (CERTAIN, UNCERTAIN)),
    ):
        command = replace(
            UNKNOWN,
            reached_us=None if age_us is None else NOW_US - age_us,
            unknown_us=NOW_US - since_us,
            parked=parked,
            resend=resend,
            sends=sends,
            looks=looks,
        )
        yield command, sighting, rules


CASES = [(case, after_looking(*case, NOW_US)) for case in combinations()]


def may_still_come_about(command: Command, rules: Rules) -> bool:
    return command.reached_us is not None and command.reached_us + rules.deadline_us > NOW_US


def those(*kinds: type[Verdict]) -> Iterator[tuple[Command, Sighting, Rules, Verdict]]:
    found = [(*case, verdict) for case, verdict in CASES if isinstance(verdict, kinds)]
    assert found, "nothing was tried"
    yield from found


def test_nothing_is_sent_again_while_an_earlier_send_may_still_come_about() -> None:
    for command, sighting, rules, _ in those(Resend):
        assert sighting is Sighting.ABSENT
        assert not may_still_come_about(command, rules)


def test_what_may_have_arrived_is_sent_again_only_where_absence_proves_something_or_a_person_wants_it() -> (
    None
):
    for command, _, rules, _ in those(Resend):
        assert command.reached_us is None or rules.absence_is_conclusive or command.resend


def test_what_is_found_is_adopted_whatever_else_is_known_and_nothing_else_is() -> None:
    for (command, sighting, _), verdict in CASES:
        assert isinstance(verdict, Adopt) == (sighting is Sighting.FOUND), command


def test_absence_alone_never_refuses() -> None:
    for _, sighting, _, _ in those(Deny):
        assert sighting is Sighting.IMPOSSIBLE


def test_what_is_parked_is_never_sent_again_by_itself_nor_parked_twice() -> None:
    for command, _, _, _ in those(Resend):
        assert command.resend or not command.parked
    for command, _, _, _ in those(Park):
        assert not command.parked


def test_what_was_sent_often_enough_is_sent_again_only_for_a_person() -> None:
    for command, _, rules, _ in those(Resend):
        assert command.resend or command.sends < rules.sends_max


def test_the_next_look_is_later_and_never_later_than_the_cap_allows() -> None:
    for command, _, rules, verdict in those(LookAgain, Park):
        assert isinstance(verdict, LookAgain | Park)
        assert NOW_US < verdict.due_us <= NOW_US + rules.look_cap_us
        if isinstance(verdict, LookAgain) and may_still_come_about(command, rules):
            assert verdict.due_us <= NOW_US + max(rules.deadline_us, rules.look_cap_us)


def told(command: Command, sighting: Sighting, rules: Rules) -> str:
    """Say once more, as a table, what is to be done."""
    if sighting in (Sighting.FOUND, Sighting.IMPOSSIBLE):
        return "Adopt" if sighting is Sighting.FOUND else "Deny"
    park = "LookAgain" if command.parked else "Park"
    if sighting is Sighting.CONTRADICTORY:
        return park
    if sighting in (Sighting.UNREACHABLE, Sighting.UNREADABLE):
        assert command.unknown_us is not None
        return park if NOW_US - command.unknown_us >= PARK_US else "LookAgain"
    arrived = command.reached_us is not None
    if arrived and may_still_come_about(command, rules):
        return "LookAgain"
    if command.resend:
        return "Resend"
    if arrived and not rules.absence_is_conclusive:
        return park
    return "Resend" if command.sends < rules.sends_max and not command.parked else park


def test_every_combination_is_judged_as_the_table_says() -> None:
    assert len(CASES) == 7 * 4 * 2 * 2 * 4 * 4 * 6 * 2
    for case, verdict in CASES:
        assert type(verdict).__name__ == told(*case), case


@pytest.mark.parametrize(
    ("command", "sighting", "reason"),
    [
        (replace(UNKNOWN, reached_us=0), Sighting.ABSENT, "absent"),
        (replace(UNKNOWN, reached_us=None, sends=5), Sighting.ABSENT, "sends_exhausted"),
        (UNKNOWN, Sighting.CONTRADICTORY, "contradictory"),
        (replace(UNKNOWN, unknown_us=0), Sighting.UNREACHABLE, "unreachable"),
        (replace(UNKNOWN, unknown_us=0), Sighting.UNREADABLE, "unreadable"),
    ],
)
def test_a_person_is_told_why_she_is_asked(command: Command, sighting: Sighting, reason: str) -> None:
    assert after_looking(command, sighting, UNCERTAIN, NOW_US) == Park(reason, NOW_US + 60_000_000)


def test_the_look_that_can_prove_absence_is_made_when_the_deadline_passes() -> None:
    command = replace(UNKNOWN, reached_us=NOW_US - 1_000_000, looks=6)
    assert after_looking(command, Sighting.ABSENT, CERTAIN, NOW_US) == LookAgain(NOW_US + 9_000_000)


def test_looks_come_at_doubling_distances_up_to_the_cap() -> None:
    assert [look_delay_us(looks, CERTAIN) // 1_000_000 for looks in range(9)] == [
        1,
        2,
        4,
        8,
        16,
        32,
        60,
        60,
        60,
    ]
    assert look_delay_us(10**9, CERTAIN) == CERTAIN.look_cap_us
