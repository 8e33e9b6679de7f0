"""Who decided a `confirm` step, also where its decision was taken over from run to run."""

from __future__ import annotations

from typing import Final

from sovrun.core.canonical import decode
from sovrun.core.ids import Actor, RunId, StepId, Tenant
from sovrun.store.protocol import Reads

PAGE: Final = 5_000


async def decider_of(reads: Reads, tenant: Tenant, run: RunId, step: StepId) -> Actor | None:
    """Return who approved a step of a run, or of the run from which that has it; None where nobody is recorded to have."""
    source: RunId | None = run
    while source is not None:
        decider, source = await _entered(reads, tenant, source, step)
        if decider is not None:
            return decider
    return None


async def _entered(
    reads: Reads, tenant: Tenant, run: RunId, step: StepId
) -> tuple[Actor | None, RunId | None]:
    """Return who approved the step in this very run, and the run from which it took the decision over."""
    after = 0
    while page := await reads.events(tenant, run, after=after, limit=PAGE):
        for event in page:
            if event.step == step and event.type == "step.executing":
                data = decode(event.data.encode())
                if data.get("decision") == "approved":
                    return event.actor, None
                if "reusedFrom" in data:
                    return None, RunId(data["reusedFrom"])
        after = page[-1].sequence
    return None, None
