"""The port through which effects reach the world, and the world is read.

Owns: `AdapterReads`, `ExecutionAdapter` and what passes through them. Effects belong to the command layer
(`execution.layer`), which journals before it calls; an import contract keeps everything else from the adapters.
Everybody else reads through `AdapterReads`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from sovrun.core.commands.model import CancelOrder, CommandKind, CreateDeployment, PlaceOrder, StopDeployment
from sovrun.core.ids import Actor, Tenant

CONTRACT_VERSION = 3


class DeploymentStatus(StrEnum):
    """What a deployment is doing."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class OrderStatus(StrEnum):
    """What has become of an order; one that is partly filled and rests is `pending`."""

    PENDING = "pending"
    FILLED = "filled"
    CANCELLED = "cancelled"
    FAILED = "failed"


LIVE = frozenset(
    {
        DeploymentStatus.QUEUED,
        DeploymentStatus.RUNNING,
        DeploymentStatus.PAUSED,
        DeploymentStatus.STOPPING,
        OrderStatus.PENDING,
    }
)
"""Statuses that may still change."""


@dataclass(frozen=True, slots=True)
class Call:
    """Who asks. It travels on every call.

    Args:
        actor: on whose behalf; a run's requester for a step.
        mode: `paper` or `live`, as the command says; an adapter refuses a mode that it is not for.
        client_id: 32 lowercase hexadecimal digits that name this command for ever, at most one effect for each;
            None for reads.
        timeout_us: how long the answer may take.
    """

    tenant: Tenant
    actor: Actor
    mode: str = "paper"
    client_id: str | None = None
    timeout_us: int = 10_000_000


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment as the provider tells of it.

    Args:
        id: the provider's; client_id: ours, None for what was not made by Sovrun.
        status: mapped from `raw_status`, the provider's own word.
        detail: further members that the provider tells, JSON.
    """

    id: str
    client_id: str | None
    name: str
    status: DeploymentStatus
    raw_status: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Order:
    """An order as the provider tells of it; `average_price` is None before the first fill."""

    id: str
    client_id: str | None
    symbol: str
    side: str
    type: str
    quantity: Decimal
    price: Decimal | None
    filled: Decimal
    average_price: Decimal | None
    status: OrderStatus
    raw_status: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A deployment or an order that the provider tells of in a way that is not known here; nothing of it is guessed.

    Args:
        kind: `deployment` or `order`. id: the provider's; client_id: ours, None for what was not made by Sovrun.
        raw_status: the provider's own word where that is what is not known, else None.
        message: what is not known, for people.
    """

    kind: str
    id: str
    client_id: str | None
    raw_status: str | None
    message: str


Told = TypeVar("Told", bound=Deployment | Order)


class Listing(list[Told]):
    """What a provider lists, and beside it what in its list could not be read."""

    def __init__(self, found: Iterable[Told], unreadable: Iterable[Unreadable] = ()) -> None:
        super().__init__(found)
        self.unreadable = tuple(unreadable)


def unreadable_in(listed: Sequence[Deployment] | Sequence[Order]) -> tuple[Unreadable, ...]:
    """Return what of a list could not be read."""
    return listed.unreadable if isinstance(listed, Listing) else ()


@dataclass(frozen=True, slots=True)
class Portfolio:
    """What a tenant owns at a provider: cash by currency, position by symbol."""

    cash: Mapping[str, Decimal]
    positions: Mapping[str, Decimal]


@dataclass(frozen=True, slots=True)
class Done:
    """The provider says that the effect happened: the resource as it is now."""

    resource: Deployment | Order | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rejected:
    """The provider says that the effect did not and will not happen.

    Args:
        code: stable code of ours, for example `unknown_symbol`, `insufficient_funds`, `provider_rejected`.
        duplicate: the provider says that it has seen this client id: the effect may have happened before.
    """

    code: str
    message: str
    duplicate: bool = False


