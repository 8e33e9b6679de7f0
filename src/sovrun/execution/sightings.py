"""Looking at the provider for what became of a command. Only reads.

Owns: `look_for`, whether what is told of is what was asked for, and how a provider's resource is written down.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NamedTuple

from sovrun.core.canonical import canonical
from sovrun.core.commands.journal import Command, CommandId, UnknownReason
from sovrun.core.commands.model import (
    CancelOrder,
    CreateDeployment,
    Payload,
    PlaceOrder,
    StopDeployment,
    decimal_text,
    typed_payload,
)
from sovrun.core.commands.resolution import Sighting
from sovrun.core.errors import AdapterUnavailable, SovrunError, StoreUnavailable
from sovrun.execution.port import (
    LIVE,
    AdapterReads,
    Call,
    Deployment,
    DeploymentStatus,
    Order,
    OrderStatus,
    OutcomeUnknown,
    Portfolio,
    unreadable_in,
)
from sovrun.store.journal import Resource


class Seen(NamedTuple):
    """What a look showed, and the resource when there is one; `detail` tells people what it did not show."""

    sighting: Sighting
    resource: Deployment | Order | Mapping[str, Any] | None = None
    detail: str = ""


def unseen(error: Exception) -> Seen:
    """Return what a look showed that came to nothing: one that was answered in a way that is not known is `unreadable`."""
    away = isinstance(error, AdapterUnavailable | StoreUnavailable | TimeoutError) or (
        isinstance(error, OutcomeUnknown) and error.reason != UnknownReason.BAD_ANSWER
    )
    return Seen(Sighting.UNREACHABLE if away else Sighting.UNREADABLE, detail=why(error))


def why(error: Exception) -> str:
    """Return what is recorded of why nothing is known. What an adapter's own fault says may hold anything."""
    match error:
        case SovrunError():
            return error.detail
        case OutcomeUnknown():
            return str(error)
        case TimeoutError():
            return "the adapter did not answer in time"
        case _:
            return f"the adapter failed with {type(error).__name__}"


async def look_for(adapter: AdapterReads, call: Call, command: Command, payload: Mapping[str, Any]) -> Seen:
    """Return what the provider shows of a command. Raises: OutcomeUnknown when it does not answer."""
    wanted = typed_payload(command.intention.kind, payload)
    match wanted:
        case PlaceOrder():
            return _made(command.id, wanted, await adapter.find_order(call, command.id))
        case CreateDeployment():
            return _made(command.id, wanted, await adapter.find_deployment(call, command.id))
        case CancelOrder():
            return _cancelled(await adapter.get_order(call, wanted.order))
        case StopDeployment():
            return _stopped(await adapter.get_deployment(call, wanted.deployment))
        case _:
            told = await adapter.find_performed(call, command.intention.kind, command.id)
            return Seen(Sighting.ABSENT) if told is None else Seen(Sighting.FOUND, told)


def _made(name: CommandId, wanted: PlaceOrder | CreateDeployment, found: Deployment | Order | None) -> Seen:
    if found is None:
        return Seen(Sighting.ABSENT)
    other = otherwise(name, wanted, found)
    return Seen(Sighting.FOUND, found) if not other else Seen(Sighting.CONTRADICTORY, found, other)


def otherwise(name: CommandId, wanted: Payload, told: Deployment | Order | Mapping[str, Any]) -> str:
    """Return in what a resource is not what a command asked for, "" when it may be that; members that are not told are not compared."""
    return "; ".join(
        f"{member} is {_shown(there)} instead of {_shown(asked)}"
        for member, asked, there in _pairs(name, wanted, told)
        if asked != there
    )


def _pairs(
    name: CommandId, wanted: Payload, told: Deployment | Order | Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield the members of which a resource tells: what they are called, were to be, and are."""
    match wanted, told:
        case PlaceOrder(), Order():
            yield "client id", name, told.client_id or name
            yield "symbol", wanted.symbol, told.symbol
            yield "side", wanted.side, told.side
            yield "type", wanted.type, told.type or wanted.type
            yield "quantity", wanted.quantity, told.quantity
            if wanted.price is not None and told.price is not None:
                yield "price", wanted.price, told.price
        case CreateDeployment(), Deployment():
            yield "client id", name, told.client_id or name
            yield "name", wanted.name, told.name or wanted.name
            yield "artifact", wanted.artifact, told.detail.get("artifact") or wanted.artifact
            capital = _amount(told.detail.get("capital"))
            if wanted.capital is not None and capital is not None:
                yield "capital", wanted.capital, capital
        case CancelOrder(), Order():
            yield "order", wanted.order, told.id
        case StopDeployment(), Deployment():
            yield "deployment", wanted.deployment, told.id
        case ((PlaceOrder() | CancelOrder() | CreateDeployment() | StopDeployment()), _):
            yield "resource", _RESOURCE[type(wanted)], _kind_of(told)


_RESOURCE: Final[Mapping[type, str]] = {
    PlaceOrder: "order",
    CancelOrder: "order",
    CreateDeployment: "deployment",
    StopDeployment: "deployment",
}


def _kind_of(told: Deployment | Order | Mapping[str, Any]) -> str:
    return {Deployment: "deployment", Order: "order"}.get(type(told), "something else")


def _amount(told: Any) -> Decimal | None:
    """Return an amount among the further members that a provider tells, None when it is none."""
    try:
        return Decimal(told) if isinstance(told, str | int) and not isinstance(told, bool) else None
    except InvalidOperation:
        return None


def _shown(value: Any) -> str:
    return f"{decimal_text(value) if isinstance(value, Decimal) else value!s:.80}"


def _cancelled(order: Order | None) -> Seen:
    if order is None:
        return Seen(
            Sighting.CONTRADICTORY, detail="the provider does not have the order that is to be cancelled"
        )
    if order.status is OrderStatus.CANCELLED:
        return Seen(Sighting.FOUND, order)
    return Seen(Sighting.ABSENT if order.status is OrderStatus.PENDING else Sighting.IMPOSSIBLE, order)


def _stopped(deployment: Deployment | None) -> Seen:
    if deployment is None:
        return Seen(
            Sighting.CONTRADICTORY, detail="the provider does not have the deployment that is to be stopped"
        )
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


def listing_json(what: str, listed: Sequence[Deployment] | Sequence[Order]) -> dict[str, Any]:
    """Return what a provider lists as it is shown, `orders` or `deployments`, and what of it could not be read."""
    return {
        what: [resource_json(one) for one in listed],
        "unreadable": [
            {
                "type": one.kind,
                "id": one.id or None,
                "clientId": one.client_id,
                "rawStatus": one.raw_status,
                "message": one.message,
            }
            for one in unreadable_in(listed)
        ],
    }


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
