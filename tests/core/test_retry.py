"""A wait before another attempt is the same on every replay and stays below its ceiling."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.canonical import sha256_hex
from sovrun.core.ids import Digest
from sovrun.core.retry import FAILURES_MAX, retry_delay_us

MANY = settings(max_examples=1_000, deadline=None)
HASH = Digest("a" * 64)


def delay(failures: int, base_us: int, cap_us: int, *, jitter: bool = False, step_hash: Digest = HASH) -> int:
    return retry_delay_us(failures, base_us=base_us, cap_us=cap_us, jitter=jitter, step_hash=step_hash)


def test_waits_double_from_the_base_up_to_the_cap() -> None:
    assert [delay(n, 1_000_000, 30_000_000) for n in range(1, 8)] == [
        1_000_000,
        2_000_000,
        4_000_000,
        8_000_000,
        16_000_000,
        30_000_000,
        30_000_000,
    ]


@MANY
@given(st.integers(1, 200), st.integers(0, 10**12), st.integers(0, 10**12))
def test_a_wait_is_the_formula_of_the_design(failures: int, base_us: int, more_us: int) -> None:
    cap_us = base_us + more_us
    assert delay(failures, base_us, cap_us) == min(base_us * 2 ** (failures - 1), cap_us)


@MANY
@given(st.integers(1, FAILURES_MAX), st.integers(0, 10**9), st.integers(0, 10**9), st.binary(max_size=4))
def test_a_jittered_wait_lies_below_the_ceiling_and_never_changes(
    failures: int, base_us: int, more_us: int, seed: bytes
) -> None:
    waits = {
        delay(failures, base_us, base_us + more_us, jitter=True, step_hash=sha256_hex(seed)) for _ in range(3)
    }
    assert len(waits) == 1
    assert 0 <= waits.pop() <= delay(failures, base_us, base_us + more_us)


def test_jitter_differs_by_step_and_by_failure_and_fills_the_range() -> None:
    waits = [
        delay(n, 1_000, 1_000, jitter=True, step_hash=sha256_hex(bytes([seed])))
        for n in range(1, 9)
        for seed in range(250)
    ]
    assert {0, 1_000} <= set(waits)
    assert Fraction(sum(waits), len(waits)) == pytest.approx(500, abs=25)


def test_a_wait_is_found_at_once_however_many_failures() -> None:
    assert delay(FAILURES_MAX, 1, 2**40) == 2**40
    assert delay(FAILURES_MAX, 0, 2**40) == 0


@pytest.mark.parametrize(
    ("failures", "base_us", "cap_us"),
    [(0, 1, 1), (-1, 1, 1), (FAILURES_MAX + 1, 1, 1), (1, -1, 1), (1, 2, 1)],
)
def test_arguments_outside_their_range_are_refused(failures: int, base_us: int, cap_us: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        delay(failures, base_us, cap_us)