class OutcomeUnknown(Exception):
    """Nobody can say whether the effect happened: time-out, cut connection, an answer that makes no sense, 5xx.

    Args:
        reason: `timeout`, `connection_lost`, `server_error`, `bad_answer`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class NotReached(OutcomeUnknown):
    """Certainly nothing was sent: the connection was refused or never made. The same id may be sent again."""

    def __init__(self, message: str) -> None:
        super().__init__("not_reached", message)


class UnreadableRecord(OutcomeUnknown):
    """What is asked about is there, and told of in a way that is not known here, for example in a status without a meaning."""

    def __init__(self, record: Unreadable) -> None:
        super().__init__("bad_answer", record.message)
        self.record = record


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What may be relied on.

    Args:
        resources: which of `deployment` and `order` it knows.
        modes: for which modes it is.
        processing_deadline_us: how long after a send an effect may still come about at the provider. Before that,
            "not found" means nothing.
        absence_is_conclusive: a client id that is not found after the deadline was certainly not executed. False where
            the provider forgets ids, so that a person must decide.
        kinds: further kinds of commands that `perform_further` knows, by name. None may be called as one of ours.
        symbols: the only ones that can be traded; None where they are not known beforehand.
    """

    resources: frozenset[str]
    modes: frozenset[str]
    processing_deadline_us: int
    absence_is_conclusive: bool
    kinds: Mapping[str, CommandKind] = field(default_factory=dict)
    symbols: frozenset[str] | None = None


class AdapterReads(Protocol):
    """What can be read of a provider, by anyone. Nothing here changes anything.

    Every method raises OutcomeUnknown when the provider does not answer, UnreadableRecord when what is asked about is told
    of in a way that is not known here, and returns only what belongs to the call's tenant. In a list one unreadable record
    hides no other: it is left out and named (`Listing`).
    """

    name: str
    capabilities: Capabilities

    async def get_deployment(self, call: Call, deployment: str) -> Deployment | None:
        """Return a deployment by the provider's id, None when there is none."""

    async def list_deployments(self, call: Call) -> Sequence[Deployment]:
        """Return all deployments that are known, by id."""

    async def get_order(self, call: Call, order: str) -> Order | None:
        """Return an order by the provider's id, None when there is none."""

    async def list_orders(self, call: Call) -> Sequence[Order]:
        """Return all orders that are known, by id."""

    async def portfolio(self, call: Call) -> Portfolio:
        """Return what the tenant owns."""

    async def find_deployment(self, call: Call, client_id: str) -> Deployment | None:
        """Return the deployment that was created under a client id, whatever has become of it."""

    async def find_order(self, call: Call, client_id: str) -> Order | None:
        """Return the order that was placed under a client id, whatever has become of it."""

    async def find_performed(
        self, call: Call, kind: str, client_id: str
    ) -> Deployment | Order | Mapping[str, Any] | None:
        """Return what came of a command of a further kind, None when it is not found."""

    async def quote(self, call: Call, symbol: str) -> Decimal | None:
        """Return the price by which a market order is valued, None for an unknown symbol or when there is none."""


class ExecutionAdapter(AdapterReads, Protocol):
    """One provider. Only the command layer calls the effects, each under `call.client_id`, once for each send.

    Effects never retry by themselves. They return Done or Rejected when the provider has said so, and raise
    OutcomeUnknown otherwise.
    """

    async def create_deployment(self, call: Call, order: CreateDeployment) -> Done | Rejected:
        """Create a deployment."""

    async def stop_deployment(self, call: Call, order: StopDeployment) -> Done | Rejected:
        """Stop a deployment. Stopping what is stopped is Done."""

    async def place_order(self, call: Call, order: PlaceOrder) -> Done | Rejected:
        """Place an order."""

    async def cancel_order(self, call: Call, order: CancelOrder) -> Done | Rejected:
        """Cancel what is not filled of an order. Cancelling what is cancelled is Done; what is filled is Rejected."""

    async def perform_further(self, call: Call, kind: str, payload: Mapping[str, Any]) -> Done | Rejected:
        """Perform a command of a further kind that `capabilities.kinds` names.

        Where it acts on a deployment or an order, that is what is returned, so that the record follows it.
        """

    async def close(self) -> None:
        """Release what is held."""


class Ledger(Protocol):
    """Where an embedded provider keeps what happened at it: append-only, one sequence for each tenant and name."""

    async def entries(self, tenant: Tenant, name: str, after: int) -> Sequence[bytes]:
        """Return the entries after the first `after`, in order."""

    async def append(self, tenant: Tenant, name: str, at: int, entry: bytes) -> bool:
        """Append an entry as number `at` (from 0), durably; False when that place is taken by another's entry."""
