"""`sovrun logs` and its route show what steps print, beside a server, without one, and after everything was killed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.cli import command, environment, sovrun, start, write_dag
from support.tasks import require_bubblewrap
from support.up import Up, until, up

DAG = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: talks}
inputs: {type: object, properties: {flag: {type: string}}, required: [flag]}
steps:
  - {id: quiet, python: "plug:quiet"}
  - {id: early, python: "plug:early", needs: [quiet]}
  - {id: twice, python: "plug:twice", with: {flag: {from: inputs.flag}}, retry: {maxAttempts: 2, base: 10ms}}
"""
PLUG = r"""
import sys, time
from pathlib import Path

def quiet():
    return None

def early():
    print("out of early")
    print("\x1b]0;title\x07 err of early", file=sys.stderr)

def twice(flag):
    place = Path(flag)
    if not place.exists():
        place.touch()
        print("first")
        raise RuntimeError("again")
    print("second", end="", flush=True)
    print(" and last")
"""
WAITING = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: waits}
steps:
  - {id: wait, python: "plug:wait"}
"""
WAIT = """
import time
def wait():
    print("begun", flush=True)
    time.sleep(3600)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[str]]:
    folder = tmp_path_factory.mktemp("logs")
    file = write_dag(folder / "dag", DAG, PLUG)
    store = ["--store", f"sqlite:{folder / 's.db'}"]
    flag = f"flag={folder / 'flag'}"
    options = ["--isolation", "in-process", "--input", flag, "--json"]
    run = sovrun("run", file, *store, *options, cwd=folder).json
    assert run["status"] == "completed"
    return folder, run["runId"], store


def test_all_steps_that_printed_are_shown_in_plan_order_with_their_names(finished) -> None:
    folder, run, store = finished
    done = sovrun("logs", run[:8], *store, cwd=folder)
    assert done.out.splitlines() == [
        "early | out of early",
        r"early | \u001b]0;title\u0007 err of early",
        "twice | second and last",
    ]


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        (["early", "--stdout"], ["out of early"]),
        (["early", "--stderr"], [r"\u001b]0;title\u0007 err of early"]),
        (["twice", "--attempt", "1"], ["first"]),
        (["twice", "--attempt", "2"], ["second and last"]),
        (["twice", "-f"], ["second and last"]),
        (["twice", "-f", "--attempt", "1"], ["first"]),
        (["quiet"], []),
    ],
)
def test_what_is_shown_can_be_chosen(finished, options, lines) -> None:
    folder, run, store = finished
    done = sovrun("logs", run, *options, *store, cwd=folder)
    assert (done.code, done.out.splitlines()) == (0, lines)


def test_lines_can_have_the_times_of_the_pieces(finished) -> None:
    folder, run, store = finished
    piece = sovrun("logs", run, "early", "--stdout", "--json", *store, cwd=folder).json
    timed = sovrun("logs", run, "early", "--stdout", "--timestamps", *store, cwd=folder).out
    assert timed == f"{piece['at']} out of early\n"
    assert piece == {
        "stepId": "early",
        "attempt": 1,
        "at": piece["at"],
        "stream": "stdout",
        "text": "out of early\n",
    }


def test_what_a_step_says_of_its_failure_cannot_move_a_terminal(tmp_path) -> None:
    plug = 'def fail():\n    raise ValueError("\\x1b]0;title\\x07 turned \\u202e around")\n'
    text = DAG.partition("steps:")[0].replace(", required: [flag]", "")
    text += "steps:\n  - {id: fail, python: 'plug:fail', retry: {maxAttempts: 1}}\n"
    file = write_dag(tmp_path / "dag", text, plug)
    store = ["--store", f"sqlite:{tmp_path / 's.db'}"]
    ran = sovrun("run", file, "--isolation", "in-process", *store, "--note", "by \x9b31m", cwd=tmp_path)
    (run,) = sovrun("runs", *store, "--json", cwd=tmp_path).json["runs"]
    shown = sovrun("show", run["runId"], *store, cwd=tmp_path)
    for said in (ran.err, shown.out):
        assert r"\u001b]0;title\u0007 turned \u202e around" in said
        assert not {"\x1b", "\x07", "\u202e", "\x9b"} & set(said)


