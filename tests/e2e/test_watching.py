"""What a person at the terminal is told of work that does not go on: pauses, nobody who executes, and ends at once."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.cli import command, environment, sovrun, write_dag
from support.up import Up, until, up
from support.waits import Site

PLUG = """
import pathlib, time

def quick():
    return 1

def gated(gate):
    pathlib.Path(gate, "began").touch()
    while not pathlib.Path(gate, "open").exists():
        time.sleep(0.02)
    return 1
"""
RETRY = "retry: {maxAttempts: 5, maxFailures: 5, base: 10ms, cap: 10ms}"
WIDE = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: wide}
steps:
  - {id: first, python: "plug:quick"}
  - {id: left, python: "plug:quick", needs: [first]}
  - {id: right, python: "plug:quick", needs: [first]}
"""
GATED = f"""
apiVersion: sovrun/v1
kind: Dag
metadata: {{id: gated}}
inputs: {{type: object, properties: {{gate: {{type: string}}}}}}
steps: [{{id: a, python: "plug:gated", with: {{gate: {{from: inputs.gate}}}}, {RETRY}}}]
"""
ASKS = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: asks}
steps:
  - {id: scan, tool: {name: scanner, deadline: 2h}}
"""


class Watched:
    """A `sovrun watch` in a process of its own, and what it has told so far."""

    def __init__(self, process: subprocess.Popen[bytes], file: Path) -> None:
        self.process = process
        self._file = file

    def told(self) -> str:
        return self._file.read_text()

    def says(self, text: str) -> None:
        until(lambda: text in self.told(), f"{text!r} from `sovrun watch`")


@contextmanager
def watching(run: str, store: str, folder: Path) -> Iterator[Watched]:
    file = folder / "watch.txt"
    with file.open("wb") as log:
        process = subprocess.Popen(
            command("watch", run, "--store", store), cwd=folder, stdout=log, stderr=log, env=environment()
        )
    try:
        yield Watched(process, file)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A store that knows the DAG `wide`, with one run of it that is over."""
    site = Site(tmp_path, WIDE, PLUG)
    site.begun(code=0)
    return site


def gated(server: Up) -> tuple[str, Path]:
    """Submit a run and return it with its gate once its step has begun."""
    gate = server.folder / "gate"
    gate.mkdir()
    run = server.submit(write_dag(server.folder / "dag", GATED, PLUG), "--input", f"gate={gate}")
    until((gate / "began").exists, "the step at the gate")
    return run, gate


# --- pauses -----------------------------------------------------------------------------------------------------------


def test_a_run_submitted_to_what_is_paused_is_said_to_wait_and_how_that_ends(site: Site) -> None:
    site.ask("pause", "wide")
    done = site.tell("submit", site.file, "--isolation", "in-process")
    run = done.out.strip()
    assert re.fullmatch("[0-9a-f]{32}", run), (
        "programs read the id from standard output, and nothing else is there"
    )
    assert "its DAG is paused (dag_paused)" in done.err
    assert f"end the pause with: sovrun unpause wide --store {site.store}" in done.err
    assert f"go on with: sovrun resume --store {site.store} --isolation in-process" in done.err
    (line,) = (line for line in site.tell("runs").out.splitlines() if line.startswith(run))
    assert "received   dag_paused" in line
    site.ask("pause")
    told = site.tell("show", run).out
    assert told.index("its tenant is paused (tenant_paused)") < told.index("its DAG is paused (dag_paused)")


def test_a_run_that_was_queued_before_a_pause_is_said_to_be_held(site: Site) -> None:
    run = site.ask("submit", site.file, "--isolation", "in-process")["runId"]
    assert site.ask("show", run)["heldBy"] is None
    site.ask("pause", "wide")
    shown = site.ask("show", run)
    assert (shown["status"], shown["reason"], shown["heldBy"]) == ("queued", None, "dag_paused")
    told = site.tell("show", run).out
    assert f"end the pause with: sovrun unpause wide --store {site.store}" in told
    (line,) = (line for line in site.tell("runs").out.splitlines() if line.startswith(run))
    assert "queued     dag_paused" in line
    site.ask("unpause", "wide")
    site.resumed(0)
    shown = site.ask("show", run)
    assert (shown["status"], shown["heldBy"]) == ("completed", None)


def test_what_is_watched_while_it_is_paused_is_said_to_be_held_and_goes_on_afterwards() -> None:
    with up() as server:
        file = write_dag(server.folder / "dag", WIDE, PLUG)
        server.submit(file)
        assert server.do("pause", "wide").code == 0
        run = server.submit(file)
        with watching(run, server.store, server.folder) as watched:
            watched.says(f"end the pause with: sovrun unpause wide --store {server.store}")
            assert "nobody executes the run" not in watched.told(), "a server does"
            assert server.do("unpause", "wide").code == 0
            assert watched.process.wait(60) == 0


# --- nobody who executes ----------------------------------------------------------------------------------------------


