"""Between a command layer, its store and its providers: where calls get lost and processes die.

Owns: `Life`, one life of an engine's process; `LinkedStore` and `LinkedAdapter`, what it holds of the world.
Must not touch: what is called.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any, NoReturn, TypeVar, cast

from sovrun.core.actions import Action
from sovrun.core.commands.journal import Command, CommandEvent, CommandId, Intention, Looked, Parked, Sent
from sovrun.core.commands.model import CancelOrder, CreateDeployment, PlaceOrder, StopDeployment, decimal_text
from sovrun.core.errors import StoreUnavailable
from sovrun.core.ids import Actor, Digest, Tenant
from sovrun.execution.port import (
    Call,
    Deployment,
    Done,
    NotReached,
    Order,
    OutcomeUnknown,
    Portfolio,
    Rejected,
)
from sovrun.simulation.clock import SECOND_US, SimulatedClock
from sovrun.simulation.command_faults import AT_THE_STORE, IN_THE_EXCHANGE, CommandFault, Trouble
from sovrun.simulation.ledger import Called
from sovrun.simulation.provider import Provider, capabilities_of
from sovrun.store.journal import Intent, Resource
from sovrun.store.payload import Payload
from sovrun.store.protocol import Acted, Store

Answer = TypeVar("Answer")
STALLS_S = (1, 15, 70, 200)
"""How long a process may stand still between a store's answer and what follows from it."""


class Life:
    """One life of an engine's process.

    Attributes:
        fenced: the store is another's by now, and refuses this one; it has not noticed.
    """

    def __init__(self, clock: SimulatedClock, trouble: Trouble, on_death: Callable[[Life], None]) -> None:
        self.clock = clock
        self.trouble = trouble
        self.alive = True
        self.fenced = False
        self._on_death = on_death
        self._calls: list[Called] = []

    def began(self, call: Called) -> None:
        """Remember a call that ends with this life at the latest."""
        self._calls.append(call)

    def die(self) -> None:
        """End at once; what was on its way to others goes on."""
        if self.alive:
            self.alive = False
            for call in self._calls:
                if call.ended_us is None:
                    call.ended_us = self.clock.elapsed_us()
            self._on_death(self)

    async def point(self, fault: CommandFault) -> None:
        """Pass a place where this process may die."""
        if self.alive and self.trouble.happens(fault, self.trouble.rate / 4):
            self.die()
        if not self.alive:
            await self.end()

    async def end(self) -> NoReturn:
        """Never return: nobody is there any more."""
        await asyncio.get_running_loop().create_future()
        raise AssertionError("a dead process went on")


