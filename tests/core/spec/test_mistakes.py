"""Every mistake in a document is reported, at its place, with a code and what to do."""

from __future__ import annotations

import json
from textwrap import dedent
from typing import Any

import pytest

from sovrun.core.errors import InvalidSpec, Mistake
from sovrun.core.spec.document import parse_dag
from sovrun.core.spec.findings import MISTAKES_MAX
from sovrun.core.spec.model import DagSpec

HEAD = "apiVersion: sovrun/v1\nkind: Dag\nmetadata: {id: d}\n"


def mistakes(text: str | bytes) -> tuple[Mistake, ...]:
    with pytest.raises(InvalidSpec) as caught:
        parse_dag(text.encode() if isinstance(text, str) else text, name="d.yaml")
    assert caught.value.name == "d.yaml"
    found = caught.value.mistakes
    assert found
    assert list(found) == sorted(found, key=lambda mistake: (mistake.line, mistake.column))
    assert all(mistake.message and mistake.message.isprintable() for mistake in found)
    return found


def only(text: str | bytes) -> Mistake:
    found = mistakes(text)
    assert len(found) == 1, found
    return found[0]


def dag(**fields: Any) -> dict[str, Any]:
    step = {"id": "a", "python": "m:f"}
    return {"apiVersion": "sovrun/v1", "kind": "Dag", "metadata": {"id": "d"}, "steps": [step], **fields}


def step(**fields: Any) -> dict[str, Any]:
    return dag(steps=[{"id": "a", "python": "m:f", **fields}])


def accepted(document: dict[str, Any]) -> DagSpec:
    return parse_dag(json.dumps(document).encode(), name="d.json")


THREE = """\
steps:
  - id: a
    python: m:f
    outputs: {type: object, properties: {n: {type: integer}, l: {type: array, items: {type: object, properties: {x: {}}}}}}
  - {id: b, python: m:f, needs: [a]}
  - {id: c, python: m:f, needs: [b]%s}
"""

DEFAULTS = """\
inputs: {type: object, $defs: {few: {type: integer, maximum: 3}}, properties: {n: %s}}
steps: [{id: a, python: m:f}]"""

WAIT = """\
steps:
  - {id: a, python: m:f, outputs: {type: object, properties: {n: {}}}}
  - {id: b, python: m:f, needs: [a]}
  - {id: c, needs: [b], %s}
"""


