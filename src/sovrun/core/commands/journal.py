"""The journal of a command: what was intended, sent, and became known of it.

Owns: `CommandState`, the one table of its moves, `Intention`, `Command`, the events and `evolve_command`. Nothing else
knows which move is legal.
Must not touch: clocks, stores, adapters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar, Final, NewType, TypeAlias

from sovrun.core.canonical import canonical, digest_of
from sovrun.core.errors import CorruptHistory, IllegalTransition
from sovrun.core.ids import Actor, Digest, RunId, StepId, Tenant
from sovrun.core.times import time_text

CommandId = NewType("CommandId", str)
"""32 lowercase hexadecimal digits: names a command here, and at the provider as its client id."""


class CommandState(StrEnum):
    """What is known of a command."""

    INTENDED = "intended"
    SENT = "sent"
    CONFIRMED = "confirmed"
    REFUSED = "refused"
    UNKNOWN = "unknown"


MOVES: Final[Mapping[CommandState, frozenset[CommandState]]] = MappingProxyType(
    {
        CommandState.INTENDED: frozenset({CommandState.SENT, CommandState.REFUSED}),
        CommandState.SENT: frozenset({CommandState.CONFIRMED, CommandState.REFUSED, CommandState.UNKNOWN}),
        CommandState.UNKNOWN: frozenset({CommandState.CONFIRMED, CommandState.REFUSED, CommandState.SENT}),
        CommandState.CONFIRMED: frozenset(),
        CommandState.REFUSED: frozenset(),
    }
)

CONCLUDED: Final = frozenset(state for state, moves in MOVES.items() if not moves)
OPEN: Final = frozenset(CommandState) - CONCLUDED
UNRESOLVED: Final = frozenset({CommandState.SENT, CommandState.UNKNOWN})
"""Something was or may have been sent, and nobody knows yet what came of it."""


class UnknownReason(StrEnum):
    """Why an outcome is not known. A code is public: never renamed, never reused."""

    TIMEOUT = "timeout"
    CONNECTION_LOST = "connection_lost"
    SERVER_ERROR = "server_error"
    BAD_ANSWER = "bad_answer"
    NOT_REACHED = "not_reached"
    INTERRUPTED = "interrupted"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class Intention:
    """What is wanted.

    Args:
        key: idempotency key, unique per tenant and kind, for ever.
        payload: digest of the payload in its normal form.
        opens: the gates apply; symbol, notional: what they look at, None where there is none.
        target: the provider's id of what it acts on, for kinds that act on something.
        run, step, position: the step that asks, None for other callers.
    """

    tenant: Tenant
    kind: str
    version: int
    key: str
    adapter: str
    mode: str
    payload: Digest
    actor: Actor
    opens: bool
    symbol: str | None = None
    notional: str | None = None
    target: str | None = None
    run: RunId | None = None
    step: StepId | None = None
    position: int | None = None

    @property
    def id(self) -> CommandId:
        """The command's name, a function of who wants it and of the key."""
        return command_id(self.tenant, self.kind, self.key)

    @property
    def fingerprint(self) -> Digest:
        """The digest by which a repeat is told from another command under the same key."""
        body = {
            "adapter": self.adapter,
            "commandKind": self.kind,
            "commandVersion": self.version,
            "mode": self.mode,
            "payload": self.payload,
        }
        return digest_of("sovrun.command", 1, body)


def command_id(tenant: Tenant, kind: str, key: str) -> CommandId:
    """Return the name of the command that a tenant wants under a key."""
    body = {"commandKind": kind, "key": key, "tenant": tenant}
    return CommandId(digest_of("sovrun.command-id", 1, body)[:32])


def step_key(token: Digest, step: StepId) -> str:
    """Return the key of a command step: the digest of (run token, step id)."""
    return digest_of("sovrun.command-key", 1, {"runToken": token, "step": step})


@dataclass(frozen=True, slots=True)
class Command:
    """A command and what is known of it.

    Args:
        revision: number of its events.
        reason: why it is in its state: a gate, the provider's code, an `UnknownReason`.
        gate: the gate that refused it.
        parked: a person is to say what became of it.
        resend: a person wants it sent again.
        sends, looks: how often it was sent, and looked for since it became unknown.
        handler: the process that sent it last.
        response: digest of the recorded answer.
        resource: the provider's id of what came of it.
        sent_us: the last send; first_sent_us: the first; reached_us: until when a send without an outcome may have been
            reaching the provider; unknown_us: since when nobody knows.
        due_us: when it is to be taken up next; None when concluded.
    """

    intention: Intention
    id: CommandId
    fingerprint: Digest
    state: CommandState
    revision: int
    created_us: int
    due_us: int | None
    reason: str | None = None
    gate: str | None = None
    parked: bool = False
    resend: bool = False
    sends: int = 0
    looks: int = 0
    handler: str | None = None
    response: Digest | None = None
    resource: str | None = None
    sent_us: int | None = None
    first_sent_us: int | None = None
    reached_us: int | None = None
    unknown_us: int | None = None
    ended_us: int | None = None

    @property
    def unresolved(self) -> bool:
        """Whether something may have happened outside that nobody knows of."""
        return self.state in UNRESOLVED


