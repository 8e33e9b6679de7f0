"""Durations and sizes as they are written in a document.

Owns: the units and the exact arithmetic that turns them into whole microseconds and whole bytes.
Must not touch: which field may have which value (`details.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Final

from sovrun.core.spec.model import SECOND_US

DAY_US: Final = 86_400 * SECOND_US
DURATION_MAX_US: Final = 366 * DAY_US
LONG_DURATION_MAX_US: Final = 3_650 * DAY_US
"""Of waits and of what holds them: people may take years."""
GRACE_MAX_US: Final = 600 * SECOND_US
"""Of what keeps a worker from going on: how long a step may take to end."""
SIZE_MAX: Final = 2**53 - 1

_REMEMBERED: Final = 1_024  # a document of 100,000 steps has few different ones, and exact arithmetic is slow
_FORM: Final = re.compile(r"(?P<number>[0-9]{1,15}(\.[0-9]{1,6})?)(?P<unit>[A-Za-z]{1,2})")
_DURATION_US: Final[Mapping[str, int]] = {
    "us": 1, "ms": 1_000, "s": SECOND_US, "m": 60 * SECOND_US, "h": 3_600 * SECOND_US, "d": DAY_US,
}  # fmt: skip
_SIZE_BYTES: Final[Mapping[str, int]] = {
    "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40,
}  # fmt: skip


@lru_cache(_REMEMBERED, typed=True)
def duration_us(value: str | float, *, max_us: int = DURATION_MAX_US) -> int:
    """Return a duration in microseconds.

    Args:
        value: a number of seconds, or a text such as `500ms` of the form that the published schema demands.
        max_us: the longest that is accepted, whole days.
    Raises: ValueError, which says what is wrong, unless it is a whole number from 1 to `max_us`.
    """
    exact = Fraction(str(value)) * SECOND_US if not isinstance(value, str) else _exact(value, _DURATION_US)
    if exact.denominator != 1:
        raise ValueError("is finer than a microsecond")
    if not 0 < exact <= max_us:
        raise ValueError(f"must be more than 0 and at most {max_us // DAY_US} days")
    return exact.numerator


def long_duration_us(value: str | float) -> int:
    """Return a deadline or timeout in microseconds: as `duration_us`, up to `LONG_DURATION_MAX_US`."""
    return duration_us(value, max_us=LONG_DURATION_MAX_US)


def grace_us(value: float) -> int:
    """Return the time that a step is given to end in microseconds: 0 kills it at once, and `GRACE_MAX_US` is the longest.

    Raises: ValueError, which says what is wrong.
    """
    exact = Fraction(str(value)) * SECOND_US
    if exact.denominator != 1:
        raise ValueError("is finer than a microsecond")
    if not 0 <= exact <= GRACE_MAX_US:
        raise ValueError(f"must be 0 to {GRACE_MAX_US // SECOND_US} seconds")
    return exact.numerator


@lru_cache(_REMEMBERED, typed=True)
def size_bytes(value: str | float) -> int:
    """Return a size in bytes.

    Args:
        value: a whole number, or a text such as `256Mi` of the form that the published schema demands.
    Raises: ValueError, which says what is wrong, unless it is a whole number from 1 to `SIZE_MAX`.
    """
    exact = Fraction(str(value)) if not isinstance(value, str) else _exact(value, _SIZE_BYTES)
    if exact.denominator != 1:
        raise ValueError("is not a whole number of bytes")
    if not 0 < exact <= SIZE_MAX:
        raise ValueError("must be at least 1 byte and less than 8 PiB")
    return exact.numerator


def _exact(text: str, units: Mapping[str, int]) -> Fraction:
    form = _FORM.fullmatch(text)
    if form is None or form["unit"] not in units:
        raise ValueError(f"must be a number with one of {', '.join(units)}")
    return Fraction(form["number"]) * units[form["unit"]]
