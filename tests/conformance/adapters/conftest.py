"""The providers under test: every adapter is held to the same promises, as far as it knows the resource.

A test that asks for `exchange` runs on every provider of orders, one that asks for `host` on every provider of
deployments, one that asks for `provider` on all of them. An adapter is added as a row of `ADAPTERS`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.order_server import FOREIGN_ORDERS
from support.paper import paper_provider
from support.providers import Calls, Entry, Provider
from support.rest_provider import DESK
from support.supervisord import SUPERVISOR

ADAPTERS: tuple[Entry, ...] = (
    Entry("paper", paper_provider, frozenset({"order", "deployment"})),
    SUPERVISOR,
    FOREIGN_ORDERS,
    DESK,
)

RESOURCE_OF = {"exchange": "order", "host": "deployment", "provider": None}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture, resource in RESOURCE_OF.items():
        if fixture in metafunc.fixturenames:
            rows = [entry for entry in ADAPTERS if resource is None or resource in entry.resources]
            metafunc.parametrize(fixture, rows, ids=[entry.name for entry in rows], indirect=True)


@pytest.fixture
def calls(request: pytest.FixtureRequest) -> Calls:
    return Calls(request.node.nodeid)


async def _open(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Provider]:
    entry: Entry = request.param
    async with entry.open(folder) as opened:
        assert opened.adapter.capabilities.resources == entry.resources
        yield opened


@pytest.fixture
async def exchange(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Provider]:
    async for opened in _open(request, tmp_path):
        yield opened


@pytest.fixture
async def host(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Provider]:
    async for opened in _open(request, tmp_path):
        yield opened


@pytest.fixture
async def provider(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Provider]:
    async for opened in _open(request, tmp_path):
        yield opened
