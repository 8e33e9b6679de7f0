"""Whatever a step or a disk does: one clear error with a stable code, no hang, nothing lost, and the run can go on."""

import fcntl
import gzip
import json
import os
import re
import shlex
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from support.cli import DIAMOND, PLUG, command, environment, sovrun, write_dag

ONE = """
apiVersion: sovrun/v1
kind: Dag
metadata: {{id: one}}
steps:
  - id: good
    python: plug:good
  - id: bad
    python: {entry}
    retry: {{maxAttempts: 2, base: 10ms, cap: 10ms}}
    resources: {{wallSeconds: 2, log: 64Ki, output: 64Ki, memory: 512Mi}}
  - id: after
    python: plug:good
    needs: [bad]
"""
BAD = """
import ctypes, os, sys, time

def good():
    return 1

def raises():
    raise ValueError("no such luck")

def prints():
    line = "x" * 1024 * 1024
    for _ in range(1024):
        print(line)

def never_ends():
    while True:
        pass

def not_json():
    return {1, 2}

def not_a_number():
    return float("nan")

def too_large():
    return "x" * 1_000_000

def exits():
    os._exit(3)

def hungry():
    return len(bytearray(4 << 30))

def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 3)
            ctypes.CDLL(None).prctl(15, b"NAME")  # PR_SET_NAME
            time.sleep(600)
        os._exit(0)
    os.wait()
    time.sleep(1)
    return 1
"""


def run_one(tmp_path: Path, entry: str, isolation: str = "sandbox") -> dict[str, Any]:
    file = write_dag(tmp_path / "dag", ONE.format(entry=entry), BAD)
    store = f"sqlite:{tmp_path / 'runs.db'}"
    done = sovrun("run", file, "--store", store, "--isolation", isolation, "--json", cwd=tmp_path)
    assert done.code == (0 if done.json["status"] == "completed" else 1)
    again = sovrun("show", done.json["runId"], "--store", store, "--json", cwd=tmp_path)
    assert again.json == done.json
    return {step["id"]: step for step in done.json["steps"]} | {"run": done.json}


@pytest.mark.parametrize(
    ("entry", "failure", "cause"),
    [
        ("plug:raises", "step_raised", "work"),
        ("plug:prints", "log_limit", "circumstance"),
        ("plug:never_ends", "wall_limit", "circumstance"),
        ("plug:not_json", "output_not_json", "work"),
        ("plug:not_a_number", "output_not_json", "work"),
        ("plug:too_large", "output_too_large", "circumstance"),
        ("plug:missing", "step_not_found", "work"),
        ("nowhere:f", "step_not_found", "work"),
        ("plug:exits", "exit_nonzero", "work"),
        ("plug:hungry", "memory_limit", "circumstance"),
    ],
)
def test_a_bad_step_fails_by_name_and_the_rest_goes_on(
    tmp_path: Path, entry: str, failure: str, cause: str
) -> None:
    found = run_one(tmp_path, entry)
    bad = found["bad"]
    assert (bad["state"], bad["failure"], bad["cause"]) == ("failed", failure, cause)
    assert bad["error"]["message"]
    assert found["good"]["state"] == "completed"
    assert (found["after"]["state"], found["after"]["reason"]) == ("cancelled", "upstream_failed")
    assert found["run"]["reproducible"] is (cause == "work")


