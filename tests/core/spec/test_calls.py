"""Command steps: a kind that is misspelt and a payload that cannot fit are found before anything runs."""

from __future__ import annotations

import pytest

from sovrun.core.errors import InvalidSpec, Mistake
from sovrun.core.spec.document import parse_dag

HEAD = """\
apiVersion: sovrun/v1
kind: Dag
metadata: {id: d}
inputs: {type: object, properties: {a: {type: string}}}
steps:
"""
ORDER = "  - {id: s, command: {kind: order.place, adapter: paper}, with: {%s}}"
CANCEL = "  - {id: s, command: {kind: order.cancel, adapter: paper}%s}"
OTHER = "  - {id: s, command: {kind: %s, adapter: paper}, with: {any: -1}}"
GOOD = "symbol: ACME, side: buy, quantity: '1', price: '1'"


def found(text: str) -> tuple[Mistake, ...]:
    try:
        parse_dag((HEAD + text.replace("§", "")).encode(), name="d.yaml")
    except InvalidSpec as refused:
        return refused.mistakes
    return ()


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (OTHER % "§order.plac", "unknown_command", "did you mean 'order.place'?"),
        (OTHER % "§deployments.stop", "unknown_command", "did you mean 'deployment.stop'?"),
        (ORDER % "symbol: ACME, side: buy, quantity: §-1, price: '1'", "wrong_type", '"1.5"'),
        (ORDER % "symbol: ACME, side: buy, quantity: §'-1', price: '1'", "bad_value", "above zero"),
        (ORDER % "symbol: ACME, side: buy, quantity: '1', price: §10.5", "wrong_type", 'write it in quotes: "10.5"'),
        (ORDER % "symbol: ACME, side: buy, quantity: '1', price: §{literal: 10.5}", "wrong_type", '"10.5"'),
        (ORDER % "symbol: ACME, side: buy, quantity: '1', price: §[{from: inputs.a}]", "wrong_type", "a list"),
        (ORDER % "symbol: {from: inputs.a}, side: §BUY, quantity: '1', price: '1'", "bad_value", "'buy' or 'sell'"),
        (ORDER % f"{GOOD}, §leverage: '2'", "unknown_field", "known are symbol, side"),
        (ORDER % f"{GOOD}, §pricee: {{from: inputs.a}}", "unknown_field", "did you mean 'price'?"),
        (ORDER.replace("{%s}", "§{%s}") % "symbol: ACME, side: buy, quantity: '1'", "missing_field", "`price`: a limit"),
        (ORDER.replace("{%s}", "§{%s}") % f"{GOOD}, type: market", "bad_value", "a market order has no `price`"),
        (CANCEL.replace("{id", "§{id") % "", "missing_field", "`orderId`"),
        (CANCEL % ", with: {orderId: §''}", "bad_value", "an id: 1 to 128"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_named_at_its_place(text: str, code: str, said: str) -> None:
    (mistake,) = found(text)
    before = (HEAD + text).partition("§")[0]
    place = (before.count("\n") + 1, len(before) - before.rfind("\n"))
    assert (mistake.code, mistake.line, mistake.column) == (code, *place)
    assert said in f"{mistake.message} {mistake.hint}"


@pytest.mark.parametrize(
    "text",
    [
        ORDER % GOOD,
        ORDER
        % "symbol: {from: inputs.a}, side: {from: inputs.a}, quantity: {from: inputs.a}, price: {from: inputs.a}",
        ORDER % "symbol: ACME, side: buy, quantity: '1', type: {from: inputs.a}",
        ORDER % f"{GOOD}, type: {{from: inputs.a}}",
        ORDER % "symbol: ACME, side: buy, quantity: '1', price: {literal: '1'}",
        CANCEL % ", with: {orderId: {from: inputs.a}}",
        CANCEL % ", with: {report: {from: inputs.a}}",
        OTHER % "order.amend",
        OTHER % "order.replace",
        OTHER % "deployment.pause",
        OTHER % "report.publish",
    ],
)
def test_what_only_the_run_can_tell_is_left_to_it(text: str) -> None:
    assert found(text) == ()


def test_they_are_reported_together_with_all_other_mistakes() -> None:
    text = (
        "  - {id: a, command: {kind: order.plac, adapter: paper}, needs: [b]}\n"
        + (ORDER % "symbol: ACME, side: buy, quantity: -1, price: 10.5")
        + "\n  - {id: c, python: m:f, needs: [x], colour: red}\n"
    )
    told = [(one.line - HEAD.count("\n"), one.code) for one in found(text)]
    assert told == [
        (1, "unknown_command"),
        (1, "unknown_need"),
        (2, "wrong_type"),
        (2, "wrong_type"),
        (3, "unknown_need"),
        (3, "unknown_field"),
    ]
