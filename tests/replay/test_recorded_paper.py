"""The ledgers of paper providers that earlier versions wrote are the same accounts today, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from sovrun.core.canonical import decode
from sovrun.core.ids import Tenant
from support.ledgers import MemoryLedger
from support.paper import NAME, both_accounts, live_a_little

HERE = Path(__file__).parent
RECORDED = sorted(HERE.glob("paper-*"))
TYPES = {"account.opened", "order.placed", "order.cancelled", "deployment.created", "deployment.moved"}


def recorded_ledger(folder: Path) -> MemoryLedger:
    ledger = MemoryLedger()
    for path in folder.glob("*.jsonl"):
        ledger.kept[Tenant(path.stem), NAME] = path.read_bytes().splitlines()
    return ledger


@pytest.mark.parametrize("folder", RECORDED, ids=lambda folder: folder.name)
async def test_a_recorded_ledger_folds_to_the_recorded_state(folder: Path) -> None:
    ledger = recorded_ledger(folder)
    entries = [decode(entry) for kept in ledger.kept.values() for entry in kept]
    assert {entry["type"] for entry in entries} >= TYPES
    assert await both_accounts(ledger) == (folder / "state").read_bytes()


async def test_the_same_life_is_recorded_as_it_was_by_this_version() -> None:
    ledger = MemoryLedger()
    await live_a_little(ledger)
    assert ledger.kept == recorded_ledger(RECORDED[-1]).kept
