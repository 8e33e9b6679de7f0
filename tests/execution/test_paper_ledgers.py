"""The paper provider on the ledgers of real stores, after a restart, and from several processes at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sovrun.core.ids import Tenant
from sovrun.execution.adapters.paper import open_adapter
from sovrun.execution.port import Call, Done
from sovrun.stores.sqlite.store import SqliteStore
from support.clock import SetClock
from support.ledgers import DirectoryLedger, MemoryLedger
from support.paper import NAME, both_accounts, live_a_little, market
from support.paper_client import order_of
from support.providers import ACTOR, TENANT, Calls
from support.stores import BACK_ENDS

TESTS = Path(__file__).parents[1]
PROCESSES, ORDERS = 4, 60


@pytest.mark.parametrize("back_end", BACK_ENDS)
async def test_every_store_keeps_the_same_account(tmp_path: Path, back_end: str) -> None:
    expected = await live_a_little(MemoryLedger())
    async with BACK_ENDS[back_end](tmp_path, SetClock()) as store:
        assert await live_a_little(store) == expected


async def test_an_account_is_the_same_after_a_restart(tmp_path: Path) -> None:
    store = SqliteStore.open_owner(tmp_path / "store.db", SetClock())
    before = await live_a_little(store)
    await store.close()
    store = SqliteStore.open_owner(tmp_path / "store.db", SetClock(1))
    assert await both_accounts(store) == before
    call = Call(TENANT, ACTOR, "paper", Calls("a little life").client_id())
    again = await open_adapter(NAME, {}, ledger=store).place_order(call, market("buy", "25"))
    assert isinstance(again, Done), "the first client id of that life is remembered"
    assert await both_accounts(store) == before
    await store.close()


async def test_processes_that_place_the_same_orders_at_once_place_each_of_them_once(tmp_path: Path) -> None:
    told = [json.loads(answer) for answer in placed_by_processes(tmp_path)]
    assert told == [told[0]] * PROCESSES, "every process was told of the same orders"
    assert len(set(told[0].values())) == ORDERS
    ledger = DirectoryLedger(tmp_path)
    adapter = open_adapter(NAME, {}, ledger=ledger)
    orders = await adapter.list_orders(Call(TENANT, ACTOR))
    assert {order.client_id: order.id for order in orders} == told[0]
    assert {order.client_id for order in orders} == {
        order_of(number)[0].client_id for number in range(ORDERS)
    }
    assert len(await ledger.entries(Tenant(TENANT), NAME, 0)) == ORDERS + 1, "nothing else was written"
    assert any(fill.get("against") for order in orders for fill in order.detail["fills"]), "orders have met"


def placed_by_processes(root: Path) -> list[str]:
    """Start processes, let them go at the same moment, and return what each printed."""
    arguments = [sys.executable, "-m", "support.paper_client", str(root)]
    clients = [
        subprocess.Popen(
            [*arguments, str(seed), str(ORDERS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=TESTS,
            env=os.environ | {"PYTHONPATH": str(TESTS)},
        )
        for seed in range(PROCESSES)
    ]
    try:
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline() == "ready\n"
        for client in clients:
            assert client.stdin is not None
            client.stdin.write("go\n")
            client.stdin.flush()
        return [client.communicate()[0] for client in clients]
    finally:
        for client in clients:
            client.kill()
            client.communicate()
