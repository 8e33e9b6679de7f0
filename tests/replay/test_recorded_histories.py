"""What an earlier release recorded means the same today: its histories fold to the states that it had."""

from __future__ import annotations

import json
from collections import Counter
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sovrun.core.errors import CorruptHistory
from sovrun.core.events import chain_link
from sovrun.core.identity import RunKey, StepResult, dag_version, outcome_of, run_id_of, run_token
from sovrun.core.lifecycle import TRANSITIONS, Counts, RunFacts, State, run_state
from sovrun.core.plan import plan_of
from sovrun.core.spec.normal import spec_from_normal
from sovrun.core.step import Step, evolve
from support.recorded import event_of, read_history, step_events

HERE = Path(__file__).parent
RECORDED = sorted(HERE.glob("*/*.ndjson"))
NAMES = [f"{path.parent.name}/{path.stem}" for path in RECORDED]
recorded = pytest.mark.parametrize("path", RECORDED, ids=NAMES)


def expected(path: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    return told


def order_of(told: dict[str, Any]) -> list[str]:
    return [step["id"] for step in told["normal"]["steps"]]


def folded(path: Path, *, without: str = "") -> dict[str, Step]:
    order = order_of(expected(path))
    steps = dict.fromkeys(order, Step())
    for line in read_history(path):
        if line["type"] == without:
            continue
        for id_, event in step_events(line, order):
            steps[id_] = evolve(steps[id_], event)
    return steps


def test_every_release_has_its_histories() -> None:
    assert {
        "0.1.0/completed", "0.1.0/failed-with-retries", "0.1.0/select-and-join", "0.1.0/lost-lease", "0.1.0/fail-fast",
    } <= set(NAMES)  # fmt: skip


@recorded
def test_the_steps_fold_to_what_they_were(path: Path) -> None:
    for id_, was in expected(path)["steps"].items():
        now = json.loads(json.dumps(folded(path)[id_]._asdict()))
        assert {name: now[name] for name in was} == was, id_


@recorded
def test_the_state_of_the_run_follows_from_its_steps_and_every_move_of_it_was_legal(path: Path) -> None:
    run = expected(path)["run"]
    states = Counter(step.state for step in folded(path).values())
    started = any(line["type"] == "run.executing" for line in read_history(path))
    counts = Counts(*(states[state] for state in list(State)[:5]), failed=states[State.FAILED])
    assert run_state(RunFacts(counts, started, cancelled=False)) == run["status"]
    moves = [
        State(line["type"].removeprefix("run.")) for line in read_history(path) if line["type"][:4] == "run."
    ]
    assert moves[0] is State.RECEIVED
    assert moves[-1] == run["status"]
    assert all(after in TRANSITIONS[before] for before, after in pairwise(moves))


@recorded
def test_the_chain_leads_from_the_run_token_to_the_recorded_head(path: Path) -> None:
    run = expected(path)["run"]
    events = [event_of(line) for line in read_history(path)]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert reduce(chain_link, events, run["runToken"]) == run["chainHead"]


@recorded
def test_the_names_of_the_version_the_run_and_the_outcome_are_made_as_they_were(path: Path) -> None:
    told = expected(path)
    run = told["run"]
    assert dag_version(told["normal"], told["code"]) == run["dagVersion"]
    token = run_token(run["tenant"], run["dagId"], run["dagVersion"], run["inputsHash"], RunKey(**run["key"]))
    assert (token, run_id_of(token)) == (run["runToken"], run["runId"])
    steps = spec_from_normal(told["normal"]).steps
    results = [StepResult(s.step_hash, s.state, s.cause, s.output) for s in folded(path).values()]
    outcome = outcome_of(run["dagVersion"], run["inputsHash"], steps, results)
    assert (outcome.outcome, outcome.outputs) == (run["outcomeHash"], run["outputsHash"])
    assert outcome.reproducible is run["reproducible"]


@recorded
def test_a_recorded_dag_is_read_as_the_plan_it_was(path: Path) -> None:
    told = expected(path)
    plan = plan_of(spec_from_normal(told["normal"]))
    assert [step.id for step in plan.steps] == order_of(told)
    assert [[plan.steps[n].id for n in needs] for needs in plan.needs] == [
        step["needs"] for step in told["normal"]["steps"]
    ]


@recorded
@pytest.mark.parametrize("type_", ["step.queued", "step.executing"])
def test_a_history_with_events_taken_out_is_corrupt(path: Path, type_: str) -> None:
    with pytest.raises(CorruptHistory):
        folded(path, without=type_)
