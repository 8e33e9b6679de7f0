"""A provider of orders and deployments behind REST as most are: ids and client ids for ever, pages, decimals as texts.

It stands beside the foreign order server for what that one does not have.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from sovrun.core.commands.model import CreateDeployment, PlaceOrder
from sovrun.execution.adapters.http import HttpAdapter, open_adapter
from sovrun.execution.port import DeploymentStatus, OrderStatus
from sovrun.wiring import SystemClock
from support.providers import STRANGE, Entry, Provider
from support.proxies import Fault, always, in_turn, proxied, said
from support.rest import Got, Say, rest_server

PAGE: Final = 2
SECRET: Final = "s3cret-of-the-desk"  # noqa: S105 -- for a server of ours

MAPPING: Final = """\
apiVersion: sovrun/http-adapter/v1
kind: HttpAdapter
baseUrl: http://127.0.0.1:1
modes: [paper]
processingDeadline: 1s
absenceIsConclusive: true
headers:
  Authorization: {join: ["Bearer ", {file: TOKEN_FILE}]}
  X-Account: {from: tenant}
  X-On-Behalf-Of: {from: actor}
errors:
  - {status: 409, at: /error/code, is: DUPLICATE, duplicate: true, message: /error/text}
  - {status: 422, at: /error/code, is: NO_SUCH_SYMBOL, code: unknown_symbol}
  - {status: 422, at: /error/code, is: NO_SUCH_ARTIFACT, code: unknown_artifact}
  - {status: 404, code: not_found}
