"""From a step's declaration to what its attempt is given: references resolved, files found, the step hash taken.

Owns: `CompiledStep` and `resolve`. Values a step receives are decoded from the
canonical form, so how it is isolated cannot change a result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sovrun.core.canonical import canonical, sha256_hex
from sovrun.core.identity import step_hash, step_hash_prefix, step_hash_suffix
from sovrun.core.ids import Digest, StepId
from sovrun.core.plan import Plan
from sovrun.core.spec.model import Confirmation, Literal, Reference, StepSpec, Template


class Unresolved(Exception):
    """A reference names a field that the value does not have; the message says which."""


class Resolved(NamedTuple):
    """What an attempt is given: canonical JSON, and the step hash that follows from it."""

    arguments: bytes
    step_hash: Digest


@dataclass(frozen=True, slots=True)
class CompiledStep:
    """A step with all that does not depend on the run worked out once.

    Args:
        prefix, suffix: the step hash's text around the digest of the arguments.
        sources: positions of the steps whose outputs are referred to, ascending.
        fixed: the result when nothing is referred to, else None.
    """

    spec: StepSpec
    prefix: str
    suffix: str
    sources: tuple[int, ...]
    uses_inputs: bool
    fixed: Resolved | None


def compile_step(plan: Plan, step: StepSpec, code: Digest) -> CompiledStep:
    """Return a step with all that does not depend on the run worked out."""
    template = _template(step)
    references = list(_references(template))
    prefix, suffix = step_hash_prefix(step, code), step_hash_suffix(step)
    fixed = None
    if not references:
        arguments = canonical(_fill(template, None, {}))
        fixed = Resolved(arguments, step_hash(prefix, sha256_hex(arguments), suffix))
    return CompiledStep(
        spec=step,
        prefix=prefix,
        suffix=suffix,
        sources=tuple(sorted({plan.index[r.step] for r in references if r.step is not None})),
        uses_inputs=any(r.step is None for r in references),
        fixed=fixed,
    )


def resolve(step: CompiledStep, inputs: Any, outputs: Mapping[StepId, Any]) -> Resolved:
    """Return what an attempt of `step` is given.

    Args:
        inputs: the run's inputs; outputs: by step id, the outputs of the steps referred to, None for one that has none.
    Raises: Unresolved.
    """
    if step.fixed is not None:
        return step.fixed
    arguments = canonical(_fill(_template(step.spec), inputs, outputs))
    return Resolved(arguments, step_hash(step.prefix, sha256_hex(arguments), step.suffix))


def _template(step: StepSpec) -> dict[str, Template]:
    """Return what a step is given, unresolved; of a `confirm` step that is what it shows."""
    if isinstance(step.entry, Confirmation):
        return {"show": step.entry.show}
    return dict(step.arguments)


def _references(template: Template) -> Iterator[Reference]:
    if isinstance(template, Reference):
        yield template
    elif isinstance(template, dict):
        for item in template.values():
            yield from _references(item)
    elif isinstance(template, list | tuple):
        for item in template:
            yield from _references(item)


def _fill(template: Template, inputs: Any, outputs: Mapping[StepId, Any]) -> Any:
    if isinstance(template, Reference):
        return pick(template, inputs if template.step is None else outputs[template.step])
    if isinstance(template, Literal):
        return template.value
    if isinstance(template, dict):
        return {name: _fill(item, inputs, outputs) for name, item in template.items()}
    if isinstance(template, list | tuple):
        return [_fill(item, inputs, outputs) for item in template]
    return template


def pick(reference: Reference, value: Any) -> Any:
    """Return the field of `value` that a reference names; a step that was not selected gives null all the way.

    Raises: Unresolved.
    """
    if value is None and reference.step is not None:
        return None
    for depth, part in enumerate(reference.path):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            held = (
                f"the fields {', '.join(sorted(value)[:8]) or 'none'}"
                if isinstance(value, dict)
                else f"{value!r:.60}"
            )
            where = Reference(reference.step, reference.path[:depth])
            raise Unresolved(f"{reference} does not exist: {where} is {held}")
    return value


def file_digests(value: Any) -> set[Digest]:
    """Return the digests of all `{"$file": ...}` and `{"$tree": ...}` values within a value."""
    found: set[Digest] = set()
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            named = item.get("$file", item.get("$tree"))
            if isinstance(named, str):
                found.add(Digest(named))
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    return found
