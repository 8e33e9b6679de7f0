"""The inventory: every installed distribution, as its own metadata describes it.

Owns: reading `*.dist-info` (and the older `*.egg-info`) at the top of an environment. Host paths never get out: an
origin on this machine is only called `local`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from .findings import JsonObject, finding, weight
from .record import parse_record
from .tree import Tree, clean, shown

TEXT_MAX = 300
"""Characters kept of a line of free text."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """The header of a distribution's metadata; `mistake` says what is wrong with it, if anything."""

    fields: Message
    mistake: str | None = None

    def line(self, name: str) -> str | None:
        """Return a field as one line of bounded length, None when it is absent, empty or `UNKNOWN`."""
        text = " ".join(str(self.fields.get(name, "")).split())[:TEXT_MAX]
        return None if text in {"", "UNKNOWN"} else text

    def lines(self, name: str) -> list[str]:
        """Return every occurrence of a field, each as one line."""
        return [" ".join(str(value).split())[:TEXT_MAX] for value in self.fields.get_all(name, [])]


def inventory_of(tree: Tree) -> JsonObject:
    """Return `distributions` in the order of (normalised name, version, directory), `files`, `bytes` and `findings`."""
    findings: list[JsonObject] = []
    found = [_distribution(tree, directory, findings) for directory in directories_of(tree)]
    found.sort(key=lambda each: (each["normalized"], each["version"], each["directory"]))
    for before, after in pairwise(found):
        if before["normalized"] == after["normalized"]:
            findings.append(_duplicate(after["directory"], before["directory"]))
    return {
        "distributions": found,
        "files": len(tree.entries),
        "bytes": sum(entry.size for entry in tree.entries.values()),
        "findings": sorted(findings, key=weight),
    }


def directories_of(tree: Tree) -> list[str]:
    """Return the names of the metadata directories (for the oldest form, files) at the top, in order."""
    top = {path.partition("/")[0] for path in tree.entries}
    return sorted(name for name in top if name.endswith((".dist-info", ".egg-info")))


def metadata_of(tree: Tree, directory: str) -> Metadata:
    """Return the metadata of a distribution; empty, with the mistake named, when there is none."""
    for path in (f"{directory}/METADATA", f"{directory}/PKG-INFO", directory):
        data = tree.read(path)
        if data is not None:
            break
    else:
        return Metadata(Message(), "there is no metadata file")
    try:
        text, mistake = data.decode("utf-8"), None
    except UnicodeDecodeError as error:
        text, mistake = data.decode("utf-8", "backslashreplace"), f"not UTF-8 at byte {error.start}"
    fields = HeaderParser().parsestr(text)
    absent = [name for name in ("Name", "Version") if not fields.get(name)]
    return Metadata(fields, mistake or (f"there is no {' and no '.join(absent)}" if absent else None))


def normalized(name: str) -> str:
    """Return the form in which names of distributions are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _distribution(tree: Tree, directory: str, findings: list[JsonObject]) -> JsonObject:
    metadata = metadata_of(tree, directory)
    stem_name, _, stem_version = shown(directory).rpartition(".")[0].partition("-")
    name, version = (
        metadata.line("Name") or stem_name or shown(directory),
        metadata.line("Version") or stem_version,
    )
    mistake = metadata.mistake
    if mistake is None and directory.endswith(".dist-info") and normalized(name) != normalized(stem_name):
        mistake = f"the directory is named for {stem_name}, the metadata for {name}"
    if mistake:
        findings.append(finding("bad_metadata", directory, of=directory, detail=mistake))
    record = tree.read(f"{directory}/RECORD")
    if record is None:
        findings.append(finding("no_record", directory, of=directory))
    installer = tree.read(f"{directory}/INSTALLER")
    return {
        "name": name,
        "normalized": normalized(name),
        "version": version,
        "directory": shown(directory),
        "summary": metadata.line("Summary"),
        "requiresPython": metadata.line("Requires-Python"),
        "requires": sorted(metadata.lines("Requires-Dist")),
        "metadataSha256": _digest(tree, f"{directory}/METADATA"),
        "recordSha256": _digest(tree, f"{directory}/RECORD"),
        "recordEntries": 0 if record is None else len(parse_record(record).listed),
        "installer": None if installer is None else _line(installer),
        "requested": f"{directory}/REQUESTED" in tree.entries,
        "origin": _origin(tree, directory, findings),
    }


def _duplicate(directory: str, other: str) -> JsonObject:
    detail = f"also installed as {other}"
    return {"kind": "duplicate", "path": directory, "distribution": directory, "detail": detail}


def _digest(tree: Tree, path: str) -> str | None:
    entry = tree.entries.get(path)
    return tree.digest(path, "sha256") if entry is not None and entry.regular else None


def _line(data: bytes) -> str:
    return " ".join(data.decode("utf-8", "backslashreplace").split())[:TEXT_MAX]


def _origin(tree: Tree, directory: str, findings: list[JsonObject]) -> JsonObject | None:
    """Return where `direct_url.json` says the distribution came from; None means a package index."""
    path = f"{directory}/direct_url.json"
    data = tree.read(path)
    if data is None:
        return None
    try:
        stated = json.loads(data)
        return _stated_origin(stated)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        findings.append(
            finding("bad_metadata", path, of=directory, detail="not the JSON object it should be")
        )
        return {"kind": "unreadable"}


def _stated_origin(stated: Any) -> JsonObject:
    url = _public_url(stated["url"])
    if "vcs_info" in stated:
        vcs = stated["vcs_info"]
        return {"kind": "vcs", "vcs": clean(vcs["vcs"]), "commit": clean(vcs["commit_id"]), "url": url}
    if "archive_info" in stated:
        archive = stated["archive_info"]
        hashes = archive.get("hashes") or dict([archive["hash"].split("=", 1)] if archive.get("hash") else [])
        return {
            "kind": "archive",
            "url": url,
            "hashes": {clean(name): clean(value) for name, value in hashes.items()},
        }
    return {"kind": "local", "editable": bool(stated.get("dir_info", {}).get("editable", False))}


def _public_url(url: str) -> str | None:
    """Return a URL without credentials; None for one that names a path of this machine."""
    parts = urlsplit(url)
    if parts.scheme in {"", "file"} or parts.scheme.endswith("+file"):
        return None
    return clean(urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")))
