"""Runs and steps as the objects that programs see, the same at every face.

Owns: the published members of a run, of a step, of a wait, of a queue, of what an operator allows and of a document's mistakes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sovrun.core.canonical import decode
from sovrun.core.errors import InvalidSpec
from sovrun.core.identity import replay_token
from sovrun.core.ids import Digest, Tenant
from sovrun.core.lanes import Limits
from sovrun.core.lifecycle import TERMINAL, Reason, State
from sovrun.core.plan import Plan, plan_of
from sovrun.core.spec.normal import spec_from_normal
from sovrun.core.step import Step
from sovrun.core.times import time_text
from sovrun.engine.desk import WaitView
from sovrun.engine.history import Word, told_by
from sovrun.engine.holds import Holds
from sovrun.engine.queues import TenantQueue
from sovrun.store.protocol import Depth, Reads, RunRecord


async def plan_of_run(store: Reads, record: RunRecord) -> Plan:
    """Return the plan of a recorded run."""
    dag = await store.dag(record.head.tenant, record.head.version)
    return plan_of(spec_from_normal(decode(dag.normal)))


async def run_json(store: Reads, record: RunRecord) -> dict[str, Any]:
    """Return a run with its steps as the object that programs see."""
    head = record.head
    steps = await store.steps(head.tenant, head.id)
    plan = await plan_of_run(store, record)
    told = await told_by(store, record)
    ended = None if head.outcome is None else replay_token(head.id, head.outcome, told.chain_head)
    return {
        **await run_summary(store, record),
        "chainHead": told.chain_head,
        "replayToken": ended,
        "note": await _text(store, head.tenant, record.note),
        "heldBy": None if head.state in TERMINAL else await held_by(store, record),
        "cancelledBy": None if told.cancelled is None else told.cancelled.actor,
        "cancelReason": None
        if told.cancelled is None
        else await _text(store, head.tenant, told.cancelled.why),
        "steps": [
            {
                **await _step_json(store, record, spec.id, step),
                **await _word_json(store, head.tenant, told.decided.get(spec.id)),
                "walls": told.walls.get(spec.id),
            }
            for spec, step in zip(plan.steps, steps, strict=True)
        ],
    }


async def held_by(store: Reads, record: RunRecord) -> str | None:
    """Return what keeps a run from going on that nobody has recorded: a pause or a limit that is so now."""
    holds = (await Holds.read(store, record.head.tenant)).of(record)
    return holds[0].reason if holds else None


async def run_summary(store: Reads, record: RunRecord) -> dict[str, Any]:
    """Return a run without its steps, and how many of its effects nobody knows the outcome of."""
    head = record.head
    return {**run_line(record), "effectsUnresolved": await store.unresolved(head.tenant, head.id)}


def run_line(record: RunRecord) -> dict[str, Any]:
    """Return what is recorded of a run itself."""
    head = record.head
    return {
        "runId": head.id,
        "runToken": record.token,
        "tenant": head.tenant,
        "dagId": record.dag,
        "dagVersion": head.version,
        "status": str(head.state),
        "reason": head.reason,
        "reproducible": head.reproducible,
        "outcomeHash": head.outcome,
        "outputsHash": head.outputs,
        "inputsHash": head.inputs,
        "actor": record.actor,
        "parent": head.parent,
        "fromStep": record.from_step,
        "isolation": record.isolation,
        "priority": head.priority,
        "createdAt": time_text(record.created_us),
        "startedAt": _time(record.started_us),
        "endedAt": _time(record.ended_us),
    }


def is_reused(step: Step) -> bool:
    """Return whether a step has its output from the run of which its own is a re-run: nobody worked, nobody answered."""
    return step.state is State.COMPLETED and step.attempts == 0 and step.answer is None


def wait_json(view: WaitView) -> dict[str, Any]:
    """Return a wait as the object that programs see."""
    wait, asks = view.wait, view.asks
    return {
        "runId": wait.run,
        "dagId": wait.dag,
        "stepId": view.step,
        "kind": str(view.kind),
        "state": str(wait.state),
        "whom": view.whom,
        "since": time_text(wait.since_us),
        "until": _time(wait.until_us),
        "onExpiry": view.on_expiry,
        "role": None if asks is None else asks.role,
        "actor": None if asks is None else asks.actor,
        "barRequester": asks is not None and asks.bar_requester,
        "shownHash": wait.shown,
        "shown": view.shown,
    }


def tenant_queue_json(tenant: Tenant, queue: TenantQueue) -> dict[str, Any]:
    """Return the queues of a tenant, and their sums, as the object that programs see."""
    return {
        "tenant": tenant,
        "limits": limits_json(queue.limits),
        **_counts_json(queue, queue.reasons),
        "lateReports": queue.late_reports,
        "queues": [_queue_json(depth) for depth in queue.depths],
    }


def _queue_json(depth: Depth) -> dict[str, Any]:
    return {
        "dagId": depth.dag,
        **_counts_json(depth, {} if depth.waits_for is None else {depth.waits_for: depth.waiting}),
        "paused": depth.limits.paused,
        "runsMax": depth.limits.runs_max,
        "stepsMax": depth.limits.steps_max,
    }


def _counts_json(counted: Depth | TenantQueue, reasons: Mapping[Reason, int]) -> dict[str, Any]:
    return {
        "queued": counted.queued,
        "executing": counted.executing,
        "oldest": _time(counted.oldest_us),
        "runs": counted.runs,
        "waitingRuns": {
            "count": counted.waiting,
            "oldest": _time(counted.waiting_us),
            "reasons": {str(reason): runs for reason, runs in reasons.items()},
        },
    }


def limits_json(limits: Limits) -> dict[str, Any]:
    """Return what an operator allows a tenant as the object that programs see."""
    return {
        "paused": limits.paused,
        "runsMax": limits.runs_max,
        "stepsMax": limits.steps_max,
        "weight": limits.weight,
    }


def governed_json(tenant: Tenant, dag: str | None, limits: Limits) -> dict[str, Any]:
    """Return what is allowed to a DAG, or to the tenant, as the object that programs see."""
    return {"tenant": tenant, "dagId": dag, "limits": limits_json(limits)}


def mistakes_json(error: InvalidSpec) -> list[dict[str, Any]]:
    """Return the mistakes of a document as the objects that programs see."""
    return [
        {
            "code": mistake.code,
            "message": mistake.message,
            "path": list(mistake.path),
            "line": mistake.line,
            "column": mistake.column,
            "hint": mistake.hint,
        }
        for mistake in error.mistakes
    ]


def _time(instant_us: int | None) -> str | None:
    return None if instant_us is None else time_text(instant_us)


async def _step_json(store: Reads, record: RunRecord, step_id: str, step: Step) -> dict[str, Any]:
    return {
        "id": step_id,
        "state": str(step.state),
        "reason": step.reason,
        "cause": step.cause and str(step.cause),
        "stepHash": step.step_hash,
        "outputHash": step.output,
        "attempts": step.attempts,
        "failures": step.failures,
        "failure": step.failure,
        "until": _time(step.until_us),
        "shownHash": step.shown,
        "reusedFrom": record.head.parent if is_reused(step) else None,
        "environment": step.environment,
        "error": await step_error(store, record.head.tenant, step),
    }


async def _word_json(store: Reads, tenant: Tenant, word: Word | None) -> dict[str, Any]:
    return {
        "decision": None if word is None else word.decision,
        "decidedBy": None if word is None else word.actor,
        "rationale": None if word is None else await _text(store, tenant, word.why),
    }


async def _text(store: Reads, tenant: Tenant, digest: Digest | None) -> str | None:
    """Return what somebody said, None also when it is not kept inline."""
    body = None if digest is None else await store.payload(tenant, digest)
    return None if body is None else body.decode(errors="replace")


async def step_error(store: Reads, tenant: Tenant, step: Step) -> dict[str, Any] | None:
    """Return the document of a step's last failed attempt, None when there is none or it is not kept inline."""
    if step.error is None:
        return None
    body = await store.payload(tenant, step.error)
    if body is None:
        return None
    document: dict[str, Any] = decode(body)
    return document
