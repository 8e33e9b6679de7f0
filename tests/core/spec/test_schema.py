"""The published schema is a JSON Schema 2020-12 on its own, says what the model says, and embedded ones stay harmless."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from sovrun.core.errors import InvalidValue
from sovrun.core.ids import actor
from sovrun.core.spec.document import parse_dag
from sovrun.core.spec.findings import Suggester
from sovrun.core.spec.model import Confirmation, DagSpec, Kind, Resources, Retry, ToolWait
from sovrun.core.spec.references import BadReferenceError, lacking_field, parse_reference
from sovrun.core.spec.schemas import compile_schema, published_schema
from sovrun.core.spec.shape import STEPS_MAX, has_shape, shape_findings
from sovrun.core.spec.units import duration_us, size_bytes

EXAMPLE = """\
apiVersion: sovrun/v1
kind: Dag
metadata: {id: nightly-risk, description: Nightly evidence and risk report}
inputs:                      # JSON Schema 2020-12
  type: object
  properties: {day: {type: string, format: date}}
  required: [day]
steps:
  - id: collect
    python: evidence.collect:run
    with: {day: {from: inputs.day}}          # references are data, not an expression language
    resources: {memory: 256Mi, cpuSeconds: 10, wallSeconds: 60}
  - id: score
    python: evidence.score:run
    needs: [collect]
    with: {items: {from: steps.collect.items}}
    retry: {maxAttempts: 5, maxFailures: 3, base: 2s, cap: 30s}
  - id: approve
    confirm: {role: release-manager, show: {from: steps.score}}
    needs: [score]
  - id: publish
    command: {kind: deployment.create, adapter: paper}
    needs: [approve]
    with: {report: {from: steps.score.report}}
