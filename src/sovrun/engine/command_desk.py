"""The desk of commands: a person's verdict on an outcome that nobody knows, the kill switch, the limits of adapters.

Owns: `CommandDesk`, `Verdict`. It stands on a store that this process owns or on the server that owns it. What a verdict comes
to is decided in `core.commands.journal`; performing is `execution.layer`'s.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from sovrun.core.canonical import canonical, decode, sha256_hex
from sovrun.core.commands.gates import AdapterLimits, AdapterLimitsChange, Switch
from sovrun.core.commands.journal import (
    PERSON,
    Command,
    CommandEvent,
    CommandId,
    CommandState,
    Confirmed,
    Refused,
    ResendWanted,
    answer_document,
)
from sovrun.core.commands.model import KINDS
from sovrun.core.errors import CommandMoved, IllegalTransition, InvalidSetting, PayloadTooLarge
from sovrun.core.ids import Actor, Tenant, require_name
from sovrun.execution.port import DeploymentStatus, OrderStatus
from sovrun.store.journal import Resource
from sovrun.store.payload import Payload
from sovrun.store.protocol import Store

RATIONALE_MAX: Final = 16_384
"""Bytes that a rationale may have."""
EVERYBODY: Final = Tenant("default")
"""Where the rationale of the global switch is kept."""
BY_PERSON: Final = "resolved_by_person"
"""The reason of a command of which a person says that it had no effect."""
_UNSEEN: Final = {"order": str(OrderStatus.PENDING), "deployment": str(DeploymentStatus.QUEUED)}
"""As what a resource is recorded that only a person has seen: it may be anything that is still live."""


class Verdict(StrEnum):
    """What a person says became of a command."""

    CONFIRMED = "confirmed"
    REFUSED = "refused"
    RESEND = "resend"


class CommandDesk:
    """Acts on commands for people."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def resolve(
        self,
        tenant: Tenant,
        command: CommandId,
        verdict: Verdict,
        *,
        actor: Actor,
        rationale: str,
        resource: str | None = None,
    ) -> Command:
        """Record a person's verdict on a command whose outcome is unknown; the same verdict again changes nothing.

        Args:
            resource: of a confirmation, the provider's id of what came of it; required where that is a resource of its own.
        Raises: NotFound; IllegalTransition when its outcome is not unknown; InvalidSetting; PayloadTooLarge.
        """
        reason = _rationale(rationale)
        if resource is not None and verdict is not Verdict.CONFIRMED:
            raise InvalidSetting("only what was confirmed has a resource")
        if resource is not None and not (
            resource.isascii() and resource.isprintable() and len(resource) <= 128
        ):
            raise InvalidSetting("a resource is named by 1 to 128 printable ASCII characters")
        known = await self._store.command(tenant, command)
        wanting = verdict is Verdict.CONFIRMED and resource is None and known.state is CommandState.UNKNOWN
        if wanting and (made := _makes(known)) is not None:
            raise InvalidSetting(
                f"a confirmed {known.intention.kind} has made {made}, which is recorded by the provider's id of it",
                hint="say which: --resource ID (`resource` in a request), as the provider's console shows it",
            )
        if verdict is Verdict.RESEND:
            return await self._note(known, ResendWanted(reason.digest), actor, reason)
        body = _answer(known, verdict, actor, rationale, resource)
        answer = Payload(sha256_hex(body), body)
        if known.response == answer.digest:
            return known
        event: CommandEvent
        if verdict is Verdict.CONFIRMED:
            event = Confirmed(PERSON, answer.digest, resource)
            return await self._note(known, event, actor, answer, _recorded(known, resource))
        event = Refused(PERSON, BY_PERSON, answer.digest)
        return await self._note(known, event, actor, answer)

    async def _note(
        self,
        known: Command,
        event: CommandEvent,
        actor: Actor,
        payload: Payload,
        resource: Resource | None = None,
    ) -> Command:
        tenant = known.intention.tenant
        while True:
            if known.state is not CommandState.UNKNOWN:
                raise IllegalTransition(
                    f"command {known.id} is {known.state}; a person decides only what is unknown",
                    hint=f"`sovrun commands {known.id}` shows its history",
                    state=known.state,
                )
            try:
                return await self._store.note(
                    *(tenant, known.id, known.revision, event),
                    actor=actor,
                    payloads=(payload,),
                    resource=resource,
                )
            except CommandMoved:  # it was looked for once more; while that led to nothing, the verdict stands
                known = await self._store.command(tenant, known.id)

    async def move_switch(
        self, whose: Tenant | None, actor: Actor, rationale: str, *, tripped: bool
    ) -> Switch:
        """Trip or reset the kill switch of a tenant, or with None the global one. Raises: InvalidSetting, PayloadTooLarge."""
        reason = _rationale(rationale)
        switch = Switch(whose, tripped, actor, reason.digest, 0)
        await self._store.move_switch(switch, payloads=(reason,))
        moved = await self._store.switches(whose or EVERYBODY)
        return next(one for one in moved if one.tenant == whose)

    async def limit(
        self, tenant: Tenant, adapter: str, change: AdapterLimitsChange, actor: Actor
    ) -> AdapterLimits:
        """Change what a tenant may do through an adapter; return what holds then. Raises: InvalidIdentifier."""
        require_name(adapter, "adapter")
        return await self._store.set_adapter_limits(tenant, adapter, change, actor=actor)


def _rationale(text: str) -> Payload:
    body = text.encode()
    if not text.strip():
        raise InvalidSetting("a rationale is needed", hint="say why; it is kept with the record")
    if len(body) > RATIONALE_MAX:
        raise PayloadTooLarge(f"the rationale has {len(body):,} bytes; the limit is {RATIONALE_MAX:,}")
    return Payload(sha256_hex(body), body)


def _answer(command: Command, verdict: Verdict, actor: Actor, rationale: str, resource: str | None) -> bytes:
    """Return the recorded answer of a command that a person has resolved; it says who, and why."""
    wanted = command.intention
    if verdict is Verdict.CONFIRMED:
        shown = None if resource is None else {"id": resource, "type": _type_of(command)}
        body = answer_document(wanted, CommandState.CONFIRMED, resource=shown)
    else:
        body = answer_document(
            wanted, CommandState.REFUSED, code=BY_PERSON, message="a person says that it had no effect"
        )
    return canonical({**decode(body), "resolvedBy": {"actor": actor, "rationale": rationale}})


def _type_of(command: Command) -> str | None:
    kind = KINDS.get(command.intention.kind)
    return None if kind is None else kind.resource


def _makes(command: Command) -> str | None:
    """Return what a command makes that can be cancelled or stopped by its id, None when it makes no such thing."""
    kind = _type_of(command)
    return None if kind is None or not command.intention.opens else f"a{'n' * (kind == 'order')} {kind}"


def _recorded(command: Command, resource: str | None) -> Resource | None:
    """Return what a person says has come of a command, so that it can be cancelled or stopped by its id."""
    wanted, kind = command.intention, _type_of(command)
    if resource is None or kind is None or not wanted.opens:
        return None
    body = canonical({"clientId": command.id, "id": resource, "type": kind})
    return Resource(
        *(wanted.tenant, wanted.adapter, kind, resource, command.id, _UNSEEN[kind], "", body), live=True
    )
