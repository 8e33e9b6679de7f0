"""Further kinds of commands, which plug-ins declare: what makes one usable, and which name is a slip of the pen.

Owns: `kind_faults`, `near_kind`, `undeclared`.
Must not touch: adapters; who declares a kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sovrun.core.commands.model import KINDS, CommandKind, is_kind_name
from sovrun.core.spec.findings import Finding, quoted
from sovrun.core.spec.schemas import BadSchema, compile_schema

RESOURCES: Final = ("deployment", "order")
"""What the target of a command may be."""


def undeclared(name: str, version: int) -> CommandKind:
    """Return a kind of which nothing is known but that there was one: for commands that were recorded under it."""
    return CommandKind(name, version, {"type": "object"}, needs_key=True, opens=True, resource=None)


def kind_faults(kind: CommandKind) -> Iterator[Finding]:
    """Yield why a further kind cannot be used, by paths within its declaration."""
    if not is_kind_name(kind.name):
        message = f"{quoted(kind.name)} is not a kind's name: noun.verb, in lower case"
        yield Finding("bad_name", message, (), at_key=True)
    if kind.name in KINDS:
        message = f"{quoted(kind.name)} is no further kind; it belongs to `orders` or `deployments`"
        yield Finding("bad_value", message, (), at_key=True)
    elif (near := near_kind(kind.name)) is not None:
        message = f"{quoted(kind.name)} would be taken for {quoted(near)}, misspelt"
        yield Finding(
            "bad_name", message, (), "choose a name that differs by more than a letter", at_key=True
        )
    if type(kind.version) is not int or kind.version < 1:
        yield Finding("bad_value", "`version` is a whole number from 1", ("version",))
    try:
        compile_schema(kind.schema)
    except BadSchema as fault:
        message = f"`schema` is not a usable JSON Schema: {fault.detail}"
        yield Finding("bad_schema", message, ("schema", *fault.at))
        return
    yield from _member_faults(kind)


def _member_faults(kind: CommandKind) -> Iterator[Finding]:
    if kind.schema.get("type") != "object":
        yield Finding("bad_schema", "`schema` describes a payload: its `type` is object", ("schema",))
        return
    members: dict[str, Any] = kind.schema.get("properties", {})
    decimals: object = kind.decimals
    if not isinstance(decimals, tuple):
        yield Finding("bad_value", "`decimals` is a tuple of names", ("decimals",))
    for name in kind.decimals:
        if _type(members.get(name)) != "string":
            message = f"`schema` does not say that {quoted(name)} is a text (`type: string`)"
            yield Finding("bad_value", message, ("decimals",))
    if kind.target is None:
        return
    if kind.resource not in RESOURCES:
        yield Finding("bad_value", "`target` names a deployment or an order", ("target",))
    if _type(members.get(kind.target)) != "string" or kind.target not in kind.schema.get("required", ()):
        message = f"`schema` does not say that {quoted(kind.target)} is a text and required"
        yield Finding("bad_value", message, ("target",))


def _type(schema: Any) -> Any:
    return schema.get("type") if isinstance(schema, dict) else None


def near_kind(name: str) -> str | None:
    """Return the kind of ours that a name is a slip of: one letter wrong, missing, too many or in the wrong place.

    In the noun, in the verb, or in both. No further away, because `order.replace` may well be a kind of its own.
    """
    noun, _, verb = name.partition(".")
    for known in KINDS:
        known_noun, _, known_verb = known.partition(".")
        if name != known and _is_slip(noun, known_noun) and _is_slip(verb, known_verb):
            return known
    return None


def _is_slip(text: str, meant: str) -> bool:
    if text == meant:
        return True
    start = next((at for at, (a, b) in enumerate(zip(text, meant, strict=False)) if a != b), None)
    if start is None:
        return abs(len(text) - len(meant)) == 1
    rest, wanted = text[start:], meant[start:]
    swapped = len(rest) > 1 and rest[1] + rest[0] + rest[2:] == wanted
    return swapped or rest[1:] == wanted[1:] or rest[1:] == wanted or rest == wanted[1:]
