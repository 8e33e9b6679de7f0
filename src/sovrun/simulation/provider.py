"""The simulated provider: it holds the truth of what happened outside, and its network makes that hard to learn.

Owns: `Provider`, `random_profile`. The checker reads nothing of it but its ledger.
Must not touch: what the engine believes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from random import Random
from typing import Any, Final

from sovrun.core.commands.kinds import undeclared
from sovrun.core.commands.model import (
    CancelOrder,
    CreateDeployment,
    PlaceOrder,
    StopDeployment,
    typed_payload,
)
from sovrun.execution.port import (
    Capabilities,
    Deployment,
    DeploymentStatus,
    Done,
    Order,
    OrderStatus,
    Rejected,
)
from sovrun.simulation.clock import SECOND_US, SimulatedClock
from sovrun.simulation.ledger import Effect, Ledger, Profile

SYMBOLS: Final = ("ACME", "GLOBEX", "POOR")
"""Nobody can afford `POOR`."""
FURTHER_KIND: Final = "message.send"
NEVER_US: Final = 1 << 62
_OTHERWISE: Final = ({"quantity": "77777"}, {"price": "77777"}, {"quantity": "77777", "price": "77777"})
"""What nobody asks for here: by each of these an order of somebody else's is told from ours."""


def capabilities_of(profile: Profile) -> Capabilities:
    """Return what a provider says of itself."""
    return Capabilities(
        frozenset({"deployment", "order"}),
        frozenset({"paper"}),
        profile.deadline_us,
        absence_is_conclusive=not profile.forgets,
        kinds={FURTHER_KIND: undeclared(FURTHER_KIND, 1)},
    )


def random_profile(rng: Random) -> Profile:
    """Return some kind of provider."""
    return Profile(
        rng.choice((1, 10, 10, 60)) * SECOND_US,
        rng.choice(("reject", "replay", "open", "repeat", "repeat")),
        rng.random() < 0.25,
    )


@dataclass(slots=True)
class _Kept:
    client_id: str
    tenant: str
    resource: Deployment | Order | dict[str, Any]
    visible_us: int
    ends_us: int = NEVER_US
    foreign: bool = False


