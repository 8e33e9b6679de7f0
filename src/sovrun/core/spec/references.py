"""References: what flows into a step, and whether it can be there.

Owns: the text form of a reference, finding references in templates, and the checks that what one points at exists,
comes before, and is declared.
Must not touch: values at run time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from sovrun.core.ids import NAME, StepId
from sovrun.core.jsontext import Path
from sovrun.core.spec.findings import Finding, Suggester, kind_of, quoted
from sovrun.core.spec.graph import Graph
from sovrun.core.spec.model import Literal, Reference, Template
from sovrun.core.spec.shape import names_another_tenant
from sovrun.core.spec.upstream import not_upstream

_PART: Final = re.compile(r"[^.\s\x00-\x1f\x7f]{1,512}")
_POSITION: Final = re.compile(r"0|[1-9][0-9]{0,8}")
_FORMS: Final = (
    "a reference is inputs, inputs.NAME, steps.ID or steps.ID.NAME, with further .NAME for fields of fields"
)
_OPEN_ENDED: Final = frozenset({
    "$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "patternProperties",
    "enum", "const",
})  # fmt: skip
_CARRIERS: Final = ("with",)
CONFIRM_OUTPUT: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {"decision": {"type": "string"}, "shown": True},
    "additionalProperties": False,
}
"""JSON Schema of what every `confirm` step returns."""
COMMAND_OUTPUT: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "adapter": {"type": "string"},
        "code": True,
        "commandId": {"type": "string"},
        "gate": True,
        "kind": {"type": "string"},
        "message": True,
        "mode": {"type": "string"},
        "resource": True,
        "status": {"type": "string"},
    },
    "additionalProperties": False,
}
"""JSON Schema of what every `command` step returns: the recorded answer."""
_FIXED_OUTPUTS: Final = {
    "confirm": (CONFIRM_OUTPUT, "decision and shown"),
    "command": (COMMAND_OUTPUT, ", ".join(COMMAND_OUTPUT["properties"])),
}
_VISITS_MAX: Final = 1_000_000

Schema: TypeAlias = "Mapping[str, Any] | bool"


class BadReferenceError(ValueError):
    """A text that is not a reference; `code` is the kind of mistake."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def parse_reference(text: str) -> Reference:
    """Return the reference that `text` stands for. Raises: BadReferenceError."""
    root, *rest = text.split(".")
    reaches_out = names_another_tenant(root) or (root == "steps" and rest and names_another_tenant(rest[0]))
    if reaches_out:
        message = f"{quoted(text)} refers to something of another tenant, which a DAG cannot do"
        raise BadReferenceError("other_tenant", message)
    if all(map(_PART.fullmatch, rest)):
        if root == "inputs":
            return Reference(None, tuple(rest))
        if root == "steps" and rest and NAME.fullmatch(rest[0]):
            return Reference(StepId(rest[0]), tuple(rest[1:]))
    raise BadReferenceError("bad_reference", f"{quoted(text)} is not a reference: {_FORMS}")


def template_of(value: Any) -> Template:
    """Return a JSON value of a valid document as a template."""
    if type(value) is dict:
        if len(value) == 1:
            if "from" in value:
                return parse_reference(value["from"])
            if "literal" in value:
                return Literal(value["literal"])
        return {name: template_of(item) for name, item in value.items()}
    if type(value) is list:
        return [template_of(item) for item in value]
    scalar: Template = value
    return scalar


def normal_of(template: Template) -> Any:
    """Return a template as the JSON value that `template_of` would make it of."""
    if isinstance(template, Reference):
        return {"from": str(template)}
    if isinstance(template, Literal):
        return {"literal": template.value}
    if isinstance(template, dict):
        return {name: normal_of(item) for name, item in template.items()}
    if isinstance(template, list):
        return [normal_of(item) for item in template]
    return template


class _Use(NamedTuple):
    """A reference where it is used; `step` is None for the document itself."""

    reference: Reference
    step: StepId | None
    path: Path


