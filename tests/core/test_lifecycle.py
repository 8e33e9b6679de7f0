"""The lifecycle is the table of the design, and whatever the steps do, the run moves along it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise, product

import pytest

from sovrun.core.errors import IllegalTransition
from sovrun.core.lifecycle import (
    TERMINAL,
    TRANSITIONS,
    Counts,
    Reason,
    RunFacts,
    State,
    Tally,
    decide_received,
    is_move,
    run_path,
    run_state,
)
from sovrun.core.spec.model import DagSpec, Retry
from support import dags
from support.worlds import World, admitted, results, written

# Written out from the design and not from the code: columns in the order of the rows, `=` same, `y` legal, `.` refused.
TABLE = """
received                    = y . . . . y y
queued                      . = y . . . y y
executing                   . . = y y y y y
awaiting_tool               . . y = . . y y
awaiting_user_confirmation  . . y . = . y y
completed                   . . . . . = . .
failed                      . . . . . . = .
cancelled                   . . . . . . . =
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]
NAMES = [row[0] for row in ROWS]
CELLS = {
    (State(row[0]), State(target)): cell for row in ROWS for target, cell in zip(NAMES, row[1:], strict=True)
}


def legal(source: State, target: State) -> bool:
    return CELLS[source, target] == "y"


# --- the table ---------------------------------------------------------------------------------------------------------


def test_the_written_table_has_every_pair_of_the_eight_states() -> None:
    assert [state.value for state in State] == NAMES
    assert [list(CELLS.values()).count(cell) for cell in "y=."] == [17, 8, 39]


@pytest.mark.parametrize(("source", "target"), [*product(State, State)])
def test_every_pair_of_states_is_judged_as_the_design_says(source: State, target: State) -> None:
    cell = CELLS[source, target]
    assert (target in TRANSITIONS[source]) is (cell == "y")
    if cell == ".":
        with pytest.raises(IllegalTransition) as refusal:
            is_move(source, target)
        assert refusal.value.facts == {"source": source, "target": target}
        assert source in refusal.value.detail
        assert target in refusal.value.detail
    else:
        assert is_move(source, target) is (cell == "y")


def test_terminal_states_are_those_with_no_way_out() -> None:
    assert {State.COMPLETED, State.FAILED, State.CANCELLED} == TERMINAL
    assert all(not TRANSITIONS[state] for state in TERMINAL)


def test_the_table_cannot_be_changed_by_those_who_read_it() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[State.COMPLETED] = frozenset(State)  # type: ignore[index]


# --- the decision of a received step -----------------------------------------------------------------------------------


def ways_needs_can_end(count: int) -> Iterator[tuple[str, ...]]:
    """Yield how each need ended: completed, failed, not selected, or completed without choosing this step."""
    return product(("completed", "failed", "not_selected", "unchosen"), repeat=count)


