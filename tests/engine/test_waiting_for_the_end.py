"""Who waits for the end of a run is told of it, whenever and however often it was asked for; of other tenants', nothing."""

from __future__ import annotations

import asyncio

import pytest

from sovrun.core.errors import NotFound
from sovrun.core.ids import Tenant
from sovrun.core.lifecycle import State
from support import dags
from support.engines import PATIENCE_S, Started, calls
from support.requests import ACTOR, TENANT

ASKS = dags.dag(dags.tool("ask"))
WORKS = dags.dag(calls("work", "work"))


async def test_a_run_under_way_is_unknown_to_another_tenant(start: Started) -> None:
    async with start() as bench:
        run = await bench.submit(ASKS)
        with pytest.raises(NotFound):
            async with asyncio.timeout(PATIENCE_S):
                await bench.engine.wait(Tenant("other"), run)


async def test_everybody_who_waits_is_told_then_and_later(start: Started) -> None:
    async with start(work=dict) as bench:
        run = await bench.submit(WORKS)
        for _ in range(2):
            records = await asyncio.gather(bench.ended(run), bench.ended(run))
            assert [record.head.state for record in records] == [State.COMPLETED] * 2


async def test_a_request_made_twice_is_waited_for_twice(start: Started) -> None:
    async with start(work=dict) as bench:
        first = await bench.submit(WORKS)
        bench.runs = 0
        again = await bench.submit(WORKS)
        assert first == again
        assert (await bench.ended(again)).head.state is State.COMPLETED
        bench.runs = 0
        ended = await bench.submit(WORKS)
        assert (await bench.ended(ended)).head.state is State.COMPLETED


async def test_a_run_that_was_answered_from_outside_is_told_of(start: Started) -> None:
    async with start() as bench:
        run = await bench.submit(ASKS)
        view = await bench.wait_of(run)
        ended = asyncio.create_task(bench.ended(run))
        await bench.engine.desk.answer(TENANT, run, view.step, ACTOR, output={})
        assert (await ended).head.state is State.COMPLETED
