"""The steps of the DAG: each takes the environment or what earlier steps returned, by keyword, and returns JSON.

Owns: the seam to Sovrun. Everything else in this package works on paths and values and can be called without it.
"""

from __future__ import annotations

import hashlib

from sovrun.step import keep_file, path_of, work_dir

from .findings import JsonObject
from .inventory import inventory_of
from .licences import licences_of
from .page import page_of
from .report import json_bytes, report_of
from .tree import tree_of
from .verify import verify_shard


def inventory(*, environment: JsonObject) -> JsonObject:
    """Return every installed distribution as its metadata describes it."""
    return inventory_of(tree_of(path_of(environment)))


def verify(*, environment: JsonObject, shard: int, shards: int) -> JsonObject:
    """Check the files of every `shards`-th distribution, from `shard`, against their RECORD."""
    return verify_shard(tree_of(path_of(environment)), shard=shard, shards=shards)


def licences(*, environment: JsonObject, inventory: JsonObject) -> JsonObject:
    """Return the licences that the distributions declare."""
    return licences_of(tree_of(path_of(environment)), inventory)


def sbom(*, environment: JsonObject, inventory: JsonObject, licences: JsonObject) -> JsonObject:
    """Return the bill of materials as the file `sbom`."""
    from .sbom import sbom_of  # noqa: PLC0415 -- only this step pays for loading the library

    return {"sbom": _kept("sbom.cdx.json", sbom_of(environment["$tree"], inventory, licences))}


def report(
    *,
    environment: JsonObject,
    inventory: JsonObject,
    shards: list[JsonObject],
    licences: JsonObject,
    sbom: JsonObject,
) -> JsonObject:
    """Return the report as data and as a page, with the bill beside them, and the counts."""
    found = report_of(environment["$tree"], inventory, shards, licences)
    data = json_bytes(found)
    digests = {"report.json": hashlib.sha256(data).hexdigest(), "sbom.cdx.json": sbom["$file"]}
    return {
        "report.html": _kept("report.html", page_of(found, digests).encode()),
        "report.json": _kept("report.json", data),
        "sbom.cdx.json": sbom,
        "summary": found["summary"],
    }


def _kept(name: str, data: bytes) -> JsonObject:
    path = work_dir() / name
    path.write_bytes(data)
    return keep_file(path)
