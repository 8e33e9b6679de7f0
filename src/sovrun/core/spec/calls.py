"""What the command steps of a document ask for: whether it can be meant, as far as that is known before any step runs.

Owns: these checks. A kind of ours is held to its published schema; of another only an adapter can tell, when the step
is taken up.
Must not touch: what steps mean to each other; adapters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sovrun.core.commands.kinds import near_kind
from sovrun.core.commands.misfits import unknown_member
from sovrun.core.commands.model import KINDS, payload_findings
from sovrun.core.spec.findings import Finding, Suggester, quoted


def call_findings(document: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what is wrong with the kinds of commands in a document, and with what is written out of their payloads."""
    steps = document.get("steps")
    for position, step in enumerate(steps if isinstance(steps, list) else ()):
        call = step.get("command") if isinstance(step, dict) else None
        name = call.get("kind") if isinstance(call, dict) else None
        if not isinstance(name, str):
            continue
        if name in KINDS:
            yield from _payload_findings(name, step.get("with", {}), ("steps", position, "with"))
        elif (near := near_kind(name)) is not None:
            message = f"there is no kind of command {quoted(name)}"
            hint = f"did you mean {quoted(near)}?"
            yield Finding("unknown_command", message, ("steps", position, "command", "kind"), hint)


def _payload_findings(kind_name: str, members: Any, at: tuple[str | int, ...]) -> Iterator[Finding]:
    if not isinstance(members, dict):  # reported where it stands
        return
    kind = KINDS[kind_name]
    unknown = frozenset(name for name, value in members.items() if _is_form(value, "from"))
    strange = unknown - kind.schema["properties"].keys()
    misspelt = {name for name in strange if Suggester().hint(name, kind.schema["properties"]) is not None}
    for name in sorted(misspelt):
        yield unknown_member(name, kind.schema)._replace(path=(*at, name))
    known = {
        name: value["literal"] if _is_form(value, "literal") else value
        for name, value in members.items()
        if name not in unknown
    }
    for found in payload_findings(kind, known, unknown):
        # Where a whole document is handed on, as in the design's own example, only the run can tell what is in it.
        if found.code != "missing_field" or strange == misspelt:
            yield found._replace(path=(*at, *found.path))


def _is_form(value: Any, form: str) -> bool:
    return isinstance(value, dict) and len(value) == 1 and form in value
