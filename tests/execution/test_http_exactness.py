"""Decimals are sent as exactly the digits that were commanded and read as exactly those that were told."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.commands.model import decimal_text
from sovrun.execution.adapters.http_values import Numbers, UnfitError, decimal_of, dumps, filled, loads
from sovrun.execution.port import OutcomeUnknown

# what a command may hold: 18 digits before and after the point
COMMANDED = st.decimals(min_value=0, max_value=Decimal(10**18 - 1), places=18, allow_nan=False) | st.decimals(
    min_value=0, max_value=Decimal(10**18 - 1), places=2, allow_nan=False
)
IN_A_DOUBLE = st.builds(
    lambda digits, places: Decimal(digits).scaleb(-places), st.integers(0, 10**15 - 1), st.integers(0, 15)
)


def sent(value: Decimal, numbers: Numbers, **options: str) -> bytes:
    return dumps(filled({"n": {"from": "quantity", **options}}, {"quantity": value}, numbers))


@given(COMMANDED, st.sampled_from(["string", "number"]))
@settings(max_examples=1_000)
def test_what_is_commanded_is_sent_and_read_digit_by_digit(value: Decimal, form: str) -> None:
    numbers = Numbers(form)
    body = sent(value, numbers)
    text = decimal_text(value)
    assert body == (f'{{"n":"{text}"}}' if form == "string" else f'{{"n":{text}}}').encode()
    told = decimal_of(loads(body)["n"], "quantity", numbers)
    assert (told, decimal_text(told)) == (value, text)


@given(IN_A_DOUBLE)
@settings(max_examples=1_000)
def test_fifteen_digits_survive_a_provider_that_computes_with_doubles(value: Decimal) -> None:
    numbers = Numbers("number", 15)
    held = json.loads(sent(value, numbers))["n"]  # as such a provider reads it: an int or a double
    told = decimal_of(loads(json.dumps({"n": float(held)}).encode())["n"], "quantity", numbers)
    assert told == value


@given(st.integers(0, 10**6), st.integers(0, 10**6))
@settings(max_examples=1_000)
def test_what_a_provider_subtracts_in_doubles_is_read_as_it_was_meant(first: int, second: int) -> None:
    whole, part = Decimal(max(first, second)).scaleb(-2), Decimal(min(first, second)).scaleb(-2)
    left = float(whole) - float(part)
    told = decimal_of(loads(json.dumps(left).encode()), "remaining", Numbers("number", 10))
    assert told == whole - part


@given(COMMANDED)
@settings(max_examples=1_000)
def test_what_would_not_survive_is_not_sent(value: Decimal) -> None:
    digits = len(value.normalize().as_tuple().digits)
    if digits <= 15:
        assert loads(sent(value, Numbers("number", 15)))["n"] == value
        return
    for form in ("number", "string"):
        with pytest.raises(UnfitError) as refused:
            sent(value, Numbers(form, 15))
        assert refused.value.code == "precision_not_supported"


@given(st.integers(1, 10**9), st.sampled_from(["0.1", "0.05", "0.25", "1", "100", "0.000000000000000003"]))
@settings(max_examples=1_000)
def test_only_multiples_of_a_step_are_sent(count: int, step: str) -> None:
    value = count * Decimal(step)
    assert loads(sent(value, Numbers("number"), step=step))["n"] == value
    with pytest.raises(UnfitError):
        sent(value + Decimal(step) / 2, Numbers("number"), step=step)


@pytest.mark.parametrize(
    "text", ['"1_000"', '" 1"', '"1e9999"', "1e9999", '"٣"', "true", '""', '"NaN"', "[]"]
)
def test_what_is_no_decimal_is_not_taken_for_one(text: str) -> None:
    with pytest.raises(OutcomeUnknown):
        decimal_of(loads(text.encode()), "quantity", Numbers())
