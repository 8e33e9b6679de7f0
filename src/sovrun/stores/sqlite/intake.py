"""What comes in from callers: DAG versions, runs, an operator's limits.

Owns: `Intake`, the part of the owner that makes runs and finds those that were asked for before.
"""

from __future__ import annotations

import sqlite3

from sovrun.core.canonical import decode
from sovrun.core.lanes import Governed
from sovrun.core.lifecycle import Counts, Reason, State
from sovrun.core.plan import plan_of
from sovrun.core.run import Run, Write
from sovrun.core.spec.normal import spec_from_normal
from sovrun.store.codec import governed_data, received_data, same_request
from sovrun.store.protocol import Governance, Registration, Submission, Submitted
from sovrun.stores.sqlite import rows
from sovrun.stores.sqlite.batch import Batch
from sovrun.stores.sqlite.queue import Queue
from sovrun.stores.sqlite.runs import Hot, Runs


class Intake:
    """Makes what is asked for; `last_key` is the newest run's number."""

    def __init__(self, connection: sqlite3.Connection, runs: Runs, queue: Queue) -> None:
        self._connection = connection
        self._runs = runs
        self._queue = queue
        self.last_key = 0

    def register(self, batch: Batch, registration: Registration) -> bool:
        """Make a DAG version known; False when it was already."""
        r = registration
        if self._connection.execute(rows.SELECT_DAG_KEY, (r.tenant, r.version)).fetchone() is not None:
            return False
        plan = plan_of(spec_from_normal(decode(r.normal)))  # before the first write: it may refuse
        self._queue.lane(r.tenant, r.dag)
        values = (r.tenant, r.dag, r.version, r.code, r.normal, r.source, r.actor, batch.now_us)
        dag = self._connection.execute(rows.INSERT_DAG, values).fetchone()[0]
        needs = ((dag, position, len(of_step)) for position, of_step in enumerate(plan.needs))
        self._connection.executemany(rows.INSERT_DAG_STEP, needs)
        return True

    def submit(self, batch: Batch, submission: Submission) -> Submitted:
        """Make a run, or find the one that was asked for before. Raises: IdempotencyKeyConflict, NotFound."""
        s = submission
        first = self._first_of(batch, s)
        if first is not None:
            return first
        dag, plan = self._runs.plan(s.tenant, s.version)
        lane = self._queue.lane(s.tenant, s.dag)
        self.last_key += 1
        key = self.last_key
        head = Run(
            key,
            s.id,
            s.tenant,
            s.version,
            s.inputs.digest,
            s.priority,
            s.isolation,
            State.RECEIVED,
            Counts(),
            parent=s.parent,
        )
        self._runs.hot[key] = Hot(head, plan, lane)
        write = batch.writes[key] = Write(plan, head, batch.now_us)
        waits_for = self._queue.lanes.waits_for(lane) or (Reason.RUN_LIMIT if lane.waiting else None)
        write.receive(s.actor, received_data(s), waits_for)
        if waits_for is None:
            self._queue.admitted(lane, 1)
        else:
            self._queue.waits(lane, 1)
        note = None if s.note is None else s.note.digest
        batch.new[key] = (
            *(
                key,
                s.tenant,
                s.id,
                s.token,
                dag,
                lane.key,
                s.inputs.digest,
                s.priority,
                s.key,
                s.actor,
                s.isolation,
            ),
            *(note, s.parent, s.from_step, " ".join(s.repeat_effects) or None, write.now_us),
        )
        batch.names.add((s.tenant, s.id))
        if s.caller_key is not None:
            batch.caller_keys.append((s.tenant, s.dag, s.caller_key, s.request, s.id))
        batch.keep(s.tenant, (s.inputs,) if s.note is None else (s.inputs, s.note))
        return Submitted(s.id, created=True)

    def _first_of(self, batch: Batch, submission: Submission) -> Submitted | None:
        """Return the answer to a request that was made before, in the file or earlier in this batch."""
        s = submission
        if s.caller_key is not None:
            name = (s.tenant, s.dag, s.caller_key)
            found = self._connection.execute(rows.SELECT_CALLER_KEY, name).fetchone()
            found = found or next((row[3:] for row in batch.caller_keys if row[:3] == name), None)
            if found is not None:
                return same_request(s, found[0], found[1])
        run = (s.tenant, s.id)
        known = run in batch.names or self._connection.execute(rows.SELECT_RUN_KEY, run).fetchone()
        return Submitted(s.id, created=False) if known else None

    def govern(self, batch: Batch, governance: Governance) -> Governed:
        """Change what an operator allows and record the act, unless it is so already. Raises: NotFound."""
        g = governance
        governed = self._queue.govern(g.tenant, g.dag, g.change)
        if governed.changed:
            type_ = "tenant.governed" if g.dag is None else "dag.governed"
            values = (g.tenant, batch.now_us, g.actor, type_, governed_data(g, governed.limits))
            self._connection.execute(rows.INSERT_ACT, values)
        return governed
