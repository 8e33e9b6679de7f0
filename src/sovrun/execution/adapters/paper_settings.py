"""What an operator can set of a paper provider: prices, what is on offer, opening cash, what may be deployed.

Owns: `PaperSettings`, `paper_settings`, what holds without any setting.
Must not touch: accounts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from sovrun.execution.adapters.paper_book import Level
from sovrun.execution.adapters.settings import SettingsOf

_SYMBOL: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_CURRENCY: Final = r"[A-Z][A-Z0-9]{1,15}"
_ARTIFACT: Final = r"[!-~]{1,128}"
_KNOWN: Final = ("prices", "depth", "cash", "currency", "shortSelling", "artifacts")

DEFAULT_PRICES: Final[Mapping[str, str]] = {"ACME": "10.50", "GLOBEX": "250.00", "THIN": "100.00"}
DEFAULT_DEPTH: Final[Mapping[str, Mapping[str, list[list[str]]]]] = {
    "THIN": {
        "asks": [["100.00", "10"], ["100.50", "20"], ["101.00", "50"]],
        "bids": [["99.50", "10"], ["99.00", "20"], ["98.00", "50"]],
    }
}
DEFAULT_CASH: Final = "1000000"
DEFAULT_CURRENCY: Final = "USD"


@dataclass(frozen=True, slots=True)
class Depth:
    """What the market offers of a symbol, best price first."""

    asks: tuple[Level, ...]
    bids: tuple[Level, ...]


@dataclass(frozen=True, slots=True)
class PaperSettings:
    """How a paper provider is set up.

    Args:
        prices: by symbol, at which orders are valued. A symbol without `depth` is bought and sold at it, in any
            quantity.
        depth: by symbol, what there is, once for each account.
        cash: with which an account is opened, in `currency`.
        short_selling: whether more may be sold than is held.
        artifacts: what may be deployed; None for anything.
    """

    prices: Mapping[str, Decimal]
    depth: Mapping[str, Depth]
    cash: Decimal
    currency: str
    short_selling: bool
    artifacts: frozenset[str] | None

    def offers(self, symbol: str, side: str) -> tuple[Level, ...]:
        """Return what the market offers to an order of this side, best price first."""
        if symbol not in self.depth:
            return (Level(self.prices[symbol], None),)
        return self.depth[symbol].asks if side == "buy" else self.depth[symbol].bids


def paper_settings(name: str, settings: Mapping[str, Any]) -> PaperSettings:
    """Return the settings of the adapter `name`, with what holds where nothing is set. Raises: InvalidSetting."""
    reader = SettingsOf(name)
    given = reader.members(settings, "", _KNOWN)
    built_in_depth = {} if "prices" in given else DEFAULT_DEPTH
    prices = _prices(reader, given.get("prices", DEFAULT_PRICES))
    return PaperSettings(
        prices=prices,
        depth=_depths(reader, given.get("depth", built_in_depth), prices),
        cash=reader.decimal(given.get("cash", DEFAULT_CASH), "cash", zero=True),
        currency=reader.text(
            given.get("currency", DEFAULT_CURRENCY),
            "currency",
            _CURRENCY,
            "a currency's code, for example USD",
        ),
        short_selling=reader.boolean(given.get("shortSelling", False), "shortSelling"),
        artifacts=_artifacts(reader, given["artifacts"]) if "artifacts" in given else None,
    )


def _prices(reader: SettingsOf, value: object) -> dict[str, Decimal]:
    prices = {}
    for symbol, price in reader.members(value, "prices").items():
        reader.text(symbol, f"prices.{symbol:.80}", _SYMBOL, "a symbol of letters, digits and _ . -")
        prices[symbol] = reader.decimal(price, f"prices.{symbol}")
    return prices


def _depths(reader: SettingsOf, value: object, prices: Mapping[str, Decimal]) -> dict[str, Depth]:
    depths = {}
    for symbol, sides in reader.members(value, "depth").items():
        where = f"depth.{symbol:.80}"
        if symbol not in prices:
            reader.refuse(where, "the symbol has no price", "give it one under prices")
        given = reader.members(sides, where, ("asks", "bids"))
        asks = _levels(reader, given.get("asks", []), f"{where}.asks")
        bids = _levels(reader, given.get("bids", []), f"{where}.bids")
        depth = Depth(
            tuple(sorted(asks, key=lambda level: level.price)),
            tuple(sorted(bids, key=lambda level: level.price, reverse=True)),
        )
        if asks and bids and depth.bids[0].price >= depth.asks[0].price:
            reader.refuse(
                where,
                f"the highest bid, {depth.bids[0].price}, is not below the lowest ask, {depth.asks[0].price}",
                "bids are what the market pays, asks what it wants",
            )
        depths[symbol] = depth
    return depths


def _levels(reader: SettingsOf, value: object, where: str) -> list[Level]:
    levels: dict[Decimal, Level] = {}
    for position, pair in enumerate(reader.items(value, where)):
        place = f"{where}[{position}]"
        both = reader.items(pair, place)
        if len(both) != 2:
            reader.refuse(place, f"{len(both)} values", 'write a price and a quantity, ["10.50", "100"]')
        level = Level(reader.decimal(both[0], f"{place}[0]"), reader.decimal(both[1], f"{place}[1]"))
        if level.price in levels:
            reader.refuse(place, f"the price {both[0]} stands here twice", "write one pair for each price")
        levels[level.price] = level
    return list(levels.values())


def _artifacts(reader: SettingsOf, value: object) -> frozenset[str]:
    return frozenset(
        reader.text(one, f"artifacts[{position}]", _ARTIFACT, "up to 128 printable characters without spaces")
        for position, one in enumerate(reader.items(value, "artifacts"))
    )
