"""Whether a step is upstream of another is answered as a search of the whole graph would."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

import sovrun.core.spec.upstream as module
from sovrun.core.spec.upstream import not_upstream

MANY = settings(max_examples=1_000, deadline=None)

GRAPHS = st.lists(st.lists(st.integers(0, 30), max_size=3), min_size=1, max_size=30).map(
    lambda rows: [sorted({need for need in row if need < place}) for place, row in enumerate(rows)]
)


def ancestors(needs: list[list[int]]) -> list[set[int]]:
    found: list[set[int]] = []
    for row in needs:
        found.append(set(row).union(*(found[need] for need in row)))
    return found


def refused_naively(needs: list[list[int]]) -> set[tuple[int, int]]:
    above = ancestors(needs)

    return {(step, target) for step, target in everything(needs) if target not in above[step]}


def everything(needs: list[list[int]]) -> set[tuple[int, int]]:
    return {(step, target) for step in range(len(needs)) for target in range(len(needs))}


@MANY
@given(GRAPHS)
def test_near_steps_are_found_by_searching(needs: list[list[int]]) -> None:
    assert not_upstream(everything(needs), needs) == refused_naively(needs)


@MANY
@given(GRAPHS, st.integers(1, 4), st.integers(1, 5))
def test_far_steps_are_found_by_sweeping_in_batches(needs: list[list[int]], looks: int, batch: int) -> None:
    before = module._LOOKS_MAX, module._BATCH
    module._LOOKS_MAX, module._BATCH = looks, batch  # type: ignore[misc]
    try:
        assert not_upstream(everything(needs), needs) == refused_naively(needs)
    finally:
        module._LOOKS_MAX, module._BATCH = before  # type: ignore[misc]


def test_a_long_chain_is_answered_without_recursion() -> None:
    size = 20_000
    needs: list[list[int]] = [[place - 1] if place else [] for place in range(size)]
    pairs = {(size - 1, 0), (size - 1, 7), (5, 6), (6, 5), (9, 9)}
    assert not_upstream(pairs, needs) == {(5, 6), (9, 9)}
