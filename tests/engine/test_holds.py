"""What keeps a run from going on is derived from what is so now, and nothing is told of a run that is over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sovrun.core.ids import Actor, DagId, Digest, RunId, Tenant
from sovrun.core.lanes import Limits
from sovrun.core.lifecycle import Counts, State
from sovrun.core.run import Run
from sovrun.engine.holds import Hold, Holds
from sovrun.store.protocol import Depth, RunRecord

TENANT, DAG = Tenant("default"), DagId("wide")
DIGEST = Digest("0" * 64)
HEAD = Run(
    *(1, RunId("0" * 32), TENANT, DIGEST, DIGEST, 100, "sandbox", State.EXECUTING),
    Counts(queued=1, executing=1),
)
RUN = RunRecord(HEAD, DAG, DIGEST, "{}", Actor("local:me"), "sandbox", None, 0, 0, None)
NO_LIMITS = Limits()


def holds(of_tenant: Limits, of_dag: Limits, *, executing: int = 0, elsewhere: int = 0) -> Holds:
    depth = Depth(TENANT, DAG, of_dag, 1, executing, None, runs=1, waiting=0, waiting_us=None, waits_for=None)
    return Holds(
        of_tenant, [depth, replace(depth, dag=DagId("other"), limits=NO_LIMITS, executing=elsewhere)]
    )


PAUSED, TWO_STEPS = Limits(paused=True), Limits(steps_max=2)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (holds(NO_LIMITS, NO_LIMITS, executing=100), []),
        (holds(PAUSED, NO_LIMITS), [Hold("tenant_paused")]),
        (holds(NO_LIMITS, PAUSED), [Hold("dag_paused", DAG)]),
        (holds(PAUSED, PAUSED), [Hold("tenant_paused"), Hold("dag_paused", DAG)]),
        (holds(NO_LIMITS, TWO_STEPS, executing=1, elsewhere=9), []),
        (holds(NO_LIMITS, TWO_STEPS, executing=2), [Hold("step_limit", DAG)]),
        (holds(TWO_STEPS, NO_LIMITS, executing=1), []),
        (holds(TWO_STEPS, NO_LIMITS, executing=1, elsewhere=1), [Hold("step_limit")]),
    ],
)
def test_a_run_with_a_queued_step_is_held_by_pauses_and_full_limits(now: Holds, expected: list[Hold]) -> None:
    assert list(now.of(RUN)) == expected


def test_a_limit_of_steps_holds_no_run_that_has_none_queued() -> None:
    busy = replace(RUN, head=HEAD._replace(counts=Counts(executing=2)))
    assert holds(NO_LIMITS, TWO_STEPS, executing=2).of(busy) == ()


def test_a_run_that_is_not_admitted_is_held_by_what_it_waits_for() -> None:
    late = HEAD._replace(state=State.RECEIVED, admitted=False, reason="run_limit", counts=Counts(received=2))
    assert holds(NO_LIMITS, NO_LIMITS).of(replace(RUN, head=late)) == (Hold("run_limit"),)


def test_nothing_holds_a_run_that_is_over() -> None:
    over = replace(RUN, head=HEAD._replace(state=State.CANCELLED))
    assert holds(PAUSED, PAUSED).of(over) == ()
