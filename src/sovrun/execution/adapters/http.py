"""The http adapter: any REST provider of orders or deployments, as a mapping file declares it.

Owns: `open_adapter` and `HttpAdapter`: which requests make up each call of the port, and what their answers mean.
An effect's request is sent once, or not at all. What may have happened and was not told is OutcomeUnknown.
Must not touch: journals; whether something is sent again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from sovrun.core.commands.model import CancelOrder, CreateDeployment, PlaceOrder, StopDeployment
from sovrun.execution.adapters.http_document import bad_base_url, read_mapping
from sovrun.execution.adapters.http_exchange import Exchange, made_by, require_object, require_read
from sovrun.execution.adapters.http_mapping import HttpMapping
from sovrun.execution.adapters.http_records import TRADED, deployment_of, holdings_of, order_of, positions_of
from sovrun.execution.adapters.http_values import UnfitError, at, decimal_of, picked
from sovrun.execution.adapters.http_wire import Budget, Wire, require_secrets
from sovrun.execution.adapters.settings import SettingsOf
from sovrun.execution.port import (
    LIVE,
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
    UnreadableRecord,
    unreadable_in,
)
from sovrun.ports import Clock

MAPPING_BYTES_MAX: Final = 1 << 20
Asked = ParamSpec("Asked")
Answered = TypeVar("Answered")
GONE: Final = "gone"
"""Raw status of what the provider acknowledged to have ended and shows no longer."""


def open_adapter(name: str, settings: Mapping[str, Any], *, clock: Clock) -> HttpAdapter:
    """Return an adapter for the provider that a mapping file describes.

    Args:
        settings: `mapping`, the path of the file, from which paths in it count; `baseUrl`, instead of the file's.
        clock: what `now` in the mapping stands for.
    Raises: InvalidSetting.
    """
    read = SettingsOf(name)
    read.members(settings, "", ("mapping", "baseUrl"))
    if "mapping" not in settings:
        read.refuse("mapping", "it is missing", "name the file that describes the provider")
    path = read.text(settings["mapping"], "mapping", r"[^\0]+", "the path of the mapping file")
    mapping = read_mapping(_content(read, Path(path)), name=path)
    url = mapping.base_url
    secrets = mapping.secrets
    if "baseUrl" in settings:
        url = read.text(settings["baseUrl"], "baseUrl", r"\S+", "a URL such as https://api.example.org/v2")
        fault = bad_base_url(url, has_secrets=bool(secrets))
        if fault is not None:
            read.refuse("baseUrl", fault, "write a URL such as https://api.example.org/v2")
    wire = Wire(mapping, url.rstrip("/"), Path(path).parent)
    require_secrets(wire, secrets)
    return HttpAdapter(name, mapping, wire, clock)


def _content(read: SettingsOf, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAPPING_BYTES_MAX + 1)
    except OSError as error:
        read.refuse("mapping", f"{path}: {error.strerror or error}", "name a file that Sovrun can read")
    if len(data) > MAPPING_BYTES_MAX:
        read.refuse("mapping", f"{path} has more than {MAPPING_BYTES_MAX >> 20} MiB", "name a mapping file")
    return data


def _without_secrets(
    method: Callable[Concatenate[HttpAdapter, Asked], Awaitable[Answered]],
) -> Callable[Concatenate[HttpAdapter, Asked], Coroutine[Any, Any, Answered]]:
    """Take the secrets of the headers out of what a call of the port says of why nothing is known: that is recorded."""

    @wraps(method)
    async def hiding(self: HttpAdapter, /, *given: Asked.args, **named: Asked.kwargs) -> Answered:
        try:
            return await method(self, *given, **named)
        except OutcomeUnknown as unknown:
            unknown.args = (self.hidden(str(unknown)),)
            raise

    return hiding


class HttpAdapter:
    """`ExecutionAdapter` for a provider behind REST."""

    def __init__(self, name: str, mapping: HttpMapping, wire: Wire, clock: Clock) -> None:
        self.name = name
        self._mapping = mapping
        self._exchange = Exchange(mapping, wire, clock)
        resources = {"order": mapping.orders, "deployment": mapping.deployments}
        self.capabilities = Capabilities(
            resources=frozenset(name for name, one in resources.items() if one is not None),
            modes=mapping.modes,
            processing_deadline_us=mapping.processing_deadline_us,
            absence_is_conclusive=mapping.absence_is_conclusive,
            kinds={name: further.kind for name, further in mapping.commands.items()},
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._exchange.wire.close()

    def hidden(self, text: str) -> str:
        """Return a text without the secrets of the headers."""
        return self._exchange.wire.secrets.hidden(text)

    # --- reads --------------------------------------------------------------------------------------------------------

    @_without_secrets
    async def get_deployment(self, call: Call, deployment: str) -> Deployment | None:
        """Return a deployment by the provider's id."""
        return await self._exchange.deployment(call, deployment, Budget(call.timeout_us))

    @_without_secrets
    async def list_deployments(self, call: Call) -> Sequence[Deployment]:
        """Return all deployments of the tenant, by id."""
        resource = self._mapping.deployments
        read = None if resource is None else resource.list
        return await self._exchange.deployments(call, read, {}, lambda *_: True, Budget(call.timeout_us))

    @_without_secrets
    async def find_deployment(self, call: Call, client_id: str) -> Deployment | None:
        """Return the deployment that was created under a client id."""
        return await self._exchange.created(call, client_id, Budget(call.timeout_us))

    @_without_secrets
    async def get_order(self, call: Call, order: str) -> Order | None:
        """Return an order by the provider's id."""
        return await self._exchange.order(call, order, Budget(call.timeout_us))

    @_without_secrets
    async def list_orders(self, call: Call) -> Sequence[Order]:
        """Return all orders of the tenant that the provider shows, by id."""
        resource = self._mapping.orders
        read = None if resource is None else resource.list
        return await self._exchange.orders(call, read, {}, lambda *_: True, Budget(call.timeout_us))

    @_without_secrets
    async def find_order(self, call: Call, client_id: str) -> Order | None:
        """Return the order that was placed under a client id."""
        return await self._exchange.placed(call, client_id, Budget(call.timeout_us))

    @_without_secrets
    async def find_performed(self, call: Call, kind: str, client_id: str) -> Mapping[str, Any] | None:
        """Return what came of a command of a further kind."""
        return await self._exchange.performed(call, kind, client_id, Budget(call.timeout_us))

    @_without_secrets
    async def portfolio(self, call: Call) -> Portfolio:
        """Return what the provider says, or else the positions that come of all executions it shows."""
        if self._mapping.portfolio is None or self._exchange.is_foreign(call):
            listed = await self.list_orders(call)
            for unreadable in unreadable_in(listed):
                raise UnreadableRecord(unreadable)  # without it the positions would be wrong
            return Portfolio({}, positions_of(listed))
        request, cash, positions = self._mapping.portfolio
        scope = self._exchange.scope(call)
        try:
            answer = await self._exchange.wire.ask(request, scope, Budget(call.timeout_us))
        except UnfitError as error:
            raise NotReached(f"nothing was asked: {error}") from error
        told = require_read(answer)
        return Portfolio(holdings_of(self._mapping, cash, told), holdings_of(self._mapping, positions, told))

    @_without_secrets
    async def quote(self, call: Call, symbol: str) -> Decimal | None:
        """Return the price that the mapping points at."""
        theirs = self._exchange.theirs(symbol)
        if self._mapping.quote is None or theirs is None or self._exchange.is_foreign(call):
            return None
        request, absent, price = self._mapping.quote
        scope = self._exchange.scope(call, symbol=theirs)
        try:
            answer = await self._exchange.wire.ask(request, scope, Budget(call.timeout_us))
        except UnfitError:
            return None
        if answer.status in absent:
            return None
        told = picked(price, require_read(answer), scope)
        return None if told is None else decimal_of(told, "price", self._mapping.numbers)

    # --- effects ------------------------------------------------------------------------------------------------------

    @_without_secrets
    async def create_deployment(self, call: Call, order: CreateDeployment) -> Done | Rejected:
        """Send the request that creates a deployment."""
        resource = self._mapping.deployments
        if resource is None:
            return _unknown_kind("deployment.create")
        refused = self._exchange.refused(call)
        if refused is not None:
            return refused
        budget = Budget(call.timeout_us)
        scope = self._exchange.scope(
            call,
            name=order.name,
            artifact=order.artifact,
            capital=order.capital,
            parameters=dict(order.parameters),
        )
        answer = await self._exchange.send(resource.begin, scope, budget)
        if isinstance(answer, Rejected):
            return answer
        if resource.begin.record is None:
            return made_by(call, await self._exchange.created(call, str(call.client_id), budget))
        item = at(answer.json(), resource.begin.record)
        return made_by(call, deployment_of(resource.record, item, scope, self._mapping.numbers))

    @_without_secrets
    async def place_order(self, call: Call, order: PlaceOrder) -> Done | Rejected:
        """Send the request that places an order."""
        resource = self._mapping.orders
        if resource is None:
            return _unknown_kind("order.place")
        refused = self._exchange.refused(call)
        if refused is not None:
            return refused
        symbol = self._exchange.theirs(order.symbol)
        if symbol is None:
            return Rejected("unknown_symbol", f"the mapping has no symbol {order.symbol}")
        budget = Budget(call.timeout_us)
        scope = self._exchange.scope(
            call,
            symbol=symbol,
            side=order.side,
            type=order.type,
            quantity=order.quantity,
            price=order.price,
            timeInForce=order.time_in_force,
        )
        answer = await self._exchange.send(resource.begin, scope, budget)
        if isinstance(answer, Rejected):
            return answer
        if resource.begin.record is None:
            return made_by(call, await self._exchange.placed(call, str(call.client_id), budget))
        item = at(answer.json(), resource.begin.record)
        told = order_of(self._mapping, resource.record, item, scope, quantity=order.quantity)
        return made_by(call, told)

    @_without_secrets
    async def stop_deployment(self, call: Call, order: StopDeployment) -> Done | Rejected:
        """Send the request that stops a deployment, unless it is over already."""
        resource = self._mapping.deployments
        if resource is None:
            return _unknown_kind("deployment.stop")
        refused = self._exchange.refused(call)
        if refused is not None:
            return refused
        scope = self._exchange.scope(call, deploymentId=order.deployment)
        budget = Budget(call.timeout_us)
        return await self._exchange.end(
            resource.end,
            scope,
            budget,
            read=lambda: self._exchange.deployment(call, order.deployment, budget),
            judged=lambda one: None if one.status in LIVE else Done(one),
            made=lambda item: deployment_of(resource.record, item, scope, self._mapping.numbers),
            ended=_stopped,
        )

    @_without_secrets
    async def cancel_order(self, call: Call, order: CancelOrder) -> Done | Rejected:
        """Send the request that cancels an order, unless it is over already."""
        resource = self._mapping.orders
        if resource is None:
            return _unknown_kind("order.cancel")
        refused = self._exchange.refused(call)
        if refused is not None:
            return refused
        scope = self._exchange.scope(call, orderId=order.order)
        budget = Budget(call.timeout_us)
        return await self._exchange.end(
            resource.end,
            scope,
            budget,
            read=lambda: self._exchange.order(call, order.order, budget),
            judged=_judged,
            made=lambda item: order_of(self._mapping, resource.record, item, scope),
            ended=_cancelled,
        )

    @_without_secrets
    async def perform_further(self, call: Call, kind: str, payload: Mapping[str, Any]) -> Done | Rejected:
        """Send the request of a command of a further kind."""
        further = self._mapping.commands.get(kind)
        if further is None:
            return _unknown_kind(kind)
        refused = self._exchange.refused(call)
        if refused is not None:
            return refused
        budget = Budget(call.timeout_us)
        scope = self._exchange.scope(call, payload=dict(payload))
        answer = await self._exchange.send(further.perform, scope, budget)
        if isinstance(answer, Rejected):
            return answer
        if further.perform.record is not None:
            return Done(require_object(at(answer.json(), further.perform.record)))
        found = await self._exchange.performed(call, kind, str(call.client_id), budget)
        return Done(require_object(found))


def _judged(order: Order) -> Done | Rejected | None:
    """Return what cancelling an order comes to that is over, None when it is not."""
    match order.status:
        case OrderStatus.CANCELLED:
            return Done(order)
        case OrderStatus.FILLED:
            return Rejected("already_filled", "the order is filled")
        case OrderStatus.FAILED:
            return Rejected("already_failed", "the order has failed")
        case OrderStatus.PENDING:
            return None


def _cancelled(before: Order, after: Order | None) -> Order:
    """Return how an order is that was not shown any more, or only by its executions, after its cancellation."""
    if after is not None and (after.raw_status != TRADED or after.filled >= before.quantity):
        return after
    told = before if after is None else after
    return replace(
        before,
        filled=told.filled,
        average_price=told.average_price,
        status=OrderStatus.CANCELLED,
        raw_status=GONE,
    )


def _stopped(before: Deployment, after: Deployment | None) -> Deployment:
    return after or replace(before, status=DeploymentStatus.STOPPED, raw_status=GONE)


def _unknown_kind(kind: str) -> Rejected:
    return Rejected("unknown_kind", f"the mapping does not say how {kind} is done")
