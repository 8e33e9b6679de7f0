"""Commands from Python: on a store of one's own and beside a server, the same calls with the same answers."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

import sovrun.sdk
from sovrun.sdk import Commands, SovrunError, open_commands
from support.cli import sovrun as command_line
from support.up import Up, up

ORDER = {"symbol": "ACME", "side": "buy", "type": "market", "quantity": "2"}


@pytest.fixture(params=["embedded", "served"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """The file of a store that nobody owns, or that a server does."""
    if request.param == "embedded":
        yield tmp_path / "s.db"
        return
    with up() as server:
        yield server.folder / "s.db"


async def test_a_command_is_performed_once_and_answered_with_the_same_bytes(store: Path) -> None:
    async with open_commands(f"sqlite:{store}") as commands:
        first = await commands.perform("order.place", ORDER, adapter="paper", key="k")
        again = await commands.perform("order.place", {**ORDER, "quantity": "2.0"}, adapter="paper", key="k")
        assert first.is_concluded
        assert (first.state, first.body) == ("confirmed", again.body)
        assert first.answer is not None
        assert first.answer["resource"]["filled"] == "2"
        shown = await commands.read(first.command)
        assert (shown["state"], shown["answer"], shown["key"]) == ("confirmed", first.answer, "k")
        assert shown["history"][0]["type"] == "command.intended"
    async with open_commands(f"sqlite:{store}") as later:
        assert (await later.perform("order.place", ORDER, adapter="paper", key="k")).body == first.body
    told = command_line("portfolio", "paper", "--store", f"sqlite:{store}", "--json", cwd=store.parent).json
    assert told["positions"] == {"ACME": "2"}


async def test_many_at_once_under_few_keys_are_as_few_effects(store: Path) -> None:
    async with open_commands(f"sqlite:{store}") as commands:
        told = await asyncio.gather(
            *(commands.perform("order.place", ORDER, adapter="paper", key=f"k-{n % 5}") for n in range(40))
        )
        assert len({one.body for one in told}) == 5
        assert {one.state for one in told} == {"confirmed"}


async def test_what_is_refused_has_the_code_of_every_other_face(store: Path) -> None:
    async with open_commands(f"sqlite:{store}") as commands:
        for payload, key, code in (
            ({**ORDER, "quantity": "-1"}, "a", "invalid_command"),
            ({**ORDER, "symbol": "NOPE"}, "b", "unknown_symbol"),
            (ORDER, None, "idempotency_key_required"),
        ):
            with pytest.raises(SovrunError) as refused:
                await commands.perform("order.place", payload, adapter="paper", key=key)
            assert refused.value.code == code
        poor = await commands.perform(
            "order.place", {**ORDER, "quantity": "1000000"}, adapter="paper", key="c"
        )
        assert (poor.state, poor.is_concluded) == ("refused", True)
        assert poor.answer is not None
        assert poor.answer["code"] == "insufficient_funds"
        with pytest.raises(SovrunError) as missing:
            await commands.read("0" * 32)
        assert missing.value.code == "not_found"


async def test_a_declared_kind_tells_its_schema_and_is_performed(store: Path) -> None:
    async with open_commands(f"sqlite:{store}") as commands:
        schema = await commands.schema("deployment.pause", adapter="paper")
        assert schema["required"] == ["deploymentId"]
        assert (await commands.schema("order.place"))["title"] == "Place an order"
        with pytest.raises(SovrunError) as unknown:
            await commands.schema("deployment.sell")
        assert unknown.value.code == "not_found"
        made = await commands.perform(
            "deployment.create", {"name": "m", "artifact": "a"}, adapter="paper", key="c"
        )
        assert made.answer is not None
        target = {"deploymentId": made.answer["resource"]["id"]}
        paused = await commands.perform("deployment.pause", target, adapter="paper", key="p")
        assert paused.answer is not None
        assert paused.answer["resource"]["status"] == "paused"


async def test_nobody_but_its_tenant_sees_a_command(store: Path) -> None:
    async with open_commands(f"sqlite:{store}") as commands:
        done = await commands.perform("order.place", ORDER, adapter="paper", key="k")
    async with open_commands(f"sqlite:{store}", tenant="other") as other:
        with pytest.raises(SovrunError) as refused:
            await other.read(done.command)
        assert refused.value.code == "not_found"


async def test_without_waiting_it_is_journalled_and_performed_by_whoever_comes_next(tmp_path: Path) -> None:
    async with open_commands(f"sqlite:{tmp_path / 's.db'}") as commands:
        left = await commands.perform("order.place", ORDER, adapter="paper", key="k", wait_seconds=0)
        assert (left.state, left.is_concluded, left.answer) == ("intended", False, None)
        assert getattr(commands._access, "_work", "gone") is None, "nobody performs anything here"
    async with open_commands(f"sqlite:{tmp_path / 's.db'}") as commands:
        done = await commands.perform("order.place", ORDER, adapter="paper", key="k")
        assert (done.command, done.state) == (left.command, "confirmed")


def make_unknown(store: Path, command: str) -> None:
    """Write into the file that nobody knows what came of a command, as a crash of the provider would have it."""
    with sqlite3.connect(store) as connection:
        connection.execute(
            "UPDATE command SET state = 'unknown', sends = 5, sent_us = created_us, first_sent_us = created_us,"
            " unknown_us = created_us, reached_us = created_us, reason = 'sends_exhausted', parked = 1, response = NULL,"
            " ended_us = NULL, due_us = 4000000000000000 WHERE id = ?",
            (command,),
        )
    connection.close()


async def test_a_person_says_what_became_of_a_command(tmp_path: Path) -> None:
    file = tmp_path / "s.db"
    async with open_commands(f"sqlite:{file}") as commands:
        done = await commands.perform("order.place", ORDER, adapter="paper", key="k")
        with pytest.raises(SovrunError) as known:
            await commands.resolve(done.command, "refused", rationale="why not")
        assert known.value.code == "illegal_transition"
    make_unknown(file, done.command)
    async with open_commands(f"sqlite:{file}") as commands:
        with pytest.raises(SovrunError) as odd:
            await commands.resolve(done.command, "perhaps", rationale="r")  # type: ignore[arg-type]
        assert odd.value.code == "invalid_setting"
        said = await commands.resolve(done.command, "confirmed", rationale="I saw it", resource="o-7")
        assert (said["state"], said["resourceId"]) == ("confirmed", "o-7")
        answer = (await commands.read(done.command))["answer"]
        assert answer["resolvedBy"]["rationale"] == "I saw it"


async def test_a_person_says_so_beside_a_server() -> None:
    with up() as server:
        async with open_commands(server.store) as commands:
            done = await commands.perform("order.place", ORDER, adapter="paper", key="k")
            with pytest.raises(SovrunError) as known:
                await commands.resolve(done.command, "refused", rationale="why not")
            assert known.value.code == "illegal_transition"
        stop_and_forget(server, done.command)
        async with open_commands(server.store) as commands:
            said = await commands.resolve(done.command, "refused", rationale="it never came in")
            assert (said["state"], said["reason"]) == ("refused", "resolved_by_person")


def stop_and_forget(server: Up, command: str) -> None:
    """Have the server go on with a store that does not know what came of a command."""
    server.kill()
    make_unknown(server.folder / "s.db", command)
    server.start()


async def test_the_store_is_free_again_afterwards(tmp_path: Path) -> None:
    address = f"sqlite:{tmp_path / 's.db'}"
    async with open_commands(address):
        with pytest.raises(SovrunError) as owned:
            async with open_commands(address):
                raise AssertionError("two owners")
        assert owned.value.code == "store_owned"
    with pytest.raises(SovrunError):
        async with open_commands(address) as commands:
            await commands.perform("order.plac", ORDER, adapter="paper", key="k")
    async with open_commands(address) as commands:
        assert (await commands.perform("order.place", ORDER, adapter="paper", key="k")).is_concluded


def test_what_is_public_is_named() -> None:
    assert set(sovrun.sdk.__all__) == {
        "INTERFACE_VERSION",
        "Commands",
        "Outcome",
        "SovrunError",
        "open_commands",
    }
    public = {name for name in vars(Commands) if not name.startswith("_")}
    assert public == {"perform", "read", "resolve", "schema"}
