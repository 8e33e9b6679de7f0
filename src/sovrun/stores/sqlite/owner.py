"""The owner of the file: one transaction for all that came in since the last.

Owns: the writing connection, what is remembered of runs under way, and the order of work within a transaction. What a
write means is decided in `core.run` and `core.actions`; here it is only looked up and written down. What is remembered
(`_Hot`, counts) is dropped whole after anything went wrong, so it can never say more than the file.
Must not touch: asyncio; `store.py` turns calls into requests and answers.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from typing import TypeAlias

from sovrun.core.actions import Action, EnterCommand, TakeUp, perform, time_is_over
from sovrun.core.errors import LeaseLost, NotFound, SovrunError
from sovrun.core.events import ENGINE
from sovrun.core.identity import StepResult, outcome_of
from sovrun.core.ids import Actor, RunId, WorkerId
from sovrun.core.lanes import UNBOUNDED, Governed, Lane
from sovrun.core.lifecycle import TERMINAL, Cause, State, Tally
from sovrun.core.run import Deltas, Tallies, Write
from sovrun.core.step import Step, is_repeat
from sovrun.store.codec import drive
from sovrun.store.payload import Payload
from sovrun.store.protocol import (
    Acted,
    Committed,
    Governance,
    Lease,
    Registration,
    Report,
    Submission,
    Submitted,
)
from sovrun.stores.sqlite import rows
from sovrun.stores.sqlite.batch import Batch, StepChanges
from sovrun.stores.sqlite.intake import Intake
from sovrun.stores.sqlite.journal import JournalAnswer, JournalOwner, JournalRequest
from sovrun.stores.sqlite.leases import Leases
from sovrun.stores.sqlite.queue import Place, Queue
from sovrun.stores.sqlite.runs import UNSTARTED, Runs, StepsOf


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
class Act:
    """Something is done to a run from outside its workers."""

    action: Action
    payloads: Sequence[Payload]


@dataclass(frozen=True, slots=True)
class TakeBack:
    """The leases of these workers are to be taken back; None means every lease there is."""

    workers: Sequence[WorkerId] | None


@dataclass(frozen=True, slots=True)
class GiveBack:
    """These leases were given to a caller who has gone away meanwhile."""

    leases: Sequence[Lease]


@dataclass(frozen=True, slots=True)
class Renew:
    """A worker is alive, holds these leases and no others, and wants to know which of them are over."""

    worker: WorkerId
    held: Sequence[Lease]


Request: TypeAlias = (
    Registration
    | Submission
    | Commit
    | Claim
    | Act
    | TakeBack
    | GiveBack
    | Renew
    | Governance
    | JournalRequest
)
Answer: TypeAlias = (
    bool
    | Submitted
    | Committed
    | list[Lease]
    | Acted
    | Counter[WorkerId]
    | Governed
    | SovrunError
    | JournalAnswer
    | None
)


class Owner:
    """The one writer of a store's file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._queue = Queue(connection)
        self._runs = Runs(connection, lambda: self._queue.lanes)
        self._intake = Intake(connection, self._runs, self._queue)
        self.journal = JournalOwner(connection, self._runs)
        self._leases = Leases(connection, self._runs, self._queue)
        self._next_due: int | None = None
        self._stale = False
        self._pending = 0
        self.ended: list[RunId] = []
        """The runs that the last call of `commit` brought to their end, also one that failed after that."""
        self._look_again()

    def _look_again(self) -> None:
        """Drop what is remembered and read again what must be known."""
        self._runs.hot.clear()
        self._queue.load()
        self._intake.last_key = rows.one(self._connection, rows.SELECT_LAST_KEY)
        self._pending = rows.one(self._connection, rows.COUNT_PENDING)
        self._find_next_due(-1)
        self._stale = False

    @property
    def pending(self) -> int:
        """How many steps wait for the engine itself."""
        # The transaction that counted them may have failed, and there may be no other that looks again.
        if self._stale:
            self._pending = rows.one(self._connection, rows.COUNT_PENDING)
        return self._pending

    @property
    def next_due_us(self) -> int | None:
        """When the next wait or timer ends, None when nothing waits for a time."""
        return self._next_due

    def holders(self) -> list[WorkerId]:
        """Return the workers that hold leases, or held some that ended without them."""
        return self._leases.holders()

    def commit(self, requests: Sequence[Request], now_us: int) -> list[Answer]:
        """Carry out requests in one durable transaction and return their answers, in order.

        A request that is refused has its error as the answer and writes nothing; claims are served last, in order.
        Raises: sqlite3.Error; then nothing of it happened, or its outcome is unknown when COMMIT itself failed.
        """
        if self._stale:
            self._look_again()
        self.ended = []
        if self._is_time_over(now_us):
            # For itself, before all that is asked: who comes when the time is over finds what became of the run by that.
            self._transaction((), now_us)
        return self._transaction(requests, now_us)

    def _is_time_over(self, now_us: int) -> bool:
        if self._next_due is None or self._next_due > now_us:
            return False
        timer = rows.one(self._connection, rows.SELECT_NEXT_TIMER)
        return timer is not None and timer <= now_us

    def _transaction(self, requests: Sequence[Request], now_us: int) -> list[Answer]:
        connection = self._connection
        turn = self._queue.turn
        connection.execute(rows.BEGIN)
        try:
            batch = Batch(now_us)
            self._strike_timers(batch)
            answers = [self._first_pass(batch, request) for request in requests]
            self._settle_all(batch)
            self._end_all(batch)
            self._admit_waiting(batch)
            answers = self._serve(batch, requests, answers)
            batch.write_runs(connection)
            self._write_around(batch)
            connection.execute("COMMIT")
        except BaseException:
            self._stale = True
            self._queue.turn = turn
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._remember(batch)
        self.ended += [write.run.id for write in batch.ended]
        return answers

    # --- what was asked ---------------------------------------------------------------------------------------------

    def _first_pass(self, batch: Batch, request: Request) -> Answer:
        try:
            match request:
                case Commit():
                    return Committed(lost=tuple(self._reports(batch, request.reports)))
                case Claim():
                    return []
                case Submission():
                    return self._intake.submit(batch, request)
                case Registration():
                    return self._intake.register(batch, request)
                case Act():
                    return self._act(batch, request)
                case TakeBack():
                    return self._leases.take_back(batch, request.workers)
                case GiveBack():
                    lost = [(lease.run_key, lease.position, lease.fence) for lease in request.leases]
                    return self._leases.lose(batch, lost)
                case Renew():
                    return self._leases.renew(batch, request.worker, request.held)
                case Governance():
                    return self._intake.govern(batch, request)
                case _:
                    return self.journal.answer(batch, request)
        except SovrunError as refusal:
            return refusal

    def _reports(self, batch: Batch, reports: Iterable[Report]) -> Iterable[Lease]:
        """Apply reports to the writes of their runs; yield the leases that were lost."""
        for report in reports:
            lease = report.lease
            try:
                write = self._runs.write(batch, lease.run_key)
                step = self._runs.step(write, lease.position)
                if write.run.tenant != lease.tenant:
                    yield lease
                    continue
                write.move(lease.position, step, report.result, Actor(f"worker:{lease.worker}"))
            except NotFound:
                yield lease
            except LeaseLost:
                self._leases.let_go(write, lease)
                if not is_repeat(step, report.result):
                    batch.late[lease.tenant] += 1
                    yield lease
            else:
                self._queue.held(self._runs.hot[lease.run_key].lane, -1)
                batch.keep(lease.tenant, report.payloads)

    def _act(self, batch: Batch, request: Act) -> Acted:
        action = request.action
        row = self._connection.execute(rows.SELECT_RUN_KEY, (action.tenant, action.run)).fetchone()
        if row is None:
            raise NotFound(f"no run {action.run} for tenant {action.tenant}", hint="`sovrun runs` lists them")
        write = self._runs.write(batch, row[0])
        if isinstance(action, TakeUp) and not self._no_longer_pending(write, action.position):
            batch.acted.append(write)
            return Acted(changed=False, state=write.state)
        if isinstance(action, EnterCommand):
            action = self.journal.enter(batch, action)
        changed = perform(write, action, StepsOf(self._runs, write))
        batch.keep(action.tenant, request.payloads if changed else ())
        batch.acted.append(write)
        return Acted(changed, write.state)

    def _no_longer_pending(self, write: Write, position: int) -> bool:
        """Take a step away from the engine; False when it was not there for it to take up."""
        gone = self._connection.execute(rows.DELETE_PENDING, (write.run.key, position)).rowcount
        self._pending -= gone
        return gone > 0

    # --- what follows -----------------------------------------------------------------------------------------------

    def _strike_timers(self, batch: Batch) -> None:
        """Let timers strike whose time has come, and put retries that are due back at their places in the queue."""
        now_us = batch.now_us
        if self._next_due is None or self._next_due > now_us:
            return
        for due_us, key, position in self._connection.execute(rows.SELECT_TIMERS, (now_us,)).fetchall():
            write = self._runs.write(batch, key)
            if write.state not in TERMINAL:
                time_is_over(write, position, StepsOf(self._runs, write), due_us)
                self._queue.remove(self._runs.hot[key].lane, [Place(write.run.priority, key, position)])
                self._no_longer_pending(write, position)
        self._connection.execute(rows.DELETE_TIMERS, (now_us,))
        due: dict[int, list[Place]] = {}
        for lane, *place in self._connection.execute(rows.SELECT_DUE, (now_us,)).fetchall():
            moved = batch.writes.get(place[1])
            if (
                moved is None or place[2] not in moved.steps
            ):  # else it waits no more, which the file does not say yet
                due.setdefault(lane, []).append(Place(*place))
        for key, places in due.items():
            self._queue.put(self._queue.lanes[key], places, now_us)
        self._find_next_due(now_us)

    def _settle_all(self, batch: Batch) -> None:
        """Decide what follows from the moves so far, and find the runs that are terminal now."""
        for key, write in batch.writes.items():
            if key in batch.new or not (write.facts or write.ready):
                continue
            drive(write, lambda deltas, key=key: self._count_down(key, deltas))  # type: ignore[misc]
            struck = write.struck
            if struck is not None:
                unstarted = [(p, s) for p, s in self._runs.all_in(write, UNSTARTED) if s.state in UNSTARTED]
                write.stop(unstarted, struck, ENGINE)
            if write.stopping or write.cancelled:
                self._clear_queue(write)
            if write.derive():
                batch.ended.append(write)

    def _clear_queue(self, write: Write) -> None:
        """Take the steps of a run that is to end out of the queue and away from the engine."""
        run = write.run
        lane = self._runs.hot[run.key].lane
        self._queue.remove(lane, [Place(run.priority, run.key, position) for position in write.steps])
        self._pending -= self._connection.execute(rows.DELETE_PENDING_RUN, (run.key,)).rowcount

    def _end_all(self, batch: Batch) -> None:
        steps = StepChanges()
        for write in batch.ended:
            steps.gather(write.run.key, write, new=False)
        steps.write(self._connection)
        for write in batch.ended:
            found = self._connection.execute(rows.SELECT_RESULTS, (write.run.key,))
            results = (StepResult(h, State(s), None if c is None else Cause(c), o) for h, s, c, o in found)
            write.end(outcome_of(write.run.version, write.run.inputs, write.plan.steps, results))
            lane = self._runs.hot[write.run.key].lane
            if write.run.admitted:
                self._queue.admitted(lane, -1)
            else:
                self._queue.waits(lane, -1)

    def _admit_waiting(self, batch: Batch) -> None:
        """Admit runs that waited for a quota or an unpause, first come first, where there is room now."""
        lanes = self._queue.lanes
        waiting: dict[int, Iterator[Write]] = {}
        heads: dict[int, Write | None] = {}
        while opened := [lane for lane in lanes if lane.waiting > 0 and lanes.waits_for(lane) is None]:
            for lane in opened:
                if lane.key not in heads:
                    runs = waiting.setdefault(lane.key, self._waiting_runs(batch, lane))
                    heads[lane.key] = next(runs, None)
            first = [write for lane in opened if (write := heads[lane.key]) is not None]
            if not first:
                return
            write = min(first, key=_run_order)
            write.admit()
            lane = self._runs.hot[write.run.key].lane
            del heads[lane.key]
            self._queue.waits(lane, -1)
            self._queue.admitted(lane, 1)

    def _waiting_runs(self, batch: Batch, lane: Lane) -> Iterator[Write]:
        """Yield the runs of a lane that are not admitted, in order, those of this batch among them."""
        new = [batch.writes[key] for key in batch.new if self._runs.hot[key].lane is lane]
        for write in merge(self._waiting_in_file(batch, lane), sorted(new, key=_run_order), key=_run_order):
            if not write.admitted and write.ending is None:
                yield write

    def _waiting_in_file(self, batch: Batch, lane: Lane) -> Iterator[Write]:
        last = (-UNBOUNDED, 0)
        while row := self._connection.execute(rows.SELECT_WAITING_RUN, (lane.key, *last)).fetchone():
            last = row
            yield self._runs.write(batch, row[1])

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

    # --- who goes on ------------------------------------------------------------------------------------------------

    def _serve(self, batch: Batch, requests: Sequence[Request], answers: list[Answer]) -> list[Answer]:
        """Give leases to commits and claims in order."""
        for write in batch.writes.values():
            if write.ready:
                run = write.run
                lane = self._runs.hot[run.key].lane
                self._queue.ready(lane, [Place(run.priority, run.key, position) for position in write.ready])
        told = tuple(write.run.id for write in batch.ended)
        for number, request in enumerate(requests):
            answer = answers[number]
            if isinstance(request, Commit) and isinstance(answer, Committed):
                leases = self._take(batch, request.worker, request.slots)
                answers[number] = Committed(answer.lost, tuple(leases), told)
                told = ()
            elif isinstance(request, Claim):
                answers[number] = self._take(batch, request.worker, request.slots)
        acted = iter(batch.acted)
        return [Acted(a.changed, next(acted).state) if isinstance(a, Acted) else a for a in answers]

    def _take(self, batch: Batch, worker: WorkerId, slots: int) -> list[Lease]:
        taken = self._queue.take(slots)
        by_run: dict[int, list[tuple[int, Step]]] = {}
        for _, place, step in taken:
            by_run.setdefault(place.run, []).append((place.position, step))
        for key, claimed in by_run.items():
            write = self._runs.write(batch, key)
            write.start(claimed, worker, Actor(f"worker:{worker}"))
            write.derive()
        return [_lease(batch.writes[place.run], place.position, worker) for _, place, _ in taken]

    # --- what is written --------------------------------------------------------------------------------------------

    def _write_around(self, batch: Batch) -> None:
        """Write what stands beside the runs: timers, pending steps, lingering leases, lanes, counters."""
        execute = self._connection.executemany
        for key, write in batch.writes.items():
            if write.timers:
                execute(rows.INSERT_TIMER, ((due, key, position) for due, position in write.timers))
            if write.pending:
                self._pending += execute(
                    rows.INSERT_PENDING, ((key, position) for position in write.pending)
                ).rowcount
            if write.lingering:
                lane = self._runs.hot[key].lane.key
                execute(rows.INSERT_LINGERING, ((key, *lease, lane) for lease in write.lingering))
        self._queue.write_down(batch.now_us)
        for tenant, count in batch.late.items():
            name = rows.LATE_REPORTS.format(tenant)
            self._connection.execute(rows.COUNT_UP_SETTING, (name, str(count)))

    def _remember(self, batch: Batch) -> None:
        """Keep what the file now says of the runs under way."""
        due: list[int] = []
        for key, write in batch.writes.items():
            if write.timers:
                due.extend(when for when, _ in write.timers)
            head = batch.heads.get(key, write.run)
            if head.state in TERMINAL:
                self._runs.hot.pop(key, None)
                continue
            hot = self._runs.hot[key]
            hot.head = head
            executing = hot.executing
            for position, step in write.steps.items():
                if step.state is State.EXECUTING:
                    executing[position] = step
                else:
                    executing.pop(position, None)
                    if step.until_us is not None:
                        due.append(step.until_us)
        if due:
            self._next_due = min(due if self._next_due is None else (self._next_due, *due))
        self._runs.trim()

    # --- what is looked up ------------------------------------------------------------------------------------------

    def _find_next_due(self, after_us: int) -> None:
        retry = rows.one(self._connection, rows.SELECT_NEXT_DUE, after_us)
        timer = rows.one(self._connection, rows.SELECT_NEXT_TIMER)
        self._next_due = min((due for due in (retry, timer) if due is not None), default=None)


def _run_order(write: Write) -> tuple[int, int]:
    return write.run.priority, write.run.key


def _lease(write: Write, position: int, worker: WorkerId) -> Lease:
    run = write.run
    step = write.steps[position]
    return Lease(
        *(run.tenant, run.id, run.key, run.version, position, step.attempts, step.fence, worker, run.inputs),
        isolation=run.isolation,
    )
