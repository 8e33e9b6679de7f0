"""The command layer: the one way to an effect. It journals before it sends, and finds out what it cannot know.

Owns: `CommandLayer`. Look up the key, validate, journal `intended`, gates, journal `sent`, call the adapter,
journal what came of it. After a crash or a time-out the outcome is looked for by the client id until it is known.
Must not touch: what an entry of the journal may be (`core.commands`), how any provider is spoken to (`adapters`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sovrun.core.canonical import decode, sha256_hex
from sovrun.core.commands.journal import (
    CONCLUDED,
    BecameUnknown,
    Command,
    CommandEvent,
    CommandId,
    CommandState,
    Confirmed,
    Looked,
    Parked,
    Refused,
    Sent,
    UnknownReason,
    answer_document,
)
from sovrun.core.commands.model import (
    CancelOrder,
    CreateDeployment,
    PlaceOrder,
    StopDeployment,
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
    IllegalTransition,
    StoreUnavailable,
)
from sovrun.core.events import ENGINE
from sovrun.core.ids import Tenant
from sovrun.execution.adapter_set import AdapterSet, effects_of
from sovrun.execution.port import (
    Call,
    Deployment,
    Done,
    ExecutionAdapter,
    Order,
    OutcomeUnknown,
    Rejected,
)
from sovrun.execution.requests import CommandRequest, Prepared, Requests
from sovrun.execution.sightings import Seen, look_for, recorded, resource_json
from sovrun.ports import Clock, Identity
from sovrun.store.payload import Payload
from sovrun.store.protocol import Store

__all__ = ["Answered", "CommandLayer", "CommandRequest", "Prepared"]

EFFECT_US: Final = 10_000_000
"""How long an effect may take to be answered."""
TAKEOVER_US: Final = 60_000_000
"""How long after a send another process may take a command to be abandoned."""
PATIENCE_US: Final = 3_600 * 1_000_000
UNDER_WAY_MAX: Final = 64
STORE_RETRY_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 0.25


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
        self._requests = Requests(store, adapters, identity)
        self._handler = identity.fresh()
        self._under_way: dict[CommandId, asyncio.Task[None]] = {}
        self._told: dict[CommandId, list[asyncio.Future[None]]] = {}
        self._moved = asyncio.Event()
        """Set when a command that is under way has an entry more, or is over."""
        self._stopping = False

    # --- what callers ask -----------------------------------------------------------------------------------------

    async def prepare(self, request: CommandRequest) -> Prepared:
        """Return a request as it is to be journalled; nothing is written.

        Raises: InvalidCommand, IdempotencyKeyRequired, InvalidIdentifier, AdapterUnavailable, UnknownSymbol, NotFound
            (the target is none of the tenant's), PayloadTooLarge.
        """
        return await self._requests.prepare(request)

    async def execute(self, request: CommandRequest, *, patience_us: int) -> Answered:
        """Perform a command, or return what is recorded of an identical one under its key.

        Raises: what `prepare` raises; IdempotencyKeyConflict; IdempotencyKeyInFlight when it has no outcome within
            `patience_us`; StoreUnavailable.
        """
        command = await self._requests.known(request)
        if command is None:
            prepared = await self.prepare(request)
            command = (await self._store.intend(prepared.intention, payloads=(prepared.payload,))).command
        return await self.answer(request.tenant, command.id, patience_us=patience_us)

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
            self._moved.clear()
            try:  # what is under way may still be due, for nothing of it is journalled yet
                limit = UNDER_WAY_MAX + len(self._under_way)
                due = await self._store.due_commands(limit, patience_us=PATIENCE_US)
            except StoreUnavailable:
                await asyncio.sleep(STORE_RETRY_SECONDS)
                continue
            if self._stopping:
                return
            fresh = [command for command in due if command.id not in self._under_way]
            for command in fresh:
                task = asyncio.create_task(self._drive(command))
                self._under_way[command.id] = task
                task.add_done_callback(lambda _, name=command.id: self._over(name))  # type: ignore[misc]
            if due and not fresh:
                await self._moved.wait()

    async def stop(self) -> None:
        """Begin nothing more and let what was sent have its answer. Call before the store is closed."""
        self._stopping = True
        if self._under_way:
            await asyncio.wait(self._under_way.values(), timeout=EFFECT_US / 1e6)
        for task in self._under_way.values():
            task.cancel()

    def _over(self, command: CommandId) -> None:
        task = self._under_way.pop(command)
        self._moved.set()
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
        except Exception:
            await asyncio.sleep(STORE_RETRY_SECONDS)  # it may be due still, and would fail again and again
            raise

    async def _admit(self, command: Command) -> Command:
        tenant = command.intention.tenant

        async def admit() -> Command:
            due_us = self._clock.now_us() + TAKEOVER_US
            return await self._store.admit(tenant, command.id, handler=self._handler, due_us=due_us)

        admitted: Command = await self._persist(admit)
        self._moved.set()
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
        self._moved.set()
        return noted

    # --- effects --------------------------------------------------------------------------------------------------

    async def _send(self, command: Command) -> None:
        """Call the adapter for a command that is journalled as sent, and journal what came of it."""
        outcome: Done | Rejected
        try:
            adapter, payload = await self._adapter_and_payload(command)
        except (AdapterUnavailable, StoreUnavailable):
            await self._became_unknown(command, UnknownReason.NOT_REACHED)
            return
        try:
            async with asyncio.timeout(2 * EFFECT_US / 1e6):
                outcome = await _effect(adapter, self._call(command), command.intention.kind, payload)
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
        fault: Exception | None = None
        try:
            adapter, payload = await self._adapter_and_payload(command)
            async with asyncio.timeout(2 * EFFECT_US / 1e6):
                seen = await look_for(adapter, self._call(command), command, payload)
        except (OutcomeUnknown, TimeoutError, AdapterUnavailable, StoreUnavailable):
            pass
        except Exception as error:  # noqa: BLE001 -- whatever an adapter does wrong, nothing was seen
            fault = error
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
        if fault is not None:
            raise fault

    def _rules(self, command: Command) -> Rules:
        wanted = command.intention
        try:
            known = self.adapters.reads(wanted.tenant, wanted.adapter).capabilities
        except AdapterUnavailable:
            return Rules(deadline_us=PATIENCE_US, absence_is_conclusive=False)
        return Rules(known.processing_deadline_us, known.absence_is_conclusive)


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
