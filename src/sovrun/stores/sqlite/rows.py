"""The statements and the shapes of rows: how values of the core become columns and back.

Owns: every SQL text of the SQLite store but the schema. All of them are constants; values are always bound.
"""
# ruff: noqa: S608 -- texts below are put together from constants of this module only

from __future__ import annotations

import sqlite3
from typing import Any, Final

from sovrun.core.ids import Actor, DagId, Digest, RunId, StepId, Tenant, WorkerId
from sovrun.core.lanes import Limits
from sovrun.core.lifecycle import TERMINAL, Cause, Counts, State
from sovrun.core.run import Run
from sovrun.core.step import QUEUED, RECEIVED, Step
from sovrun.store.protocol import DagRecord, RunRecord

EVENT_INLINE_MAX: Final = 700
"""Characters of event data kept in the clustered row; longer ones would spill into overflow pages."""

BEGIN: Final = "BEGIN IMMEDIATE"

INSERT_DAG: Final = """
INSERT INTO dag_version (tenant, dag, version, code, normal, source, actor, registered_us)
VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (tenant, version) DO NOTHING RETURNING key"""
INSERT_DAG_STEP: Final = "INSERT INTO dag_step (dag, position, needs) VALUES (?, ?, ?)"
SELECT_DAG: Final = (
    "SELECT dag, version, code, normal, source FROM dag_version WHERE tenant = ? AND version = ?"
)
SELECT_DAG_KEY: Final = "SELECT key, normal FROM dag_version WHERE tenant = ? AND version = ?"
SELECT_DAG_BY_KEY: Final = "SELECT key, normal FROM dag_version WHERE key = ?"

INSERT_RUN: Final = """
INSERT INTO run (key, tenant, id, token, dag, lane, inputs, priority, run_key, actor, isolation, note, parent,
    from_step, repeat_effects, created_us,
    state, reason, received, queued, executing, awaiting_tool, awaiting_user, failed, started, cancelled, stopping,
    failures, admitted, cancel, sequence, time_us, started_us, ended_us, outcome, outputs, reproducible)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
UPDATE_RUN: Final = """
UPDATE run SET state = ?, reason = ?, received = ?, queued = ?, executing = ?, awaiting_tool = ?, awaiting_user = ?,
    failed = ?, started = ?, cancelled = ?, stopping = ?, failures = ?, admitted = ?, cancel = ?, sequence = ?, time_us = ?,
    started_us = coalesce(started_us, ?), ended_us = coalesce(ended_us, ?), outcome = ?, outputs = ?, reproducible = ?
WHERE key = ?"""
ADVANCE_RUN: Final = """
UPDATE run SET state = ?1, received = ?2, queued = ?3, executing = ?4, awaiting_tool = ?5, awaiting_user = ?6, failed = ?7,
    failures = ?8, sequence = ?9, time_us = ?10, started = ?11,
    started_us = coalesce(started_us, CASE WHEN ?11 THEN ?10 END)
