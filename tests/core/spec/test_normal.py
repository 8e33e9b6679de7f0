"""However a DAG is written, it has one normal form, and the DAG comes back from it."""

from __future__ import annotations

import json
import random
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.canonical import canonical, decode, digest_of
from sovrun.core.plan import plan_order
from sovrun.core.spec.document import parse_dag
from sovrun.core.spec.model import (
    CommandCall,
    Confirmation,
    DagSpec,
    Kind,
    Literal,
    Reference,
    Resources,
    Retry,
    ToolWait,
)
from sovrun.core.spec.normal import normal_form, spec_from_normal

MINIMAL = "apiVersion: sovrun/v1\nkind: Dag\nmetadata: {id: d}\nsteps: [{id: a, python: m:f}]\n"

MANY = settings(max_examples=1_000, deadline=None)

DURATIONS = st.sampled_from(["250us", "500ms", "2s", "1.5s", 1, 0.25, 20, "0.5m"])
SIZES = st.sampled_from(["64Ki", "256Mi", "1Gi", "10M", "1.5k", 4096])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.sampled_from([0.5, 1e20, "", "x", "null", "1", "é", "a: b #"])
)
JSON_VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("pqr"), inner, max_size=2), max_leaves=5
)  # fmt: skip


VALUES = JSON_VALUES | JSON_VALUES.map(lambda value: {"literal": value})
RETRIES = {
    "maxAttempts": st.integers(1, 1000), "maxFailures": st.integers(1, 9), "base": DURATIONS, "jitter": st.booleans(),
    "cap": st.sampled_from(["1m", 90]), "retryOn": st.lists(st.sampled_from(["A", "b.C"]), unique=True),
}  # fmt: skip
LIMITS = {
    "memory": SIZES, "disk": SIZES, "log": SIZES, "output": SIZES, "cpuSeconds": st.sampled_from([60, 0.5]),
    "wallSeconds": st.just(60), "processes": st.just(60), "openFiles": st.just(7), "files": st.just(9),
    "memoryLimit": st.sampled_from(["hard", "best-effort"]), "graceSeconds": st.sampled_from([0, 2, 0.5, 600]),
}  # fmt: skip
LONG = st.sampled_from(["250us", "1.5h", "3650d", 60, 0.25, 315_360_000])
TOOLS = st.fixed_dictionaries({"name": st.sampled_from(["t", "u"])}, optional={"deadline": LONG})
CONFIRMS = st.fixed_dictionaries(
    {"show": VALUES},
    optional={
        "role": st.just("r"), "actor": st.just("local:a#[1]"), "expires": LONG, "onExpiry": st.sampled_from(["reject", "fail"]),
        "barRequester": st.booleans(),
    },
)  # fmt: skip
BODIES = (
    st.sampled_from(
        [{"python": "m:f"}, {"argv": ["x", "1"]}, {"command": {"kind": "note.send", "adapter": "paper"}}]
    )
    | st.fixed_dictionaries({"tool": TOOLS})
    | st.fixed_dictionaries({"confirm": CONFIRMS})
)
ENDPOINTS = st.sampled_from(["a.test:443", "a.test:80", "b-1.test:5432", "db:60"])
OF_PROCESSES = ("secrets", "reproducible", "verify")
NOT_TAKEN: dict[str, set[str]] = {
    "tool": {"retry", "resources", "network", *OF_PROCESSES},
    "confirm": {"with", "outputs", "retry", "resources", "select", "network", *OF_PROCESSES},
    "command": {"outputs", "retry", "resources", "select", "network", *OF_PROCESSES},
}
STEPS = st.fixed_dictionaries(
    {"body": BODIES},
    optional={
        "description": st.sampled_from(["", "x: y"]),
        "with": st.dictionaries(st.sampled_from("ijk"), VALUES, max_size=2),
        "outputs": st.just({"type": "object", "properties": {"v": {"maximum": 60}}}),
        "retry": st.fixed_dictionaries({}, optional=RETRIES),
        "resources": st.fixed_dictionaries({}, optional=LIMITS),
        "join": st.sampled_from(["all", "any"]),
        "needs": st.sets(st.integers(0, 2), max_size=2),
        "select": st.just([]),
        "timeout": LONG,
        "network": st.fixed_dictionaries({"allow": st.lists(ENDPOINTS, unique=True)}),
        "secrets": st.dictionaries(st.sampled_from(["A", "b-1"]), st.sampled_from(["r", "r-1"])),
        "reproducible": st.booleans(),
        "verify": st.just("twice"),
    },
)
WHOLE = st.fixed_dictionaries(
    {},
    optional={
        "inputs": st.just({"type": "object", "properties": {"x": {"type": "number", "default": 60}}}),
        "failFast": st.booleans(),
        "reproducible": st.booleans(),
        "code": st.lists(st.sampled_from(["lib", "a/b", "z"]), unique=True),
        "sourceDateEpoch": st.sampled_from([0, 60]),
        "timeout": LONG,
        "failureBudget": st.sampled_from([1, 60, 1_000_000]),
    },
)
NAMES = st.permutations(["a", "B", "c-1", "_d"])


