"""The paper provider for tests: as one of the providers of the conformance suite, and small ways to ask it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path

from sovrun.core.canonical import canonical, decode
from sovrun.core.commands.model import CancelOrder, CreateDeployment, PlaceOrder, StopDeployment
from sovrun.core.ids import Actor, Tenant
from sovrun.execution.adapters.paper import open_adapter
from sovrun.execution.adapters.paper_account import DEPLOYMENT_STATUSES, ORDER_STATUSES
from sovrun.execution.adapters.paper_rules import PAUSE, RESUME
from sovrun.execution.port import Call, Deployment, Done, ExecutionAdapter, Ledger, Order
from support.ledgers import FaultyLedger
from support.providers import NEIGHBOUR, TENANT, Calls, Provider

NAME = "paper"


def limit(side: str, quantity: str, price: str, *, symbol: str = "THIN", tif: str = "gtc") -> PlaceOrder:
    """Return a limit order."""
    return PlaceOrder(symbol, side, "limit", Decimal(quantity), Decimal(price), tif)


def market(side: str, quantity: str, *, symbol: str = "THIN") -> PlaceOrder:
    """Return a market order."""
    return PlaceOrder(symbol, side, "market", Decimal(quantity), None, "gtc")


@asynccontextmanager
async def paper_provider(_: Path) -> AsyncIterator[Provider]:
    """Open a paper provider as it is without settings, except for what may be deployed."""
    ledger = FaultyLedger()
    adapter = open_adapter(NAME, {"artifacts": ["momentum"]}, ledger=ledger)

    def asked_by(client_id: str) -> tuple[str, str]:
        (found,) = [
            (str(tenant), str(entry["actor"]))
            for (tenant, _), entries in ledger.kept.items()
            for entry in map(decode, entries)
            if entry.get("clientId") == client_id
        ]
        return found

    yield Provider(
        adapter=adapter,
        hanging=ledger.hanging,
        gone=ledger.gone,
        raw_statuses=ORDER_STATUSES | DEPLOYMENT_STATUSES,
        resting=limit("buy", "7", "90"),
        filled=market("buy", "15"),
        exact=limit("buy", "1.000000000000000001", "10.123456789012345678"),
        deployment=CreateDeployment("trend", "momentum", Decimal("2500.50"), {"window": 20}),
        unknown_symbol="NOBODY",
        unknown_artifact="unheard-of",
        further=(PAUSE, lambda deployment: {"deploymentId": deployment}),
        asked_by=asked_by,
    )
    await adapter.close()


async def views(adapter: ExecutionAdapter, tenant: Tenant) -> bytes:
    """Return all that can be read of an account, as canonical bytes."""
    call = Call(tenant, Actor("local:reader"))
    portfolio = await adapter.portfolio(call)
    orders = [asdict(order) for order in await adapter.list_orders(call)]
    deployments = [asdict(deployment) for deployment in await adapter.list_deployments(call)]
    told = {
        "cash": portfolio.cash,
        "positions": portfolio.positions,
        "orders": orders,
        "deployments": deployments,
    }
    return canonical(_texts(told))


def _texts(value: object) -> object:
    match value:
        case Decimal():
            return str(value)
        case Mapping():
            return {name: _texts(one) for name, one in value.items()}
        case list() | tuple():
            return [_texts(one) for one in value]
        case _:
            return value if value is None or isinstance(value, int) else str(value)


async def live_a_little(ledger: Ledger) -> bytes:
    """Use a provider in every way, and return all that can be read of it then."""
    adapter, calls = open_adapter(NAME, {}, ledger=ledger), Calls("a little life")
    for order in (market("buy", "25"), limit("sell", "5", "120"), limit("buy", "3", "99.75")):
        await adapter.place_order(calls.effect(), order)
        await adapter.place_order(calls.effect(tenant=NEIGHBOUR), order)
    placed = await adapter.place_order(calls.effect(), limit("buy", "3", "80"))
    created = await adapter.create_deployment(
        calls.effect(), CreateDeployment("trend", "any", None, {"w": 1.5})
    )
    assert isinstance(placed, Done)
    assert isinstance(created, Done)
    assert isinstance(placed.resource, Order)
    assert isinstance(created.resource, Deployment)
    await adapter.cancel_order(calls.effect(), CancelOrder(placed.resource.id))
    for kind in (PAUSE, RESUME):
        await adapter.perform_further(calls.effect(), kind, {"deploymentId": created.resource.id})
    await adapter.stop_deployment(calls.effect(), StopDeployment(created.resource.id))
    await adapter.place_order(calls.effect(), market("sell", "4"))
    return await both_accounts(ledger)


async def both_accounts(ledger: Ledger) -> bytes:
    """Return all that can be read of both tenants, by a provider that has read nothing before."""
    adapter = open_adapter(NAME, {}, ledger=ledger)
    return await views(adapter, TENANT) + await views(adapter, NEIGHBOUR)
