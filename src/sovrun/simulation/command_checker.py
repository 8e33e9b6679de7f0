"""The independent checker of commands: what the journal, the providers' own ledgers and the runs must show together.

Owns: `check_commands`, the checker's own table of a command's moves, and the rules. It reads recorded entries and ledgers,
and knows DESIGN section 8 by heart and nothing of the code that is to keep it.
Must not touch: stores, the engine, the command layer, `core.commands`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, NamedTuple

from sovrun.simulation.histories import Entry, History, Violation
from sovrun.simulation.ledger import Called, Effect, Ledger

MOVES: Final[Mapping[str, Mapping[str, str]]] = {
    "": {"intended": "intended"},
    "intended": {"sent": "sent", "refused": "refused"},
    "sent": {"confirmed": "confirmed", "refused": "refused", "unknown": "unknown"},
    "unknown": {
        "confirmed": "confirmed",
        "refused": "refused",
        "sent": "sent",
        "looked": "unknown",
        "parked": "unknown",
        "resend_wanted": "unknown",
    },
    "confirmed": {},
    "refused": {},
}
CONCLUDED: Final = frozenset({"confirmed", "refused"})
ENDINGS: Final[Mapping[str, str]] = {"order.cancel": "orderId", "deployment.stop": "deploymentId"}
"""Kinds that act on something that exists, and the member of the payload that names it."""
DAY_US: Final = 86_400 * 1_000_000


class CommandEntry(NamedTuple):
    """One entry of a command's history.

    Args:
        time_us: by the store's clock; at_us: when it was really made, None where nobody noted that.
        type: without its prefix.
    """

    sequence: int
    time_us: int
    at_us: int | None
    actor: str
    type: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CommandHistory:
    """One command as it was journalled; `payload` is the canonical JSON of what it asks for."""

    id: str
    tenant: str
    payload: bytes
    entries: Sequence[CommandEntry]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a caller was told under a key: the bytes of the answer, None for a conflict."""

    tenant: str
    kind: str
    key: str
    payload: bytes
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Limited:
    """What an operator allowed. Tenant and adapter None mean all of them.

    Args:
        rate: commands within so many microseconds; per_day: within 24 hours; shut: between these true instants nothing
            may be sent for the first time.
    """

    tenant: str | None
    adapter: str | None
    rate: tuple[int, int] | None = None
    per_day: int | None = None
    shut: tuple[int, int] | None = None


def command_entry_of(
    sequence: int, time_us: int, actor: str, type_: str, data: str, *, at_us: int | None
) -> CommandEntry:
    """Return an entry as a store gives it; `data` is JSON. Raises: ValueError when it is none of a command."""
    prefix, _, name = type_.partition(".")
    if prefix != "command":
        raise ValueError(f"{type_} is no entry of a command's history")
    return CommandEntry(sequence, time_us, at_us, actor, name, json.loads(data))


def check_commands(
    histories: Sequence[CommandHistory],
    ledgers: Mapping[str, Ledger],
    runs: Sequence[History] = (),
    *,
    answers: Iterable[Answer] = (),
    limited: Iterable[Limited] = (),
    jumped: bool = False,
) -> list[Violation]:
    """Return what is wrong, at most one violation for each command and rule.

    Args:
        ledgers: by adapter; answers: what callers were told.
        jumped: the store's clock was set, so that its times do not tell how many commands were sent within a time.
    """
    views = {history.id: _View(history, ledgers) for history in histories}
    found: list[Violation] = []
    for view in views.values():
        found.extend(view.violations())
    found.extend(_strays(views, ledgers))
    found.extend(_answers(views, answers))
    if not jumped:
        found.extend(_overrun(views.values(), limited))
    found.extend(_shut(views.values(), limited))
    found.extend(_steps(views, runs))
    return found


