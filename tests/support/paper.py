"""The paper provider for tests: as one of the providers of the conformance suite, and small ways to ask it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path

from sovrun.core.canonical import canonical
from sovrun.core.commands.model import CreateDeployment, PlaceOrder
from sovrun.core.ids import Actor, Tenant
from sovrun.execution.adapters.paper import open_adapter
from sovrun.execution.adapters.paper_account import DEPLOYMENT_STATUSES, ORDER_STATUSES
from sovrun.execution.port import Call, ExecutionAdapter
from support.ledgers import FaultyLedger
from support.providers import Provider


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
    adapter = open_adapter("paper", {"artifacts": ["momentum"]}, ledger=ledger)
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
