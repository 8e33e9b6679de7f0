"""The owner of the file: one transaction for all that came in since the last.

Owns: the writing connection, what is remembered of runs under way, and the order of work within a transaction. What a
write means is decided in `core.run`; here it is only looked up and written down. What is remembered (`_Hot`, counts) is
dropped whole after anything went wrong, so it can never say more than the file.
Must not touch: asyncio; `store.py` turns calls into requests and answers.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import merge
from typing import Any, Final, TypeAlias

from sovrun.core.canonical import canonical, decode
from sovrun.core.errors import IdempotencyKeyConflict, LeaseLost, NotFound, SovrunError
from sovrun.core.events import ENGINE
from sovrun.core.identity import StepResult, outcome_of
from sovrun.core.ids import Actor, Digest, RunId, Tenant, WorkerId
from sovrun.core.lifecycle import TERMINAL, Cause, Counts, Reason, State, Tally
from sovrun.core.plan import Plan, plan_of
from sovrun.core.run import Deltas, Run, Tallies, Write
from sovrun.core.spec.normal import spec_from_normal
from sovrun.core.step import QUEUED, LoseLease, Step, is_repeat
from sovrun.core.turns import in_turn
from sovrun.store.codec import drive, received_data
from sovrun.store.protocol import Committed, Lease, Payload, Registration, Report, Submission, Submitted
from sovrun.stores.sqlite import rows

PLANS_MAX: Final = 64
HOT_MAX: Final = 4_096
_UNSTARTED: Final = ["received", "queued", "awaiting_tool", "awaiting_user_confirmation"]

Place: TypeAlias = tuple[int, int, int]
"""A step's place in its tenant's queue: priority, run sequence, plan position."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A worker's reports, and how many more steps it can take."""

    reports: Sequence[Report]
    worker: WorkerId
    slots: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker that can take `slots` steps and has nothing to report."""

    worker: WorkerId
    slots: int


@dataclass(frozen=True, slots=True)
class Recover:
    """Every lease is to be taken back."""


Request: TypeAlias = Registration | Submission | Commit | Claim | Recover
Answer: TypeAlias = bool | Submitted | Committed | list[Lease] | int | SovrunError


@dataclass(slots=True)
class _Hot:
    """A run under way as it stands in the file."""

    head: Run
    plan: Plan
    executing: dict[int, Step] = field(default_factory=dict)


@dataclass(slots=True)
class _Batch:
    """What one transaction has gathered so far."""

    now_us: int
    writes: dict[int, Write] = field(default_factory=dict)
    new: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    """By run key the columns of `INSERT_RUN` that never change."""
    new_steps: list[tuple[int, int]] = field(default_factory=list)
    payloads: list[tuple[Tenant, Digest, bytes]] = field(default_factory=list)
    caller_keys: list[tuple[Any, ...]] = field(default_factory=list)
    heads: dict[int, Run] = field(default_factory=dict)


class Owner:
    """The one writer of a store's file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._plans: OrderedDict[tuple[Tenant, Digest], tuple[int, Plan]] = OrderedDict()
        self._hot: OrderedDict[int, _Hot] = OrderedDict()
        self._served = Tenant("")
        self._last_key = 0
        self._backlog: dict[Tenant, int] = {}
        self._next_due: int | None = None
        self._stale = False
        self._look_again()

    def _look_again(self) -> None:
        """Drop what is remembered and read again what must be known."""
        self._hot.clear()
        self._last_key = rows.one(self._connection, rows.SELECT_LAST_KEY)
        self._backlog = {Tenant(t): n for t, n in self._connection.execute(rows.COUNT_QUEUE)}
        self._next_due = rows.one(self._connection, rows.SELECT_NEXT_DUE, -1)
        self._stale = False

    @property
    def next_due_us(self) -> int | None:
        """When the next wait ends, None when nothing waits for a time."""
        return self._next_due

    def commit(self, requests: Sequence[Request], now_us: int) -> list[Answer]:
        """Carry out requests in one durable transaction and return their answers, in order.

        A request that is refused has its error as the answer and writes nothing; claims are served last, in order.
        Raises: sqlite3.Error; then nothing of it happened, or its outcome is unknown when COMMIT itself failed.
        """
        connection = self._connection
        if self._stale:
            self._look_again()
        served = self._served
        connection.execute(rows.BEGIN)
        try:
            batch = _Batch(now_us)
            answers = [self._first_pass(batch, request) for request in requests]
            ended = self._settle_all(batch)
            answers = self._serve(batch, requests, answers, ended)
            self._write_down(batch)
            connection.execute("COMMIT")
        except BaseException:
            self._served = served
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._stale = True
            raise
        self._remember(batch)
        return answers

    # --- what was asked ---------------------------------------------------------------------------------------------

    def _first_pass(self, batch: _Batch, request: Request) -> Answer:
        try:
            match request:
                case Commit():
                    return Committed(lost=tuple(self._reports(batch, request.reports)))
                case Claim():
                    return []
                case Submission():
                    return self._submit(batch, request)
                case Registration():
                    return self._register(batch, request)
                case Recover():
                    return self._recover(batch)
        except SovrunError as refusal:
            return refusal

    def _register(self, batch: _Batch, registration: Registration) -> bool:
        r = registration
        if self._connection.execute(rows.SELECT_DAG_KEY, (r.tenant, r.version)).fetchone() is not None:
            return False
        plan = plan_of(spec_from_normal(decode(r.normal)))  # before the first write: it may refuse
        values = (r.tenant, r.dag, r.version, r.code, r.normal, r.source, r.actor, batch.now_us)
        dag = self._connection.execute(rows.INSERT_DAG, values).fetchone()[0]
        needs = ((dag, position, len(of_step)) for position, of_step in enumerate(plan.needs))
        self._connection.executemany(rows.INSERT_DAG_STEP, needs)
        return True

    def _submit(self, batch: _Batch, submission: Submission) -> Submitted:
        s = submission
        first = self._first_of(batch, s)
        if first is not None:
            return first
        dag, plan = self._plan(s.tenant, s.version)
        self._last_key += 1
        key = self._last_key
        head = Run(key, s.id, s.tenant, s.version, s.inputs.digest, s.priority, State.RECEIVED, Counts())
        write = Write(plan, head, batch.now_us)
        write.admit(s.actor, received_data(s))
        batch.writes[key] = write
        note = None if s.note is None else s.note.digest
        batch.new[key] = (
            *(
                key,
                s.tenant,
                s.id,
                s.token,
                dag,
                s.inputs.digest,
                s.priority,
                s.key,
                s.actor,
                s.isolation,
                note,
            ),
            write.now_us,
        )
        batch.new_steps.append((key, dag))
        if s.caller_key is not None:
            batch.caller_keys.append((s.tenant, s.dag, s.caller_key, s.request, s.id))
        self._keep(batch, s.tenant, (s.inputs,) if s.note is None else (s.inputs, s.note))
        return Submitted(s.id, created=True)

    def _first_of(self, batch: _Batch, submission: Submission) -> Submitted | None:
        """Return the answer to a request that was made before, in the file or earlier in this batch."""
        s = submission
        if s.caller_key is not None:
            name = (s.tenant, s.dag, s.caller_key)
            found = self._connection.execute(rows.SELECT_CALLER_KEY, name).fetchone()
            found = found or next((row[3:] for row in batch.caller_keys if row[:3] == name), None)
            if found is not None:
                return _same_request(s, found[0], found[1])
        elif s.key.startswith('{"fresh"'):
            return None  # a UUIDv7 made a moment ago names no earlier run
        known = self._connection.execute(rows.SELECT_RUN_KEY, (s.tenant, s.id)).fetchone() or any(
            write.run.id == s.id and write.run.tenant == s.tenant for write in batch.writes.values()
        )
        return Submitted(s.id, created=False) if known else None

    def _reports(self, batch: _Batch, reports: Iterable[Report]) -> Iterable[Lease]:
        """Apply reports to the writes of their runs; yield the leases that were lost."""
        for report in reports:
            lease = report.lease
            try:
                write = self._write(batch, lease.run_key)
                step = write.steps.get(lease.position) or self._step(lease.run_key, lease.position)
                if write.run.tenant != lease.tenant:
                    yield lease
                    continue
                write.move(lease.position, step, report.result, Actor(f"worker:{lease.worker}"))
            except NotFound:
                yield lease
            except LeaseLost:
                if not is_repeat(step, report.result):
                    yield lease
            else:
                self._keep(batch, lease.tenant, report.payloads)

    def _recover(self, batch: _Batch) -> int:
        taken = 0
        for (key,) in self._connection.execute(rows.SELECT_UNFINISHED).fetchall():
            write = self._write(batch, key)
            for position, stored in self._steps_in(key, ["executing"]):
                step = write.steps.get(position, stored)
                if step.state is not State.EXECUTING:
                    continue  # reported in this batch, which the file does not say yet
                write.move(position, step, LoseLease(), ENGINE)
                taken += 1
            if not write.facts:
                del batch.writes[key]
        return taken

    # --- what follows -----------------------------------------------------------------------------------------------

    def _settle_all(self, batch: _Batch) -> list[RunId]:
        """Decide what follows from the moves so far; return the runs that are terminal now."""
        ended: list[Write] = []
        for key, write in batch.writes.items():
            if key in batch.new or not write.facts:
                continue
            drive(write, lambda deltas, key=key: self._count_down(key, deltas))  # type: ignore[misc]
            if write.struck:
                self._stop(write)
            write.derive()
            if write.ending is not None:
                ended.append(write)
        for write in ended:
            self._write_steps(write)
            results = self._connection.execute(rows.SELECT_RESULTS, (write.run.key,))
            write.end(
                outcome_of(
                    write.run.version,
                    write.run.inputs,
                    write.plan.steps,
                    (StepResult(h, State(s), None if c is None else Cause(c), o) for h, s, c, o in results),
                )
            )
        return [write.run.id for write in ended]

    def _count_down(self, key: int, deltas: Deltas) -> Tallies:
        settled = []
        execute = self._connection.execute
        for position, (remaining, failed, skipped, unchosen) in deltas.items():
            row = execute(
                rows.UPDATE_COUNTERS, (remaining, failed, skipped, unchosen, key, position)
            ).fetchone()
            if row[0] == 0:
                settled.append((position, Tally(*row)))
        return settled

    def _stop(self, write: Write) -> None:
        """Cancel what has not started of a run that `failFast` ends."""
        key = write.run.key
        rest = dict(self._steps_in(key, _UNSTARTED)) | write.steps
        unstarted = [(p, step) for p, step in sorted(rest.items()) if step.state in _UNSTARTED]
        write.stop(unstarted, Reason.FAIL_FAST, ENGINE)
        tenant, priority = write.run.tenant, write.run.priority
        cursor = self._connection.executemany(
            rows.DELETE_QUEUE, ((tenant, priority, key, position) for position, _ in unstarted)
        )
        self._backlog[tenant] = self._backlog.get(tenant, 0) - cursor.rowcount

    # --- who goes on ------------------------------------------------------------------------------------------------

    def _serve(
        self, batch: _Batch, requests: Sequence[Request], answers: list[Answer], ended: list[RunId]
    ) -> list[Answer]:
        """Give leases to commits and claims in order, and put what is left of the ready steps into the queue."""
        self._release_due(batch)
        fresh: dict[Tenant, list[Place]] = {}
        for write in batch.writes.values():
            if write.ready and not write.stopping:
                run = write.run
                fresh.setdefault(run.tenant, []).extend((run.priority, run.key, p) for p in write.ready)
        for places in fresh.values():
            places.sort()
        told = tuple(ended)
        for number, request in enumerate(requests):
            answer = answers[number]
            if isinstance(request, Commit) and isinstance(answer, Committed):
                leases = self._take(batch, fresh, request.worker, request.slots)
                answers[number] = Committed(answer.lost, tuple(leases), told)
                told = ()
            elif isinstance(request, Claim):
                answers[number] = self._take(batch, fresh, request.worker, request.slots)
        for tenant, places in fresh.items():
            if places:
                self._connection.executemany(rows.INSERT_QUEUE, ((tenant, *place) for place in places))
                self._backlog[tenant] = self._backlog.get(tenant, 0) + len(places)
        return answers

    def _release_due(self, batch: _Batch) -> None:
        """Put waits that are over into the queue, at their unchanged places."""
        now_us = batch.now_us
        if self._next_due is None or self._next_due > now_us:
            return
        for place in self._connection.execute(rows.SELECT_DUE, (now_us,)).fetchall():
            write = batch.writes.get(place[2])
            if write is not None and place[3] in write.steps:
                continue  # it waits no more: this batch has moved it, which the file does not say yet
            cursor = self._connection.execute(rows.INSERT_QUEUE, place)
            tenant = Tenant(place[0])
            self._backlog[tenant] = self._backlog.get(tenant, 0) + cursor.rowcount
        self._next_due = rows.one(self._connection, rows.SELECT_NEXT_DUE, now_us)

    def _take(
        self, batch: _Batch, fresh: dict[Tenant, list[Place]], worker: WorkerId, slots: int
    ) -> list[Lease]:
        """Lease the first `slots` steps of the queues, the just readied among them, tenants in turn."""
        if slots <= 0:
            return []
        stored: dict[tuple[Tenant, Place], Step] = {}
        queues: dict[Tenant, list[Place]] = {t: places[:slots] for t, places in fresh.items() if places}
        for tenant in [t for t, count in self._backlog.items() if count > 0]:
            waiting: list[Place] = []
            for row in self._connection.execute(rows.SELECT_QUEUE, (tenant, slots)):
                place = (row[0], row[1], row[2])
                waiting.append(place)
                stored[tenant, place] = rows.step_of(row[3:])
            queues[tenant] = list(merge(waiting, queues.get(tenant, ())))
        if not queues:
            return []
        taken, self._served = in_turn(queues, slots, self._served)
        by_run: dict[int, list[tuple[int, Step]]] = {}
        gone: list[tuple[Tenant, int, int, int]] = []
        used: dict[Tenant, set[Place]] = {}
        for tenant, place in taken:
            step = stored.get((tenant, place))
            if step is None:
                used.setdefault(tenant, set()).add(place)
                step = QUEUED
            else:
                gone.append((tenant, *place))
                self._backlog[tenant] -= 1
            by_run.setdefault(place[1], []).append((place[2], step))
        for tenant, places in used.items():
            fresh[tenant] = [place for place in fresh[tenant] if place not in places]
        if gone:
            self._connection.executemany(rows.DELETE_QUEUE, gone)
        for key, claimed in by_run.items():
            write = self._write(batch, key)
            write.start(claimed, worker, Actor(f"worker:{worker}"))
            write.derive()
        return [self._lease(batch.writes[place[1]], place[2], worker) for _, place in taken]

    def _lease(self, write: Write, position: int, worker: WorkerId) -> Lease:
        run = write.run
        step = write.steps[position]
        return Lease(
            run.tenant, run.id, run.key, run.version, position, step.attempts, step.fence, worker, run.inputs
        )

    # --- what is written --------------------------------------------------------------------------------------------

    def _write_down(self, batch: _Batch) -> None:
        connection = self._connection
        if batch.caller_keys:
            connection.executemany(rows.INSERT_CALLER_KEY, batch.caller_keys)
        if batch.payloads:
            connection.executemany(rows.INSERT_PAYLOAD, batch.payloads)
        heads = batch.heads = {key: write.head() for key, write in batch.writes.items() if write.facts}
        inserts = [(*batch.new[key], *_run_row(heads[key])) for key in batch.new]
        if inserts:
            connection.executemany(rows.INSERT_RUN, inserts)
            connection.executemany(rows.INSERT_STEPS, batch.new_steps)
        updates = [(*_run_row(head), key) for key, head in heads.items() if key not in batch.new]
        if updates:
            connection.executemany(rows.UPDATE_RUN, updates)
        queued: list[tuple[int, int]] = []
        changed: list[tuple[Any, ...]] = []
        events: list[tuple[Any, ...]] = []
        large: list[tuple[Any, ...]] = []
        for key, write in batch.writes.items():
            if write.outcome is None:
                _gather_steps(key, write, queued, changed, new=key in batch.new)
            _gather_events(key, write, events, large)
        if queued:
            connection.executemany(rows.QUEUE_STEP, queued)
        if changed:
            connection.executemany(rows.UPDATE_STEP, changed)
        connection.executemany(rows.INSERT_EVENT, events)
        if large:
            connection.executemany(rows.INSERT_EVENT_DATA, large)

    def _write_steps(self, write: Write) -> None:
        queued: list[tuple[int, int]] = []
        changed: list[tuple[Any, ...]] = []
        _gather_steps(write.run.key, write, queued, changed, new=False)
        self._connection.executemany(rows.UPDATE_STEP, changed)

    def _remember(self, batch: _Batch) -> None:
        """Keep what the file now says of the runs under way."""
        for key, write in batch.writes.items():
            head = batch.heads.get(key, write.run)
            if head.state in TERMINAL:
                self._hot.pop(key, None)
                continue
            hot = self._hot.get(key)
            if hot is None:
                hot = self._hot[key] = _Hot(head, write.plan)
            hot.head = head
            executing = hot.executing
            for position, step in write.steps.items():
                if step.state is State.EXECUTING:
                    executing[position] = step
                else:
                    executing.pop(position, None)
                if step.until_us is not None and (self._next_due is None or step.until_us < self._next_due):
                    self._next_due = step.until_us
        while len(self._hot) > HOT_MAX:
            self._hot.popitem(last=False)

    # --- what is looked up ------------------------------------------------------------------------------------------

    def _write(self, batch: _Batch, key: int) -> Write:
        """Return this transaction's write to a run. Raises: NotFound."""
        write = batch.writes.get(key)
        if write is None:
            hot = self._hot.get(key) or self._load(key)
            write = batch.writes[key] = Write(hot.plan, hot.head, batch.now_us)
        return write

    def _load(self, key: int) -> _Hot:
        row = self._connection.execute(rows.SELECT_RUN, (key,)).fetchone()
        if row is None:
            raise NotFound(f"no run with key {key}")
        head = rows.run_of(row)
        _, plan = self._plan(head.tenant, head.version)
        return _Hot(head, plan)

    def _step(self, key: int, position: int) -> Step:
        hot = self._hot.get(key)
        step = None if hot is None else hot.executing.get(position)
        if step is not None:
            return step
        row = self._connection.execute(rows.SELECT_STEP, (key, position)).fetchone()
        if row is None:
            raise NotFound(f"no step {position} in run {key}")
        return rows.step_of(row)

    def _steps_in(self, key: int, states: list[str]) -> list[tuple[int, Step]]:
        cursor = self._connection.execute(rows.SELECT_STEPS_IN, (key, canonical(states).decode()))
        return [(row[0], rows.step_of(row[1:])) for row in cursor]

    def _plan(self, tenant: Tenant, version: Digest) -> tuple[int, Plan]:
        """Return the number and the plan of a registered DAG version. Raises: NotFound."""
        known = self._plans.get((tenant, version))
        if known is not None:
            return known
        row = self._connection.execute(rows.SELECT_DAG_KEY, (tenant, version)).fetchone()
        if row is None:
            raise NotFound(f"DAG version {version} is not registered for tenant {tenant}")
        found = self._plans[tenant, version] = (row[0], plan_of(spec_from_normal(decode(row[1]))))
        if len(self._plans) > PLANS_MAX:
            self._plans.popitem(last=False)
        return found

    def _keep(self, batch: _Batch, tenant: Tenant, payloads: Iterable[Payload]) -> None:
        batch.payloads.extend((tenant, digest, body) for digest, body in payloads if body is not None)


