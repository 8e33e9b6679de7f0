"""The one lifecycle, for runs and for steps.

Owns: the eight states, the one table of legal moves, the reason codes, the decision of a `received` step and the
derivation of a run's state. Nothing else in the code knows which move is legal.
Must not touch: clocks, stores, settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from itertools import pairwise
from types import MappingProxyType
from typing import Final, NamedTuple

from sovrun.core.errors import IllegalTransition


class State(StrEnum):
    """What a run or a step is doing."""

    RECEIVED = "received"
    QUEUED = "queued"
    EXECUTING = "executing"
    AWAITING_TOOL = "awaiting_tool"
    AWAITING_USER_CONFIRMATION = "awaiting_user_confirmation"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


_ENDS: Final = frozenset({State.FAILED, State.CANCELLED})

TRANSITIONS: Final[Mapping[State, frozenset[State]]] = MappingProxyType(
    {
        State.RECEIVED: frozenset({State.QUEUED}) | _ENDS,
        State.QUEUED: frozenset({State.EXECUTING}) | _ENDS,
        State.EXECUTING: frozenset({State.AWAITING_TOOL, State.AWAITING_USER_CONFIRMATION, State.COMPLETED})
        | _ENDS,
        State.AWAITING_TOOL: frozenset({State.EXECUTING}) | _ENDS,
        State.AWAITING_USER_CONFIRMATION: frozenset({State.EXECUTING}) | _ENDS,
        State.COMPLETED: frozenset(),
        State.FAILED: frozenset(),
        State.CANCELLED: frozenset(),
    }
)

TERMINAL: Final = frozenset(state for state, targets in TRANSITIONS.items() if not targets)


class Reason(StrEnum):
    """Why a step or a run is in its state. A code is public: never renamed, never reused."""

    # waits
    RETRY_DUE = "retry_due"
    LEASE_EXPIRED = "lease_expired"
    TOOL = "tool"
    CONFIRMATION = "confirmation"
    COMMAND = "command"
    COMMAND_UNKNOWN = "command_unknown"
    DAG_PAUSED = "dag_paused"
    TENANT_PAUSED = "tenant_paused"
    RUN_LIMIT = "run_limit"
    # the end of a wait, or of the time there was
    REJECTED = "rejected"
    CONFIRMATION_EXPIRED = "confirmation_expired"
    TOOL_EXPIRED = "tool_expired"
    COMMAND_REFUSED = "command_refused"
    STEP_TIMEOUT = "step_timeout"
    RUN_TIMEOUT = "run_timeout"
    # the decision about a failed attempt
    RETRY_SCHEDULED = "retry_scheduled"
    ATTEMPT_BUDGET_EXHAUSTED = "attempt_budget_exhausted"
    FAILURE_BUDGET_EXHAUSTED = "failure_budget_exhausted"
    RUN_BUDGET_EXHAUSTED = "run_budget_exhausted"
    # never executed
    UPSTREAM_FAILED = "upstream_failed"
    NOT_SELECTED = "not_selected"
    RUN_CANCELLED = "run_cancelled"
    FAIL_FAST = "fail_fast"
    # the end of a run
    STEP_FAILED = "step_failed"


class Cause(StrEnum):
    """What a step's end is owed to, as far as the promise of reproducibility goes (DESIGN section 4)."""

    WORK = "work"
    UPSTREAM_FAILED = "upstream_failed"
    NOT_SELECTED = "not_selected"
    CIRCUMSTANCE = "circumstance"


def is_move(source: State, target: State) -> bool:
    """Return whether `target` is a move, False when the state stays the same; raise `IllegalTransition` for the rest."""
    if target in TRANSITIONS[source]:
        return True
    if source is target:
        return False
    raise IllegalTransition(f"no move from {source} to {target}", source=source, target=target)


class Tally(NamedTuple):
    """What a `received` step knows of its needs: counters, so that nobody ever looks at the needs themselves.

    Args:
        remaining: needs that are not terminal yet.
        failed: needs that failed or are `upstream_failed`.
        skipped: needs that are `not_selected`.
        unchosen: a selector among the needs did not choose this step.
    """

    remaining: int
    failed: int = 0
    skipped: int = 0
    unchosen: bool = False


def decide_received(tally: Tally, needs: int, *, join_any: bool) -> Reason | None:
    """Return what becomes of a `received` step whose needs are all terminal.

    Args:
        tally: with `remaining` 0.
        needs: how many needs the step has.
        join_any: the step goes on when at least one need was selected.
    Returns: None when the step is queued, else the reason for which it is cancelled.
    """
    if tally.failed:
        return Reason.UPSTREAM_FAILED
    if tally.unchosen or (tally.skipped and (tally.skipped == needs or not join_any)):
        return Reason.NOT_SELECTED
    return None


class Counts(NamedTuple):
    """How many steps of a run are in which state; what the run's state depends on; `failed` counts the failed ones."""

    received: int = 0
    queued: int = 0
    executing: int = 0
    awaiting_tool: int = 0
    awaiting_user: int = 0
    failed: int = 0


class RunFacts(NamedTuple):
    """What a run's state is a function of: its steps, whether one has ever started, whether a cancellation was accepted."""

    counts: Counts
    started: bool
    cancelled: bool


def run_state(facts: RunFacts) -> State:
    """Return the state of a run (DESIGN section 3)."""
    counts = facts.counts
    if not (
        counts.received or counts.queued or counts.executing or counts.awaiting_tool or counts.awaiting_user
    ):
        if facts.cancelled:
            return State.CANCELLED
        return State.FAILED if counts.failed else State.COMPLETED
    if not facts.started:
        return State.QUEUED if counts.queued else State.RECEIVED
    if counts.queued or counts.executing:
        return State.EXECUTING
    # After the first start a run never goes back: a step that is still received has a need that is not terminal.
    return State.AWAITING_USER_CONFIRMATION if counts.awaiting_user else State.AWAITING_TOOL


def run_path(source: State, target: State) -> tuple[State, ...]:
    """Return the legal moves that lead a run from `source` to `target`, the last being `target`; empty when equal.

    Where the new state is not one move away, the run passes through `queued` or `executing`.
    Raises: IllegalTransition when there is no such way.
    """
    if source is target:
        return ()
    if target in TRANSITIONS[source]:
        return (target,)
    for between in ((State.EXECUTING,), (State.QUEUED,), (State.QUEUED, State.EXECUTING)):
        way = (source, *between, target)
        if all(after in TRANSITIONS[before] for before, after in pairwise(way)):
            return way[1:]
    raise IllegalTransition(f"no way from {source} to {target}", source=source, target=target)
