"""What a paper provider knows of one tenant: the fold of the tenant's ledger, and of nothing else.

Owns: `Entry` with its recorded form, `Account`, `OrderRecord`, `DeploymentRecord`.
Must not touch: settings (prices may change, what was traded does not), clocks, ledgers. Whether something may be done,
`paper_rules` decides; here it has happened.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from typing import Any, Final, NoReturn

from sovrun.core.canonical import canonical, decode
from sovrun.core.commands.model import CreateDeployment, PlaceOrder, decimal_text
from sovrun.core.errors import CorruptHistory
from sovrun.execution.adapters.paper_book import EXACT, Book, Fill, Offer, average, opposite
from sovrun.execution.port import Deployment, DeploymentStatus, Order, OrderStatus, Portfolio

LEDGER_VERSION: Final = 1

ORDER_STATUSES: Final[Mapping[str, OrderStatus]] = {
    "open": OrderStatus.PENDING,
    "partially_filled": OrderStatus.PENDING,
    "filled": OrderStatus.FILLED,
    "cancelled": OrderStatus.CANCELLED,
    "expired": OrderStatus.CANCELLED,  # what a market or `ioc` order did not get
}
DEPLOYMENT_STATUSES: Final[Mapping[str, DeploymentStatus]] = {
    "running": DeploymentStatus.RUNNING,
    "paused": DeploymentStatus.PAUSED,
    "stopped": DeploymentStatus.STOPPED,
}
_NONE: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that happened at the provider, as it stands in the ledger."""

    type: str
    data: Mapping[str, Any]

    def encoded(self) -> bytes:
        """Return the canonical bytes of the entry."""
        return canonical({"v": LEDGER_VERSION, "type": self.type, **self.data})


@dataclass(slots=True)
class OrderRecord:
    """An order with what has become of it; `number` is that of its entry."""

    id: str
    number: int
    client_id: str
    actor: str
    asked: PlaceOrder
    filled: Decimal = _NONE
    notional: Decimal = _NONE
    raw_status: str = "open"
    fills: list[Fill] = field(default_factory=list)

    @property
    def left(self) -> Decimal:
        """How much is not filled."""
        return EXACT.subtract(self.asked.quantity, self.filled)

    @property
    def rests(self) -> bool:
        """Whether it stands in the book."""
        return ORDER_STATUSES[self.raw_status] is OrderStatus.PENDING

    def told(self) -> Order:
        """Return the order as the port tells of it."""
        return Order(
            id=self.id,
            client_id=self.client_id,
            symbol=self.asked.symbol,
            side=self.asked.side,
            type=self.asked.type,
            quantity=self.asked.quantity,
            price=self.asked.price,
            filled=self.filled,
            average_price=average(self.notional, self.filled) if self.filled else None,
            status=ORDER_STATUSES[self.raw_status],
            raw_status=self.raw_status,
            detail={
                "actor": self.actor,
                "timeInForce": self.asked.time_in_force,
                "notional": decimal_text(self.notional),
                "fills": [_recorded(fill) for fill in self.fills],
            },
        )


@dataclass(slots=True)
class DeploymentRecord:
    """A deployment with what has become of it."""

    id: str
    client_id: str
    actor: str
    asked: CreateDeployment
    raw_status: str = "running"

    def told(self) -> Deployment:
        """Return the deployment as the port tells of it."""
        detail: dict[str, Any] = {
            "actor": self.actor,
            "artifact": self.asked.artifact,
            "parameters": dict(self.asked.parameters),
        }
        if self.asked.capital is not None:
            detail["capital"] = decimal_text(self.asked.capital)
        status = DEPLOYMENT_STATUSES[self.raw_status]
        return Deployment(self.id, self.client_id, self.asked.name, status, self.raw_status, detail)


