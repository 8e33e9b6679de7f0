"""The statements and the shapes of rows: how values of the core become columns and back.

Owns: every SQL text of the SQLite store but the schema. All of them are constants; values are always bound.
"""
# ruff: noqa: S608 -- texts below are put together from constants of this module only

from __future__ import annotations

import sqlite3
from typing import Any, Final

from sovrun.core.ids import Actor, DagId, Digest, RunId, Tenant, WorkerId
from sovrun.core.lifecycle import Cause, Counts, State
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
INSERT INTO run (key, tenant, id, token, dag, inputs, priority, run_key, actor, isolation, note, created_us,
    state, reason, received, queued, executing, awaiting_tool, awaiting_user, failed, started, cancelled, stopping,
    sequence, time_us, started_us, ended_us, outcome, outputs, reproducible)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
UPDATE_RUN: Final = """
UPDATE run SET state = ?, reason = ?, received = ?, queued = ?, executing = ?, awaiting_tool = ?, awaiting_user = ?,
    failed = ?, started = ?, cancelled = ?, stopping = ?, sequence = ?, time_us = ?,
    started_us = coalesce(started_us, ?), ended_us = coalesce(ended_us, ?), outcome = ?, outputs = ?, reproducible = ?
WHERE key = ?"""
_RUN_COLUMNS: Final = """
r.key, r.id, r.tenant, d.version, r.inputs, r.priority, r.state, r.received, r.queued, r.executing, r.awaiting_tool,
r.awaiting_user, r.failed, r.reason, r.started, r.cancelled, r.stopping, r.sequence, r.time_us, r.outcome, r.outputs,
r.reproducible, r.dag, d.dag, r.token, r.run_key, r.actor, r.isolation, r.note, r.created_us, r.started_us, r.ended_us"""
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
SELECT ?, position, CASE needs WHEN 0 THEN 'queued' ELSE 'received' END, needs FROM dag_step WHERE dag = ?"""
_STEP_COLUMNS: Final = """state, reason, cause, attempts, failures, circumstances, fence, worker, until_us, step_hash,
    output, failure, error, environment"""
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
    until_us = ?, step_hash = ?, output = ?, failure = ?, error = ?, environment = ?
WHERE run = ? AND position = ?"""
QUEUE_STEP: Final = "UPDATE step SET state = 'queued' WHERE run = ? AND position = ?"
UPDATE_COUNTERS: Final = """
UPDATE step SET remaining = remaining - ?, failed_needs = failed_needs + ?, skipped_needs = skipped_needs + ?,
    unchosen = unchosen | ?
WHERE run = ? AND position = ? RETURNING remaining, failed_needs, skipped_needs, unchosen"""

INSERT_QUEUE: Final = "INSERT OR IGNORE INTO queue (tenant, priority, run, position) VALUES (?, ?, ?, ?)"
DELETE_QUEUE: Final = "DELETE FROM queue WHERE tenant = ? AND priority = ? AND run = ? AND position = ?"
SELECT_QUEUE: Final = f"""
SELECT q.priority, q.run, q.position, {", ".join("s." + name.strip() for name in _STEP_COLUMNS.split(","))}
FROM queue q JOIN step s ON s.run = q.run AND s.position = q.position
WHERE q.tenant = ? ORDER BY q.priority, q.run, q.position LIMIT ?"""
COUNT_QUEUE: Final = "SELECT tenant, count(*) FROM queue GROUP BY tenant"
SELECT_DUE: Final = """
SELECT r.tenant, r.priority, s.run, s.position FROM step s JOIN run r ON r.key = s.run
WHERE s.until_us <= ? AND s.state = 'awaiting_tool'"""
SELECT_NEXT_DUE: Final = "SELECT min(until_us) FROM step WHERE until_us > ?"

INSERT_EVENT: Final = (
    "INSERT INTO event (run, sequence, time_us, actor, type, step, data) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
INSERT_EVENT_DATA: Final = "INSERT INTO event_data (run, sequence, data) VALUES (?, ?, ?)"
SELECT_EVENTS: Final = """
SELECT e.sequence, e.time_us, e.actor, e.type, e.step, coalesce(e.data, d.data)
FROM event e LEFT JOIN event_data d ON d.run = e.run AND d.sequence = e.sequence AND e.data IS NULL
WHERE e.run = ? AND e.sequence > ? ORDER BY e.sequence LIMIT ?"""

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
        head.sequence,
        head.time_us,
        head.time_us if head.started else None,
        ended_us,
        head.outcome,
        head.outputs,
        head.reproducible,
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
        note=None if row[28] is None else Digest(row[28]),
        created_us=row[29],
        started_us=row[30],
        ended_us=row[31],
    )


def dag_of(row: tuple[Any, ...]) -> DagRecord:
    """Return a row of `SELECT_DAG` as a registered version."""
    return DagRecord(DagId(row[0]), Digest(row[1]), Digest(row[2]), row[3], row[4])


def dag_key(row: tuple[Any, ...]) -> int:
    """Return the DAG's own number of a row of run columns."""
    return int(row[22])


def one(connection: sqlite3.Connection, statement: str, *values: Any) -> Any:
    """Return the first column of the first row."""
    return connection.execute(statement, values).fetchone()[0]