# --- events -----------------------------------------------------------------------------------------------------------


DETAIL_MAX: Final = 500
"""Characters of what is recorded of the provider's own words."""


def detail_of(text: str) -> str | None:
    """Return what is recorded of why nothing is known, for people: one line, bounded; None when there is nothing to say."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line[:DETAIL_MAX] or None


def _detailed(data: dict[str, Any], detail: str | None) -> dict[str, Any]:
    """Return the data of an entry; one without a detail is as it was before there were any."""
    return data if detail is None else {**data, "detail": detail}


@dataclass(frozen=True, slots=True)
class Intended:
    """Somebody wants it. `due_us` is at once."""

    intention: Intention
    type: ClassVar[str] = "command.intended"

    def data(self) -> dict[str, Any]:
        """Return what is recorded."""
        wanted = self.intention
        return {
            "adapter": wanted.adapter,
            "fingerprint": wanted.fingerprint,
            "key": wanted.key,
            "kind": wanted.kind,
            "mode": wanted.mode,
            "payloadHash": wanted.payload,
            "runId": wanted.run,
            "stepId": wanted.step,
            "version": wanted.version,
        }


@dataclass(frozen=True, slots=True)
class Sent:
    """It is about to be sent by `handler`; another may take it over at `due_us`."""

    handler: str
    due_us: int
    type: ClassVar[str] = "command.sent"

    def data(self) -> dict[str, Any]:
        """Return what is recorded."""
        return {"handler": self.handler}


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The effect happened.

    Args:
        how: `answered` by the provider, `found` there by the client id, or said by a `person`.
        response: digest of the recorded answer; resource: the provider's id.
    """

    how: str
    response: Digest
    resource: str | None
    type: ClassVar[str] = "command.confirmed"

    def data(self) -> dict[str, Any]:
        """Return what is recorded."""
        return {"how": self.how, "resource": self.resource, "responseHash": self.response}


@dataclass(frozen=True, slots=True)
class Refused:
    """The effect did not and will not happen: a gate, the provider or a person says so.

    Args:
        how: `gate`, `answered`, `cancelled` before it was sent, or `person`.
    """

    how: str
    reason: str
    response: Digest
    gate: str | None = None
    type: ClassVar[str] = "command.refused"

    def data(self) -> dict[str, Any]:
        """Return what is recorded."""
        return {"gate": self.gate, "how": self.how, "reason": self.reason, "responseHash": self.response}


@dataclass(frozen=True, slots=True)
class BecameUnknown:
    """Nobody can say what came of the last send; it is looked for at `due_us`. `detail`: see `detail_of`."""

    reason: UnknownReason
    due_us: int
    detail: str | None = None
    type: ClassVar[str] = "command.unknown"

    def data(self) -> dict[str, Any]:
        """Return what is recorded."""
        return _detailed({"next": time_text(self.due_us), "reason": self.reason}, self.detail)


@dataclass(frozen=True, slots=True)
class Looked:
    """It was looked for by its client id, without an end: `absent`, `unreachable`, `unreadable` or `contradictory`."""

    sighting: str
    due_us: int
    detail: str | None = None
    type: ClassVar[str] = "command.looked"

    def data(self) -> dict[str, Any]:
        """Return what is recorded."""
        return _detailed({"next": time_text(self.due_us), "sighting": self.sighting}, self.detail)


@dataclass(frozen=True, slots=True)
class Parked:
    """A person is to say what became of it; it is still looked for, from `due_us` on."""

    reason: str
    due_us: int
    detail: str | None = None
    type: ClassVar[str] = "command.parked"

    def data(self) -> dict[str, Any]:
        """Return what is recorded."""
        return _detailed({"next": time_text(self.due_us), "reason": self.reason}, self.detail)


@dataclass(frozen=True, slots=True)
class ResendWanted:
    """A person wants it sent again under the same client id; `rationale` is the digest of why."""

    rationale: Digest
    type: ClassVar[str] = "command.resend_wanted"

    def data(self) -> dict[str, Any]:
        """Return what is recorded."""
        return {"rationaleHash": self.rationale}