WHERE key = ?12"""
"""What most writes change. No index has any of these columns, so none is written again."""
_RUN_COLUMNS: Final = """
r.key, r.id, r.tenant, d.version, r.inputs, r.priority, r.state, r.received, r.queued, r.executing, r.awaiting_tool,
r.awaiting_user, r.failed, r.reason, r.started, r.cancelled, r.stopping, r.sequence, r.time_us, r.outcome, r.outputs,
r.reproducible, r.dag, d.dag, r.token, r.run_key, r.actor, r.isolation, r.note, r.created_us, r.started_us, r.ended_us,
r.failures, r.admitted, r.parent, r.cancel, r.lane, r.from_step, r.repeat_effects"""
_RUN_FROM: Final = "FROM run r JOIN dag_version d ON d.key = r.dag"
SELECT_RUN: Final = f"SELECT {_RUN_COLUMNS} {_RUN_FROM} WHERE r.key = ?"
SELECT_RUN_BY_ID: Final = f"SELECT {_RUN_COLUMNS} {_RUN_FROM} WHERE r.tenant = ? AND r.id = ?"
SELECT_RUNS: Final = (
    f"SELECT {_RUN_COLUMNS} {_RUN_FROM} WHERE r.tenant = ? AND r.key < ? ORDER BY r.key DESC LIMIT ?"
)
SELECT_RUN_KEY: Final = "SELECT key FROM run WHERE tenant = ? AND id = ?"
SELECT_UNFINISHED: Final = "SELECT key FROM run WHERE ended_us IS NULL ORDER BY key"
SELECT_UNFINISHED_RUNS: Final = "SELECT tenant, id FROM run WHERE ended_us IS NULL ORDER BY key"
SELECT_LAST_KEY: Final = "SELECT coalesce(max(key), 0) FROM run"

INSERT_CALLER_KEY: Final = "INSERT INTO caller_key (tenant, dag, key, request, run) VALUES (?, ?, ?, ?, ?)"
SELECT_CALLER_KEY: Final = "SELECT request, run FROM caller_key WHERE tenant = ? AND dag = ? AND key = ?"

INSERT_STEPS: Final = """
INSERT INTO step (run, position, state, remaining)
SELECT ?, position, CASE WHEN needs = 0 AND ? THEN 'queued' ELSE 'received' END, needs FROM dag_step WHERE dag = ?"""
_STEP_COLUMNS: Final = """state, reason, cause, attempts, failures, circumstances, fence, worker, until_us, step_hash,
    output, failure, error, environment, shown, answer"""
SELECT_STEP: Final = f"SELECT {_STEP_COLUMNS} FROM step WHERE run = ? AND position = ?"
SELECT_STEPS: Final = f"SELECT {_STEP_COLUMNS} FROM step WHERE run = ? ORDER BY position"
SELECT_STEPS_IN: Final = f"""
SELECT position, {_STEP_COLUMNS} FROM step
WHERE run = ? AND state IN (SELECT value FROM json_each(?)) ORDER BY position"""
SELECT_RESULTS: Final = "SELECT step_hash, state, cause, output FROM step WHERE run = ? ORDER BY position"
SELECT_OUTPUTS: Final = """
SELECT s.position, s.output, p.body FROM step s LEFT JOIN payload p ON p.tenant = ? AND p.digest = s.output
WHERE s.run = ? AND s.position IN (SELECT value FROM json_each(?))"""
UPDATE_STEP: Final = """
UPDATE step SET state = ?, reason = ?, cause = ?, attempts = ?, failures = ?, circumstances = ?, fence = ?, worker = ?,
    until_us = ?, step_hash = ?, output = ?, failure = ?, error = ?, environment = ?, shown = ?, answer = ?, since_us = ?
WHERE run = ? AND position = ?"""
START_STEP: Final = """
UPDATE step SET state = 'executing', attempts = 1, worker = ?, since_us = ? WHERE run = ? AND position = ?"""
"""The first attempt of a step, of which nothing else is known yet."""
COMPLETE_STEP: Final = """
UPDATE step SET state = 'completed', worker = NULL, fence = ?, step_hash = ?, output = ?, environment = ?, since_us = ?
WHERE run = ? AND position = ?"""
"""The end of a step that neither a tool nor a person had a part in; the other columns of such a step are as they were."""
QUEUE_STEP: Final = "UPDATE step SET state = 'queued' WHERE run = ? AND position = ?"
UPDATE_COUNTERS: Final = """
UPDATE step SET remaining = remaining - ?, failed_needs = failed_needs + ?, skipped_needs = skipped_needs + ?,
    unchosen = unchosen | ?
