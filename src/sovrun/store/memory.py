"""The in-memory store: the reference that the others must equal, and the simulator's.

Owns: `MemoryStore`. It favours being plainly right: a verb computes its writes first and applies them at the end, so
that a refusal or an error leaves everything as it was.
Must not touch: files, sockets. Time comes from the clock it is given.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sovrun.core.canonical import decode
from sovrun.core.errors import IdempotencyKeyConflict, LeaseLost, NotFound
from sovrun.core.events import ENGINE, Event
from sovrun.core.identity import StepResult, outcome_of
from sovrun.core.ids import Actor, DagId, Digest, RunId, Tenant, WorkerId
from sovrun.core.lifecycle import TERMINAL, Counts, Reason, State, Tally
from sovrun.core.plan import Plan, plan_of
from sovrun.core.run import Deltas, Run, Tallies, Write
from sovrun.core.spec.normal import spec_from_normal
from sovrun.core.step import LoseLease, Step, is_repeat
from sovrun.core.turns import in_turn
from sovrun.ports import Clock
from sovrun.store.codec import drive, events_of, received_data
from sovrun.store.protocol import (
    Committed,
    DagRecord,
    Lease,
    Payload,
    Registration,
    Report,
    RunRecord,
    Submission,
    Submitted,
)

_UNSTARTED = frozenset({State.RECEIVED, State.QUEUED, State.AWAITING_TOOL, State.AWAITING_USER_CONFIRMATION})


@dataclass(slots=True)
class _Kept:
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


@dataclass(slots=True)
class _Waiter:
    """A claim that waits for work."""

    worker: WorkerId
    slots: int
    answer: asyncio.Future[Sequence[Lease]]


class MemoryStore:
    """A store that lives as long as its process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._dags: dict[tuple[Tenant, Digest], DagRecord] = {}
        self._plans: dict[tuple[Tenant, Digest], Plan] = {}
        self._runs: dict[int, _Kept] = {}
        self._by_id: dict[tuple[Tenant, RunId], int] = {}
        self._by_key: dict[tuple[Tenant, DagId, str], tuple[Digest, RunId]] = {}
        self._payloads: dict[tuple[Tenant, Digest], bytes] = {}
        self._queue: dict[Tenant, list[tuple[int, int, int]]] = {}
        self._due: list[tuple[int, int, int]] = []
        self._served = Tenant("")
        self._waiters: list[_Waiter] = []
        self._alarm: asyncio.TimerHandle | None = None

    # --- writes -----------------------------------------------------------------------------------------------------

    async def register(self, registration: Registration) -> bool:
        """See `Store.register`."""
        name = (registration.tenant, registration.version)
        if name in self._dags:
            return False
        self._plans[name] = plan_of(spec_from_normal(decode(registration.normal)))
        self._dags[name] = DagRecord(
            registration.dag,
            registration.version,
            registration.code,
            registration.normal,
            registration.source,
        )
        return True

    async def submit(self, submission: Submission) -> Submitted:
        """See `Store.submit`."""
        tenant = submission.tenant
        if submission.caller_key is not None:
            first = self._by_key.get((tenant, submission.dag, submission.caller_key))
            if first is not None:
                return _same_request(submission, *first)
        if (tenant, submission.id) in self._by_id:
            return Submitted(submission.id, created=False)
        plan = self._plans.get((tenant, submission.version))
        if plan is None:
            raise NotFound(f"DAG version {submission.version} is not registered for tenant {tenant}")
        head = Run(
            key=len(self._runs) + 1,
            id=submission.id,
            tenant=tenant,
            version=submission.version,
            inputs=submission.inputs.digest,
            priority=submission.priority,
            state=State.RECEIVED,
            counts=Counts(),
        )
        kept = _Kept(
            head,
            submission,
            plan,
            [Step()] * plan.size,
            [Tally(len(needs)) for needs in plan.needs],
            created_us=self._clock.now_us(),
        )
        write = Write(plan, head, kept.created_us)
        write.admit(submission.actor, received_data(submission))
        self._runs[head.key] = kept
        self._by_id[tenant, submission.id] = head.key
        if submission.caller_key is not None:
            self._by_key[tenant, submission.dag, submission.caller_key] = (submission.request, submission.id)
        for payload in (submission.inputs, submission.note):
            self._keep_payload(tenant, payload)
        self._apply(kept, write)
        self._serve()
        return Submitted(submission.id, created=True)

    async def claim(self, worker: WorkerId, slots: int, *, patience_us: int = 0) -> Sequence[Lease]:
        """See `Store.claim`."""
        leases = self._take(worker, slots)
        if leases or not patience_us:
            return leases
        waiter = _Waiter(worker, slots, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self._set_alarm()
        try:
            await asyncio.wait([waiter.answer], timeout=patience_us / 1e6)
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        return waiter.answer.result() if waiter.answer.done() else []

    async def commit(self, reports: Sequence[Report], *, worker: WorkerId, slots: int = 0) -> Committed:
        """See `Store.commit`."""
        lost: list[int] = []
        ended: list[RunId] = []
        by_run: dict[int, list[int]] = {}
        for number, report in enumerate(reports):
            by_run.setdefault(report.lease.run_key, []).append(number)
        for key, of_run in by_run.items():
            kept = self._runs.get(key)
            if kept is None:
                lost.extend(of_run)
                continue
            write = Write(kept.plan, kept.head, self._clock.now_us())
            for number in of_run:
                report = reports[number]
                if not _record(kept, write, report):
                    lost.append(number)
                    continue
                for payload in report.payloads:
                    self._keep_payload(kept.head.tenant, payload)
            self._finish(kept, write)
            if kept.head.state in TERMINAL and write.facts:
                ended.append(kept.head.id)
        leases = self._take(worker, slots)
        self._serve()
        refused = tuple(reports[number].lease for number in sorted(lost))
        return Committed(refused, tuple(leases), tuple(ended))

    async def recover(self) -> int:
        """See `Store.recover`."""
        taken = 0
        for kept in self._runs.values():
            write = Write(kept.plan, kept.head, self._clock.now_us())
            for position, step in enumerate(kept.steps):
                if step.state is State.EXECUTING:
                    write.move(position, step, LoseLease(), ENGINE)
                    taken += 1
            self._finish(kept, write)
        self._serve()
        return taken

    def _finish(self, kept: _Kept, write: Write) -> None:
        """Decide what follows from the moves of `write`, then apply all of it."""
        if not write.facts:
            return
        tallies: dict[int, Tally] = {}
        drive(write, lambda deltas: _settled(kept, tallies, deltas))
        if write.struck:
            rest = [(p, write.steps.get(p, s)) for p, s in enumerate(kept.steps)]
            write.stop([(p, s) for p, s in rest if s.state in _UNSTARTED], Reason.FAIL_FAST, ENGINE)
        write.derive()
        if write.ending is not None:
            after = [write.steps.get(position, step) for position, step in enumerate(kept.steps)]
            results = (StepResult(step.step_hash, step.state, step.cause, step.output) for step in after)
            write.end(outcome_of(kept.head.version, kept.head.inputs, kept.plan.steps, results))
        for position, tally in tallies.items():
            kept.tallies[position] = tally
        self._apply(kept, write)

    def _apply(self, kept: _Kept, write: Write) -> None:
        head = kept.head
        kept.events.extend(events_of(write))
        for position, step in write.steps.items():
            kept.steps[position] = step
            if step.until_us is not None:
                heapq.heappush(self._due, (step.until_us, head.key, position))
        for position in write.ready:
            heapq.heappush(self._queue.setdefault(head.tenant, []), (head.priority, head.key, position))
        kept.head = write.head()
        if kept.started_us is None and kept.head.started:
            kept.started_us = write.now_us
        if kept.head.state in TERMINAL and kept.ended_us is None:
            kept.ended_us = write.now_us

    def _take(self, worker: WorkerId, slots: int) -> list[Lease]:
        """Lease the heads of the queues, tenants in turn."""
        self._release_due()
        candidates: dict[Tenant, list[tuple[int, int, int]]] = {}
        for tenant, queue in self._queue.items():
            head: list[tuple[int, int, int]] = []
            while queue and len(head) < slots:
                entry = heapq.heappop(queue)
                if self._runs[entry[1]].steps[entry[2]].state in (State.QUEUED, State.AWAITING_TOOL):
                    head.append(entry)
            candidates[tenant] = head
        taken, self._served = in_turn(candidates, slots, self._served)
        chosen = set(taken)
        for tenant, head in candidates.items():
            for entry in head:
                if (tenant, entry) not in chosen:
                    heapq.heappush(self._queue[tenant], entry)
        by_run: dict[int, list[int]] = {}
        for _, (_, key, position) in taken:
            by_run.setdefault(key, []).append(position)
        for key, positions in by_run.items():
            kept = self._runs[key]
            write = Write(kept.plan, kept.head, self._clock.now_us())
            write.start([(p, kept.steps[p]) for p in sorted(positions)], worker, Actor(f"worker:{worker}"))
            write.derive()
            self._apply(kept, write)
        return [_lease(self._runs[key], position, worker) for _, (_, key, position) in taken]

    def _release_due(self) -> None:
        """Put waits that are over back into the queue, at their unchanged places."""
        now_us = self._clock.now_us()
        while self._due and self._due[0][0] <= now_us:
            until_us, key, position = heapq.heappop(self._due)
            kept = self._runs[key]
            step = kept.steps[position]
            if step.state is State.AWAITING_TOOL and step.until_us == until_us:
                queue = self._queue.setdefault(kept.head.tenant, [])
                heapq.heappush(queue, (kept.head.priority, key, position))

    def _set_alarm(self) -> None:
        """Wake up when the next wait ends, for the claims that wait."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._waiters and self._due:
            delay_us = max(0, self._due[0][0] - self._clock.now_us())
            self._alarm = asyncio.get_running_loop().call_later(delay_us / 1e6, self._serve)

    def _serve(self) -> None:
        """Answer waiting claims with what has become ready."""
        while self._waiters:
            waiter = self._waiters[0]
            leases = self._take(waiter.worker, waiter.slots)
            if not leases:
                break
            self._waiters.pop(0)
            waiter.answer.set_result(leases)
        self._set_alarm()

    def _keep_payload(self, tenant: Tenant, payload: Payload | None) -> None:
        if payload is not None and payload.body is not None:
            self._payloads.setdefault((tenant, payload.digest), payload.body)

    # --- reads ------------------------------------------------------------------------------------------------------

    async def dag(self, tenant: Tenant, version: Digest) -> DagRecord:
        """See `Store.dag`."""
        record = self._dags.get((tenant, version))
        if record is None:
            raise NotFound(f"no DAG version {version} for tenant {tenant}")
        return record

    async def payload(self, tenant: Tenant, digest: Digest) -> bytes | None:
        """See `Store.payload`."""
        return self._payloads.get((tenant, digest))

    async def outputs(self, lease: Lease, positions: Sequence[int]) -> Mapping[int, Payload | None]:
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
        return _recorded(self._of(tenant, run))

    async def runs(self, tenant: Tenant, *, limit: int, before: int | None = None) -> Sequence[RunRecord]:
        """See `Store.runs`."""
        keys = [
            key
            for key, kept in self._runs.items()
            if kept.head.tenant == tenant and (before is None or key < before)
        ]
        return [_recorded(self._runs[key]) for key in sorted(keys, reverse=True)[:limit]]

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

    async def close(self) -> None:
        """See `Store.close`."""
        for waiter in self._waiters:
            waiter.answer.set_result(())
        self._waiters.clear()
        self._set_alarm()

    def _of(self, tenant: Tenant, run: RunId) -> _Kept:
        key = self._by_id.get((tenant, run))
        if key is None:
            raise NotFound(f"no run {run} for tenant {tenant}")
        return self._runs[key]


def _same_request(submission: Submission, request: Digest, run: RunId) -> Submitted:
    if request != submission.request:
        raise IdempotencyKeyConflict(
            f"the key {submission.caller_key!r} of DAG {submission.dag} belongs to run {run}, made by another request",
            hint="use another key, or send the same inputs and version",
            run=run,
        )
    return Submitted(run, created=False)


def _record(kept: _Kept, write: Write, report: Report) -> bool:
    """Apply one report to `write`; False when its lease is lost."""
    lease = report.lease
    if lease.tenant != kept.head.tenant:
        return False
    if lease.position not in range(kept.plan.size):
        return False
    step = write.steps.get(lease.position, kept.steps[lease.position])
    try:
        write.move(lease.position, step, report.result, Actor(f"worker:{lease.worker}"))
    except LeaseLost:
        return is_repeat(step, report.result)
    return True


def _settled(kept: _Kept, tallies: dict[int, Tally], deltas: Deltas) -> Tallies:
    settled = []
    for position, delta in deltas.items():
        before = tallies.get(position, kept.tallies[position])
        after = Tally(
            before.remaining - delta.remaining,
            before.failed + delta.failed,
            before.skipped + delta.skipped,
            before.unchosen or delta.unchosen,
        )
        tallies[position] = after
        if after.remaining == 0:
            settled.append((position, after))
    return settled


def _lease(kept: _Kept, position: int, worker: WorkerId) -> Lease:
    step = kept.steps[position]
    head = kept.head
    return Lease(
        head.tenant, head.id, head.key, head.version, position, step.attempts, step.fence, worker, head.inputs
    )


def _recorded(kept: _Kept) -> RunRecord:
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
    )
