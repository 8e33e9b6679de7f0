"""The store under test: every test of this folder that asks for `store` runs on each back end.

A promise that only the process that owns a store can keep is marked `owner_only` with the reason, and is not tried
through a socket; `tests/service` shows what a client is promised instead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sovrun.store.protocol import Store
from support.clock import SetClock
from support.served import remote
from support.stores import BACK_ENDS, BackEnd

THROUGH_A_SOCKET: dict[str, BackEnd] = {"remote": remote}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "owner_only(reason): a promise of the process that owns a store")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "store" in metafunc.fixturenames:
        for_owner = metafunc.definition.get_closest_marker("owner_only")
        back_ends = list(BACK_ENDS) if for_owner else [*BACK_ENDS, *THROUGH_A_SOCKET]
        metafunc.parametrize("store", back_ends, indirect=True)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: SetClock) -> AsyncIterator[Store]:
    back_end = (BACK_ENDS | THROUGH_A_SOCKET)[request.param]
    async with back_end(tmp_path, clock) as opened:
        yield opened
