"""Nothing is executed otherwise isolated than its run says: beside a server, on the file, and when either changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.cli import Done, sovrun, write_dag
from support.up import Up, up

PLUG = """
from pathlib import Path


def mark(where: str) -> int:
    (Path(where) / "began").touch()
    return 1


def one() -> int:
    return 1
"""
MARKS = """apiVersion: sovrun/v1
kind: Dag
metadata: {id: marks}
inputs: {type: object, properties: {where: {type: string}}, required: [where]}
steps:
  - {id: a, python: plug:mark, with: {where: {from: inputs.where}}, retry: {maxAttempts: 3, maxFailures: 3, base: 1ms, cap: 1ms}}
"""
ASKS = """apiVersion: sovrun/v1
kind: Dag
metadata: {id: asks}
steps:
  - {id: go, confirm: {role: boss, show: [1]}}
  - {id: a, python: plug:one, needs: [go]}
"""


class Place:
    """A store on a file without a server, and a DAG whose step leaves a mark where it is executed unconfined."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.marks = folder / "marks"
        self.marks.mkdir()
        self.file = write_dag(folder, MARKS, plug=PLUG)

    def do(self, *arguments: object) -> Done:
        return sovrun(*arguments, "--store", f"sqlite:{self.folder / 's.db'}", cwd=self.folder)

    def make(self, command: str, *options: str) -> Done:
        return self.do(command, self.file, "--input", f"where={self.marks}", *options)

    def is_marked(self) -> bool:
        return (self.marks / "began").exists()

    def events(self, run: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.do("events", run, "--json").out.splitlines()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def server_dag(server: Up, text: str = MARKS) -> Path:
    return write_dag(server.folder, text, plug=PLUG)


# --- beside a server ----------------------------------------------------------------------------------------------------


def test_beside_a_server_a_run_gets_the_isolation_that_executes_it() -> None:
    with up("in-process") as server:
        where = ("--input", f"where={server.folder}")
        submitted = server.do("submit", server_dag(server), *where, "--json").json
        assert submitted["isolation"] == "in-process"
        ran = server.do("run", server_dag(server), *where, "--json")
        assert (ran.code, ran.json["isolation"]) == (0, "in-process"), ran.err
        for run in (submitted["runId"], ran.json["runId"]):
            assert server.ended(run)["status"] == "completed"
            received = next(event for event in server.events(run) if event["type"] == "run.received")
            assert received["data"]["isolation"] == "in-process"
            assert all("walls" not in event["data"] for event in server.events(run))


@pytest.mark.parametrize("command", ["submit", "run"])
def test_a_server_refuses_a_run_that_names_another_isolation_than_its_own(command: str) -> None:
    with up("in-process") as server:
        asked = ("--input", f"where={server.folder}", "--isolation", "sandbox")
        refused = server.do(command, server_dag(server), *asked)
        assert refused.code == 2
        assert "invalid_setting" in refused.err
        assert "isolates by 'in-process'" in " ".join(refused.err.split())
        assert server.do("runs", "--json").json["runs"] == []
        assert not (server.folder / "began").exists()


def test_a_worker_of_another_isolation_than_its_server_is_refused() -> None:
    with up("in-process") as server:
        refused = server.do("worker", "--isolation", "sandbox")
        assert refused.code == 2
        assert "invalid_setting" in refused.err


def test_a_rerun_beside_a_server_of_another_isolation_is_refused() -> None:
    with up("in-process") as server:
        run = server.submit(server_dag(server), "--input", f"where={server.folder}")
        assert server.ended(run)["status"] == "completed"
        assert server.stop() == 0
        server.options = ("--isolation", "sandbox", *server.options[2:])
        server.start()
        refused = server.do("rerun", run, "--detach")
        assert refused.code == 2
        assert "invalid_setting" in refused.err
        assert len(server.do("runs", "--json").json["runs"]) == 1


# --- when it changes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["in-process", "sandbox"])
@pytest.mark.parametrize("command", ["resume", "run", "up"])
def test_nothing_goes_on_with_a_run_that_is_to_be_isolated_otherwise(
    place: Place, command: str, other: str
) -> None:
    recorded = {"in-process": "sandbox", "sandbox": "in-process"}[other]
    run = place.make("submit", "--isolation", recorded).out.strip()
    if command == "run":
        refused = place.make("run", "--isolation", other)
    else:
        refused = place.do(command, "--isolation", other)
    assert refused.code == 2
    told = " ".join(refused.err.split())
    assert "invalid_setting" in told
    assert f"--isolation {recorded}" in told
    assert run in told
    assert not place.is_marked()
    assert [event["type"] for event in place.events(run)] == ["run.received", "step.queued", "run.queued"]


def test_a_run_that_only_waits_for_somebody_does_not_keep_another_from_running(place: Place) -> None:
    asks = write_dag(place.folder / "asks", ASKS, plug=PLUG)
    waits = place.do("run", asks, "--isolation", "sandbox", "--json")
    assert (waits.code, waits.json["status"]) == (4, "awaiting_user_confirmation"), waits.err
    assert place.make("run", "--isolation", "in-process").code == 0
    shown = place.do("waiting", "--json").json["waits"][0]["shownHash"]
    assert place.do("approve", waits.json["runId"], "go", "--shown", shown, "--role", "boss").code == 0
    assert place.do("resume", "--isolation", "in-process").code == 2, "now its step would be due"
    assert place.do("resume").code == 0
