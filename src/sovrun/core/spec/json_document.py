"""DAG documents in JSON.

Owns: reading a JSON text as a value, its limits, and where its fields stand.
Must not touch: what the fields mean.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from sovrun.core.canonical import DEPTH_MAX, parse, require_syntax
from sovrun.core.errors import InvalidValue, Mistake
from sovrun.core.jsontext import (
    Fault,
    Path,
    Place,
    depth_exceeds,
    faults,
    line_columns,
    number_fault,
    offsets,
    skeleton,
)
from sovrun.core.spec.findings import MISTAKES_MAX, Finding, UnreadableError

JSON_BYTES_MAX: Final = 32 << 20
_FATAL: Final = frozenset({"too_deep", "lone_surrogate"})
VALUES_MAX: Final = 4_000_000
"""Values in one document: bounds the memory that its text may grow to."""


@dataclass(frozen=True, slots=True)
class JsonDocument:
    """A JSON text as a value, and what is wrong with it as a text."""

    value: Any
    findings: tuple[Finding, ...]
    text: str

    def places(self, wanted: Collection[Path]) -> Mapping[Path, tuple[Place, Place]]:
        """Return of each path that is there the places of its value and of its key."""
        found = offsets(self.text, wanted)
        places = line_columns(self.text, [offset for where in found.values() for offset in where])
        return {path: (places[where.value], places[where.key]) for path, where in found.items()}


def read_json(data: bytes, text: str) -> JsonDocument:
    """Return the document that `data`, decoded `text`, is. Raises: UnreadableError."""
    values = 1 + sum(skeleton(text).count(mark) for mark in (b",", b"["))
    if values > VALUES_MAX:
        raise UnreadableError(
            Mistake("too_large", f"the document has more than {VALUES_MAX} values, the most that are read")
        )
    try:
        return JsonDocument(parse(data), (), text)
    except InvalidValue:
        pass
    try:
        require_syntax(text)
    except InvalidValue as error:
        line, column = int(error.facts["line"]), int(error.facts["column"])
        hint = "a document that begins with { is read as JSON"
        raise UnreadableError(Mistake("bad_json", error.detail, (), line, column, hint)) from None
    found = _faults(text)
    if len(found) == MISTAKES_MAX or any(finding.code in _FATAL for finding in found):
        raise UnreadableError(*(finding.mistake(finding.place or Place(0, 0)) for finding in found))
    return JsonDocument(_LENIENT.decode(text), tuple(found), text)


def _faults(text: str) -> list[Finding]:
    found = list(islice(faults(text, depth_max=DEPTH_MAX), MISTAKES_MAX))
    if depth_exceeds(text, DEPTH_MAX) and all(fault.code != "too_deep" for fault in found):
        found.append(Fault("too_deep", f"nested deeper than {DEPTH_MAX} levels", (), 0))
    places = line_columns(text, [fault.offset for fault in found])
    return [
        Finding(
            fault.code,
            fault.message,
            fault.path,
            spoilt=fault.code != "duplicate_key",
            place=places[fault.offset],
        )
        for fault in found
    ]


def _number_or_zero(token: str) -> int | float:
    if number_fault(token) is not None:
        return 0
    return int(token) if token.lstrip("-").isdigit() else float(token)


_LENIENT: Final = json.JSONDecoder(
    parse_constant=_number_or_zero, parse_int=_number_or_zero, parse_float=_number_or_zero
)
