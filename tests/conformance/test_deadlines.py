"""A word that comes too late: no answer, decision or report counts once the time for it is over, whoever notices first."""

from __future__ import annotations

import pytest

from sovrun.core.actions import Action, Answer, Decide, EnterWait
from sovrun.core.errors import IllegalTransition
from sovrun.core.ids import RunId, StepId
from sovrun.core.lifecycle import State
from sovrun.core.spec.model import Confirmation, DagSpec, Kind, StepSpec, ToolWait
from sovrun.store.protocol import Store
from support import dags
from support.clock import SetClock
from support.requests import ACTOR, TENANT, payload, submitted

HOUR_US = 3_600_000_000
SHOWN = payload({"image": "a"})
OUTPUT = payload({"decision": "approved"})

TOOL = dags.dag(StepSpec(StepId("ask"), Kind.TOOL, ToolWait("scanner", HOUR_US)), dags.step("after", "ask"))
CONFIRM = dags.dag(
    StepSpec(StepId("ask"), Kind.CONFIRM, Confirmation(show="x", expires_us=HOUR_US)),
    dags.step("after", "ask"),
)


def word(spec: DagSpec, run: RunId) -> Action:
    if spec is TOOL:
        return Answer(TENANT, run, 0, ACTOR, OUTPUT.digest)
    return Decide(TENANT, run, 0, ACTOR, True, SHOWN.digest, OUTPUT.digest, None)  # noqa: FBT003 -- positional as declared


async def waiting_run(store: Store, spec: DagSpec) -> RunId:
    run = await submitted(store, spec)
    await store.act(EnterWait(TENANT, run, 0, SHOWN.digest, SHOWN.digest), payloads=[SHOWN])
    return run


@pytest.mark.parametrize("spec", [TOOL, CONFIRM], ids=["tool", "confirm"])
async def test_the_last_moment_is_in_time(store: Store, clock: SetClock, spec: DagSpec) -> None:
    run = await waiting_run(store, spec)
    clock.advance(HOUR_US - 1)
    assert (await store.act(word(spec, run), payloads=[OUTPUT])).changed
    assert (await store.steps(TENANT, run))[0].state is State.COMPLETED


@pytest.mark.parametrize("spec", [TOOL, CONFIRM], ids=["tool", "confirm"])
async def test_a_word_that_is_the_first_to_come_after_the_deadline_is_refused(
    store: Store, clock: SetClock, spec: DagSpec
) -> None:
    run = await waiting_run(store, spec)
    clock.advance(HOUR_US)
    with pytest.raises(IllegalTransition):
        await store.act(word(spec, run), payloads=[OUTPUT])
    assert (await store.steps(TENANT, run))[0].state is State.FAILED
    assert (await store.run(TENANT, run)).head.state is State.FAILED