WHERE run = ? AND position = ? RETURNING remaining, failed_needs, skipped_needs, unchosen"""

INSERT_QUEUE: Final = """
INSERT OR IGNORE INTO queue (lane, priority, run, position, since_us) VALUES (?, ?, ?, ?, ?)"""
DELETE_QUEUE: Final = "DELETE FROM queue WHERE lane = ? AND priority = ? AND run = ? AND position = ?"
SELECT_QUEUE: Final = f"""
SELECT q.priority, q.run, q.position, {", ".join("s." + name.strip() for name in _STEP_COLUMNS.split(","))}
FROM queue q JOIN step s ON s.run = q.run AND s.position = q.position
WHERE q.lane = ? ORDER BY q.priority, q.run, q.position LIMIT ?"""
SELECT_LANES: Final = """
SELECT l.key, l.tenant, l.dag, l.paused, l.runs_max, l.steps_max,
    (SELECT count(*) FROM queue q WHERE q.lane = l.key),
    (SELECT coalesce(sum(r.executing), 0) FROM run r WHERE r.lane = l.key AND r.ended_us IS NULL)
        + (SELECT count(*) FROM lingering g WHERE g.lane = l.key),
    (SELECT count(*) FROM run r WHERE r.lane = l.key AND r.ended_us IS NULL AND r.admitted = 1),
    (SELECT count(*) FROM run r WHERE r.lane = l.key AND r.admitted = 0 AND r.ended_us IS NULL)
FROM lane l"""
INSERT_LANE: Final = "INSERT INTO lane (tenant, dag) VALUES (?, ?) RETURNING key"
UPDATE_LANE: Final = "UPDATE lane SET queued = ?, executing = ?, runs = ?, waiting = ? WHERE key = ?"
GOVERN_LANE: Final = "UPDATE lane SET paused = ?, runs_max = ?, steps_max = ? WHERE tenant = ? AND dag = ?"
SELECT_TENANTS: Final = "SELECT tenant, paused, runs_max, steps_max, weight FROM tenant"
SELECT_TENANT: Final = "SELECT paused, runs_max, steps_max, weight FROM tenant WHERE tenant = ?"
GOVERN_TENANT: Final = """
INSERT INTO tenant (tenant, paused, runs_max, steps_max, weight) VALUES (?, ?, ?, ?, ?) ON CONFLICT (tenant) DO UPDATE
SET paused = excluded.paused, runs_max = excluded.runs_max, steps_max = excluded.steps_max, weight = excluded.weight"""
INSERT_ACT: Final = "INSERT INTO act (tenant, time_us, actor, type, data) VALUES (?, ?, ?, ?, ?)"
SELECT_DEPTHS: Final = """
SELECT l.key, l.dag, l.paused, l.runs_max, l.steps_max, l.queued, l.executing, l.runs, l.waiting,
    (SELECT min(q.since_us) FROM queue q WHERE q.lane = l.key),
    (SELECT min(r.created_us) FROM run r WHERE r.lane = l.key AND r.admitted = 0 AND r.ended_us IS NULL),
    coalesce(t.paused, 0), t.runs_max, t.steps_max
