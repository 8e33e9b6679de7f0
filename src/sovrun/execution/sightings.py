"""Looking at the provider for what became of a command. Only reads.

Owns: `look_for`, and how a provider's resource is written down.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sovrun.core.canonical import canonical
from sovrun.core.commands.journal import Command
from sovrun.core.commands.model import (
    CancelOrder,
    CreateDeployment,
    PlaceOrder,
    StopDeployment,
    decimal_text,
    typed_payload,
)
from sovrun.core.commands.resolution import Sighting
from sovrun.execution.port import (
    LIVE,
    Call,
    Deployment,
    DeploymentStatus,
    ExecutionAdapter,
    Order,
    OrderStatus,
    Portfolio,
)
from sovrun.store.journal import Resource


class Seen(NamedTuple):
    """What a look showed, and the resource when there is one."""

    sighting: Sighting
    resource: Deployment | Order | Mapping[str, Any] | None = None


async def look_for(
    adapter: ExecutionAdapter, call: Call, command: Command, payload: Mapping[str, Any]
) -> Seen:
    """Return what the provider shows of a command. Raises: OutcomeUnknown when it does not answer."""
    wanted = typed_payload(command.intention.kind, payload)
    match wanted:
        case PlaceOrder():
            order = await adapter.find_order(call, command.id)
            if order is None:
                return Seen(Sighting.ABSENT)
            same = (order.symbol, order.side, order.quantity) == (wanted.symbol, wanted.side, wanted.quantity)
            return Seen(Sighting.FOUND if same else Sighting.CONTRADICTORY, order)
        case CreateDeployment():
            found = await adapter.find_deployment(call, command.id)
            return Seen(Sighting.ABSENT) if found is None else Seen(Sighting.FOUND, found)
        case CancelOrder():
            return _cancelled(await adapter.get_order(call, wanted.order))
        case StopDeployment():
            return _stopped(await adapter.get_deployment(call, wanted.deployment))
        case _:
            told = await adapter.find_performed(call, command.intention.kind, command.id)
            return Seen(Sighting.ABSENT) if told is None else Seen(Sighting.FOUND, told)


def _cancelled(order: Order | None) -> Seen:
    if order is None:
        return Seen(Sighting.CONTRADICTORY)
    if order.status is OrderStatus.CANCELLED:
        return Seen(Sighting.FOUND, order)
    return Seen(Sighting.ABSENT if order.status is OrderStatus.PENDING else Sighting.IMPOSSIBLE, order)


def _stopped(deployment: Deployment | None) -> Seen:
    if deployment is None:
        return Seen(Sighting.CONTRADICTORY)
    over = deployment.status in (DeploymentStatus.STOPPED, DeploymentStatus.FAILED)
    return Seen(Sighting.FOUND if over else Sighting.ABSENT, deployment)


def resource_json(resource: Deployment | Order | Mapping[str, Any]) -> dict[str, Any]:
    """Return a provider's resource as it is recorded and shown; decimals as text."""
    if isinstance(resource, Deployment):
        return {
            "type": "deployment",
            "id": resource.id,
            "clientId": resource.client_id,
            "name": resource.name,
            "status": str(resource.status),
            "rawStatus": resource.raw_status,
            "detail": dict(resource.detail),
        }
    if isinstance(resource, Order):
        return {
            "type": "order",
            "id": resource.id,
            "clientId": resource.client_id,
            "symbol": resource.symbol,
            "side": resource.side,
            "orderType": resource.type,
            "quantity": decimal_text(resource.quantity),
            "price": None if resource.price is None else decimal_text(resource.price),
            "filled": decimal_text(resource.filled),
            "averagePrice": None if resource.average_price is None else decimal_text(resource.average_price),
            "status": str(resource.status),
            "rawStatus": resource.raw_status,
            "detail": dict(resource.detail),
        }
    return dict(resource)


def portfolio_json(portfolio: Portfolio) -> dict[str, Any]:
    """Return what a tenant owns as it is shown; decimals as text."""
    return {
        "cash": {name: decimal_text(amount) for name, amount in sorted(portfolio.cash.items())},
        "positions": {name: decimal_text(amount) for name, amount in sorted(portfolio.positions.items())},
    }


def recorded(command: Command, resource: Deployment | Order) -> Resource:
    """Return a provider's resource as the journal keeps it."""
    wanted = command.intention
    return Resource(
        tenant=wanted.tenant,
        adapter=wanted.adapter,
        kind="deployment" if isinstance(resource, Deployment) else "order",
        id=resource.id,
        command=command.id,
        status=str(resource.status),
        raw=resource.raw_status,
        body=canonical(resource_json(resource)),
        live=resource.status in LIVE,
    )
