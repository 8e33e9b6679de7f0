"""What a document says of reproducible mode and of running twice reaches the steps, and is told in the record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.cli import sovrun, write_dag
from support.tasks import require_bubblewrap

DAG = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: addresses}
reproducible: REPRODUCIBLE
steps:
  - {id: order, python: "plug:order"}
  - {id: threads, python: "plug:threads"}
"""
VERIFIED = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: verified}
steps:
  - {id: constant, python: "plug:constant", verify: twice}
  - {id: chance, python: "plug:chance", verify: twice}
"""
PLUG = """
import os

class Thing:
    pass

def order():
    things = {Thing() for _ in range(500)}
    return [id(thing) for thing in things]

def threads():
    return os.environ.get("OMP_NUM_THREADS")

def constant():
    return 1

def chance():
    return os.urandom(8).hex()
"""


def run(tmp_path: Path, text: str, isolation: str) -> dict[str, Any]:
    file = write_dag(tmp_path / "dag", text, PLUG)
    store = f"sqlite:{tmp_path / 'runs.db'}"
    shown: dict[str, Any] = sovrun(
        "run", file, "--store", store, "--isolation", isolation, "--json", cwd=tmp_path
    ).json
    return shown


def steps(shown: dict[str, Any], member: str) -> dict[str, Any]:
    return {step["id"]: step[member] for step in shown["steps"]}


def test_runs_in_reproducible_mode_have_the_same_outputs_and_other_step_hashes(tmp_path: Path) -> None:
    require_bubblewrap()
    first, second = (run(tmp_path, DAG.replace("REPRODUCIBLE", "true"), "sandbox") for _ in range(2))
    usual = run(tmp_path, DAG.replace("REPRODUCIBLE", "false"), "sandbox")
    assert first["status"] == usual["status"] == "completed"
    assert steps(first, "outputHash") == steps(second, "outputHash")
    assert steps(first, "stepHash") == steps(second, "stepHash")
    for step, digest in steps(usual, "stepHash").items():
        assert digest != steps(first, "stepHash")[step], "the mode is part of what was done"
    assert steps(usual, "outputHash")["threads"] != steps(first, "outputHash")["threads"]


@pytest.mark.parametrize("isolation", ["sandbox", "in-process"])
def test_a_step_that_differs_when_it_is_run_twice_fails_with_both_digests(
    tmp_path: Path, isolation: str
) -> None:
    if isolation == "sandbox":
        require_bubblewrap()
    shown = run(tmp_path, VERIFIED, isolation)
    assert steps(shown, "state") == {"constant": "completed", "chance": "failed"}
    failed = next(step for step in shown["steps"] if step["id"] == "chance")
    assert (failed["failure"], failed["attempts"], failed["cause"]) == ("not_reproducible", 1, "work")
    digests = {word for word in failed["error"]["message"].split() if len(word) == 64}
    assert len(digests) == 2
