"""The command layer: the one way to an effect. It journals before it sends, and finds out what it cannot know.

Owns: `CommandLayer`, `CommandRequest`. Validate, look up the key, journal `intended`, gates, journal `sent`, call the adapter,
journal what came of it. After a crash or a time-out the outcome is looked for by the client id until it is known.
Must not touch: what an entry of the journal may be (`core.commands`), how any provider is spoken to (`adapters`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from sovrun.core.canonical import canonical, decode, sha256_hex
from sovrun.core.commands.gates import EXACT
from sovrun.core.commands.journal import (
    CONCLUDED,
    BecameUnknown,
    Command,
    CommandEvent,
    CommandId,
    CommandState,
    Confirmed,
    Intention,
    Looked,
    Parked,
    Refused,
    Sent,
    UnknownReason,
    answer_document,
)
from sovrun.core.commands.model import (
    KINDS,
    PAYLOAD_MAX,
    CancelOrder,
    CommandKind,
    CreateDeployment,
    PlaceOrder,
    StopDeployment,
    decimal_text,
    is_kind_name,
    normal_payload,
    typed_payload,
)
from sovrun.core.commands.resolution import (
    Adopt,
    Deny,
    LookAgain,
    Park,
    Resend,
    Rules,
    Sighting,
    after_looking,
    look_delay_us,
)
from sovrun.core.errors import (
    AdapterUnavailable,
    CommandMoved,
    IdempotencyKeyInFlight,
    IdempotencyKeyRequired,
    IllegalTransition,
    InvalidCommand,
    NotFound,
    PayloadTooLarge,
    StoreUnavailable,
    UnknownSymbol,
)
from sovrun.core.events import ENGINE
from sovrun.core.ids import Actor, RunId, StepId, Tenant, idempotency_key
from sovrun.execution.adapter_set import AdapterSet, effects_of
from sovrun.execution.port import (
    AdapterReads,
    Call,
    Deployment,
    Done,
    ExecutionAdapter,
    Order,
    OutcomeUnknown,
    Rejected,
)
from sovrun.execution.sightings import Seen, look_for, recorded, resource_json
from sovrun.ports import Clock, Identity
from sovrun.store.payload import Payload
from sovrun.store.protocol import INLINE_MAX, Store

EFFECT_US: Final = 10_000_000
"""How long an effect may take to be answered."""
TAKEOVER_US: Final = 60_000_000
"""How long after a send another process may take a command to be abandoned."""
PATIENCE_US: Final = 3_600 * 1_000_000
UNDER_WAY_MAX: Final = 64
STORE_RETRY_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 0.25


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


@dataclass(frozen=True, slots=True)
class Answered:
    """A concluded command with its recorded answer, the same bytes for every repeat."""

    command: Command
    body: bytes


class CommandLayer:
    """Performs the commands of one store.

    Args:
        handler: made up for this life of the process, recorded with each send.
    """

    def __init__(self, store: Store, adapters: AdapterSet, clock: Clock, identity: Identity) -> None:
        self._store = store
        self.adapters = adapters
        self._clock = clock
        self._identity = identity
        self._handler = identity.fresh()
        self._under_way: dict[CommandId, asyncio.Task[None]] = {}
        self._told: dict[CommandId, list[asyncio.Future[None]]] = {}
        self._stopping = False

    # --- what callers ask -----------------------------------------------------------------------------------------

    async def prepare(self, request: CommandRequest) -> Prepared:
        """Return a request as it is to be journalled; nothing is written.

        Raises: InvalidCommand, IdempotencyKeyRequired, InvalidIdentifier, AdapterUnavailable, UnknownSymbol, NotFound
            (the target is none of the tenant's), PayloadTooLarge.
        """
        reads = self.adapters.reads(request.tenant, request.adapter)
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
        key = idempotency_key(request.key if request.key is not None else self._identity.fresh())
        payload = normal_payload(kind, request.payload)
        body = canonical(payload)
        if len(body) > PAYLOAD_MAX:
            raise PayloadTooLarge(f"the payload has {len(body):,} bytes; the limit is {PAYLOAD_MAX:,}")
        if len(body) > INLINE_MAX:
            raise PayloadTooLarge(f"the payload has {len(body):,} bytes; the limit is {INLINE_MAX:,}")
        target = None if kind.target is None else payload[kind.target]
        if target is not None and kind.resource is not None:
            await self._require_own(request, kind.resource, target)
        symbol, notional = await self._weigh(request, reads, payload)
        digest = sha256_hex(body)
        intention = Intention(
            *(request.tenant, kind.name, kind.version, key, request.adapter, request.mode, digest),
            actor=request.actor,
            opens=kind.opens,
            symbol=symbol,
            notional=notional,
            target=target,
            run=request.run,
            step=request.step,
            position=request.position,
        )
        return Prepared(intention, Payload(digest, body))

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

    async def execute(self, request: CommandRequest, *, patience_us: int) -> Answered:
        """Perform a command, or return what is recorded of an identical one under its key.

        Raises: what `prepare` raises; IdempotencyKeyConflict; IdempotencyKeyInFlight when it has no outcome within
            `patience_us`; StoreUnavailable.
        """
        prepared = await self.prepare(request)
        intent = await self._store.intend(prepared.intention, payloads=(prepared.payload,))
        return await self.answer(request.tenant, intent.command.id, patience_us=patience_us)

    async def answer(self, tenant: Tenant, command: CommandId, *, patience_us: int) -> Answered:
        """Return the recorded answer of a command once it is concluded. Raises: IdempotencyKeyInFlight, NotFound."""
        until_us = self._clock.elapsed_us() + patience_us
        while True:
            told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waiting = self._told.setdefault(command, [])
            waiting.append(told)
            try:
                found = await self._store.command(tenant, command)
                if found.state in CONCLUDED:
                    return Answered(found, await self._body(tenant, found))
                left_us = until_us - self._clock.elapsed_us()
                if left_us <= 0:
                    raise IdempotencyKeyInFlight(
                        f"command {command} is {found.state} and has no outcome yet",
                        hint=f"`sovrun commands {command}` shows what is known",
                        command=command,
                    )
                await asyncio.wait([told], timeout=min(left_us / 1e6, LOOK_SECONDS))
            finally:
                waiting.remove(told)
                if not waiting:
                    self._told.pop(command, None)

    async def _body(self, tenant: Tenant, command: Command) -> bytes:
        assert command.response is not None  # noqa: S101 -- set by every conclusion
        body = await self._store.payload(tenant, command.response)
        assert body is not None  # noqa: S101 -- kept in the same write
        return body

    # --- the life of the layer ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Perform what is due until stopped. What a dead process left is taken up at once."""
        await self._persist(self._store.disown_commands)
        while not self._stopping:
            try:
                due = await self._store.due_commands(UNDER_WAY_MAX, patience_us=PATIENCE_US)
            except StoreUnavailable:
                await asyncio.sleep(STORE_RETRY_SECONDS)
                continue
            for command in due:
                if command.id not in self._under_way:
                    task = asyncio.create_task(self._drive(command))
                    self._under_way[command.id] = task
                    task.add_done_callback(lambda _, name=command.id: self._over(name))  # type: ignore[misc]
            if self._under_way and due:
                await asyncio.wait(self._under_way.values(), return_when=asyncio.FIRST_COMPLETED)

    async def stop(self) -> None:
        """Begin nothing more and let what was sent have its answer. Call before the store is closed."""
        self._stopping = True
        if self._under_way:
            await asyncio.wait(self._under_way.values(), timeout=EFFECT_US / 1e6)
        for task in self._under_way.values():
            task.cancel()

    def _over(self, command: CommandId) -> None:
        task = self._under_way.pop(command)
        for told in self._told.get(command, ()):
            if not told.done():
                told.set_result(None)
        if not task.cancelled() and task.exception() is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"command {command} could not be taken further", "exception": task.exception()}
            )

    async def _persist(self, write: Any) -> Any:
        """Write to the journal, again and again while the store is not available: what happened outside must be kept."""
        while True:
            try:
                return await write()
            except StoreUnavailable:
                if self._stopping:
                    raise
                await asyncio.sleep(STORE_RETRY_SECONDS)

    async def _drive(self, command: Command) -> None:
        """Take one command as far as it goes now."""
        try:
            if command.state is CommandState.INTENDED:
                admitted = await self._admit(command)
                if admitted.state is CommandState.SENT:
                    await self._send(admitted)
            elif command.state is CommandState.SENT:
                now_us = self._clock.now_us()
                await self._look(await self._note(command, BecameUnknown(UnknownReason.INTERRUPTED, now_us)))
            elif command.state is CommandState.UNKNOWN:
                await self._look(command)
        except (CommandMoved, IllegalTransition):
            return  # somebody else has taken it further

    async def _admit(self, command: Command) -> Command:
        tenant = command.intention.tenant

        async def admit() -> Command:
            due_us = self._clock.now_us() + TAKEOVER_US
            return await self._store.admit(tenant, command.id, handler=self._handler, due_us=due_us)

        admitted: Command = await self._persist(admit)
        return admitted

    async def _note(
        self,
        command: Command,
        event: CommandEvent,
        body: bytes | None = None,
        seen: Deployment | Order | Mapping[str, Any] | None = None,
    ) -> Command:
        payloads = () if body is None else (Payload(sha256_hex(body), body),)
        resource = recorded(command, seen) if isinstance(seen, Deployment | Order) else None

        async def note() -> Command:
            tenant = command.intention.tenant
            return await self._store.note(
                *(tenant, command.id, command.revision, event),
                actor=ENGINE,
                payloads=payloads,
                resource=resource,
            )

        noted: Command = await self._persist(note)
        return noted

    # --- effects --------------------------------------------------------------------------------------------------

    async def _send(self, command: Command) -> None:
        """Call the adapter for a command that is journalled as sent, and journal what came of it."""
        outcome: Done | Rejected
        try:
            adapter, payload = await self._adapter_and_payload(command)
            async with asyncio.timeout(2 * EFFECT_US / 1e6):
                outcome = await _effect(adapter, self._call(command), command.intention.kind, payload)
        except AdapterUnavailable:
            await self._became_unknown(command, UnknownReason.NOT_REACHED)
        except OutcomeUnknown as unknown:
            await self._became_unknown(command, UnknownReason(unknown.reason))
        except TimeoutError:
            await self._became_unknown(command, UnknownReason.TIMEOUT)
        except asyncio.CancelledError:
            raise
        except Exception:
            await self._became_unknown(command, UnknownReason.BAD_ANSWER)
            raise
        else:
            await self._answered(command, outcome)

    async def _answered(self, command: Command, outcome: Done | Rejected) -> None:
        if isinstance(outcome, Done):
            await self._confirm(command, "answered", outcome.resource)
        elif outcome.duplicate:
            await self._became_unknown(command, UnknownReason.DUPLICATE)
        else:
            await self._refuse(command, outcome.code, outcome.message)

    async def _became_unknown(self, command: Command, reason: UnknownReason) -> None:
        delay_us = 0 if reason is UnknownReason.DUPLICATE else look_delay_us(0, self._rules(command))
        await self._note(command, BecameUnknown(reason, self._clock.now_us() + delay_us))

    async def _confirm(
        self, command: Command, how: str, resource: Deployment | Order | Mapping[str, Any]
    ) -> None:
        shown = resource_json(resource)
        body = answer_document(command.intention, CommandState.CONFIRMED, resource=shown)
        name = shown.get("id")
        event = Confirmed(how, sha256_hex(body), name if isinstance(name, str) else None)
        await self._note(command, event, body, resource)

    async def _refuse(self, command: Command, code: str, message: str) -> None:
        body = answer_document(command.intention, CommandState.REFUSED, code=code, message=message[:2_000])
        await self._note(command, Refused("answered", code, sha256_hex(body)), body)

    async def _adapter_and_payload(self, command: Command) -> tuple[ExecutionAdapter, Mapping[str, Any]]:
        wanted = command.intention
        adapter = effects_of(self.adapters, wanted.tenant, wanted.adapter)
        body = await self._store.payload(wanted.tenant, wanted.payload)
        assert body is not None  # noqa: S101 -- kept in the write that intended it
        payload: Mapping[str, Any] = decode(body)
        return adapter, payload

    def _call(self, command: Command) -> Call:
        wanted = command.intention
        return Call(wanted.tenant, wanted.actor, wanted.mode, command.id, EFFECT_US)

    # --- outcomes that are not known --------------------------------------------------------------------------------

    async def _look(self, command: Command) -> None:
        """Look for an unknown command at the provider, and do what follows from what is seen."""
        seen = Seen(Sighting.UNREACHABLE)
        try:
            adapter, payload = await self._adapter_and_payload(command)
            async with asyncio.timeout(2 * EFFECT_US / 1e6):
                seen = await look_for(adapter, self._call(command), command, payload)
        except (OutcomeUnknown, TimeoutError, AdapterUnavailable):
            pass
        verdict = after_looking(command, seen.sighting, self._rules(command), self._clock.now_us())
        match verdict:
            case Adopt():
                assert seen.resource is not None  # noqa: S101 -- found
                await self._confirm(command, "found", seen.resource)
            case Deny():
                await self._refuse(command, "target_is_over", "what it acts on is over; it had no effect")
            case Resend():
                due_us = self._clock.now_us() + TAKEOVER_US
                await self._send(await self._note(command, Sent(self._handler, due_us)))
            case LookAgain(due_us):
                await self._note(command, Looked(seen.sighting, due_us))
            case Park(reason, due_us):
                await self._note(command, Parked(reason, due_us))

    def _rules(self, command: Command) -> Rules:
        wanted = command.intention
        try:
            known = self.adapters.reads(wanted.tenant, wanted.adapter).capabilities
        except AdapterUnavailable:
            return Rules(deadline_us=PATIENCE_US, absence_is_conclusive=False)
        return Rules(known.processing_deadline_us, known.absence_is_conclusive)


