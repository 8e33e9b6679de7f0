"""The in-memory store: the reference that the others must equal, and the simulator's.

Owns: `MemoryStore`. It favours being plainly right: a verb computes its writes first and applies them at the end, so
that a refusal or an error leaves everything as it was.
Must not touch: files, sockets. Time comes from the clock it is given.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Callable, Sequence

from sovrun.core.actions import Action, EnterCommand, TakeUp, perform, time_is_over
from sovrun.core.canonical import decode
from sovrun.core.errors import LeaseLost, NotFound
from sovrun.core.events import ENGINE
from sovrun.core.identity import StepResult, outcome_of
from sovrun.core.ids import Actor, RunId, Tenant, WorkerId
from sovrun.core.lanes import Governed, Lane
from sovrun.core.lifecycle import TERMINAL, Counts, Reason, State, Tally
from sovrun.core.plan import plan_of
from sovrun.core.run import Deltas, Run, Tallies, Write
from sovrun.core.spec.normal import spec_from_normal
from sovrun.core.step import LoseLease, Step, is_repeat
from sovrun.core.turns import in_turn
from sovrun.ports import Clock
from sovrun.store.codec import drive, events_of, received_data, same_request
from sovrun.store.kept import RETAKEN, UNSTARTED, Kept, KeptSteps, MemoryReads, Place, Waiter
from sovrun.store.memory_journal import MemoryJournal
from sovrun.store.payload import Payload
from sovrun.store.protocol import (
    Acted,
    Committed,
    DagRecord,
    Governance,
    Lease,
    Pending,
    Registration,
    Report,
    Submission,
    Submitted,
)


class MemoryStore(MemoryReads, MemoryJournal):
    """A store that lives as long as its process."""

    def __init__(self, clock: Clock) -> None:
        MemoryReads.__init__(self, clock)
        MemoryJournal.__init__(self)

    # --- writes -----------------------------------------------------------------------------------------------------

    async def register(self, registration: Registration) -> bool:
        """See `Store.register`."""
        name = (registration.tenant, registration.version)
        if name in self._dags:
            return False
        self._lane(registration.tenant, registration.dag)
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
        self._strike()
        tenant = submission.tenant
        if submission.caller_key is not None:
            first = self._by_key.get((tenant, submission.dag, submission.caller_key))
            if first is not None:
                return same_request(submission, *first)
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
            isolation=submission.isolation,
            state=State.RECEIVED,
            counts=Counts(),
            parent=submission.parent,
        )
        kept = Kept(
            head,
            submission,
            plan,
            [Step()] * plan.size,
            [Tally(len(needs)) for needs in plan.needs],
            created_us=self._clock.now_us(),
        )
        write = Write(plan, head, kept.created_us)
        lane = self._lane(tenant, submission.dag)
        waits_for = self._lanes.waits_for(lane) or (Reason.RUN_LIMIT if lane.waiting else None)
        write.receive(submission.actor, received_data(submission), waits_for)
        if waits_for is None:
            self._lanes.run_admitted(lane, 1)
        else:
            lane.waiting += 1
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
        self._heard[worker] = self._clock.elapsed_us()
        self._strike()
        leases = self._take(worker, slots)
        if leases or not patience_us:
            return leases
        waiter = Waiter(worker, slots, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self._set_alarm()
        try:
            await asyncio.wait([waiter.answer], timeout=patience_us / 1e6)
        except asyncio.CancelledError:
            if waiter.answer.done():
                self._give_back(waiter.answer.result())
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        return waiter.answer.result() if waiter.answer.done() else []

    def _give_back(self, leases: Sequence[Lease]) -> None:
        """Take back what was given to a caller who has gone away meanwhile."""
        gone = {(lease.run_key, lease.position, lease.fence) for lease in leases}
        self._take_back(lambda _, lease: lease in gone)

    async def commit(self, reports: Sequence[Report], *, worker: WorkerId, slots: int = 0) -> Committed:
        """See `Store.commit`."""
        self._heard[worker] = self._clock.elapsed_us()
        self._strike()
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
                if not self._record(kept, write, report):
                    lost.append(number)
                    continue
                for payload in report.payloads:
                    self._keep_payload(kept.head.tenant, payload)
            self._finish(kept, write)
            if kept.head.state in TERMINAL and write.facts:
                ended.append(kept.head.id)
        self._admit_waiting()
        leases = self._take(worker, slots)
        self._serve()
        refused = tuple(reports[number].lease for number in sorted(lost))
        return Committed(refused, tuple(leases), tuple(ended))

    async def act(self, action: Action, *, payloads: Sequence[Payload] = ()) -> Acted:
        """See `Store.act`."""
        self._strike()
        kept = self._of(action.tenant, action.run)
        if isinstance(action, TakeUp):
            if (kept.head.key, action.position) not in self._pending:
                return Acted(changed=False, state=kept.head.state)
            del self._pending[kept.head.key, action.position]
        if isinstance(action, EnterCommand):
            action = self._enter(action)
        write = Write(kept.plan, kept.head, self._clock.now_us())
        changed = perform(write, action, KeptSteps(kept, write))
        if changed:
            for payload in payloads:
                self._keep_payload(action.tenant, payload)
            self._finish(kept, write)
            self._admit_waiting()
            self._serve()
        return Acted(changed, kept.head.state)

    async def pending(self, limit: int, *, patience_us: int = 0) -> Sequence[Pending]:
        """See `Store.pending`."""
        if not self._pending and patience_us:
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._wanting.append(waiting)
            await asyncio.wait([waiting], timeout=patience_us / 1e6)
            if waiting in self._wanting:
                self._wanting.remove(waiting)
        return [self._pending_of(key, position) for key, position in sorted(self._pending)[:limit]]

    def _pending_of(self, key: int, position: int) -> Pending:
        head, submission = self._runs[key].head, self._runs[key].submission
        parent, from_step = submission.parent, submission.from_step
        return Pending(head.tenant, head.id, key, head.version, position, head.inputs, parent, from_step)

    async def renew(self, worker: WorkerId, held: Sequence[Lease]) -> Sequence[Lease]:
        """See `Store.renew`."""
        self._heard[worker] = self._clock.elapsed_us()
        self._strike()
        known = {(lease.run_key, lease.position, lease.fence) for lease in held}
        self._take_back(lambda holder, lease: holder == worker and lease not in known)
        return [lease for lease in held if not self._is_live(lease)]

    def _is_live(self, lease: Lease) -> bool:
        kept = self._runs.get(lease.run_key)
        if kept is None or lease.position not in range(kept.plan.size):
            return False
        step = kept.steps[lease.position]
        return step.state is State.EXECUTING and (step.fence, step.worker) == (lease.fence, lease.worker)

    async def take_back(
        self,
        silent_us: int,
        *,
        dead: Sequence[WorkerId] = (),
        told: Callable[[WorkerId, int], None] | None = None,
    ) -> int:
        """See `Store.take_back`."""
        now_us = self._clock.elapsed_us()
        held = {
            step.worker
            for kept in self._runs.values()
            for step in kept.steps
            if step.state is State.EXECUTING and step.worker is not None
        } | set(self._lingering.values())
        silent = {w for w in held if w in dead or now_us - self._heard.get(w, 0) >= silent_us}
        taken = self._take_back(lambda holder, _: holder in silent) if silent else Counter[WorkerId]()
        if told is not None:
            for worker in sorted(silent):
                told(worker, taken[worker])
        return taken.total()

    async def recover(self) -> int:
        """See `Store.recover`."""
        return self._take_back(lambda *_: True).total()

    def _take_back(
        self, is_lost: Callable[[WorkerId | None, tuple[int, int, int]], bool]
    ) -> Counter[WorkerId]:
        """Take back the leases that are lost, by who holds them and by run key, position and fence."""
        self._strike()
        taken: Counter[WorkerId] = Counter()
        for kept in list(self._runs.values()):
            write = Write(kept.plan, kept.head, self._clock.now_us())
            for position, step in enumerate(kept.steps):
                lease = (kept.head.key, position, step.fence)
                if step.state is State.EXECUTING and step.worker is not None and is_lost(step.worker, lease):
                    write.move(position, step, LoseLease(), ENGINE)
                    self._lanes.held(self._lane_of(kept), -1)
                    taken[step.worker] += 1
            self._finish(kept, write)
        for lease in [lease for lease, worker in self._lingering.items() if is_lost(worker, lease)]:
            self._let_go(lease)
        self._admit_waiting()
        self._serve()
        return taken

    async def govern(self, governance: Governance) -> Governed:
        """See `Store.govern`."""
        self._strike()
        governed = self._lanes.govern(governance.tenant, governance.dag, governance.change)
        if governed.changed:
            self._acts.append((self._clock.now_us(), governance, governed.limits))
        self._admit_waiting()
        self._serve()
        return governed

    def subscribe(self, told: Callable[[RunId], None]) -> None:
        """See `Store.subscribe`."""
        self._told.append(told)

    def _record(self, kept: Kept, write: Write, report: Report) -> bool:
        """Apply one report to `write`; False when its lease is lost."""
        lease = report.lease
        if lease.tenant != kept.head.tenant or lease.position not in range(kept.plan.size):
            return False
        step = write.steps.get(lease.position, kept.steps[lease.position])
        try:
            write.move(lease.position, step, report.result, Actor(f"worker:{lease.worker}"))
        except LeaseLost:
            self._let_go((lease.run_key, lease.position, lease.fence))
            if is_repeat(step, report.result):
                return True
            self._late[lease.tenant] += 1
            return False
        self._lanes.held(self._lane_of(kept), -1)
        return True

    def _let_go(self, lease: tuple[int, int, int]) -> None:
        """Free the slot of a lease whose step had ended without its worker."""
        if self._lingering.pop(lease, None) is not None:
            self._lanes.held(self._lane_of(self._runs[lease[0]]), -1)

    def _finish(self, kept: Kept, write: Write) -> None:
        """Decide what follows from the moves of `write`, then apply all of it."""
        if not (write.facts or write.ready):
            return
        tallies: dict[int, Tally] = {}
        drive(write, lambda deltas: _settled(kept, tallies, deltas))
        struck = write.struck
        if struck is not None:
            rest = [(p, write.steps.get(p, s)) for p, s in enumerate(kept.steps)]
            write.stop([(p, s) for p, s in rest if s.state in UNSTARTED], struck, ENGINE)
        if write.derive():
            after = [write.steps.get(position, step) for position, step in enumerate(kept.steps)]
            results = (StepResult(step.step_hash, step.state, step.cause, step.output) for step in after)
            write.end(outcome_of(kept.head.version, kept.head.inputs, kept.plan.steps, results))
            lane = self._lane_of(kept)
            if kept.head.admitted:
                self._lanes.run_admitted(lane, -1)
            else:
                lane.waiting -= 1
        for position, tally in tallies.items():
            kept.tallies[position] = tally
        self._apply(kept, write)

    def _apply(self, kept: Kept, write: Write) -> None:
        head = kept.head
        kept.events.extend(events_of(write))
        for position, step in write.steps.items():
            kept.steps[position] = step
            kept.since_us[position] = write.now_us
            if step.until_us is not None and step.reason in RETAKEN:
                heapq.heappush(self._due, (step.until_us, head.key, position))
            if step.state is not State.QUEUED:
                self._pending.pop((head.key, position), None)
        lane = self._lane_of(kept)
        for position in write.ready:
            self._put(lane, (head.priority, head.key, position))
        self._pending.update(((head.key, position), None) for position in write.pending)
        for due_us, position in write.timers:
            heapq.heappush(self._timers, (due_us, head.key, position))
        for position, fence, worker in write.lingering:
            self._lingering[head.key, position, fence] = worker
        kept.head = write.head()
        if kept.started_us is None and kept.head.started:
            kept.started_us = write.now_us
        if kept.head.state in TERMINAL and kept.ended_us is None:
            kept.ended_us = write.now_us
            for told in self._told:
                told(head.id)

    # --- the queue --------------------------------------------------------------------------------------------------

    def _put(self, lane: Lane, place: Place) -> None:
        heapq.heappush(self._queues.setdefault(lane.key, []), place)
        self._queued_us[place] = self._clock.now_us()
        lane.queued += 1

    def _take(self, worker: WorkerId, slots: int) -> list[Lease]:
        """Lease the heads of the open lanes, tenants in turn."""
        heads: dict[Tenant, list[tuple[Place, int]]] = {}
        for lane in self._lanes:
            room = min(slots, self._lanes.room(lane))
            heads.setdefault(lane.tenant, []).extend((place, lane.key) for place in self._heads(lane, room))
        queues = {tenant: sorted(head)[: self._lanes.tenant_room(tenant)] for tenant, head in heads.items()}
        taken, self._turn = in_turn(queues, slots, self._turn, self._lanes.weights())
        by_run: dict[int, list[int]] = {}
        for _, (place, key) in taken:
            self._queues[key].remove(place)
            heapq.heapify(self._queues[key])
            self._lanes[key].queued -= 1
            self._lanes.held(self._lanes[key], 1)
            by_run.setdefault(place[1], []).append(place[2])
        for key, positions in by_run.items():
            kept = self._runs[key]
            write = Write(kept.plan, kept.head, self._clock.now_us())
            write.start([(p, kept.steps[p]) for p in sorted(positions)], worker, Actor(f"worker:{worker}"))
            write.derive()
            self._apply(kept, write)
        return [_lease(self._runs[place[1]], place[2], worker) for _, (place, _) in taken]

    def _admit_waiting(self) -> None:
        """Admit runs that waited for a quota or an unpause, first come first, where there is room now."""
        while any(lane.waiting and self._lanes.waits_for(lane) is None for lane in self._lanes):
            waiting = [
                kept for kept in self._not_admitted() if self._lanes.waits_for(self._lane_of(kept)) is None
            ]
            kept = min(waiting, key=lambda kept: (kept.head.priority, kept.head.key))
            write = Write(kept.plan, kept.head, self._clock.now_us())
            write.admit()
            lane = self._lane_of(kept)
            lane.waiting -= 1
            self._lanes.run_admitted(lane, 1)
            self._apply(kept, write)

    def _strike(self) -> None:
        """Let timers strike whose time has come, and put waits that are over back at their places in the queue."""
        now_us = self._clock.now_us()
        struck: dict[int, Write] = {}
        while self._timers and self._timers[0][0] <= now_us:
            due_us, key, position = heapq.heappop(self._timers)
            kept = self._runs[key]
            if kept.head.state not in TERMINAL:
                write = struck.setdefault(key, Write(kept.plan, kept.head, now_us))
                time_is_over(write, position, KeptSteps(kept, write), due_us)
        for key, write in struck.items():
            self._finish(self._runs[key], write)
        if struck:
            self._admit_waiting()
        while self._due and self._due[0][0] <= now_us:
            until_us, key, position = heapq.heappop(self._due)
            kept = self._runs[key]
            step = kept.steps[position]
            if step.state is State.AWAITING_TOOL and step.until_us == until_us:
                self._put(self._lane_of(kept), (kept.head.priority, key, position))

    def _set_alarm(self) -> None:
        """Wake up when the next wait or timer ends, for those who wait."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        due = [entries[0][0] for entries in (self._due, self._timers) if entries]
        if due and (self._waiters or self._told):
            delay_us = max(0, min(due) - self._clock.now_us())
            self._alarm = asyncio.get_running_loop().call_later(delay_us / 1e6, self._ring)

    def _ring(self) -> None:
        self._strike()
        self._serve()

    def _serve(self) -> None:
        """Answer waiting claims with what has become ready, and wake who waits for pending steps."""
        if self._pending:
            wanting, self._wanting = self._wanting, []
            for waiting in wanting:
                waiting.set_result(None)
        while self._waiters:
            waiter = self._waiters[0]
            leases = self._take(waiter.worker, waiter.slots)
            if not leases:
                break
            self._waiters.pop(0)
            waiter.answer.set_result(leases)
        self._set_alarm()

    def _after_moves(self) -> None:
        self._admit_waiting()
        self._serve()

    def _keep_payload(self, tenant: Tenant, payload: Payload | None) -> None:
        if payload is not None and payload.body is not None:
            self._payloads.setdefault((tenant, payload.digest), payload.body)

    async def close(self) -> None:
        """See `Store.close`."""
        for waiter in self._waiters:
            waiter.answer.set_result(())
        self._waiters.clear()
        for waiting in self._wanting:
            waiting.set_result(None)
        self._wanting.clear()
        self._told.clear()
        self._wake_due(closing=True)
        self._set_alarm()


def _settled(kept: Kept, tallies: dict[int, Tally], deltas: Deltas) -> Tallies:
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


def _lease(kept: Kept, position: int, worker: WorkerId) -> Lease:
    step = kept.steps[position]
    head = kept.head
    return Lease(
        *(head.tenant, head.id, head.key, head.version, position),
        *(step.attempts, step.fence, worker, head.inputs),
        isolation=head.isolation,
    )
