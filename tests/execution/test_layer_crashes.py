"""The process dies at every point around a send, or its store fails there: nothing is sent twice, nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from sovrun.core.commands.journal import CommandState
from sovrun.core.errors import StoreUnavailable
from sovrun.execution import layer as layer_module
from sovrun.store.protocol import Store
from sovrun.stores.sqlite.store import SqliteStore
from support.layers import DEPLOYMENT, ORDER, Bench, KilledError
from support.requests import TENANT
from support.scripted_provider import Trouble, calm, first
from support.stores import fresh_file, limited_files

CONFIRMED = CommandState.CONFIRMED
PATIENCE_SECONDS = 60
"""Of real time, after which a layer that does nothing is no longer waited for."""
WRITES = {"intend", "admit", "note", "disown_commands"}


class Watched:
    """A store around whose writes something may happen, given as a callable told where."""

    def __init__(self, store: Store, point: Callable[[str], None]) -> None:
        self._store, self._point = store, point

    def __getattr__(self, verb: str) -> Any:
        call = getattr(self._store, verb)
        if verb not in WRITES:
            return call

        async def watched(*arguments: Any, **named: Any) -> Any:
            self._point(f"before {verb}")
            answer = await call(*arguments, **named)
            self._point(f"after {verb}")
            return answer

        return watched


class Death:
    """Kills at the n-th point that is passed."""

    def __init__(self, at: int) -> None:
        self.at, self.passed = at, 0
        self.where = ""

    def __call__(self, where: str) -> None:
        self.passed += 1
        if self.passed == self.at:
            self.where = where
            raise KilledError(where)


async def lived(bench: Bench, death: Death, request: Any) -> bool:
    """Live until killed; return whether it was."""
    store = cast("Store", Watched(bench.store, death))
    bench.provider.point = death
    bench.begin(store=store)
    try:
        prepared = await bench.layer.prepare(request)
        await store.intend(prepared.intention, payloads=[prepared.payload])
        for _ in range(8):
            for command in await bench.store.commands(TENANT, limit=9):
                if command[1].due_us is not None:
                    bench.clock.advance(max(0, command[1].due_us - bench.clock.now_us()))
            for each in await bench.store.due_commands(9):
                await bench.layer._drive(each)
    except KilledError:
        return True
    return False


SCRIPTS = {
    "calm": calm,
    "the answer is lost": first(Trouble.LOST_ANSWER),
    "the request is lost": first(Trouble.LOST_REQUEST),
    "it comes late": first(Trouble.LATE),
}


@pytest.mark.parametrize("deduplicates", [False, True], ids=["acts again", "deduplicates"])
@pytest.mark.parametrize("request_", [ORDER, DEPLOYMENT], ids=lambda request: request.kind)
@pytest.mark.parametrize("script", list(SCRIPTS))
async def test_wherever_it_dies_the_next_life_brings_it_to_one_effect(
    request_: Any, script: str, *, deduplicates: bool
) -> None:
    places = []
    for at in range(1, 100):
        bench = Bench()
        bench.provider.script, bench.provider.deduplicates = SCRIPTS[script], deduplicates
        death = Death(at)
        if not await lived(bench, death, request_):
            break
        places.append(death.where)
        bench.provider.point = lambda _: None
        await bench.died()
        name = (await bench.layer.prepare(request_)).intention.id
        if death.where == "before intend":
            assert list(await bench.store.commands(TENANT, limit=9)) == []
            await bench.intend(request_)
        await bench.settle()
        assert bench.provider.happened() == {name: 1}, death.where
        command = await bench.command(name)
        assert command.state is CONFIRMED, death.where
        types = await bench.types(name)
        assert types.index("sent") < types.index("confirmed")
    passed = {f"{when} {what}" for when in ("before", "after") for what in ("intend", "admit", "note")}
    assert passed | {f"before {request_.kind}"} <= set(places)
    assert (f"after {request_.kind}" in places) is (script != "it comes late")


async def test_dying_twice_is_as_dying_once() -> None:
    tried = 0
    for at in range(1, 12):
        for again in range(1, 12):
            bench = Bench()
            bench.provider.script = first(Trouble.LOST_ANSWER)
            for death in (Death(at), Death(again)):
                bench.provider.point = lambda _: None
                await bench.died()
                tried += await lived(bench, death, ORDER)
            bench.provider.point = lambda _: None
            await bench.died()
            name = await bench.intend()
            await bench.settle()
            assert bench.provider.happened() == {name: 1}
    assert tried > 150


async def test_what_is_interrupted_is_called_unknown_and_found_by_a_layer_that_nobody_asks() -> None:
    bench = Bench()
    bench.provider.script = first(Trouble.HANG)
    async with bench.running():
        name = await bench.intend()
        await bench.called(1)
        [under_way] = bench.layer._under_way.values()
        under_way.cancel()
    assert (await bench.command(name)).state is CommandState.SENT
    assert list(await bench.store.due_commands(9)) == [], "another process might still be at it"
    bench.begin()
    async with bench.running(), asyncio.timeout(PATIENCE_SECONDS):
        answered = await bench.layer.answer(TENANT, name, patience_us=60_000_000)
    assert answered.command.state is CONFIRMED
    assert await bench.types(name) == ["intended", "sent", "unknown", "confirmed"]
    history = await bench.store.command_history(TENANT, name)
    assert '"reason":"interrupted"' in history[2].data
    assert (bench.provider.happened(), bench.provider.sends(name)) == ({name: 1}, 1)


async def test_what_an_abandoned_handler_sent_is_taken_over_after_a_while() -> None:
    bench = Bench()
    bench.provider.script = first(Trouble.HANG)
    name = await bench.intend()
    async with bench.running():
        await bench.called(1)
        for task in bench.layer._under_way.values():
            task.cancel()
    sent = await bench.command(name)
    assert sent.due_us is not None
    assert sent.due_us - bench.clock.now_us() == 60_000_000
    bench.begin()
    await bench.settle()
    assert (bench.provider.happened(), (await bench.command(name)).state) == ({name: 1}, CONFIRMED)


# --- the store fails ----------------------------------------------------------------------------------------------------


class Failing:
    """Lets the n-th writes fail; `late` has them done all the same, as when the answer of COMMIT is lost."""

    def __init__(self, store: Store, failing: set[int], *, late: bool) -> None:
        self._store, self._failing, self._late = store, failing, late
        self.writes = 0

    def __getattr__(self, verb: str) -> Any:
        call = getattr(self._store, verb)
        if verb not in WRITES:
            return call

        async def failing(*arguments: Any, **named: Any) -> Any:
            self.writes += 1
            fails = self.writes in self._failing
            if fails and not self._late:
                raise StoreUnavailable("the disk is full")
            answer = await call(*arguments, **named)
            if fails:
                raise StoreUnavailable("nobody knows whether it was written")
            return answer

        return failing


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_module, "STORE_RETRY_SECONDS", 0.001)


@pytest.mark.parametrize("late", [False, True], ids=["not written", "written"])
@pytest.mark.parametrize("failing", [{1}, {2}, {3}, {1, 2, 3}, {2, 3, 4, 5, 6, 7, 8}], ids=str)
async def test_a_store_that_fails_around_an_effect_delays_its_record_and_never_doubles_it(
    impatient: None, failing: set[int], *, late: bool
) -> None:
    bench = Bench()
    name = await bench.intend()
    store = Failing(bench.store, failing, late=late)
    bench.begin(store=cast("Store", store))
    for _ in range(4):
        for command in await bench.store.due_commands(9):
            await bench.layer._drive(command)
    await bench.died()
    await bench.settle()
    assert store.writes >= 2
    assert (bench.provider.happened(), bench.provider.sends(name)) == ({name: 1}, 1)
    assert (await bench.command(name)).state is CONFIRMED


async def test_a_full_disk_after_the_effect_is_waited_out_with_a_real_file(
    tmp_path: Path, impatient: None
) -> None:
    path = fresh_file(tmp_path)
    bench = Bench()
    bench.store = SqliteStore.open_owner(path, bench.clock)
    bench.provider.script = first(Trouble.HANG)
    bench.begin()
    async with bench.running():
        name = await bench.intend()
        await bench.called(1)
        used = path.with_name("store.db-wal").stat().st_size
        with limited_files(used):
            bench.provider.answering.set()
            for _ in range(20):
                await asyncio.sleep(0.005)
            assert (await bench.command(name)).state is CommandState.SENT
        answered = await bench.layer.answer(TENANT, name, patience_us=60_000_000)
        assert answered.command.state is CONFIRMED
    assert (bench.provider.happened(), bench.provider.sends(name)) == ({name: 1}, 1)
    assert await bench.types(name) == ["intended", "sent", "confirmed"]
    await bench.store.close()