def daemons(name: str) -> list[int]:
    """Return the processes that have given themselves a name."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # a process that has just ended
            if (folder / "comm").read_text() == f"{name}\n":
                found.append(int(folder.name))
    return found


def test_a_daemon_dies_with_its_step(tmp_path: Path) -> None:
    name = f"walled{os.getpid()}"
    file = write_dag(tmp_path / "dag", ONE.format(entry="plug:daemon"), BAD.replace("NAME", name))
    run = subprocess.Popen(
        command("run", file, "--store", f"sqlite:{tmp_path / 'runs.db'}", "--json"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
    )
    try:
        while not daemons(name):  # it is seen from outside while its step lives
            assert run.poll() is None
            time.sleep(0.01)
        told = json.loads(run.communicate(timeout=60)[0])
    finally:
        run.kill()
        run.wait()
    assert told["status"] == "completed"
    assert daemons(name) == []


@pytest.mark.parametrize(
    ("entry", "failure"),
    [
        ("plug:raises", "step_raised"),
        ("plug:prints", "log_limit"),
        ("plug:never_ends", "wall_limit"),
        ("plug:not_json", "output_not_json"),
        ("plug:missing", "step_not_found"),
    ],
)
def test_in_process_steps_fail_by_the_same_names(tmp_path: Path, entry: str, failure: str) -> None:
    assert run_one(tmp_path, entry, "in-process")["bad"]["failure"] == failure


def test_failed_attempts_are_recorded_with_what_is_left(tmp_path: Path) -> None:
    found = run_one(tmp_path, "plug:raises")
    assert found["bad"]["reason"] == "attempt_budget_exhausted"
    store = f"sqlite:{tmp_path / 'runs.db'}"
    events = sovrun("events", found["run"]["runId"], "--store", store, "--json", cwd=tmp_path).lines()
    waits = [event["data"] for event in events if event["type"] == "step.awaiting_tool"]
    assert [(w["decision"], w["attemptsLeft"], w["failuresLeft"]) for w in waits] == [
        ("retry_scheduled", 1, 2)
    ]


def in_small_disk(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a script as root of a namespace of its own, in which it may mount; everything mounted goes with it."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return subprocess.run(
        ["unshare", *user, "--mount", "sh", "-euc", script],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
        check=False,
    )


def test_a_full_disk_stops_the_run_with_a_clear_error_and_it_can_be_resumed(tmp_path: Path) -> None:
    text = "apiVersion: sovrun/v1\nkind: Dag\nmetadata: {id: big}\nsteps:\n"
    for number in range(60):
        text += f'  - {{id: s{number:02}, python: "plug:big", with: {{number: {number}}}}}\n'
    plug = "import random\ndef big(number):\n    return random.Random(number).randbytes(25_000).hex()\n"
    file = write_dag(tmp_path / "dag", text, plug)
    disk = tmp_path / "disk"
    disk.mkdir()
    run = shlex.join(
        command(
            "run",
            file,
            "--store",
            f"sqlite:{disk}/runs.db",
            "--isolation",
            "in-process",
            "--idempotency-key",
            "k",
        )
    )
    calm = sovrun("run", file, "--store", "memory:", "--isolation", "in-process", "--json", cwd=tmp_path).json
    done = in_small_disk(
        f"""
        mount -t tmpfs -o size=2m tmpfs {disk}
        code=0; {run} 2>{tmp_path}/full.err || code=$?
        echo "$code" > {tmp_path}/full.code
        mount -o remount,size=64m {disk}
        {run} --json > {tmp_path}/resumed.json
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "full.code").read_text().strip() == "3"
    error = (tmp_path / "full.err").read_text()
    assert "store_unavailable" in error
    assert "Traceback" not in error
    assert calm["outcomeHash"] in (tmp_path / "resumed.json").read_text()


def within(*words: object) -> str:
    """Return a command for a script of `in_small_disk`, run by an ordinary user where the caller is one."""
    user = [] if os.geteuid() == 0 else ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    return shlex.join([*user, *command(*words)])


@pytest.mark.parametrize("isolation", ["sandbox", "in-process"])
@pytest.mark.parametrize("verb", ["run", "resume"])
def test_a_read_only_disk_is_named(tmp_path: Path, verb: str, isolation: str) -> None:
    file = write_dag(tmp_path / "dag")
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ("run", file) if verb == "run" else ("resume",)
    base = within(*words, "--store", f"sqlite:{disk}/runs.db", "--isolation", isolation)
    done = in_small_disk(f"mount -t tmpfs -o ro tmpfs {disk}; {base} || {base} --json", tmp_path)
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["code"] == "store_unavailable"
    assert "store_unavailable" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("isolation", ["sandbox", "in-process"])