def _kind_of(name: str, reads: AdapterReads) -> CommandKind:
    """Return a kind that the adapter takes. Raises: InvalidCommand."""
    known = KINDS.get(name)
    if known is not None and known.resource in reads.capabilities.resources:
        return known
    if known is None and name in reads.capabilities.kinds and is_kind_name(name):
        return CommandKind(name, 1, {"type": "object"}, needs_key=True, opens=True, resource=None)
    takes = [kind.name for kind in KINDS.values() if kind.resource in reads.capabilities.resources]
    raise InvalidCommand(
        f"adapter {reads.name} does not take {name!r:.80}",
        hint=f"it takes {_some({*takes, *reads.capabilities.kinds})}",
        kind=name,
    )


def _some(names: frozenset[str] | set[str]) -> str:
    return ", ".join(sorted(names)[:12]) + (", ..." if len(names) > 12 else "")


async def _effect(
    adapter: ExecutionAdapter, call: Call, kind: str, payload: Mapping[str, Any]
) -> Done | Rejected:
    wanted = typed_payload(kind, payload)
    match wanted:
        case CreateDeployment():
            return await adapter.create_deployment(call, wanted)
        case StopDeployment():
            return await adapter.stop_deployment(call, wanted)
        case PlaceOrder():
            return await adapter.place_order(call, wanted)
        case CancelOrder():
            return await adapter.cancel_order(call, wanted)
        case _:
            return await adapter.perform(call, kind, payload)
