"""The evidence example as a user runs it: a real DAG, in the sandbox, from the command line."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.cli import sovrun
from support.environments import Environment

DAG = Path(__file__).parents[2] / "examples" / "evidence" / "dag.yaml"
SAVED = ("report.html", "report.json", "sbom.cdx.json")


def run(environment: Environment, place: Path, *options: str) -> dict[str, Any]:
    """Run the example in a store of its own below `place`; its files go to `place/saved`."""
    place.mkdir()
    done = sovrun(
        *("run", DAG, "--input-file", f"environment={environment.root}", "--store", "sqlite:s.db"),
        *("--save", "saved", "--json", *options),
        cwd=place,
    )
    assert done.code == 0, done.err
    return done.json


def verdict(place: Path) -> str:
    """Return the line that ends `make run`."""
    script = DAG.with_name("verdict.py")
    report = place / "saved" / "report" / "report.json"
    return subprocess.run(
        [sys.executable, script, report], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_same_environment_has_one_outcome_in_the_sandbox_and_in_process(
    environment: Environment, tmp_path: Path
) -> None:
    environment.distribution("good", fields="License-Expression: MIT")
    sandboxed = run(environment, tmp_path / "one", "--workers", "2")
    inside = run(environment, tmp_path / "two", "--workers", "1", "--isolation", "in-process")
    assert sandboxed["reproducible"]
    assert sandboxed["outcomeHash"] == inside["outcomeHash"]
    for name in SAVED:
        one, two = ((tmp_path / place / "saved" / "report" / name).read_bytes() for place in ("one", "two"))
        assert one == two


def test_a_tampered_file_completes_the_run_and_heads_the_report(
    environment: Environment, tmp_path: Path
) -> None:
    environment.distribution("good")
    before = run(environment, tmp_path / "before")
    assert verdict(tmp_path / "before") == "no problems found"
    environment.write("good/module_0.py", b"tampered")
    environment.write("good/more.py", b"")
    after = run(environment, tmp_path / "after")
    assert after["status"] == "completed"
    assert after["outcomeHash"] != before["outcomeHash"]
    saved = tmp_path / "after" / "saved" / "report"
    report = json.loads((saved / "report.json").read_bytes())
    assert [(each["kind"], each["path"]) for each in report["findings"]] == [
        ("changed", "good/module_0.py"),
        ("unlisted", "good/more.py"),
    ]
    assert verdict(tmp_path / "after") == "2 problems in 1 distribution: 1 changed, 1 unlisted"
    page = (saved / "report.html").read_text(encoding="utf-8")
    assert "2 findings, in 1 distribution." in page
    for name in ("report.json", "sbom.cdx.json"):
        assert hashlib.sha256((saved / name).read_bytes()).hexdigest() in page


def test_a_replay_of_the_run_reproduces_every_step(environment: Environment, tmp_path: Path) -> None:
    environment.distribution("good")
    ran = run(environment, tmp_path / "place", "--isolation", "in-process")
    replayed = sovrun("replay", ran["runId"], "--store", "sqlite:s.db", "--json", cwd=tmp_path / "place")
    assert replayed.code == 0
    assert replayed.json["verdict"] == "reproduced"
