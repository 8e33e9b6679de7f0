"""A third of all answers is lost and the orchestrator is killed again and again: the provider holds what was commanded, once.

`benchmarks/storm.py` raises larger ones.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from support.storms import deployments_in_a_storm, orders_in_a_storm, resent_in_a_storm


async def test_300_orders_to_a_foreign_server_are_there_once_each_whatever_is_cut_and_killed() -> None:
    with TemporaryDirectory(prefix="sovrun-storm-") as folder:  # short enough for a socket
        told = await orders_in_a_storm(Path(folder), seed=4, orders=300, kills=10)
    assert told.kills == 10
    assert told.cut * 5 > told.orders, "the line was not cut often enough"
    assert told.unknown * 5 > told.orders, "too few outcomes were unknown"
    assert told.found > 0
    assert told.filled > 0, "nothing left the book, where the server knows its ids"


async def test_deployments_to_supervisord_are_started_once_each_whatever_is_cut_and_killed() -> None:
    with TemporaryDirectory(prefix="sovrun-storm-") as folder:  # short enough for a socket
        told = await deployments_in_a_storm(Path(folder), seed=4, deployments=24, kills=10)
    assert told.kills == 10
    assert told.cut * 5 > told.deployments
    assert told.unknown > 0


async def test_orders_are_sent_again_by_themselves_where_what_is_not_found_never_happened() -> None:
    with TemporaryDirectory(prefix="sovrun-storm-") as folder:  # short enough for a socket
        told = await resent_in_a_storm(Path(folder), seed=4, orders=60, kills=10)
    assert told.kills == 10
    assert told.never_heard > 0, "no order was lost on its way"
    assert told.sent_again >= told.orders // 12, "too few were sent again"
