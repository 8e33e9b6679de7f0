"""What pauses and limits keep from going on, derived from what an operator allows now.

Owns: `Holds`. Nothing of it is recorded: a run that was queued before a pause learns of it here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sovrun.core.ids import DagId, Tenant
from sovrun.core.lanes import Limits
from sovrun.core.lifecycle import TERMINAL, Reason
from sovrun.store.protocol import Depth, Reads, RunRecord

STEP_LIMIT: Final = "step_limit"
"""As many steps execute as are allowed; steps are never told so, for a step that is queued has no reason."""


class Hold(NamedTuple):
    """Why nothing more of a run is started; `dag` None means by what is said of the whole tenant, or of either."""

    reason: str
    dag: DagId | None = None


class Holds:
    """What a tenant's operator allows now, to be compared with runs."""

    def __init__(self, limits: Limits, depths: Sequence[Depth]) -> None:
        self._limits = limits
        self._depths = {depth.dag: depth for depth in depths}
        self._executing = sum(depth.executing for depth in depths)

    @classmethod
    async def read(cls, reads: Reads, tenant: Tenant) -> Holds:
        """Return what holds a tenant's runs; costs nothing that grows with them."""
        return cls(await reads.tenant_limits(tenant), await reads.depths(tenant))

    def of(self, record: RunRecord) -> tuple[Hold, ...]:
        """Return all that keeps a run from going on, what has to end first before the rest; nothing of one that is over."""
        head = record.head
        if head.state in TERMINAL:
            return ()
        depth = self._depths.get(record.dag)
        found = [Hold(Reason.TENANT_PAUSED)] if self._limits.paused else []
        if depth is not None and depth.limits.paused:
            found.append(Hold(Reason.DAG_PAUSED, record.dag))
        if not found and not head.admitted:
            found.append(Hold(head.reason or Reason.RUN_LIMIT))
        if not found and head.counts.queued:
            if _is_full(self._limits, self._executing):
                found.append(Hold(STEP_LIMIT))
            if depth is not None and _is_full(depth.limits, depth.executing):
                found.append(Hold(STEP_LIMIT, record.dag))
        return tuple(found)


def _is_full(limits: Limits, executing: int) -> bool:
    return limits.steps_max is not None and executing >= limits.steps_max