FROM lane l LEFT JOIN tenant t ON t.tenant = l.tenant WHERE l.tenant = ? ORDER BY l.dag"""
"""One statement, so that all of it is of one moment."""
SELECT_WAITING_RUN: Final = """
SELECT priority, key FROM run
WHERE lane = ? AND admitted = 0 AND (priority, key) > (?, ?) AND ended_us IS NULL ORDER BY priority, key LIMIT 1"""
SELECT_SETTING: Final = "SELECT value FROM setting WHERE name = ?"
UPSERT_SETTING: Final = """
INSERT INTO setting (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"""

COUNT_UP_SETTING: Final = """
INSERT INTO setting (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE
SET value = CAST(value AS INTEGER) + CAST(excluded.value AS INTEGER)"""
LATE_REPORTS: Final = "late_reports/{}"
"""Name of the setting that counts a tenant's."""

INSERT_PENDING: Final = "INSERT OR IGNORE INTO pending (run, position) VALUES (?, ?)"
DELETE_PENDING: Final = "DELETE FROM pending WHERE run = ? AND position = ?"
DELETE_PENDING_RUN: Final = "DELETE FROM pending WHERE run = ?"
SELECT_PENDING: Final = """
SELECT r.tenant, r.id, p.run, d.version, p.position, r.inputs, r.parent, r.from_step
FROM pending p JOIN run r ON r.key = p.run JOIN dag_version d ON d.key = r.dag ORDER BY p.run, p.position LIMIT ?"""
COUNT_PENDING: Final = "SELECT count(*) FROM pending"

INSERT_TIMER: Final = "INSERT OR IGNORE INTO timer (due_us, run, position) VALUES (?, ?, ?)"
SELECT_TIMERS: Final = (
    "SELECT due_us, run, position FROM timer WHERE due_us <= ? ORDER BY due_us, run, position"
)
DELETE_TIMERS: Final = "DELETE FROM timer WHERE due_us <= ?"
SELECT_NEXT_TIMER: Final = "SELECT min(due_us) FROM timer"

INSERT_LINGERING: Final = "INSERT INTO lingering (run, position, fence, worker, lane) VALUES (?, ?, ?, ?, ?)"
DELETE_LINGERING: Final = "DELETE FROM lingering WHERE run = ? AND position = ? AND fence = ? RETURNING lane"
DELETE_LINGERING_OF: Final = "DELETE FROM lingering WHERE worker = ? RETURNING lane"
DELETE_ALL_LINGERING: Final = "DELETE FROM lingering"
SELECT_LINGERING_OF: Final = "SELECT run, position, fence FROM lingering WHERE worker = ?"
SELECT_LINGERERS: Final = "SELECT DISTINCT worker FROM lingering"
SELECT_EXECUTING: Final = (
    "SELECT key, executing FROM run WHERE ended_us IS NULL AND executing > 0 ORDER BY key"
)
SELECT_WAITS: Final = """
SELECT r.id, d.dag, d.version, s.position, s.state, s.reason, coalesce(s.since_us, r.time_us), s.until_us, s.shown
FROM run r JOIN dag_version d ON d.key = r.dag JOIN step s ON s.run = r.key
WHERE r.tenant = ? AND r.ended_us IS NULL AND r.awaiting_tool + r.awaiting_user > 0 AND s.shown IS NOT NULL
    AND s.state IN ('awaiting_tool', 'awaiting_user_confirmation')
    AND (coalesce(s.since_us, r.time_us), r.key, s.position)
        > (?, (SELECT key FROM run WHERE tenant = ? AND id = ?), ?)
ORDER BY coalesce(s.since_us, r.time_us), r.key, s.position LIMIT ?"""
SELECT_ADMISSION: Final = """
SELECT l.key, l.tenant, l.dag, l.paused, l.runs_max, l.runs,
    (SELECT sum(o.runs) FROM lane o WHERE o.tenant = l.tenant)
FROM lane l WHERE l.key = ?"""
COUNT_RERUNS: Final = "SELECT count(*) FROM run WHERE tenant = ? AND parent = ?"

SELECT_DUE: Final = """
SELECT r.lane, r.priority, s.run, s.position FROM step s JOIN run r ON r.key = s.run
WHERE s.until_us <= ? AND s.state = 'awaiting_tool' AND s.reason IN ('retry_due', 'lease_expired')"""
SELECT_NEXT_DUE: Final = """
SELECT min(until_us) FROM step WHERE until_us > ? AND reason IN ('retry_due', 'lease_expired')"""

INSERT_EVENT: Final = "INSERT INTO event (key, time_us, actor, type, step, data) VALUES (?, ?, ?, ?, ?, ?)"
INSERT_EVENT_DATA: Final = "INSERT INTO event_data (run, sequence, data) VALUES (?, ?, ?)"
SELECT_EVENTS: Final = """
SELECT e.sequence, e.time_us, e.actor, e.type, e.step, coalesce(e.data, d.data)
FROM event e LEFT JOIN event_data d ON d.run = e.run AND d.sequence = e.sequence AND e.data IS NULL
WHERE e.key > (?1 << 32 | ?2) AND e.key < (?1 + 1 << 32) ORDER BY e.key LIMIT ?3"""

INSERT_PAYLOAD: Final = "INSERT OR IGNORE INTO payload (tenant, digest, body) VALUES (?, ?, ?)"
SELECT_PAYLOAD: Final = "SELECT body FROM payload WHERE tenant = ? AND digest = ?"


def step_row(step: Step) -> tuple[Any, ...]:
    """Return a step as the columns of `UPDATE_STEP` before its key."""
    return (
        step.state,
        step.reason,
        step.cause,
        step.attempts,
        step.failures,
        step.circumstances,
        step.fence,
        step.worker,
        step.until_us,
        step.step_hash,
        step.output,
        step.failure,
        step.error,
        step.environment,
        step.shown,
        step.answer,
    )


def step_of(row: tuple[Any, ...]) -> Step:
    """Return a row of step columns as the step it is."""
    if row[3] == 0 and row[1] is None:
        if row[0] == "queued":
            return QUEUED
        if row[0] == "received":
            return RECEIVED
    return Step(
        State(row[0]),
        row[1],
        None if row[2] is None else Cause(row[2]),
        row[3],
        row[4],
        row[5],
        row[6],
        None if row[7] is None else WorkerId(row[7]),
        row[8],
        *row[9:],
    )


def run_columns(head: Run, ended_us: int | None) -> tuple[Any, ...]:
    """Return a head as the changing columns of a run, in the order of `UPDATE_RUN`."""
    return (
        head.state,
        head.reason,
        *head.counts,
        head.started,
        head.cancelled,
        head.stopping,
        head.failures,
        head.admitted,
        head.cancel,
        head.sequence,
        head.time_us,
        head.time_us if head.started else None,
        ended_us,
        head.outcome,
        head.outputs,
        head.reproducible,
    )


def advances(before: Run, after: Run) -> bool:
    """Return whether a write has changed no more of a run than what `ADVANCE_RUN` says."""
    return (
        after.state not in TERMINAL
        and before.admitted == after.admitted
        and before.stopping == after.stopping
        and before.cancelled == after.cancelled
        and before.cancel == after.cancel
        and before.reason == after.reason
    )


def advance_columns(head: Run) -> tuple[Any, ...]:
    """Return a head as the values of `ADVANCE_RUN`; texts and numbers alone, since binding anything else costs more."""
    return (
        str(head.state),
        *head.counts,
        head.failures,
        head.sequence,
        head.time_us,
        int(head.started),
        head.key,
    )


def run_of(row: tuple[Any, ...]) -> Run:
    """Return a row of run columns as the head of the run."""
    return Run(
        key=row[0],
        id=RunId(row[1]),
        tenant=Tenant(row[2]),
        version=Digest(row[3]),
        inputs=Digest(row[4]),
        priority=row[5],
        isolation=row[27],
        state=State(row[6]),
        counts=Counts(*row[7:13]),
        reason=row[13],
        started=bool(row[14]),
        cancelled=bool(row[15]),
        stopping=bool(row[16]),
        sequence=row[17],
        time_us=row[18],
        outcome=row[19],
        outputs=row[20],
        reproducible=None if row[21] is None else bool(row[21]),
        failures=row[32],
        admitted=bool(row[33]),
        parent=row[34],
        cancel=row[35],
    )


def record_of(row: tuple[Any, ...]) -> RunRecord:
    """Return a row of run columns as all that is known of the run."""
    return RunRecord(
        head=run_of(row),
        dag=DagId(row[23]),
        token=Digest(row[24]),
        key=row[25],
        actor=Actor(row[26]),
        isolation=row[27],
        from_step=None if row[37] is None else StepId(row[37]),
        repeat_effects=() if row[38] is None else tuple(map(StepId, row[38].split())),
        note=None if row[28] is None else Digest(row[28]),
        created_us=row[29],
        started_us=row[30],
        ended_us=row[31],
    )


def dag_of(row: tuple[Any, ...]) -> DagRecord:
    """Return a row of `SELECT_DAG` as a registered version."""
    return DagRecord(DagId(row[0]), Digest(row[1]), Digest(row[2]), row[3], row[4])


def lane_key(row: tuple[Any, ...]) -> int:
    """Return the lane of a row of run columns."""
    return int(row[36])


def one(connection: sqlite3.Connection, statement: str, *values: Any) -> Any:
    """Return the first column of the first row."""
    return connection.execute(statement, values).fetchone()[0]


def limits_of(row: tuple[Any, ...], weight: int = 1) -> Limits:
    """Return (paused, runs_max, steps_max) as limits."""
    return Limits(bool(row[0]), row[1], row[2], weight)
