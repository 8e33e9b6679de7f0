"""The queues of a tenant as one: their sums, the first of their instants, and nothing of another tenant."""

from __future__ import annotations

from dataclasses import replace

from sovrun.core.ids import DagId, Tenant
from sovrun.core.lifecycle import Reason
from sovrun.engine.queues import queue_of
from sovrun.engine.views import tenant_queue_json
from sovrun.store.memory import MemoryStore
from support import dags
from support.acts import govern
from support.clock import START_US, SetClock
from support.requests import TENANT, claim_one, registration, submitted

FIRST = dags.shaped(dags.SINGLE)
SECOND = replace(FIRST, id=DagId("second"))
THIRD = replace(FIRST, id=DagId("third"))


async def test_a_tenants_queue_is_the_sum_of_its_dags() -> None:
    clock = SetClock()
    store = MemoryStore(clock)
    for spec in (FIRST, SECOND, THIRD):
        await store.register(registration(spec))
    await submitted(store, FIRST, "theirs", tenant=Tenant("u"))
    await govern(store, SECOND.id, runs_max=1)
    await govern(store, THIRD.id, paused=True)
    for number, spec in enumerate((FIRST, THIRD, FIRST, SECOND, SECOND, SECOND)):
        clock.advance(10)
        await submitted(store, spec, str(number))
    while (await claim_one(store)).tenant != TENANT:
        pass
    queue = await queue_of(store, TENANT)
    assert (queue.queued, queue.executing, queue.oldest_us) == (2, 1, START_US + 30)
    assert (queue.runs, queue.waiting, queue.waiting_us) == (3, 3, START_US + 20)
    assert queue.reasons == {Reason.DAG_PAUSED: 1, Reason.RUN_LIMIT: 2}
    shown = tenant_queue_json(TENANT, queue)
    assert shown["lateReports"] == 0
    assert [of_dag["waitingRuns"]["count"] for of_dag in shown["queues"]] == [0, 2, 1]
    assert shown["queues"][2]["waitingRuns"]["reasons"] == {"dag_paused": 1}
    assert shown["waitingRuns"]["reasons"] == {"dag_paused": 1, "run_limit": 2}


async def test_a_tenant_without_dags_has_an_empty_queue() -> None:
    queue = await queue_of(MemoryStore(SetClock()), TENANT)
    assert (queue.queued, queue.oldest_us, queue.waiting, queue.waiting_us, queue.reasons) == (
        0,
        None,
        0,
        None,
        {},
    )
