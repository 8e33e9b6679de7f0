"""What the in-memory store keeps, and how it is read.

Owns: `Kept`, `MemoryReads`. The verbs that write are in `memory.py`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter

from sovrun.core.errors import NotFound
from sovrun.core.events import Event
from sovrun.core.ids import DagId, Digest, RunId, Tenant, WorkerId
from sovrun.core.lanes import Lane, Lanes, Limits
from sovrun.core.lifecycle import TERMINAL, Reason, State, Tally
from sovrun.core.plan import Plan
from sovrun.core.run import Run, Write
from sovrun.core.step import Step
from sovrun.core.turns import Turn
from sovrun.ports import Clock
from sovrun.store.payload import Payload
from sovrun.store.protocol import (
    DagRecord,
    Depth,
    Governance,
    Lease,
    Pending,
    RunRecord,
    Submission,
    Wait,
    depth_of,
)

UNSTARTED = frozenset({State.RECEIVED, State.QUEUED, State.AWAITING_TOOL, State.AWAITING_USER_CONFIRMATION})
WAITS = frozenset({State.AWAITING_TOOL, State.AWAITING_USER_CONFIRMATION})
CLAIMABLE = frozenset({State.QUEUED, State.AWAITING_TOOL})
RETAKEN = frozenset({Reason.RETRY_DUE, Reason.LEASE_EXPIRED})

Place = tuple[int, int, int]
"""A step's place in its tenant's queue: priority, run sequence, plan position."""


@dataclass(slots=True)
class Kept:
    """One run with all that belongs to it."""

    head: Run
    submission: Submission
    plan: Plan
    steps: list[Step]
    tallies: list[Tally]
    events: list[Event] = field(default_factory=list)
    created_us: int = 0
    started_us: int | None = None
    ended_us: int | None = None
    since_us: dict[int, int] = field(default_factory=dict)
    """By position when a step came to its state."""


class KeptSteps:
    """Steps as an action sees them: as kept, changed by what the write has gathered."""

    def __init__(self, kept: Kept, write: Write) -> None:
        self._kept = kept
        self._write = write

    def step(self, position: int) -> Step:
        """See `actions.Steps`."""
        return self._write.steps.get(position, self._kept.steps[position])

    def unfinished(self) -> list[tuple[int, Step]]:
        """See `actions.Steps`."""
        steps = ((position, self.step(position)) for position in range(len(self._kept.steps)))
        return [(position, step) for position, step in steps if step.state not in TERMINAL]


@dataclass(slots=True)
class Waiter:
    """A claim that waits for work."""

    worker: WorkerId
    slots: int
    answer: asyncio.Future[Sequence[Lease]]


class MemoryReads:
    """The state of an in-memory store and the verbs that only read it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._dags: dict[tuple[Tenant, Digest], DagRecord] = {}
        self._plans: dict[tuple[Tenant, Digest], Plan] = {}
        self._runs: dict[int, Kept] = {}
        self._by_id: dict[tuple[Tenant, RunId], int] = {}
        self._by_key: dict[tuple[Tenant, DagId, str], tuple[Digest, RunId]] = {}
        self._payloads: dict[tuple[Tenant, Digest], bytes] = {}
        self._queues: dict[int, list[Place]] = {}
        self._queued_us: dict[Place, int] = {}
        self._due: list[tuple[int, int, int]] = []
        self._timers: list[tuple[int, int, int]] = []
        self._turn = Turn()
        self._lanes = Lanes()
        self._pending: dict[tuple[int, int], None] = {}
        self._lingering: dict[tuple[int, int, int], WorkerId] = {}
        self._heard: dict[WorkerId, int] = {}
        self._late: Counter[Tenant] = Counter()
        self._acts: list[tuple[int, Governance, Limits]] = []
        self._waiters: list[Waiter] = []
        self._wanting: list[asyncio.Future[None]] = []
        self._told: list[Callable[[RunId], None]] = []
        self._alarm: asyncio.TimerHandle | None = None

    def _lane(self, tenant: Tenant, dag: DagId) -> Lane:
        lane = self._lanes.named(tenant, dag)
        return lane or self._lanes.add(Lane(1 + sum(1 for _ in self._lanes), tenant, dag))

    def _lane_of(self, kept: Kept) -> Lane:
        return self._lane(kept.head.tenant, kept.submission.dag)

    def _heads(self, lane: Lane, most: int) -> list[Place]:
        """Return the first `most` claimable steps of a lane; what is over meanwhile is dropped."""
        queue = self._queues.get(lane.key, [])
        stale = [place for place in queue if self._runs[place[1]].steps[place[2]].state not in CLAIMABLE]
        for place in stale:
            queue.remove(place)
            lane.queued -= 1
        return sorted(queue)[:most]

    async def dag(self, tenant: Tenant, version: Digest) -> DagRecord:
        """See `Store.dag`."""
        record = self._dags.get((tenant, version))
        if record is None:
            raise NotFound(f"no DAG version {version} for tenant {tenant}")
        return record

    async def payload(self, tenant: Tenant, digest: Digest) -> bytes | None:
        """See `Store.payload`."""
        return self._payloads.get((tenant, digest))

    async def outputs(self, lease: Lease | Pending, positions: Sequence[int]) -> Mapping[int, Payload | None]:
        """See `Store.outputs`."""
        steps = self._runs[lease.run_key].steps
        found: dict[int, Payload | None] = {}
        for position in positions:
            output = steps[position].output
            found[position] = (
                None if output is None else Payload(output, self._payloads.get((lease.tenant, output)))
            )
        return found

    async def run(self, tenant: Tenant, run: RunId) -> RunRecord:
        """See `Store.run`."""
        return self._recorded(self._of(tenant, run))

    async def runs(self, tenant: Tenant, *, limit: int, before: int | None = None) -> Sequence[RunRecord]:
        """See `Store.runs`."""
        keys = [
            key
            for key, kept in self._runs.items()
            if kept.head.tenant == tenant and (before is None or key < before)
        ]
        return [self._recorded(self._runs[key]) for key in sorted(keys, reverse=True)[:limit]]

    async def unfinished(self) -> Sequence[tuple[Tenant, RunId]]:
        """See `Store.unfinished`."""
        heads = (kept.head for kept in self._runs.values())
        return [(head.tenant, head.id) for head in heads if head.state not in TERMINAL]

    async def steps(self, tenant: Tenant, run: RunId) -> Sequence[Step]:
        """See `Store.steps`."""
        return tuple(self._of(tenant, run).steps)

    async def events(
        self, tenant: Tenant, run: RunId, *, after: int = 0, limit: int = 10_000
    ) -> Sequence[Event]:
        """See `Store.events`."""
        return self._of(tenant, run).events[after : after + limit]

    async def waiting(
        self, tenant: Tenant, *, limit: int = 1_000, after: Wait | None = None
    ) -> Sequence[Wait]:
        """See `Store.waiting`."""
        found: list[tuple[tuple[int, int, int], Wait]] = []
        for key, kept in self._runs.items():
            for position, step in enumerate(kept.steps):
                if kept.head.tenant == tenant and step.shown is not None and step.state in WAITS:
                    head = kept.head
                    since_us = kept.since_us[position]
                    whose = (tenant, head.id, kept.submission.dag, head.version)
                    why = (position, step.state, step.reason)
                    wait = Wait(*whose, *why, since_us, step.until_us, step.shown)
                    found.append(((since_us, key, position), wait))
        first = (-1, 0, 0) if after is None else (after.since_us, self._key(after), after.position)
        return [wait for place, wait in sorted(found, key=itemgetter(0)) if place > first][:limit]

    def _key(self, wait: Wait) -> int:
        return self._by_id[wait.tenant, wait.run]

    async def depths(self, tenant: Tenant) -> Sequence[Depth]:
        """See `Store.depths`."""
        return [
            self._depth(lane)
            for lane in sorted(self._lanes, key=lambda lane: lane.dag)
            if lane.tenant == tenant
        ]

    def _depth(self, lane: Lane) -> Depth:
        since = [self._queued_us[place] for place in self._heads(lane, lane.queued)]
        waiting = [kept.created_us for kept in self._not_admitted() if self._lane_of(kept) is lane]
        return depth_of(self._lanes, lane, min(since, default=None), min(waiting, default=None))

    def _not_admitted(self) -> list[Kept]:
        """Return the runs that wait to be admitted."""
        return [
            kept for kept in self._runs.values() if not kept.head.admitted and kept.head.state not in TERMINAL
        ]

    async def tenant_limits(self, tenant: Tenant) -> Limits:
        """See `Store.tenant_limits`."""
        return self._lanes.tenant(tenant).limits

    async def reruns(self, tenant: Tenant, run: RunId) -> int:
        """See `Store.reruns`."""
        return sum(k.submission.parent == run and k.head.tenant == tenant for k in self._runs.values())

    async def late_reports(self, tenant: Tenant) -> int:
        """See `Store.late_reports`."""
        return self._late[tenant]

    def _recorded(self, kept: Kept) -> RunRecord:
        """Return a run as it is read; what a run that is not admitted waits for changes without a write to it."""
        record = _recorded(kept)
        if kept.head.admitted or kept.head.state in TERMINAL:
            return record
        reason = self._lanes.reason(self._lane_of(kept))
        return replace(record, head=record.head._replace(reason=reason))

    def _of(self, tenant: Tenant, run: RunId) -> Kept:
        key = self._by_id.get((tenant, run))
        if key is None:
            raise NotFound(f"no run {run} for tenant {tenant}")
        return self._runs[key]


def _recorded(kept: Kept) -> RunRecord:
    submission = kept.submission
    return RunRecord(
        head=kept.head,
        dag=submission.dag,
        token=submission.token,
        key=submission.key,
        actor=submission.actor,
        isolation=submission.isolation,
        note=None if submission.note is None else submission.note.digest,
        created_us=kept.created_us,
        started_us=kept.started_us,
        ended_us=kept.ended_us,
        from_step=submission.from_step,
        repeat_effects=submission.repeat_effects,
    )
