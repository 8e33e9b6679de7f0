"""The rest of the checker's rules: what each says of the smallest history that breaks it and no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from sovrun.core.ids import StepId
from sovrun.core.spec.model import DagSpec
from sovrun.simulation.checker import check_run
from support.histories import (
    APPROVAL,
    APPROVED,
    CHAIN,
    GOOD,
    WORKER,
    Row,
    awaits,
    budget,
    cancelled,
    changed,
    completed,
    dag,
    ended,
    entered,
    failed,
    history,
    lost,
    put,
    queued,
    received,
    retried,
    run_is,
    started,
    step,
)

SINGLE = dag(step("a"))
APART = dag(step("a"), step("b"))
THREE = dag(step("a"), step("b", "a"), step("c"))
FAST = replace(APART, fail_fast=True)
CHOOSER = dag(step("a", select=(StepId("b"),)), step("b", "a"))
BEGUN = (received(), queued(0, "a"), run_is(0, "queued"), started(1, "a"), run_is(1, "executing"))
BOTH = (
    received(), queued(0, "a", "b"), run_is(0, "queued"),
    started(1, "a"), started(1, "b"), run_is(1, "executing"),
)  # fmt: skip
LOST_TWICE = (
    *BEGUN, lost(2, "a"), run_is(2, "awaiting_tool"), started(3, "a", 2, 2), run_is(3, "executing"),
    lost(4, "a", 2), run_is(4, "awaiting_tool"), started(5, "a", 3, 3), run_is(5, "executing"),
)  # fmt: skip


def stopped(at: int, name: str, reason: str, cause: str = "circumstance", actor: str = "engine") -> Row:
    return at, actor, "step.failed", name, {"cause": cause, "errorHash": None, "reason": reason}


BAD: Mapping[str, tuple[str, str, DagSpec, Sequence[Row]]] = {
    "queued with data": ("event data", "carries", CHAIN, put(GOOD, 2, (0, "engine", "step.queued", "a", {"x": 1}))),
    "taken without a lease": (
        "leases", "without a lease", APPROVAL, put(APPROVED, 4, (1, "local:me", *entered(1, "a")[2:])),
    ),
    "taken up while it waits": ("legal moves", "up from awaiting_tool", APPROVAL, [*APPROVED[:14], entered(4, "b")]),
    "started for another": ("leases", "starts a for", CHAIN, put(GOOD, 4, (1, "worker:x", *started(1, "a")[2:]))),
    "an attempt too many": ("budgets", "does not have", SINGLE, [*LOST_TWICE, lost(6, "a", 3)]),
    "an approval that is a tool": (
        "event data", "waits for tool", APPROVAL, put(APPROVED, 5, awaits(1, "a", "awaiting_user_confirmation", "tool", 501)),
    ),
    "a wait of the wrong kind": ("waits", "makes a", APPROVAL, put(APPROVED, 5, awaits(1, "a", "awaiting_tool", "tool", 501))),
    "completed without an answer": ("waits", "without an answer", APPROVAL, put(APPROVED, 5, completed(1, "a", 0, "engine"))),
    "no choice": ("selection", "chose None", CHOOSER, [*BEGUN, completed(2, "a")]),
    "another choice": ("selection", "['c']", CHOOSER, [*BEGUN, completed(2, "a", chosen=["c"])]),
    "given up too early": (
        "budgets", "gives up", SINGLE,
        [*BEGUN, (2, "engine", "step.failed", "a", budget(1, 0) | {"cause": "circumstance", "reason": "attempt_budget_exhausted"})],
    ),
    "an answer that nobody gave": ("waits", "nobody did", APPROVAL, [*APPROVED[:14], stopped(4, "b", "tool_failed")]),
    "expired without waiting": ("deadlines", "does not wait", SINGLE, [*BEGUN, stopped(2, "a", "tool_expired")]),
    "failed for no reason": ("event data", "boredom", SINGLE, [*BEGUN, stopped(2, "a", "boredom")]),
    "cancelled by the wrong cause": (
        "causes", "is circumstance", SINGLE, [*BEGUN, cancelled(2, ["a"], "run_cancelled", "work", "local:me")],
    ),
    "a run budget that is not spent": (
        "budgets", "not spent", SINGLE, [*BEGUN, cancelled(2, ["a"], "run_budget_exhausted", "circumstance")],
    ),
    "upstream failed after it began": (
        "decisions", "after it was", SINGLE, [*BEGUN, cancelled(2, ["a"], "upstream_failed", "upstream_failed")],
    ),
    "a lease lost by a worker": ("leases", "loses the lease", SINGLE, [*BEGUN, (2, WORKER, *lost(2, "a")[2:])]),
    "tried again while stopping": (
        "decisions", "tried again", FAST,
        [*BOTH, failed(2, "a", 1, 1, "step_raised"), retried(3, "b", 1_003)],
    ),
    "left queued while stopping": (
        "decisions", "run that is being stopped", FAST,
        [*BOTH[:4], run_is(1, "executing"), failed(2, "a", 1, 1, "step_raised"), started(3, "b")],
    ),
    "another DAG": ("event data", "named by its token", CHAIN, changed(GOOD, 1, dagId="e")),
    "another token": ("event data", "named by its token", CHAIN, changed(GOOD, 1, runToken="1" * 64)),
    "one step named as several": (
        "event data", "names None", CHAIN, put(GOOD, 2, (0, "engine", "step.queued", None, {"steps": ["a"]})),
    ),
    "steps out of order": ("event data", "plan order", APART, put(BOTH, 2, queued(0, "b", "a"))),
    "a step that is not there": ("event data", "plan order", CHAIN, put(GOOD, 2, queued(0, "z"))),
    "a run's event with a step": ("event data", "names the step", CHAIN, put(GOOD, 3, (0, "engine", "run.queued", "a", {}))),
    "an end that leaves a step": ("run state", "ends while b", APART, [*BOTH, completed(2, "a"), ended(2, "completed", [])]),
    "the wrong end": (
        "run state", "make it completed", SINGLE, [*BEGUN, completed(2, "a"), ended(2, "failed", [("a", "completed", None)])],
    ),
    "an end for the wrong reason": (
        "run state", "for boredom", SINGLE,
        [*BEGUN, completed(2, "a"), ended(2, "completed", [("a", "completed", None)], reason="boredom")],
    ),
    "an engine that holds a step": (
        "legal moves", "no worker has it", APPROVAL,
        [*APPROVED[:4], run_is(1, "executing"), awaits(2, "a", "awaiting_user_confirmation", "confirmation", 502)],
    ),
    "a dependent left undecided": (
        "decisions", "is not decided", THREE,
        [
            received(), queued(0, "a", "c"), run_is(0, "queued"), started(1, "a"), started(1, "c"), run_is(1, "executing"),
            completed(2, "a"), completed(3, "c"),
        ],
    ),
    "a run out of time with a step left": (
        "deadlines", "has steps that are not over", replace(APART, timeout_us=5), [*BOTH, stopped(6, "a", "run_timeout")],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "text", "spec", "rows"), BAD.values(), ids=BAD.keys())
def test_each_rule_refuses_what_no_other_does(
    rule: str, text: str, spec: DagSpec, rows: Sequence[Row]
) -> None:
    violation = check_run(history(spec, rows))
    assert violation is not None
    assert (violation.rule, text in violation.text) == (rule, True), str(violation)


def test_a_history_without_events_is_refused() -> None:
    violation = check_run(history(SINGLE, []))
    assert violation is not None
    assert violation.rule == "sequences"


def test_data_that_is_not_canonical_is_refused() -> None:
    whole = history(CHAIN, GOOD)
    crooked = [*whole.entries[:3], whole.entries[3]._replace(canonical=False), *whole.entries[4:]]
    violation = check_run(replace(whole, entries=crooked))
    assert violation is not None
    assert (violation.rule, violation.sequence) == ("event data", 4)