class LinkedStore:
    """The store as one life of an engine reaches it: the verbs of the journal, and the reads."""

    def __init__(self, store: Store, life: Life, *, told: Callable[[Command], None]) -> None:
        self._store = store
        self._life = life
        self._told = told

    def __getattr__(self, name: str) -> Any:
        """Return a read, which goes wrong only with the process."""
        verb = getattr(self._store, name)

        async def read(*given: Any, **named: Any) -> Any:
            await self._require()
            return await verb(*given, **named)

        return read

    async def intend(self, intention: Intention, *, payloads: Sequence[Payload] = ()) -> Intent:
        """See `Journal.intend`."""

        async def intend() -> Intent:
            intent = await self._store.intend(intention, payloads=payloads)
            if intent.created:
                self._told(intent.command)
            return intent

        before, after = CommandFault.CRASH_BEFORE_INTENT, CommandFault.CRASH_AFTER_INTENT
        return await self._write(intend, before, after)

    async def admit(self, tenant: Tenant, command: CommandId, *, handler: str, due_us: int) -> Command:
        """See `Journal.admit`."""

        async def admit() -> Command:
            admitted = await self._store.admit(tenant, command, handler=handler, due_us=due_us)
            self._told(admitted)
            return admitted

        return await self._write(admit, CommandFault.CRASH_BEFORE_SENT, CommandFault.CRASH_AFTER_SENT)

    async def note(
        self,
        tenant: Tenant,
        command: CommandId,
        revision: int,
        event: CommandEvent,
        *,
        actor: Actor,
        payloads: Sequence[Payload] = (),
        resource: Resource | None = None,
    ) -> Command:
        """See `Journal.note`."""

        async def note() -> Command:
            noted = await self._store.note(
                tenant, command, revision, event, actor=actor, payloads=payloads, resource=resource
            )
            self._told(noted)
            return noted

        if isinstance(event, Sent):
            points = CommandFault.CRASH_BEFORE_SENT, CommandFault.CRASH_AFTER_SENT
        elif isinstance(event, Looked | Parked):
            points = CommandFault.CRASH_BEFORE_LOOK, CommandFault.CRASH_AFTER_LOOK
        else:
            points = CommandFault.CRASH_BEFORE_RESULT, CommandFault.CRASH_AFTER_RESULT
        return await self._write(note, *points)

    async def act(self, action: Action, *, payloads: Sequence[Payload] = ()) -> Acted:
        """See `Store.act`."""

        async def act() -> Acted:
            return await self._store.act(action, payloads=payloads)

        return await self._write(act, CommandFault.CRASH_BEFORE_INTENT, CommandFault.CRASH_AFTER_INTENT)

    async def payload(self, tenant: Tenant, digest: Digest) -> bytes | None:
        """See `Reads.payload`; the process may stand still before it goes on."""
        await self._require()
        body = await self._store.payload(tenant, digest)
        await self._stall()
        return body

    async def due_commands(self, limit: int, *, patience_us: int = 0) -> Sequence[Command]:
        """See `Journal.due_commands`."""
        await self._require()
        due = await self._store.due_commands(limit, patience_us=patience_us)
        await self._require()
        return due

    async def _require(self) -> None:
        if not self._life.alive:
            await self._life.end()
        if self._life.fenced:
            raise StoreUnavailable("the store has another owner")

    async def _stall(self) -> None:
        trouble = self._life.trouble
        if trouble.happens(CommandFault.STORE_SLOW_ANSWER, trouble.rate / 4):
            await asyncio.sleep(trouble.rng.choice(STALLS_S))

    async def _write(
        self, verb: Callable[[], Awaitable[Answer]], before: CommandFault, after: CommandFault
    ) -> Answer:
        life, trouble = self._life, self._life.trouble
        await self._require()
        await life.point(before)
        fault = trouble.one_of(AT_THE_STORE, trouble.rate)
        if fault is CommandFault.STORE_LOST_CALL:
            raise StoreUnavailable("the call was lost")
        if fault is CommandFault.STORE_LATE_CALL:
            later(trouble.rng.choice((0.5, 1, 2, 90)), verb)
            raise StoreUnavailable("no answer yet")
        answer = await verb()
        await life.point(after)
        if fault is CommandFault.STORE_LOST_ANSWER:
            raise StoreUnavailable("the answer was lost")
        if fault is CommandFault.STORE_SLOW_ANSWER:
            await asyncio.sleep(trouble.rng.choice(STALLS_S))
        return answer


_UNDER_WAY: set[asyncio.Task[None]] = set()


def later(delay: float, what: Callable[[], Awaitable[object]]) -> None:
    """Let something happen by itself after so many seconds, whatever becomes of who began it; refusals are for nobody."""

    async def happen() -> None:
        await asyncio.sleep(delay)
        try:
            await what()
        except Exception as error:
            if not hasattr(error, "code"):
                raise

    task = asyncio.get_running_loop().create_task(happen())
    _UNDER_WAY.add(task)
    task.add_done_callback(_UNDER_WAY.discard)


