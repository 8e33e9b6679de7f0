"""From the bytes of a DAG document to a value, or to all that is wrong with it.

Owns: `parse_dag`: the order of the checks; for every kind of document `read_any` (which reader a text is for, the
limits of size) and `placed` (what checks find, in the order of the text).
Must not touch: files; `name` is only what a message calls the document.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import islice
from typing import Any, Final, Protocol

from sovrun.core.errors import InvalidSpec, Mistake
from sovrun.core.jsontext import Path, Place
from sovrun.core.spec.calls import call_findings
from sovrun.core.spec.details import detail_findings
from sovrun.core.spec.findings import MISTAKES_MAX, Finding, Suggester, UnreadableError
from sovrun.core.spec.graph import read_graph
from sovrun.core.spec.json_document import JSON_BYTES_MAX, read_json
from sovrun.core.spec.model import DagSpec
from sovrun.core.spec.normal import spec_of
from sovrun.core.spec.references import reference_findings
from sovrun.core.spec.shape import STEPS_MAX, has_shape, shape_findings
from sovrun.core.spec.yaml_document import YAML_BYTES_MAX, read_yaml

_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
_BLANK: Final = b" \t\r\n"


class Document(Protocol):
    """What the readers of YAML and JSON have in common."""

    @property
    def value(self) -> Any:
        """The value as it was read, without what is refused."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong with the text."""

    def places(self, wanted: Collection[Path]) -> Mapping[Path, tuple[Place, Place]]:
        """Return of each path that is there the places of its value and of its key."""


def parse_dag(data: bytes, *, name: str) -> DagSpec:
    """Return the DAG that a document declares, defaults filled in.

    Args:
        data: UTF-8; JSON when its first visible character is `{`, else YAML 1.2.
        name: what messages call the document, for example its file name.
    Raises: InvalidSpec with every mistake, in the order of the text.
    """
    try:
        document = read_any(data)
    except UnreadableError as error:
        raise InvalidSpec(name, _sorted(error.mistakes)) from None
    value = document.value
    if not isinstance(value, dict):
        raise InvalidSpec(
            name,
            [Mistake("wrong_type", "a DAG document is a map, with apiVersion as its first field", (), 1, 1)],
        )
    suggester = Suggester()
    found = list(document.findings)
    steps = value.get("steps")
    if isinstance(steps, list) and len(steps) > STEPS_MAX:
        message = f"the DAG has {len(steps)} steps; {STEPS_MAX} is the most it may have"
        found.append(Finding("too_many_steps", message, ("steps",), at_key=True))
        raise InvalidSpec(name, placed(document, found))
    well_shaped = has_shape(value)
    if not well_shaped:
        found += shape_findings(value, suggester)
    graph, in_graph = read_graph(steps if isinstance(steps, list) else (), suggester)
    found += in_graph
    found += islice(reference_findings(value, graph, suggester), MISTAKES_MAX)
    found += islice(detail_findings(value), MISTAKES_MAX)
    found += islice(call_findings(value), MISTAKES_MAX)
    if not found and not well_shaped:
        found.append(Finding("bad_value", "the document is not as the published schema says", ()))
    if found or graph.order is None:
        raise InvalidSpec(name, placed(document, found))
    return spec_of(value, graph.order)


def read_any(data: bytes) -> Document:
    """Return the value that a text in JSON or YAML is, with where its fields stand. Raises: UnreadableError."""
    if data.startswith(_UTF16):
        raise UnreadableError(Mistake("bad_encoding", "the document is UTF-16; save it as UTF-8"))
    if data.startswith(b"\xef\xbb\xbf"):
        message = "the document begins with a byte order mark; save it as UTF-8 without one"
        raise UnreadableError(Mistake("byte_order_mark", message, (), 1, 1))
    is_json = data.lstrip(_BLANK)[:1] == b"{"
    form, limit = ("JSON", JSON_BYTES_MAX) if is_json else ("YAML", YAML_BYTES_MAX)
    if len(data) > limit:
        message = f"the document has more than {limit >> 20} MiB, the most for {form}"
        raise UnreadableError(
            Mistake("too_large", message, hint=None if is_json else "write a large DAG as JSON")
        )
    text = _text(data)
    if not text.strip():
        raise UnreadableError(Mistake("empty_document", "the document is empty"))
    return read_json(data, text) if is_json else read_yaml(text)


def _text(data: bytes) -> str:
    if b"\0" in data:
        before = data[: data.index(b"\0")]
        message = "the document holds NUL bytes; it is not a text"
        raise UnreadableError(Mistake("bad_encoding", message, (), *_end_of(before)))
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        message = f"the document is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}"
        place = _end_of(data[: error.start])
        raise UnreadableError(Mistake("bad_encoding", message, (), *place)) from None


def _end_of(before: bytes) -> Place:
    """Return where the byte after `before` stands."""
    column = len(before[before.rfind(b"\n") + 1 :].decode(errors="replace")) + 1
    return Place(before.count(b"\n") + 1, column)


def placed(document: Document, found: list[Finding]) -> list[Mistake]:
    """Return what counts of all that was found, each where it stands in the text, in the order of the text."""
    counting = _counting(found)
    wanted = {finding.path[:length] for finding in counting for length in range(len(finding.path) + 1)}
    places = document.places(wanted)
    return _sorted([finding.mistake(finding.place or _place(finding, places)) for finding in counting])


def _counting(found: list[Finding]) -> list[Finding]:
    """Leave out what was found within a value that could not be read, and what is the same mistake once more."""
    spoilt = {finding.path for finding in found if finding.spoilt}
    once: dict[tuple[Path, bool, str], Finding] = {}
    for finding in found:
        within = any(finding.path[:length] in spoilt for length in range(len(finding.path) + 1))
        if finding.spoilt or not within:
            kind = "value" if finding.code in _ABOUT_A_VALUE else finding.message
            once.setdefault((finding.path, finding.at_key, kind), finding)
    return list(once.values())


_ABOUT_A_VALUE: Final = frozenset({"wrong_type", "bad_value", "out_of_range", "bad_path"})


def _place(finding: Finding, places: Mapping[Path, tuple[Place, Place]]) -> Place:
    for length in range(len(finding.path), -1, -1):
        found = places.get(finding.path[:length])
        if found is not None:
            return found[1] if finding.at_key else found[0]
    return Place(0, 0)


def _sorted(mistakes: Collection[Mistake]) -> list[Mistake]:
    ordered = sorted(
        mistakes, key=lambda mistake: (mistake.line, mistake.column, mistake.code, mistake.message)
    )
    if len(ordered) > MISTAKES_MAX:
        first, rest = ordered[MISTAKES_MAX], len(ordered) - MISTAKES_MAX
        message = f"at least {rest} more mistakes are not shown"
        last = Mistake("too_many_mistakes", message, (), first.line, first.column)
        return [*ordered[:MISTAKES_MAX], last]
    return ordered
