"""The steps of the trading example that Sovrun executes itself: which symbol, with which parameters, and what to ask for.

All arithmetic is decimal, at a precision that is set here, so that every machine comes to the same digits.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from decimal import ROUND_DOWN, Context, Decimal, localcontext
from itertools import pairwise
from typing import Any

from sovrun.step import DoNotRetry, path_of

PRECISION = Context(prec=28)
CENT = Decimal("0.01")
FEE = Decimal("0.001")
"""Of the value of every trade."""


def research(prices: Mapping[str, Any]) -> dict[str, Any]:
    """Return what each symbol did over the whole time, and the one whose gain was the steadiest."""
    with localcontext(PRECISION):
        found = {symbol: _character(closes) for symbol, closes in sorted(_closes(prices).items())}
    # What stands first in the alphabet wins a tie.
    candidate = max(found, key=lambda symbol: Decimal(found[symbol]["gainPerRisk"]))
    return {"candidate": candidate, "last": found[candidate]["last"], "symbols": found}


def backtest(prices: Mapping[str, Any], symbol: str, fast: int, slow: int, capital: str) -> dict[str, Any]:
    """Return what would have come of holding `symbol` whenever its short mean was above its long one.

    Args:
        fast, slow: days of the two means.
        capital: what it began with; it buys whole pieces only.
    """
    with localcontext(PRECISION):
        closes = _closes(prices)[symbol]
        cash, held, trades = Decimal(capital), 0, 0
        highest, deepest = Decimal(capital), Decimal(0)
        for day in range(slow, len(closes)):
            wants = _mean(closes[day - fast : day]) > _mean(closes[day - slow : day])
            close = closes[day]
            if wants and not held:
                held = int(cash / (close * (1 + FEE)))
                cash -= held * close * (1 + FEE)
                trades += 1
            elif held and not wants:
                cash += held * close * (1 - FEE)
                held, trades = 0, trades + 1
            worth = cash + held * close
            highest = max(highest, worth)
            deepest = max(deepest, 1 - worth / highest)
        return {
            "fast": fast,
            "slow": slow,
            "trades": trades,
            "worth": _money(worth),
            "gain": _percent(worth / Decimal(capital) - 1),
            "deepestFall": _percent(deepest),
        }


def propose(research: Mapping[str, Any], tests: Sequence[Mapping[str, Any]], capital: str) -> dict[str, Any]:
    """Return what a trader is asked to allow: a deployment with the best parameters, and its first order.

    Raises: DoNotRetry when no parameters made money, since the same data will say the same again.
    """
    best = max(tests, key=lambda test: Decimal(test["worth"]))
    if Decimal(best["worth"]) <= Decimal(capital):
        raise DoNotRetry(
            f"no parameters made money with {research['candidate']}; there is nothing to propose"
        )
    with localcontext(PRECISION):
        limit = (Decimal(research["last"]) * Decimal("1.01")).quantize(CENT)
        quantity = int(Decimal(capital) / 2 / limit)
    symbol = str(research["candidate"])
    return {
        "deployment": {
            "name": f"crossover-{symbol}",
            "artifact": "crossover",
            "capital": capital,
            "parameters": {"symbol": symbol, "fast": best["fast"], "slow": best["slow"]},
        },
        "order": {"symbol": symbol, "quantity": str(quantity), "price": str(limit)},
        "because": {"gain": best["gain"], "deepestFall": best["deepestFall"], "trades": best["trades"]},
    }


def _closes(prices: Mapping[str, Any]) -> dict[str, list[Decimal]]:
    closes: dict[str, list[Decimal]] = {}
    with path_of(prices).open(encoding="utf-8", newline="") as source:
        for row in csv.DictReader(source):
            closes.setdefault(row["symbol"], []).append(Decimal(row["close"]))
    return closes


def _character(closes: Sequence[Decimal]) -> dict[str, str]:
    changes = [after / before - 1 for before, after in pairwise(closes)]
    mean = _mean(changes)
    risk = _mean([(change - mean) ** 2 for change in changes]).sqrt()
    return {
        "last": str(closes[-1]),
        "gain": _percent(closes[-1] / closes[0] - 1),
        "dailyRisk": _percent(risk),
        "gainPerRisk": str((mean / risk).quantize(Decimal("0.0001"))),
    }


def _mean(values: Sequence[Decimal]) -> Decimal:
    return sum(values, Decimal(0)) / len(values)


def _money(value: Decimal) -> str:
    return str(value.quantize(CENT, rounding=ROUND_DOWN))


def _percent(value: Decimal) -> str:
    return f"{(value * 100).quantize(CENT)} %"
