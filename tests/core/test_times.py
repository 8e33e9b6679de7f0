"""Instants have one text of fixed width, so that text order is time order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.times import time_text, time_us

MANY = settings(max_examples=1_000, deadline=None)
instants = st.integers(0, 253_402_300_799_999_999)  # the end of the year 9999


@MANY
@given(instants)
def test_an_instant_survives_its_text(instant_us: int) -> None:
    text = time_text(instant_us)
    assert time_us(text) == instant_us
    assert len(text) == len("2026-11-21T05:47:44.000000Z")


@MANY
@given(instants, instants)
def test_text_order_is_time_order(one_us: int, other_us: int) -> None:
    assert (time_text(one_us) < time_text(other_us)) is (one_us < other_us)


def test_known_instants_have_known_texts() -> None:
    assert time_text(0) == "1970-01-01T00:00:00.000000Z"
    assert time_text(1_795_240_064_000_001) == "2026-11-21T05:47:44.000001Z"


@pytest.mark.parametrize(
    "text", ["", "2026-11-21", "2026-11-21T05:47:44Z", "2026-11-21T05:47:44.000000+00:00"]
)
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="does not match"):
        time_us(text)