class _View:
    """One command beside what its provider's ledger tells of it."""

    def __init__(self, history: CommandHistory, ledgers: Mapping[str, Ledger]) -> None:
        self.id, self.tenant = history.id, history.tenant
        self.entries = history.entries
        self.intended: Mapping[str, Any] = history.entries[0].data if history.entries else {}
        self.kind: str = self.intended.get("kind", "")
        self.payload: Mapping[str, Any] = json.loads(history.payload or b"{}")
        self._payload_hash = sha256(history.payload).hexdigest()
        self.ledger = ledgers.get(self.intended.get("adapter", ""), None)
        of_ledger = self.ledger or next(iter(ledgers.values()))
        self.effects: list[Effect] = [
            one for one in of_ledger.effects if one.client_id == self.id and not one.foreign
        ]
        self.calls: list[Called] = [one for one in of_ledger.calls if one.client_id == self.id]
        self.sent = [entry for entry in self.entries if entry.type == "sent"]
        self.state = ""
        self.parked = False

    @property
    def last(self) -> CommandEntry:
        return self.entries[-1]

    @property
    def by_person(self) -> bool:
        return self.last.data.get("how") == "person"

    def violations(self) -> Iterator[Violation]:
        walked = list(self._walk())
        yield from walked
        if any(violation.rule == "journal" for violation in walked):
            return  # what follows reads the entries as those of a journal that was kept
        yield from self._once()
        yield from self._resends()
        yield from self._end()

    def say(self, rule: str, text: str, entry: CommandEntry | None = None) -> Violation:
        return Violation(rule, self.id, 0 if entry is None else entry.sequence, f"{self.kind}: {text}")

    def _walk(self) -> Iterator[Violation]:
        """Follow the entries from one state to the next."""
        if self.intended.get("payloadHash") != self._payload_hash:
            yield self.say("journal", "the payload that is kept is not the one that was intended")
        for number, entry in enumerate(self.entries, 1):
            if entry.sequence != number:
                yield self.say("journal", f"entry {entry.sequence} is number {number}", entry)
                return
            target = MOVES[self.state].get(entry.type)
            if target is None:
                yield self.say("journal", f"{entry.type} follows {self.state or 'nothing'}", entry)
                return
            if target == "refused" and self.state == "unknown" and not self._may_refuse(entry):
                yield self.say("unknown", f"an unknown outcome became refused: {entry.data}", entry)
            if entry.type in ("confirmed", "refused", "unknown", "resend_wanted", "sent"):
                self.parked = False
            elif entry.type == "parked":
                self.parked = True
            self.state = target

    def _may_refuse(self, entry: CommandEntry) -> bool:
        """An unknown outcome becomes refused only by a person, or when what it acts on is over by itself."""
        if entry.data["how"] == "person":
            return entry.actor != "engine"
        return self.kind in ENDINGS and entry.data["reason"] == "target_is_over"

    def _once(self) -> Iterator[Violation]:
        if len(self.effects) > 1:
            yield self.say("one effect", f"it came about {len(self.effects)} times")
        for effect in self.effects:
            if (effect.tenant, effect.kind) != (self.tenant, self.kind) or not _same(
                effect.payload, self.payload
            ):
                yield self.say("as intended", f"{effect.kind} {dict(effect.payload)} came about")
            first = self.sent[0].at_us if self.sent else None
            if not self.sent or (first is not None and effect.at_us < first):
                yield self.say("sent first", "it came about before it was journalled as sent")
        over = self.last.at_us if self.state in CONCLUDED else None
        if over is not None and any(call.began_us > over for call in self.calls):
            yield self.say("resend", "it was sent after it was concluded")
        for number, call in enumerate(self.calls):
            if number >= len(self.sent):
                yield self.say(
                    "sent first", f"{len(self.calls)} calls and {len(self.sent)} entries of sending"
                )
                return
            at_us = self.sent[number].at_us
            if at_us is not None and call.began_us < at_us and number == 0:
                yield self.say("sent first", "it was sent before it was journalled as sent")

    def _resends(self) -> Iterator[Violation]:
        """No sending again before nothing of an earlier send can come about any more."""
        assert self.ledger is not None or not self.sent  # noqa: S101 -- an adapter that exists was sent to
        for entry in self.sent[1:]:
            for call in self.calls:
                if (
                    entry.at_us is None
                    or not call.sent
                    or call.began_us >= entry.at_us
                    or self.ledger is None
                ):
                    continue
                over_us = (call.ended_us or call.began_us) + self.ledger.profile.deadline_us
                if entry.at_us < over_us:
                    text = f"sent again {over_us - entry.at_us} us before an earlier send was certainly over"
                    yield self.say("resend", text, entry)
                    return

    def _end(self) -> Iterator[Violation]:
        if self.state not in CONCLUDED:
            if not self.parked:
                yield self.say("quiescence", f"it is left {self.state}, and no person is asked")
            return
        if self.by_person:
            return
        if self.state == "refused" and self.effects:
            yield self.say("refused", f"it is refused ({self.last.data['reason']}), and it came about")
        if self.state == "confirmed" and not self._is_held():
            yield self.say("confirmed", "it is confirmed, and the provider has nothing of it")

    def _is_held(self) -> bool:
        """Whether the provider's ledger says that what is wanted is so."""
        resource = self.last.data["resource"]
        if self.kind in ENDINGS:
            return self.ledger is not None and self.payload[ENDINGS[self.kind]] in self.ledger.over_us
        return any(effect.resource == resource for effect in self.effects)


