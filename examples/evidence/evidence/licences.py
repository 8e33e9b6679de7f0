"""The licences that installed distributions declare, and the licence texts they carry.

Owns: reading declarations in their order of precision: an SPDX expression, trove classifiers, a line of free text.
Nothing is guessed from licence texts: a distribution that declares nothing is listed as unknown.
"""

from __future__ import annotations

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from .findings import JsonObject
from .inventory import Metadata, directories_of, metadata_of
from .tree import Tree, shown

UNKNOWN = "unknown"
TEXT_NAMES = ("LICENSE", "LICENCE", "COPYING", "NOTICE", "AUTHORS", "COPYRIGHT")
LABEL_MAX = 80


def licences_of(tree: Tree, inventory: JsonObject) -> JsonObject:
    """Return the licence of each distribution in the inventory's order, and which declare none.

    Each has `directory`, `label`, `source` (`expression`, `classifiers`, `text` or `unknown`), `expression` (the SPDX
    form, null when there is none), `classifiers`, and `files` with the hash of each licence text.
    """
    texts = _texts(tree)
    names = {shown(directory): directory for directory in directories_of(tree)}
    found = []
    for distribution in inventory["distributions"]:
        directory = names[distribution["directory"]]
        files = [
            {"path": shown(path), "sha256": tree.digest(path, "sha256")} for path in texts.get(directory, [])
        ]
        found.append(
            {"directory": shown(directory)} | _declared(metadata_of(tree, directory)) | {"files": files}
        )
    unknown = [each["directory"] for each in found if each["source"] == UNKNOWN]
    return {"licences": found, "unknown": unknown}


def _declared(metadata: Metadata) -> JsonObject:
    classifiers = sorted(
        {parts[-1] for line in metadata.lines("Classifier") if (parts := line.split(" :: "))[0] == "License"}
        - {"License", "OSI Approved"}
    )
    stated = metadata.line("License-Expression")
    text = _first_line(metadata)
    expression = _spdx(stated) or _spdx(text)
    if expression:
        source, label = "expression", expression
    elif classifiers:
        source, label = "classifiers", " / ".join(classifiers)
    elif stated or text:
        source, label = "text", (stated or text or "")[:LABEL_MAX]
    else:
        source, label = UNKNOWN, UNKNOWN
    return {"label": label, "source": source, "expression": expression, "classifiers": classifiers}


def _first_line(metadata: Metadata) -> str | None:
    lines = [line.strip() for line in str(metadata.fields.get("License", "")).splitlines()]
    first = next((line for line in lines if line), "")
    return None if first in {"", "UNKNOWN"} else first


def _spdx(text: str | None) -> str | None:
    """Return the canonical SPDX expression that `text` is, None when it is something else."""
    try:
        return None if text is None else canonicalize_license_expression(text)
    except InvalidLicenseExpression:
        return None


def _texts(tree: Tree) -> dict[str, list[str]]:
    """Return the paths of the licence texts within each metadata directory."""
    found: dict[str, list[str]] = {}
    for path, entry in tree.entries.items():
        directory, _, rest = path.partition("/")
        if not entry.regular or not directory.endswith((".dist-info", ".egg-info")):
            continue
        named = "/" not in rest and rest.upper().startswith(TEXT_NAMES)
        if named or rest.startswith(("licenses/", "license_files/")):
            found.setdefault(directory, []).append(path)
    return found