def test_a_disk_that_turned_read_only_is_named_and_the_run_goes_on_when_it_is_writable(
    tmp_path: Path, isolation: str
) -> None:
    text = DIAMOND.replace("plug:collect", "plug:slow")
    plug = (
        PLUG
        + "\nimport time\ndef slow(n):\n    print('begun', flush=True)\n    time.sleep(1)\n    return collect(n)\n"
    )
    file = write_dag(tmp_path / "dag", text, plug)
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ("--isolation", isolation, "--json", "--store")
    calm = sovrun("run", file, *options, "memory:", cwd=tmp_path).json
    store = f"sqlite:{disk}/runs.db"
    run = within("run", file, *options, store, "--idempotency-key", "k")
    resume = within("resume", *options, store)
    done = in_small_disk(
        f"""
        mount -t tmpfs -o size=64m tmpfs {disk}
        {run} & until grep -rqs begun {disk}/runs.db.files/logs; do sleep 0.01; done
        kill -9 $!; wait $! || true
        until mount -o remount,ro {disk}; do sleep 0.01; done
        for verb in "{run}" "{resume}"; do
            code=0; $verb >>{tmp_path}/refused.json || code=$?
            test "$code" = 3
        done
        {within("runs", "--store", store, "--json")} >{tmp_path}/before.json
        mount -o remount,rw {disk}
        {resume}
        {run} >{tmp_path}/resumed.json
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "refused.json").read_text().count('"store_unavailable"') == 2
    assert "Traceback" not in done.stderr
    [before] = json.loads((tmp_path / "before.json").read_text())["runs"]
    assert before["status"] == "executing"
    assert json.loads((tmp_path / "resumed.json").read_text())["outcomeHash"] == calm["outcomeHash"]


def test_a_daemon_of_a_trusted_step_does_not_keep_the_store(tmp_path: Path) -> None:
    name = f"trusted{os.getpid()}"
    file = write_dag(tmp_path / "dag", ONE.format(entry="plug:daemon"), BAD.replace("NAME", name))
    options = ("--store", f"sqlite:{tmp_path / 'runs.db'}", "--isolation", "in-process", "--json")
    try:
        assert sovrun("run", file, *options, cwd=tmp_path).code == 0
        assert daemons(name)
        assert sovrun("run", file, *options, cwd=tmp_path).code == 0
    finally:
        for daemon in daemons(name):
            os.kill(daemon, signal.SIGKILL)


def test_who_holds_a_store_for_a_process_that_has_ended_is_not_called_that_process(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    lock = tmp_path / "runs.db.lock"
    lock.write_text(f"{ended.pid}\n")
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = sovrun("resume", "--store", f"sqlite:{tmp_path / 'runs.db'}", "--json", cwd=tmp_path)
    assert (done.code, done.error["code"]) == (3, "store_owned")
    assert "which has ended" in done.error["detail"]


def test_a_second_writer_gets_a_clear_error_and_a_reader_works(tmp_path: Path) -> None:
    plug = "import pathlib, time\ndef good():\n    pathlib.Path('DIR/begun').touch()\n    time.sleep(60)\n"
    text = (
        "apiVersion: sovrun/v1\nkind: Dag\nmetadata: {id: long}\nsteps:\n  - {id: one, python: 'plug:good'}\n"
    )
    file = write_dag(tmp_path / "dag", text, plug.replace("DIR", str(tmp_path)))
    store = f"sqlite:{tmp_path / 'runs.db'}"
    owner = subprocess.Popen(
        command("run", file, "--store", store, "--isolation", "in-process"),
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not (tmp_path / "begun").exists():
            assert owner.poll() is None
            time.sleep(0.01)
        second = sovrun("run", file, "--store", store, "--isolation", "in-process", "--json", cwd=tmp_path)
        assert (second.code, second.error["code"]) == (3, "store_owned")
        assert str(owner.pid) in second.error["detail"]
        assert (
            sovrun("runs", "--store", store, "--json", cwd=tmp_path).json["runs"][0]["status"] == "executing"
        )
    finally:
        owner.kill()
        owner.wait()


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    other.write_bytes(os.urandom(4096))
    file = write_dag(tmp_path / "dag", DIAMOND, PLUG)
    for arguments in (("run", file, "--isolation", "in-process"), ("runs",)):
        done = sovrun(*arguments, "--store", f"sqlite:{other}", "--json", cwd=tmp_path)
        assert done.code == 3
        assert done.error["code"] in ("store_version", "store_unavailable")


def test_a_store_of_an_older_schema_is_read_once_the_command_that_is_named_has_upgraded_it(
    tmp_path: Path,
) -> None:
    kept = Path(__file__).parents[1] / "data" / "stores" / "schema-0001.db.gz"
    path = tmp_path / "old runs.db"
    path.write_bytes(gzip.decompress(kept.read_bytes()))
    refused = sovrun("runs", "--store", f"sqlite:{path}", "--json", cwd=tmp_path)
    assert (refused.code, refused.error["code"]) == (3, "store_version")
    [named] = re.findall("`sovrun (.*?)`", refused.error["hint"])
    sovrun(*shlex.split(named), "--isolation", "in-process", cwd=tmp_path)
    assert sovrun("runs", "--store", f"sqlite:{path}", "--json", cwd=tmp_path).json["runs"]


def test_what_nobody_foresaw_of_the_machine_is_one_line_with_a_code(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    base = shlex.join(command("runs", "--store", "sqlite:runs.db"))
    done = subprocess.run(
        ["sh", "-c", f"rmdir {shlex.quote(str(gone))}; {base}; {base} --json"],
        cwd=gone,
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.startswith("error [system_refused] ")
    assert json.loads(done.stdout)["error"]["code"] == "system_refused"
    assert "Traceback" not in done.stderr
