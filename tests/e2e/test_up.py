"""`sovrun up` as its users and its enemies see it: real processes, a real socket, real signals."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from support.cli import sovrun, write_dag
from support.up import Up, alive, descendants, until, up

PLUG = """
import os, pathlib, signal, subprocess, sys, time

def quick():
    return 1

def gated(gate):
    path = pathlib.Path(gate)
    (path / ("began-" + str(os.getpid()))).touch()
    while not (path / "open").exists():
        time.sleep(0.02)
    return 1

def slow():
    time.sleep(300)

def tidy():
    def end(*_):
        os.write(1, b"tidied\\n")
        sys.exit()
    signal.signal(signal.SIGTERM, end)
    os.write(1, b"begun\\n")
    time.sleep(300)

def stubborn():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen([sys.executable, "-c", "import signal,time; signal.signal(15, signal.SIG_IGN); time.sleep(300)"])
    while True:
        time.sleep(1)
"""
HEAD = "apiVersion: sovrun/v1\nkind: Dag\nmetadata: {{id: {name}}}\n"
RETRY = "retry: {maxAttempts: 5, maxFailures: 5, base: 10ms, cap: 10ms}"
QUICK = (
    HEAD.format(name="quick")
    + "steps: [{id: a, python: 'plug:quick'}, {id: b, python: 'plug:quick', needs: [a]}]\n"
)
GATED = HEAD.format(name="gated") + (
    "inputs: {type: object, properties: {gate: {type: string}}}\n"
    f"steps:\n  - {{id: a, python: 'plug:gated', with: {{gate: {{from: inputs.gate}}}}, {RETRY}}}\n"
    "  - {id: b, python: 'plug:quick', needs: [a]}\n"
)
SLOW = HEAD.format(name="slow") + f"steps: [{{id: a, python: 'plug:slow', {RETRY}}}]\n"
STUBBORN = HEAD.format(name="stubborn") + f"steps: [{{id: a, python: 'plug:stubborn', {RETRY}}}]\n"
TIDY = HEAD.format(name="tidy") + (
    f"steps: [{{id: a, python: 'plug:tidy', resources: {{graceSeconds: 600}}, {RETRY}}}]\n"
)
ASKS = HEAD.format(name="asks") + (
    "steps:\n"
    "  - {id: go, confirm: {role: boss, show: {question: really}}}\n"
    "  - {id: after, python: 'plug:quick', needs: [go]}\n"
)


def dag(server: Up, text: str) -> Path:
    return write_dag(server.folder / "dag", text, PLUG)


def began(gate: Path, count: int = 1) -> list[int]:
    """Return the processes that have begun to wait at a gate, as soon as there are so many."""
    return until(
        lambda: len(found := [int(file.name[6:]) for file in gate.glob("began-*")]) >= count and found,
        f"{count} steps at the gate",
    )


def new_gate(server: Up) -> Path:
    gate = server.folder / "gate"
    gate.mkdir()
    return gate


# --- beside the server -------------------------------------------------------------------------------------------------


def test_what_is_submitted_is_executed_and_can_be_watched_to_its_end() -> None:
    with up() as server:
        run = server.submit(dag(server, QUICK))
        watched = server.do("watch", run, "--json")
        assert (watched.code, watched.json["status"]) == (0, "completed")
        assert server.do("runs", "--json").json["runs"][0]["runId"] == run
        actors = {event["actor"] for event in server.events(run) if event["type"] == "run.received"}
        assert all(actor.startswith("local:") for actor in actors)


def test_run_beside_a_server_goes_through_its_socket_and_is_followed() -> None:
    with up() as server:
        file = dag(server, QUICK)
        done = server.do("run", file, "--isolation", "in-process", "--json")
        assert (done.code, done.json["status"]) == (0, "completed"), done.err
        plain = server.do("run", file, "--isolation", "in-process")
        assert "completed" in plain.out
        workers = {
            event["actor"] for event in server.events(done.json["runId"]) if "worker" in event["actor"]
        }
        assert len(workers) == 1, "the server's worker executed it, not the command"


def test_waits_are_listed_and_decided_beside_a_server() -> None:
    with up() as server:
        run = server.submit(dag(server, ASKS))
        waits = until(lambda: server.do("waiting", "--json").json["waits"], "the wait")
        assert [(wait["runId"], wait["stepId"]) for wait in waits] == [(run, "go")]
        done = server.do("approve", run, "go", "--shown", waits[0]["shownHash"], "--role", "boss", "--json")
        assert done.code == 0, done.out + done.err
        assert server.ended(run)["status"] == "completed"


def test_an_approval_given_after_every_process_was_stopped_and_started_again_is_obeyed() -> None:
    with up() as server:
        run = server.submit(dag(server, ASKS))
        shown = until(lambda: server.do("waiting", "--json").json["waits"], "the wait")[0]["shownHash"]
        assert server.stop() == 0
        server.start()
        done = server.do("approve", run, "go", "--shown", shown, "--role", "boss", "--json")
        assert done.code == 0, done.out + done.err
        assert server.ended(run)["status"] == "completed"


def test_a_second_server_on_the_same_store_is_told_that_it_is_owned() -> None:
    with up() as server:
        second = sovrun("up", "--store", server.store, "--isolation", "in-process", cwd=server.folder)
        assert second.code == 3
        assert "store_owned" in second.err
        assert server.do("watch", server.submit(dag(server, QUICK))).code == 0, "and the first goes on"


def test_the_socket_of_a_server_that_was_killed_does_no_harm() -> None:
    with up() as server:
        file = dag(server, QUICK)
        server.kill()
        assert server.socket.exists()
        run = server.submit(file)
        assert server.do("run", file, "--isolation", "in-process", "--json").json["status"] == "completed"
        server.start()
        assert server.ended(run)["status"] == "completed"


def test_a_socket_file_that_nobody_made_on_purpose_is_replaced() -> None:
    with up() as server:
        assert server.stop() == 0
        assert not server.socket.exists()
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(server.socket))
        left.close()
        server.start()
        assert server.socket.stat().st_mode & 0o777 == 0o600
        assert server.do("watch", server.submit(dag(server, QUICK))).code == 0


# --- stopping -----------------------------------------------------------------------------------------------------------


def test_a_server_told_to_stop_lets_its_steps_finish() -> None:
    with up() as server:
        gate = new_gate(server)
        run = server.submit(dag(server, GATED), "--input", f"gate={gate}")
        began(gate)
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        until(lambda: "stopping" in server.log(), "the order to stop")
        (gate / "open").touch()
        assert server.process.wait(timeout=60) == 0
        shown = server.show(run)
        assert [(step["state"], step["attempts"]) for step in shown["steps"]] == [
            ("completed", 1),
            ("queued", 0),
        ]
        server.start()
        assert server.ended(run)["status"] == "completed"


def test_what_does_not_finish_within_the_grace_time_is_given_back_and_resumed() -> None:
    with up("sandbox", grace=0.2) as server:
        run = server.submit(dag(server, SLOW))
        until(lambda: server.step(run, "a")["state"] == "executing", "the step")
        below = descendants(server.pid)
        assert server.stop() == 0
        for pid in below:
            until(lambda pid=pid: not alive(pid), f"the end of {pid}")  # type: ignore[misc]
        step = server.step(run, "a")
        assert (step["state"], step["reason"]) == ("awaiting_tool", "lease_expired")
        server.start()
        until(lambda: server.step(run, "a")["attempts"] == 2, "the second attempt")


def test_before_the_grace_time_is_over_steps_are_told_to_end() -> None:
    with up("sandbox", grace=12) as server:
        run = server.submit(dag(server, TIDY))
        until(lambda: "begun" in server.do("logs", run, "a").out, "the step")
        assert server.stop() == 0
        assert server.do("logs", run, "a").out == "begun\ntidied\n"
        step = server.step(run, "a")
        assert (step["state"], step["reason"]) == ("awaiting_tool", "lease_expired")


# --- deaths -------------------------------------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced_and_its_steps_are_taken_up_by_another() -> None:
    with up("sandbox") as server:
        run = server.submit(dag(server, SLOW))
        until(lambda: server.step(run, "a")["state"] == "executing", "the step")
        (worker,) = server.workers()
        below = descendants(worker)
        os.kill(worker, signal.SIGKILL)
        until(lambda: server.step(run, "a")["attempts"] == 2, "the second attempt")
        assert server.workers() not in ([], [worker])
        for pid in below:
            until(lambda pid=pid: not alive(pid), f"the end of {pid}, which the worker had started")  # type: ignore[misc]
        told = [
            (event["data"].get("reason"), event["type"])
            for event in server.events(run)
            if event["stepId"] == "a"
        ]
        assert ("lease_expired", "step.awaiting_tool") in told
        holders = [event["actor"] for event in server.events(run) if event["type"] == "step.executing"]
        assert len(set(holders)) == len(holders) == 2


def test_a_killed_server_takes_workers_and_steps_with_it_and_its_successor_resumes() -> None:
    with up("sandbox", workers=2) as server:
        file = dag(server, SLOW)
        runs = [server.submit(file), server.submit(dag(server, QUICK))]
        until(lambda: server.step(runs[0], "a")["state"] == "executing", "the step")
        assert server.ended(runs[1])["status"] == "completed"
        below = descendants(server.pid)
        assert len(below) > 2, "workers, and processes of the step"
        for worker in server.workers():
            os.kill(worker, signal.SIGSTOP)  # not even a worker that hangs is left
        server.kill()
        for pid in below:
            until(lambda pid=pid: not alive(pid), f"the end of {pid}")  # type: ignore[misc]
        server.start()
        until(lambda: server.step(runs[0], "a")["attempts"] == 2, "the second attempt")
        assert "took back 1 step" in server.log()


# --- cancelling ---------------------------------------------------------------------------------------------------------


def test_cancelling_lets_a_running_step_end_in_order() -> None:
    with up("sandbox") as server:
        run = server.submit(dag(server, TIDY))
        until(lambda: "begun" in server.do("logs", run, "a").out, "the step")
        assert server.do("cancel", run).code == 0
        until(lambda: server.do("logs", run, "a").out == "begun\ntidied\n", "the step's last words")
        assert server.show(run)["status"] == "cancelled"
        assert server.do("watch", server.submit(dag(server, QUICK))).code == 0


def test_cancelling_kills_a_running_step_with_all_its_children_whatever_it_ignores() -> None:
    with up("sandbox") as server:
        assert server.do("watch", server.submit(dag(server, QUICK))).code == 0
        (worker,) = server.workers()
        helpers = set(descendants(worker))
        run = server.submit(dag(server, STUBBORN))
        # bubblewrap twice, the step and its child
        below = until(lambda: len(found := set(descendants(worker)) - helpers) >= 4 and found, "the child")
        done = server.do("cancel", run, "--note", "enough", "--json")
        assert done.code == 0, done.out + done.err
        assert server.show(run)["status"] == "cancelled"
        until(lambda: not any(map(alive, below)), "the end of the step's processes")
        assert server.do("cancel", run, "--note", "enough", "--json").json["changed"] is False
        assert server.do("watch", server.submit(dag(server, QUICK))).code == 0, "its slot is free again"


# --- waiting ------------------------------------------------------------------------------------------------------------


def test_waiting_runs_hold_no_slot() -> None:
    with up(slots=2) as server:
        file = dag(server, ASKS)
        for _ in range(3):
            server.submit(file)
        until(lambda: len(server.do("waiting", "--json").json["waits"]) == 3, "three waits on two slots")
        assert server.do("watch", server.submit(dag(server, QUICK))).code == 0
