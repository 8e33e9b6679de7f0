"""The checker of commands, rule by rule: histories and ledgers that break one, and one that breaks none."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sovrun.simulation import command_checker
from sovrun.simulation.command_checker import (
    Answer,
    CommandEntry,
    CommandHistory,
    Limited,
    check_commands,
    command_entry_of,
)
from sovrun.simulation.ledger import Called, Effect, Ledger, Profile

ORDER = {"price": "1", "quantity": "2", "side": "buy", "symbol": "ACME"}
PAYLOAD = json.dumps(ORDER, sort_keys=True, separators=(",", ":")).encode()
BODY = b'{"an":"answer"}'
RESPONSE = sha256(BODY).hexdigest()
SECOND_US = 1_000_000
DEADLINE_US = 10 * SECOND_US
PERSON = "local:boss"


class Case:
    """A command that was sent, became unknown, was found and confirmed; a test changes what it likes."""

    def __init__(self) -> None:
        self.id = "a" * 32
        self.payload = PAYLOAD
        self.entries: list[tuple[int, str, dict[str, Any], str]] = []
        self.ledger = Ledger(Profile(DEADLINE_US, "repeat", forgets=False))
        self.answers: list[Answer] = []
        self.limited: list[Limited] = []
        intended = {
            "adapter": "north",
            "key": "k",
            "kind": "order.place",
            "payloadHash": sha256(PAYLOAD).hexdigest(),
        }
        self.enter(1, "intended", **intended, runId=None, stepId=None)
        self.enter(2, "sent", handler="h")

    def enter(self, second: int, type_: str, actor: str = "engine", **data: Any) -> None:
        self.entries.append((second, type_, data, actor))

    def call(self, second: float, until: float, *, sent: bool = True) -> None:
        self.ledger.calls.append(Called(self.id, int(second * SECOND_US), int(until * SECOND_US), sent))

    def effect(self, second: float, **more: Any) -> None:
        made = Effect(int(second * SECOND_US), self.id, "t", "order.place", ORDER, "north-1")
        self.ledger.effects.append(replace(made, **more))

    def confirm(self, second: int, **more: Any) -> None:
        self.enter(
            second, "confirmed", **{"how": "answered", "resource": "north-1", "responseHash": RESPONSE} | more
        )

    def refuse(self, second: int, actor: str = "engine", **more: Any) -> None:
        data = {"gate": None, "how": "answered", "reason": "no", "responseHash": RESPONSE} | more
        self.enter(second, "refused", actor, **data)

    def rules(self) -> set[str]:
        entries = [
            CommandEntry(number, second * SECOND_US, second * SECOND_US, actor, type_, data)
            for number, (second, type_, data, actor) in enumerate(self.entries, 1)
        ]
        history = CommandHistory(self.id, "t", self.payload, entries)
        found = check_commands([history], {"north": self.ledger}, answers=self.answers, limited=self.limited)
        return {violation.rule for violation in found}


def _sound(case: Case) -> None:
    case.call(2.1, 3)
    case.effect(2.5)
    case.confirm(4)
    case.answers.append(Answer("t", "order.place", "k", PAYLOAD, BODY))
    case.answers.append(Answer("t", "order.place", "k", b'{"symbol":"OTHER"}', None))


def _sent_again_in_time(case: Case) -> None:
    case.call(2.1, 3)
    case.enter(4, "unknown", reason="timeout")
    case.enter(14, "sent", handler="h")
    case.call(14.1, 15)
    case.effect(14.5)
    case.confirm(16)


def _refused_by_a_person_who_is_wrong(case: Case) -> None:
    case.call(2.1, 3)
    case.effect(2.5)
    case.enter(4, "unknown", reason="timeout")
    case.enter(5, "parked", reason="absent")
    case.refuse(6, PERSON, how="person")


def _left_parked(case: Case) -> None:
    case.enter(4, "unknown", reason="timeout")
    case.enter(5, "parked", reason="absent")


@pytest.mark.parametrize(
    "build", [_sound, _sent_again_in_time, _refused_by_a_person_who_is_wrong, _left_parked]
)
def test_what_keeps_every_rule_is_not_blamed(build: Callable[[Case], None]) -> None:
    case = Case()
    build(case)
    assert case.rules() == set()


def _twice(case: Case) -> None:
    _sound(case)
    case.effect(2.6)


def _before_its_entry(case: Case) -> None:
    case.effect(1.5)
    case.confirm(4)


def _call_without_entry(case: Case) -> None:
    _sound(case)
    case.call(2.7, 3)


def _something_else(case: Case) -> None:
    case.call(2.1, 3)
    case.effect(2.5, payload=ORDER | {"quantity": "3"})
    case.confirm(4)


def _stray(case: Case) -> None:
    _sound(case)
    case.effect(5, client_id="b" * 32)


def _refused_and_held(case: Case) -> None:
    case.effect(2.5)
    case.refuse(4)


def _confirmed_and_not_held(case: Case) -> None:
    case.confirm(4)


def _confirmed_by_a_stranger(case: Case) -> None:
    case.effect(2.5, foreign=True)
    case.confirm(4)


def _sent_again_too_early(case: Case) -> None:
    case.call(2.1, 5)
    case.enter(6, "unknown", reason="timeout")
    case.enter(14, "sent", handler="h")
    case.effect(14.5)
    case.confirm(16)


def _sent_after_the_end(case: Case) -> None:
    _sent_again_in_time(case)
    case.ledger.calls[1].began_us = 17 * SECOND_US


def _unknown_became_refused(case: Case) -> None:
    case.enter(4, "unknown", reason="timeout")
    case.refuse(5)


def _refused_by_nobody(case: Case) -> None:
    case.enter(4, "unknown", reason="timeout")
    case.refuse(5, how="person")


def _left_open(case: Case) -> None:
    case.enter(4, "unknown", reason="timeout")


def _sent_from_confirmed(case: Case) -> None:
    _sound(case)
    case.enter(5, "sent", handler="h")


def _told_otherwise(case: Case) -> None:
    _sound(case)
    case.answers.append(Answer("t", "order.place", "k", PAYLOAD, b"{}"))


def _conflict_answered(case: Case) -> None:
    _sound(case)
    case.answers.append(Answer("t", "order.place", "k", b'{"symbol":"OTHER"}', BODY))


def _repeat_called_a_conflict(case: Case) -> None:
    _sound(case)
    case.answers.append(Answer("t", "order.place", "k", PAYLOAD, None))


def _above_the_limit(case: Case) -> None:
    _sound(case)
    case.limited.append(Limited("t", "north", per_day=0))


def _through_the_switch(case: Case) -> None:
    _sound(case)
    case.limited.append(Limited(None, None, shut=(SECOND_US, 3 * SECOND_US)))


def _other_payload_kept(case: Case) -> None:
    _sound(case)
    case.payload = PAYLOAD + b" "


@pytest.mark.parametrize(
    ("build", "rule"),
    [
        (_twice, "one effect"),
        (_before_its_entry, "sent first"),
        (_call_without_entry, "sent first"),
        (_something_else, "as intended"),
        (_stray, "as intended"),
        (_refused_and_held, "refused"),
        (_confirmed_and_not_held, "confirmed"),
        (_confirmed_by_a_stranger, "confirmed"),
        (_sent_again_too_early, "resend"),
        (_sent_after_the_end, "resend"),
        (_unknown_became_refused, "unknown"),
        (_refused_by_nobody, "unknown"),
        (_left_open, "quiescence"),
        (_sent_from_confirmed, "journal"),
        (_told_otherwise, "answers"),
        (_conflict_answered, "answers"),
        (_repeat_called_a_conflict, "answers"),
        (_above_the_limit, "gates"),
        (_through_the_switch, "gates"),
        (_other_payload_kept, "journal"),
    ],
)
def test_what_breaks_a_rule_is_found(build: Callable[[Case], None], rule: str) -> None:
    case = Case()
    build(case)
    assert rule in case.rules()


def test_only_entries_of_commands_are_read() -> None:
    entry = command_entry_of(1, 2, "engine", "command.sent", '{"handler":"h"}', at_us=3)
    assert entry == CommandEntry(1, 2, 3, "engine", "sent", {"handler": "h"})
    with pytest.raises(ValueError, match=r"run\.queued"):
        command_entry_of(1, 2, "engine", "run.queued", "{}", at_us=None)


def test_the_checker_reads_nothing_of_what_it_judges() -> None:
    tree = ast.parse(Path(command_checker.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    ours = {name for name in imported if name.startswith("sovrun")}
    assert ours == {"sovrun.simulation.histories", "sovrun.simulation.ledger"}
