"""Whatever the order in which steps run, a deterministic DAG comes to one outcome, decided by counters alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.errors import IllegalTransition
from sovrun.core.events import Fact
from sovrun.core.identity import Outcome
from sovrun.core.ids import Actor
from sovrun.core.lifecycle import TERMINAL, Cause, Reason, State
from sovrun.core.run import Write
from sovrun.core.spec.model import DagSpec, Retry
from sovrun.core.step import LoseLease, StepCommand
from support import dags
from support.worlds import World, admitted, completed, failed, results, written

MANY = settings(max_examples=1_000, deadline=None)
THRICE = Retry(max_attempts=3, max_failures=2, base_us=0, cap_us=0)


# --- all interleavings --------------------------------------------------------------------------------------------------

Nature = Mapping[str, str | Sequence[str]]
"""Of a step that does not simply return: `fails`, `breaks` (not retryable), or the ids that it chooses."""


def behaved(world: World, position: int, nature: Nature) -> StepCommand:
    """Return what the step at `position` reports, every time it runs."""
    way = nature.get(world.plan.steps[position].id)
    if way == "fails":
        return failed(world, position)
    if way == "breaks":
        return failed(world, position, retryable=False)
    if way is None:
        return completed(world, position)
    return completed(world, position, [world.plan.index[choice] for choice in way])  # type: ignore[index]


def groups(positions: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(positions, size) for size in range(1, len(positions) + 1))


def schedules(world: World, nature: Nature) -> Iterator[World]:
    """Yield the world after every next write of any number of workers, some of which may be lost."""
    for claims in groups(world.where(State.QUEUED, State.AWAITING_TOOL)):
        yield written(world, claims=claims)
    for group in groups(world.where(State.EXECUTING)):
        moves = [(position, behaved(world, position, nature)) for position in group]
        yield written(world, moves)
        yield written(world, moves[::-1])
    for position in world.where(State.EXECUTING):
        yield written(world, [(position, LoseLease())])


def ends(spec: DagSpec, nature: Nature) -> list[World]:
    """Return the end of a run of a DAG of deterministic steps, once for every last write that can lead to it."""
    first = admitted(spec)
    seen, front, over = {first.key}, [first], []
    while front:
        for world in schedules(front.pop(), nature):
            if world.over:
                over.append(world)
            elif world.key not in seen:
                seen.add(world.key)
                front.append(world)
    return over


NATURES: Mapping[str, tuple[DagSpec, Nature, State]] = {
    "chain": (dags.shaped(dags.CHAIN, retry=THRICE), {}, State.COMPLETED),
    "chain, middle fails": (dags.shaped(dags.CHAIN, retry=THRICE), {"b": "fails"}, State.FAILED),
    "diamond": (dags.shaped(dags.DIAMOND, retry=THRICE), {}, State.COMPLETED),
    "diamond, one fails": (dags.shaped(dags.DIAMOND, retry=THRICE), {"b": "fails"}, State.FAILED),
    "diamond, one breaks": (dags.shaped(dags.DIAMOND, retry=THRICE), {"c": "breaks"}, State.FAILED),
    "fan out, one fails": (dags.shaped(dags.FAN_OUT, retry=THRICE), {"c": "fails"}, State.FAILED),
    "crossed": (dags.shaped(dags.CROSSED, retry=THRICE), {}, State.COMPLETED),
    "crossed, one fails": (dags.shaped(dags.CROSSED, retry=THRICE), {"a": "fails"}, State.FAILED),
    "chooser, left": (dags.chooser(retry=THRICE), {"pick": ["left"]}, State.COMPLETED),
    "chooser, right": (dags.chooser(retry=THRICE), {"pick": ["right"]}, State.COMPLETED),
    "chooser, both": (dags.chooser(retry=THRICE), {"pick": ["left", "right"]}, State.COMPLETED),
    "chooser, none": (dags.chooser(retry=THRICE), {"pick": []}, State.COMPLETED),
    "chooser, right fails": (dags.chooser(retry=THRICE), {"pick": ["right"], "right": "fails"}, State.FAILED),
}


@pytest.mark.parametrize(("spec", "nature", "state"), list(NATURES.values()), ids=list(NATURES))
def test_every_interleaving_that_is_reproducible_has_one_outcome(
    spec: DagSpec, nature: Nature, state: State
) -> None:
    over = ends(spec, nature)
    reproducible = [world.head for world in over if world.head.reproducible]
    assert len(reproducible) >= 2, "several ways must lead to the end, or nothing is shown"
    assert {(head.state, head.outcome, head.outputs) for head in reproducible} == {
        (state, reproducible[0].outcome, reproducible[0].outputs)
    }
    for world in over:
        owed = {step.cause for step in world.steps}
        assert world.head.reproducible is (Cause.CIRCUMSTANCE not in owed)
    assert not all(world.head.reproducible for world in over), "losing every worker must show"


def test_outcomes_differ_by_what_a_selector_chose_and_by_what_failed() -> None:
    outcomes = [
        {world.head.outcome for world in ends(spec, nature) if world.head.reproducible}
        for spec, nature, _ in NATURES.values()
        if spec.steps[0].id == "pick"
    ]
    assert len(set().union(*outcomes)) == len(outcomes) == 5


# --- readiness ----------------------------------------------------------------------------------------------------------


def expected_of(world: World, position: int) -> Reason | State:
    """Decide a step by looking at its needs, in the words of the design."""
    plan = world.plan
    needs = [world.steps[need] for need in plan.needs[position]]
    if any(need.state not in TERMINAL for need in needs):
        return State.RECEIVED
    if any(need.state is State.FAILED or need.reason == Reason.UPSTREAM_FAILED for need in needs):
        return Reason.UPSTREAM_FAILED
    chosen = dict(world.chosen)
    unchosen = any(
        plan.steps[position].id in plan.steps[need].select and position not in chosen[need]
        for need in plan.needs[position]
        if need in chosen
    )
    skipped = [need.reason == Reason.NOT_SELECTED for need in needs]
    if unchosen or (needs and all(skipped)) or (any(skipped) and not plan.steps[position].join_any):
        return Reason.NOT_SELECTED
    return State.QUEUED


def require_decided_as_expected(world: World) -> None:
    """Compare what counters decided with what scanning the needs gives, for every step."""
    stopped = (Reason.FAIL_FAST, Reason.RUN_CANCELLED)
    for position, step in enumerate(world.steps):
        if step.state is State.CANCELLED and step.reason in stopped:
            continue
        expected = expected_of(world, position)
        if step.state is State.RECEIVED:
            assert expected is State.RECEIVED, position
        elif step.state is State.CANCELLED and step.attempts == 0:
            assert step.reason == expected, position
        else:
            assert expected is State.QUEUED, position


@MANY
@given(dags.dags(steps_max=8), st.integers(0, 2**32))
def test_counters_decide_every_step_as_scanning_its_needs_would(spec: DagSpec, seed: int) -> None:
    chance = random.Random(seed)
    world = admitted(spec)
    require_decided_as_expected(world)
    while not world.over:
        ready = world.where(State.QUEUED, State.AWAITING_TOOL)
        executing = world.where(State.EXECUTING)
        if ready and (not executing or chance.random() < 0.5):
            world = written(world, claims=sorted(chance.sample(ready, min(len(ready), chance.randint(1, 3)))))
        else:
            group = chance.sample(executing, chance.randint(1, len(executing)))
            world = written(world, [(p, chance.choice(list(results(world, p)))) for p in group])
        require_decided_as_expected(world)


def test_a_decision_touches_the_dependents_alone_and_asks_for_no_counter_of_a_single_need() -> None:
    world = admitted(dags.shaped({"a": "", "b": "a", "c": "a", "d": "c", "e": "", "f": "d e"}))
    world = written(world, claims=world.where(State.QUEUED))
    write = Write(world.plan, world.head, 0)
    position = world.plan.index[world.plan.spec.steps[0].id]
    write.move(position, world.steps[position], completed(world, position), Actor("worker:w/1"))
    assert list(write.settle()) == []
    assert sorted(world.plan.steps[p].id for p in write.steps) == ["a", "b", "c"]


# --- one write ----------------------------------------------------------------------------------------------------------


def test_steps_moved_by_one_cause_are_one_fact() -> None:
    world = admitted(dags.shaped(dags.FAN_OUT))
    world = written(written(world, claims=[0]), [])
    write = Write(world.plan, world.head, 5)
    write.move(0, world.steps[0], completed(world, 0), Actor("worker:w/1"))
    list(write.settle())
    assert write.facts[-1] == Fact("step.queued", -1, Actor("engine"), '{"steps":["b","c","d"]}')
    assert write.ready == [1, 2, 3]


def test_the_time_of_a_write_never_goes_back() -> None:
    world = admitted(dags.shaped(dags.SINGLE))
    late = Write(world.plan, written(world, claims=[0]).head, 50)
    assert late.now_us == 50
    late.derive()
    assert late.head().time_us == 0, "a write without facts leaves no time"
    claimed = Write(world.plan, world.head, 50)
    claimed.start([(0, world.steps[0])], "w/1", Actor("worker:w/1"))  # type: ignore[arg-type]
    assert claimed.head().time_us == 50
    assert Write(world.plan, claimed.head(), 20).now_us == 50


def test_fail_fast_cancels_what_has_not_started_and_lets_the_rest_end() -> None:
    spec = dags.shaped({"a": "", "b": "", "c": "", "d": "a", "e": "b"}, fail_fast=True)
    world = written(admitted(spec), claims=[0, 1])
    assert [world.plan.steps[p].id for p in (0, 1)] == ["a", "b"]
    world = written(world, [(0, failed(world, 0))])
    states = {
        step.id: world.steps[p].reason or world.steps[p].state for p, step in enumerate(world.plan.steps)
    }
    assert states == {
        "a": Reason.ATTEMPT_BUDGET_EXHAUSTED,
        "b": State.EXECUTING,
        "c": Reason.FAIL_FAST,
        "d": Reason.UPSTREAM_FAILED,
        "e": Reason.FAIL_FAST,
    }
    world = written(world, [(1, completed(world, 1))])
    assert (world.head.state, world.head.reason, world.head.reproducible) == (
        State.FAILED,
        Reason.STEP_FAILED,
        False,
    )
    assert world.steps[1].state is State.COMPLETED


def test_a_cancelled_run_ends_at_once_and_says_why() -> None:
    world = written(admitted(dags.shaped(dags.DIAMOND)), claims=[0])
    world = written(world, cancel=True)
    assert (world.head.state, world.head.reason, world.head.reproducible) == (
        State.CANCELLED,
        Reason.RUN_CANCELLED,
        False,
    )
    assert {(step.state, step.reason) for step in world.steps} == {(State.CANCELLED, Reason.RUN_CANCELLED)}
    assert world.trail == ("step.cancelled", "run.cancelled")


def test_a_run_with_steps_that_go_on_cannot_be_ended() -> None:
    world = written(admitted(dags.shaped(dags.SINGLE)), claims=[0])
    write = Write(world.plan, world.head, 0)
    with pytest.raises(IllegalTransition, match="not terminal"):
        write.end(Outcome(world.head.version, world.head.version, reproducible=True))