orders:
  place:
    method: POST
    path: /orders
    body:
      client: {from: clientId}
      symbol: {from: symbol}
      side: {from: side}
      type: {from: type, map: {limit: LMT, market: MKT}}
      quantity: {from: quantity}
      limit: {from: price}
      timeInForce: {from: timeInForce}
    record: /order
  cancel: {method: POST, path: "/orders/{orderId}/cancel", record: /order}
  get: {path: "/orders/{orderId}", items: [/order]}
  find: {path: /orders, query: {client: {from: clientId}}, items: [/orders/*]}
  list: {path: /orders, items: [/orders/*], next: {at: /next, query: after}}
  record:
    id: /id
    clientId: /client
    owner: {at: /account, is: {from: tenant}}
    symbol: /symbol
    side: {at: /side, map: {buy: buy, sell: sell}}
    type: {at: /type, map: {LMT: limit, MKT: market}}
    quantity: /quantity
    filled: /filled
    price: /limit
    averagePrice: /average
    status: {at: /status, map: {OPEN: pending, DONE: filled, DELETED: cancelled}}
deployments:
  create:
    method: PUT
    path: /deployments/{clientId}
    body: {name: {from: name}, artifact: {from: artifact}, capital: {from: capital}, set: {from: parameters}}
  stop: {method: DELETE, path: "/deployments/{deploymentId}"}
  list: {path: /deployments, items: [/deployments/*], next: {at: /next, query: after}}
  record:
    id: /id
    clientId: /client
    owner: {at: /account, is: {from: tenant}}
    name: /name
    status: {at: /state, map: {up: running, down: stopped}}
    detail: {capital: /capital, set: /set}
portfolio:
  path: /portfolio
  cash: {items: [/cash/*], name: /currency, amount: /amount}
  positions: {items: [/held/*], name: /symbol, amount: /amount}
quote: {path: "/quotes/{symbol}", price: /last}
"""
REPORTS: Final = """\
commands:
  report.publish:
    version: 1
    schema:
      type: object
      properties: {about: {type: string}}
      required: [about]
      additionalProperties: false
    perform: {method: PUT, path: "/reports/{clientId}", body: {about: {from: payload.about}}}
    find: {path: "/reports/{clientId}", items: [/report]}
    clientId: /client
    owner: {at: /account, is: {from: tenant}}
"""


@dataclass
class Desk:
    """What the provider holds, and how it answers."""

    orders: list[dict[str, Any]] = field(default_factory=list)
    deployments: list[dict[str, Any]] = field(default_factory=list)
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked_by: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By client id of an order: the account and the person for whom it was placed."""

    def answer(self, got: Got) -> Say:
        account = got.headers.get("x-account")
        if got.headers.get("authorization") != f"Bearer {SECRET}" or not got.headers.get("x-on-behalf-of"):
            return Say(401, {"error": {"code": "WHO"}})
        match got.method, got.parts:
            case "POST", ["orders"]:
                self.asked_by[got.json()["client"]] = (str(account), got.headers["x-on-behalf-of"])
                return self._place(account, got.json())
            case _, ["reports", client]:
                return self._report(account, client, got)
            case "POST", ["orders", name, "cancel"]:
                return self._cancel(self._of(self.orders, name, account))
            case "GET", ["orders", name]:
                order = self._of(self.orders, name, account)
                return Say(404) if order is None else Say(200, {"order": order})
            case "GET", ["orders" | "deployments" as kind]:
                return self._list(kind, account, got)
            case "PUT", ["deployments", client]:
                return self._create(account, client, got.json())
            case "DELETE", ["deployments", name]:
                deployment = self._of(self.deployments, name, account)
                if deployment is None:
                    return Say(404)
                deployment["state"] = "down"
                return Say(204)
            case "GET", ["portfolio"]:
                return Say(200, self._portfolio(account))
            case "GET", ["quotes", "ACME"]:
                return Say(200, b'{"last": 50.10}')
        return Say(404)

    def _report(self, account: str | None, client: str, got: Got) -> Say:
        if got.method == "PUT":
            self.reports[client] = {**got.json(), "client": client, "account": account}
            return Say(201)
        return Say(200, {"report": self.reports[client]}) if client in self.reports else Say(404)

    def _portfolio(self, account: str | None) -> dict[str, Any]:
        """Return what is owned, of which the account had 1000.10 EUR before anything was filled."""
        filled = [one for one in self.orders if one["account"] == account and Decimal(one["filled"])]
        amounts = [
            (
                one["symbol"],
                Decimal(one["filled"]) * (1 if one["side"] == "buy" else -1),
                Decimal(one["average"]),
            )
            for one in filled
        ]
        cash = Decimal("1000.10") - sum((amount * price for _, amount, price in amounts), Decimal(0))
        held = [{"symbol": symbol, "amount": str(amount)} for symbol, amount, _ in amounts]
        return {"cash": [{"currency": "EUR", "amount": str(cash)}], "held": held}

    @staticmethod
    def _of(held: list[dict[str, Any]], name: str, account: str | None) -> dict[str, Any] | None:
        return next((one for one in held if one["id"] == name and one["account"] == account), None)

    def _list(self, kind: str, account: str | None, got: Got) -> Say:
        held = [one for one in getattr(self, kind) if one["account"] == account]
        if "client" in got.query:
            return Say(200, {kind: [one for one in held if one["client"] == got.query["client"]]})
        begin = int(got.query.get("after", "0"))
        following = str(begin + PAGE) if begin + PAGE < len(held) else None
        return Say(200, {kind: held[begin : begin + PAGE], "next": following})

    def _place(self, account: str | None, asked: dict[str, Any]) -> Say:
        if asked["symbol"] != "ACME":
            return Say(422, {"error": {"code": "NO_SUCH_SYMBOL"}})
        if any(one["client"] == asked["client"] for one in self.orders):
            return Say(409, {"error": {"code": "DUPLICATE", "text": "seen before"}})
        executed = asked.get("limit") is None or Decimal(asked["limit"]) >= 50
        order = {
            **asked,
            "id": f"o{len(self.orders):04}",
            "account": account,
            "filled": asked["quantity"] if executed else "0",
            "average": "50" if executed else None,
            "status": "DONE" if executed else "OPEN",
        }
        self.orders.append(order)
        return Say(201, {"order": order})

    def _cancel(self, order: dict[str, Any] | None) -> Say:
        if order is None:
            return Say(404)
        order["status"] = "DELETED"
        return Say(200, {"order": order})

    def _create(self, account: str | None, client: str, asked: dict[str, Any]) -> Say:
        if asked["artifact"] != "bot":
            return Say(422, {"error": {"code": "NO_SUCH_ARTIFACT"}})
        if not any(one["client"] == client for one in self.deployments):
            held = {**asked, "id": f"d{len(self.deployments):04}", "client": client, "account": account}
            self.deployments.append({**held, "state": "up"})
        return Say(204)


def desk_mapping(folder: Path, mapping: str = MAPPING) -> Path:
    """Write the file that describes such a provider, with the token that it demands beside it."""
    token, file = folder / "token", folder / "desk.yaml"
    token.write_text(SECRET + "\n")
    file.write_text(mapping.replace("TOKEN_FILE", str(token)))
    return file


def desk_adapter(folder: Path, url: str, mapping: str = MAPPING) -> HttpAdapter:
    """Return the adapter of such a provider."""
    file = desk_mapping(folder, mapping)
    return open_adapter("desk", {"mapping": str(file), "baseUrl": url}, clock=SystemClock())


@asynccontextmanager
async def desk_provider(folder: Path) -> AsyncIterator[Provider]:
    """Give such a provider, empty."""
    desk = Desk()
    async with rest_server(desk.answer) as server, proxied(server.port) as proxy:
        adapter = desk_adapter(folder, proxy.url, MAPPING + REPORTS)
        yield Provider(
            adapter,
            hanging=lambda: proxy.meeting(always(Fault.HANG)),
            gone=proxy.refusing,
            raw_statuses={
                "OPEN": OrderStatus.PENDING,
                "DONE": OrderStatus.FILLED,
                "DELETED": OrderStatus.CANCELLED,
                "up": DeploymentStatus.RUNNING,
                "down": DeploymentStatus.STOPPED,
            },
            resting=PlaceOrder("ACME", "buy", "limit", Decimal("2.5"), Decimal("1.5"), "gtc"),
            filled=PlaceOrder("ACME", "sell", "market", Decimal(3), None, "ioc"),
            exact=PlaceOrder(
                "ACME",
                "buy",
                "limit",
                Decimal("123456789012345678.123456789012345678"),
                Decimal("1e-18"),
                "gtc",
            ),
            deployment=CreateDeployment("bot-1", "bot", Decimal("1000.25"), {"speed": 3}),
            unknown_symbol="NOSUCH",
            unknown_artifact="nothing",
            further=("report.publish", lambda deployment: {"about": deployment}),
            asked_by=lambda client_id: desk.asked_by[client_id],
            strange=lambda client_id: proxy.saying(
                in_turn(said(client_id, "OPEN", STRANGE), said(client_id, "up", STRANGE))
            ),
        )
        await adapter.close()


DESK: Final = Entry("http-rest", desk_provider, frozenset({"order", "deployment"}))
