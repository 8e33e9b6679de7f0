"""The server, its workers and the steps under it are killed at random moments: everything completes, as if nothing had been."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.cli import environment

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "kill.py"


@pytest.mark.parametrize(("isolation", "seed"), [("sandbox", 11)])
def test_whatever_is_killed_every_run_completes_with_the_outcome_of_an_undisturbed_one(
    tmp_path: Path, isolation: str, seed: int
) -> None:
    options = ["--kills", "8", "--runs", "4", "--steps", "6", "--interval", "0.4", "--pause", "0.1"]
    command = [sys.executable, str(BENCHMARK), *options, "--isolation", isolation, "--seed", str(seed)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, timeout=120, check=False
    )
    assert done.stdout, done.stderr.decode()
    figures = json.loads(done.stdout)
    assert figures["violations"] == []
    assert (figures["killed"], figures["states"]) == (8, {"completed": 4})
    assert figures["reproducible"] == 4
    assert set(figures["kills"]) == {"server", "worker", "step"}, (
        "each kind was killed, else this shows little"
    )
    assert figures["exitCode"] == 0
