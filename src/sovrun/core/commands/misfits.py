"""What is wrong with a payload, in words: the verdicts of its kind's schema, each at its member.

Owns: `misfits`, `unknown_member`.
Must not touch: which kinds there are, what is done with a verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from jsonschema_rs import Draft202012Validator, ValidationError

from sovrun.core.spec.findings import Finding, Suggester, kind_of, quoted, subject

_SPOKEN: Final[Mapping[str, str]] = {
    "object": "a map", "array": "a list", "string": "a text", "integer": "a whole number", "number": "a number",
    "boolean": "true or false", "null": "nothing",
}  # fmt: skip
_BOUNDS: Final[Mapping[str, str]] = {
    "minimum": "at least {}", "maximum": "at most {}", "exclusiveMinimum": "more than {}",
    "exclusiveMaximum": "less than {}", "multipleOf": "a multiple of {}", "minLength": "at least {} character(s) long",
    "maxLength": "at most {} characters long", "format": "of the form {}",
}  # fmt: skip
_SHOWN: Final = 200
_NAMES_MAX: Final = 20
"""Unknown members that are named: a hostile payload must not make a report larger than itself."""


def misfits(
    validator: Draft202012Validator, schema: Mapping[str, Any], payload: Any, unknown: frozenset[str]
) -> Iterator[Finding]:
    """Yield what is wrong with a payload, by paths within it.

    Args:
        validator: of `schema`. unknown: members that are there, and left out because their values are not known yet.
    """
    chosen_by = schema.get("if", {}).get("properties", {})
    for error in validator.iter_errors(payload):
        is_conditional = error.schema_path[:1] in (["then"], ["else"])
        if is_conditional and (unknown.intersection(chosen_by) or not isinstance(payload, dict)):
            continue
        if (
            isinstance(error.instance, str)
            or error.kind.name not in ("pattern", "not")
            or not error.instance_path
        ):
            yield from _translated(error, schema, unknown)


def _translated(
    error: ValidationError, schema: Mapping[str, Any], unknown: frozenset[str]
) -> Iterator[Finding]:
    keyword, facts, path = error.kind.name, error.kind.as_dict(), tuple(error.instance_path)
    rule = _rule(schema, error.schema_path)
    title = rule.get("title") if path or len(error.schema_path) > 1 else None
    whom = subject(path) if path else "the payload"
    match keyword:
        case "required":
            if path or facts["property"] not in unknown:
                because = "" if title is None or path else f": {title}"
                yield Finding(
                    "missing_field", f"{whom} lacks the member `{facts['property']}`{because}", path
                )
        case "additionalProperties":
            for name in facts["unexpected"][:_NAMES_MAX]:
                found = unknown_member(name, rule)
                yield found._replace(path=(*path, name))
        case "type":
            wanted = title or " or ".join(_SPOKEN[name] for name in facts["types"])
            message = f"{whom} must be {wanted}; it is {kind_of(error.instance)}"
            yield Finding("wrong_type", message, path, _as_text(error.instance, facts["types"]))
        case "const" | "enum":
            options = " or ".join(map(quoted, rule.get("enum") or [rule.get("const")]))
            yield Finding("bad_value", f"{whom} must be {options}, not {quoted(error.instance)}", path)
        case "pattern" | "not" if title is not None:
            message = f"{whom} must be {title}, not {quoted(error.instance)}" if path else str(title)
            yield Finding("bad_value", message, path)
        case _ if keyword in _BOUNDS and keyword in rule:
            bound = _BOUNDS[keyword].format(rule[keyword])
            yield Finding("out_of_range", f"{whom} must be {bound}, not {quoted(error.instance)}", path)
        case _:
            yield Finding("bad_value", f"{whom}: {error.message[:_SHOWN]}", path)


def unknown_member(name: str, schema: Mapping[str, Any]) -> Finding:
    """Return that a payload of a schema has no member of this name, and which there is instead."""
    known = schema.get("properties", {})
    hint = Suggester().hint(name, known) or f"known are {', '.join(known) or 'none'}"
    return Finding("unknown_field", f"unknown member {quoted(name)}", (name,), hint, at_key=True)


def _as_text(value: Any, types: Sequence[str]) -> str | None:
    """Return what to do about a number where a text is wanted: it may have been rounded before anybody saw it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or list(types) != ["string"]:
        return None
    return f'write it in quotes: "{value}"'


def _rule(schema: Mapping[str, Any], path: Sequence[str | int]) -> Mapping[str, Any]:
    """Return the part of a schema that holds the keyword at the end of `path`; nothing where it is referred to."""
    rule: Any = schema
    for part in path[:-1]:
        try:
            rule = rule[part]
        except (KeyError, IndexError, TypeError):
            return {}
    return rule if isinstance(rule, dict) else {}
