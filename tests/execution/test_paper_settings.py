"""The settings of the paper provider are taken exactly or refused with the place and what to do."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sovrun.core.errors import InvalidSetting
from sovrun.core.spec.document import read_any
from sovrun.execution.adapters.paper_book import Level
from sovrun.execution.adapters.paper_settings import paper_settings
from support.markdown import DOCS, first_cells, rows, section


def test_without_settings_there_are_symbols_prices_and_cash() -> None:
    found = paper_settings("paper", {})
    assert found.prices == {"ACME": Decimal("10.50"), "GLOBEX": Decimal(250), "THIN": Decimal(100)}
    assert list(found.depth) == ["THIN"]
    assert (found.cash, found.currency, found.short_selling, found.artifacts) == (
        Decimal(1_000_000),
        "USD",
        False,
        None,
    )
    assert found.offers("ACME", "buy") == found.offers("ACME", "sell") == (Level(Decimal("10.50"), None),)


def test_own_prices_replace_the_built_in_market_and_levels_are_put_in_order() -> None:
    depth = {"X": {"asks": [["3", "1"], ["2", "1"]], "bids": [["0.5", "1"], ["1.5", "4"]]}}
    found = paper_settings("p", {"prices": {"X": "1.0"}, "depth": depth, "cash": "0", "artifacts": ["a/b:1"]})
    assert list(found.prices) == ["X"]
    assert [level.price for level in found.offers("X", "buy")] == [Decimal(2), Decimal(3)]
    assert [level.price for level in found.offers("X", "sell")] == [Decimal("1.5"), Decimal("0.5")]
    assert found.artifacts == frozenset({"a/b:1"})
    assert paper_settings("p", {"prices": {"X": "1.0"}}).depth == {}


def test_a_side_without_levels_offers_nothing() -> None:
    found = paper_settings("p", {"prices": {"X": "1"}, "depth": {"X": {}}})
    assert found.offers("X", "buy") == found.offers("X", "sell") == ()


REFUSED: list[tuple[dict[Any, Any], str, str]] = [
    ({"price": {}}, "there is no setting 'price'", "did you mean 'prices'?"),
    ({"zzz": 1}, "there is no setting 'zzz'", "known are artifacts, cash, currency, depth"),
    ({1: 2}, "the name 1 is not a text", "quotes"),
    ({"prices": []}, "prices: a list is not a map", "NAME: VALUE"),
    ({"prices": {"X": 10.5}}, "prices.X: the number 10.5 is not a decimal in quotes", '"10.50"'),
    ({"prices": {"X": 10}}, "prices.X: the number 10 is not", '"10.50"'),
    ({"prices": {"X": None}}, "prices.X: null is not", '"10.50"'),
    ({"prices": {"X": "0.00"}}, "prices.X: '0.00' is not a decimal greater than zero", '"10.50"'),
    ({"prices": {"X": "-1"}}, "prices.X: '-1' is not a decimal", "no sign"),
    ({"prices": {"X": "1e3"}}, "prices.X: '1e3' is not a decimal", "no exponent"),
    ({"prices": {"X": "1."}}, "prices.X: '1.' is not a decimal", "no exponent"),
    ({"prices": {"X": "٣"}}, "is not a decimal", "no exponent"),
    ({"prices": {"X": "1" * 19}}, "is not a decimal", "up to 18 digits"),
    ({"prices": {"X": "1." + "1" * 19}}, "is not a decimal", "up to 18 digits"),
    ({"prices": {"a b": "1"}}, "prices.a b: 'a b' does not fit", "a symbol of"),
    ({"depth": {"X": {}}}, "depth.X: the symbol has no price", "under prices"),
    ({"depth": {"ACME": {"ask": []}}}, "depth.ACME: there is no setting 'ask'", "'asks'"),
    ({"depth": {"ACME": {"asks": {}}}}, "depth.ACME.asks: a map is not a list", "[...]"),
    ({"depth": {"ACME": {"asks": [["1"]]}}}, "depth.ACME.asks[0]: 1 values", '["10.50", "100"]'),
    ({"depth": {"ACME": {"asks": [["1", 2]]}}}, "depth.ACME.asks[0][1]: the number 2", '"10.50"'),
    (
        {"depth": {"ACME": {"bids": [["1", "2"], ["1.0", "3"]]}}},
        "depth.ACME.bids[1]: the price 1.0 stands here twice",
        "one pair",
    ),
    (
        {"depth": {"ACME": {"asks": [["1", "2"]], "bids": [["1", "2"]]}}},
        "depth.ACME: the highest bid, 1, is not below the lowest ask, 1",
        "bids are",
    ),
    ({"cash": 1000}, "cash: the number 1000", '"10.50"'),
    ({"cash": "-1"}, "cash: '-1' is not a decimal not negative", "no sign"),
    ({"currency": "usd"}, "currency: 'usd' does not fit", "USD"),
    ({"currency": 1}, "currency: 1 does not fit", "USD"),
    ({"shortSelling": "yes"}, "shortSelling: the text 'yes' is neither true nor false", "true or false"),
    ({"artifacts": "momentum"}, "artifacts: the text 'momentum' is not a list", "[...]"),
    ({"artifacts": ["a b"]}, "artifacts[0]: 'a b' does not fit", "without spaces"),
]


@pytest.mark.parametrize(("settings", "what", "hint"), REFUSED, ids=[str(row[0])[:60] for row in REFUSED])
def test_a_setting_that_cannot_be_used_is_refused_with_its_place(
    settings: dict[str, Any], what: str, hint: str
) -> None:
    with pytest.raises(InvalidSetting) as refused:
        paper_settings("mine", settings)
    assert refused.value.detail.startswith("adapter mine: ")
    assert what in refused.value.detail
    assert hint in str(refused.value.hint)


def test_the_example_is_accepted_and_shows_every_setting() -> None:
    text = (Path(__file__).parents[2] / "examples" / "adapters" / "paper.yaml").read_bytes()
    settings = dict(read_any(text).value["adapters"]["rehearsal"])
    assert settings.pop("kind") == "paper"
    found = paper_settings("rehearsal", settings)
    assert found.offers("FJORD", "buy") == (
        Level(Decimal("41.30"), Decimal(500)),
        Level(Decimal("41.60"), Decimal(1500)),
    )
    with pytest.raises(InvalidSetting) as refused:
        paper_settings("rehearsal", {"?": None})
    assert refused.value.hint == f"known are {', '.join(sorted(settings))}"


def test_the_guide_tells_the_settings_and_the_built_in_market() -> None:
    page = (DOCS / "guides" / "commands.md").read_text()
    named = {name for cell in first_cells(section(page, "Settings")) for name in re.findall(r"\w+", cell)}
    assert named == {"prices", "depth", "cash", "currency", "shortSelling", "artifacts"}
    built_in = paper_settings("paper", {})
    market = section(page, "The paper provider").partition("###")[0]
    told = {symbol: (Decimal(price), what) for symbol, price, what in rows(market)}
    assert {symbol: price for symbol, (price, _) in told.items()} == built_in.prices
    numbers = [Decimal(number) for number in re.findall(r"[0-9.]*[0-9]", told["THIN"][1])]
    levels = [*built_in.depth["THIN"].asks, *built_in.depth["THIN"].bids]
    assert numbers == [number for level in levels for number in (level.quantity, level.price)]
