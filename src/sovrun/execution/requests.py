"""What is asked of the command layer, and whether it is well-formed. Nothing here is written, and no effect called.

Owns: `CommandRequest`, `Prepared`, `Requests`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from sovrun.core.canonical import canonical, decode, sha256_hex
from sovrun.core.commands.gates import EXACT
from sovrun.core.commands.journal import Command, Intention, command_id
from sovrun.core.commands.kinds import undeclared
from sovrun.core.commands.model import (
    KINDS,
    PAYLOAD_MAX,
    CommandKind,
    CreateDeployment,
    PlaceOrder,
    decimal_text,
    is_kind_name,
    normal_payload,
    typed_payload,
)
from sovrun.core.errors import (
    AdapterUnavailable,
    IdempotencyKeyRequired,
    InvalidCommand,
    NotFound,
    PayloadTooLarge,
    UnknownSymbol,
)
from sovrun.core.ids import Actor, RunId, StepId, Tenant, idempotency_key
from sovrun.execution.adapter_set import AdapterSet
from sovrun.execution.port import AdapterReads, Call, OutcomeUnknown
from sovrun.ports import Identity
from sovrun.store.payload import Payload
from sovrun.store.protocol import INLINE_MAX, Store


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """What a caller asks for.

    Args:
        payload: JSON, not yet checked.
        key: idempotency key; kinds that only end something may do without.
        run, step, position: the step that asks.
    """

    tenant: Tenant
    kind: str
    adapter: str
    payload: Any
    actor: Actor
    mode: str = "paper"
    key: str | None = None
    run: RunId | None = None
    step: StepId | None = None
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request found well-formed: what is to be journalled, and the payload that goes with it."""

    intention: Intention
    payload: Payload


class Requests:
    """Finds requests well-formed, and knows again what was asked before."""

    def __init__(self, store: Store, adapters: AdapterSet, identity: Identity) -> None:
        self._store = store
        self._adapters = adapters
        self._identity = identity

    async def known(self, request: CommandRequest) -> Command | None:
        """Return the command that an identical request has made before under its key, None when there is none.

        No adapter is asked: a repeat has its answer also when the adapter is gone, or takes such commands no more.
        Raises: InvalidCommand, InvalidIdentifier, PayloadTooLarge; IdempotencyKeyConflict when it was another request.
        """
        if request.key is None or not is_kind_name(request.kind):
            return None
        name = command_id(request.tenant, request.kind, idempotency_key(request.key))
        try:
            recorded = await self._store.command(request.tenant, name)
        except NotFound:
            return None
        kind = self._kind_then(request, recorded.intention.version)
        return (await self._store.intend(_shaped(request, kind, request.key).intention)).command

    def _kind_then(self, request: CommandRequest, version: int) -> CommandKind:
        """Return the kind of a command that was recorded; its adapter may be gone, or declare another version by now."""
        known = KINDS.get(request.kind)
        if known is None:
            with suppress(AdapterUnavailable):
                reads = self._adapters.reads(request.tenant, request.adapter)
                known = reads.capabilities.kinds.get(request.kind)
        return known if known and known.version == version else undeclared(request.kind, version)

    async def prepare(self, request: CommandRequest) -> Prepared:
        """See `CommandLayer.prepare`."""
        reads = self._adapters.reads(request.tenant, request.adapter)
        kind = _kind_of(request.kind, reads)
        if request.mode not in reads.capabilities.modes:
            raise InvalidCommand(
                f"adapter {request.adapter} is for {', '.join(sorted(reads.capabilities.modes))}, not for mode"
                f" {request.mode!r:.40}",
                kind=request.kind,
            )
        if request.key is None and kind.needs_key:
            raise IdempotencyKeyRequired(
                f"{request.kind} needs an idempotency key",
                hint="choose one for this intention and give it again with every repeat",
            )
        shaped = _shaped(request, kind, request.key if request.key is not None else self._identity.fresh())
        assert shaped.payload.body is not None  # noqa: S101 -- just made
        payload: Mapping[str, Any] = decode(shaped.payload.body)
        target = shaped.intention.target
        if target is not None and kind.resource is not None:
            await self._require_own(request, kind.resource, target)
        symbol, notional = await self._weigh(request, reads, payload)
        return Prepared(replace(shaped.intention, symbol=symbol, notional=notional), shaped.payload)

    async def _require_own(self, request: CommandRequest, resource: str, target: str) -> None:
        if await self._store.resource(request.tenant, request.adapter, resource, target) is None:
            raise NotFound(
                f"tenant {request.tenant} has no {resource} {target!r:.140} at {request.adapter}",
                hint="`sovrun resources` lists what its commands have made",
            )

    async def _weigh(
        self, request: CommandRequest, reads: AdapterReads, payload: Mapping[str, Any]
    ) -> tuple[str | None, str | None]:
        """Return the symbol and the value of a command, as far as there are any. Raises: UnknownSymbol."""
        wanted = typed_payload(request.kind, payload)
        if isinstance(wanted, CreateDeployment):
            return None, None if wanted.capital is None else decimal_text(wanted.capital)
        if not isinstance(wanted, PlaceOrder):
            return None, None
        known = reads.capabilities.symbols
        if known is not None and wanted.symbol not in known:
            raise UnknownSymbol(
                f"adapter {request.adapter} does not trade {wanted.symbol!r}",
                hint=f"it trades {_some(known)}",
            )
        price = wanted.price
        if price is None:
            price = await self._quote(request, reads, wanted.symbol)
        return wanted.symbol, None if price is None else decimal_text(EXACT.multiply(price, wanted.quantity))

    async def _quote(self, request: CommandRequest, reads: AdapterReads, symbol: str) -> Decimal | None:
        try:
            return await reads.quote(Call(request.tenant, request.actor, request.mode), symbol)
        except OutcomeUnknown:
            return None


def _shaped(request: CommandRequest, kind: CommandKind, key: str) -> Prepared:
    """Return a request by itself, without what only the adapter knows of it."""
    payload = normal_payload(kind, request.payload)
    body = canonical(payload)
    for limit in (PAYLOAD_MAX, INLINE_MAX):
        if len(body) > limit:
            raise PayloadTooLarge(f"the payload has {len(body):,} bytes; the limit is {limit:,}")
    digest = sha256_hex(body)
    intention = Intention(
        *(
            request.tenant,
            kind.name,
            kind.version,
            idempotency_key(key),
            request.adapter,
            request.mode,
            digest,
        ),
        actor=request.actor,
        opens=kind.opens,
        target=None if kind.target is None else payload[kind.target],
        run=request.run,
        step=request.step,
        position=request.position,
    )
    return Prepared(intention, Payload(digest, body))


def _kind_of(name: str, reads: AdapterReads) -> CommandKind:
    """Return a kind that the adapter takes. Raises: InvalidCommand."""
    known = KINDS.get(name)
    if known is not None and known.resource in reads.capabilities.resources:
        return known
    further = reads.capabilities.kinds.get(name)
    if known is None and further is not None:
        return further
    takes = [kind.name for kind in KINDS.values() if kind.resource in reads.capabilities.resources]
    raise InvalidCommand(
        f"adapter {reads.name} does not take {name!r:.80}",
        hint=f"it takes {_some({*takes, *reads.capabilities.kinds})}",
        kind=name,
    )


def _some(names: frozenset[str] | set[str]) -> str:
    return ", ".join(sorted(names)[:12]) + (", ..." if len(names) > 12 else "")