def _same(effect: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(effect.get(name) == value for name, value in wanted.items())


def _strays(views: Mapping[str, _View], ledgers: Mapping[str, Ledger]) -> Iterator[Violation]:
    """Yield the effects and calls that belong to no command of their adapter."""
    for adapter, ledger in ledgers.items():
        names = [effect.client_id for effect in ledger.effects]
        names += [call.client_id for call in ledger.calls]
        for name in dict.fromkeys(names):
            view = views.get(name)
            if view is None or view.intended.get("adapter") != adapter:
                text = f"client id {name} at {adapter} belongs to no command"
                yield Violation("as intended", name, 0, text)


def _answers(views: Mapping[str, _View], answers: Iterable[Answer]) -> Iterator[Violation]:
    """Every caller under one key is told the same, and what it is told is what is recorded."""
    by_key = {(view.tenant, view.kind, view.intended.get("key")): view for view in views.values()}
    for answer in answers:
        view = by_key.get((answer.tenant, answer.kind, answer.key))
        if view is None:
            yield Violation("answers", answer.key, 0, "an answer belongs to no command")
            continue
        same = json.loads(answer.payload) == view.payload
        if answer.body is None:
            if same:
                yield view.say("answers", "the same payload under its key was called a conflict")
        elif not same:
            yield view.say("answers", "another payload under its key was answered")
        elif sha256(answer.body).hexdigest() != view.last.data.get("responseHash"):
            yield view.say("answers", "a caller was told something else than what is recorded")


def _opening(views: Iterable[_View]) -> list[_View]:
    """Return the commands that the gates count: what was sent and opened something, in the order of their sending."""
    sent = [view for view in views if view.sent and view.kind not in ENDINGS]
    return sorted(sent, key=lambda view: view.sent[0].time_us)


def _overrun(views: Iterable[_View], limited: Iterable[Limited]) -> Iterator[Violation]:
    opening = _opening(views)
    for limit in limited:
        of_limit = [v for v in opening if (v.tenant, v.intended["adapter"]) == (limit.tenant, limit.adapter)]
        windows = [limit.rate] if limit.rate is not None else []
        windows += [(limit.per_day, DAY_US)] if limit.per_day is not None else []
        for most, window_us in windows:
            for place, view in enumerate(of_limit):
                if place < most:
                    continue
                apart_us = view.sent[0].time_us - of_limit[place - most].sent[0].time_us
                if apart_us < window_us:
                    yield view.say("gates", f"{most + 1} commands were sent within {apart_us} us")


def _shut(views: Iterable[_View], limited: Iterable[Limited]) -> Iterator[Violation]:
    for limit in limited:
        for view in _opening(views) if limit.shut is not None else ():
            at_us = view.sent[0].at_us
            concerned = limit.tenant in (None, view.tenant)
            if (
                concerned
                and at_us is not None
                and limit.shut is not None
                and limit.shut[0] < at_us < limit.shut[1]
            ):
                yield view.say("gates", "it was sent while the kill switch was tripped", view.sent[0])


def _steps(views: Mapping[str, _View], runs: Sequence[History]) -> Iterator[Violation]:
    """A step and its command agree, in every history of a run."""
    by_step = {(view.intended.get("runId"), view.intended.get("stepId")): view for view in views.values()}
    for history in runs:
        run = history.entries[0].run
        asked = any(view.parked for view in views.values() if view.intended.get("runId") == run)
        if history.entries[-1].type not in _RUN_ENDS and not asked:
            yield Violation("progress", run, 0, f"it is left at {history.entries[-1].type}")
        for step in history.spec.steps:
            if step.kind != "command":
                continue
            entries = [entry for entry in history.entries if _concerns(entry, step.id)]
            view = by_step.get((run, step.id))
            text = _disagreement(entries, view)
            if text is not None:
                yield Violation("step", run, 0, f"{step.id}: {text}")


_RUN_ENDS: Final = frozenset({"run.completed", "run.failed", "run.cancelled"})


def _concerns(entry: Entry, step: str) -> bool:
    return entry.type.startswith("step.") and (entry.step == step or step in entry.data.get("steps", ()))


def _disagreement(entries: Sequence[Entry], view: _View | None) -> str | None:
    if not entries:
        return None if view is None else "it has a command, and no history"
    end = entries[-1]
    waited = [entry for entry in entries if "commandId" in entry.data]
    if view is None:
        return "it waited for a command that there is not" if waited else None
    if any(entry.data["commandId"] != view.id for entry in waited):
        return f"it waits for another command than {view.id}"
    answer = view.last.data.get("responseHash")
    if end.type == "step.completed":
        if "reusedFrom" in entries[-2].data:
            return None
        if view.state != "confirmed" or end.data["outputHash"] != answer:
            return f"it is completed with {end.data['outputHash']}, its command is {view.state}"
    elif end.type == "step.failed" and end.data["reason"] == "command_refused":
        if view.state != "refused" or end.data["errorHash"] != answer:
            return f"it failed as refused, its command is {view.state}"
    elif end.type == "step.cancelled":
        return (
            None if waited or not view.sent else "it was cancelled before it waited, and its command was sent"
        )
    elif view.state in CONCLUDED:
        return f"it ends with {end.type}, its command is {view.state}"
    return None