def reference_findings(document: Mapping[str, Any], graph: Graph, suggester: Suggester) -> Iterator[Finding]:
    """Yield what is wrong with the references of a document."""
    inputs = document.get("inputs", {"properties": {}})
    doubtful: set[tuple[StepId, StepId]] = set()
    needs: tuple[StepId | None, frozenset[StepId]] = (None, frozenset())
    for use in _uses(document, graph):
        if isinstance(use, Finding):
            yield use
            continue
        target = use.reference.step
        if use.step is None and (target is not None or not use.reference.path):
            message = "sourceDateEpoch is fixed before any step runs; it can only come from inputs.NAME"
            yield Finding("bad_reference", message, use.path)
        elif target is None:
            yield from _input_findings(use, inputs, suggester)
        elif target not in graph.position:
            hint = suggester.hint(target, graph.position)
            yield Finding("unknown_step", f"there is no step {quoted(target)}", use.path, hint)
        else:
            yield from _output_findings(use, target, graph, suggester)
            if use.step is not None and use.step in graph.position:
                if needs[0] != use.step:
                    needs = (use.step, frozenset(graph.needs[use.step]))
                if target not in needs[1]:
                    doubtful.add((use.step, target))
    refused = _refused(doubtful, graph) if doubtful else set()
    if refused:  # a second pass is cheaper than keeping every reference of a sound document
        yield from _upstream_findings(document, graph, refused)


def _uses(document: Mapping[str, Any], graph: Graph) -> Iterator[_Use | Finding]:
    epoch = document.get("sourceDateEpoch")
    if isinstance(epoch, dict) and isinstance(epoch.get("from"), str):
        yield _use_of(epoch["from"], None, ("sourceDateEpoch", "from"))
    for place, step in enumerate(graph.steps):
        if isinstance(step, dict):
            name = step.get("id")
            for carrier in _CARRIERS:
                if isinstance(step.get(carrier), dict):
                    yield from _within(step[carrier], name, ("steps", place, carrier))
            confirm = step.get("confirm")
            if isinstance(confirm, dict) and "show" in confirm:
                yield from _within({"show": confirm["show"]}, name, ("steps", place, "confirm"))


def _within(carrier: Mapping[str, Any], step: Any, path: Path) -> Iterator[_Use | Finding]:
    """Yield the references within a map of templates, which is itself never one."""
    open_values: list[Iterator[tuple[Any, Path]]] = [_fields(carrier, path)]
    origin = StepId(step) if isinstance(step, str) else StepId("")
    while open_values:
        for value, at in open_values[-1]:
            if isinstance(value, list):
                open_values.append(_items(value, at))
                break
            if isinstance(value, dict):
                if len(value) == 1 and "from" in value:
                    yield _use_of(value["from"], origin, (*at, "from"))
                elif not (len(value) == 1 and "literal" in value):
                    open_values.append(_fields(value, at))
                    break
        else:
            open_values.pop()


def _items(value: list[Any], at: Path) -> Iterator[tuple[Any, Path]]:
    return ((item, (*at, position)) for position, item in enumerate(value) if isinstance(item, list | dict))


def _fields(value: Mapping[str, Any], at: Path) -> Iterator[tuple[Any, Path]]:
    return ((item, (*at, name)) for name, item in value.items() if isinstance(item, list | dict))


def _use_of(text: Any, step: StepId | None, path: Path) -> _Use | Finding:
    if not isinstance(text, str):
        message = f"`from` must be a text such as inputs.day; it is {kind_of(text)}"
        hint = (
            "a map with the one key `from` is a reference; write {literal: {from: ...}} to pass it as it is"
        )
        return Finding("bad_reference", message, path, hint)
    try:
        return _Use(parse_reference(text), step, path)
    except BadReferenceError as error:
        return Finding(error.code, str(error), path)


def _input_findings(use: _Use, inputs: Any, suggester: Suggester) -> Iterator[Finding]:
    lacking = lacking_field(inputs, use.reference.path) if isinstance(inputs, dict) else None
    if lacking is not None:
        shown = quoted(str(use.reference))
        message = f"{shown} does not exist: {_lack_text(use.reference.path, lacking.at, 'inputs')}"
        yield Finding("unknown_input", message, use.path, suggester.hint(lacking.name, lacking.known))


def _output_findings(use: _Use, target: StepId, graph: Graph, suggester: Suggester) -> Iterator[Finding]:
    step = graph.steps[graph.position[target]]
    kind = next((kind for kind in _FIXED_OUTPUTS if kind in step and "outputs" not in step), None)
    outputs = step.get("outputs") if kind is None else _FIXED_OUTPUTS[kind][0]
    lacking = lacking_field(outputs, use.reference.path) if isinstance(outputs, dict) else None
    if lacking is not None:
        shown = quoted(str(use.reference))
        declared = f"the declared outputs of {quoted(target)}"
        if kind is not None:
            declared = f"the outputs of the {kind} step {quoted(target)}, {_FIXED_OUTPUTS[kind][1]},"
        message = f"{shown} does not exist: {_lack_text(use.reference.path, lacking.at, declared)}"
        yield Finding("unknown_output_field", message, use.path, suggester.hint(lacking.name, lacking.known))


