"""The environment digest names what can be imported, not where it lies or how it got there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sovrun.sandbox.environment import environment_digest, installed
from sovrun.sandbox.probe import probe
from sovrun.sandbox.settings import SandboxSettings

RECORD = "pkg/__init__.py,sha256=AAAA,1\n../../../bin/tool,sha256=BBBB,2\npkg/__pycache__/x.pyc,,\n"


def install(
    site: Path,
    name: str,
    record: str | None,
    *,
    extra: str = "",
    origin: str | None = None,
    version: str = "1.0",
) -> None:
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if record is not None:
        (info / "RECORD").write_text(record + extra)
    if origin is not None:
        (info / "direct_url.json").write_text(origin)


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is found when only the given folder is on the path."""

    def look(folder: str) -> list[list[str]]:
        monkeypatch.setattr(sys, "path", [str(tmp_path / folder)])
        return installed()

    return look


def test_scripts_caches_and_installers_notes_do_not_change_it(tmp_path: Path, seen) -> None:
    install(tmp_path / "one", "Some.Pkg", RECORD)
    notes = "Some.Pkg-1.0.dist-info/INSTALLER,sha256=CCCC,3\n"
    install(tmp_path / "two", "Some.Pkg", RECORD.replace("BBBB", "DDDD"), extra=notes)
    assert seen("one") == seen("two")
    assert seen("one")[0][:2] == ["some-pkg", "1.0"]


def test_another_file_content_changes_it(tmp_path: Path, seen) -> None:
    install(tmp_path / "one", "pkg", RECORD)
    install(tmp_path / "two", "pkg", RECORD.replace("AAAA", "EEEE"))
    assert seen("one") != seen("two")


def test_an_editable_installation_does_not_name_its_directory(tmp_path: Path, seen) -> None:
    origin = '{"url": "file:///somewhere", "dir_info": {"editable": true}}'
    for folder, line in (("one", "_pkg.pth,sha256=AAAA,9\n"), ("two", "_pkg.pth,sha256=BBBB,8\n")):
        install(tmp_path / folder, "pkg", line, origin=origin)
    assert seen("one") == seen("two")


def test_a_distribution_without_a_record_still_counts(tmp_path: Path, seen) -> None:
    install(tmp_path / "one", "pkg", None)
    assert [entry[:2] for entry in seen("one")] == [["pkg", "1.0"]]


def test_it_is_computed_once_per_process() -> None:
    assert environment_digest() is environment_digest()


def test_the_probe_says_for_each_fact_what_was_found_and_what_to_do(tmp_path: Path) -> None:
    report = probe(SandboxSettings(bwrap=tmp_path / "absent"))
    assert not report.ok
    refusal = report.first_refusal()
    assert refusal is not None
    assert (refusal.name, bool(refusal.fix)) == ("bubblewrap", True)
    assert all(item.detail for item in report.items)
    assert all(item.ok or item.fix for item in report.items)


@pytest.mark.parametrize(("mode", "said"), [(0o4755, "setuid"), (0o777, "changed by others")])
def test_a_bubblewrap_with_the_wrong_permissions_is_refused(tmp_path: Path, mode: int, said: str) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho bubblewrap 0.8.0\n")
    fake.chmod(mode)
    refusal = probe(SandboxSettings(bwrap=fake)).first_refusal()
    assert refusal is not None
    assert said in refusal.detail


def test_a_bubblewrap_that_is_too_old_is_refused(tmp_path: Path) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho bubblewrap 0.7.0\n")
    fake.chmod(0o755)
    refusal = probe(SandboxSettings(bwrap=fake)).first_refusal()
    assert refusal is not None
    assert "0.7.0" in refusal.detail
    assert "0.8" in refusal.fix