"""


def test_the_example_of_the_documentation_is_a_dag() -> None:
    spec = parse_dag(EXAMPLE.encode(), name="nightly.yaml")
    assert [step.kind for step in spec.steps] == [Kind.PYTHON, Kind.PYTHON, Kind.CONFIRM, Kind.COMMAND]
    assert spec.steps[1].retry == Retry(max_attempts=5, base_us=2_000_000)
    assert spec.steps[0].resources == Resources(memory=256 << 20, cpu_us=10_000_000, wall_us=60_000_000)


def test_the_published_schema_works_with_any_validator() -> None:
    schema = published_schema()
    assert schema["$id"] == "https://sovrun.invalid/schema/v1/dag.schema.json"
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    document = YAML(typ="safe", pure=True).load(EXAMPLE)
    assert validator.is_valid(document)
    document["steps"][0]["needs"] = "score"
    assert not validator.is_valid(document)


def test_the_defaults_that_are_published_are_those_of_the_model() -> None:
    properties = published_schema()["$defs"]["step"]["properties"]
    retry = {
        name: part["default"] for name, part in properties["retry"]["properties"].items() if "default" in part
    }
    limits = {name: part["default"] for name, part in properties["resources"]["properties"].items()}
    assert retry == {"maxAttempts": 3, "maxFailures": 3, "base": "1s", "cap": "30s", "jitter": False}
    assert (duration_us(retry["base"]), duration_us(retry["cap"])) == (Retry().base_us, Retry().cap_us)
    assert (retry["maxAttempts"], retry["maxFailures"]) == (Retry().max_attempts, Retry().max_failures)
    for name in ("memory", "disk", "log", "output"):
        assert size_bytes(limits[name]) == getattr(Resources(), name)
    for name, field in (("cpuSeconds", "cpu_us"), ("wallSeconds", "wall_us")):
        assert duration_us(limits[name]) == getattr(Resources(), field)
    for name, field in (("processes", "processes"), ("openFiles", "open_files"), ("files", "files")):
        assert limits[name] == getattr(Resources(), field)
    assert len(limits) == len(fields(Resources))
    top = published_schema()["properties"]
    assert top["sourceDateEpoch"]["default"] == DagSpec.__dataclass_fields__["epoch"].default
    assert top["steps"]["maxItems"] == STEPS_MAX
    confirm = {name: part.get("default") for name, part in properties["confirm"]["properties"].items()}
    usual = Confirmation()
    assert (confirm["onExpiry"], confirm["barRequester"]) == (usual.on_expiry, usual.bar_requester)
    assert (len(confirm), len(properties["tool"]["properties"])) == (
        len(fields(Confirmation)),
        len(fields(ToolWait)),
    )


@pytest.mark.parametrize("field", ["needs", "select", "argv", "code", "labels", "retryOn", "x"])
def test_a_document_without_the_shape_is_never_without_a_finding(field: str) -> None:
    step: dict[str, Any] = {"id": "a", "python": "m:f"}
    document: dict[str, Any] = {
        "apiVersion": "sovrun/v1",
        "kind": "Dag",
        "metadata": {"id": "d"},
        "steps": [step],
    }
    wrong = [*(f"s{place}" for place in range(700)), 3]
    match field:
        case "argv":
            document["steps"] = [{"id": "a", "argv": wrong}]
        case "code":
            document["code"] = wrong
        case "labels":
            document["metadata"]["labels"] = {f"l{place}": "" for place in range(700)} | {"z": 3}
        case "retryOn":
            step["retry"] = {"retryOn": wrong}
        case _:
            step[field] = wrong
    assert not has_shape(document)
    assert shape_findings(document, Suggester())


@pytest.mark.parametrize(
    ("body", "fields_"),
    [
        ({"tool": {"name": "t"}}, {"retry", "resources"}),
        ({"confirm": {"show": 1}}, {"with", "outputs", "retry", "resources", "select"}),
        ({"python": "m:f"}, set()), ({"argv": ["x"]}, set()),
        ({"command": {"kind": "order.place", "adapter": "paper"}}, {"outputs", "retry", "resources", "select"}),
    ],
)  # fmt: skip
def test_the_published_schema_forbids_the_fields_that_a_kind_does_not_take(
    body: dict[str, Any], fields_: set[str]
) -> None:
    validator = jsonschema.Draft202012Validator(published_schema())
    head = {"apiVersion": "sovrun/v1", "kind": "Dag", "metadata": {"id": "d"}}
    empty = {
        "with": {}, "outputs": {}, "retry": {}, "resources": {}, "select": [], "needs": [], "join": "any", "timeout": 1,
        "description": "",
    }  # fmt: skip
    refused = {
        name
        for name, value in empty.items()
        if not validator.is_valid({**head, "steps": [{"id": "a", **body, name: value}]})
    }
    assert refused == fields_


@example("a" * 256)
@example("a" * 257)
@given(st.text(max_size=5) | st.text("az:#![]~\"'\\", min_size=1, max_size=300))
def test_a_document_names_the_actors_there_can_be(text: str) -> None:
    step = {"id": "a", "confirm": {"actor": text, "show": None}}
    document = {"apiVersion": "sovrun/v1", "kind": "Dag", "metadata": {"id": "d"}, "steps": [step]}
    assert has_shape(document) == (actor(text) == text)


# --- schemas within a document --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "https://x.invalid/y"}, {"$ref": "file:///etc/hostname"}, {"$ref": "other.json"}, {"$ref": "#/$defs/none"},
        {"pattern": "("}, {"pattern": "(?=a)b"}, {"type": "strng"}, {"minimum": "1"}, {"$schema": "http://json-schema.org/draft-07/schema#"},
        {"properties": []},
    ],
)  # fmt: skip
def test_a_schema_that_reaches_out_or_is_none_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        compile_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"}, {"allOf": [{"$ref": "#"}]}, {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"not": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"},
        {"$dynamicAnchor": "n", "$dynamicRef": "#n"},
    ],
)  # fmt: skip
def test_a_schema_that_goes_round_in_circles_ends(schema: dict[str, Any]) -> None:
    assert compile_schema(schema).is_valid({"a": [1]}) in (True, False)


def test_formats_are_checked_and_patterns_take_linear_time() -> None:
    assert not compile_schema({"format": "date"}).is_valid("yesterday")
    assert not compile_schema({"pattern": "^(a+)+$"}).is_valid("a" * 20_000 + "b")


# --- references -----------------------------------------------------------------------------------------------------

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "pets": {"type": "array", "items": {"$ref": "#"}}},
}


@pytest.mark.parametrize(
    ("schema", "path", "lacking"),
    [
        (PERSON, "name", None), (PERSON, "nam", "nam"), (PERSON, "name.first", "first"), (PERSON, "pets.0", None),
        (PERSON, "pets.0.anything", None), (PERSON, "pets.first", "first"), (PERSON, "pets.01", "01"),
        ({**PERSON, "additionalProperties": True}, "nam", None), ({**PERSON, "additionalProperties": {"type": "string"}}, "nam.x", "x"),
        ({**PERSON, "patternProperties": {"^n": {}}}, "nam", None), ({"type": "object"}, "any.thing", None),
        ({"type": "object", "additionalProperties": False}, "x", "x"), ({"type": "string"}, "x", "x"), ({}, "x.0.y", None),
        ({"type": ["object", "null"], "properties": {"a": {}}}, "b", "b"), ({"type": ["array", "object"], "items": False}, "0", None),
        ({"type": "array", "items": False}, "0", "0"), ({"type": "array", "prefixItems": [{"type": "null"}], "items": False}, "0", None),
        ({"type": "array", "prefixItems": [{"type": "null"}], "items": False}, "1", "1"),
        ({"type": "array", "prefixItems": [{"type": "null"}]}, "0.x", "x"), ({"properties": {"a": False}}, "a.b", "b"),
        ({"properties": {"a": True}}, "a.b", None), ({"properties": {"a": {"anyOf": []}}}, "a.b", None), ({"type": 3}, "x", None),
    ],
)  # fmt: skip
def test_a_field_is_lacking_only_where_a_schema_says_so(schema: Any, path: str, lacking: str | None) -> None:
    found = lacking_field(schema, tuple(path.split(".")))
    assert (found.name if found else None) == lacking


@pytest.mark.parametrize("text", ["inputs", "inputs.a", "inputs.a.0.b", "steps.a", "steps.a-1_.x.$file"])
def test_a_reference_comes_back_as_it_was_written(text: str) -> None:
    assert str(parse_reference(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "input.a",
        "inputs.",
        ".inputs",
        "inputs..a",
        "steps",
        "steps.",
        "steps.1a",
        "inputs.a b",
        "Inputs.a",
        "inputs.a\n",
        "steps.a.",
    ],
)
def test_a_text_that_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(BadReferenceError) as caught:
        parse_reference(text)
    assert caught.value.code == "bad_reference"