@pytest.mark.parametrize(
    ("text", "code", "path", "says"),
    [
        ("§stpes: []\nsteps: [{id: a, python: m:f}]", "unknown_field", ("stpes",), "steps"),
        ("steps: §[]", "bad_length", ("steps",), "at least 1"),
        ("steps: §3", "wrong_type", ("steps",), "a list of steps"),
        ("", "missing_field", (), "`steps`"),
        ("steps: [§{python: m:f}]", "missing_field", ("steps", 0), "`id`"),
        ("steps: [§{id: a}]", "step_kind", ("steps", 0), "none of them"),
        ("steps: [§{id: a, python: m:f, argv: [x]}]", "step_kind", ("steps", 0), "python and argv"),
        ("steps: [{id: a, §pyton: m:f}]", "unknown_field", ("steps", 0, "pyton"), "python"),
        ("steps: [{id: §1a, python: m:f}]", "bad_name", ("steps", 0, "id"), "legal name"),
        ("steps: [{id: §7, python: m:f}]", "wrong_type", ("steps", 0, "id"), "number"),
        ("steps: [{id: a, python: §m.f}]", "bad_value", ("steps", 0, "python"), "package.module:function"),
        ("steps: [{id: §x/a, python: m:f}]", "other_tenant", ("steps", 0, "id"), "another tenant"),
        ("steps: [{id: a, python: m:f}, {id: §a, python: m:f}]", "duplicate_step", ("steps", 1, "id"), "steps[0]"),
        (THREE % ", join: §some", "bad_value", ("steps", 2, "join"), "'all' or 'any'"),
        ("steps: [{id: a, python: m:f, needs: [§b]}]", "unknown_need", ("steps", 0, "needs", 0), "no step 'b'"),
        ("steps: [{id: a, python: m:f, needs: [§a]}]", "self_need", ("steps", 0, "needs", 0), "needs itself"),
        (THREE % ", select: [§d]", "unknown_step", ("steps", 2, "select", 0), "no step 'd'"),
        (THREE % ", select: [§a]", "not_dependent", ("steps", 2, "select", 0), "does not need"),
        (THREE % ", with: {v: {from: §inputs.x}}", "unknown_input", ("steps", 2, "with", "v", "from"), "'x'"),
        (THREE % ", with: {v: {from: §steps.a.m}}", "unknown_output_field", ("steps", 2, "with", "v", "from"), "'m'"),
        (THREE % ", with: {v: {from: §steps.a.l.0.y}}", "unknown_output_field", ("steps", 2, "with", "v", "from"), "l.0"),
        (THREE % ", with: {v: {from: §steps.a.l.x}}", "unknown_output_field", ("steps", 2, "with", "v", "from"), "'x'"),
        (THREE % ", with: {v: {from: §steps.q}}", "unknown_step", ("steps", 2, "with", "v", "from"), "no step 'q'"),
        (THREE % ", with: {v: {from: §steps.c}}", "not_upstream", ("steps", 2, "with", "v", "from"), "its own output"),
        (THREE % ", with: {v: [{from: §t/steps.a}]}", "other_tenant", ("steps", 2, "with", "v", 0, "from"), "tenant"),
        (THREE % ", with: {v: {from: §steps.t/a.n}}", "other_tenant", ("steps", 2, "with", "v", "from"), "tenant"),
        (THREE % ", with: {v: {from: §'tenant:x.a'}}", "other_tenant", ("steps", 2, "with", "v", "from"), "tenant"),
        (THREE % ", with: {v: {from: §outputs.a}}", "bad_reference", ("steps", 2, "with", "v", "from"), "inputs.NAME"),
        (THREE % ", with: {v: {from: §steps}}", "bad_reference", ("steps", 2, "with", "v", "from"), "steps.ID"),
        (THREE % ", with: {v: {from: §steps.a.}}", "bad_reference", ("steps", 2, "with", "v", "from"), "not a reference"),
        (THREE % ", with: {v: {from: §[a]}}", "bad_reference", ("steps", 2, "with", "v", "from"), "a list"),
        (THREE % ", with: {§from: steps.a}", "bad_argument_name", ("steps", 2, "with", "from"), "'from'"),
        (THREE % ", with: {§a-b: 1}", "bad_argument_name", ("steps", 2, "with", "a-b"), "'a-b'"),
        (THREE % ", retry: {maxAttempts: §0}", "out_of_range", ("steps", 2, "retry", "maxAttempts"), "at least 1"),
        (THREE % ", retry: {maxFailures: §1001}", "out_of_range", ("steps", 2, "retry", "maxFailures"), "1000"),
        (THREE % ", retry: {base: §0s}", "out_of_range", ("steps", 2, "retry", "base"), "more than 0"),
        (THREE % ", retry: {base: §0}", "out_of_range", ("steps", 2, "retry", "base"), "more than 0"),
        (THREE % ", retry: {base: §2 s}", "bad_value", ("steps", 2, "retry", "base"), "a duration"),
        (THREE % ", retry: {base: §0.5us}", "out_of_range", ("steps", 2, "retry", "base"), "microsecond"),
        (THREE % ", retry: {base: §1m}", "out_of_range", ("steps", 2, "retry", "base"), "longer than `cap`"),
        (THREE % ", retry: {cap: §367d}", "out_of_range", ("steps", 2, "retry", "cap"), "366 days"),
        (THREE % ", retry: {retryOn: §[A, A]}", "duplicate_item", ("steps", 2, "retry", "retryOn"), "twice"),
        (THREE % ", resources: {memory: §1.5}", "wrong_type", ("steps", 2, "resources", "memory"), "a size"),
        (THREE % ", resources: {memory: §0Mi}", "out_of_range", ("steps", 2, "resources", "memory"), "at least 1 byte"),
        (THREE % ", resources: {disk: 1.7k, log: §1KB}", "bad_value", ("steps", 2, "resources", "log"), "a size"),
        (THREE % ", resources: {wallSeconds: §0}", "out_of_range", ("steps", 2, "resources", "wallSeconds"), "more than 0"),
        (THREE % ", resources: {graceSeconds: §601}", "out_of_range", ("steps", 2, "resources", "graceSeconds"), "at most 600"),
        (THREE % ", resources: {graceSeconds: §-1}", "out_of_range", ("steps", 2, "resources", "graceSeconds"), "at least 0"),
        (THREE % ", resources: {graceSeconds: §0.0000001}", "out_of_range", ("steps", 2, "resources", "graceSeconds"), "finer"),
        (THREE % ", resources: {cpuSeconds: §1h}", "wrong_type", ("steps", 2, "resources", "cpuSeconds"), "seconds"),
        (THREE % ", resources: {§cpus: 1}", "unknown_field", ("steps", 2, "resources", "cpus"), "known are memory"),
        (THREE % ", outputs: {type: §strng}", "bad_schema", ("steps", 2, "outputs", "type"), "strng"),
        (THREE % ", outputs: {pattern: §(}", "bad_schema", ("steps", 2, "outputs", "pattern"), "regex"),
        (THREE % ", outputs: §{$ref: 'https://x.invalid/y'}", "bad_schema", ("steps", 2, "outputs"), "Retrieval is disabled"),
        (DEFAULTS % "{type: integer, default: §x}", "bad_default", ("inputs", "properties", "n", "default"), "integer"),
        (DEFAULTS % "{$ref: '#/$defs/few', default: §9}", "bad_default", ("inputs", "properties", "n", "default"), "maximum"),
        (
            DEFAULTS % "{type: object, properties: {m: {type: string, default: §1}}}",
            *("bad_default", ("inputs", "properties", "n", "properties", "m", "default"), "string"),
        ),
        (
            DEFAULTS % "{type: object, properties: {m: {type: string}}, default: §{m: 1}}",
            *("bad_default", ("inputs", "properties", "n", "default"), "string"),
        ),
        ("inputs: {type: §array}\nsteps: [{id: a, python: m:f}]", "bad_value", ("inputs", "type"), "'object'"),
        ("inputs: §{}\nsteps: [{id: a, python: m:f}]", "missing_field", ("inputs",), "`type`"),
        ("code: [§../x]\nsteps: [{id: a, python: m:f}]", "bad_path", ("code", 0), "'../x'"),
        ("code: [§/x]\nsteps: [{id: a, python: m:f}]", "bad_value", ("code", 0), "below the DAG's directory"),
        ("code: §[x, x]\nsteps: [{id: a, python: m:f}]", "duplicate_item", ("code",), "twice"),
        ("steps: [{id: a, argv: [§bin/../x]}]", "bad_path", ("steps", 0, "argv", 0), "'bin/../x'"),
        ("steps: [{id: a, argv: [x, §3]}]", "wrong_type", ("steps", 0, "argv", 1), "a text without NUL"),
        ("sourceDateEpoch: §-1\nsteps: [{id: a, python: m:f}]", "out_of_range", ("sourceDateEpoch",), "at least 0"),
        ("sourceDateEpoch: {from: §inputs.t}\nsteps: [{id: a, python: m:f}]", "unknown_input", ("sourceDateEpoch", "from"), "'t'"),
        ("sourceDateEpoch: {from: §steps.a}\nsteps: [{id: a, python: m:f}]", "bad_reference", ("sourceDateEpoch", "from"), "inputs.NAME"),
        ("failFast: §1\nsteps: [{id: a, python: m:f}]", "wrong_type", ("failFast",), "true or false"),
        ("timeout: §0\nsteps: [{id: a, python: m:f}]", "out_of_range", ("timeout",), "more than 0"),
        ("timeout: §3651d\nsteps: [{id: a, python: m:f}]", "out_of_range", ("timeout",), "3650 days"),
        ("timeout: §315360001\nsteps: [{id: a, python: m:f}]", "out_of_range", ("timeout",), "315360000"),
        ("timeout: §2w\nsteps: [{id: a, python: m:f}]", "bad_value", ("timeout",), "a duration"),
        ("failureBudget: §0\nsteps: [{id: a, python: m:f}]", "out_of_range", ("failureBudget",), "at least 1"),
        ("failureBudget: §1000001\nsteps: [{id: a, python: m:f}]", "out_of_range", ("failureBudget",), "at most 1000000"),
        ("failureBudget: §1.5\nsteps: [{id: a, python: m:f}]", "wrong_type", ("failureBudget",), "from 1 to 1000000"),
        ("§failuresBudget: 1\nsteps: [{id: a, python: m:f}]", "unknown_field", ("failuresBudget",), "'failureBudget'"),
        (THREE % ", timeout: §0s", "out_of_range", ("steps", 2, "timeout"), "more than 0"),
        (THREE % ", timeout: §3651d", "out_of_range", ("steps", 2, "timeout"), "3650 days"),
        (THREE % ", timeout: §0.1us", "out_of_range", ("steps", 2, "timeout"), "microsecond"),
        (THREE % ", timeout: §soon", "bad_value", ("steps", 2, "timeout"), "a duration"),
        (THREE % ", timeout: §[1]", "wrong_type", ("steps", 2, "timeout"), "a duration"),
        (WAIT % "tool: §3", "wrong_type", ("steps", 2, "tool"), "{name: scanner"),
        (WAIT % "tool: §{}", "missing_field", ("steps", 2, "tool"), "`name`"),
        (WAIT % "tool: {name: §a b}", "bad_name", ("steps", 2, "tool", "name"), "legal name"),
        (WAIT % "tool: {name: §x/t}", "other_tenant", ("steps", 2, "tool", "name"), "another tenant"),
        (WAIT % "tool: {name: t, §deadlin: 1}", "unknown_field", ("steps", 2, "tool", "deadlin"), "'deadline'"),
        (WAIT % "tool: {name: t, deadline: §0}", "out_of_range", ("steps", 2, "tool", "deadline"), "more than 0"),
        (WAIT % "tool: {name: t, deadline: §3651d}", "out_of_range", ("steps", 2, "tool", "deadline"), "3650 days"),
        (WAIT % "tool: {name: t}, §retry: {base: 1m}", "not_for_kind", ("steps", 2, "retry"), "a tool step takes no `retry`"),
        (WAIT % "tool: {name: t}, §resources: {cpus: 1}", "not_for_kind", ("steps", 2, "resources"), "no process"),
        (WAIT % "tool: {name: t}, with: {a-b: {from: §steps.c}}", "not_upstream", ("steps", 2, "with", "a-b", "from"), "its own"),
        (WAIT % "tool: {name: t}, select: [§a]", "not_dependent", ("steps", 2, "select", 0), "does not need"),
        (WAIT % "confirm: §yes", "wrong_type", ("steps", 2, "confirm"), "{role: release-manager"),
        (WAIT % "confirm: §{role: r}", "missing_field", ("steps", 2, "confirm"), "`show`"),
        (WAIT % "confirm: {show: 1, §roles: r}", "unknown_field", ("steps", 2, "confirm", "roles"), "'role'"),
        (WAIT % "confirm: {show: 1, role: §r 1}", "bad_name", ("steps", 2, "confirm", "role"), "legal name"),
        (WAIT % "confirm: {show: 1, role: §{from: inputs.x}}", "wrong_type", ("steps", 2, "confirm", "role"), "legal name"),
        (WAIT % "confirm: {show: 1, actor: §a b}", "bad_value", ("steps", 2, "confirm", "actor"), "printable ASCII"),
        (WAIT % "confirm: {show: 1, expires: §0}", "out_of_range", ("steps", 2, "confirm", "expires"), "more than 0"),
        (WAIT % "confirm: {show: 1, expires: §3651d}", "out_of_range", ("steps", 2, "confirm", "expires"), "3650 days"),
        (WAIT % "confirm: {show: 1, onExpiry: §approve}", "bad_value", ("steps", 2, "confirm", "onExpiry"), "'reject' or 'fail'"),
        (WAIT % "confirm: {show: 1, barRequester: §1}", "wrong_type", ("steps", 2, "confirm", "barRequester"), "true or false"),
        (WAIT % "confirm: {show: {from: §inputs.x}}", "unknown_input", ("steps", 2, "confirm", "show", "from"), "'x'"),
        (WAIT % "confirm: {show: [{from: §steps.a.m}]}", "unknown_output_field", ("steps", 2, "confirm", "show", 0, "from"), "'m'"),
        (WAIT % "confirm: {show: {k: {from: §steps.c}}}", "not_upstream", ("steps", 2, "confirm", "show", "k", "from"), "its own"),
        (WAIT % "confirm: {show: {from: §3}}", "bad_reference", ("steps", 2, "confirm", "show", "from"), "a number"),
        (WAIT % "confirm: {show: 1}, §with: {v: {from: steps.q}}", "not_for_kind", ("steps", 2, "with"), "show"),
        (WAIT % "confirm: {show: 1}, §with: {}", "not_for_kind", ("steps", 2, "with"), "a confirm step takes no `with`"),
        (WAIT % "confirm: {show: 1}, §select: [a]", "not_for_kind", ("steps", 2, "select"), "tool step choose"),
        (WAIT % "confirm: {show: 1}, §outputs: {type: strng}", "not_for_kind", ("steps", 2, "outputs"), "decision and shown"),
        (WAIT % "confirm: {show: 1}, §retry: {maxAttempts: 0}", "not_for_kind", ("steps", 2, "retry"), "`expires`"),
        (WAIT % "confirm: {show: 1}, §resources: {}", "not_for_kind", ("steps", 2, "resources"), "no process"),
        (WAIT % "confirm: {show: 1}, §network: {allow: []}", "not_for_kind", ("steps", 2, "network"), "no process"),
        (WAIT % "tool: {name: t}, §network: {alow: [x]}", "not_for_kind", ("steps", 2, "network"), "itself is outside"),
        (WAIT % "command: {kind: note.send, adapter: paper}, §network: {allow: [a:1]}", "not_for_kind", ("steps", 2, "network"), "adapter"),
        (WAIT % "confirm: {show: 1}, §secrets: {}", "not_for_kind", ("steps", 2, "secrets"), "everybody sees"),
        (WAIT % "tool: {name: t}, §secrets: {A: b}", "not_for_kind", ("steps", 2, "secrets"), "knows its own"),
        (WAIT % "tool: {name: t}, §verify: twice", "not_for_kind", ("steps", 2, "verify"), "asked once"),
        (WAIT % "command: {kind: note.send, adapter: paper}, §verify: twice", "not_for_kind", ("steps", 2, "verify"), "happens once"),
        (WAIT % "command: {kind: note.send, adapter: paper}, §reproducible: true", "not_for_kind", ("steps", 2, "reproducible"), "no process"),
        (THREE % ", secrets: §[token]", "wrong_type", ("steps", 2, "secrets"), "a map such as"),
        (THREE % ", secrets: {TOKEN: §1}", "wrong_type", ("steps", 2, "secrets", "TOKEN"), "a legal name"),
        (THREE % ", secrets: {TOKEN: §acme/token}", "other_tenant", ("steps", 2, "secrets", "TOKEN"), "another tenant"),
        (THREE % ", secrets: {TOKEN: §../token}", "other_tenant", ("steps", 2, "secrets", "TOKEN"), "another tenant"),
        (THREE % ", secrets: {TOKEN: §a.b}", "bad_name", ("steps", 2, "secrets", "TOKEN"), "not a legal name"),
        (THREE % ", secrets: {§a.b: c}", "bad_name", ("steps", 2, "secrets", "a.b"), "calls a secret"),
        (THREE % ", reproducible: §1", "wrong_type", ("steps", 2, "reproducible"), "true or false"),
        (THREE % ", verify: §thrice", "bad_value", ("steps", 2, "verify"), "'twice'"),
        (THREE % ", network: {allow: §a.test:443}", "wrong_type", ("steps", 2, "network", "allow"), "a list of endpoints"),
        (THREE % ", network: §{}", "missing_field", ("steps", 2, "network"), "`allow`"),
        (THREE % ", network: {§alow: [a.test:443]}", "unknown_field", ("steps", 2, "network", "alow"), "'allow'"),
        (THREE % ", network: {allow: [§443]}", "wrong_type", ("steps", 2, "network", "allow", 0), "an endpoint"),
        (THREE % ", network: {allow: [a.test:443, §A.test:443]}", "duplicate_item", ("steps", 2, "network", "allow", 1), "'a.test:443' stands twice"),
        (THREE % ", network: {allow: [a.test:443, §a.test:443]}", "duplicate_item", ("steps", 2, "network", "allow", 1), "stands twice"),
        (THREE % ", network: {allow: [b:1, §a.test]}", "bad_endpoint", ("steps", 2, "network", "allow", 1), "a.test:PORT"),
        (THREE % ", network: {allow: [§'*.test:443']}", "bad_endpoint", ("steps", 2, "network", "allow", 0), "each host"),
        (THREE % ", network: {allow: [§'a.test:*']}", "bad_endpoint", ("steps", 2, "network", "allow", 0), "each port"),
        (THREE % ", network: {allow: [§a.test:0]}", "bad_endpoint", ("steps", 2, "network", "allow", 0), "1 to 65535"),
        (THREE % ", network: {allow: [§a.test:65536]}", "bad_endpoint", ("steps", 2, "network", "allow", 0), "1 to 65535"),
        (THREE % ", network: {allow: [§a.test:0443]}", "bad_endpoint", ("steps", 2, "network", "allow", 0), "write 443"),
        (THREE % ", network: {allow: [§10.0.0.5:5432]}", "bad_endpoint", ("steps", 2, "network", "allow", 0), "operator's list"),
        (THREE % ", network: {allow: [§'[::1]:80']}", "bad_endpoint", ("steps", 2, "network", "allow", 0), "is an address"),
        (THREE % ", network: {allow: [§localhost:80]}", "bad_endpoint", ("steps", 2, "network", "allow", 0), "own machine"),
        (THREE % ", network: {allow: [§'https://a.test/x']}", "bad_endpoint", ("steps", 2, "network", "allow", 0), "write a.test:443"),
        (THREE % ", network: {allow: [§-a.test:80]}", "bad_endpoint", ("steps", 2, "network", "allow", 0), "no DNS name"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_at_its_place(
    text: str, code: str, path: tuple[str | int, ...], says: str
) -> None:
    before, _, after = (HEAD + text).rpartition("§")
    mistake = only(before + after)
    assert (mistake.code, mistake.path) == (code, path)
    assert says in f"{mistake.message} {mistake.hint}"
    if before:
        assert (mistake.line, mistake.column) == (before.count("\n") + 1, len(before) - before.rfind("\n"))
    else:
        assert (mistake.line, mistake.column) == (1, 1)


def test_a_reference_to_a_step_that_is_not_upstream_says_what_to_add() -> None:
    text = "steps: [{id: a, python: m:f}, {id: b, python: m:f, with: {v: {from: steps.a}}}]"
    mistake = only(HEAD + text)
    assert mistake.code == "not_upstream"
    assert mistake.hint == "add 'a' to the needs of 'b'"


def test_a_cycle_is_shown_with_its_full_path_and_each_cycle_once() -> None:
    text = """\
    steps:
      - {id: a, python: m:f, needs: [c]}
      - {id: b, python: m:f, needs: [a]}
      - {id: c, python: m:f, needs: [b]}
      - {id: x, python: m:f, needs: [y]}
      - {id: y, python: m:f, needs: [x]}
    """
    found = mistakes(HEAD + dedent(text))
    assert [mistake.code for mistake in found] == ["cycle", "cycle"]
    assert "a -> b -> c -> a" in found[0].message
    assert "x -> y -> x" in found[1].message


def test_references_are_checked_in_a_cyclic_document_too() -> None:
    text = """\
    steps:
      - {id: a, python: m:f, needs: [b]}
      - {id: b, python: m:f, needs: [a], with: {ok: {from: steps.a}, far: {from: steps.c}}}
      - {id: c, python: m:f, needs: [a], with: {ok: {from: steps.b}}}
    """
    assert [mistake.code for mistake in mistakes(HEAD + dedent(text))] == ["cycle", "not_upstream"]


def test_steps_in_one_circle_count_as_upstream_of_each_other() -> None:
    text = """\
    steps:
      - {id: a, python: m:f, needs: [c], with: {v: {from: steps.b}}}
      - {id: b, python: m:f, needs: [a], with: {v: {from: steps.c}}}
      - {id: c, python: m:f, needs: [b], with: {v: {from: steps.a}}}
    """
    assert only(HEAD + dedent(text)).code == "cycle"


def test_all_mistakes_come_together_whatever_their_kind() -> None:
    text = """\
    apiVersion: sovrun/v1
    kind: Dag
    metadata: {id: d, ower: me}
    inputs: {type: object, properties: {day: {type: string}}}
    steps:
      - id: a
        python: m:f
        with: {day: {from: inputs.dya}}
      - id: b
        needs: [aa]
        argv: []
      - id: b
        python: m:f
        retry: {cap: 1y}
      - {id: c, python: m:f, needs: [e]}
      - {id: e, python: m:f, needs: [c], &x with: {a: 1}}
    """
    codes = [(mistake.line, mistake.code) for mistake in mistakes(dedent(text))]
    assert codes == [
        (3, "unknown_field"), (8, "unknown_input"), (10, "unknown_need"), (11, "bad_length"), (12, "duplicate_step"),
        (14, "bad_value"), (16, "cycle"), (16, "yaml_anchor"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("written", "meant"),
    [("inputs.dya", "day"), ("steps.colect", "collect"), ("steps.collect.itmes", "items")],
)
def test_the_nearest_name_is_suggested(written: str, meant: str) -> None:
    text = f"""\
    inputs: {{type: object, properties: {{day: {{}}}}}}
    steps:
      - {{id: collect, python: m:f, outputs: {{type: object, properties: {{items: {{}}}}}}}}
      - {{id: z, python: m:f, needs: [collect], with: {{v: {{from: {written}}}}}}}
    """
    assert only(HEAD + dedent(text)).hint == f"did you mean '{meant}'?"


@pytest.mark.parametrize("version", ["sovrun/v2", 1, None])
def test_another_version_of_the_language_is_named(version: Any) -> None:
    mistake = only(json.dumps(dag(apiVersion=version)))
    assert mistake.code == "unknown_version"
    assert "sovrun/v1" in mistake.message


def test_json_has_the_same_mistakes_at_its_own_places() -> None:
    text = '{"apiVersion": "sovrun/v1", "kind": "Dag",\n "metadata": {"id": "d"},\n "steps": [\n  {"id": "a", "pyton": "m:f"}]}'
    mistake = only(text)
    assert (mistake.code, mistake.line, mistake.column) == ("unknown_field", 4, 15)
    assert mistake.path == ("steps", 0, "pyton")


def test_what_a_schema_cannot_decide_is_left_to_the_run() -> None:
    for outputs in ({"type": "object"}, {"$ref": "#/$defs/a", "$defs": {"a": {}}}, {"anyOf": [{}]}, {}):
        steps = [
            {"id": "a", "python": "m:f", "outputs": outputs},
            {"id": "b", "python": "m:f", "needs": ["a"], "with": {"v": {"from": "steps.a.x.y"}}},
        ]
        accepted(dag(steps=steps))


def test_a_literal_is_not_looked_into() -> None:
    spec = accepted(step(**{"with": {"v": {"literal": {"from": 3}}, "w": {"from": "x", "to": "y"}}}))
    assert set(spec.steps[0].arguments) == {"v", "w"}


def test_references_in_what_a_person_is_shown_are_checked() -> None:
    steps = [{"id": "a", "confirm": {"role": "r", "show": {"from": "steps.b"}}}, {"id": "b", "python": "m:f"}]
    mistake = only(json.dumps(dag(steps=steps)))
    assert (mistake.code, mistake.hint) == ("not_upstream", "add 'b' to the needs of 'a'")


def test_a_decision_has_the_fields_it_always_has() -> None:
    def after(reference: str) -> str:
        last = {"id": "b", "python": "m:f", "needs": ["a"], "with": {"v": {"from": reference}}}
        return json.dumps(dag(steps=[{"id": "a", "confirm": {"show": 1}}, last]))

    for reference in ("steps.a", "steps.a.decision", "steps.a.shown", "steps.a.shown.anything.0"):
        accepted(json.loads(after(reference)))
    mistake = only(after("steps.a.decisoin"))
    assert (mistake.code, mistake.hint) == ("unknown_output_field", "did you mean 'decision'?")
    assert only(after("steps.a.decision.by")).code == "unknown_output_field"


def test_a_step_with_several_kinds_is_told_only_that() -> None:
    body = {"confirm": {"show": 1}, "python": "m:f", "with": {}, "select": [], "retry": {}, "resources": {}}
    assert only(json.dumps(dag(steps=[{"id": "a", **body}]))).code == "step_kind"


def test_a_report_has_an_end() -> None:
    steps = [{"id": f"s{place}", "python": "m:f", "x": 1, "needs": ["nope"]} for place in range(2_000)]
    found = mistakes(json.dumps(dag(steps=steps)))
    assert len(found) == MISTAKES_MAX + 1
    assert found[-1].code == "too_many_mistakes"


def test_a_mistake_far_down_a_long_list_is_found() -> None:
    needs: list[Any] = [f"s{place}" for place in range(1_200)]
    steps: list[Any] = [{"id": name, "python": "m:f"} for name in needs]
    for bad, code in ((3, "wrong_type"), ("1x", "bad_name"), ("s7", "duplicate_need"), ("q", "unknown_need")):
        last = {"id": "z", "python": "m:f", "needs": [*needs, bad]}
        mistake = only(json.dumps(dag(steps=[*steps, last])))
        assert (mistake.code, mistake.path) == (code, ("steps", 1_200, "needs", 1_200))


def test_an_argument_list_that_is_too_long_is_named() -> None:
    mistake = only(json.dumps(dag(steps=[{"id": "a", "argv": ["x"] * 10_001}])))
    assert (mistake.code, mistake.path) == ("bad_length", ("steps", 0, "argv"))


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"n": {"type": "integer", "default": 3}}},
        {
            "properties": {"n": {"type": "object", "properties": {"m": {"default": 1}}, "required": ["x"]}},
            "required": ["y"],
        },
        {
            "properties": {"n": {"type": "integer", "default": 3}, "mode": {"enum": ["high", "low"]}},
            "if": {"properties": {"mode": {"const": "high"}}},
            "then": {"properties": {"n": {"minimum": 5}}},
        },
    ],
)
def test_a_default_is_held_against_its_own_schema_alone(schema: dict[str, Any]) -> None:
    accepted(dag(inputs={"type": "object", **schema}))
