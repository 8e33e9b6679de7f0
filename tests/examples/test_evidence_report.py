"""What the example says about an environment: inventory, licences, bill of materials, report and page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import cyclonedx.schema._res
import jsonschema_rs
import pytest
from evidence.inventory import inventory_of
from evidence.licences import licences_of
from evidence.page import SHOWN_MAX, page_of
from evidence.report import json_bytes, report_of
from evidence.sbom import sbom_of
from evidence.tree import tree_of
from evidence.verify import verify_shard

from support.environments import Environment

TREE = "5d" * 32
DIGESTS = {"report.json": "1a" * 32, "sbom.cdx.json": "2b" * 32}


def inventory(environment: Environment) -> dict[str, Any]:
    return inventory_of(tree_of(environment.root))


def licences(environment: Environment) -> dict[str, Any]:
    return licences_of(tree_of(environment.root), inventory(environment))


def licence_of(environment: Environment) -> dict[str, Any]:
    (found,) = licences(environment)["licences"]
    return found


def sbom(environment: Environment) -> bytes:
    return sbom_of(TREE, inventory(environment), licences(environment))


def report(environment: Environment, shards: int = 2) -> dict[str, Any]:
    tree = tree_of(environment.root)
    parts = [verify_shard(tree, shard=shard, shards=shards) for shard in range(shards)]
    return report_of(TREE, inventory(environment), parts, licences(environment))


def page(environment: Environment) -> str:
    return page_of(report(environment), DIGESTS)


class Elements(HTMLParser):
    """What a browser would see: the tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


# --- inventory ------------------------------------------------------------------------------------------------------


def test_distributions_come_in_the_order_of_their_normalised_names(environment: Environment) -> None:
    for name in ("Zeta", "alpha", "beta_two", "Beta.One"):
        environment.distribution(name)
    names = [each["normalized"] for each in inventory(environment)["distributions"]]
    assert names == ["alpha", "beta-one", "beta-two", "zeta"]


def test_a_distribution_is_described_by_its_own_files(environment: Environment) -> None:
    directory = environment.distribution(
        "good", "2.1", fields="Summary: Folded\n  text\nRequires-Python: >=3.11\nRequires-Dist: other>1"
    )
    environment.write(f"{directory}/REQUESTED", b"")
    (found,) = inventory(environment)["distributions"]
    tree = tree_of(environment.root)
    assert found == {
        "name": "good",
        "normalized": "good",
        "version": "2.1",
        "directory": "good-2.1.dist-info",
        "summary": "Folded text",
        "requiresPython": ">=3.11",
        "requires": ["other>1"],
        "metadataSha256": tree.digest(f"{directory}/METADATA", "sha256"),
        "recordSha256": tree.digest(f"{directory}/RECORD", "sha256"),
        "recordEntries": 5,
        "installer": "pip",
        "requested": True,
        "origin": None,
    }


def test_metadata_that_is_not_utf8_is_found_and_still_read(environment: Environment) -> None:
    environment.write("odd-1.0.dist-info/METADATA", b"Name: odd\nVersion: 1.0\nSummary: caf\xe9\n")
    environment.write("odd-1.0.dist-info/RECORD", b"")
    found = inventory(environment)
    assert found["distributions"][0]["summary"] == "caf\\xe9"
    assert [(each["kind"], each["detail"]) for each in found["findings"]] == [
        ("bad_metadata", "not UTF-8 at byte 35")
    ]


def test_a_distribution_without_metadata_or_record_is_listed_by_its_directory(
    environment: Environment,
) -> None:
    environment.write("ghost-3.0.dist-info/INSTALLER", b"pip\n")
    environment.write("old-1.0.egg-info", b"Name: old\nVersion: 1.0\n")
    found = inventory(environment)
    assert [(each["name"], each["version"]) for each in found["distributions"]] == [
        ("ghost", "3.0"),
        ("old", "1.0"),
    ]
    assert [(each["kind"], each["path"], each["detail"]) for each in found["findings"]] == [
        ("no_record", "ghost-3.0.dist-info", ""),
        ("no_record", "old-1.0.egg-info", ""),
        ("bad_metadata", "ghost-3.0.dist-info", "there is no metadata file"),
    ]


