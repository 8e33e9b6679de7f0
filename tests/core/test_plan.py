"""The plan is the one topological order with ties by code point, and a circle is shown in full."""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.ids import DagId, StepId
from sovrun.core.plan import Cycle, plan_of, plan_order
from sovrun.core.spec.model import DagSpec, Kind, StepSpec

MANY = settings(max_examples=1_000, deadline=None)
NAMES = ["a", "B", "b", "a-1", "a_1", "Z", "_", "aa", "s10", "s9"]

Needs = dict[StepId, list[StepId]]


@st.composite
def graphs(draw: st.DrawFn, *, acyclic: bool) -> Needs:
    names = [StepId(name) for name in draw(st.permutations(NAMES))[: draw(st.integers(1, len(NAMES)))]]
    return {
        name: draw(st.lists(st.sampled_from(earlier), max_size=4)) if earlier else []
        for place, name in enumerate(names)
        if (earlier := names[:place] if acyclic else names) is not None
    }


def naive_order(needs: Mapping[StepId, Sequence[StepId]]) -> list[StepId] | None:
    """Of all steps whose needs are done take the smallest, again and again."""
    order: list[StepId] = []
    while len(order) < len(needs):
        ready = [step for step in needs if step not in order and set(needs[step]) <= set(order)]
        if not ready:
            return None
        order.append(min(ready))
    return order


@MANY
@given(graphs(acyclic=True))
def test_the_order_is_the_one_that_the_definition_gives(needs: Needs) -> None:
    assert list(plan_order(needs)) == naive_order(needs)


@MANY
@given(graphs(acyclic=True), st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_how_the_steps_were_written(needs: Needs, rng: random.Random) -> None:
    items = [(step, rng.sample(found, len(found))) for step, found in needs.items()]
    rng.shuffle(items)
    assert plan_order(dict(items)) == plan_order(needs)


def shortest_circle_through(step: StepId, needs: Needs) -> int:
    """Length of the shortest way from `step` back to itself."""
    distances = dict.fromkeys(needs[step], 1)
    queue = [(1, need) for need in distances]
    while queue:
        distance, at = heapq.heappop(queue)
        for need in needs[at]:
            if distance + 1 < distances.get(need, len(needs) + 1):
                distances[need] = distance + 1
                heapq.heappush(queue, (distance + 1, need))
    return distances[step]


@MANY
@given(graphs(acyclic=False), st.randoms(use_true_random=False))
def test_a_circle_is_shown_in_full_and_always_the_same(needs: Needs, rng: random.Random) -> None:
    expected = naive_order(needs)
    if expected is not None:
        assert list(plan_order(needs)) == expected
        return
    with pytest.raises(Cycle) as caught:
        plan_order(needs)
    path = caught.value.path
    assert path[0] == path[-1]
    assert len(set(path)) == len(path) - 1
    assert all(before in needs[after] for before, after in pairwise(path))
    assert len(path) - 1 == shortest_circle_through(path[0], needs)
    items = list(needs.items())
    rng.shuffle(items)
    with pytest.raises(Cycle) as again:
        plan_order(dict(items))
    assert again.value.path == path


def test_ties_go_by_code_point_and_not_by_length_or_case() -> None:
    names = [StepId(name) for name in ("s10", "s9", "a", "B", "_", "a-1", "aa")]
    assert plan_order({name: [] for name in names}) == ("B", "_", "a", "a-1", "aa", "s10", "s9")


def test_a_step_that_needs_itself_is_a_circle_of_one() -> None:
    with pytest.raises(Cycle, match="a -> a"):
        plan_order({StepId("a"): [StepId("a")]})


def test_of_many_circles_of_one_length_it_is_always_the_same() -> None:
    others = [StepId(f"n{place}") for place in range(20)]
    with pytest.raises(Cycle, match="a -> n0 -> a"):
        plan_order({StepId("a"): others[::-1], **{other: [StepId("a")] for other in others}})


def test_a_long_chain_has_an_order_and_a_long_circle_a_path_without_recursion() -> None:
    names = [StepId(f"s{place:05}") for place in range(5_000)]
    needs: Needs = {name: names[place - 1 : place] if place else [] for place, name in enumerate(names)}
    assert plan_order(needs) == tuple(names)
    needs[names[0]] = [names[-1]]
    with pytest.raises(Cycle) as caught:
        plan_order(needs)
    assert list(caught.value.path) == [*names, names[0]]


@MANY
@given(graphs(acyclic=True), st.data())
def test_a_plan_says_by_position_who_waits_for_whom_and_who_chooses(
    needs: Needs, data: st.DataObject
) -> None:
    order = plan_order(needs)
    dependents = {step: sorted(other for other in order if step in needs[other]) for step in order}
    chosen = {
        step: data.draw(st.lists(st.sampled_from(names), unique=True))
        for step, names in dependents.items()
        if names
    }
    steps = tuple(
        StepSpec(
            id=step,
            kind=Kind.PYTHON,
            entry="m:f",
            needs=tuple(sorted(set(needs[step]))),
            select=tuple(sorted(chosen.get(step, []))),
        )
        for step in order
    )
    plan = plan_of(DagSpec(id=DagId("d"), inputs={}, steps=steps))
    assert plan.size == len(order)
    assert [plan.index[step] for step in order] == list(range(len(order)))
    for position, step in enumerate(order):
        assert plan.needs[position] == tuple(sorted(order.index(need) for need in set(needs[step])))
        assert all(need < position for need in plan.needs[position])
        assert plan.dependents[position] == tuple(sorted(order.index(other) for other in dependents[step]))
        expected = {order.index(choice) for choice in chosen.get(step, [])}
        assert plan.selectable.get(position, frozenset()) == expected
    assert all(plan.selectable.values())