def test_watching_a_run_that_nobody_executes_says_so_and_follows_whoever_does(site: Site) -> None:
    run = site.ask("submit", site.file, "--isolation", "in-process")["runId"]
    assert "nobody executes the run" in site.tell("show", run).out
    with watching(run, site.store, site.folder) as watched:
        watched.says("nobody executes the run")
        watched.says(f"go on with: sovrun resume --store {site.store} --isolation in-process")
        site.resumed(0)
        assert watched.process.wait(60) == 0
        assert "completed wide: 3 of 3 steps completed" in watched.told()
    assert "nobody executes the run" not in site.tell("show", run).out, "it is over"


def test_watching_outlives_a_server_and_says_that_it_has_died() -> None:
    with up() as server:
        run, gate = gated(server)
        with watching(run, server.store, server.folder) as watched:
            watched.says("step a executing")
            assert "nobody executes the run" not in watched.told()
            server.kill()
            watched.says("nobody executes the run")
            assert "nobody executes the run" in server.do("show", run).out
            server.start()
            (gate / "open").touch()
            assert watched.process.wait(60) == 0
            assert "step a awaiting_tool [lease_expired], attempt 1 of 5, until " in watched.told()


# --- what is told of events ---------------------------------------------------------------------------------------------


def test_lines_have_times_and_reasons_and_name_all_steps(site: Site) -> None:
    (run,) = (one["runId"] for one in site.ask("runs")["runs"])
    done = site.tell("watch", run)
    lines = done.err.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (run|step|2 steps) ", line) for line in lines), (
        lines
    )
    assert [line[21:] for line in lines][1] == "step first queued"
    assert "2 steps (left, right) queued" in [line[21:] for line in lines]
    assert "completed wide: 3 of 3 steps completed" in done.out


def test_watching_a_run_that_is_left_waiting_tells_how_it_goes_on(tmp_path: Path) -> None:
    site = Site(tmp_path, ASKS, PLUG)
    run = site.begun()
    done = site.tell("watch", run)
    assert done.code == 4
    assert "step scan awaiting_tool [tool], until 2" in done.err
    assert f"end the wait with: sovrun answer {run} scan --output JSON --store {site.store}" in done.out
    assert "nobody executes" not in done.err + site.tell("show", run).out, "there is nothing to execute"


# --- beside a server ----------------------------------------------------------------------------------------------------


def test_a_rerun_beside_a_server_tells_what_is_reused() -> None:
    with up() as server:
        parent = server.submit(write_dag(server.folder / "dag", WIDE, PLUG))
        server.ended(parent)
        done = server.do("rerun", parent)
        assert done.code == 0, done.err
        assert f"reused from {parent}: first, left, right" in done.out
        assert server.do("rerun", parent, "--json").json["parent"] == parent


def test_what_has_to_own_the_store_is_told_what_goes_through_the_server() -> None:
    with up() as server:
        done = server.do("resume")
        assert (done.code, "all but `up` and `resume` goes through it" in done.err) == (3, True), done.err


def test_a_second_signal_ends_a_server_at_once_and_gives_back_what_was_under_way() -> None:
    with up(grace=3_600) as server:
        assert "with 1 worker\n" in server.log()
        run, _ = gated(server)
        assert server.process is not None
        server.process.send_signal(signal.SIGINT)
        until(
            lambda: (
                "stopping; 1 step may go on for up to 3600 s (another signal ends at once)" in server.log()
            ),
            "what is waited for",
        )
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 0
        assert "ending at once" in server.log()
        step = server.step(run, "a")
        assert (step["state"], step["reason"]) == ("awaiting_tool", "lease_expired")


def test_a_server_with_nothing_to_do_says_that_it_waits_for_nothing() -> None:
    with up(workers=2) as server:
        assert "with 2 workers\n" in server.log()
        assert server.stop() == 0
        assert "stopping; no step is under way" in server.log()


# --- nothing there ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listing", "empty"), [("runs", {"runs": []}), ("waiting", {"waits": [], "commands": []})]
)
def test_of_a_store_that_is_not_made_yet_nothing_is_listed(
    listing: str, empty: dict[str, list[str]], tmp_path: Path
) -> None:
    place = tmp_path / "none.db"
    done = sovrun(listing, "--store", f"sqlite:{place}", "--json", cwd=tmp_path)
    assert (done.code, done.json) == (0, empty)
    assert f"there is no store at {place} yet" in done.err
    assert sovrun(listing, "--store", f"sqlite:{place}", cwd=tmp_path).code == 0
    assert not place.exists()
    refused = sovrun("pause", "--store", f"sqlite:{place}", cwd=tmp_path)
    assert (refused.code, "`sovrun run`, `submit` and `up` make one" in refused.err) == (3, True)


def test_to_simulate_no_run_is_refused(tmp_path: Path) -> None:
    done = sovrun("simulate", "--runs", "0", "--json", cwd=tmp_path)
    assert (done.code, done.error["code"]) == (2, "invalid_setting")