def test_json_holds_nothing_that_moves_a_terminal(finished) -> None:
    folder, run, store = finished
    out = sovrun("logs", run, "--json", *store, cwd=folder).out
    assert out.isascii()
    assert "\x1b" not in out
    assert json.loads(out.splitlines()[1])["text"] == "\x1b]0;title\x07 err of early\n"


@pytest.mark.parametrize(
    "options", [["nothing"], ["../quiet"], ["early", "--attempt", "9"], ["early", "--tenant", "other"]]
)
def test_what_is_not_there_is_refused(finished, options) -> None:
    folder, run, store = finished
    done = sovrun("logs", run, *options, *store, "--json", cwd=folder)
    assert (done.code, done.error["code"]) == (2, "not_found")


def _until_begun(folder: Path, store: list[str], run: str) -> None:
    until(lambda: sovrun("logs", run, "wait", *store, cwd=folder).out == "begun\n", "the first line")


def _only_run(folder: Path, store: list[str]) -> str:
    def look() -> str | None:
        done = sovrun("runs", *store, "--json", cwd=folder)
        runs = done.json["runs"] if done.code == 0 else []
        return runs[0]["runId"] if runs else None

    found: str = until(look, "the run")
    return found


@pytest.mark.parametrize("isolation", ["sandbox", "in-process"])
def test_the_log_of_a_killed_engine_can_be_read(tmp_path, isolation) -> None:
    if isolation == "sandbox":
        require_bubblewrap()
    file = write_dag(tmp_path / "dag", WAITING, WAIT)
    store = ["--store", f"sqlite:{tmp_path / 's.db'}"]
    engine = start("run", file, "--isolation", isolation, *store, cwd=tmp_path)
    try:
        run = _only_run(tmp_path, store)
        _until_begun(tmp_path, store, run)
    finally:
        engine.kill()
        engine.wait()
    assert sovrun("logs", run, *store, cwd=tmp_path).out == "wait | begun\n"
    assert sovrun("show", run, *store, "--json", cwd=tmp_path).json["steps"][0]["state"] == "executing"


def test_following_ends_with_the_run(tmp_path) -> None:
    with up("in-process") as server:
        run = server.submit(write_dag(tmp_path / "dag", WAITING, WAIT))
        follower = subprocess.Popen(
            command("logs", run, "wait", "-f", "--store", server.store),
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        assert follower.stdout is not None
        try:
            assert follower.stdout.readline() == "begun\n"
            assert follower.poll() is None
            assert server.do("cancel", run).code == 0
            assert follower.wait(timeout=60) == 0
            assert follower.stdout.read() == ""
        finally:
            follower.kill()
            follower.stdout.close()


def _get(server: Up, path: str, tenant: str = "default") -> httpx.Response:
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=str(server.socket)), base_url="http://sovrun"
    ) as client:
        return client.get(f"/api/v1/runs/{path}", headers={"X-Tenant-Id": tenant}, timeout=60)


def test_a_program_follows_a_step_through_the_socket(tmp_path) -> None:
    with up("in-process") as server:
        run = server.submit(write_dag(tmp_path / "dag", WAITING, WAIT))
        page: dict[str, Any] = until(
            lambda: (found := _get(server, f"{run}/steps/wait/log").json())["pieces"] and found, "a piece"
        )
        assert [(piece["stream"], piece["text"]) for piece in page["pieces"]] == [("stdout", "begun\n")]
        assert (page["attempt"], page["attempts"], page["isOver"], page["isLast"]) == (1, [1], False, False)
        assert server.do("cancel", run).code == 0
        server.ended(run)
        rest = _get(server, f"{run}/steps/wait/log?attempt=1&after={page['next']}").json()
        assert rest == {
            "attempt": 1,
            "attempts": [1],
            "pieces": [],
            "next": page["next"],
            "isOver": True,
            "isLast": True,
        }
        assert _get(server, f"{run}/steps/wait/log", tenant="other").json()["code"] == "not_found"
        assert _get(server, f"{run}/steps/wait/log?attempt=2").json()["code"] == "not_found"
        assert _get(server, f"{run}/steps/..%2f..%2fwait/log").status_code == 404
