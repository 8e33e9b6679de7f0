"""What the adapters' conformance suite has to know of a provider, and how its calls are made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from sovrun.core.commands.model import CreateDeployment, PlaceOrder
from sovrun.core.ids import Actor, Tenant
from sovrun.execution.port import Call, Deployment, DeploymentStatus, Done, ExecutionAdapter, OrderStatus

TENANT = Tenant("acme")
NEIGHBOUR = Tenant("globex")
"""Another tenant; a provider under test serves both."""
ACTOR = Actor("local:tester")
UNKNOWN_ID = "no-such-thing"
STRANGE = "HALTED"
"""A status that no adapter maps."""


async def nothing() -> None:
    """What a provider needs that answers only when it is done."""


@dataclass(frozen=True)
class Provider:
    """A provider that runs, through its adapter, and what can be asked of it.

    Args:
        hanging: while it is entered, the provider takes requests and does not answer; afterwards it goes on.
        gone: while it is entered, nothing can be sent. It may have lost everything afterwards.
        raw_statuses: every word of the provider's that the adapter maps, and to what.
        settle: has the provider do what it has taken in (a match round, processes that start).
        resting, filled: orders that stay open, and that are filled whole by `settle`; None without orders.
        exact: an order that stays open, with as many digits as the provider can hold.
        deployment: one that runs after `settle`; None without deployments.
        unknown_symbol, unknown_artifact: None where the provider takes any.
        remembers: it tells of orders and client ids after their end. One that does not must say so by
            `absence_is_conclusive=False`.
        wrong_mode: a mode that the adapter is not for.
        strange: while it is entered, the provider tells of what was just made under a client id in the word `STRANGE`, which the
            adapter does not map; None where adapter and provider are one program and share their words.
        further: a further kind that it performs, and the payload for a deployment that there is; None where it performs none.
        asked_by: for which tenant and on whose behalf the provider itself has been asked for what bears a client id; None
            where it has no place for both.
    """

    adapter: ExecutionAdapter
    hanging: Callable[[], AbstractAsyncContextManager[None]]
    gone: Callable[[], AbstractAsyncContextManager[None]]
    raw_statuses: Mapping[str, DeploymentStatus | OrderStatus]
    settle: Callable[[], Awaitable[None]] = nothing
    resting: PlaceOrder | None = None
    filled: PlaceOrder | None = None
    exact: PlaceOrder | None = None
    deployment: CreateDeployment | None = None
    unknown_symbol: str | None = None
    unknown_artifact: str | None = None
    remembers: bool = True
    wrong_mode: str = "live"
    strange: Callable[[str], AbstractContextManager[None]] | None = None
    further: tuple[str, Callable[[str], Mapping[str, Any]]] | None = None
    asked_by: Callable[[str], tuple[str, str]] | None = None

    async def deployed(self, call: Call) -> str:
        """Have a deployment made; return the provider's id of it."""
        assert self.deployment is not None
        made = await self.adapter.create_deployment(call, self.deployment)
        assert isinstance(made, Done)
        assert isinstance(made.resource, Deployment)
        return made.resource.id


@dataclass(frozen=True)
class Entry:
    """A row of the suite's list of adapters.

    Args:
        open: makes the provider in a fresh folder, for one test, empty for `TENANT` and `NEIGHBOUR`.
        resources: what it knows, as its capabilities must say.
    """

    name: str
    open: Callable[[Path], AbstractAsyncContextManager[Provider]]
    resources: frozenset[str]


@dataclass
class Calls:
    """Makes the calls of one test, with client ids that no other test uses."""

    seed: str
    _made: int = field(default=0, init=False)

    def client_id(self) -> str:
        """Return a client id that was not used before."""
        self._made += 1
        return sha256(f"{self.seed}/{self._made}".encode()).hexdigest()[:32]

    def read(self, tenant: Tenant = TENANT) -> Call:
        """Return the call of a read."""
        return Call(tenant, ACTOR)

    def effect(
        self,
        client_id: str | None = None,
        *,
        tenant: Tenant = TENANT,
        mode: str = "paper",
        timeout_us: int = 10_000_000,
    ) -> Call:
        """Return the call of an effect, under a fresh client id unless one is given."""
        return Call(tenant, ACTOR, mode, client_id or self.client_id(), timeout_us)
