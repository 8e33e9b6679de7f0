"""Findings: what a person should look at, as data.

Owns: the kinds, their order of weight and their wording. Nothing here decides what a finding means for a release.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from .tree import shown

JsonObject: TypeAlias = dict[str, Any]

KINDS = {
    "changed": "The content is not what the distribution's RECORD says",
    "missing": "Listed in RECORD, but not there",
    "unlisted": "There, but listed by no distribution",
    "not_regular": "Listed as a file, but a link or a special file",
    "unhashed": "Listed without a hash, so that it cannot be checked",
    "bad_record": "A line of RECORD that makes no sense, or names a weak hash",
    "no_record": "The distribution has no RECORD; none of its files can be checked",
    "bad_metadata": "The metadata is missing or malformed",
    "duplicate": "Two distributions of one name are installed over each other",
}
"""The kinds of findings, the gravest first, and what each means."""

_WEIGHT = {kind: place for place, kind in enumerate(KINDS)}


def finding(kind: str, path: str, *, of: str | None, detail: str = "", **facts: str) -> JsonObject:
    """Return one finding: its kind, the path it is about, the distribution's directory if one is known, and details."""
    owner = None if of is None else shown(of)
    return {"kind": kind, "path": shown(path), "distribution": owner, "detail": detail, **facts}


def weight(found: JsonObject) -> tuple[int, str, str, str]:
    """Return what findings are sorted by: kind, then distribution, path and detail."""
    return _WEIGHT[found["kind"]], found["distribution"] or "", found["path"], found["detail"]
