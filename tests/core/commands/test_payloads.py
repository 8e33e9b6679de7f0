"""Payloads: what the published schemas let in, in which spelling it is kept, and as which value adapters get it."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.canonical import canonical
from sovrun.core.commands.kinds import kind_faults, near_kind
from sovrun.core.commands.model import (
    KINDS,
    CancelOrder,
    CommandKind,
    CreateDeployment,
    PlaceOrder,
    StopDeployment,
    _validator,
    decimal_text,
    is_kind_name,
    normal_payload,
    payload_findings,
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
    with pytest.raises(InvalidCommand, match=r"`quantity` must .*; `side` must ") as refused:
        normal_payload(KINDS["order.place"], LIMIT | {"quantity": 1.5, "side": "short"})
    assert refused.value.facts["kind"] == "order.place"


DECIMAL = '`price` must be a decimal above zero in a text, such as "1.5", with up to 18 digits before and after the point'


@pytest.mark.parametrize(
    ("kind", "payload", "said"),
    [
        ("order.place", LIMIT | {"price": 10.5}, f'{DECIMAL}; it is a number (write it in quotes: "10.5")'),
        ("order.place", LIMIT | {"price": True}, f"{DECIMAL}; it is true or false"),
        ("order.place", LIMIT | {"price": "0.00"}, f"{DECIMAL}, not '0.00'"),
        ("order.place", LIMIT | {"price": "-1"}, f"{DECIMAL}, not '-1'"),
        ("order.place", LIMIT | {"side": "short"}, "`side` must be 'buy' or 'sell', not 'short'"),
        ("order.place", MARKET | {"price": "1"}, "a market order has no `price`"),
        (
            "order.place",
            MARKET | {"type": "limit"},
            "the payload lacks the member `price`: a limit order has one",
        ),
        ("order.place", LIMIT | {"Symbol": "A"}, "unknown member 'Symbol' (did you mean 'symbol'?)"),
        ("order.cancel", {"orderId": "o", "x": 1}, "unknown member 'x' (known are orderId)"),
        ("order.cancel", {}, "the payload lacks the member `orderId`"),
        ("order.cancel", [], "the payload must be a map; it is a list"),
        ("deployment.create", DEPLOYMENT | {"parameters": []}, "`parameters` must be a map; it is a list"),
    ],
)
def test_a_refusal_says_in_words_what_is_wanted_and_nothing_else(
    kind: str, payload: object, said: str
) -> None:
    with pytest.raises(InvalidCommand) as refused:
        normal_payload(KINDS[kind], payload)
    assert refused.value.detail == f"the payload does not fit {kind}, version 1: {said}"
    assert refused.value.hint == f"`sovrun command {kind} --schema` prints what does"


def test_a_hostile_payload_makes_no_large_refusal() -> None:
    hostile = LIMIT | {f"{'x' * 60}{number}": 1 for number in range(50_000)}
    with pytest.raises(InvalidCommand) as refused:
        normal_payload(KINDS["order.place"], hostile)
    assert len(refused.value.detail) < 3_000
    assert len(list(payload_findings(KINDS["order.place"], hostile))) <= 20


def test_a_schema_is_compiled_once() -> None:
    kind = KINDS["order.place"]
    assert _validator(kind) is _validator(replace(kind)), "by value: adapters may make their kinds anew"


# --- further kinds ----------------------------------------------------------------------------------------------------

REBALANCE = {
    "type": "object",
    "properties": {"book": {"type": "string"}, "by": {"type": "string"}, "steps": {"maximum": 5}},
    "required": ["book"],
}


def further(name: str = "book.rebalance", schema: dict[str, Any] | None = None, **more: Any) -> CommandKind:
    told = {"needs_key": True, "opens": True, "resource": None, **more}
    return CommandKind(name, told.pop("version", 2), REBALANCE if schema is None else schema, **told)


def test_a_further_kinds_payload_is_held_to_its_own_schema() -> None:
    kind = further(decimals=("by",))
    assert normal_payload(kind, {"book": "b", "by": "-1.50", "steps": 5}) == {
        "book": "b",
        "by": "-1.5",
        "steps": 5,
    }
    assert normal_payload(kind, {"book": "b", "by": "-0.0"}) == {"book": "b", "by": "0"}
    for payload, said in (
        ({"book": "b", "by": "much"}, "`by` must be a decimal in a text"),
        ({"book": "b", "by": "1e3"}, "`by` must be a decimal in a text"),
        ({"book": 7}, '`book` must be a text; it is a number (write it in quotes: "7")'),
        ({"book": "b", "steps": 6}, "`steps` must be at most 5, not '6'"),
        ({}, "the payload lacks the member `book`"),
    ):
        with pytest.raises(InvalidCommand) as refused:
            normal_payload(kind, payload)
        assert refused.value.detail == f"the payload does not fit book.rebalance, version 2: {said}"


def test_two_kinds_of_one_name_are_not_confused() -> None:
    """Two adapters may each declare one."""
    strict, lax = further(), further(schema={"type": "object"})
    assert normal_payload(lax, {"any": 1}) == {"any": 1}
    with pytest.raises(InvalidCommand):
        normal_payload(strict, {"any": 1})


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (further(), None),
        (further(target="book", resource="order"), None),
        (further("order.place"), "is no further kind"),
        (further("Book.move"), "is not a kind's name"),
        (further("order.places"), "would be taken for 'order.place', misspelt"),
        (further(version=0), "`version` is a whole number from 1"),
        (further(schema={"type": "array"}), "its `type` is object"),
        (further(schema={"type": "objekt"}), "is not a usable JSON Schema"),
        (further(schema={"type": "object", "$ref": "https://x.invalid/s"}), "is not a usable JSON Schema"),
        (further(decimals=("steps",)), "does not say that 'steps' is a text"),
        (further(target="book"), "`target` names a deployment or an order"),
        (further(target="by", resource="order"), "does not say that 'by' is a text and required"),
    ],
)
def test_a_further_kind_is_declared_whole_or_refused(kind: CommandKind, said: str | None) -> None:
    faults = [fault.message for fault in kind_faults(kind)]
    assert (faults == []) if said is None else any(said in fault for fault in faults)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("order.plac", "order.place"),
        ("order.palce", "order.place"),
        ("order.cancle", "order.cancel"),
        ("orders.place", "order.place"),
        ("ordr.plcae", "order.place"),
        ("deployment.creat", "deployment.create"),
        ("deployments.stop", "deployment.stop"),
        ("order.place", None),
        ("order.replace", None),
        ("order.amend", None),
        ("deployment.pause", None),
        ("deployment.start", None),
        ("report.publish", None),
    ],
)
def test_a_slip_of_the_pen_is_told_from_a_kind_of_its_own(name: str, meant: str | None) -> None:
    assert near_kind(name) == meant


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
