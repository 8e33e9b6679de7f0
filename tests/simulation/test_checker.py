"""The checker refuses histories that break a rule: for each rule, a good history and the smallest damage to it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sovrun.core.spec.model import DagSpec
from sovrun.core.times import time_text
from sovrun.simulation import checker
from sovrun.simulation.checker import Acknowledged, check, check_run
from sovrun.simulation.hashes import chain
from sovrun.simulation.histories import History, entry_of_line, histories_of
from support.histories import (
    APPROVAL,
    APPROVED,
    CHAIN,
    GOOD,
    HASH,
    START_US,
    WORKER,
    Row,
    awaits,
    cancelled,
    changed,
    completed,
    dag,
    ended,
    entered,
    failed,
    history,
    put,
    queued,
    received,
    resumed,
    retried,
    run_is,
    started,
    step,
)


@pytest.mark.parametrize(("spec", "rows"), [(CHAIN, GOOD), (APPROVAL, APPROVED)], ids=["retries", "waits"])
def test_a_good_history_and_each_of_its_beginnings_are_accepted(spec: DagSpec, rows: Sequence[Row]) -> None:
    assert check_run(history(spec, rows)) is None
    times = [row[0] for row in rows]
    for length in range(1, len(rows)):
        if times[length - 1] < times[length]:
            assert check_run(history(spec, rows[:length])) is None, length


BAD: Mapping[str, tuple[str, DagSpec, Sequence[Row]]] = {
    "an event twice in one place": ("legal moves", CHAIN, put(GOOD, 4, GOOD[3], GOOD[3])),
    "a step that starts before it is queued": ("legal moves", CHAIN, put(GOOD, 2, started(0, "a"))),
    "a run that jumps to its end": ("legal moves", CHAIN, put(GOOD, 5, run_is(1, "completed"))),
    "a history that begins in the middle": ("legal moves", CHAIN, GOOD[1:]),
    "a run that stays queued while its step executes": ("run state", CHAIN, put(GOOD, 5)),
    "a run that executes while its step waits": ("run state", CHAIN, put(GOOD, 10)),
    "a run that ends too early": ("run state", CHAIN, put(GOOD, 17)),
    "a time before the last one": ("times", CHAIN, put(GOOD, 6, completed(0, "a"))),
    "a dependent that does not wait": ("needs", CHAIN, put(GOOD, 2, queued(0, "a", "b"))),
    "a dependent that nobody decides": ("decisions", CHAIN, put(GOOD, 7)),
    "a dependent cancelled for nothing": (
        "decisions", CHAIN, put(GOOD, 7, cancelled(2, ["b"], "upstream_failed", "upstream_failed")),
    ),
    "an event after the end": ("terminal", CHAIN, [*GOOD, started(2_000, "a", 2, 2)]),
    "a second completion": ("legal moves", CHAIN, put(GOOD, 6, GOOD[5], GOOD[5])),
    "an attempt that is not counted": ("attempts", CHAIN, changed(GOOD, 11, attempt=1)),
    "a fence that does not rise": ("fencing", CHAIN, changed(GOOD, 15, fence=2)),
    "a report of the holder before": ("fencing", CHAIN, put(GOOD, 17, completed(1_007, "b", 3, WORKER))),
    "a completion of another attempt": ("attempts", CHAIN, changed(GOOD, 17, attempt=2)),
    "a wait that is too short": ("retry delay", CHAIN, changed(GOOD, 9, until=time_text(START_US + 1_003))),
    "a start before its time": ("due time", CHAIN, put(GOOD, 11, started(1_003, "b", 2, 2))),
    "a budget that is miscounted": ("budgets", CHAIN, changed(GOOD, 13, attemptsLeft=2)),
    "a lease lost by somebody else": ("leases", CHAIN, changed(GOOD, 13, worker="w/9")),
    "another step hash on the second attempt": ("step hash", CHAIN, changed(GOOD, 17, stepHash=HASH["c"])),
    "an outcome that came out of nothing": ("outcome hash", CHAIN, changed(GOOD, 18, outcomeHash=HASH["c"])),
    "outputs that are others": ("outputs hash", CHAIN, changed(GOOD, 18, outputsHash=HASH["c"])),
    "a mark that is not earned": ("reproducible", CHAIN, changed(GOOD, 18, reproducible=False)),
    "an engine that executes a worker's step": ("leases", CHAIN, put(GOOD, 4, entered(1, "a"))),
    "a choice of a step that cannot choose": ("selection", CHAIN, changed(GOOD, 6, chosen=["b"])),
    "data that no event has": ("event data", CHAIN, changed(GOOD, 9, reason="boredom")),
    "a cancellation by nobody": (
        "cancellation", CHAIN,
        [*GOOD[:5], cancelled(2, ["a", "b"], "run_cancelled", "circumstance")],
    ),
    "a cancelled run that goes on": (
        "cancellation", CHAIN,
        [*GOOD[:5], cancelled(2, ["a"], "run_cancelled", "circumstance", "local:me"), GOOD[6]],
    ),
    "a failFast that nobody asked for": (
        "decisions", CHAIN, [*GOOD[:3], cancelled(1, ["a", "b"], "fail_fast", "circumstance")],
    ),
    "an approval that came too late": ("deadlines", APPROVAL, [*APPROVED[:7], resumed(501, "a", "approved")]),
    "an answer to what nobody asked": ("waits", APPROVAL, put(APPROVED, 8, resumed(2, "a", "answered"))),
    "a rejection that completes": (
        "waits", APPROVAL, put(APPROVED, 8, resumed(2, "a", "rejected")),
    ),
    "a wait that may last too long": (
        "deadlines", APPROVAL, put(APPROVED, 5, awaits(1, "a", "awaiting_user_confirmation", "confirmation", 502)),
    ),
    "an engine that approves": ("waits", APPROVAL, put(APPROVED, 8, resumed(2, "a", "approved", "engine"))),
    "an expiry before its time": (
        "deadlines", APPROVAL,
        [*APPROVED[:7], (400, "engine", "step.failed", "a", {"cause": "circumstance", "errorHash": None, "reason": "rejected"})],
    ),
    "a wait that nobody ends": (
        "deadlines", dag(APPROVAL.steps[0], step("b")),
        [
            received(), queued(0, "a", "b"), run_is(0, "queued"), *APPROVED[3:5], run_is(1, "executing"),
            started(2, "b"), completed(3_000_000, "b"), run_is(3_000_000, "awaiting_user_confirmation"),
        ],
    ),
    "a run that goes on after its time": ("deadlines", replace(CHAIN, timeout_us=1), [*GOOD[:7], started(2_000_000, "b")]),
    "a step that goes on after its time": (
        "deadlines", dag(step("a"), step("b", "a", timeout_us=1)), [*GOOD[:7], started(2_000_000, "b")],
    ),
    "a worker that takes a wait": ("leases", APPROVAL, put(APPROVED, 4, started(1, "a"))),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "spec", "rows"), BAD.values(), ids=BAD.keys())
def test_a_bad_history_is_refused_by_its_rule(rule: str, spec: DagSpec, rows: Sequence[Row]) -> None:
    violation = check_run(history(spec, rows))
    assert violation is not None
    assert violation.rule == rule, str(violation)


SINGLE = dag(step("a"))
FAILING = (
    received(), queued(0, "a"), run_is(0, "queued"), started(1, "a"), run_is(1, "executing"),
    retried(2, "a", 1_002), run_is(2, "awaiting_tool"), started(1_002, "a", 2, 2), run_is(1_002, "executing"),
    failed(1_003, "a", 2, 2, "failure_budget_exhausted"), ended(1_003, "failed", [("a", "failed", "work")]),
)  # fmt: skip


def test_budgets_are_spent_exactly() -> None:
    assert check_run(history(SINGLE, FAILING)) is None
    refused: Mapping[str, tuple[Callable[[], list[Row]], str]] = {
        "the wrong budget": (lambda: changed(FAILING, 10, reason="attempt_budget_exhausted"), "budgets"),
        "the wrong cause": (lambda: changed(FAILING, 10, cause="circumstance"), "causes"),
        "a retry too many": (lambda: [*FAILING[:9], retried(1_003, "a", 3_003, 2, 2)], "budgets"),
    }
    for name, (rows, rule) in refused.items():
        violation = check_run(history(SINGLE, rows()))
        assert violation is not None, name
        assert violation.rule == rule, name


def test_what_is_left_to_the_run_is_recorded_wherever_it_has_a_budget() -> None:
    spec = replace(SINGLE, failure_budget=3)
    told = changed(FAILING, 6, runFailures=1, runFailuresLeft=2)
    told = changed(told, 10, runFailures=2, runFailuresLeft=1)
    assert check_run(history(spec, told)) is None
    refused = {
        "not told": (spec, FAILING),
        "told of the step alone": (spec, changed(told, 10, runFailures=1)),
        "too much left": (spec, changed(told, 10, runFailuresLeft=2)),
        "told where there is none": (SINGLE, told),
    }
    for name, (of, rows) in refused.items():
        violation = check_run(history(of, rows))
        assert violation is not None, name
        assert violation.rule == "budgets", name


def test_a_failure_that_is_final_is_never_retried() -> None:
    final = frozenset({"step_raised"})
    violation = check_run(history(SINGLE, FAILING), final)
    assert violation is not None
    assert (violation.rule, violation.sequence) == ("budgets", 6)
    once = [*FAILING[:5], failed(2, "a", 1, 1, "step_raised"), ended(2, "failed", [("a", "failed", "work")])]
    assert check_run(history(SINGLE, once), final) is None
    assert check_run(history(SINGLE, once), frozenset()) is not None


def test_a_gap_in_the_sequence_is_refused() -> None:
    whole = history(CHAIN, GOOD)
    violation = check_run(replace(whole, entries=[*whole.entries[:5], *whole.entries[6:]]))
    assert violation is not None
    assert violation.rule == "sequences"


def test_an_event_of_another_run_or_tenant_is_refused() -> None:
    whole = history(CHAIN, GOOD)
    for strange in (whole.entries[5]._replace(tenant="u"), whole.entries[5]._replace(run="9" * 32)):
        violation = check_run(replace(whole, entries=[*whole.entries[:5], strange, *whole.entries[6:]]))
        assert violation is not None
        assert violation.rule == "tenants"


def test_one_changed_fact_breaks_the_chain() -> None:
    whole = history(CHAIN, GOOD)
    head = chain("0" * 64, whole.entries)
    assert check_run(replace(whole, chain_head=head)) is None
    noted = [*GOOD[:-1], (*GOOD[-1][:4], GOOD[-1][4] | {"noteHash": HASH["c"]})]
    violation = check_run(replace(history(CHAIN, noted), chain_head=head))
    assert violation is not None
    assert violation.rule == "chain"


def test_a_report_that_was_acknowledged_has_to_be_there() -> None:
    whole = history(CHAIN, GOOD)
    kept = [
        Acknowledged("0" * 32, "a", 1, completed=True, result=HASH["out"]),
        Acknowledged("0" * 32, "b", 1, completed=False, result=HASH["error"]),
    ]
    assert check([whole], acknowledged=kept) == []
    gone = [replace(kept[0], result=HASH["c"]), replace(kept[1], step="a"), replace(kept[0], run="9" * 32)]
    assert [violation.rule for violation in check([whole], acknowledged=gone)] == ["acknowledged"] * 3


def overtaking(*, first: int, second: int, priority: int = 100, since: int = 0) -> list[History]:
    """Return two runs of one step: when the first, submitted first, and the second start."""
    rows = [received(), queued(0, "a"), run_is(0, "queued"), started(first, "a"), run_is(first, "executing")]
    others = [
        (since, *received("1", priority=priority)[1:]), queued(since, "a"), run_is(since, "queued"),
        started(second, "a"), run_is(second, "executing"),
    ]  # fmt: skip
    return [history(SINGLE, rows), history(SINGLE, others, "1")]


def test_the_queue_is_first_in_first_out_within_a_priority() -> None:
    assert check(overtaking(first=5, second=6)) == []
    assert check(overtaking(first=5, second=5)) == []
    assert [violation.rule for violation in check(overtaking(first=6, second=5))] == ["queue order"]
    assert check(overtaking(first=6, second=5), steady=False) == []


def test_a_lower_priority_number_goes_first_once_it_is_there() -> None:
    assert check(overtaking(first=6, second=5, priority=10)) == []
    assert [v.rule for v in check(overtaking(first=5, second=6, priority=10))] == ["queue order"]
    assert check(overtaking(first=5, second=9, priority=10, since=7)) == []


def test_a_retry_that_is_due_keeps_its_place_and_one_that_is_not_holds_nobody_up() -> None:
    rows = [*FAILING[:7], started(2_000, "a", 2, 2), run_is(2_000, "executing")]

    def second(at: int) -> list[Row]:
        return [
            (1, *received("1")[1:]),
            queued(1, "a"),
            run_is(1, "queued"),
            started(at, "a"),
            run_is(at, "executing"),
        ]

    early, late = (history(SINGLE, second(at), "1") for at in (1_050, 1_150))
    assert check([history(SINGLE, rows), early]) == []
    assert [violation.rule for violation in check([history(SINGLE, rows), late])] == ["queue order"]


def test_exported_lines_are_read_as_the_events_they_are() -> None:
    entry = history(CHAIN, GOOD).entries[8]
    line = (
        '{"actor":"worker:w/1","data":{"a":1},"runId":"'
        + entry.run
        + '","sequence":9,"stepId":"b","tenant":"t",'
        f'"time":"{time_text(entry.time_us)}","type":"step.awaiting_tool"}}'
    )
    assert entry_of_line(line) == entry._replace(data={"a": 1})
    specs = {HASH["version"]: CHAIN}
    both = histories_of([*history(CHAIN, GOOD, "1").entries, *history(CHAIN, GOOD).entries], specs)
    assert [(one.entries[0].run[0], len(one.entries)) for one in both] == [("1", 18), ("0", 18)]


def test_the_checker_reads_none_of_the_code_that_is_to_keep_the_rules() -> None:
    own = {"checker", "steps", "order", "hashes", "histories"}
    allowed = {"sovrun.core.events", "sovrun.core.spec.model"} | {f"sovrun.simulation.{name}" for name in own}
    folder = Path(checker.__file__).parent
    for name in own:
        tree = ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {module for module in imported if module and module.startswith("sovrun")} <= allowed, name
    events = ast.parse((folder / "histories.py").read_text(encoding="utf-8"))
    taken = [
        alias.name
        for node in ast.walk(events)
        if isinstance(node, ast.ImportFrom) and node.module == "sovrun.core.events"
        for alias in node.names
    ]
    assert taken == ["Event"]