CommandEvent: TypeAlias = (
    Intended | Sent | Confirmed | Refused | BecameUnknown | Looked | Parked | ResendWanted
)


@dataclass(frozen=True, slots=True)
class CommandRecord:
    """One recorded entry of a command's history; `data` is canonical JSON."""

    command: CommandId
    sequence: int
    time_us: int
    actor: Actor
    type: str
    data: str


def record_of(command: Command, event: CommandEvent, actor: Actor, now_us: int) -> CommandRecord:
    """Return the entry that `event` adds to the history; `command` is as it is after the event."""
    return CommandRecord(
        command.id, command.revision, now_us, actor, event.type, canonical(event.data()).decode()
    )


PERSON: Final = "person"
"""How a command was concluded that a person has decided on: the only conclusion from outside the command layer."""
_TARGET: Final[Mapping[type, CommandState]] = {
    Sent: CommandState.SENT,
    Confirmed: CommandState.CONFIRMED,
    Refused: CommandState.REFUSED,
    BecameUnknown: CommandState.UNKNOWN,
}


def intend(intention: Intention, now_us: int) -> Command:
    """Return a command that was just intended."""
    return Command(
        intention, intention.id, intention.fingerprint, CommandState.INTENDED, 1, now_us, due_us=now_us
    )


def evolve_command(command: Command, event: CommandEvent, now_us: int) -> Command:
    """Return `command` after `event`. Raises: IllegalTransition when its table has no such move."""
    target = _TARGET.get(type(event))
    if target is not None and target not in MOVES[command.state]:
        raise IllegalTransition(
            f"command {command.id} is {command.state}; it cannot become {target}", state=command.state
        )
    if getattr(event, "how", None) == PERSON and command.state is not CommandState.UNKNOWN:
        raise IllegalTransition(
            f"command {command.id} is {command.state}; a person decides only what is unknown",
            state=command.state,
        )
    if target is None and command.state is not CommandState.UNKNOWN:
        raise IllegalTransition(
            f"command {command.id} is {command.state}, not unknown: {event.type} has no meaning",
            state=command.state,
        )
    base = replace(command, revision=command.revision + 1, state=target or command.state)
    match event:
        case Sent():
            return replace(
                base,
                reason=None,
                parked=False,
                resend=False,
                sends=command.sends + 1,
                handler=event.handler,
                sent_us=now_us,
                first_sent_us=command.first_sent_us or now_us,
                due_us=event.due_us,
            )
        case Confirmed():
            return _concluded(base, None, None, event.response, now_us, resource=event.resource)
        case Refused():
            return _concluded(base, event.reason, event.gate, event.response, now_us, resource=None)
        case BecameUnknown():
            return _unknown(base, command, event, now_us)
        case Looked():
            return replace(base, looks=command.looks + 1, due_us=event.due_us)
        case Parked():
            return replace(base, parked=True, reason=event.reason, due_us=event.due_us)
        case ResendWanted():
            return replace(base, resend=True, parked=False, due_us=now_us)
        case Intended():
            raise CorruptHistory(f"command {command.id} is intended twice")


def _unknown(base: Command, before: Command, event: BecameUnknown, now_us: int) -> Command:
    # A send that reached nobody proves nothing about the sends before it. Any other may have been on its way until now:
    # it was journalled before the call began.
    lost = event.reason is UnknownReason.NOT_REACHED
    return replace(
        base,
        reason=event.reason,
        looks=0,
        reached_us=before.reached_us if lost else now_us,
        unknown_us=before.unknown_us or now_us,
        due_us=event.due_us,
    )


def _concluded(
    base: Command,
    reason: str | None,
    gate: str | None,
    response: Digest,
    now_us: int,
    *,
    resource: str | None,
) -> Command:
    return replace(
        base,
        reason=reason,
        gate=gate,
        parked=False,
        resend=False,
        response=response,
        resource=resource,
        due_us=None,
        ended_us=now_us,
    )


def answer_document(
    intention: Intention,
    status: CommandState,
    *,
    resource: Mapping[str, Any] | None = None,
    code: str | None = None,
    message: str | None = None,
    gate: str | None = None,
) -> bytes:
    """Return the recorded answer, canonical JSON: the same bytes for every repeat of the command."""
    return canonical(
        {
            "adapter": intention.adapter,
            "code": code,
            "commandId": intention.id,
            "gate": gate,
            "kind": intention.kind,
            "message": message,
            "mode": intention.mode,
            "resource": None if resource is None else dict(resource),
            "status": status,
        }
    )