class Provider:
    """One provider of deployments, orders and messages, for every tenant."""

    def __init__(self, name: str, rng: Random, clock: SimulatedClock, profile: Profile) -> None:
        self.name = name
        self.profile = profile
        self.ledger = Ledger(profile)
        self.down_until_us = 0
        self.life = 1
        self._rng = rng
        self._clock = clock
        self._kept: list[_Kept] = []

    @property
    def is_down(self) -> bool:
        """Whether it can be reached by nobody."""
        return self._clock.elapsed_us() < self.down_until_us

    # --- effects ----------------------------------------------------------------------------------------------------

    def take(
        self, tenant: str, client_id: str, kind: str, payload: Mapping[str, Any], *, visible_in_us: int = 0
    ) -> Done | Rejected:
        """Do what a request asks for, and answer it."""
        wanted = typed_payload(kind, payload)
        if isinstance(wanted, CancelOrder):
            return self._end(tenant, client_id, kind, payload, wanted.order)
        if isinstance(wanted, StopDeployment):
            return self._end(tenant, client_id, kind, payload, wanted.deployment)
        known = next((k for k in self._kept if (k.tenant, k.client_id) == (tenant, client_id)), None)
        if known is not None:
            seen = self._now(known)
            duplicates = self.profile.duplicates
            if duplicates == "reject" or (duplicates == "open" and _is_open(seen)):
                return Rejected("duplicate_client_id", "this client id was used before", duplicate=True)
            if duplicates == "replay":
                if known.foreign:
                    return Rejected("other_payload", "this client id names another order", duplicate=True)
                return Done(seen)
        if isinstance(wanted, PlaceOrder) and wanted.symbol == "POOR":
            return Rejected("insufficient_funds", "it cannot be paid")
        return Done(self._make(tenant, client_id, kind, payload, visible_in_us))

    def intrude(self, tenant: str, client_id: str, payload: Mapping[str, Any]) -> None:
        """Have somebody else place another order under the same client id; each differs in another member."""
        number = len(self.ledger.effects) % len(_OTHERWISE)
        other = dict(payload) | {"symbol": "ACME"} | _OTHERWISE[number]
        self._make(tenant, client_id, "order.place", other, 0, foreign=True)

    def _make(
        self,
        tenant: str,
        client_id: str,
        kind: str,
        payload: Mapping[str, Any],
        visible_in_us: int,
        *,
        foreign: bool = False,
    ) -> Deployment | Order | dict[str, Any]:
        now_us = self._clock.elapsed_us()
        name = f"{self.name}-{len(self.ledger.effects) + 1}"
        wanted = typed_payload(kind, payload)
        made: Deployment | Order | dict[str, Any]
        ends_us = NEVER_US
        if self._rng.random() < 0.4:
            ends_us = now_us + self._rng.choice((0, 2, 30, 600)) * SECOND_US
        if isinstance(wanted, PlaceOrder):
            made = _order(name, client_id, wanted)
        elif isinstance(wanted, CreateDeployment):
            made = Deployment(name, client_id, wanted.name, DeploymentStatus.RUNNING, "up")
        else:
            made = {"id": name, "clientId": client_id, "text": payload.get("text")}
        kept = _Kept(client_id, tenant, made, now_us + visible_in_us, ends_us, foreign)
        self._kept.append(kept)
        effect = Effect(now_us, client_id, tenant, kind, dict(payload), name, foreign)
        self.ledger.effects.append(effect)
        return self._now(kept)

    def _end(
        self, tenant: str, client_id: str, kind: str, payload: Mapping[str, Any], target: str
    ) -> Done | Rejected:
        kept = self._find(tenant, target)
        if kept is None:
            return Rejected("not_found", f"there is no {target}")
        seen = self._now(kept)
        if isinstance(seen, Order):
            if seen.status is OrderStatus.PENDING:
                kept.resource = replace(seen, status=OrderStatus.CANCELLED, raw_status="cancelled")
            elif seen.status is not OrderStatus.CANCELLED:
                return Rejected("order_filled", "it was filled before")
        elif isinstance(seen, Deployment) and seen.status is DeploymentStatus.RUNNING:
            kept.resource = replace(seen, status=DeploymentStatus.STOPPED, raw_status="down")
        ended = self._now(kept)
        if ended != seen:
            now_us = self._clock.elapsed_us()
            self.ledger.over_us[target] = now_us
            self.ledger.effects.append(Effect(now_us, client_id, tenant, kind, dict(payload), target))
        return Done(ended)

    # --- reads ------------------------------------------------------------------------------------------------------

    def get(self, tenant: str, name: str) -> Deployment | Order | dict[str, Any] | None:
        """Return a resource by the provider's id."""
        kept = self._find(tenant, name)
        return None if kept is None else self._seen(kept)

    def find(self, tenant: str, client_id: str) -> Deployment | Order | dict[str, Any] | None:
        """Return what came about under a client id, as far as it can be seen."""
        now_us = self._clock.elapsed_us()
        for kept in self._kept:
            if (kept.tenant, kept.client_id) == (tenant, client_id) and kept.visible_us <= now_us:
                return self._seen(kept)
        return None

    def _find(self, tenant: str, name: str) -> _Kept | None:
        for kept in self._kept:
            resource = kept.resource
            id_ = resource["id"] if isinstance(resource, dict) else resource.id
            if (kept.tenant, id_) == (tenant, name):
                return kept
        return None

    def _seen(self, kept: _Kept) -> Deployment | Order | dict[str, Any] | None:
        now = self._now(kept)
        return None if self.profile.forgets and not _is_open(now) else now

    def _now(self, kept: _Kept) -> Deployment | Order | dict[str, Any]:
        """Return a resource as it is by now: orders are filled and deployments fail by themselves."""
        resource = kept.resource
        if self._clock.elapsed_us() >= kept.ends_us and _is_open(resource):
            if isinstance(resource, Order):
                filled = replace(
                    resource, status=OrderStatus.FILLED, raw_status="filled", filled=resource.quantity
                )
                kept.resource = replace(filled, average_price=resource.price)
            elif isinstance(resource, Deployment):
                kept.resource = replace(resource, status=DeploymentStatus.FAILED, raw_status="crashed")
                self.ledger.over_us.setdefault(resource.id, kept.ends_us)
        return kept.resource


def _is_open(resource: Deployment | Order | dict[str, Any]) -> bool:
    if isinstance(resource, dict):
        return True
    return resource.status in (OrderStatus.PENDING, DeploymentStatus.RUNNING)


def _order(name: str, client_id: str, wanted: PlaceOrder) -> Order:
    return Order(
        *(name, client_id, wanted.symbol, wanted.side, wanted.type, wanted.quantity, wanted.price),
        filled=Decimal(0),
        average_price=None,
        status=OrderStatus.PENDING,
        raw_status="resting",
    )
