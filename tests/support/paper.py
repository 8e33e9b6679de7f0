"""The paper provider for tests: as one of the providers of the conformance suite, and small ways to ask it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

from sovrun.core.commands.model import CreateDeployment, PlaceOrder
from sovrun.execution.adapters.paper import open_adapter
from sovrun.execution.adapters.paper_account import DEPLOYMENT_STATUSES, ORDER_STATUSES
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