@pytest.mark.parametrize("join_any", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_received_step_is_decided_as_the_design_says(count: int, *, join_any: bool) -> None:
    for ends in ways_needs_can_end(count):
        tally = Tally(
            0, ends.count("failed"), ends.count("not_selected"), unchosen=ends.count("unchosen") > 0
        )
        if "failed" in ends:
            expected: Reason | None = Reason.UPSTREAM_FAILED
        elif "unchosen" in ends or set(ends) == {"not_selected"}:
            expected = Reason.NOT_SELECTED
        elif "not_selected" in ends:
            expected = None if join_any else Reason.NOT_SELECTED
        else:
            expected = None
        assert decide_received(tally, count, join_any=join_any) is expected, ends


# --- the state of a run ------------------------------------------------------------------------------------------------


def state_by_the_design(states: Sequence[State], *, started: bool, cancelled: bool) -> State:
    """Derive a run's state by looking at every step, in the words of the design."""
    if all(state in (State.COMPLETED, State.FAILED, State.CANCELLED) for state in states):
        if cancelled:
            return State.CANCELLED
        return State.FAILED if State.FAILED in states else State.COMPLETED
    if not started:
        return State.QUEUED if State.QUEUED in states else State.RECEIVED
    if State.QUEUED in states or State.EXECUTING in states:
        return State.EXECUTING
    if State.AWAITING_USER_CONFIRMATION in states:
        return State.AWAITING_USER_CONFIRMATION
    return State.AWAITING_TOOL


def counts_of(states: Sequence[State]) -> Counts:
    return Counts(
        received=states.count(State.RECEIVED),
        queued=states.count(State.QUEUED),
        executing=states.count(State.EXECUTING),
        awaiting_tool=states.count(State.AWAITING_TOOL),
        awaiting_user=states.count(State.AWAITING_USER_CONFIRMATION),
        failed=states.count(State.FAILED),
    )


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_runs_state_is_the_function_of_its_steps_that_the_design_gives(size: int) -> None:
    for states in product(State, repeat=size):
        for started, cancelled in product((False, True), repeat=2):
            facts = RunFacts(counts_of(states), started=started, cancelled=cancelled)
            expected = state_by_the_design(states, started=started, cancelled=cancelled)
            assert run_state(facts) is expected, (states, started, cancelled)


def test_a_run_passes_through_executing_where_the_new_state_is_not_one_move_away() -> None:
    waits = (State.AWAITING_TOOL, State.AWAITING_USER_CONFIRMATION)
    for source, target in (waits, waits[::-1], *product(waits, [State.COMPLETED])):
        assert run_path(source, target) == (State.EXECUTING, target)


@pytest.mark.parametrize(("source", "target"), [*product(State, State)])
def test_the_way_of_a_run_is_made_of_legal_moves_and_is_the_shortest(source: State, target: State) -> None:
    ways = [
        (*between, target)
        for length in range(4)
        for between in product(State, repeat=length)
        if all(legal(a, b) for a, b in pairwise((source, *between, target)))
    ]
    if source is target:
        assert run_path(source, target) == ()
    elif not ways:
        with pytest.raises(IllegalTransition):
            run_path(source, target)
    else:
        way = run_path(source, target)
        assert way in ways
        assert len(way) == len(ways[0])


# --- every reachable combination of step states -------------------------------------------------------------------------

TWICE = Retry(max_attempts=2, max_failures=2, base_us=0, cap_us=0)
SHAPES: Mapping[str, DagSpec] = {
    "single, twice": dags.shaped(dags.SINGLE, retry=TWICE),
    "chain, twice": dags.shaped(dags.CHAIN, retry=TWICE),
    "apart, twice": dags.shaped(dags.APART, retry=TWICE),
    "diamond, twice": dags.shaped(dags.DIAMOND, retry=TWICE),
    "diamond": dags.shaped(dags.DIAMOND),
    "diamond, fail fast": dags.shaped(dags.DIAMOND, fail_fast=True),
    "fan out": dags.shaped(dags.FAN_OUT),
    "fan out, fail fast": dags.shaped(dags.FAN_OUT, fail_fast=True),
    "fan in": dags.shaped(dags.FAN_IN),
    "crossed": dags.shaped(dags.CROSSED),
    "crossed, fail fast, twice": dags.shaped(dags.CROSSED, fail_fast=True, retry=TWICE),
    "chooser": dags.chooser(),
    "chooser, fail fast": dags.chooser(fail_fast=True),
}


def every_write(world: World) -> Iterator[World]:
    """Yield the world after every single write that could follow.

    One or two steps claimed; one or two executing ones reported or lost, alone or with a claim of the next ready
    step in the same write; or a cancellation.
    """
    claimable = world.where(State.QUEUED, State.AWAITING_TOOL)
    for claims in (*combinations(claimable, 1), *combinations(claimable, 2)):
        yield written(world, claims=claims)
    executing = world.where(State.EXECUTING)
    for group in (*combinations(executing, 1), *combinations(executing, 2)):
        for moves in product(*([(p, command) for command in results(world, p)] for p in group)):
            after = written(world, moves)
            yield after
            ready = after.where(State.QUEUED, State.AWAITING_TOOL)
            if ready:
                yield written(world, moves, ready[:1])
    yield written(world, cancel=True)


def reachable(spec: DagSpec) -> Iterator[tuple[World, World]]:
    """Yield every reachable world with every world that can follow it."""
    first = admitted(spec)
    seen = {first.key}
    front = [first]
    while front:
        world = front.pop()
        if world.over:
            continue
        for after in every_write(world):
            yield world, after
            if after.key not in seen:
                seen.add(after.key)
                front.append(after)


@pytest.mark.parametrize("spec", list(SHAPES.values()), ids=list(SHAPES))
def test_whatever_the_steps_do_the_run_moves_along_the_table(spec: DagSpec) -> None:
    reached = set()
    for before, after in reachable(spec):
        run = [State(type_.removeprefix("run.")) for type_ in after.trail if type_.startswith("run.")]
        assert all(legal(a, b) for a, b in pairwise((before.head.state, *run))), (before, after.trail)
        assert after.head.state is (run[-1] if run else before.head.state)
        states = [step.state for step in after.steps]
        head = after.head
        expected = state_by_the_design(states, started=head.started, cancelled=head.cancelled)
        assert head.state is expected, (before.head, states)
        assert head.counts == counts_of(states)
        reached.add(head.state)
    tried_again = {State.AWAITING_TOOL} if spec.steps[0].retry is TWICE else set()
    assert reached == {State.EXECUTING, State.COMPLETED, State.FAILED, State.CANCELLED} | tried_again


def test_a_run_is_received_and_then_queued_by_its_submission() -> None:
    assert [type_ for type_ in admitted(dags.shaped(dags.CHAIN)).trail if type_.startswith("run.")] == [
        "run.received",
        "run.queued",
    ]