def test_metadata_that_names_another_distribution_is_found(environment: Environment) -> None:
    environment.write("good-1.0.dist-info/METADATA", b"Name: evil\nVersion: 1.0\n")
    environment.write("good-1.0.dist-info/RECORD", b"")
    (found,) = inventory(environment)["findings"]
    assert found["detail"] == "the directory is named for good, the metadata for evil"


def test_two_versions_of_one_distribution_are_found(environment: Environment) -> None:
    environment.distribution("Twice", "1.0")
    environment.distribution("twice", "2.0")
    (found,) = inventory(environment)["findings"]
    assert (found["kind"], found["path"]) == ("duplicate", "twice-2.0.dist-info")
    assert found["detail"] == "also installed as Twice-1.0.dist-info"


@pytest.mark.parametrize(
    ("stated", "origin"),
    [
        (
            {
                "url": "https://user:secret@host.example/a.whl?token=1",
                "archive_info": {"hashes": {"sha256": "ab"}},
            },
            {"kind": "archive", "url": "https://host.example/a.whl", "hashes": {"sha256": "ab"}},
        ),
        (
            {"url": "file:///srv/private/a.whl", "archive_info": {"hash": "sha256=ab"}},
            {"kind": "archive", "url": None, "hashes": {"sha256": "ab"}},
        ),
        (
            {"url": "git+file:///srv/private", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}},
            {"kind": "vcs", "vcs": "git", "commit": "c0ffee", "url": None},
        ),
        ({"url": "file:///srv/private", "dir_info": {"editable": True}}, {"kind": "local", "editable": True}),
    ],
)
def test_an_origin_shows_neither_credentials_nor_paths_of_the_machine(
    environment: Environment, stated: dict[str, Any], origin: dict[str, Any]
) -> None:
    directory = environment.distribution("good")
    environment.listed(directory, f"{directory}/direct_url.json", json.dumps(stated).encode())
    assert inventory(environment)["distributions"][0]["origin"] == origin
    written = json_bytes(report(environment)) + sbom(environment) + page(environment).encode()
    assert b"secret@" not in written
    assert b"token" not in written
    assert b"/srv/private" not in written


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"url": 1}', b"\xff", b'{"url":"x","vcs_info":[]}', b"[" * 9999]
)
def test_an_origin_that_makes_no_sense_is_found(environment: Environment, data: bytes) -> None:
    directory = environment.distribution("good")
    environment.listed(directory, f"{directory}/direct_url.json", data)
    found = inventory(environment)
    assert found["distributions"][0]["origin"] == {"kind": "unreadable"}
    assert [each["kind"] for each in found["findings"]] == ["bad_metadata"]


def test_lone_surrogates_of_a_hostile_origin_do_not_reach_the_output(environment: Environment) -> None:
    directory = environment.distribution("good")
    stated = b'{"url":"https://x/\\ud800","vcs_info":{"vcs":"git","commit_id":"\\udfff"}}'
    environment.listed(directory, f"{directory}/direct_url.json", stated)
    assert b"\\\\ud800" in json_bytes(report(environment))


# --- licences -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "source", "label"),
    [
        ("License-Expression: mit or apache-2.0", "expression", "MIT OR Apache-2.0"),
        ("License: MIT\nClassifier: License :: OSI Approved :: BSD License", "expression", "MIT"),
        (
            "License: see file\nClassifier: License :: OSI Approved :: BSD License",
            "classifiers",
            "BSD License",
        ),
        (
            "Classifier: License :: OSI Approved :: B\nClassifier: License :: OSI Approved :: A",
            "classifiers",
            "A / B",
        ),
        ("License: Own terms,\n        second line", "text", "Own terms,"),
        ("License-Expression: not a valid one", "text", "not a valid one"),
        ("License: UNKNOWN", "unknown", "unknown"),
        ("Classifier: License :: OSI Approved", "unknown", "unknown"),
        ("", "unknown", "unknown"),
    ],
)
def test_a_licence_is_taken_from_the_most_precise_declaration(
    environment: Environment, fields: str, source: str, label: str
) -> None:
    environment.distribution("good", fields=fields)
    found = licence_of(environment)
    assert (found["source"], found["label"]) == (source, label)
    assert licences(environment)["unknown"] == (["good-1.0.dist-info"] if source == "unknown" else [])


