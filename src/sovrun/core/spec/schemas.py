"""JSON Schemas: the published one of a document, and those that a document holds itself.

Owns: how every JSON Schema in Sovrun is compiled: draft 2020-12, formats checked, patterns that match in linear time,
nothing fetched from anywhere.
Must not touch: what is done with a verdict.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

from jsonschema_rs import Draft202012Validator, ReferencingError, RegexOptions, ValidationError

from sovrun.core.errors import InvalidValue
from sovrun.core.jsontext import Path

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


class BadSchema(InvalidValue):
    """A value is not a usable JSON Schema; `at` is the place within it, where that is known."""

    def __init__(self, detail: str, at: Path = ()) -> None:
        super().__init__(detail)
        self.at = at


def compile_schema(schema: Mapping[str, Any]) -> Draft202012Validator:
    """Return what checks values against `schema`.

    Raises: BadSchema when it is not a JSON Schema 2020-12, needs look-around in a pattern, or refers to anything
        outside itself.
    """
    declared = schema.get("$schema", DIALECT)
    if not isinstance(declared, str) or declared.rstrip("#") != DIALECT:
        raise BadSchema(f"its $schema is not {DIALECT}", ("$schema",))
    try:
        return Draft202012Validator(
            dict(schema), validate_formats=True, offline=True, pattern_options=RegexOptions()
        )
    except (ValidationError, ReferencingError, ValueError) as error:
        message = str(error).partition("\n")[0][:200]
        raise BadSchema(message, tuple(getattr(error, "instance_path", ()))) from None


def unfit_defaults(schema: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Yield where a default that inputs are completed with does not fit the schema it stands in, and why.

    Args:
        schema: usable, as `compile_schema` takes it.
    """
    for error in compile_schema(schema).iter_errors(_defaults(schema)):
        declared: Any = schema
        place: Path = ()
        for name in error.instance_path:
            declared, place = declared["properties"][name], (*place, "properties", name)
            if "default" in declared:
                # Not what only holds beside other inputs, as under `if`, of which nothing is known here.
                if tuple(error.evaluation_path[: len(place)]) == place:
                    yield (*place, "default"), error.message[:200]
                break


def _defaults(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return all defaults of the properties of a schema and of those below them, each at its place."""
    found: dict[str, Any] = {}
    properties = schema.get("properties")
    for name, declared in properties.items() if isinstance(properties, Mapping) else ():
        if isinstance(declared, Mapping) and ("default" in declared or "properties" in declared):
            found[name] = declared["default"] if "default" in declared else _defaults(declared)
    return found


@cache
def published_schema() -> Mapping[str, Any]:
    """Return the published JSON Schema of a DAG document."""
    text = files(__package__).joinpath("dag.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
