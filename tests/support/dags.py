"""DAGs for tests: named shapes, and a strategy for random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from sovrun.core.ids import DagId, StepId
from sovrun.core.plan import plan_order
from sovrun.core.spec.model import CommandCall, Confirmation, DagSpec, Kind, Retry, StepSpec, ToolWait

ONCE = Retry(max_attempts=1, max_failures=1, base_us=0, cap_us=0)
"""No second attempt, so that small examples end soon."""


def step(name: str, *needs: str, retry: Retry = ONCE, select: Sequence[str] = (), **more: Any) -> StepSpec:
    """Return a `python` step with sorted needs."""
    return StepSpec(
        id=StepId(name),
        kind=Kind.PYTHON,
        entry="plugin:work",
        needs=tuple(sorted(map(StepId, needs))),
        retry=retry,
        select=tuple(sorted(map(StepId, select))),
        **more,
    )


def tool(name: str, *needs: str, deadline_us: int | None = None, **more: Any) -> StepSpec:
    """Return a step that an outside tool answers."""
    made = step(name, *needs, **more)
    return replace(made, kind=Kind.TOOL, entry=ToolWait("scanner", deadline_us))


def confirm(
    name: str, *needs: str, on_expiry: str = "fail", expires_us: int | None = None, **more: Any
) -> StepSpec:
    """Return a step that a person confirms."""
    entry = Confirmation(role="boss", show="this", expires_us=expires_us, on_expiry=on_expiry)
    return replace(step(name, *needs, **more), kind=Kind.CONFIRM, entry=entry)


def command(name: str, *needs: str, **more: Any) -> StepSpec:
    """Return a step that places an order at the adapter `paper`."""
    return replace(step(name, *needs, **more), kind=Kind.COMMAND, entry=CommandCall("order.place", "paper"))


def dag(*steps: StepSpec, name: str = "dag", fail_fast: bool = False) -> DagSpec:
    """Return a DAG of `steps`, put into plan order."""
    by_id = {step.id: step for step in steps}
    order = plan_order({step.id: step.needs for step in steps})
    return DagSpec(id=DagId(name), inputs={}, steps=tuple(by_id[id_] for id_ in order), fail_fast=fail_fast)


def shaped(needs: Mapping[str, str], *, retry: Retry = ONCE, fail_fast: bool = False) -> DagSpec:
    """Return a DAG given as `{"a": "", "b": "a", "c": "a b"}`: of each step the steps it waits for."""
    return dag(*(step(id_, *of.split(), retry=retry) for id_, of in needs.items()), fail_fast=fail_fast)


SINGLE = {"a": ""}
CHAIN = {"a": "", "b": "a", "c": "b"}
DIAMOND = {"a": "", "b": "a", "c": "a", "d": "b c"}
FAN_OUT = {"a": "", "b": "a", "c": "a", "d": "a"}
FAN_IN = {"a": "", "b": "", "c": "", "d": "a b c"}
APART = {"a": "", "b": "", "c": ""}
CROSSED = {"a": "", "b": "", "c": "a b", "d": "a b", "e": "c d"}


def chooser(*, fail_fast: bool = False, retry: Retry = ONCE) -> DagSpec:
    """Return `pick`, which chooses among `left` and `right`, and a join of both that goes on with either."""
    return dag(
        step("pick", select=["left", "right"], retry=retry),
        step("left", "pick", retry=retry),
        step("right", "pick", retry=retry),
        step("tail", "right", retry=retry),
        step("join", "left", "right", join_any=True, retry=retry),
        fail_fast=fail_fast,
    )


RETRIES = st.builds(
    lambda attempts, failures, base: Retry(attempts, failures, base, base * 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([1_000, 2_000_000]),
)


_TIMES = st.sampled_from([None] * 9 + [1_000, 5_000, 2_000_000])
"""Seldom one, or most waits would be over before anybody speaks."""


@st.composite
def waiting_dags(draw: st.DrawFn, *, steps_max: int = 6) -> DagSpec:
    """Draw a DAG in which some steps wait for tools and people, with deadlines, timeouts and a failure budget."""
    spec = draw(dags(steps_max=steps_max))
    steps = []
    for each in spec.steps:
        kind = draw(st.sampled_from([Kind.PYTHON, Kind.PYTHON, Kind.TOOL, Kind.CONFIRM]))
        entry: Any = each.entry
        if kind is Kind.TOOL:
            entry = ToolWait("scanner", draw(_TIMES))
        elif kind is Kind.CONFIRM and not each.select:
            on_expiry = draw(st.sampled_from(["fail", "reject"]))
            entry = Confirmation(show="this", expires_us=draw(_TIMES), on_expiry=on_expiry)
        else:
            kind = Kind.PYTHON
        steps.append(replace(each, kind=kind, entry=entry, timeout_us=draw(_TIMES)))
    budget = draw(st.sampled_from([None, None, 1, 2]))
    return replace(spec, steps=tuple(steps), failure_budget=budget, timeout_us=draw(_TIMES))


@st.composite
def dags(draw: st.DrawFn, *, steps_max: int = 6, retries: st.SearchStrategy[Retry] = RETRIES) -> DagSpec:
    """Draw a DAG of any shape, with selectors, `join: any`, retries and `failFast`."""
    count = draw(st.integers(1, steps_max))
    needs: list[list[int]] = [
        draw(st.lists(st.integers(0, position - 1), unique=True, max_size=3)) if position else []
        for position in range(count)
    ]
    names = [f"s{number}" for number in draw(st.permutations(range(count)))]
    steps = []
    for position in range(count):
        dependents = [names[other] for other in range(count) if position in needs[other]]
        select = draw(st.lists(st.sampled_from(dependents), unique=True)) if dependents else []
        steps.append(
            step(
                names[position],
                *(names[need] for need in needs[position]),
                retry=draw(retries),
                select=select if draw(st.booleans()) else (),
                join_any=draw(st.booleans()),
            )
        )
    return dag(*steps, fail_fast=draw(st.booleans()))
