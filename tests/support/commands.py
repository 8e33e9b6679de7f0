"""Intentions and commands for tests, made as the command layer makes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sovrun.core.commands.journal import (
    BecameUnknown,
    Command,
    CommandEvent,
    CommandState,
    Confirmed,
    Intention,
    Refused,
    Sent,
    UnknownReason,
    answer_document,
    evolve_command,
    intend,
)
from sovrun.core.ids import Digest
from sovrun.store.journal import Journal, Resource
from sovrun.store.payload import Payload
from support.clock import START_US
from support.requests import ACTOR, TENANT, payload

ORDER = payload({"price": "10", "quantity": "1", "side": "buy", "symbol": "ACME"})
ANSWER = payload({"an": "answer"})
HANDLER = "handler-1"
MINUTE_US = 60_000_000


def intention(key: str = "key", **more: Any) -> Intention:
    """Return an order of one tenant at the adapter `paper`, worth 10, unless something else is said."""
    usual = Intention(
        TENANT,
        "order.place",
        1,
        key,
        "paper",
        "paper",
        ORDER.digest,
        ACTOR,
        opens=True,
        symbol="ACME",
        notional="10",
    )
    return replace(usual, **more)


def in_state(state: CommandState, now_us: int = START_US) -> Command:
    """Return a command that came to a state in the shortest way."""
    command = intend(intention(), now_us)
    if state is CommandState.INTENDED:
        return command
    command = evolve_command(command, Sent(HANDLER, now_us + MINUTE_US), now_us)
    if state is CommandState.SENT:
        return command
    last = {
        CommandState.CONFIRMED: Confirmed("answered", ANSWER.digest, "o-1"),
        CommandState.REFUSED: Refused("answered", "no", ANSWER.digest),
        CommandState.UNKNOWN: BecameUnknown(UnknownReason.TIMEOUT, now_us + 1),
    }
    return evolve_command(command, last[state], now_us)


def seen(command: Command, name: str = "o-1", **more: Any) -> Resource:
    """Return an order that rests at the provider, as a command's confirmation records it."""
    wanted = command.intention
    usual = Resource(
        wanted.tenant, wanted.adapter, "order", name, command.id, "pending", "OPEN", b"{}", live=True
    )
    return replace(usual, **more)


def confirmed(command: Command) -> tuple[Confirmed, Payload]:
    """Return the event that confirms a command, and its recorded answer."""
    body = answer_document(command.intention, CommandState.CONFIRMED, resource={"id": "o-1"})
    answer = Payload(Digest(payload_digest(body)), body)
    return Confirmed("answered", answer.digest, "o-1"), answer


def refused(command: Command, code: str = "insufficient_funds") -> tuple[Refused, Payload]:
    """Return the event by which the provider refuses a command, and its recorded answer."""
    body = answer_document(command.intention, CommandState.REFUSED, code=code, message="no")
    answer = Payload(Digest(payload_digest(body)), body)
    return Refused("answered", code, answer.digest), answer


def payload_digest(body: bytes) -> str:
    """Return the digest of an answer's bytes."""
    from hashlib import sha256  # noqa: PLC0415 -- independent of the code under test

    return sha256(body).hexdigest()


async def unknown(journal: Journal, wanted: Intention | None = None, *, due_us: int = START_US) -> Command:
    """Have the outcome of a sent command become unknown; return it as it is then."""
    sent = await admitted(journal, wanted)
    return await noted(journal, sent, BecameUnknown(UnknownReason.TIMEOUT, due_us))


async def noted(
    journal: Journal,
    command: Command,
    event: CommandEvent,
    *payloads: Payload,
    resource: Resource | None = None,
) -> Command:
    """Append to the history of a command as it was last seen."""
    tenant = command.intention.tenant
    return await journal.note(
        *(tenant, command.id, command.revision, event), actor=ACTOR, payloads=payloads, resource=resource
    )


async def admitted(
    journal: Journal, wanted: Intention | None = None, *, due_us: int = START_US + MINUTE_US
) -> Command:
    """Intend a command and have it pass the gates; return it as it is then."""
    made = (await journal.intend(wanted or intention(), payloads=(ORDER,))).command
    return await journal.admit(made.intention.tenant, made.id, handler=HANDLER, due_us=due_us)