def _refused(pairs: set[tuple[StepId, StepId]], graph: Graph) -> set[tuple[StepId, StepId]]:
    """Return those pairs (step, target) in which the target is not upstream of the step."""
    if graph.order is None:
        return _refused_by_search(pairs, graph)
    order = graph.order
    place = {step: position for position, step in enumerate(order)}
    needs = [[place[need] for need in graph.needs[step]] for step in order]
    numbers = not_upstream({(place[step], place[target]) for step, target in pairs}, needs)
    return {(order[step], order[target]) for step, target in numbers}


def _upstream_findings(
    document: Mapping[str, Any], graph: Graph, refused: set[tuple[StepId, StepId]]
) -> Iterator[Finding]:
    for use in _uses(document, graph):
        target = None if isinstance(use, Finding) else use.reference.step
        if (
            isinstance(use, Finding)
            or use.step is None
            or target is None
            or (use.step, target) not in refused
        ):
            continue
        if use.step == target:
            message = f"the step {quoted(target)} refers to its own output"
            yield Finding("not_upstream", message, use.path)
        else:
            message = (
                f"the step {quoted(target)} is not upstream of {quoted(use.step)}, so it may not have run yet"
            )
            hint = f"add {quoted(target)} to the needs of {quoted(use.step)}"
            yield Finding("not_upstream", message, use.path, hint)


def _refused_by_search(pairs: set[tuple[StepId, StepId]], graph: Graph) -> set[tuple[StepId, StepId]]:
    """Answer for a graph with circles, as far as a bounded search gets; the circles are reported anyway."""
    refused = set()
    left = _VISITS_MAX
    for step, target in sorted(pairs):
        seen = {step}
        open_steps = [step]
        while open_steps and target not in seen and left > 0:
            for need in graph.needs[open_steps.pop()]:
                left -= 1
                if need not in seen:
                    seen.add(need)
                    open_steps.append(need)
        if left > 0 and target not in seen:
            refused.add((step, target))
    return refused


class Lack(NamedTuple):
    """A field that a schema does not have: its place in the path, its name, the names there are instead."""

    at: int
    name: str
    known: tuple[str, ...]


def lacking_field(schema: Any, path: tuple[str, ...]) -> Lack | None:
    """Return the first field of `path` that values of `schema` are known not to have, None when there is no saying.

    A schema that lists `properties` and is silent on others may accept them, but nothing that is not listed can be
    referred to.
    """
    for at, name in enumerate(path):
        if isinstance(schema, bool):
            return None if schema else Lack(at, name, ())
        if not isinstance(schema, Mapping) or not _OPEN_ENDED.isdisjoint(schema):
            return None
        inner = _field(schema, name)
        if isinstance(inner, tuple):
            return Lack(at, name, inner)
        schema = inner
    return None


def _field(schema: Mapping[str, Any], name: str) -> Schema | tuple[str, ...]:
    """Return the schema of one field, or the names of those there are when it is not one of them."""
    types = schema.get("type")
    allowed = [types] if isinstance(types, str) else types if isinstance(types, list) else ["object", "array"]
    properties = schema.get("properties")
    known = tuple(properties) if isinstance(properties, Mapping) else ()
    if "object" in allowed:
        if isinstance(properties, Mapping) and name in properties:
            field: Schema = properties[name]
            return field
        others: Schema = schema.get("additionalProperties", not isinstance(properties, Mapping))
        if others is not False:
            return others
    if "array" in allowed and _POSITION.fullmatch(name):
        first = schema.get("prefixItems")
        position = int(name)
        if isinstance(first, list) and position < len(first):
            item: Schema = first[position]
            return item
        rest: Schema = schema.get("items", True)
        if rest is not False:
            return rest
    return known


def _lack_text(path: tuple[str, ...], at: int, where: str) -> str:
    within = "".join(f".{part}" for part in path[:at])
    return f"{where}{f' ({within[1:]})' if within else ''} have no field {quoted(path[at])}"
