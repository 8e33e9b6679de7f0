"""The gates: their order, every boundary, and what passes them all."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.commands.gates import (
    GATES,
    AdapterLimits,
    AdapterLimitsChange,
    GateFacts,
    Switch,
    pass_gates,
    total,
)
from sovrun.core.errors import InvalidSetting
from sovrun.core.ids import Digest, Tenant
from support.commands import intention
from support.requests import ACTOR, TENANT

ORDER_OF_GATES = ["kill_switch", "mode", "symbol", "rate", "count", "notional"]
GLOBAL = Switch(None, tripped=True, actor=ACTOR, rationale=Digest("0" * 64), time_us=0)
OURS = replace(GLOBAL, tenant=TENANT)
SHUT = GateFacts(
    (GLOBAL, OURS),
    AdapterLimits(frozenset(), frozenset(), (1, 1_000_000), 1, Decimal(9), Decimal(9)),
    in_window=1,
    in_day=1,
    notional_in_day=Decimal(9),
)
"""Every gate is shut for the usual order."""
OPEN = GateFacts((), AdapterLimits())


def gate_of(wanted: Any, facts: GateFacts) -> str | None:
    refusal = pass_gates(wanted, facts)
    return None if refusal is None else refusal.gate


def with_limits(facts: GateFacts, **limits: Any) -> GateFacts:
    return replace(facts, limits=replace(facts.limits, **limits))


def test_the_first_gate_that_is_shut_is_named_and_they_are_asked_in_this_order() -> None:
    assert [name for name, _ in GATES] == ORDER_OF_GATES
    facts, named = SHUT, []
    open_next = [
        lambda facts: replace(facts, switches=()),
        lambda facts: with_limits(facts, modes=None),
        lambda facts: with_limits(facts, symbols=None),
        lambda facts: with_limits(facts, rate=None),
        lambda facts: with_limits(facts, per_day=None),
        lambda facts: with_limits(facts, order_notional=None, day_notional=None),
    ]
    for opened in open_next:
        named.append(gate_of(intention(), facts))
        facts = opened(facts)
    assert named == ORDER_OF_GATES
    assert gate_of(intention(), facts) is None


def test_what_only_ends_obligations_passes_every_gate() -> None:
    assert gate_of(intention(opens=False), SHUT) is None


def test_the_switch_that_concerns_everybody_is_named_first() -> None:
    told = [pass_gates(intention(), replace(OPEN, switches=each)) for each in ((GLOBAL, OURS), (OURS,))]
    assert [refusal and refusal.message for refusal in told] == [
        f"the kill switch for everybody was tripped by {ACTOR}",
        f"the kill switch of tenant {TENANT} was tripped by {ACTOR}",
    ]


def test_the_refusal_of_a_switch_says_why_it_was_tripped_at_no_great_length() -> None:
    refusal = pass_gates(intention(), replace(OPEN, switches=(OURS,), rationale="prices " + "x" * 9_999))
    assert refusal is not None
    assert refusal.message.startswith(f"the kill switch of tenant {TENANT} was tripped by {ACTOR}: prices x")
    assert len(refusal.message) < 600


def test_a_change_of_limits_is_of_what_it_names_and_nothing_else() -> None:
    before = AdapterLimits(per_day=5, symbols=frozenset({"ACME"}))
    change = AdapterLimitsChange.of({"perDay": None, "orderNotional": "10"})
    assert change.applied(before) == AdapterLimits(symbols=frozenset({"ACME"}), order_notional=Decimal(10))
    assert AdapterLimitsChange.of({}).applied(before) == before
    assert AdapterLimitsChange.to(AdapterLimits(per_day=1)).applied(before) == AdapterLimits(per_day=1)
    with pytest.raises(InvalidSetting):
        AdapterLimitsChange.of({"perYear": 1})
    with pytest.raises(ValueError, match="no member"):
        AdapterLimitsChange(AdapterLimits(), frozenset({"per_year"}))


@pytest.mark.parametrize(
    ("limits", "facts", "gate"),
    [
        ({"modes": frozenset({"paper"})}, {}, None),
        ({"modes": frozenset({"live"})}, {}, "mode"),
        ({"symbols": frozenset({"ACME"})}, {}, None),
        ({"symbols": frozenset({"ACM"})}, {}, "symbol"),
        ({"rate": (3, 1)}, {"in_window": 2}, None),
        ({"rate": (3, 1)}, {"in_window": 3}, "rate"),
        ({"rate": (0, 1)}, {}, "rate"),
        ({"per_day": 3}, {"in_day": 2}, None),
        ({"per_day": 3}, {"in_day": 3}, "count"),
        ({"per_day": 0}, {}, "count"),
        ({"order_notional": Decimal(10)}, {}, None),
        ({"order_notional": Decimal("9.999999999999999999")}, {}, "notional"),
        ({"day_notional": Decimal(10)}, {}, None),
        ({"day_notional": Decimal(30)}, {"notional_in_day": Decimal(20)}, None),
        ({"day_notional": Decimal(30)}, {"notional_in_day": Decimal("20.000000000000000001")}, "notional"),
    ],
)
def test_each_gate_is_open_up_to_its_bound(
    limits: dict[str, Any], facts: dict[str, Any], gate: str | None
) -> None:
    assert gate_of(intention(), GateFacts((), AdapterLimits(**limits), **facts)) == gate


def test_a_command_without_a_symbol_passes_the_gate_of_symbols() -> None:
    assert gate_of(intention(symbol=None), with_limits(OPEN, symbols=frozenset())) is None


@pytest.mark.parametrize("limit", ["order_notional", "day_notional"])
def test_what_cannot_be_valued_does_not_pass_where_values_are_limited(limit: str) -> None:
    assert gate_of(intention(notional=None), with_limits(OPEN, **{limit: Decimal(10**9)})) == "notional"
    assert gate_of(intention(notional=None), OPEN) is None


def test_no_digit_of_a_value_is_lost_before_it_is_compared() -> None:
    """A product of two decimals of 36 digits has 72; arithmetic of the usual 28 would let it pass."""
    limit = Decimal("999999999999999999" * 2)
    above = f"{limit}.{'0' * 35}1"
    assert gate_of(intention(notional=above), with_limits(OPEN, order_notional=limit)) == "notional"
    facts = replace(with_limits(OPEN, day_notional=limit), notional_in_day=Decimal("9" * 35 + "8"))
    assert gate_of(intention(notional="1"), facts) is None
    assert gate_of(intention(notional=f"1.{'0' * 35}1"), facts) == "notional"
    assert total([f"{limit}", f"0.{'0' * 35}1", None]) == Decimal(above)


# --- limits as they are kept --------------------------------------------------------------------------------------------

amounts = st.decimals(0, 10**18, allow_nan=False, allow_infinity=False, places=6)
limits_of_any_kind = st.builds(
    AdapterLimits,
    modes=st.none() | st.frozensets(st.sampled_from(["paper", "live"])),
    symbols=st.none() | st.frozensets(st.text("ABC.", min_size=1, max_size=4)),
    rate=st.none() | st.tuples(st.integers(0, 10**6), st.integers(1, 86_400).map(lambda s: s * 1_000_000)),
    per_day=st.none() | st.integers(0, 10**9),
    order_notional=st.none() | amounts,
    day_notional=st.none() | amounts,
)


@settings(max_examples=200, deadline=None)
@given(limits=limits_of_any_kind)
def test_limits_are_read_back_as_they_were_set(limits: AdapterLimits) -> None:
    assert AdapterLimits.of(limits.json()) == limits


@pytest.mark.parametrize(
    "value",
    [
        {"unknown": 1},
        {"modes": "paper"},
        {"symbols": "ACME"},
        {"symbols": [1]},
        {"rate": 5},
        {"rate": {"commands": 5}},
        {"rate": {"commands": 5, "seconds": 0}},
        {"rate": {"commands": 5, "seconds": 86_401}},
        {"rate": {"commands": -1, "seconds": 1}},
        {"rate": {"commands": 5, "seconds": 0.5}},
        {"rate": {"commands": True, "seconds": 1}},
        {"rate": {"commands": 5, "seconds": 1, "minutes": 1}},
        {"perDay": -1},
        {"perDay": 1.5},
        {"perDay": "5"},
        {"orderNotional": "-1"},
        {"orderNotional": "NaN"},
        {"dayNotional": "Infinity"},
        {"dayNotional": "much"},
        {"dayNotional": True},
    ],
    ids=str,
)
def test_limits_that_may_not_mean_what_was_meant_are_refused(value: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting) as refused:
        AdapterLimits.of(value)
    assert "Error" not in refused.value.detail, "it is said to people"


def test_limits_of_nobody_bound_nothing() -> None:
    assert AdapterLimits.of({}) == AdapterLimits()
    assert gate_of(intention(tenant=Tenant("anybody")), OPEN) is None
