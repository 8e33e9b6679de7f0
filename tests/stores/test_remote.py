"""The client of a served store: closing it answers those who wait, and loses nothing that was sent."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sovrun.core.errors import StoreUnavailable
from sovrun.store.protocol import Submitted
from sovrun.stores.remote.store import RemoteStore
from support import dags
from support.clock import SetClock
from support.requests import TENANT, WORKER, registration, submission
from support.served import Served, served

SPEC = dags.shaped(dags.SINGLE)
WAITING: dict[str, Callable[[RemoteStore], Awaitable[Any]]] = {
    "claim": lambda store: store.claim(WORKER, 1, patience_us=30_000_000),
    "pending": lambda store: store.pending(1, patience_us=30_000_000),
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path, SetClock()) as opened:
        yield opened


@pytest.mark.parametrize("turns", [1, 2, 3, 50])
@pytest.mark.parametrize("verb", WAITING)
async def test_closing_answers_a_waiting_call_however_far_it_has_come(
    server: Served, verb: str, turns: int
) -> None:
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    store = RemoteStore(server.socket)
    asked = asyncio.ensure_future(WAITING[verb](store))
    for _ in range(turns):
        await asyncio.sleep(0)
    await store.close()
    assert list(await asked) == []
    del asked
    gc.collect()
    assert unheard == [], "nothing is raised where nobody hears it"


async def test_closing_lets_what_was_sent_have_its_answer(server: Served) -> None:
    await server.owner.register(registration(SPEC))
    store = RemoteStore(server.socket)
    sent = asyncio.ensure_future(store.submit(submission(SPEC, "1")))
    await asyncio.sleep(0)
    await store.close()
    made = await sent
    del sent
    gc.collect()  # a connection that was made after all others were closed would be found here
    assert isinstance(made, Submitted)
    assert made.created
    assert (await server.owner.run(TENANT, made.run)).head.id == made.run


async def test_a_closed_client_refuses_what_is_new(server: Served) -> None:
    store = RemoteStore(server.socket)
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.submit(submission(SPEC, "1"))
    assert await store.claim(WORKER, 1, patience_us=30_000_000) == []
