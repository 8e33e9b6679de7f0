"""The store under test: every test of this folder that asks for `store` runs on each back end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sovrun.store.protocol import Store
from support.clock import SetClock
from support.stores import BACK_ENDS


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture(params=list(BACK_ENDS))
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: SetClock) -> AsyncIterator[Store]:
    async with BACK_ENDS[request.param](tmp_path, clock) as opened:
        yield opened
