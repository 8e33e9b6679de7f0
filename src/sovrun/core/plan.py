"""The plan: the one order in which the steps of a DAG are considered, and who waits for whom.

Owns: `plan_order` and `Plan`. The order is topological, ties by step id in code point order (DESIGN section 4).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sovrun.core.ids import StepId
from sovrun.core.spec.model import WORKER_KINDS, DagSpec, StepSpec


class Cycle(ValueError):
    """The steps need each other in a circle; `path` begins and ends with the same step."""

    def __init__(self, path: Sequence[StepId]) -> None:
        super().__init__(" -> ".join(path))
        self.path = tuple(path)


def plan_order(needs: Mapping[StepId, Sequence[StepId]]) -> tuple[StepId, ...]:
    """Return the steps in plan order, in O(V + E log V).

    Args:
        needs: of each step its direct predecessors, each of them a key.
    Raises: Cycle with a circle that is the same whatever the order of the mapping, and as short as any through the
        step with which it begins and ends; each step needs the one before it.
    """
    remaining = {step: len(set(predecessors)) for step, predecessors in needs.items()}
    dependents: dict[StepId, list[StepId]] = {step: [] for step in needs}
    for step, predecessors in needs.items():
        for predecessor in set(predecessors):
            dependents[predecessor].append(step)
    ready = [step for step, count in remaining.items() if count == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        step = heapq.heappop(ready)
        order.append(step)
        for dependent in dependents[step]:
            remaining[dependent] -= 1
            if remaining[dependent] == 0:
                heapq.heappush(ready, dependent)
    if len(order) < len(needs):
        raise Cycle(_circle({step: needs[step] for step, count in remaining.items() if count}))
    return tuple(order)


def _circle(needs: Mapping[StepId, Sequence[StepId]]) -> list[StepId]:
    """Return a circle among steps of which each is on one or waits for one."""
    step = min(needs)
    seen: set[StepId] = set()
    while step not in seen:  # every step has a need among them, so walking back must come round
        seen.add(step)
        step = min(need for need in needs[step] if need in needs)
    return _shortest_circle(step, needs)


def _shortest_circle(first: StepId, needs: Mapping[StepId, Sequence[StepId]]) -> list[StepId]:
    """Look back in all directions from a step that lies on a circle until it comes up again."""
    dependent: dict[StepId, StepId] = {}
    reached = deque([first])
    while first not in dependent:
        step = reached.popleft()
        for need in sorted(set(needs[step])):
            if need in needs and need not in dependent:
                dependent[need] = step
                reached.append(need)
    circle = [first, dependent[first]]
    while circle[-1] != first:
        circle.append(dependent[circle[-1]])
    return circle


@dataclass(frozen=True, slots=True)
class Plan:
    """The graph of a DAG by position in the plan, as progress needs it; built once per DAG version.

    Args:
        steps: in plan order.
        index: position by step id.
        needs: of each position, the positions it waits for, ascending.
        dependents: of each position, the positions that wait for it, ascending.
        has_waits: some steps are not run by workers; has_timeouts: some steps have a time for all their attempts.
        selectable: of each position, those dependents of it that its output chooses among.
    """

    spec: DagSpec
    steps: tuple[StepSpec, ...]
    index: Mapping[StepId, int]
    needs: tuple[tuple[int, ...], ...]
    dependents: tuple[tuple[int, ...], ...]
    selectable: Mapping[int, frozenset[int]]
    has_waits: bool
    has_timeouts: bool

    @property
    def size(self) -> int:
        """How many steps there are."""
        return len(self.steps)


def plan_of(spec: DagSpec) -> Plan:
    """Return the plan of a valid DAG, whose steps are in plan order already."""
    index = {step.id: position for position, step in enumerate(spec.steps)}
    needs = tuple(tuple(sorted(index[need] for need in step.needs)) for step in spec.steps)
    dependents: list[list[int]] = [[] for _ in spec.steps]
    for position, predecessors in enumerate(needs):
        for predecessor in predecessors:
            dependents[predecessor].append(position)
    return Plan(
        spec=spec,
        steps=spec.steps,
        index=index,
        needs=needs,
        dependents=tuple(tuple(positions) for positions in dependents),
        selectable={
            position: frozenset(index[choice] for choice in step.select)
            for position, step in enumerate(spec.steps)
            if step.select
        },
        has_waits=any(step.kind not in WORKER_KINDS for step in spec.steps),
        has_timeouts=any(step.timeout_us is not None for step in spec.steps),
    )
