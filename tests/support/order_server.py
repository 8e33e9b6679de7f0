"""A foreign order server, the one of PyPI's order-matching, as a process of its own, and as a provider under test.

It is installed by `make foreign` in an environment of its own. Time is the caller's there: nothing is executed but by
`match`, at the instant given. Its market has traders that act by themselves when time goes on, so it stands still here.
"""

from __future__ import annotations

import atexit
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Final

import httpx

from sovrun.core.commands.model import PlaceOrder
from sovrun.execution.adapters.http import HttpAdapter, open_adapter
from sovrun.execution.port import OrderStatus
from sovrun.wiring import SystemClock
from support.providers import STRANGE, Entry, Provider
from support.proxies import Fault, always, proxied, said
from support.up import until

ROOT: Final = Path(__file__).parents[2]
PYTHON: Final = ROOT / ".foreign" / "bin" / "python"
MAPPING: Final = ROOT / "examples" / "adapters" / "order-matching.yaml"

INSTANT: Final = "2020-01-01T00:00:00"
"""At which everything is executed."""
MAKER_PRICE: Final = Decimal(50)
_SERVE: Final = """
import os, sys, threading, uvicorn
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
uvicorn.run("order_matching.api.app:app", port=0)
"""
"""It ends with the end of its standard input, so that it does not outlive who started it."""


class OrderServer:
    """A running server; `port` is on this machine."""

    def __init__(self) -> None:
        assert PYTHON.exists(), "the foreign order server is not installed: run `make foreign`"
        self._log = Path(tempfile.mkdtemp(prefix="sovrun-order-server-")) / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [PYTHON, "-c", _SERVE], stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=self._log.parent
            )
        until(lambda: self._announced() or self._process.poll() is not None, "the order server")
        announced = self._announced()
        assert announced is not None, self._log.read_text()
        self.port = int(announced[1])

    def _announced(self) -> re.Match[str] | None:
        return re.search(r"running on http://127\.0\.0\.1:(\d+)", self._log.read_text())

    def kill(self) -> None:
        """End it at once, with all that it holds."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        shutil.rmtree(self._log.parent, ignore_errors=True)

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Speak to it directly."""
        url = f"http://127.0.0.1:{self.port}{path}"
        transport = httpx.AsyncHTTPTransport(verify=False)  # plain HTTP: certificates need not be read
        async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
            answer = await client.request(method, url, json=body)
            assert answer.is_success, answer.text
            return answer.json()

    async def empty(self) -> None:
        """Have it forget everything, its own traders' first orders too."""
        await self.ask("POST", "/reset", {"seed": 1})
        await self.match()
        for order in await self.open_orders():
            await self.ask("DELETE", f"/orders/{order['order_id']}")
        assert await self.open_orders() == []

    async def match(self) -> None:
        """Have it execute what crosses."""
        await self.ask("POST", "/match", {"timestamp": INSTANT})

    async def offer(self, name: str, *, size: str, price: Decimal = MAKER_PRICE) -> None:
        """Have somebody else sell."""
        order = {
            "order_type": "limit",
            "order_id": name,
            "trader_id": "maker",
            "side": "SELL",
            "size": size,
            "price": str(price),
            "timestamp": INSTANT,
        }
        await self.ask("POST", "/place", {"orders": [order]})
        await self.match()

    async def open_orders(self) -> list[Mapping[str, Any]]:
        """Return all open orders, whose ever."""
        book = await self.ask("GET", "/orders")
        return [order for side in ("bids", "offers") for level in book[side].values() for order in level]

    async def trades(self) -> list[Mapping[str, Any]]:
        """Return all executions."""
        told: list[Mapping[str, Any]] = (await self.ask("GET", "/trades"))["trades"]
        return told


@cache
def order_server() -> OrderServer:
    """Return the server of this process's tests; its state is emptied by `OrderServer.empty`."""
    server = OrderServer()
    atexit.register(server.kill)
    return server


def order_adapter(url: str) -> HttpAdapter:
    """Return the adapter as the example's mapping file makes it."""
    return open_adapter("exchange", {"mapping": str(MAPPING), "baseUrl": url}, clock=SystemClock())


@asynccontextmanager
async def foreign_orders(_: Path) -> AsyncIterator[Provider]:
    """Give the server, emptied, with something on offer."""
    server = order_server()
    await server.empty()
    await server.offer("maker-1", size="1000")
    async with proxied(server.port) as proxy:
        adapter = order_adapter(proxy.url)
        yield Provider(
            adapter,
            hanging=lambda: proxy.meeting(always(Fault.HANG)),
            gone=proxy.refusing,
            raw_statuses={
                "OPEN": OrderStatus.PENDING,
                "CANCEL": OrderStatus.CANCELLED,
                "gone": OrderStatus.CANCELLED,
                "traded": OrderStatus.FILLED,
            },
            settle=server.match,
            strange=lambda client_id: proxy.saying(said(client_id, "OPEN", STRANGE)),
            resting=PlaceOrder("ACME", "buy", "limit", Decimal("2.5"), Decimal("1.5"), "gtc"),
            filled=PlaceOrder("ACME", "buy", "limit", Decimal(3), MAKER_PRICE, "gtc"),
            exact=PlaceOrder("ACME", "buy", "limit", Decimal("12345.6789012345"), Decimal("1.3"), "gtc"),
            unknown_symbol="NOSUCH",
            remembers=False,
        )
        await adapter.close()


FOREIGN_ORDERS: Final = Entry("http", foreign_orders, frozenset({"order"}))
