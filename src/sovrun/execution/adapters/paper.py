"""The embedded provider: deployments and orders on paper, at prices that are given, kept in a ledger.

Owns: `open_adapter`, `PaperAdapter`. An effect is one entry, appended at the place after the last that was read; when
that place is taken, the provider reads on and decides again, so that it is right in several processes at once. State is
the fold of the entries: nothing comes from a clock or a random source.
Must not touch: what is decided (`paper_rules`), what it leads to (`paper_account`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

from sovrun.core.commands.model import CancelOrder, CreateDeployment, PlaceOrder, StopDeployment
from sovrun.core.errors import SovrunError
from sovrun.core.ids import Tenant
from sovrun.execution.adapters import paper_rules
from sovrun.execution.adapters.paper_account import Account, Entry
from sovrun.execution.adapters.paper_rules import FURTHER, Decision
from sovrun.execution.adapters.paper_settings import PaperSettings, paper_settings
from sovrun.execution.port import (
    Call,
    Capabilities,
    Deployment,
    Done,
    ExecutionAdapter,
    Ledger,
    NotReached,
    Order,
    OutcomeUnknown,
    Portfolio,
    Rejected,
)

MODE: Final = "paper"
CAPABILITIES: Final = Capabilities(
    resources=frozenset({"deployment", "order"}),
    modes=frozenset({MODE}),
    processing_deadline_us=1_000_000,
    absence_is_conclusive=True,
    kinds=FURTHER,
)
"""A client id is remembered for ever. The deadline is for a write that was given up while the store was at it; even a
re-send before it has one effect, because both would take the same place in the ledger."""


def open_adapter(name: str, settings: Mapping[str, Any], *, ledger: Ledger) -> ExecutionAdapter:
    """Return a paper provider; every tenant has an account of its own under this name. Raises: InvalidSetting."""
    return PaperAdapter(name, paper_settings(name, settings), ledger)


@dataclass(slots=True)
class _Writing:
    """Whether an entry is on its way to the ledger."""

    now: bool = False


class PaperAdapter:
    """`ExecutionAdapter` for deployments and orders on paper."""

    def __init__(self, name: str, settings: PaperSettings, ledger: Ledger) -> None:
        self.name = name
        self.capabilities = replace(CAPABILITIES, symbols=frozenset(settings.prices))
        self._settings = settings
        self._ledger = ledger
        self._accounts: dict[Tenant, Account] = defaultdict(Account)
        self._turns: dict[Tenant, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def get_deployment(self, call: Call, deployment: str) -> Deployment | None:
        """Return a deployment by its id."""
        record = (await self._read(call)).deployments.get(deployment)
        return None if record is None else record.told()

    async def list_deployments(self, call: Call) -> Sequence[Deployment]:
        """Return all deployments, by id, which is in the order in which they were created."""
        account = await self._read(call)
        return [account.deployments[one].told() for one in sorted(account.deployments)]

    async def get_order(self, call: Call, order: str) -> Order | None:
        """Return an order by its id."""
        record = (await self._read(call)).orders.get(order)
        return None if record is None else record.told()

    async def list_orders(self, call: Call) -> Sequence[Order]:
        """Return all orders, by id, which is in the order in which they were placed."""
        account = await self._read(call)
        return [account.orders[one].told() for one in sorted(account.orders)]

    async def portfolio(self, call: Call) -> Portfolio:
        """Return cash and positions; before the first effect, the cash with which the account will be opened."""
        account = await self._read(call)
        if not account.is_open:
            return Portfolio({self._settings.currency: self._settings.cash}, {})
        return account.portfolio()

    async def find_deployment(self, call: Call, client_id: str) -> Deployment | None:
        """Return the deployment that was created under a client id."""
        record = (await self._read(call)).deployment_by_client.get(client_id)
        return None if record is None else record.told()

    async def find_order(self, call: Call, client_id: str) -> Order | None:
        """Return the order that was placed under a client id."""
        record = (await self._read(call)).order_by_client.get(client_id)
        return None if record is None else record.told()

    async def quote(self, call: Call, symbol: str) -> Decimal | None:  # noqa: ARG002 -- prices are the same for all
        """Return the price that is set for a symbol."""
        return self._settings.prices.get(symbol)

    async def create_deployment(self, call: Call, order: CreateDeployment) -> Done | Rejected:
        """Create a deployment, which runs at once."""
        return await self._do(call, lambda account: paper_rules.create(account, self._settings, call, order))

    async def stop_deployment(self, call: Call, order: StopDeployment) -> Done | Rejected:
        """Stop a deployment for good."""
        return await self._do(call, lambda account: paper_rules.stop(account, call, order))

    async def place_order(self, call: Call, order: PlaceOrder) -> Done | Rejected:
        """Place an order, and fill it as far as there is something to fill it from."""
        return await self._do(call, lambda account: paper_rules.place(account, self._settings, call, order))

    async def cancel_order(self, call: Call, order: CancelOrder) -> Done | Rejected:
        """Cancel what is left of an order."""
        return await self._do(call, lambda account: paper_rules.cancel(account, call, order))

    async def perform_further(self, call: Call, kind: str, payload: Mapping[str, Any]) -> Done | Rejected:
        """Pause or resume a deployment."""
        return await self._do(call, lambda account: paper_rules.perform(account, call, kind, payload))

    async def find_performed(self, call: Call, kind: str, client_id: str) -> Deployment | None:
        """Return the deployment that was paused or resumed under a client id, as it is now."""
        account = await self._read(call)
        performed = account.performed.get((kind, client_id))
        return None if performed is None else account.deployments[performed].told()

    async def close(self) -> None:
        """Release nothing: the ledger is its owner's."""

    async def _read(self, call: Call) -> Account:
        try:
            async with asyncio.timeout(call.timeout_us / 1_000_000):
                return await self._account(call.tenant)
        except (TimeoutError, SovrunError) as error:
            raise NotReached(f"the ledger of {self.name} cannot be read: {error}") from error

    async def _account(self, tenant: Tenant) -> Account:
        """Return the account as of now. Whoever reads at the same time takes in the same entries, each only once."""
        account = self._accounts[tenant]
        first = account.length
        for number, entry in enumerate(await self._ledger.entries(tenant, self.name, first), first):
            if number == account.length:
                account.apply(entry)
        return account

    async def _do(self, call: Call, decide: Callable[[Account], Decision]) -> Done | Rejected:
        """Carry out an effect. Only while an entry is being written can its outcome become unknown."""
        if call.mode not in self.capabilities.modes:
            return Rejected("mode_not_allowed", f"{self.name} is for {MODE}, not for {call.mode}")
        if call.client_id is None:
            raise ValueError("an effect has a client id")
        writing = _Writing()
        try:
            async with asyncio.timeout(call.timeout_us / 1_000_000), self._turns[call.tenant]:
                return await self._decided(call.tenant, decide, writing)
        except (TimeoutError, SovrunError) as error:
            if not writing.now:
                raise NotReached(f"nothing was written to the ledger of {self.name}: {error}") from error
            reason = "timeout" if isinstance(error, TimeoutError) else "server_error"
            raise OutcomeUnknown(reason, f"the ledger of {self.name} gave no answer: {error}") from error

    async def _decided(
        self, tenant: Tenant, decide: Callable[[Account], Decision], writing: _Writing
    ) -> Done | Rejected:
        account = await self._account(tenant)
        while True:
            decision = decide(account) if account.is_open else paper_rules.opening(self._settings)
            if not isinstance(decision, Entry):
                return decision
            place, entry = account.length, decision.encoded()
            writing.now = True
            appended = await self._ledger.append(tenant, self.name, place, entry)
            writing.now = False
            if appended and account.length == place:
                account.apply(entry)
            elif not appended:
                await self._account(tenant)
                if account.length == place:
                    raise OutcomeUnknown(
                        "bad_answer", f"place {place} of the ledger is said to be taken, and holds nothing"
                    )
