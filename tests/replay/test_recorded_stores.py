"""A store that an earlier release made is opened, brought up to date, read and gone on with by today's program."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from support.cli import sovrun

STORES = sorted((Path(__file__).parents[1] / "data" / "stores").glob("*.db.gz"))
recorded = pytest.mark.parametrize("kept", STORES, ids=lambda path: path.name.partition(".")[0])


def unpacked(kept: Path, folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the address of a copy of a recorded store, and what was recorded of it."""
    path = folder / "runs.db"
    path.write_bytes(gzip.decompress(kept.read_bytes()))
    told: dict[str, Any] = json.loads(kept.with_name(kept.name.replace(".db.gz", ".json")).read_text())
    return f"sqlite:{path}", told


def told_now(store: str, folder: Path, *arguments: str) -> list[dict[str, Any]]:
    done = sovrun(*arguments, "--store", store, "--json", cwd=folder)
    assert done.code == 0, done.err
    return done.lines() if arguments[0] == "events" else [done.json]


def test_every_schema_has_its_store() -> None:
    assert {f"schema-000{number}.db.gz" for number in (1, 2, 3)} <= {path.name for path in STORES}


@recorded
def test_an_old_store_goes_on_where_it_was_killed_and_keeps_what_was_finished(
    kept: Path, tmp_path: Path
) -> None:
    store, told = unpacked(kept, tmp_path)
    resumed = sovrun("resume", "--store", store, "--isolation", "in-process", "--json", cwd=tmp_path)
    assert resumed.code == 0, resumed.out + resumed.err
    assert resumed.json["ended"] == [{"runId": told["killed"], "status": "completed"}]
    [killed] = told_now(store, tmp_path, "show", told["killed"])
    assert killed["outcomeHash"] == told["outcomeOfKilled"]
    assert {step["id"]: step["attempts"] for step in killed["steps"]} == {"before": 1, "pause": 2, "after": 1}
    for was in told["finished"]:
        run = was["shown"]["runId"]
        assert told_now(store, tmp_path, "events", run) == was["events"]
        [now] = told_now(store, tmp_path, "show", run)
        assert {name: now[name] for name in was["shown"] if name != "steps"} == {
            name: value for name, value in was["shown"].items() if name != "steps"
        }
        for step_then, step_now in zip(was["shown"]["steps"], now["steps"], strict=True):
            assert {name: step_now[name] for name in step_then} == step_then
