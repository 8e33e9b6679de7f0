"""A reader of a run sees where its steps ran behind less than the strongest walls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sovrun.cli.walls import weaker_walls
from support.cli import environment, sovrun, write_dag
from support.tasks import require_bubblewrap

DOCTOR = "`sovrun doctor` says what is missing"


def shown(*walls: dict[str, Any] | None) -> dict[str, Any]:
    return {"steps": [{"walls": wall} for wall in walls]}


@pytest.mark.parametrize(
    ("walls", "lines"),
    [
        ([{"memory": "hard"}, None], []),
        ([{"memory": "best-effort"}, None], [f"memory: best-effort for 1 step; {DOCTOR}"]),
        ([{"memory": "best-effort"}] * 2, [f"memory: best-effort for 2 steps; {DOCTOR}"]),
        ([{"memory": "hard", "warm": True}], ["warm: 1 step cloned from a template of the tenant"]),
    ],
)
def test_weaker_walls_are_named(walls: list[dict[str, Any] | None], lines: list[str]) -> None:
    assert weaker_walls(shown(*walls)) == lines


def test_run_and_show_tell_what_every_step_ran_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_bubblewrap()
    store = f"sqlite:{tmp_path / 's.db'}"
    monkeypatch.setattr("support.cli.environment", _with_warm_mode)
    done = sovrun("run", write_dag(tmp_path), "--store", store, "--json", cwd=tmp_path)
    walls = [step["walls"] for step in done.json["steps"]]
    assert [wall["warm"] for wall in walls] == [True] * 4
    found = sovrun("show", done.json["runId"], "--store", store, cwd=tmp_path)
    assert "warm: 4 steps cloned from a template of the tenant" in found.out
    again = sovrun("show", done.json["runId"], "--store", store, "--json", cwd=tmp_path)
    assert [step["walls"] for step in again.json["steps"]] == walls


def _with_warm_mode(**extra: str) -> dict[str, str]:
    return {**environment(**extra), "SOVRUN_WARM": "1"}
