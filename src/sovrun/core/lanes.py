"""Lanes: which steps may be started and which runs admitted, by pauses and limits.

Owns: `Limits`, `LimitsChange`, `Lane` (a tenant's DAG), `TenantQuota`, `Lanes`. A lane that is paused or full is closed, and a claim never looks
at a closed lane, so blocked work costs nothing.
Must not touch: the queue itself; a back end keeps one per lane.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from sovrun.core.errors import NotFound
from sovrun.core.ids import DagId, Tenant
from sovrun.core.lifecycle import Reason

UNBOUNDED: Final = 2**62
LIMIT_MAX: Final = 1_000_000
WEIGHT_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What an operator allows; None means no bound.

    Args:
        paused: no new run is admitted and no step started.
        runs_max: admitted runs that are not terminal; steps_max: steps that workers hold.
        weight: of a tenant: how many steps it may take in each of its turns.
    """

    paused: bool = False
    runs_max: int | None = None
    steps_max: int | None = None
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Bound:
    """At most so many, 0..LIMIT_MAX; None means no bound."""

    most: int | None

    def __post_init__(self) -> None:
        if self.most is not None and not 0 <= self.most <= LIMIT_MAX:
            raise ValueError(f"a limit is a number from 0 to {LIMIT_MAX:,}")


@dataclass(frozen=True, slots=True)
class LimitsChange:
    """What is to be otherwise in `Limits`; a member that is None stays as it is, whoever changes it meanwhile.

    Args:
        weight: 1..WEIGHT_MAX; of no meaning for a DAG, because tenants take turns and DAGs do not.
    """

    paused: bool | None = None
    runs_max: Bound | None = None
    steps_max: Bound | None = None
    weight: int | None = None

    def __post_init__(self) -> None:
        if self.weight is not None and not 1 <= self.weight <= WEIGHT_MAX:
            raise ValueError(f"a weight is a number from 1 to {WEIGHT_MAX:,}")

    @classmethod
    def to(cls, limits: Limits) -> LimitsChange:
        """Return the change after which exactly `limits` hold, whatever held before."""
        return cls(limits.paused, Bound(limits.runs_max), Bound(limits.steps_max), limits.weight)

    def applied(self, limits: Limits) -> Limits:
        """Return what holds after the change where `limits` held before."""
        return Limits(
            limits.paused if self.paused is None else self.paused,
            limits.runs_max if self.runs_max is None else self.runs_max.most,
            limits.steps_max if self.steps_max is None else self.steps_max.most,
            limits.weight if self.weight is None else self.weight,
        )


class Governed(NamedTuple):
    """What an operator allows now, and whether that is news."""

    limits: Limits
    changed: bool


@dataclass(slots=True)
class Lane:
    """The work of one DAG of one tenant.

    Args:
        queued: steps that wait for a worker; executing: steps that workers hold, lingering ones included.
        runs: admitted and not terminal; waiting: not admitted.
    """

    key: int
    tenant: Tenant
    dag: DagId
    limits: Limits = Limits()
    queued: int = 0
    executing: int = 0
    runs: int = 0
    waiting: int = 0


@dataclass(slots=True)
class TenantQuota:
    """All the lanes of a tenant together."""

    limits: Limits = Limits()
    executing: int = 0
    runs: int = 0
    lanes: list[Lane] = field(default_factory=list)


class Lanes:
    """All lanes of a store, and what may go on in them."""

    def __init__(self) -> None:
        self._lanes: dict[int, Lane] = {}
        self._names: dict[tuple[Tenant, DagId], Lane] = {}
        self._tenants: dict[Tenant, TenantQuota] = {}

    def add(self, lane: Lane) -> Lane:
        """Make a lane known, with what it holds already."""
        self._lanes[lane.key] = lane
        self._names[lane.tenant, lane.dag] = lane
        quota = self.tenant(lane.tenant)
        quota.lanes.append(lane)
        quota.executing += lane.executing
        quota.runs += lane.runs
        return lane

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def __getitem__(self, key: int) -> Lane:
        return self._lanes[key]

    def named(self, tenant: Tenant, dag: DagId) -> Lane | None:
        """Return the lane of a tenant's DAG, None when there is none yet."""
        return self._names.get((tenant, dag))

    def tenant(self, tenant: Tenant) -> TenantQuota:
        """Return what is known of a tenant."""
        quota = self._tenants.get(tenant)
        if quota is None:
            quota = self._tenants[tenant] = TenantQuota()
        return quota

    def tenants(self) -> list[Tenant]:
        """Return the tenants that have lanes."""
        return list(self._tenants)

    def weights(self) -> dict[Tenant, int]:
        """Return the weight of each tenant whose weight is not 1."""
        return {
            tenant: quota.limits.weight for tenant, quota in self._tenants.items() if quota.limits.weight != 1
        }

    def govern(self, tenant: Tenant, dag: DagId | None, change: LimitsChange) -> Governed:
        """Change what is allowed to a DAG of a tenant or, with `dag` None, to the tenant. Raises: NotFound."""
        if dag is None:
            quota = self.tenant(tenant)
            before, quota.limits = quota.limits, change.applied(quota.limits)
            return Governed(quota.limits, quota.limits != before)
        lane = self.named(tenant, dag)
        if lane is None:
            raise NotFound(f"tenant {tenant} has no DAG {dag}")
        before, lane.limits = lane.limits, replace(change, weight=None).applied(lane.limits)
        return Governed(lane.limits, lane.limits != before)

    def held(self, lane: Lane, steps: int) -> None:
        """Count steps that workers have taken (or, negative, let go)."""
        lane.executing += steps
        self.tenant(lane.tenant).executing += steps

    def run_admitted(self, lane: Lane, runs: int) -> None:
        """Count runs that were admitted (or, negative, have ended)."""
        lane.runs += runs
        self.tenant(lane.tenant).runs += runs

    def room(self, lane: Lane) -> int:
        """Return how many more steps of a lane may be started by its own limit; 0 when it is closed."""
        if lane.limits.paused or self.tenant(lane.tenant).limits.paused:
            return 0
        return max(0, _bound(lane.limits.steps_max) - lane.executing)

    def tenant_room(self, tenant: Tenant) -> int:
        """Return how many more steps of a tenant may be started."""
        quota = self.tenant(tenant)
        return 0 if quota.limits.paused else max(0, _bound(quota.limits.steps_max) - quota.executing)

    def waits_for(self, lane: Lane) -> Reason | None:
        """Return why a new run of a lane must wait, None when it may be admitted."""
        quota = self.tenant(lane.tenant)
        if quota.limits.paused:
            return Reason.TENANT_PAUSED
        if lane.limits.paused:
            return Reason.DAG_PAUSED
        if lane.runs >= _bound(lane.limits.runs_max) or quota.runs >= _bound(quota.limits.runs_max):
            return Reason.RUN_LIMIT
        return None

    def reason(self, lane: Lane) -> Reason:
        """Return why the runs of a lane that are not admitted wait, the first of them at least."""
        return self.waits_for(lane) or Reason.RUN_LIMIT


def _bound(limit: int | None) -> int:
    return UNBOUNDED if limit is None else limit
