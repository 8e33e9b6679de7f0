"""The environment digest: interpreter, platform and installed distributions, as one name.

Owns: `environment_digest`. Two machines, or two directories of one, with the same wheels have the same digest.
"""

from __future__ import annotations

import csv
import json
import platform
import re
import sysconfig
from functools import cache
from importlib.metadata import Distribution, distributions
from typing import Final

from sovrun.core.canonical import canonical, digest_of, sha256_hex
from sovrun.core.ids import Digest

_OF_THE_INSTALLER: Final = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "uv_cache.json")
"""Files of a distribution that say how and from where it was installed, not what it is."""


@cache
def environment_digest() -> Digest:
    """Return the digest of what this process can import; computed once per process."""
    return digest_of(
        "sovrun.environment",
        1,
        {
            "python": platform.python_version(),
            "implementation": platform.python_implementation(),
            "platform": sysconfig.get_platform(),
            "distributions": installed(),
        },
    )


def installed() -> list[list[str]]:
    """Return name, version and content hash of every installed distribution, sorted."""
    found = {(_name(one), one.version or "", _content(one)) for one in distributions()}
    return [list(entry) for entry in sorted(found)]


def _name(distribution: Distribution) -> str:
    return re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "unknown").lower()


def _content(distribution: Distribution) -> Digest:
    """Return the hash of a distribution's files as its RECORD lists them, or of their names when there is no RECORD."""
    record = distribution.read_text("RECORD")
    if record is None:
        return sha256_hex(canonical(sorted(str(path) for path in distribution.files or ())))
    editable = _is_editable(distribution)
    rows = [row for row in csv.reader(record.splitlines()) if row and _is_content(row[0], editable=editable)]
    return sha256_hex(canonical(sorted(rows)))


def _is_content(path: str, *, editable: bool) -> bool:
    # Scripts hold the path of the interpreter, caches are made later, the installer's notes name a place on a disk.
    if path.startswith(("../", "/")) or path.endswith((".pyc", ".pyo")):
        return False
    folder, _, name = path.rpartition("/")
    if folder.endswith(".dist-info") and name in _OF_THE_INSTALLER:
        return False
    return not (editable and not folder and name.endswith((".pth", ".py")))


def _is_editable(distribution: Distribution) -> bool:
    try:
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        return bool(origin.get("dir_info", {}).get("editable", False))
    except (ValueError, AttributeError):
        return False
