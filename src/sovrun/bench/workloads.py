"""The DAGs that are measured: no-op steps in a chain, in many short runs, side by side, alone.

The definitions are those by which other orchestrators were measured: W1 a chain of 100 steps, W2 1,000 runs of a chain
of 3, W3 one step, N beside each other, one step, W4 one run of one step on an idle system.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Any, Final

from sovrun.core.ids import DagId, StepId
from sovrun.core.plan import plan_order
from sovrun.core.spec.model import DagSpec, Kind, StepSpec

ENTRY: Final = "bench:noop"

started_at: list[float] = []
"""When the last step began, for W4; `perf_counter` seconds."""


def noop() -> dict[str, int]:
    """Do nothing, and note when."""
    started_at[:] = (perf_counter(),)
    return {"i": 1}


def _dag(name: str, needs: Mapping[StepId, list[StepId]]) -> DagSpec:
    steps = tuple(
        StepSpec(id=step, kind=Kind.PYTHON, entry=ENTRY, needs=tuple(sorted(needs[step])))
        for step in plan_order(needs)
    )
    schema: dict[str, Any] = {"type": "object", "additionalProperties": False}
    return DagSpec(id=DagId(name), inputs=schema, steps=steps, code=())


def chain(length: int) -> DagSpec:
    """Return a DAG of `length` steps, each needing the one before."""
    ids = [StepId(f"s{number:06d}") for number in range(length)]
    return _dag(
        f"chain_{length}",
        {step: ids[number - 1 : number] if number else [] for number, step in enumerate(ids)},
    )


def wide(width: int) -> DagSpec:
    """Return a DAG of one step, `width` steps beside each other, and one that joins them."""
    middle = [StepId(f"m{number:06d}") for number in range(width)]
    first, last = StepId("a"), StepId("z")
    return _dag(f"wide_{width}", {first: [], **{step: [first] for step in middle}, last: middle})
