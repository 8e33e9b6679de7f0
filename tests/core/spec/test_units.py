"""Durations and sizes are exact: what cannot be a whole microsecond or byte is refused, never rounded."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovrun.core.spec.schemas import published_schema
from sovrun.core.spec.units import (
    DURATION_MAX_US,
    LONG_DURATION_MAX_US,
    SIZE_MAX,
    duration_us,
    long_duration_us,
    size_bytes,
)


@pytest.mark.parametrize(
    ("written", "us"),
    [
        ("250us", 250), ("500ms", 500_000), ("2s", 2_000_000), ("5m", 300_000_000), ("1h", 3_600_000_000),
        ("1d", 86_400_000_000), ("1.5s", 1_500_000), ("0.000001s", 1), ("366d", DURATION_MAX_US), (60, 60_000_000),
        (60.0, 60_000_000), (0.1, 100_000), (1e-6, 1), (0.3, 300_000), ("007s", 7_000_000),
    ],
)  # fmt: skip
def test_durations_are_whole_microseconds(written: str | float, us: int) -> None:
    assert duration_us(written) == us


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("1k", 1_000), ("1Ki", 1_024), ("10M", 10_000_000), ("256Mi", 256 << 20), ("1G", 10**9), ("1Gi", 1 << 30),
        ("1T", 10**12), ("1Ti", 1 << 40), ("1.5k", 1_500), ("0.5Ki", 512), (1, 1), (4096.0, 4_096), (SIZE_MAX, SIZE_MAX),
    ],
)  # fmt: skip
def test_sizes_are_whole_bytes(written: str | float, size: int) -> None:
    assert size_bytes(written) == size


@pytest.mark.parametrize(
    "written", ["0s", "0.5us", "0.0000001s", "367d", 0, -1, 1e-7, 3.2e7, "s", "1", "1 s", "1S", "-1s", "1e3s", "1/2s", "1w", "9" * 5_000 + "s"]
)  # fmt: skip
def test_what_is_no_duration_is_refused(written: str | float) -> None:
    with pytest.raises(ValueError, match=r"must be|finer"):
        duration_us(written)


@pytest.mark.parametrize(
    "written",
    ["0k", "0.0001k", "9007199254741Ti", 0, 1.5, SIZE_MAX + 1, "1", "1B", "1KB", "1kb", "Mi", "-1k", "1K"],
)
def test_what_is_no_size_is_refused(written: str | float) -> None:
    with pytest.raises(ValueError, match=r"must be|not a whole"):
        size_bytes(written)


def test_a_wait_may_take_ten_years_and_not_longer() -> None:
    assert (
        long_duration_us("3650d")
        == long_duration_us(315_360_000)
        == LONG_DURATION_MAX_US
        == 315_360_000_000_000
    )
    for longer in ("3651d", "315360000000001us", 315_360_001):
        with pytest.raises(ValueError, match="at most 3650 days"):
            long_duration_us(longer)
    assert published_schema()["$defs"]["longDuration"]["maximum"] * 1_000_000 == LONG_DURATION_MAX_US


def test_true_does_not_pass_for_the_one_that_was_seen_before() -> None:
    for convert in (duration_us, long_duration_us, size_bytes):
        assert convert(1) > 0
        with pytest.raises(ValueError, match="True"):
            convert(True)  # noqa: FBT003 -- that it is a bool is the point


@pytest.mark.parametrize(
    ("name", "convert"),
    [("duration", duration_us), ("longDuration", long_duration_us), ("size", size_bytes)],
)
@given(text=st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,2})?[usmhdkMGTi]{0,2}", fullmatch=True))
def test_the_published_pattern_and_the_units_agree(name: str, convert: object, text: str) -> None:
    pattern = published_schema()["$defs"][name]["pattern"]
    try:
        convert(text)  # type: ignore[operator]
    except ValueError as error:
        has_form = "with one of" not in str(error)
    else:
        has_form = True
    assert (re.search(pattern, text, re.ASCII) is not None) == has_form
