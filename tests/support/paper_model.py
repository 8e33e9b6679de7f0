"""A second paper provider, written for its plainness: exact fractions, a list that is searched for the best offer.

It shares no code with the provider that it is compared with, and knows no ledger, no client ids and no statuses beyond
what it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

from sovrun.core.commands.model import PlaceOrder

Trade = tuple[Fraction, Fraction, int | None]
"""Price, quantity, and the number of the order that was there before; None for the market."""


@dataclass
class Standing:
    """Something that can be traded with; the market's are numbered before every order."""

    number: int
    side: str
    symbol: str
    price: Fraction
    left: Fraction
    is_order: bool = False


@dataclass
class Model:
    """One account at one market.

    Args:
        market: (symbol, side, price, quantity) of what is on offer.
    """

    cash: Fraction
    short_selling: bool
    market: list[tuple[str, str, str, str]]
    held: dict[str, Fraction] = field(default_factory=dict)
    standing: list[Standing] = field(default_factory=list)
    trades: list[list[Trade]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number, (symbol, side, price, quantity) in enumerate(self.market, -len(self.market)):
            self.standing.append(Standing(number, side, symbol, Fraction(price), Fraction(quantity)))

    def place(self, order: PlaceOrder) -> str | list[Trade]:
        """Return the trades of an order that is taken, or the code under which it is refused."""
        trades = self._trades_of(order)
        left = Fraction(order.quantity) - sum(quantity for _, quantity, _ in trades)
        rests = left > 0 and order.type == "limit" and order.time_in_force == "gtc"
        if order.side == "buy":
            cost = sum((price * quantity for price, quantity, _ in trades), Fraction(0))
            cost += left * self._limit(order) if rests else 0
            if cost > self.free_cash():
                return "insufficient_funds"
        elif not self.short_selling and Fraction(order.quantity) > self.free(order.symbol):
            return "insufficient_position"
        number = len(self.trades)
        self.trades.append([])
        for price, quantity, maker in trades:
            self._settle(order.symbol, order.side, price, quantity)
            self.trades[number].append((price, quantity, maker))
            if maker is not None:
                self._settle(order.symbol, "sell" if order.side == "buy" else "buy", price, quantity)
                self.trades[maker].append((price, quantity, number))
        self._reduce(order, trades)
        if rests:
            self.standing.append(
                Standing(number, order.side, order.symbol, self._limit(order), left, is_order=True)
            )
        return trades

    def free_cash(self) -> Fraction:
        """Return the cash that no standing order may need."""
        return self.cash - sum((row.left * row.price for row in self._orders("buy")), Fraction(0))

    def free(self, symbol: str) -> Fraction:
        """Return what is held of a symbol and not offered already."""
        offered = [row.left for row in self._orders("sell") if row.symbol == symbol]
        return self.held.get(symbol, Fraction(0)) - sum(offered, Fraction(0))

    def cancel(self, number: int) -> bool:
        """Take an order away, and return whether it stood."""
        before = len(self.standing)
        self.standing = [row for row in self.standing if not (row.is_order and row.number == number)]
        return len(self.standing) < before

    def _trades_of(self, order: PlaceOrder) -> list[Trade]:
        offers = [row for row in self.standing if row.symbol == order.symbol and row.side != order.side]
        trades: list[Trade] = []
        left = Fraction(order.quantity)
        while left and offers:
            sign = 1 if order.side == "buy" else -1
            best = min(offers, key=lambda row: (sign * row.price, row.number))
            if order.type == "limit" and sign * best.price > sign * self._limit(order):
                break
            offers.remove(best)
            quantity = min(left, best.left)
            if quantity:
                trades.append((best.price, quantity, best.number if best.is_order else None))
            left -= quantity
        return trades

    def _reduce(self, order: PlaceOrder, trades: list[Trade]) -> None:
        for price, quantity, maker in trades:
            for row in self.standing:
                same = row.number == maker if maker is not None else not row.is_order and row.price == price
                if same and row.symbol == order.symbol and row.side != order.side:
                    row.left -= quantity
        self.standing = [row for row in self.standing if row.left or not row.is_order]

    def _settle(self, symbol: str, side: str, price: Fraction, quantity: Fraction) -> None:
        sign = 1 if side == "buy" else -1
        self.cash -= sign * price * quantity
        self.held[symbol] = self.held.get(symbol, Fraction(0)) + sign * quantity

    def _orders(self, side: str) -> list[Standing]:
        return [row for row in self.standing if row.is_order and row.side == side]

    def _limit(self, order: PlaceOrder) -> Fraction:
        assert isinstance(order.price, Decimal)
        return Fraction(order.price)