def document_of(whole: dict[str, Any], names: list[str], drawn: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a valid document: needs reach back only, each is referred to, and each step that can choose does."""
    steps: list[dict[str, Any]] = []
    for place, found in enumerate(drawn):
        needs = [names[need] for need in found.get("needs", ()) if need < place]
        body = found["body"]
        left_out = {"body"}.union(*(NOT_TAKEN.get(kind, ()) for kind in body))
        step = {"id": names[place], **body, **{key: found[key] for key in found if key not in left_out}}
        step["needs"] = needs
        within = {other["id"]: "shown." for other in steps if "confirm" in other}
        within |= {other["id"]: "resource." for other in steps if "command" in other}
        flows = [{"from": f"steps.{need}.{within.get(need, '')}v"} for need in needs]
        if needs and "confirm" in step:
            step["confirm"] = {**body["confirm"], "show": {"x": body["confirm"]["show"], "z": flows}}
        elif needs:
            step["with"] = {**found.get("with", {}), "z": flows}
        steps.append(step)
    for step in steps:
        if "select" in step:
            step["select"] = [other["id"] for other in steps if step["id"] in other["needs"]]
    return {"apiVersion": "sovrun/v1", "kind": "Dag", "metadata": {"id": "d"}, **whole, "steps": steps}


def test_a_mode_of_all_steps_is_that_of_each_that_has_a_process_and_says_nothing_else() -> None:
    steps = [
        {"id": "a", "python": "m:f"},
        {"id": "b", "argv": ["x"], "reproducible": False},
        {"id": "c", "tool": {"name": "t"}},
    ]
    whole = {"apiVersion": "sovrun/v1", "kind": "Dag", "metadata": {"id": "d"}}
    by_all = {**whole, "reproducible": True, "steps": steps}
    by_step = {**whole, "steps": [{**steps[0], "reproducible": True}, *steps[1:]]}
    forms = [normal_form(parse_dag(json.dumps(each).encode(), name="d")) for each in (by_all, by_step)]
    assert forms[0] == forms[1]
    assert ["reproducible" in step for step in forms[0]["steps"]] == [True, False, False]


DOCUMENTS = st.builds(document_of, WHOLE, NAMES, st.lists(STEPS, min_size=1, max_size=4))


class Writer:
    """Writes a document in one of its many forms: order of keys and steps, spelling of numbers, layout, comments."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def json(self, document: dict[str, Any]) -> str:
        return self._flow(self._shuffled(document), spaces=True)

    def yaml(self, document: dict[str, Any]) -> str:
        return "# a comment\n" + self._block(self._shuffled(document), "") + "# the end\n"

    def _shuffled(self, document: dict[str, Any]) -> dict[str, Any]:
        steps = []
        for step in document["steps"]:
            changed = dict(step)
            for name in ("needs", "select"):
                if name in step:
                    changed[name] = self._mixed(step[name])
            if "retryOn" in step.get("retry", {}):
                changed["retry"] = {**step["retry"], "retryOn": self._mixed(step["retry"]["retryOn"])}
            if "network" in step:
                changed["network"] = {
                    "allow": [self._cased(name) for name in self._mixed(step["network"]["allow"])]
                }
            steps.append(changed)
        self._rng.shuffle(steps)
        code = {"code": self._mixed(document["code"])} if "code" in document else {}
        return {**document, **code, "steps": steps}

    def _mixed(self, names: list[str]) -> list[str]:
        return self._rng.sample(names, len(names))

    def _cased(self, text: str) -> str:
        return text.upper() if self._rng.random() < 0.5 else text

    def _items(self, value: dict[str, Any]) -> list[tuple[str, Any]]:
        return self._rng.sample(list(value.items()), len(value))

    def _scalar(self, value: Any) -> str:
        if type(value) is int:
            spellings = [str(value), f"{value}.0", f"{value}e0", f"{value}.00E+0", f"{value}.0e-0"]
            return self._rng.choice(spellings)
        return json.dumps(value, ensure_ascii=self._rng.random() < 0.5)

    def _flow(self, value: Any, *, spaces: bool) -> str:
        gap = self._rng.choice(["", " ", "\n  "]) if spaces else " "
        if isinstance(value, dict):
            inner = f",{gap}".join(
                f"{json.dumps(key)}: {self._flow(item, spaces=spaces)}" for key, item in self._items(value)
            )
            return f"{{{gap}{inner}{gap}}}"
        if isinstance(value, list):
            return f"[{gap}{f',{gap}'.join(self._flow(item, spaces=spaces) for item in value)}{gap}]"
        return self._scalar(value)

    def _block(self, value: Any, indent: str) -> str:
        lines = []
        if isinstance(value, dict):
            members = [
                (f"{key if self._rng.random() < 0.5 else json.dumps(key)}:", item)
                for key, item in self._items(value)
            ]
        else:
            members = [("-", item) for item in value]
        for lead, item in members:
            comment = "  # why" if self._rng.random() < 0.2 else ""
            if isinstance(item, dict | list) and item and self._rng.random() < 0.7:
                lines.append(f"{indent}{lead}{comment}\n{self._block(item, indent + '  ')}")
            else:
                lines.append(f"{indent}{lead} {self._flow(item, spaces=False)}{comment}\n")
        return "".join(lines)


def parsed(text: str) -> DagSpec:
    return parse_dag(text.encode(), name="d")


@MANY
@given(DOCUMENTS, st.integers(0, 2**32))
def test_how_a_dag_is_written_does_not_change_its_normal_form(document: dict[str, Any], seed: int) -> None:
    expected = normal_form(parsed(json.dumps(document)))
    writer = Writer(random.Random(seed))
    for text in (writer.json(document), writer.yaml(document)):
        form = normal_form(parsed(text))
        assert form == expected
        assert canonical(form) == canonical(expected)
        assert digest_of("sovrun.test", 1, {"spec": form}) == digest_of("sovrun.test", 1, {"spec": expected})


@MANY
@given(DOCUMENTS)
def test_a_dag_is_in_plan_order_and_comes_back_from_its_normal_form(document: dict[str, Any]) -> None:
    spec = parsed(json.dumps(document))
    needs = {step["id"]: step["needs"] for step in document["steps"]}
    assert tuple(step.id for step in spec.steps) == plan_order(needs)
    assert all(list(step.needs) == sorted(needs[step.id]) for step in spec.steps)
    form = normal_form(spec)
    assert spec_from_normal(form) == spec
    stored = canonical(form)
    again = spec_from_normal(decode(stored))
    assert again == spec
    assert canonical(normal_form(again)) == stored


CONFIRMATIONS: list[dict[str, Any]] = [
    {}, {"show": 1}, {"show": {"from": "inputs"}}, {"show": {"literal": {"from": "inputs"}}}, {"role": "r"}, {"actor": "r"},
    {"expires": 1}, {"expires": 2}, {"onExpiry": "reject"}, {"barRequester": True},
]  # fmt: skip


def test_different_dags_have_different_normal_forms() -> None:
    base: dict[str, Any] = {"apiVersion": "sovrun/v1", "kind": "Dag", "metadata": {"id": "d"}}
    steps = [
        {"id": "a", "python": "m:f"}, {"id": "a", "python": "m:g"}, {"id": "b", "python": "m:f"}, {"id": "a", "argv": ["m:f"]},
        {"id": "a", "python": "m:f", "with": {"x": 1}}, {"id": "a", "python": "m:f", "with": {"x": True}},
        {"id": "a", "python": "m:f", "with": {"x": {"literal": {"from": "inputs.x"}}}},
        {"id": "a", "python": "m:f", "with": {"x": {"from": "inputs"}}}, {"id": "a", "python": "m:f", "join": "any"},
        {"id": "a", "python": "m:f", "retry": {"maxAttempts": 4}}, {"id": "a", "python": "m:f", "retry": {"retryOn": []}},
        {"id": "a", "python": "m:f", "resources": {"log": 1}}, {"id": "a", "python": "m:f", "outputs": {}},
        {"id": "a", "python": "m:f", "description": ""}, {"id": "a", "python": "m:f", "timeout": 1},
        {"id": "a", "python": "m:f", "timeout": 2}, {"id": "a", "tool": {"name": "t"}}, {"id": "a", "tool": {"name": "u"}},
        {"id": "a", "tool": {"name": "t", "deadline": 1}}, {"id": "a", "tool": {"name": "t"}, "timeout": 1},
        *({"id": "a", "confirm": {"show": None, **more}} for more in CONFIRMATIONS),
    ]  # fmt: skip
    forms = {canonical(normal_form(parsed(json.dumps({**base, "steps": [step]})))) for step in steps}
    assert len(forms) == len(steps)
    whole: list[dict[str, Any]] = [
        {},
        {"code": []},
        {"code": ["x"]},
        {"failFast": True},
        {"sourceDateEpoch": 1},
        {"inputs": {"type": "object"}},
        {"timeout": 1},
        {"timeout": 2},
        {"failureBudget": 1},
        {"failureBudget": 2},
    ]
    documents = ({**base, "steps": steps[:1], **more} for more in whole)
    assert len({canonical(normal_form(parsed(json.dumps(document)))) for document in documents}) == len(whole)


def test_what_is_left_out_is_filled_in() -> None:
    assert normal_form(parsed(MINIMAL)) == {
        "apiVersion": "sovrun/v1",
        "kind": "Dag",
        "metadata": {"id": "d", "description": None, "labels": {}},
        "inputs": {"type": "object", "properties": {}, "additionalProperties": False},
        "failFast": False,
        "code": None,
        "sourceDateEpoch": 315_532_800,
        "steps": [
            {
                "id": "a",
                "description": None,
                "python": "m:f",
                "needs": [],
                "with": {},
                "outputs": None,
                "retry": {
                    "maxAttempts": 3, "maxFailures": 3, "baseUs": 1_000_000, "capUs": 30_000_000, "jitter": False,
                    "retryOn": None,
                },
                "resources": {
                    "memory": 536_870_912, "cpuUs": 3_600_000_000, "wallUs": 3_600_000_000, "processes": 64,
                    "openFiles": 256, "disk": 268_435_456, "files": 16_384, "log": 8_388_608, "output": 16_777_216,
                },
                "select": [],
                "join": "all",
            }
        ],
    }  # fmt: skip


def test_waits_and_timeouts_are_in_the_normal_form_in_microseconds() -> None:
    text = """\
apiVersion: sovrun/v1
kind: Dag
metadata: {id: d}
timeout: 30d
failureBudget: 10.0
steps:
  - {id: a, tool: {name: scan, deadline: 1.5s}, with: {x: 1}, timeout: 1h}
  - {id: b, confirm: {role: r, actor: "local:o'brien", show: {from: steps.a}, expires: 3650d, onExpiry: reject, barRequester: true}, needs: [a]}
  - {id: c, tool: {name: scan}}
  - {id: d, confirm: {show: null}}
"""
    form = normal_form(parsed(text))
    assert (form["timeoutUs"], form["failureBudget"]) == (2_592_000_000_000, 10)
    assert type(form["failureBudget"]) is int
    a, c, d, b = (next(step for step in form["steps"] if step["id"] == id_) for id_ in "acdb")
    assert (a["tool"], a["with"], a["timeoutUs"]) == (
        {"name": "scan", "deadlineUs": 1_500_000},
        {"x": 1},
        3_600_000_000,
    )
    assert b["confirm"] == {
        "actor": "local:o'brien", "barRequester": True, "expiresUs": 315_360_000_000_000, "onExpiry": "reject", "role": "r",
        "show": {"from": "steps.a"},
    }  # fmt: skip
    assert c["tool"] == {"name": "scan", "deadlineUs": None}
    assert d["confirm"] == {
        "actor": None, "barRequester": False, "expiresUs": None, "onExpiry": "fail", "role": None, "show": None,
    }  # fmt: skip
    assert all("timeoutUs" not in step for step in (b, c, d))


def test_a_digest_from_before_timeouts_and_budgets_is_still_the_digest() -> None:
    digest = digest_of("sovrun.test", 1, {"spec": normal_form(parsed(MINIMAL))})
    assert digest == "fae6701174ff520a1776eb914f5b36d104643af049725cc3095c7389f9d4d23e"


def test_a_spelled_out_default_is_the_default() -> None:
    short = {"id": "a", "python": "m:f"}
    full = {
        **short,
        "needs": [], "with": {}, "select": [], "join": "all",
        "retry": {"maxAttempts": 3, "maxFailures": 3, "base": "1s", "cap": "0.5m", "jitter": False},
        "resources": {
            "memory": "512Mi", "cpuSeconds": 3600, "wallSeconds": 3600.0, "processes": 64, "openFiles": 256, "disk": "256Mi",
            "files": 16384, "log": 8388608, "output": "16Mi",
        },
    }  # fmt: skip
    head = {"apiVersion": "sovrun/v1", "kind": "Dag", "metadata": {"id": "d"}}
    inputs = {"type": "object", "properties": {}, "additionalProperties": False}
    more = {"inputs": inputs, "failFast": False, "sourceDateEpoch": 315532800}
    whole = {**head, "metadata": {"id": "d", "labels": {}}, **more, "steps": [full]}
    assert parsed(json.dumps(whole)) == parsed(json.dumps({**head, "steps": [short]}))
    wait = {"id": "b", "confirm": {"show": 1}}
    spelled = {"id": "b", "confirm": {"show": 1, "onExpiry": "fail", "barRequester": False}}
    assert parsed(json.dumps({**head, "steps": [spelled]})) == parsed(json.dumps({**head, "steps": [wait]}))


@pytest.mark.parametrize(
    ("settings_of", "body", "field"),
    [
        (Retry, "python: m:f", "retry"), (Resources, "python: m:f, resources: {memoryLimit: hard, graceSeconds: 9}", "resources"), (ToolWait, "tool: {name: t}", "tool"),
        (Confirmation, "confirm: {show: 1}", "confirm"),
    ],
)  # fmt: skip
def test_every_setting_is_in_the_normal_form(settings_of: type[Any], body: str, field: str) -> None:
    form = normal_form(parsed(MINIMAL.replace("python: m:f", body)))["steps"][0]
    assert len(form[field]) == len(fields(settings_of))


def test_a_demand_that_is_not_made_is_not_in_the_normal_form() -> None:
    plain = normal_form(parsed(MINIMAL))
    said = MINIMAL.replace("m:f}", "m:f, resources: {memoryLimit: best-effort, graceSeconds: 2.0}}")
    assert {"memoryLimit", "graceUs"}.isdisjoint(plain["steps"][0]["resources"])
    assert normal_form(parsed(said)) == plain


def test_templates_become_references_literals_and_values() -> None:
    text = MINIMAL.replace(
        "m:f}",
        "m:f, with: {all: {from: inputs}, x: [{from: inputs.p.0}], l: {literal: {from: 3}}, m: {from: a, to: b}, n: {k: {from: inputs.p}}}}",
    ).replace("steps:", "inputs: {type: object, properties: {p: {}}}\nsteps:")
    assert parsed(text).steps[0].arguments == {
        "all": Reference(None, ()),
        "x": [Reference(None, ("p", "0"))],
        "l": Literal({"from": 3}),
        "m": {"from": "a", "to": "b"},
        "n": {"k": Reference(None, ("p",))},
    }


def test_each_kind_of_step_keeps_what_it_declares() -> None:
    bodies: list[tuple[str, Any, Any]] = [
        ("python", "m:f", "m:f"),
        ("argv", ["x", "y"], ("x", "y")),
        ("tool", {"name": "t"}, ToolWait("t")),
        ("tool", {"name": "t", "deadline": "2d"}, ToolWait("t", 172_800_000_000)),
        ("confirm", {"show": [1]}, Confirmation(show=[1])),
        ("confirm", {"role": "r", "show": {"from": "inputs"}}, Confirmation("r", show=Reference(None, ()))),
        ("command", {"kind": "note.send", "adapter": "paper"}, CommandCall("note.send", "paper")),
    ]
    for kind, body, entry in bodies:
        step = parsed(MINIMAL.replace("python: m:f", f"{kind}: {json.dumps(body)}")).steps[0]
        assert (step.kind, step.entry) == (Kind(kind), entry)


def test_a_confirmation_names_who_may_decide_and_what_no_decision_amounts_to() -> None:
    body = '{role: r, actor: "local:a", show: {literal: {from: x}}, expires: 90, onExpiry: reject, barRequester: true}'
    step = parsed(MINIMAL.replace("python: m:f", f"confirm: {body}")).steps[0]
    assert step.entry == Confirmation(
        role="r", actor="local:a", show=Literal({"from": "x"}), expires_us=90_000_000, on_expiry="reject", bar_requester=True
    )  # fmt: skip


def test_a_tool_step_may_choose_among_its_dependents() -> None:
    text = MINIMAL.replace("python: m:f}", "tool: {name: t}, select: [b]}, {id: b, argv: [x], needs: [a]}")
    assert parsed(text).steps[0].select == ("b",)


def test_the_epoch_may_come_from_an_input() -> None:
    text = (
        MINIMAL
        + "inputs: {type: object, properties: {t: {type: integer}}}\nsourceDateEpoch: {from: inputs.t}\n"
    )
    assert parsed(text).epoch == Reference(None, ("t",))
    assert normal_form(parsed(text))["sourceDateEpoch"] == {"from": "inputs.t"}
