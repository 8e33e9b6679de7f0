"""What no run's history has is told by the server: a worker that fell silent, and what it reported when it was too late."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from support.cli import write_dag
from support.up import Up, until, up

PLUG = """
import os
import time
from pathlib import Path


def wait(gate: str) -> int:
    place = Path(gate)
    (place / f"began-{os.getpid()}").touch()
    while not (place / "open").exists():
        time.sleep(0.02)
    return os.getpid()
"""
GATED = """apiVersion: sovrun/v1
kind: Dag
metadata: {id: gated}
inputs: {type: object, properties: {gate: {type: string}}, required: [gate]}
steps:
  - {id: a, python: plug:wait, with: {gate: {from: inputs.gate}}}
"""


def told(server: Up, event: str) -> list[dict[str, Any]]:
    """Return the server's lines about one kind of event."""
    lines = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def began(gate: Path, count: int) -> list[int]:
    return until(
        lambda: len(found := [int(file.name[6:]) for file in gate.glob("began-*")]) == count and found,
        f"{count} attempts at the gate",
    )


def test_a_paused_worker_is_declared_silent_and_its_late_report_refused_counted_and_logged() -> None:
    with up(workers=2, slots=1) as server:
        gate = server.folder / "gate"
        gate.mkdir()
        run = server.submit(write_dag(server.folder / "dag", GATED, PLUG), "--input", f"gate={gate}")
        [paused] = began(gate, 1)
        assert paused in server.workers(), "in process, so the worker itself is paused"
        os.kill(paused, signal.SIGSTOP)
        [silence] = until(lambda: told(server, "worker_silent"), "the end of patience")
        assert (silence["leasesTakenBack"], silence["level"]) == (1, "warning")
        [other] = set(began(gate, 2)) - {paused}
        (gate / "open").touch()
        assert server.ended(run)["status"] == "completed"
        before = server.events(run)
        assert server.do("queue", "--json").json["lateReports"] == 0
        assert told(server, "late_report_refused") == []

        os.kill(paused, signal.SIGCONT)
        [late] = until(lambda: told(server, "late_report_refused"), "the late report")
        starts = [event["data"] for event in before if event["type"] == "step.executing"]
        assert [start["attempt"] for start in starts] == [1, 2]
        assert late.pop("time").endswith("Z")
        assert late.pop("report") in ("completed", "abandoned"), (
            "what it was about to say, or that it was told"
        )
        assert late == {
            "event": "late_report_refused",
            "level": "warning",
            "tenant": "default",
            "runId": run,
            "stepId": "a",
            "attempt": 1,
            "fence": starts[0]["fence"],
            "worker": starts[0]["worker"],
        }
        assert silence["worker"] == starts[0]["worker"] != starts[1]["worker"]
        queue = server.do("queue", "--json").json
        assert queue["lateReports"] == 1
        assert server.do("queue", "--tenant", "other", "--json").json["lateReports"] == 0
        assert server.events(run) == before, "the history is left alone"
        assert other in server.workers()