class Account:
    """A tenant's account: cash, positions, orders in their books, deployments.

    `length` is the number of entries it is the fold of.
    """

    def __init__(self) -> None:
        self.length = 0
        self.currency: str | None = None
        self.cash = _NONE
        self.reserved_cash = _NONE
        self.positions: dict[str, Decimal] = defaultdict(Decimal)
        self.reserved: dict[str, Decimal] = defaultdict(Decimal)
        self.books: dict[str, Book] = defaultdict(Book)
        self.orders: dict[str, OrderRecord] = {}
        self.deployments: dict[str, DeploymentRecord] = {}
        self.order_by_client: dict[str, OrderRecord] = {}
        self.deployment_by_client: dict[str, DeploymentRecord] = {}
        self.performed: dict[tuple[str, str], str] = {}
        """By kind and client id: the deployment that was moved."""

    @property
    def is_open(self) -> bool:
        """Whether anything has ever happened."""
        return self.currency is not None

    @property
    def free_cash(self) -> Decimal:
        """Cash that no resting order holds."""
        return EXACT.subtract(self.cash, self.reserved_cash)

    def free(self, symbol: str) -> Decimal:
        """Return how much of a symbol is held that no resting order is to sell."""
        return EXACT.subtract(self.positions.get(symbol, _NONE), self.reserved.get(symbol, _NONE))

    def portfolio(self) -> Portfolio:
        """Return cash and the positions that are not zero."""
        positions = {symbol: held for symbol, held in sorted(self.positions.items()) if held}
        return Portfolio({str(self.currency): self.cash}, positions)

    def left_of(self, order: str) -> Offer:
        """Return what a resting order offers."""
        record = self.orders[order]
        assert record.asked.price is not None  # noqa: S101 -- only limit orders rest
        return Offer(record.asked.price, record.left, order)

    def apply(self, entry: bytes) -> None:
        """Take in the next entry. Raises: CorruptHistory for one that this version does not know."""
        data = decode(entry)
        if not isinstance(data, dict) or data.get("v") != LEDGER_VERSION:
            self._refuse()
        with localcontext(EXACT):
            self._happened(data["type"], data)
        self.length += 1

    def _happened(self, what: str, data: Mapping[str, Any]) -> None:
        match what:
            case "account.opened":
                self.currency = data["currency"]
                self.cash = Decimal(data["cash"])
            case "order.placed":
                self._placed(data)
            case "order.cancelled":
                self._cancelled(data)
            case "deployment.created":
                self._created(data)
            case "deployment.moved":
                self._moved(data)
            case _:
                self._refuse()

    def _refuse(self) -> NoReturn:
        raise CorruptHistory(
            f"entry {self.length} of a paper account is not known to this version",
            hint="it was written by a newer version, or by something else",
        )

    def _placed(self, data: Mapping[str, Any]) -> None:
        price = data.get("price")
        asked = PlaceOrder(
            symbol=data["symbol"],
            side=data["side"],
            type=data["orderType"],
            quantity=Decimal(data["quantity"]),
            price=None if price is None else Decimal(price),
            time_in_force=data["timeInForce"],
        )
        record = OrderRecord(data["id"], self.length, data["clientId"], data["actor"], asked)
        self.orders[record.id] = self.order_by_client[record.client_id] = record
        for row in data["fills"]:
            self._filled(record, Fill(Decimal(row["price"]), Decimal(row["quantity"]), row.get("maker")))
        if not record.left:
            record.raw_status = "filled"
        elif asked.type == "market" or asked.time_in_force == "ioc":
            record.raw_status = "expired"
        else:
            record.raw_status = "partially_filled" if record.filled else "open"
            self._rest(record)

    def _filled(self, taker: OrderRecord, fill: Fill) -> None:
        book = self.books[taker.asked.symbol]
        if fill.maker is None:
            book.take(opposite(taker.asked.side), fill)
        else:
            maker = self.orders[fill.maker]
            self._release(maker, fill.quantity)
            self._trade(maker, Fill(fill.price, fill.quantity, taker.id))
            maker.raw_status = "partially_filled" if maker.left else "filled"
            if not maker.left:
                self._leave_book(maker)
        self._trade(taker, fill)

    def _trade(self, record: OrderRecord, fill: Fill) -> None:
        worth = fill.price * fill.quantity
        buys = record.asked.side == "buy"
        self.cash += -worth if buys else worth
        self.positions[record.asked.symbol] += fill.quantity if buys else -fill.quantity
        record.filled += fill.quantity
        record.notional += worth
        record.fills.append(fill)

    def _rest(self, record: OrderRecord) -> None:
        price = self.left_of(record.id).price
        self.books[record.asked.symbol].rest(record.asked.side, price, record.number, record.id)
        self._reserve(record, record.left)

    def _leave_book(self, record: OrderRecord) -> None:
        price = self.left_of(record.id).price
        self.books[record.asked.symbol].remove(record.asked.side, price, record.number, record.id)

    def _reserve(self, record: OrderRecord, quantity: Decimal) -> None:
        if record.asked.side == "buy":
            self.reserved_cash += quantity * self.left_of(record.id).price
        else:
            self.reserved[record.asked.symbol] += quantity

    def _release(self, record: OrderRecord, quantity: Decimal) -> None:
        self._reserve(record, -quantity)

    def _cancelled(self, data: Mapping[str, Any]) -> None:
        record = self.orders[data["order"]]
        self._leave_book(record)
        self._release(record, record.left)
        record.raw_status = "cancelled"

    def _created(self, data: Mapping[str, Any]) -> None:
        capital = data.get("capital")
        asked = CreateDeployment(
            name=data["name"],
            artifact=data["artifact"],
            capital=None if capital is None else Decimal(capital),
            parameters=data["parameters"],
        )
        record = DeploymentRecord(data["id"], data["clientId"], data["actor"], asked)
        self.deployments[record.id] = self.deployment_by_client[record.client_id] = record

    def _moved(self, data: Mapping[str, Any]) -> None:
        self.deployments[data["deployment"]].raw_status = data["status"]
        if "kind" in data:
            self.performed[data["kind"], data["clientId"]] = data["deployment"]


def _recorded(fill: Fill) -> dict[str, str]:
    row = {"price": decimal_text(fill.price), "quantity": decimal_text(fill.quantity)}
    return row if fill.maker is None else row | {"against": fill.maker}


def recorded_fills(fills: list[Fill]) -> list[dict[str, str]]:
    """Return fills in the form of an entry."""
    return [
        {"price": decimal_text(fill.price), "quantity": decimal_text(fill.quantity)}
        | ({} if fill.maker is None else {"maker": fill.maker})
        for fill in fills
    ]