def _run_row(head: Run) -> tuple[Any, ...]:
    return rows.run_columns(head, head.time_us if head.state in TERMINAL else None)


def _gather_steps(
    key: int, write: Write, queued: list[tuple[int, int]], changed: list[tuple[Any, ...]], *, new: bool
) -> None:
    for position, step in write.steps.items():
        if step is not QUEUED:
            changed.append((*rows.step_row(step), key, position))
        elif not new:  # the rows of a new run are inserted with their first state
            queued.append((key, position))


def _gather_events(
    key: int, write: Write, events: list[tuple[Any, ...]], large: list[tuple[Any, ...]]
) -> None:
    steps = write.plan.steps
    now_us = write.now_us
    sequence = write.run.sequence
    for type_, position, actor, data in write.facts:
        sequence += 1
        step = None if position < 0 else steps[position].id
        if len(data) <= rows.EVENT_INLINE_MAX:
            events.append((key, sequence, now_us, actor, type_, step, data))
        else:
            events.append((key, sequence, now_us, actor, type_, step, None))
            large.append((key, sequence, data))


def _same_request(submission: Submission, request: Digest, run: RunId) -> Submitted:
    if request != submission.request:
        raise IdempotencyKeyConflict(
            f"the key {submission.caller_key!r} of DAG {submission.dag} belongs to run {run}, made by another request",
            hint="use another key, or send the same inputs and version",
            run=run,
        )
    return Submitted(run, created=False)