def test_licence_texts_are_listed_with_their_hashes(environment: Environment) -> None:
    directory = environment.distribution("good")
    environment.listed(directory, f"{directory}/licenses/vendored/terms.txt", b"terms")
    environment.listed(directory, f"{directory}/LICENSE.md", b"licence")
    environment.listed(directory, f"{directory}/entry_points.txt", b"no licence")
    tree = tree_of(environment.root)
    paths = [f"{directory}/LICENSE.md", f"{directory}/licenses/vendored/terms.txt"]
    assert licence_of(environment)["files"] == [
        {"path": each, "sha256": tree.digest(each, "sha256")} for each in paths
    ]


# --- bill of materials ----------------------------------------------------------------------------------------------


def schema_of(name: str) -> Any:
    return json.loads(
        files(cyclonedx.schema._res).joinpath(f"{name}.SNAPSHOT.schema.json").read_text("utf-8")
    )


def test_the_bill_is_valid_cyclonedx(environment: Environment) -> None:
    environment.distribution("a", fields="License-Expression: MIT\nRequires-Dist: B")
    environment.distribution("b", fields="License: own terms")
    environment.distribution("c", fields="Classifier: License :: X\nClassifier: License :: Y")
    environment.distribution("-<odd>", " ")
    environment.write("slash-1.0.dist-info/METADATA", b"Name: /\nVersion: 1.0\n")
    registry = jsonschema_rs.Registry(
        [
            (f"http://cyclonedx.org/schema/{name}.SNAPSHOT.schema.json", schema_of(name))
            for name in ("spdx", "jsf-0.82")
        ]
    )
    validator = jsonschema_rs.validator_for(schema_of("bom-1.6"), registry=registry)
    bill = json.loads(sbom(environment))
    assert [error.message for error in validator.iter_errors(bill)] == []
    assert not validator.is_valid(bill | {"components": [{"type": "library"}]})
    assert {each["name"] for each in bill["components"]} == {"a", "b", "c", "-<odd>", "/"}


def test_the_bill_has_the_requirements_that_hold_here(environment: Environment) -> None:
    needs = ["b>=1", 'c; python_version < "3"', 'd; extra == "more"', "not installed", "!!", "E_e"]
    environment.distribution("a", fields="\n".join(f"Requires-Dist: {each}" for each in needs))
    for name in ("b", "c", "d", "e.e"):
        environment.distribution(name)
    graph = {each["ref"]: each.get("dependsOn", []) for each in json.loads(sbom(environment))["dependencies"]}
    assert graph["a-1.0.dist-info"] == ["b-1.0.dist-info", "e.e-1.0.dist-info"]
    assert graph["environment"] == ["a-1.0.dist-info", "c-1.0.dist-info", "d-1.0.dist-info"]


