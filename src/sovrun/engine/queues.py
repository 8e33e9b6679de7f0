"""A tenant's queues as one: what waits and executes in all of them together, since when, and why runs wait.

Owns: `TenantQueue`, `queue_of`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sovrun.core.ids import Tenant
from sovrun.core.lanes import Limits
from sovrun.core.lifecycle import Reason
from sovrun.store.protocol import Depth, Reads


@dataclass(frozen=True, slots=True)
class TenantQueue:
    """The queues of a tenant and their sums.

    Args:
        limits: of the tenant as a whole; depths: by DAG id.
        oldest_us, waiting_us: since when the longest waiting step is queued, the longest waiting run not admitted.
        reasons: how many runs wait to be admitted for what.
        late_reports: reports that came when their lease was over, refused and no part of any history.
    """

    limits: Limits
    depths: Sequence[Depth]
    queued: int
    executing: int
    oldest_us: int | None
    runs: int
    waiting: int
    waiting_us: int | None
    reasons: Mapping[Reason, int]
    late_reports: int


async def queue_of(reads: Reads, tenant: Tenant) -> TenantQueue:
    """Return a tenant's queues; costs as much as the tenant has DAGs, however much waits."""
    limits, depths = await reads.tenant_limits(tenant), await reads.depths(tenant)
    reasons: Counter[Reason] = Counter()
    for depth in depths:
        if depth.waits_for is not None:
            reasons[depth.waits_for] += depth.waiting
    return TenantQueue(
        limits,
        depths,
        queued=sum(depth.queued for depth in depths),
        executing=sum(depth.executing for depth in depths),
        oldest_us=_first(depth.oldest_us for depth in depths),
        runs=sum(depth.runs for depth in depths),
        waiting=sum(depth.waiting for depth in depths),
        waiting_us=_first(depth.waiting_us for depth in depths),
        reasons=dict(sorted(reasons.items())),
        late_reports=await reads.late_reports(tenant),
    )


def _first(instants: Iterable[int | None]) -> int | None:
    return min((each for each in instants if each is not None), default=None)
