"""A provider that does what a test tells it to each call: it loses requests and answers, acts late, forgets, goes away.

It implements the `ExecutionAdapter` port in memory and remembers every effect, so that none can happen twice unseen.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sovrun.core.commands.kinds import undeclared
from sovrun.core.commands.model import CancelOrder, CreateDeployment, PlaceOrder, StopDeployment
from sovrun.execution.port import (
    Call,
    Capabilities,
    Deployment,
    DeploymentStatus,
    Done,
    NotReached,
    Order,
    OrderStatus,
    OutcomeUnknown,
    Portfolio,
    Rejected,
    Unreadable,
    UnreadableRecord,
)
from sovrun.ports import Clock

DEADLINE_US = 10_000_000


class Trouble(StrEnum):
    """What happens to one call of an effect."""

    NONE = "none"
    NOT_REACHED = "not_reached"
    """The connection is refused."""
    LOST_REQUEST = "lost_request"
    """The connection is cut before the provider hears of it."""
    LOST_ANSWER = "lost_answer"
    """The connection is cut after the effect."""
    LATE = "late"
    """The connection is cut, and the effect comes about in the last moment of the deadline."""
    ERROR_BEFORE = "error_before"
    """A 500, and no effect."""
    ERROR_AFTER = "error_after"
    """A 500, and the effect."""
    NONSENSE = "nonsense"
    """The effect, and an answer that makes no sense."""
    BUG = "bug"
    """The effect, and a fault of the adapter itself."""
    REFUSE = "refuse"
    """The provider says no."""
    HANG = "hang"
    """The effect, and no answer while the provider is held."""


UNSEEN = frozenset({Trouble.NOT_REACHED, Trouble.LOST_REQUEST, Trouble.ERROR_BEFORE})
"""No effect comes of these."""
Script = Callable[[str, int], Trouble]
"""Says what happens to a call, by its client id and how often that was called before."""


def calm(_client_id: str, _nth: int) -> Trouble:
    """Let everything go well."""
    return Trouble.NONE


def first(*troubles: Trouble) -> Script:
    """Have the first calls for every client id meet these, one after the other."""
    return lambda _client_id, nth: troubles[nth] if nth < len(troubles) else Trouble.NONE


@dataclass
class ScriptedProvider:
    """The provider, and the adapter to it.

    Args:
        deduplicates: it refuses a client id that it knows as a duplicate; otherwise it acts again.
        forgets: it finds no client id, and says so.
    """

    clock: Clock
    script: Script = calm
    deduplicates: bool = False
    forgets: bool = False
    name: str = "scripted"
    down: bool = False
    blind: bool = False
    """It finds nothing, and does not say that it may."""
    find_is_broken: bool = False
    nonsense: str = "<html>"
    """What an answer says that makes no sense."""
    unreadable: str | None = None
    """A status without a meaning here; all that is looked for has it."""
    tells: Callable[[Any], Any] = lambda resource: resource
    """What an effect's answer says of what it made."""
    effects: list[tuple[str, str]] = field(default_factory=list)
    """Kind and client id of everything that ever happened."""
    called: list[tuple[str, Call, Any]] = field(default_factory=list)
    looked: int = 0
    orders: dict[str, Order] = field(default_factory=dict)
    deployments: dict[str, Deployment] = field(default_factory=dict)
    performed: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    point: Callable[[str], None] = lambda _: None
    """Called around every call; a test may die there."""
    _late: list[tuple[int, Callable[[], Any]]] = field(default_factory=list)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            frozenset({"order", "deployment"}),
            frozenset({"paper"}),
            DEADLINE_US,
            absence_is_conclusive=not self.forgets,
            kinds={"account.close": undeclared("account.close", 1)},
            symbols=frozenset({"ACME"}),
        )

    def happened(self) -> Counter[str]:
        """Return how often each client id had an effect, also those that are still to come about."""
        late, self._late = self._late, []
        for _, effect in late:
            effect()
        return Counter(client_id for _, client_id in self.effects)

    def sends(self, client_id: str) -> int:
        """Return how often an effect was called for."""
        return sum(call.client_id == client_id for _, call, _ in self.called)

    # --- effects ------------------------------------------------------------------------------------------------------

    async def create_deployment(self, call: Call, order: CreateDeployment) -> Done | Rejected:
        def act() -> Deployment:
            made = Deployment(
                f"d-{call.client_id}", call.client_id, order.name, DeploymentStatus.RUNNING, "UP"
            )
            self.deployments[str(call.client_id)] = made
            return made

        return await self._effect("deployment.create", call, order, act, self.deployments)

    async def place_order(self, call: Call, order: PlaceOrder) -> Done | Rejected:
        def act() -> Order:
            made = Order(
                *(
                    f"o-{call.client_id}",
                    call.client_id,
                    order.symbol,
                    order.side,
                    order.type,
                    order.quantity,
                ),
                *(order.price, Decimal(0), None, OrderStatus.PENDING, "OPEN"),
            )
            self.orders[str(call.client_id)] = made
            return made

        return await self._effect("order.place", call, order, act, self.orders)

    async def stop_deployment(self, call: Call, order: StopDeployment) -> Done | Rejected:
        key = order.deployment.removeprefix("d-")

        def act() -> Deployment:
            stopped = replace(self.deployments[key], status=DeploymentStatus.STOPPED, raw_status="DOWN")
            self.deployments[key] = stopped
            return stopped

        return await self._effect("deployment.stop", call, order, act, {})

    async def cancel_order(self, call: Call, order: CancelOrder) -> Done | Rejected:
        key = order.order.removeprefix("o-")

        def act() -> Order:
            cancelled = replace(self.orders[key], status=OrderStatus.CANCELLED, raw_status="GONE")
            self.orders[key] = cancelled
            return cancelled

        return await self._effect("order.cancel", call, order, act, {})

    async def perform_further(self, call: Call, kind: str, payload: Mapping[str, Any]) -> Done | Rejected:
        def act() -> Mapping[str, Any]:
            self.performed[str(call.client_id)] = {"id": f"x-{call.client_id}", "was": dict(payload)}
            return self.performed[str(call.client_id)]

        return await self._effect(kind, call, payload, act, self.performed)

    async def _effect(
        self, kind: str, call: Call, wanted: Any, act: Callable[[], Any], known: Mapping[str, Any]
    ) -> Done | Rejected:
        self.point(f"before {kind}")
        await asyncio.sleep(0)
        self._settle()
        client_id = str(call.client_id)
        trouble = self.script(client_id, self.sends(client_id))
        self.called.append((kind, call, wanted))

        def effect() -> Done:
            self.effects.append((kind, client_id))
            return Done(self.tells(act()))

        if self.down or trouble is Trouble.NOT_REACHED:
            raise NotReached("nobody listens")
        if trouble is Trouble.LOST_REQUEST:
            raise OutcomeUnknown("connection_lost", "cut")
        if trouble is Trouble.ERROR_BEFORE:
            raise OutcomeUnknown("server_error", "500")
        if trouble is Trouble.REFUSE:
            return Rejected("insufficient_funds", "not enough")
        if self.deduplicates and client_id in known:
            return Rejected("duplicate_id", "seen before", duplicate=True)
        if trouble is Trouble.LATE:
            self._late.append((self.clock.now_us() + DEADLINE_US - 1, effect))
            raise OutcomeUnknown("timeout", "no answer")
        done = effect()
        self.point(f"after {kind}")
        await self._answer(trouble)
        return done

    async def _answer(self, trouble: Trouble) -> None:
        match trouble:
            case Trouble.LOST_ANSWER:
                raise OutcomeUnknown("connection_lost", "cut")
            case Trouble.ERROR_AFTER:
                raise OutcomeUnknown("server_error", "500")
            case Trouble.NONSENSE:
                raise OutcomeUnknown("bad_answer", self.nonsense)
            case Trouble.BUG:
                raise ZeroDivisionError("a fault of the adapter")
            case Trouble.HANG:
                await self.answering.wait()
            case _:
                pass

    def _settle(self) -> None:
        """Let come about what was late and is due now."""
        due = [effect for when, effect in self._late if when <= self.clock.now_us()]
        self._late = [(when, effect) for when, effect in self._late if when > self.clock.now_us()]
        for effect in due:
            effect()

    # --- reads --------------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        self.point("before a look")
        await asyncio.sleep(0)
        self.looked += 1
        self._settle()
        if self.down:
            raise NotReached("nobody listens")
        if self.find_is_broken:
            raise ZeroDivisionError("a fault of the adapter")
        if self.unreadable is not None:
            why = f"its status is {self.unreadable!r}"
            raise UnreadableRecord(Unreadable("order", "o-1", None, self.unreadable, why))

    async def find_order(self, _call: Call, client_id: str) -> Order | None:
        await self._look()
        return None if self.forgets or self.blind else self.orders.get(client_id)

    async def find_deployment(self, _call: Call, client_id: str) -> Deployment | None:
        await self._look()
        return None if self.forgets or self.blind else self.deployments.get(client_id)

    async def find_performed(self, _call: Call, _kind: str, client_id: str) -> Mapping[str, Any] | None:
        await self._look()
        return self.performed.get(client_id)

    async def get_order(self, _call: Call, order: str) -> Order | None:
        await self._look()
        return self.orders.get(order.removeprefix("o-"))

    async def get_deployment(self, _call: Call, deployment: str) -> Deployment | None:
        await self._look()
        return self.deployments.get(deployment.removeprefix("d-"))

    async def list_orders(self, _call: Call) -> Sequence[Order]:
        await self._look()
        return [self.orders[name] for name in sorted(self.orders)]

    async def list_deployments(self, _call: Call) -> Sequence[Deployment]:
        await self._look()
        return [self.deployments[name] for name in sorted(self.deployments)]

    async def portfolio(self, _call: Call) -> Portfolio:
        await self._look()
        return Portfolio({}, {})

    async def quote(self, _call: Call, symbol: str) -> Decimal | None:
        await self._look()
        return Decimal(7) if symbol == "ACME" else None

    async def close(self) -> None:
        """Hold nothing."""
