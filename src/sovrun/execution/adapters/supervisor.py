"""Deployments as processes under supervisord, which is spoken to by its XML-RPC.

Owns: `open_adapter`, `SupervisorAdapter`. A deployment is a process group that is named after tenant and client id, so that
it is found by them whatever happens; it is declared by a file of its own, and is kept after its end.
Must not touch: what is done at supervisord (`supervisor_host`), what its states mean (`supervisor_states`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from time import monotonic
from typing import Any, Final, TypeVar

from sovrun.core.commands.model import CancelOrder, CreateDeployment, PlaceOrder, StopDeployment
from sovrun.execution.adapters.supervisor_host import Host
from sovrun.execution.adapters.supervisor_settings import SupervisorSettings, supervisor_settings
from sovrun.execution.port import (
    Call,
    Capabilities,
    Deployment,
    Done,
    ExecutionAdapter,
    NotReached,
    Order,
    Portfolio,
    Rejected,
)

THREADS: Final = 16
"""Calls at a time of one adapter; more wait for their turn, within their time."""

Told = TypeVar("Told")


def open_adapter(name: str, settings: Mapping[str, Any]) -> ExecutionAdapter:
    """Return the adapter of a supervisord on this machine; it need not run yet. Raises: InvalidSetting."""
    return SupervisorAdapter(name, supervisor_settings(name, settings))


class SupervisorAdapter:
    """`ExecutionAdapter` for deployments under supervisord."""

    def __init__(self, name: str, settings: SupervisorSettings) -> None:
        self.name = name
        # No call is made after the deadline, and supervisord serves calls in turn: whoever is answered afterwards comes
        # after whatever was sent before.
        self.capabilities = Capabilities(
            resources=frozenset({"deployment"}),
            modes=settings.modes,
            processing_deadline_us=settings.processing_deadline_us,
            absence_is_conclusive=True,
        )
        self._host = Host(settings)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=f"sovrun-{name}")

    async def get_deployment(self, call: Call, deployment: str) -> Deployment | None:
        """Return a deployment by its id, which is its client id."""
        return await self._do(call, lambda deadline: self._host.deployment(call.tenant, deployment, deadline))

    async def list_deployments(self, call: Call) -> Sequence[Deployment]:
        """Return all deployments whose process groups supervisord has, by id."""
        return await self._do(call, lambda deadline: self._host.deployments(call.tenant, deadline))

    async def find_deployment(self, call: Call, client_id: str) -> Deployment | None:
        """Return the deployment that was created under a client id."""
        return await self.get_deployment(call, client_id)

    async def create_deployment(self, call: Call, order: CreateDeployment) -> Done | Rejected:
        """Declare a deployment and have supervisord start it. The same client id again finishes or finds the first."""
        if (refusal := self._refusal(call)) is not None:
            return refusal
        return await self._do(call, lambda deadline: self._host.create(call, order, deadline))

    async def stop_deployment(self, call: Call, order: StopDeployment) -> Done | Rejected:
        """Have the processes of a deployment end; the process group is kept."""
        if (refusal := self._refusal(call)) is not None:
            return refusal
        return await self._do(call, lambda deadline: self._host.stop(call, order.deployment, deadline))

    async def get_order(self, call: Call, order: str) -> Order | None:  # noqa: ARG002 -- the port's
        """Return None: there are no orders here."""
        return None

    async def list_orders(self, call: Call) -> Sequence[Order]:  # noqa: ARG002 -- the port's
        """Return nothing: there are no orders here."""
        return []

    async def portfolio(self, call: Call) -> Portfolio:  # noqa: ARG002 -- the port's
        """Return an empty portfolio: what processes own, they know themselves."""
        return Portfolio({}, {})

    async def find_order(self, call: Call, client_id: str) -> Order | None:  # noqa: ARG002 -- the port's
        """Return None: there are no orders here."""
        return None

    async def quote(self, call: Call, symbol: str) -> Decimal | None:  # noqa: ARG002 -- the port's
        """Return None: there are no prices here."""
        return None

    async def place_order(self, call: Call, order: PlaceOrder) -> Done | Rejected:  # noqa: ARG002 -- the port's
        """Refuse: there are no orders here."""
        return self._unknown("order.place")

    async def cancel_order(self, call: Call, order: CancelOrder) -> Done | Rejected:  # noqa: ARG002 -- the port's
        """Refuse: there are no orders here."""
        return self._unknown("order.cancel")

    async def perform_further(self, call: Call, kind: str, payload: Mapping[str, Any]) -> Done | Rejected:  # noqa: ARG002 -- the port's
        """Refuse: no further kinds are known."""
        return self._unknown(kind)

    async def find_performed(self, call: Call, kind: str, client_id: str) -> Mapping[str, Any] | None:  # noqa: ARG002 -- the port's
        """Return None: no further kinds are known."""
        return None

    async def close(self) -> None:
        """Wait for the calls that are under way."""
        await asyncio.to_thread(self._threads.shutdown)

    def _refusal(self, call: Call) -> Rejected | None:
        if call.mode in self.capabilities.modes:
            return None
        known = ", ".join(sorted(self.capabilities.modes))
        return Rejected("mode_not_allowed", f"{self.name} is for {known}, not for {call.mode}")

    def _unknown(self, kind: str) -> Rejected:
        return Rejected("unknown_kind", f"{self.name} knows deployments only, not {kind:.140}")

    async def _do(self, call: Call, work: Callable[[float], Told]) -> Told:
        """Have a thread do `work` by a deadline, which holds for whatever it still does when nobody waits any more."""
        allowed_us = min(call.timeout_us, self.capabilities.processing_deadline_us)
        deadline = monotonic() + allowed_us / 1_000_000

        def in_turn() -> Told:
            if monotonic() >= deadline:
                raise NotReached(f"{self.name} had too many other calls under way")
            return work(deadline)

        return await asyncio.get_running_loop().run_in_executor(self._threads, in_turn)