class LinkedAdapter:
    """The `ExecutionAdapter` of a simulated provider, as one life of an engine holds it."""

    def __init__(self, name: str, provider: Provider, life: Life) -> None:
        self.name = name
        self.capabilities = capabilities_of(provider.profile)
        self._provider = provider
        self._life = life
        self._clock = life.clock
        self._trouble = life.trouble

    # --- effects ----------------------------------------------------------------------------------------------------

    async def create_deployment(self, call: Call, order: CreateDeployment) -> Done | Rejected:
        """See `ExecutionAdapter`."""
        payload = {"name": order.name, "artifact": order.artifact, "parameters": dict(order.parameters)}
        if order.capital is not None:
            payload["capital"] = decimal_text(order.capital)
        return await self._effect(call, "deployment.create", payload)

    async def stop_deployment(self, call: Call, order: StopDeployment) -> Done | Rejected:
        """See `ExecutionAdapter`."""
        return await self._effect(call, "deployment.stop", {"deploymentId": order.deployment})

    async def place_order(self, call: Call, order: PlaceOrder) -> Done | Rejected:
        """See `ExecutionAdapter`."""
        payload = {"symbol": order.symbol, "side": order.side, "quantity": decimal_text(order.quantity)}
        if order.price is not None:
            payload["price"] = decimal_text(order.price)
        return await self._effect(call, "order.place", payload)

    async def cancel_order(self, call: Call, order: CancelOrder) -> Done | Rejected:
        """See `ExecutionAdapter`."""
        return await self._effect(call, "order.cancel", {"orderId": order.order})

    async def perform_further(self, call: Call, kind: str, payload: Mapping[str, Any]) -> Done | Rejected:
        """See `ExecutionAdapter`."""
        return await self._effect(call, kind, payload)

    async def _effect(self, call: Call, kind: str, payload: Mapping[str, Any]) -> Done | Rejected:
        if not self._life.alive:
            await self._life.end()
        assert call.client_id is not None  # noqa: S101 -- effects have one
        called = Called(call.client_id, self._clock.elapsed_us())
        self._provider.ledger.calls.append(called)
        self._life.began(called)
        try:
            return await self._exchange(call, kind, payload, called)
        except NotReached:
            called.sent = False
            raise
        finally:
            if called.ended_us is None:
                called.ended_us = self._clock.elapsed_us()

    async def _exchange(
        self, call: Call, kind: str, payload: Mapping[str, Any], called: Called
    ) -> Done | Rejected:
        trouble, provider = self._trouble, self._provider
        if provider.is_down:
            raise NotReached(f"{self.name}: connection refused")
        life = provider.life

        async def take(visible_in_us: int = 0) -> Done | Rejected:
            tenant, client_id = str(call.tenant), called.client_id
            return provider.take(tenant, client_id, kind, payload, visible_in_us=visible_in_us)

        fault = trouble.one_of(IN_THE_EXCHANGE, trouble.rate * 3)
        await asyncio.sleep(trouble.rng.uniform(0.01, 0.5))
        await self._on_the_way(fault, call, take)
        if fault is CommandFault.FOREIGN and kind == "order.place":
            provider.intrude(str(call.tenant), called.client_id, payload)
            if provider.profile.duplicates in ("repeat", "open"):
                await self._give_up(call)
        answer = await take()
        if fault is CommandFault.DUPLICATED and provider.profile.duplicates in ("reject", "replay"):
            again = await take()
            answer = again if _opens(kind) else answer
        await asyncio.sleep(trouble.rng.uniform(0.01, 0.5))
        await self._on_the_way_back(fault)
        if provider.life != life:
            raise OutcomeUnknown("connection_lost", "the provider went away before the answer")
        return answer

    async def _on_the_way(
        self, fault: CommandFault | None, call: Call, take: Callable[..., Awaitable[Done | Rejected]]
    ) -> None:
        """Let happen to a request what happens before the provider has it. Raises: OutcomeUnknown."""
        rng = self._trouble.rng
        late_s = rng.uniform(0, 0.95 * self._provider.profile.deadline_us / SECOND_US)
        match fault:
            case CommandFault.CRASH_IN_CALL:
                if rng.random() < 0.7:
                    later(late_s, take)
                self._life.die()
                await self._life.end()
            case CommandFault.REQUEST_LOST:
                await self._give_up(call)
            case CommandFault.REQUEST_LATE if rng.random() < 0.5:
                later(late_s, take)
                raise OutcomeUnknown("connection_lost", "cut while it was sent")
            case CommandFault.REQUEST_LATE:
                with suppress(OutcomeUnknown):
                    await self._give_up(call)
                if self._life.alive:  # what a dead process had not sent is never sent
                    later(late_s, take)
                raise OutcomeUnknown("timeout", "no answer in time")
            case CommandFault.INVISIBLE:
                await take(int(late_s * SECOND_US))
                raise OutcomeUnknown("connection_lost", "cut before the answer")

    async def _on_the_way_back(self, fault: CommandFault | None) -> None:
        """Let happen to an answer what happens to answers. Raises: OutcomeUnknown."""
        match fault:
            case CommandFault.ANSWER_LOST:
                raise OutcomeUnknown("connection_lost", "cut before the answer")
            case CommandFault.SERVER_ERROR:
                raise OutcomeUnknown("server_error", "502")
            case CommandFault.BAD_ANSWER:
                raise OutcomeUnknown("bad_answer", "an answer that makes no sense")
            case CommandFault.ANSWER_SLOW:
                await asyncio.sleep(self._trouble.rng.choice((5, 15, 60)))

    async def _give_up(self, call: Call) -> NoReturn:
        await asyncio.sleep(call.timeout_us / SECOND_US)
        raise OutcomeUnknown("timeout", "no answer in time")

    # --- reads ------------------------------------------------------------------------------------------------------

    async def find_order(self, call: Call, client_id: str) -> Order | None:
        """See `AdapterReads`."""
        return cast(
            "Order | None", await self._read(lambda: self._provider.find(str(call.tenant), client_id))
        )

    async def find_deployment(self, call: Call, client_id: str) -> Deployment | None:
        """See `AdapterReads`."""
        found = await self._read(lambda: self._provider.find(str(call.tenant), client_id))
        return cast("Deployment | None", found)

    async def find_performed(self, call: Call, kind: str, client_id: str) -> Mapping[str, Any] | None:
        """See `ExecutionAdapter`."""
        del kind
        found = await self._read(lambda: self._provider.find(str(call.tenant), client_id))
        return cast("Mapping[str, Any] | None", found)

    async def get_order(self, call: Call, order: str) -> Order | None:
        """See `AdapterReads`."""
        return cast("Order | None", await self._read(lambda: self._provider.get(str(call.tenant), order)))

    async def get_deployment(self, call: Call, deployment: str) -> Deployment | None:
        """See `AdapterReads`."""
        found = await self._read(lambda: self._provider.get(str(call.tenant), deployment))
        return cast("Deployment | None", found)

    async def list_orders(self, call: Call) -> Sequence[Order]:
        """See `AdapterReads`; nobody asks here."""
        raise OutcomeUnknown("bad_answer", f"{self.name} lists nothing to {call.tenant}")

    async def list_deployments(self, call: Call) -> Sequence[Deployment]:
        """See `AdapterReads`; nobody asks here."""
        raise OutcomeUnknown("bad_answer", f"{self.name} lists nothing to {call.tenant}")

    async def portfolio(self, call: Call) -> Portfolio:
        """See `AdapterReads`; nobody asks here."""
        raise OutcomeUnknown("bad_answer", f"{self.name} tells {call.tenant} of no portfolio")

    async def quote(self, call: Call, symbol: str) -> Decimal | None:
        """See `AdapterReads`: every price is 10."""
        del call, symbol
        return Decimal(10)

    async def _read(self, look: Callable[[], Answer]) -> Answer:
        """Look, and tell of it when the answer has come back; between the two, anything may happen."""
        trouble = self._trouble
        if self._provider.is_down:
            raise NotReached(f"{self.name}: connection refused")
        await asyncio.sleep(trouble.rng.uniform(0.01, 0.2))
        seen = look()
        if trouble.happens(CommandFault.SLOW_READ, trouble.rate):
            await asyncio.sleep(trouble.rng.choice((2, 9, 15)))
        await asyncio.sleep(trouble.rng.uniform(0.01, 0.2))
        return seen

    async def close(self) -> None:
        """See `ExecutionAdapter`."""


def _opens(kind: str) -> bool:
    return kind not in ("order.cancel", "deployment.stop")
