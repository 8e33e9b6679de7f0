"""The software bill of materials: CycloneDX 1.6 as JSON.

Owns: turning the inventory and the licences into a bill that is a function of them alone. It therefore has no time of
its own, and its serial number is derived from the environment's digest.
"""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.bom_ref import BomRef
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.dependency import Dependency
from cyclonedx.model.license import DisjunctiveLicense, License, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import InvalidRequirement, Requirement

from .findings import JsonObject
from .inventory import normalized

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://sovrun.invalid/examples/evidence")
ROOT_REF = "environment"
PROJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
SHA256 = re.compile(r"[0-9a-f]{64}")


def sbom_of(environment: str, inventory: JsonObject, licences: JsonObject) -> bytes:
    """Return the bill of the environment whose tree digest is `environment`, as UTF-8 JSON."""
    declared = {each["directory"]: each for each in licences["licences"]}
    components = {
        each["directory"]: _component(each, declared[each["directory"]])
        for each in inventory["distributions"]
    }
    root = Component(
        name="python-environment",
        type=ComponentType.PLATFORM,
        version=environment,
        bom_ref=ROOT_REF,
    )
    bom = Bom(
        serial_number=uuid.uuid5(NAMESPACE, environment),
        metadata=BomMetaData(component=root),
        components=components.values(),
        dependencies=_dependencies(root, components, inventory["distributions"]),
    )
    return _without_time(JsonV1Dot6(bom).output_as_string())


def _without_time(text: str) -> bytes:
    # The library always writes the time of writing; CycloneDX leaves it optional, and the run's history holds it.
    bill: dict[str, Any] = json.loads(text)
    del bill["metadata"]["timestamp"]
    return json.dumps(bill, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def _component(distribution: JsonObject, licence: JsonObject) -> Component:
    facts = {
        "installer": distribution["installer"],
        "record-sha256": distribution["recordSha256"],
        "metadata-sha256": distribution["metadataSha256"],
        "requires-python": distribution["requiresPython"],
    }
    origin = distribution["origin"] or {"kind": "index"}
    facts |= {
        f"origin-{name}": str(value)
        for name, value in origin.items()
        if name != "hashes" and value is not None
    }
    return Component(
        name=distribution["name"],
        version=distribution["version"],
        type=ComponentType.LIBRARY,
        # The directory, not the package URL: two distributions of one name and version may lie side by side.
        bom_ref=distribution["directory"],
        purl=_purl(distribution),
        description=distribution["summary"],
        licenses=_licences(distribution["directory"], licence),
        hashes=_hashes(origin),
        properties=[
            Property(name=f"sovrun:{name}", value=value) for name, value in sorted(facts.items()) if value
        ],
    )


def _purl(distribution: JsonObject) -> PackageURL | None:
    """Return the package URL; None for what no index would take as a name or version."""
    name, version = distribution["normalized"], distribution["version"]
    usable = PROJECT_NAME.fullmatch(name) and version
    return PackageURL("pypi", None, name, version) if usable else None


def _licences(directory: str, licence: JsonObject) -> list[License]:
    ref = f"{directory}#licence"
    if licence["source"] == "expression":
        return [LicenseExpression(licence["expression"], bom_ref=ref)]
    if licence["source"] == "classifiers":
        names = licence["classifiers"]
        return [DisjunctiveLicense(name=name, bom_ref=f"{ref}-{place}") for place, name in enumerate(names)]
    return [DisjunctiveLicense(name=licence["label"], bom_ref=ref)] if licence["source"] == "text" else []


def _hashes(origin: JsonObject) -> list[HashType]:
    """Return the hashes of the archive a distribution came from, where its origin states one."""
    stated = origin.get("hashes", {}).get("sha256", "")
    return [HashType(alg=HashAlgorithm.SHA_256, content=stated)] if SHA256.fullmatch(stated) else []


def _dependencies(
    root: Component, components: dict[str, Component], distributions: list[JsonObject]
) -> list[Dependency]:
    """Return the graph of requirements that hold here: markers evaluated, extras off, only what is installed."""
    by_name = {each["normalized"]: components[each["directory"]].bom_ref for each in distributions}
    graph = []
    required: set[BomRef] = set()
    for each in distributions:
        needs = {by_name[name] for line in each["requires"] if (name := _needed(line)) in by_name}
        required |= needs
        graph.append(Dependency(components[each["directory"]].bom_ref, [Dependency(ref) for ref in needs]))
    direct = [
        components[each["directory"]].bom_ref
        for each in distributions
        if each["requested"] or components[each["directory"]].bom_ref not in required
    ]
    return [Dependency(root.bom_ref, [Dependency(ref) for ref in direct]), *graph]


def _needed(line: str) -> str | None:
    """Return the normalised name a requirement asks for here, None when it does not apply or makes no sense."""
    try:
        requirement = Requirement(line)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    except (InvalidRequirement, ValueError):
        return None
    return normalized(requirement.name) if applies else None
