"""The command layer: the one way to an effect. It journals before it sends, and finds out what it cannot know.

Owns: `CommandLayer`. Look up the key, validate, journal `intended`, gates, journal `sent`, call the adapter,
journal what came of it. After a crash or a time-out the outcome is looked for by the client id until it is known.
Must not touch: what an entry of the journal may be (`core.commands`), how any provider is spoken to (`adapters`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
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
    detail_of,
)
from sovrun.core.commands.model import (
    CancelOrder,
    CreateDeployment,
    PlaceOrder,
    StopDeployment,
    typed_payload,
)
from sovrun.core.commands.model import Payload as Wanted
from sovrun.core.commands.resolution import (
    Adopt,
    Deny,
    LookAgain,
    Park,
    Resend,
    Rules,
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
from sovrun.execution.instants import Instant, instant_of
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
from sovrun.execution.sightings import look_for, otherwise, recorded, resource_json, unseen, why
from sovrun.ports import Clock, Identity
from sovrun.store.journal import Intent
from sovrun.store.payload import Payload
from sovrun.store.protocol import Store

__all__ = ["Answered", "CommandLayer", "CommandRequest", "Prepared"]

EFFECT_US: Final = 10_000_000
"""How long an effect may take to be answered."""
TAKEOVER_US: Final = 60_000_000
"""How long after a send another process may take a command to be abandoned."""
SEND_WITHIN_US: Final = 10_000_000
"""How long after it asked for the entry of a send a process may still begin with it; others may take it over later."""
FLIGHT_US: Final = SEND_WITHIN_US + 2 * EFFECT_US
"""How long after its entry a send may still leave a process that has not noticed that another has taken it over."""
PATIENCE_US: Final = 3_600 * 1_000_000
UNDER_WAY_MAX: Final = 64
OPEN_MAX: Final = 10_000
"""How many open commands `settle` takes up."""
EVER_US: Final = 1 << 62
SOON_US: Final = 2_000_000
"""What is due so soon, `settle` waits for: the first looks at what has just become unknown."""
AT_ONCE_MAX: Final = 16
"""How many commands of one adapter are sent or looked for at a time."""
STORE_RETRY_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 0.25
_STOOD_STILL: Final = "this process stood still before it could send"


@dataclass(frozen=True, slots=True)
class Answered:
    """A concluded command with its recorded answer, the same bytes for every repeat."""

    command: Command
    body: bytes


class CommandLayer:
    """Performs the commands of one store.

    Args:
        alone: no other layer works on this store, so that what was sent before this one began was left by the dead, and
            can be taken up at once. Otherwise it is taken up when its time is over, and whoever sent it may still do so.
    """

    def __init__(
        self, store: Store, adapters: AdapterSet, clock: Clock, identity: Identity, *, alone: bool = True
    ) -> None:
        self._store = store
        self.adapters = adapters
        self._clock = clock
        self._requests = Requests(store, adapters, identity)
        self._handler = identity.fresh()
        """Made up for this life of the process, recorded with each send."""
        self._alone = alone
        self._watched: dict[CommandId, tuple[int, int]] = {}
        """Since when, by the clock that is never set, this process has seen that an earlier send had been given up."""
        self._lanes: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(AT_ONCE_MAX))
        """Of each adapter: were all asked at once, a slow provider would answer none of them in time, again and again."""
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
        intent = await self.begin(request)
        return await self.answer(request.tenant, intent.command.id, patience_us=patience_us)

    async def begin(self, request: CommandRequest) -> Intent:
        """Journal a command, which is performed as soon as the layer runs, or find an identical one under its key.

        Raises: what `prepare` raises; IdempotencyKeyConflict; StoreUnavailable.
        """
        command = await self._requests.known(request)
        if command is not None:
            return Intent(command, created=False)
        prepared = await self.prepare(request)
        intent = await self._store.intend(prepared.intention, payloads=(prepared.payload,))
        self._moved.set()
        return intent

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
        if self._alone:
            await self._persist(self._store.disown_commands)
        while not self._stopping:
            self._moved.clear()
            await self._begin_due()

    async def _begin_due(self) -> None:
        """Wait for what is due, and begin what is not under way of it."""
        due = await self._due()
        if self._stopping:
            return
        if due and not self._begin(due):  # all of it waits for its lane, and others may come for another lane
            # `wait_for` would lose a cancellation that comes together with what it waits for
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._moved.wait()

    def _begin(self, due: Sequence[Command]) -> int:
        """Begin with those that are not under way; return how many that were."""
        fresh = [command for command in due if command.id not in self._under_way]
        for command in fresh:
            task = asyncio.create_task(self._drive(command))
            self._under_way[command.id] = task
            task.add_done_callback(lambda _, name=command.id: self._over(name))  # type: ignore[misc]
        return len(fresh)

    async def settle(self) -> None:
        """Take every open command as far as it goes now, and see to what is due soon after. Raises: StoreUnavailable."""
        tried: set[tuple[CommandId, int]] = set()
        within_us = EVER_US  # at first all of them, whenever they are due: a look does no harm
        while True:
            by_us = self._clock.now_us() + within_us
            left = await self._store.open_commands(OPEN_MAX)
            # what could not be taken further is as it was; what another process may be sending is not touched
            due = [
                (one.due_us or 0, one)
                for one in left
                if (one.id, one.revision) not in tried
                and (one.due_us or 0) <= (by_us - within_us if one.state is CommandState.SENT else by_us)
            ]
            if not due and not self._under_way:
                return
            if due and within_us == SOON_US:
                await asyncio.sleep(max(0, due[0][0] - self._clock.now_us()) / 1e6)
            self._begin([one for _, one in due])
            tried |= {(one.id, one.revision) for _, one in due}
            if self._under_way:
                await asyncio.wait([*self._under_way.values()])
            within_us = SOON_US

    async def _due(self) -> Sequence[Command]:
        limit = UNDER_WAY_MAX + len(
            self._under_way
        )  # those may be due still: nothing of them is journalled yet
        try:
            return await self._store.due_commands(limit, patience_us=PATIENCE_US)
        except StoreUnavailable:
            await asyncio.sleep(STORE_RETRY_SECONDS)
            return ()

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
            if command.state is CommandState.SENT:
                now_us = self._clock.now_us()
                command = await self._note(command, BecameUnknown(UnknownReason.INTERRUPTED, now_us))
            async with self._lanes[command.intention.adapter]:
                if command.state is CommandState.UNKNOWN:
                    await self._look(command)
                    return
                admitted, begun = await self._admit(command)
                if admitted.state is CommandState.SENT:
                    await self._send(admitted, begun)
        except (CommandMoved, IllegalTransition):
            return  # somebody else has taken it further
        except Exception:
            await asyncio.sleep(STORE_RETRY_SECONDS)  # it may be due still, and would fail again and again
            raise

    async def _admit(self, command: Command) -> tuple[Command, Instant]:
        tenant = command.intention.tenant

        async def admit() -> tuple[Command, Instant]:
            begun = instant_of(self._clock)
            due_us = begun.now_us + TAKEOVER_US
            return await self._store.admit(tenant, command.id, handler=self._handler, due_us=due_us), begun

        admitted: tuple[Command, Instant] = await self._persist(admit)
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

    async def _send(self, command: Command, begun: Instant) -> None:
        """Call the adapter for a command that is journalled as sent, and journal what came of it.

        Args:
            begun: when the entry was asked for. A process that has stood still since then sends nothing any more.
        """
        outcome: Done | Rejected
        try:
            wanted = command.intention
            adapter = effects_of(self.adapters, wanted.tenant, wanted.adapter)
            payload = await self._payload(command)
        except (AdapterUnavailable, StoreUnavailable) as error:
            await self._became_unknown(command, UnknownReason.NOT_REACHED, error.detail)
            return
        if begun.longest_since_us(instant_of(self._clock)) > SEND_WITHIN_US:
            await self._became_unknown(command, UnknownReason.NOT_REACHED, _STOOD_STILL)
            return
        try:
            async with asyncio.timeout(2 * EFFECT_US / 1e6):
                outcome = await _effect(adapter, self._call(command), command.intention.kind, payload)
        except OutcomeUnknown as unknown:
            await self._became_unknown(command, UnknownReason(unknown.reason), why(unknown))
        except TimeoutError as late:
            await self._became_unknown(command, UnknownReason.TIMEOUT, why(late))
        except asyncio.CancelledError:
            raise
        except Exception as fault:
            await self._became_unknown(command, UnknownReason.BAD_ANSWER, why(fault))
            raise
        else:
            await self._answered(command, typed_payload(wanted.kind, payload), outcome)

    async def _answered(self, command: Command, wanted: Wanted, outcome: Done | Rejected) -> None:
        if isinstance(outcome, Rejected):
            if outcome.duplicate:
                await self._became_unknown(command, UnknownReason.DUPLICATE, outcome.message)
            else:
                await self._refuse(command, outcome.code, outcome.message)
        elif other := otherwise(command.id, wanted, outcome.resource):
            await self._became_unknown(
                command, UnknownReason.BAD_ANSWER, f"it tells of something else: {other}"
            )
        else:
            await self._confirm(command, "answered", outcome.resource)

    async def _became_unknown(self, command: Command, reason: UnknownReason, detail: str) -> None:
        """Journal that nobody knows what came of a send; `detail` tells people what is known of why."""
        delay_us = 0 if reason is UnknownReason.DUPLICATE else look_delay_us(0, self._rules(command))
        given_up = instant_of(self._clock)
        event = BecameUnknown(reason, given_up.now_us + delay_us, detail_of(detail))
        noted = await self._note(command, event)
        if noted.reached_us is not None and noted.reached_us != command.reached_us:
            self._watched[command.id] = (noted.reached_us, given_up.elapsed_us)

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

    async def _payload(self, command: Command) -> Mapping[str, Any]:
        wanted = command.intention
        body = await self._store.payload(wanted.tenant, wanted.payload)
        assert body is not None  # noqa: S101 -- kept in the write that intended it
        return dict(decode(body))

    def _call(self, command: Command) -> Call:
        wanted = command.intention
        return Call(wanted.tenant, wanted.actor, wanted.mode, command.id, EFFECT_US)

    # --- outcomes that are not known --------------------------------------------------------------------------------

    async def _look(self, command: Command) -> None:
        """Look for an unknown command at the provider, and do what follows from what is seen."""
        asked = instant_of(self._clock)  # what comes about while the answer is on its way is not in it
        fault: Exception | None = None
        try:
            reads = self.adapters.reads(command.intention.tenant, command.intention.adapter)
            payload = await self._payload(command)
            async with asyncio.timeout(2 * EFFECT_US / 1e6):
                seen = await look_for(reads, self._call(command), command, payload)
        except (OutcomeUnknown, AdapterUnavailable, StoreUnavailable, TimeoutError) as error:
            seen = unseen(error)
        except Exception as error:  # noqa: BLE001 -- whatever an adapter does wrong, nothing was seen
            seen, fault = unseen(error), error
        rules = self._rules(command)
        verdict = after_looking(command, seen.sighting, rules, asked.now_us)
        if isinstance(verdict, Resend) and (left_us := self._left_us(command, rules, asked)) > 0:
            verdict = LookAgain(self._clock.now_us() + left_us)
        match verdict:
            case Adopt():
                assert seen.resource is not None  # noqa: S101 -- found
                await self._confirm(command, "found", seen.resource)
            case Deny():
                await self._refuse(command, "target_is_over", "what it acts on is over; it had no effect")
            case Resend():
                begun = instant_of(self._clock)
                event = Sent(self._handler, begun.now_us + TAKEOVER_US)
                await self._send(await self._note(command, event), begun)
            case LookAgain(due_us):
                await self._note(command, Looked(seen.sighting, due_us, detail_of(seen.detail)))
            case Park(reason, due_us):
                await self._note(command, Parked(reason, due_us, detail_of(seen.detail)))
        if fault is not None:
            raise fault

    def _left_us(self, command: Command, rules: Rules, asked: Instant) -> int:
        """Return for how long a send that was given up may still have an effect, as far as this process has seen time pass.

        The journal's instants are of a clock that may have been set since.
        """
        if command.reached_us is None:
            return 0
        since = self._watched.get(command.id)
        if since is None or since[0] != command.reached_us:
            since = self._watched[command.id] = (command.reached_us, asked.elapsed_us)
        is_over = self._alone or command.handler == self._handler
        flight_us = 0 if is_over else FLIGHT_US
        return since[1] + rules.deadline_us + flight_us - asked.elapsed_us

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
            return await adapter.perform_further(call, kind, payload)
