"""What follows from looking for a command whose outcome is unknown. Pure, so that every case can be tried.

Owns: `Rules`, `Sighting`, `after_looking`. An unknown outcome is never called failed here, and a command is only sent again
when it is certain that no earlier send had or will have an effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from sovrun.core.commands.journal import Command

SECOND_US: Final = 1_000_000


class Sighting(StrEnum):
    """What looking for a client id at the provider showed."""

    FOUND = "found"
    ABSENT = "absent"
    UNREACHABLE = "unreachable"
    UNREADABLE = "unreadable"
    """The provider answers, and what it says is not known here: a status without a meaning."""
    CONTRADICTORY = "contradictory"
    IMPOSSIBLE = "impossible"
    """What it acts on is over, so it did not and cannot have the effect any more: an order that was filled."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is known of the provider, and how patient to be.

    Args:
        deadline_us: how long after a send an effect may still come about there.
        absence_is_conclusive: what is not found after the deadline did not happen.
        look_base_us, look_cap_us: first and longest time between two looks.
        sends_max: sends in all before a person is asked.
        park_after_us: how long the provider may be out of reach, or not understood, before a person is asked.
    """

    deadline_us: int
    absence_is_conclusive: bool
    look_base_us: int = SECOND_US
    look_cap_us: int = 60 * SECOND_US
    sends_max: int = 5
    park_after_us: int = 900 * SECOND_US


@dataclass(frozen=True, slots=True)
class Adopt:
    """It happened: take what was found for the answer."""


@dataclass(frozen=True, slots=True)
class Deny:
    """It did not happen and never can: the answer is that it is refused."""


@dataclass(frozen=True, slots=True)
class Resend:
    """Certainly nothing happened and nothing will: send it again under the same client id."""


@dataclass(frozen=True, slots=True)
class LookAgain:
    """Look again at `due_us`."""

    due_us: int


@dataclass(frozen=True, slots=True)
class Park:
    """A person is to decide, because of `reason`; look again at `due_us` all the same."""

    reason: str
    due_us: int


Verdict: TypeAlias = Adopt | Deny | Resend | LookAgain | Park


def look_delay_us(looks: int, rules: Rules) -> int:
    """Return the time until the next look after `looks` looks: doubling, up to the cap."""
    return int(min(rules.look_cap_us, rules.look_base_us << min(looks, 40)))


def after_looking(command: Command, sighting: Sighting, rules: Rules, now_us: int) -> Verdict:
    """Return what to do about an unknown command after a look at `now_us`."""
    later = now_us + look_delay_us(command.looks, rules)
    slow = now_us + rules.look_cap_us
    if sighting is Sighting.FOUND:
        return Adopt()
    if sighting is Sighting.IMPOSSIBLE:
        return Deny()
    if sighting is Sighting.CONTRADICTORY:
        return LookAgain(slow) if command.parked else Park("contradictory", slow)
    if sighting in (Sighting.UNREACHABLE, Sighting.UNREADABLE):
        since = command.unknown_us if command.unknown_us is not None else now_us
        if command.parked:
            return LookAgain(slow)
        if now_us - since < rules.park_after_us:
            return LookAgain(later)
        answers = sighting is Sighting.UNREADABLE
        return Park("unreadable", slow) if answers else Park("unreachable", slow)
    return _after_absence(command, rules, now_us, later, slow)


def _after_absence(command: Command, rules: Rules, now_us: int, later: int, slow: int) -> Verdict:
    if command.reached_us is not None:
        conclusive_us = command.reached_us + rules.deadline_us
        if now_us < conclusive_us:  # it may still come about
            return LookAgain(min(later, conclusive_us) if later > now_us else conclusive_us)
        if not (rules.absence_is_conclusive or command.resend):
            return LookAgain(slow) if command.parked else Park("absent", slow)
    if command.resend:
        return Resend()
    if command.sends >= rules.sends_max:
        return LookAgain(slow) if command.parked else Park("sends_exhausted", slow)
    return LookAgain(slow) if command.parked else Resend()
