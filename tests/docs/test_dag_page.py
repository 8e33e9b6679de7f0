"""The page about DAG documents has the fields and defaults of the published schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sovrun.core.spec.document import parse_dag
from sovrun.core.spec.model import Confirmation, ToolWait
from sovrun.core.spec.schemas import published_schema
from sovrun.stores.listing import CACHE_SUFFIXES, CACHES
from support.markdown import DOCS, blocks, rows, section

PAGE = (DOCS / "reference" / "dag.md").read_text()
STEP = published_schema()["$defs"]["step"]


def fields(schema: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every field of a map with its default; `required` where it has none and must be there."""
    for name, field in schema["properties"].items():
        target = field
        if "$ref" in field:
            target = {**published_schema()["$defs"][field["$ref"].rpartition("/")[2]], **field}
        inner = target.get("properties") if target.get("type") == "object" else None
        if inner and name != "inputs":
            yield from fields(target, f"{prefix}{name}.")
            continue
        required = name in schema.get("required", ())
        yield f"{prefix}{name}", "required" if required else target.get("default")


def told(*headings: str) -> dict[str, str]:
    return {row[0]: row[2] for heading in headings for row in rows(section(PAGE, heading))}


def as_written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def test_every_field_of_a_document_is_explained_with_its_default() -> None:
    shown = {name: row[2] for row in rows(section(PAGE, "The document")) for name in [row[0]]}
    declared = dict(fields(published_schema()))
    assert set(shown) == set(declared)
    expected = {name: as_written(value) for name, value in declared.items() if value is not None}
    assert {name: shown[name] for name in expected} == expected


def test_every_field_of_a_step_is_explained_with_its_default() -> None:
    shown = told("Retries", "Limits", "Network", "Waits", "Commands")
    for row in rows(section(PAGE, "Steps")):
        if len(row) == 3:
            shown[row[0]] = row[2]
    whole = {"tool", "confirm", "command", "retry", "resources", "network"}
    declared = dict(fields(STEP))
    assert set(shown) == set(declared) | whole
    expected = {name: as_written(value) for name, value in declared.items() if value is not None}
    assert {name: shown[name] for name in expected} == expected


def test_what_is_left_out_of_code_is_listed() -> None:
    text = section(PAGE, "What is left out")
    assert all(f"`{name}`" in text for name in (*CACHES, *CACHE_SUFFIXES))


def test_the_example_of_secrets_is_a_dag_with_secrets() -> None:
    (block,) = blocks(section(PAGE, "Secrets"))
    spec = parse_dag(block.text.encode(), name="dag.md")
    assert [step.secrets for step in spec.steps] == [
        (("KEY", "signing-key"),),
        (("TOKEN", "registry-token"),),
    ]


def test_the_example_of_the_network_is_a_dag_with_endpoints() -> None:
    (block,) = blocks(section(PAGE, "Network"))
    spec = parse_dag(block.text.encode(), name="dag.md")
    assert [str(endpoint) for endpoint in spec.steps[0].endpoints] == [
        "api.example.org:443",
        "db.internal:5432",
    ]


def test_the_example_of_waits_is_a_dag_that_waits() -> None:
    (block,) = blocks(section(PAGE, "Waits"))
    spec = parse_dag(block.text.encode(), name="dag.md")
    assert [type(step.entry) for step in spec.steps] == [ToolWait, str, Confirmation]
    assert spec.timeout_us == 30 * 86_400_000_000
    assert spec.failure_budget == 10
