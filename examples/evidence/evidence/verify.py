"""The check of every installed file against the hash its distribution's RECORD gives.

Owns: the comparison, for one shard of the distributions. A file that no RECORD lists belongs to the shard of the
distribution whose files lie nearest, so that the shards together see each file of the environment exactly once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from .findings import JsonObject, finding, weight
from .inventory import directories_of
from .record import WITHOUT_HASH, Listed, Record, parse_record
from .tree import Tree, is_cache, shown

COUNTS = ("ok", "changed", "missing", "unlisted", "unhashed", "not_regular", "outside")


@dataclass(frozen=True, slots=True)
class Claims:
    """Who installed what: the RECORD of each directory, every listed path, and the distributions of each folder."""

    records: dict[str, Record]
    paths: frozenset[str]
    folders: dict[str, str | None]

    def nearest(self, path: str) -> str | None:
        """Return the one distribution with files in the nearest folder above `path`; None if there are more, or none."""
        top = path.partition("/")[0]
        if top in self.records:
            return top
        folder = path.rpartition("/")[0]
        while folder:
            if folder in self.folders:
                return self.folders[folder]
            folder = folder.rpartition("/")[0]
        return None


def verify_shard(tree: Tree, *, shard: int, shards: int) -> JsonObject:
    """Check the distributions whose place in the order of directories is `shard` modulo `shards`.

    Returns: `distributions` with the counts of each, `loose` (files near no distribution, in shard 0), `findings`, and
    `outside`: the files that RECORDs list beyond the environment, such as scripts, which are not opened.
    """
    claims = _claims(tree)
    mine = [directory for place, directory in enumerate(claims.records) if place % shards == shard]
    findings: list[JsonObject] = []
    outside: list[JsonObject] = []
    counts = {directory: Counter[str]() for directory in mine}
    for directory in mine:
        record = claims.records[directory]
        findings += [
            finding("bad_record", f"{directory}/RECORD", of=directory, detail=m) for m in record.mistakes
        ]
        for listed in record.listed:
            if listed.path is None:
                counts[directory]["outside"] += 1
                outside.append({"distribution": shown(directory), "path": shown(listed.written)})
            elif not is_cache(listed.path):
                _check(tree, directory, listed.path, listed, counts[directory], findings)
    loose = 0
    for path, owner in _unlisted(tree, claims):
        if owner in counts:
            counts[owner]["unlisted"] += 1
            findings.append(finding("unlisted", path, of=owner, detail=_remark(tree, path)))
        elif owner is None and shard == 0:
            loose += 1
            findings.append(finding("unlisted", path, of=None, detail=_remark(tree, path)))
    return {
        "distributions": [
            {"directory": shown(directory)} | {name: count[name] for name in COUNTS}
            for directory, count in counts.items()
        ],
        "loose": loose,
        "findings": sorted(findings, key=weight),
        "outside": outside,
    }


def _claims(tree: Tree) -> Claims:
    records = {
        directory: parse_record(tree.read(f"{directory}/RECORD") or b"") for directory in directories_of(tree)
    }
    paths: set[str] = set()
    folders: dict[str, str | None] = {}
    for directory, record in records.items():
        for listed in record.listed:
            if listed.path is not None:
                paths.add(listed.path)
                folder = listed.path.rpartition("/")[0]
                folders[folder] = directory if folders.get(folder, directory) == directory else None
    return Claims(records, frozenset(paths), folders)


def _unlisted(tree: Tree, claims: Claims) -> Iterator[tuple[str, str | None]]:
    for path in tree.entries:
        if path not in claims.paths:
            yield path, claims.nearest(path)


def _remark(tree: Tree, path: str) -> str:
    """Return what makes an unlisted file worth a second look, if anything does."""
    if not tree.entries[path].regular:
        return "a link or a special file"
    at_start = path.endswith(".pth") or path in {"sitecustomize.py", "usercustomize.py"}
    return (
        "read by every interpreter of this environment when it starts" if at_start and "/" not in path else ""
    )


def _check(
    tree: Tree, directory: str, path: str, listed: Listed, count: Counter[str], findings: list[JsonObject]
) -> None:
    entry = tree.entries.get(path)
    if entry is None:
        count["missing"] += 1
        findings.append(finding("missing", path, of=directory))
    elif not entry.regular:
        count["not_regular"] += 1
        findings.append(finding("not_regular", path, of=directory))
    elif listed.algorithm is None or listed.digest is None:
        if path not in {f"{directory}/{name}" for name in WITHOUT_HASH}:
            count["unhashed"] += 1
            findings.append(finding("unhashed", path, of=directory))
    elif (actual := tree.digest(path, listed.algorithm)) == listed.digest:
        count["ok"] += 1
    else:
        count["changed"] += 1
        facts = {"algorithm": listed.algorithm, "expected": listed.digest, "actual": actual}
        findings.append(finding("changed", path, of=directory, **facts))
