"""Payloads: what the published schemas let in, in which spelling it is kept, and as which value adapters get it."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.canonical import canonical
from sovrun.core.commands.model import (
    KINDS,
    CancelOrder,
    CreateDeployment,
    PlaceOrder,
    StopDeployment,
    decimal_text,
    is_kind_name,
    normal_payload,
    typed_payload,
)
from sovrun.core.errors import InvalidCommand

LIMIT = {"symbol": "ACME", "side": "buy", "quantity": "1.5", "price": "10"}
MARKET = {"symbol": "ACME", "side": "sell", "type": "market", "quantity": "1"}
DEPLOYMENT = {"name": "maker", "artifact": "bot", "capital": "1000"}


def takes(kind: str, payload: object) -> bool:
    try:
        normal_payload(KINDS[kind], payload)
    except InvalidCommand:
        return False
    return True


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("1", True),
        ("0.1", True),
        ("0.000000000000000001", True),
        ("999999999999999999.999999999999999999", True),
        ("10.50", True),
        ("0", False),
        ("0.0", False),
        ("0.000000000000000000", False),
        ("-1", False),
        ("+1", False),
        ("01", False),
        (".5", False),
        ("5.", False),
        ("1e3", False),
        ("1E3", False),
        ("1,000", False),
        ("1_000", False),
        (" 1", False),
        ("1 ", False),
        ("1\n", False),
        ("٣", False),
        ("NaN", False),
        ("Infinity", False),
        ("1" * 18, True),
        ("1" * 19, False),
        ("0." + "1" * 19, False),
        ("", False),
        (1, False),
        (1.5, False),
        (True, False),
        (None, False),
        (["1"], False),
    ],
    ids=repr,
)
def test_quantities_prices_and_capital_are_plain_positive_decimal_strings(
    text: object, *, good: bool
) -> None:
    assert takes("order.place", LIMIT | {"quantity": text}) is good
    assert takes("order.place", LIMIT | {"price": text}) is good
    assert takes("deployment.create", DEPLOYMENT | {"capital": text}) is good


@pytest.mark.parametrize(
    ("kind", "payload", "good"),
    [
        ("order.place", LIMIT, True),
        ("order.place", LIMIT | {"type": "limit", "timeInForce": "ioc"}, True),
        ("order.place", MARKET, True),
        ("order.place", MARKET | {"price": "1"}, False),
        ("order.place", {"symbol": "ACME", "side": "buy", "quantity": "1"}, False),
        ("order.place", LIMIT | {"type": "stop"}, False),
        ("order.place", LIMIT | {"side": "BUY"}, False),
        ("order.place", LIMIT | {"timeInForce": "day"}, False),
        ("order.place", LIMIT | {"symbol": ""}, False),
        ("order.place", LIMIT | {"symbol": "a b"}, False),
        ("order.place", LIMIT | {"symbol": "A" * 129}, False),
        ("order.place", LIMIT | {"symbol": "ACME\n"}, False),
        ("order.place", LIMIT | {"leverage": "2"}, False),
        ("order.place", [], False),
        ("order.place", None, False),
        ("order.place", "ACME", False),
        ("deployment.create", DEPLOYMENT, True),
        ("deployment.create", {"name": "maker", "artifact": "bot", "parameters": {"a": [1]}}, True),
        ("deployment.create", {"name": "maker"}, False),
        ("deployment.create", {"artifact": "bot"}, False),
        ("deployment.create", DEPLOYMENT | {"parameters": []}, False),
        ("deployment.create", DEPLOYMENT | {"artifact": "a b"}, False),
        ("deployment.create", DEPLOYMENT | {"name": "../x"}, False),
        ("deployment.stop", {"deploymentId": "d-1"}, True),
        ("deployment.stop", {}, False),
        ("deployment.stop", {"deploymentId": 1}, False),
        ("deployment.stop", {"deploymentId": "d-1", "force": True}, False),
        ("order.cancel", {"orderId": "o-1"}, True),
        ("order.cancel", {"orderId": ""}, False),
        ("order.cancel", {"orderId": "o" * 129}, False),
        ("order.cancel", {"deploymentId": "o-1"}, False),
    ],
)
def test_payloads_fit_their_kind_or_are_refused(kind: str, payload: object, *, good: bool) -> None:
    assert takes(kind, payload) is good


def test_a_refusal_says_where_the_mistakes_are() -> None:
    with pytest.raises(InvalidCommand, match=r"quantity: .*; side: ") as refused:
        normal_payload(KINDS["order.place"], LIMIT | {"quantity": 1.5, "side": "short"})
    assert refused.value.facts["kind"] == "order.place"


digits = st.integers(1, 10**18 - 1).map(str)
fractions = st.text("0123456789", min_size=1, max_size=18)
spellings = st.one_of(digits, st.builds("{}.{}".format, digits, fractions))


@settings(max_examples=500, deadline=None)
@given(text=spellings, zeros=st.integers(0, 5))
def test_a_decimal_has_one_spelling_and_keeps_its_value(text: str, zeros: int) -> None:
    short = decimal_text(Decimal(text))
    assert Decimal(short) == Decimal(text)
    assert decimal_text(Decimal(short)) == short
    longer = text + "0" * zeros if "." in text else f"{text}.{'0' * (zeros + 1)}"
    assert decimal_text(Decimal(longer)) == short
    assert not {"e", "E", "+", "-"} & set(short)
    assert "." not in short or not short.endswith(("0", "."))


@settings(max_examples=500, deadline=None)
@given(quantity=spellings, price=spellings)
def test_two_spellings_of_one_order_are_one_payload_and_one_value(quantity: str, price: str) -> None:
    kind = KINDS["order.place"]
    normal = normal_payload(kind, LIMIT | {"quantity": quantity, "price": price})
    padded = {"quantity": f"{quantity}{'' if '.' in quantity else '.'}0"[:37], "price": price}
    if takes("order.place", LIMIT | padded):
        assert canonical(normal_payload(kind, LIMIT | padded)) == canonical(normal)
    assert normal_payload(kind, normal) == normal
    wanted = typed_payload("order.place", json.loads(canonical(normal)))
    assert wanted == PlaceOrder("ACME", "buy", "limit", Decimal(quantity), Decimal(price), "gtc")


def test_the_typed_values_are_what_the_payloads_say() -> None:
    def typed(kind: str, payload: dict[str, Any]) -> object:
        return typed_payload(kind, normal_payload(KINDS[kind], payload))

    assert typed("order.place", MARKET) == PlaceOrder("ACME", "sell", "market", Decimal(1), None, "gtc")
    assert typed("deployment.create", DEPLOYMENT) == CreateDeployment("maker", "bot", Decimal(1000), {})
    assert typed("deployment.create", {"name": "n", "artifact": "b"}) == CreateDeployment("n", "b", None, {})
    assert typed("deployment.stop", {"deploymentId": "d"}) == StopDeployment("d")
    assert typed("order.cancel", {"orderId": "o"}) == CancelOrder("o")
    assert typed_payload("account.close", {"a": 1}) == {"a": 1}


def test_what_opens_needs_a_key_and_what_ends_names_what_it_ends() -> None:
    told = {name: (kind.opens, kind.needs_key, kind.target) for name, kind in KINDS.items()}
    assert told == {
        "deployment.create": (True, True, None),
        "order.place": (True, True, None),
        "deployment.stop": (False, False, "deploymentId"),
        "order.cancel": (False, False, "orderId"),
    }


@pytest.mark.parametrize(
    ("text", "good"),
    [("order.place", True), ("a.b-2", True), ("order", False), ("Order.place", False), ("order.place\n", False),
     ("a.b.c", False), (".b", False), ("a.", False), ("2a.b", False)],
)  # fmt: skip
def test_the_name_of_a_kind_is_a_noun_and_a_verb(text: str, *, good: bool) -> None:
    assert is_kind_name(text) is good
