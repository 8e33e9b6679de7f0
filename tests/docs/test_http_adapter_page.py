"""The guide tells of every field of a mapping file, with the defaults of the published schema and of the code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from sovrun.execution.adapters.http_document import EVERYWHERE, mapping_schema
from sovrun.execution.adapters.http_exchange import _HARMLESS, _UNKNOWN_STATUSES
from sovrun.execution.adapters.http_mapping import ANSWER_DEFAULT, CONNECT_DEFAULT
from support.markdown import DOCS, rows, section

PAGE = section((DOCS / "guides" / "commands.md").read_text(), "Providers behind REST")
WHOLE = {"orders", "deployments", "portfolio", "quote", "headers", "symbols", "errors", "commands"}
"""Fields that are told of as a whole; what is in them stands in tables of its own."""


def names(cell: str) -> list[str]:
    return re.findall(r"`([A-Za-z.]+)`", cell)


def table(heading: str) -> dict[str, list[str]]:
    return {
        name: row[1:]
        for row in rows(section(PAGE, heading))
        for name in names(f"`{row[0]}`".replace("``", "`"))
    }


def fields(schema: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, field in schema["properties"].items():
        if "properties" in field and name not in WHOLE:
            yield from fields(field, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def test_every_field_of_a_mapping_is_explained_with_its_default() -> None:
    told = table("The mapping file")
    declared = dict(fields(mapping_schema()))
    assert set(declared) <= set(told)
    defaults = {
        name: field["default"]
        for name, field in declared.items()
        if "default" in field and not name.startswith("timeouts.")
    }
    assert len(defaults) >= 4
    for name, default in defaults.items():
        assert told[name][0].strip("`") == (default if isinstance(default, str) else json.dumps(default)), (
            name
        )
    assert (CONNECT_DEFAULT, ANSWER_DEFAULT) == ("5s", "10s")
    assert "`5s`, `10s`" in PAGE


def test_every_field_of_a_request_a_record_and_a_refusal_is_explained() -> None:
    shapes = mapping_schema()["$defs"]
    told = set(table("The mapping file")) | set(table("What an answer means"))
    told |= set(names(section(PAGE, "Templates and picks"))) | set(names(PAGE))
    for shape in (
        "effect",
        "read",
        "orderRecord",
        "deploymentRecord",
        "errors",
        "next",
        "holdings",
        "further",
    ):
        described = shapes[shape].get("items", shapes[shape])
        assert set(described["properties"]) <= told, shape
    for resource in ("orders", "deployments"):
        assert set(mapping_schema()["properties"][resource]["properties"]) <= told


def test_names_that_stand_for_something_and_what_may_be_left_out_are_named() -> None:
    text = section(PAGE, "Templates and picks")
    assert all(f"`{name}`" in text for name in (*EVERYWHERE, "clientId"))
    assert all(name in text for name, harmless in _HARMLESS.items() if harmless)


def test_statuses_that_settle_nothing_are_named() -> None:
    numbers = ", ".join(map(str, sorted(_UNKNOWN_STATUSES)))
    assert f"| {numbers}, not in `errors` | unknown |" in PAGE
