"""The shape of a document: the published JSON Schema, and its verdicts as messages.

Owns: applying the schema so that a hostile document cannot make the list of errors the largest thing in memory, and
the words for each kind of error.
Must not touch: what steps mean to each other (`graph.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from jsonschema_rs import Draft202012Validator, ValidationError

from sovrun.core.ids import NAME_RULE
from sovrun.core.jsontext import Path
from sovrun.core.spec.endpoints import bad_endpoint
from sovrun.core.spec.findings import MISTAKES_MAX, Finding, Suggester, kind_of, quoted, subject
from sovrun.core.spec.model import API_VERSION, Kind
from sovrun.core.spec.schemas import compile_schema, published_schema

STEPS_MAX: Final = 100_000
_SLICE: Final = 500  # items of a long list that are looked at together once a document is known to be wrong
_SPOKEN: Final[Mapping[str, str]] = {
    "object": "a map", "array": "a list", "string": "a text", "integer": "a whole number", "number": "a number",
    "boolean": "true or false", "null": "nothing",
}  # fmt: skip
_BOUNDS: Final[Mapping[str, str]] = {
    "minimum": "at least", "maximum": "at most", "exclusiveMinimum": "more than", "exclusiveMaximum": "less than",
}  # fmt: skip
_COUNTS: Final[Mapping[str, str]] = {
    "minItems": "at least {} item(s)", "maxItems": "at most {} items", "maxProperties": "at most {} fields",
    "maxLength": "at most {} characters",
}  # fmt: skip
_A_STEP: Final = {"id": "a", "argv": ["a"]}
_INSTEAD: Final[Mapping[tuple[str, str], str]] = {
    ("tool", "retry"): "nothing is attempted that could be tried again; `deadline` bounds the wait",
    ("tool", "resources"): "no process runs for it",
    ("tool", "secrets"): "no process runs for it; the tool itself knows its own",
    ("tool", "reproducible"): "no process runs for it",
    ("tool", "verify"): "it is asked once",
    ("tool", "network"): "no process runs for it; the tool itself is outside",
    ("confirm", "with"): "what the step is given is what is shown: confirm: {show: ...}",
    ("confirm", "retry"): "nothing is attempted that could be tried again; `expires` bounds the wait",
    ("confirm", "resources"): "no process runs for it",
    ("confirm", "network"): "no process runs for it",
    ("confirm", "secrets"): "no process runs for it, and everybody sees what is shown",
    ("confirm", "reproducible"): "no process runs for it",
    ("confirm", "verify"): "nobody is asked twice",
    ("command", "outputs"): "its output is always the recorded answer of the command",
    (
        "command",
        "retry",
    ): "an effect is never attempted twice; an unknown outcome is looked for until it is known",
    ("command", "resources"): "no process runs for it",
    ("command", "select"): "an answer chooses no steps; let a python, argv or tool step choose",
    ("command", "secrets"): "its adapter knows its own",
    ("command", "reproducible"): "no process runs for it",
    ("command", "verify"): "an effect happens once",
    ("command", "network"): "its adapter alone reaches outside",
    ("confirm", "select"): "a decision chooses no steps; let a python, argv or tool step choose",
    ("confirm", "outputs"): "its output is always a map of decision and shown",
}
"""What to do about fields that a kind of step does not take; the published schema forbids the same ones."""


class _Validators(NamedTuple):
    document: Draft202012Validator
    step: Draft202012Validator


@cache
def _validators() -> _Validators:
    schema = published_schema()
    step = {"$defs": schema["$defs"], "$ref": "#/$defs/step"}
    return _Validators(compile_schema(schema), compile_schema(step))


def has_shape(document: Any) -> bool:
    """Whether a document is as the published schema says."""
    return _validators().document.is_valid(document)


def shape_findings(document: Any, suggester: Suggester) -> list[Finding]:
    """Return what the published schema finds wrong with a document, up to about `MISTAKES_MAX` things.

    Items that stand twice in `needs` and `select` are left to `graph.py`.
    """
    found = _errors(_validators().document, _trimmed(document), (), {}, suggester)
    steps = document.get("steps") if isinstance(document, dict) else None
    for position, step in enumerate(steps if isinstance(steps, list) else ()):
        if len(found) >= MISTAKES_MAX:
            break
        found += _step_errors(step, ("steps", position), suggester)
    return found


def _step_errors(step: Any, at: Path, suggester: Suggester) -> list[Finding]:
    validator = _validators().step
    found: list[Finding] = []
    if validator.is_valid(step):
        return found
    longest = published_schema()["$defs"]["step"]["properties"]["argv"]["maxItems"]
    if isinstance(step, dict) and isinstance(step.get("argv"), list) and len(step["argv"]) > longest:
        found.append(Finding("bad_length", f"`argv` must have at most {longest} items", (*at, "argv")))
    for part, offsets in _slices(step):
        found += _errors(validator, part, at, offsets, suggester)
        if len(found) >= MISTAKES_MAX:
            break
    return found


def _trimmed(document: Any) -> Any:
    """Return the document without its steps, its other lists and maps no longer than it takes to see a mistake."""
    if not isinstance(document, dict):
        return document if not isinstance(document, list) else []
    trimmed = dict(document)
    if isinstance(document.get("steps"), list) and document["steps"]:
        trimmed["steps"] = [_A_STEP]
    if isinstance(document.get("code"), list):
        trimmed["code"] = document["code"][: 2 * _SLICE + 1]
    metadata = document.get("metadata")
    if isinstance(metadata, dict) and isinstance(metadata.get("labels"), dict):
        labels = list(metadata["labels"].items())[:_SLICE]
        trimmed["metadata"] = {**metadata, "labels": dict(labels)}
    return trimmed


def _slices(step: Any) -> Iterator[tuple[Any, Mapping[str, int]]]:
    """Yield a step, its long lists in pieces, each piece with the position at which it begins."""
    lists = ("needs", "select", "argv")
    if not isinstance(step, dict):
        yield (step if not isinstance(step, list) else []), {}
        return
    long = {
        name: step[name] for name in lists if isinstance(step.get(name), list) and len(step[name]) > _SLICE
    }
    first = {**step, **{name: items[:_SLICE] for name, items in long.items()}}
    retry = step.get("retry")
    if isinstance(retry, dict) and isinstance(retry.get("retryOn"), list):
        first["retry"] = {**retry, "retryOn": retry["retryOn"][:_SLICE]}
    network = step.get("network")
    if isinstance(network, dict) and isinstance(network.get("allow"), list):
        first["network"] = {**network, "allow": network["allow"][:_SLICE]}
    yield first, {}
    for name, items in long.items():
        for begin in range(_SLICE, len(items), _SLICE):
            yield {**_A_STEP, name: items[begin : begin + _SLICE]}, {name: begin}


def _errors(
    validator: Draft202012Validator, part: Any, at: Path, offsets: Mapping[str, int], suggester: Suggester
) -> list[Finding]:
    found: list[Finding] = []
    meant: set[tuple[Path, str]] = set()
    for error in validator.iter_errors(part):
        path = (*at, *_shifted(error.instance_path, offsets))
        found += _translated(error, path, suggester, meant)
    unclear = any(finding.code == "step_kind" for finding in found)
    return [
        finding
        for finding in found
        if not _is_explained(finding, meant) and not (unclear and finding.code == "not_for_kind")
    ]


def _shifted(path: Sequence[str | int], offsets: Mapping[str, int]) -> Path:
    if len(path) == 2 and path[0] in offsets:
        return (path[0], int(path[1]) + offsets[str(path[0])])
    return tuple(path)


def _is_explained(finding: Finding, meant: set[tuple[Path, str]]) -> bool:
    """Whether a missing field is there under a misspelt name, about which enough has been said."""
    if finding.code == "step_kind":
        return any((finding.path, kind) in meant for kind in Kind)
    return finding.code == "missing_field" and any(
        path == finding.path and finding.message == _missing(path, name) for path, name in meant
    )


def _missing(path: Path, name: str) -> str:
    return f"{subject(path)} lacks the field `{name}`" if path else f"the document lacks the field `{name}`"


def _translated(  # noqa: C901 -- one case per keyword
    error: ValidationError, path: Path, suggester: Suggester, meant: set[tuple[Path, str]]
) -> Iterator[Finding]:
    keyword, facts = error.kind.name, error.kind
    rule = _rule(error.schema_path)
    match keyword:
        case "additionalProperties":
            yield from _unknown(facts.as_dict()["unexpected"], rule, path, suggester, meant)
        case "required":
            yield Finding("missing_field", _missing(path, facts.as_dict()["property"]), path)
        case "type":
            wanted = rule.get("title") or " or ".join(_SPOKEN[name] for name in facts.as_dict()["types"])
            yield Finding(
                "wrong_type", f"{subject(path)} must be {wanted}; it is {kind_of(error.instance)}", path
            )
        case "pattern":
            yield _misshapen(str(error.instance), rule, path)
        case "const" | "enum":
            options = rule.get("enum") or [rule["const"]]
            allowed = " or ".join(map(quoted, options))
            code = "unknown_version" if options == [API_VERSION] else "bad_value"
            yield Finding(code, f"{subject(path)} must be {allowed}, not {quoted(error.instance)}", path)
        case "oneOf":
            if isinstance(error.instance, dict):
                yield _kind_finding(error.instance, path)
        case "falseSchema":
            yield _not_for_kind(str(error.schema_path[-3]), path)
        case "uniqueItems":
            if path[-1] not in ("needs", "select", "allow"):  # `graph.py`, `endpoints.py` say which it is
                yield Finding("duplicate_item", f"an item of {subject(path)} stands twice", path)
        case _ if keyword in _BOUNDS:
            message = (
                f"{subject(path)} must be {_BOUNDS[keyword]} {rule[keyword]}, not {quoted(error.instance)}"
            )
            yield Finding("out_of_range", message, path)
        case _ if keyword in _COUNTS:
            yield Finding(
                "bad_length", f"{subject(path)} must have {_COUNTS[keyword].format(rule[keyword])}", path
            )
        case _:
            yield Finding("bad_value", f"{subject(path)}: {error.message[:200]}", path)


def _rule(schema_path: Sequence[str | int]) -> Mapping[str, Any]:
    """Return the part of the schema that holds the keyword at the end of `schema_path`."""
    rule: Any = published_schema()
    for part in schema_path[:-1]:
        if part == "$ref":
            continue
        rule = rule[part]
    return rule if isinstance(rule, dict) else {}


def _unknown(
    names: Sequence[str],
    rule: Mapping[str, Any],
    path: Path,
    suggester: Suggester,
    meant: set[tuple[Path, str]],
) -> Iterator[Finding]:
    for name in names[:_SLICE]:
        nearest = suggester.nearest(name, rule["properties"])
        hint = f"did you mean {quoted(nearest)}?" if nearest else f"known are {', '.join(rule['properties'])}"
        if nearest:
            meant.add((path, nearest))
        yield Finding("unknown_field", f"unknown field {quoted(name)}", (*path, name), hint, at_key=True)


def _not_for_kind(kind: str, path: Path) -> Finding:
    field = str(path[-1])
    message = f"a {kind} step takes no `{field}`"
    return Finding("not_for_kind", message, path, _INSTEAD[kind, field], at_key=True, spoilt=True)


def _misshapen(text: str, rule: Mapping[str, Any], path: Path) -> Finding:
    if rule is published_schema()["$defs"]["name"]:
        return bad_name(text, path)
    if rule is published_schema()["$defs"]["endpoint"] and (fault := bad_endpoint(text, path)) is not None:
        return fault
    return Finding("bad_value", f"{quoted(text)} is not {rule['title']}", path)


def names_another_tenant(text: str) -> bool:
    """Whether a name is meant to reach beyond the tenant, which no document may do."""
    return "/" in text or text.startswith("tenant:")


def bad_name(text: str, path: Path) -> Finding:
    """Return what is wrong with a name that is not of the allowed form."""
    if names_another_tenant(text):
        message = f"{quoted(text)} names something of another tenant, which a DAG cannot do"
        return Finding("other_tenant", message, path)
    return Finding("bad_name", f"{quoted(text)} is not a legal name: {NAME_RULE}", path)


def _kind_finding(step: Mapping[str, Any], path: Path) -> Finding:
    kinds = ", ".join(Kind)
    given = [kind for kind in Kind if kind in step]
    what = "none of them" if not given else " and ".join(given)
    return Finding("step_kind", f"a step has exactly one of {kinds}; this one has {what}", path)
