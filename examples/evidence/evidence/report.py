"""The report as data: everything the other steps found, joined by distribution.

Owns: the shape of `report.json` and the summary. Findings come first and are never dropped.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from .findings import KINDS, JsonObject, weight
from .verify import COUNTS

KIND, VERSION = "sovrun.example.evidence", 1


def report_of(
    environment: str, inventory: JsonObject, shards: list[JsonObject], licences: JsonObject
) -> JsonObject:
    """Return the report on the environment whose tree digest is `environment`."""
    findings = sorted((each for part in (inventory, *shards) for each in part["findings"]), key=weight)
    problems = Counter(each["distribution"] for each in findings)
    counts = {each["directory"]: each for shard in shards for each in shard["distributions"]}
    declared = {each["directory"]: each for each in licences["licences"]}
    distributions = []
    for each in inventory["distributions"]:
        directory = each["directory"]
        checked = {name: counts[directory][name] for name in COUNTS}
        distributions.append(
            each
            | {"checked": checked, "problems": problems[directory], "licence": _without(declared[directory])}
        )
    return {
        "kind": KIND,
        "version": VERSION,
        "environment": {"$tree": environment},
        "summary": _summary(inventory, shards, licences, findings),
        "findings": findings,
        "distributions": distributions,
        "outside": sorted(
            (each for shard in shards for each in shard["outside"]),
            key=lambda each: (each["distribution"], each["path"]),
        ),
    }


def json_bytes(value: Any) -> bytes:
    """Return `value` in the one form in which the example writes files: sorted, indented, UTF-8, a line feed at the end."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _summary(
    inventory: JsonObject, shards: list[JsonObject], licences: JsonObject, findings: list[JsonObject]
) -> JsonObject:
    total = {name: sum(each[name] for shard in shards for each in shard["distributions"]) for name in COUNTS}
    total["unlisted"] += sum(shard["loose"] for shard in shards)
    kinds = Counter(each["kind"] for each in findings)
    return {
        "distributions": len(inventory["distributions"]),
        "files": inventory["files"],
        "bytes": inventory["bytes"],
        "checked": total,
        "licencesUnknown": len(licences["unknown"]),
        "findings": {kind: kinds[kind] for kind in KINDS},
        "problems": len(findings),
    }


def _without(licence: JsonObject) -> JsonObject:
    return {name: value for name, value in licence.items() if name != "directory"}
