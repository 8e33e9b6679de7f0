"""What scripts may rely on: members of the JSON, exit codes, help, plain lines in a pipe."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support.cli import DIAMOND, ONE_FAILS, PLUG, command, environment, sovrun, write_dag

RUN_MEMBERS = {
    *("runId", "runToken", "dagVersion", "status", "reproducible", "outcomeHash", "chainHead", "replayToken"),
    *("inputsHash", "outputsHash", "steps"),
}
STEP_MEMBERS = {"id", "state", "reason", "cause", "stepHash", "outputHash", "attempts"}
EVENT_MEMBERS = {"runId", "sequence", "time", "actor", "type", "stepId", "data"}
COMMANDS = [
    "validate",
    "plan",
    "run",
    "resume",
    "runs",
    "show",
    "events",
    "replay",
    "import",
    "doctor",
    "bench",
]


def test_a_run_has_the_published_members(tmp_path: Path) -> None:
    file = write_dag(tmp_path / "dag")
    store = f"sqlite:{tmp_path / 'runs.db'}"
    done = sovrun(
        *("run", file, "--store", store, "--isolation", "in-process", "--note", "for the audit", "--json"),
        cwd=tmp_path,
    )
    run = done.json
    assert set(run) >= RUN_MEMBERS
    assert [step["id"] for step in run["steps"]] == ["collect", "left", "right", "total"]
    assert all(set(step) >= STEP_MEMBERS for step in run["steps"])
    assert run["runId"] == run["runToken"][:32]
    assert run["note"] == "for the audit"
    assert sovrun("show", run["runId"], "--store", store, "--json", cwd=tmp_path).json == run
    events = sovrun("events", run["runId"], "--store", store, "--json", cwd=tmp_path).lines()
    assert all(set(event) >= EVENT_MEMBERS for event in events)
    assert (events[0]["type"], events[-1]["type"]) == ("run.received", "run.completed")
    assert events[-1]["data"]["outcomeHash"] == run["outcomeHash"]
    listed = sovrun("runs", "--store", store, "--json", cwd=tmp_path).json["runs"]
    assert [one["runId"] for one in listed] == [run["runId"]]


def test_a_failed_run_exits_1_and_says_why(tmp_path: Path) -> None:
    file = write_dag(tmp_path / "dag", ONE_FAILS)
    done = sovrun("run", file, "--store", "memory:", "--isolation", "in-process", cwd=tmp_path)
    assert done.code == 1
    assert "this step always fails" in done.err
    assert "step_raised" in done.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_is_told_to_stop_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    text = DIAMOND.replace("plug:collect", "plug:slow")
    slow = "import time\ndef slow(n):\n    print('begun', flush=True)\n    time.sleep(60)\n"
    file = write_dag(tmp_path / "dag", text, PLUG + slow)
    store = tmp_path / "a b" / "runs.db"
    process = subprocess.Popen(
        command("run", file, "--store", f"sqlite:{store}"),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    try:
        while not list(store.with_name("runs.db.files").glob("logs/*/*/*/*")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        told = process.communicate(timeout=60)[1].decode()
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 128 + number
    assert f"interrupted; `sovrun resume --store 'sqlite:{store}'` goes on" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    "words", [("validate",), ("rnu",), ("run", "x.yaml", "--workers", "many"), ("runs", "--no-such-option")]
)
def test_words_that_are_no_command_are_refused_as_json_too(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = sovrun(*words, "--json", cwd=tmp_path)
    assert (done.code, done.error["code"], done.err) == (2, "invalid_setting", "")
    shown = sovrun(*words, cwd=tmp_path)
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.startswith("Usage: ")


def test_what_takes_long_to_read_is_said_while_it_does(tmp_path: Path) -> None:
    pipe = tmp_path / "dag.yaml"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        command("validate", pipe),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    try:
        with pipe.open("w") as writing:
            assert process.stderr is not None
            assert process.stderr.readline().decode().startswith(f"still reading {pipe}")
            writing.write(ONE_FAILS)
        assert b"1 step" in process.communicate(timeout=60)[0]
    finally:
        process.kill()
        process.wait()


def test_one_step_is_not_called_steps(tmp_path: Path) -> None:
    file = write_dag(tmp_path / "dag", ONE_FAILS)
    assert "1 step\n" in sovrun("validate", file, cwd=tmp_path).out
    assert "1 step, 1 level\n" in sovrun("plan", file, cwd=tmp_path).out


def test_a_pipe_gets_plain_lines(tmp_path: Path) -> None:
    file = write_dag(tmp_path / "dag")
    done = sovrun("run", file, "--store", "memory:", "--isolation", "in-process", cwd=tmp_path)
    assert "step total completed" in done.err.splitlines()
    assert "\x1b" not in done.out + done.err
    failing = write_dag(tmp_path / "fails", ONE_FAILS)
    done = sovrun("run", failing, "--store", "memory:", "--isolation", "in-process", cwd=tmp_path)
    assert "step bad failed [step_raised], attempt 1 of 1, attempt_budget_exhausted" in done.err.splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(tmp_path: Path, command: str) -> None:
    done = sovrun(command, "--help", cwd=tmp_path)
    assert done.code == 0
    assert "Usage:" in done.out


def test_a_wrong_option_exits_2(tmp_path: Path) -> None:
    assert sovrun("run", "--no-such-option", cwd=tmp_path).code == 2
    assert sovrun("no-such-command", cwd=tmp_path).code == 2


def test_inputs_come_from_standard_input_and_files(tmp_path: Path) -> None:
    file = write_dag(tmp_path / "dag")
    base = ("run", file, "--store", "memory:", "--isolation", "in-process", "--json")
    piped = sovrun(*base, "--inputs", "-", cwd=tmp_path, stdin=b'{"n": 4.0}')
    (tmp_path / "inputs.json").write_text('{"n": 9}')
    named = sovrun(*base, "--inputs", "inputs.json", "--input", "n=4", cwd=tmp_path)
    assert piped.json["inputsHash"] == named.json["inputsHash"]
    assert piped.json["outcomeHash"] == named.json["outcomeHash"]


def test_doctor_says_what_the_machine_can_do(tmp_path: Path) -> None:
    done = sovrun("doctor", "--store", f"sqlite:{tmp_path / 'runs.db'}", "--json", cwd=tmp_path)
    assert done.code == 0, done.out
    assert done.json["isolation"]["ok"] is True


def test_bench_prints_the_raw_commit_beside_its_figure(tmp_path: Path) -> None:
    done = sovrun("bench", "chain", "--repeats", 1, "--dir", tmp_path, "--json", cwd=tmp_path)
    assert done.code == 0
    assert done.json["msPerStep"]["median"] > 0
    assert done.json["rawCommitMs"]["median"] > 0
    assert done.json["ratioToRaw"]["median"] > 0