def test_a_component_says_where_its_archive_came_from_by_hash(environment: Environment) -> None:
    directory = environment.distribution("good")
    stated = {"url": "https://x/a.whl", "archive_info": {"hashes": {"sha256": "ab" * 32}}}
    environment.listed(directory, f"{directory}/direct_url.json", json.dumps(stated).encode())
    (component,) = json.loads(sbom(environment))["components"]
    assert component["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert component["purl"] == "pkg:pypi/good@1.0"


# --- report and page ------------------------------------------------------------------------------------------------


def broken(environment: Environment) -> None:
    """Install one intact distribution and one with a finding of most kinds."""
    environment.distribution("good", fields="License-Expression: MIT")
    directory = environment.distribution("bad")
    environment.line(directory, "../../bin/bad,,")
    environment.line(directory, "bad/weak.py,md5=x,1")
    environment.write("bad/module_0.py", b"tampered")
    (environment.root / "bad" / "module_1.py").unlink()
    environment.write("bad/extra.py", b"")
    environment.write("loose.py", b"")


def test_the_report_counts_every_finding_and_puts_the_gravest_first(environment: Environment) -> None:
    broken(environment)
    found = report(environment)
    kinds = [each["kind"] for each in found["findings"]]
    assert kinds == ["changed", "missing", "unlisted", "unlisted", "bad_record"]
    summary = found["summary"]
    assert summary["problems"] == 5
    assert summary["checked"] == {"ok": 6, "changed": 1, "missing": 1, "unlisted": 2} | {
        "unhashed": 0,
        "not_regular": 0,
        "outside": 1,
    }
    assert summary["licencesUnknown"] == 1
    assert {each["name"]: each["problems"] for each in found["distributions"]} == {"bad": 4, "good": 0}
    assert found["outside"] == [{"distribution": "bad-1.0.dist-info", "path": "../../bin/bad"}]


def test_the_same_environment_gives_the_same_bytes_wherever_it_lies(
    environment: Environment, tmp_path: Any
) -> None:
    copy = Environment(tmp_path / "elsewhere" / "lib")
    copy.root.mkdir(parents=True)
    for each in (environment, copy):
        broken(each)
    assert sbom(environment) == sbom(copy)
    assert json_bytes(report(environment, shards=1)) == json_bytes(report(copy, shards=5))
    assert page(environment) == page(copy)


def test_the_page_shows_findings_before_anything_else(environment: Environment) -> None:
    broken(environment)
    text = Elements(page(environment)).text
    assert "5 findings, in 1 distribution and in files of no distribution." in text
    assert text.index("Findings") < text.index("bad/module_0.py") < text.index("SHA-256 of RECORD")
    assert "bad/module_1.py" in text
    assert "No licence declared: bad 1.0" in text


def test_the_page_of_an_intact_environment_says_so(environment: Environment) -> None:
    environment.distribution("good")
    text = Elements(page(environment)).text
    assert "No findings." in text
    assert "4 files compared" in text


def test_the_page_escapes_whatever_an_environment_holds(environment: Environment) -> None:
    hostile = "<script>alert(1)</script>\"'&amp;"
    directory = environment.distribution("bad", fields=f"License: {hostile}\nSummary: {hostile}")
    metadata = f"Name: {hostile}\nVersion: {hostile}\nLicense: {hostile}\n"
    environment.listed(directory, f"{directory}/METADATA", metadata.encode())
    environment.write(f"{directory}/INSTALLER", hostile.encode())
    stated = {"url": f"https://x/{hostile}", "vcs_info": {"vcs": hostile, "commit_id": hostile}}
    environment.write(f"{directory}/direct_url.json", json.dumps(stated).encode())
    environment.write("bad/<script>.py", b"")
    environment.write("bad/' onload='x'.py", b"")
    environment.line(directory, "../<img src=x>,,")
    elements = Elements(page(environment))
    assert {tag for tag, _ in elements.tags}.isdisjoint(
        {"script", "img", "iframe", "object", "a", "link", "form"}
    )
    allowed = {"class", "title", "charset", "content", "http-equiv", "name", "lang"}
    assert {name for _, attributes in elements.tags for name in attributes} <= allowed
    assert elements.text.count("<script>alert(1)</script>") >= 3
    assert "bad/<script>.py" in elements.text


def test_the_page_writes_out_characters_that_hide_or_reorder_text(environment: Environment) -> None:
    environment.distribution("bad")
    environment.write("bad/\u202eyp.exe", b"")
    environment.write("bad/new\nline.py", b"")
    written = page(environment)
    assert "\u202e" not in written
    assert "bad/\\u{202e}yp.exe" in written
    assert "bad/new\\u{a}line.py" in written


def test_the_page_needs_nothing_from_elsewhere(environment: Environment) -> None:
    broken(environment)
    written = page(environment)
    policies = [each for tag, each in Elements(written).tags if tag == "meta" and each.get("http-equiv")]
    assert [each["content"] for each in policies] == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert "url(" not in written
    assert "://" not in written


def test_the_page_stays_readable_with_very_many_findings(environment: Environment) -> None:
    environment.distribution("bad")
    for number in range(SHOWN_MAX + 3):
        environment.write(f"bad/extra_{number:04}.py", b"")
    text = Elements(page(environment)).text
    assert "3 more are listed in report.json." in text
    assert f"extra_{SHOWN_MAX - 1:04}" in text
    assert f"extra_{SHOWN_MAX:04}" not in text


def test_the_page_names_the_files_beside_it_by_digest(environment: Environment) -> None:
    environment.distribution("good")
    text = Elements(page(environment)).text
    assert all(digest in text for digest in DIGESTS.values())
