"""The order book of a paper provider: price, then time.

Owns: exact decimal arithmetic, `Level`, `Fill`, `Book`, `match`.
Must not touch: cash, settings, ledgers. Why no library does this: docs/adr/0010-the-paper-provider-matches-itself.md.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow
from typing import Final, TypeAlias

EXACT: Final = Context(prec=200, traps=[Inexact, InvalidOperation, DivisionByZero, Overflow])
"""The context of everything that is counted: a sum or product that would be rounded is an error instead. A product of
two decimals has at most 72 digits, which leaves room for 10^100 of them."""
_AVERAGE: Final = Context(prec=200, traps=[InvalidOperation, DivisionByZero, Overflow])
_AVERAGE_STEP: Final = Decimal("1e-18")

Priority: TypeAlias = tuple[Decimal, int]
"""What comes first is traded first: the price (negated where higher is better), then the number of its entry."""
MARKET: Final = -1
"""The number of what the market offers: it was there before every order."""


@dataclass(frozen=True, slots=True)
class Level:
    """What the market offers at a price; without a bound when `quantity` is None."""

    price: Decimal
    quantity: Decimal | None


@dataclass(frozen=True, slots=True)
class Offer:
    """What an order can be filled from; `maker` is the resting order's id, None for the market's."""

    price: Decimal
    quantity: Decimal | None
    maker: str | None


@dataclass(frozen=True, slots=True)
class Fill:
    """A part of an order that was traded: at the price of what was there before it."""

    price: Decimal
    quantity: Decimal
    maker: str | None


def priority(offered: str, price: Decimal, number: int) -> Priority:
    """Return the place of an offer among those of its side: `sell` offers go up from the lowest, `buy` offers down."""
    return (price if offered == "sell" else price.copy_negate(), number)


def opposite(side: str) -> str:
    """Return the side from which an order of `side` is filled."""
    return "sell" if side == "buy" else "buy"


def average(notional: Decimal, quantity: Decimal) -> Decimal:
    """Return a mean price, rounded half to even at the 18th place; the only number here that is ever rounded."""
    return _AVERAGE.divide(notional, quantity).quantize(_AVERAGE_STEP, context=_AVERAGE)


def match(side: str, quantity: Decimal, limit: Decimal | None, offers: Iterable[Offer]) -> list[Fill]:
    """Return the fills of an order from offers in their order, as far as its limit and its quantity go."""
    fills = []
    left = quantity
    for offer in offers:
        if not left or (
            limit is not None and (offer.price > limit if side == "buy" else offer.price < limit)
        ):
            break
        taken = left if offer.quantity is None else min(left, offer.quantity)
        if taken:
            fills.append(Fill(offer.price, taken, offer.maker))
            left = EXACT.subtract(left, taken)
    return fills


@dataclass(slots=True)
class Book:
    """The resting orders of one symbol, and what was taken of the market's offers.

    Orders stand here as (priority, id); how much of one is left, its account knows.
    """

    resting: dict[str, list[tuple[Priority, str]]] = field(default_factory=lambda: {"buy": [], "sell": []})
    taken: dict[tuple[str, Decimal], Decimal] = field(default_factory=dict)

    def rest(self, side: str, price: Decimal, number: int, order: str) -> None:
        """Add an order behind those of a better or the same price."""
        insort(self.resting[side], (priority(side, price, number), order))

    def remove(self, side: str, price: Decimal, number: int, order: str) -> None:
        """Take out an order that rests."""
        row = (priority(side, price, number), order)
        place = bisect_left(self.resting[side], row)
        if self.resting[side][place : place + 1] != [row]:
            raise KeyError(order)
        del self.resting[side][place]

    def take(self, offered: str, fill: Fill) -> None:
        """Note that the market's offer at a price has become smaller."""
        key = (offered, fill.price)
        self.taken[key] = EXACT.add(self.taken.get(key, Decimal(0)), fill.quantity)

    def offers(self, side: str, levels: Sequence[Level], left: Callable[[str], Offer]) -> Iterator[Offer]:
        """Give what an order of `side` can be filled from, in the order of price and time.

        Args:
            levels: what the market offered at first, best price first.
            left: tells price and quantity left of a resting order.
        """
        offered = opposite(side)
        market = (
            (priority(offered, level.price, MARKET), Offer(level.price, self._left_at(offered, level), None))
            for level in levels
        )
        resting = ((rank, left(order)) for rank, order in self.resting[offered])
        return (offer for _, offer in heapq.merge(market, resting, key=_rank))

    def _left_at(self, offered: str, level: Level) -> Decimal | None:
        if level.quantity is None:
            return None
        left = EXACT.subtract(level.quantity, self.taken.get((offered, level.price), Decimal(0)))
        return max(left, Decimal(0))  # an operator may have lowered what was offered


def _rank(row: tuple[Priority, Offer]) -> Priority:
    return row[0]
