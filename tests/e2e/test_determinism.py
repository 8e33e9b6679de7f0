"""The same DAG and inputs: one plan, one outcome, whatever the store, the workers, the place or the crashes."""

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from support.cli import DIAMOND, kill, sovrun, start, write_dag

SLOW = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: slow}
steps:
"""
SLOW_PLUG = """
import time

def work(number, before=0):
    time.sleep(0.03)
    return {"number": number, "sum": before + number}
"""


def slow_dag(directory: Path, steps: int) -> Path:
    text = SLOW
    for number in range(steps):
        first = f'  - {{id: s{number:02}, python: "plug:work", with: {{number: {number}'
        before = f", before: {{from: steps.s{number - 1:02}.sum}}" if number else ""
        needs = f"needs: [s{number - 1:02}], " if number else ""
        # Every kill uses up an attempt of the steps under way; on a slow machine that may be the same step each time.
        rest = before + "}, " + needs + "retry: {maxAttempts: 9}}"
        text += first + rest + "\n"
    return write_dag(directory, text, SLOW_PLUG)


def wide_dag(directory: Path, steps: int) -> Path:
    text = SLOW
    for number in range(steps - 1):
        text += f'  - {{id: s{number:02}, python: "plug:work", with: {{number: {number}}}, retry: {{maxAttempts: 9}}}}\n'
    last = steps - 1
    needs = ", ".join(f"s{number:02}" for number in range(last))
    text += f'  - {{id: s{last:02}, python: "plug:work", needs: [{needs}], with: {{number: {last}}}}}\n'
    return write_dag(directory, text, SLOW_PLUG)


def shuffled(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict):
        items = [(key, shuffled(item, rng)) for key, item in value.items()]
        rng.shuffle(items)
        return dict(items)
    if isinstance(value, list):
        items = [shuffled(item, rng) for item in value]
        if all(isinstance(item, dict) and "id" in item for item in items):
            rng.shuffle(items)
        return items
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def test_a_plan_does_not_depend_on_how_the_document_is_written(tmp_path: Path) -> None:
    file = write_dag(tmp_path / "a")
    plain = sovrun("plan", file, "--json", cwd=tmp_path).json
    document = YAML(typ="safe", pure=True).load(DIAMOND)
    for seed in range(3):
        other = shuffled(document, random.Random(seed))
        for directory in (tmp_path / "a", tmp_path / f"b{seed}"):  # beside the first, and elsewhere
            twin = write_dag(directory, json.dumps(other), name=f"twin{seed}.json")
            again = sovrun("plan", twin, "--json", cwd=tmp_path).json
            assert (again["dagId"], again["version"], again["order"]) == (
                plain["dagId"],
                plain["version"],
                plain["order"],
            )
    assert plain["order"] == ["collect", "left", "right", "total"]


@pytest.mark.parametrize("isolation", ["in-process", "sandbox"])
def test_stores_and_workers_do_not_change_the_outcome(tmp_path: Path, isolation: str) -> None:
    outcomes = set()
    for place in ("here", "there"):
        file = write_dag(tmp_path / place)
        for workers in (1, 8):
            for store in ("memory:", f"sqlite:{tmp_path / place / 'runs.db'}"):
                done = sovrun(
                    *(
                        "run",
                        file,
                        "--workers",
                        workers,
                        "--store",
                        store,
                        "--isolation",
                        isolation,
                        "--json",
                    ),
                    cwd=tmp_path / place,
                )
                assert done.code == 0, done.err
                assert done.json["reproducible"] is True
                outcomes.add((done.json["outcomeHash"], done.json["outputsHash"], done.json["dagVersion"]))
    assert len(outcomes) == 1


def test_isolation_does_not_change_the_outcome(tmp_path: Path) -> None:
    file = write_dag(tmp_path)
    outcomes = {
        sovrun("run", file, "--store", "memory:", "--isolation", kind, "--json", cwd=tmp_path).json[
            "outcomeHash"
        ]
        for kind in ("in-process", "sandbox")
    }
    assert len(outcomes) == 1


@pytest.mark.parametrize("isolation", ["in-process", "sandbox"])
@pytest.mark.parametrize(("shape", "steps", "workers"), [(slow_dag, 12, 2), (wide_dag, 40, 8)])
def test_a_killed_run_resumes_and_executes_only_what_was_not_finished(
    tmp_path: Path, isolation: str, shape: Callable[[Path, int], Path], steps: int, workers: int
) -> None:
    file = shape(tmp_path / "dag", steps)
    calm = sovrun("run", file, "--store", "memory:", "--isolation", isolation, "--json", cwd=tmp_path).json
    store = f"sqlite:{tmp_path / 'runs.db'}"
    request = (
        *("run", file, "--store", store, "--isolation", isolation, "--workers", workers),
        *("--idempotency-key", "once", "--json"),
    )
    rng = random.Random(7)
    for _ in range(3):
        process = start(*request, cwd=tmp_path)
        wait_for_progress(tmp_path, store)
        time.sleep(rng.random() * 0.15)
        kill(process)
    done = sovrun(*request, cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.json["outcomeHash"] == calm["outcomeHash"]
    events = sovrun("events", done.json["runId"], "--store", store, "--json", cwd=tmp_path).lines()
    completions = Counter(event["stepId"] for event in events if event["type"] == "step.completed")
    assert completions == Counter({f"s{number:02}": 1 for number in range(steps)})
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    started = sum(
        len(event["data"].get("steps", [event["stepId"]]))
        for event in events
        if event["type"] == "step.executing"
    )
    assert (
        steps <= started <= steps + 3 * (1 if shape is slow_dag else workers)
    )  # at most the steps under way at each kill were begun again


def wait_for_progress(directory: Path, store: str) -> None:
    """Wait until the store holds a run."""
    for _ in range(600):
        done = sovrun("runs", "--store", store, "--json", cwd=directory)
        if done.code == 0 and done.json["runs"]:
            return
        time.sleep(0.02)
    raise AssertionError("the run never appeared")


HELD_PLUG = """
import pathlib, time

def work(number, before=0):
    if number == 5 and not pathlib.Path("DIR/go").exists():
        pathlib.Path("DIR/begun").touch()
        time.sleep(600)
    return {"number": number, "sum": before + number}
"""


def test_resume_finishes_what_a_killed_engine_left(tmp_path: Path) -> None:
    file = slow_dag(tmp_path / "dag", 12)
    (tmp_path / "dag" / "plug.py").write_text(HELD_PLUG.replace("DIR", str(tmp_path)))
    store = f"sqlite:{tmp_path / 'runs.db'}"
    process = start("run", file, "--store", store, "--isolation", "in-process", cwd=tmp_path)
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        time.sleep(0.01)
    kill(process)
    (tmp_path / "go").touch()
    done = sovrun("resume", "--store", store, "--isolation", "in-process", "--json", cwd=tmp_path)
    assert done.code == 0
    assert [run["status"] for run in done.json["ended"]] == ["completed"]
    assert (
        sovrun("resume", "--store", store, "--isolation", "in-process", "--json", cwd=tmp_path).json["ended"]
        == []
    )
