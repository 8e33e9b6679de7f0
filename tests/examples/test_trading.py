"""The trading example: it does what its page says, and its back-tests come to what can be reckoned by hand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sovrun import step
from support.guides import follow, require_as_told
from support.tasks import require_bubblewrap

EXAMPLE = Path(__file__).parents[2] / "examples" / "trading"
TEST: dict[str, Any] = {"fast": 1, "slow": 2, "trades": 2, "gain": "5.00 %", "deepestFall": "1.00 %"}


@pytest.fixture
def strategy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    import strategy  # type: ignore[import-not-found]  # noqa: PLC0415 -- it lies beside the document, in no package

    yield strategy
    del sys.modules["strategy"]


@pytest.fixture
def prices(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Closes of 10, 11, 12, 13, 12, 11 of one symbol; another one falls all the time."""
    lines = [f"2026-01-0{day},RISE,{close}" for day, close in enumerate((10, 11, 12, 13, 12, 11), 1)]
    lines += [f"2026-01-0{day},FALL,{close}" for day, close in enumerate((9, 8, 7, 6, 5, 4), 1)]
    file = tmp_path / "prices.csv"
    file.write_text("\n".join(["date,symbol,close", *lines]) + "\n")
    token = step.enter(step.StepContext({"d" * 64: file}, tmp_path, {}))
    yield {"$file": "d" * 64, "size": file.stat().st_size}
    step.leave(token)


def test_the_example_does_what_its_page_says(tmp_path: Path) -> None:
    require_bubblewrap()
    page = EXAMPLE / "README.md"
    require_as_told(page, follow(page, tmp_path, beside=EXAMPLE))


def test_research_takes_the_symbol_that_gained_most_for_its_risk(strategy: ModuleType, prices: Any) -> None:
    found = strategy.research(prices)
    assert (found["candidate"], found["last"]) == ("RISE", "11")
    assert [found["symbols"][name]["gain"] for name in ("FALL", "RISE")] == ["-55.56 %", "10.00 %"]


def test_a_backtest_buys_whole_pieces_pays_fees_and_knows_only_the_days_before(
    strategy: ModuleType, prices: Any
) -> None:
    # Day 3 buys 8 at 12, day 6 sells them at 11; the fee is a thousandth each time.
    assert strategy.backtest(prices, symbol="RISE", fast=1, slow=2, capital="100") == {
        "fast": 1,
        "slow": 2,
        "trades": 2,
        "worth": "91.81",
        "gain": "-8.18 %",
        "deepestFall": "14.91 %",
    }


def test_the_best_parameters_are_proposed_with_half_the_capital_as_a_first_order(
    strategy: ModuleType,
) -> None:
    tests = [TEST | {"worth": "1020.00"}, TEST | {"worth": "1050.00", "fast": 3}]
    found = strategy.propose({"candidate": "RISE", "last": "11"}, tests, "1000")
    assert found["deployment"]["parameters"] == {"symbol": "RISE", "fast": 3, "slow": 2}
    assert found["order"] == {"symbol": "RISE", "quantity": "45", "price": "11.11"}


def test_nothing_is_proposed_where_no_parameters_made_money(strategy: ModuleType) -> None:
    with pytest.raises(step.DoNotRetry, match="no parameters made money with RISE"):
        strategy.propose({"candidate": "RISE", "last": "11"}, [TEST | {"worth": "1000.00"}], "1000")
