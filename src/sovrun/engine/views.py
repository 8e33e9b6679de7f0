"""Runs and steps as the objects that programs see, the same at every face.

Owns: the published members of a run and of a step.
"""

from __future__ import annotations

from typing import Any

from sovrun.core.canonical import decode
from sovrun.core.ids import Tenant
from sovrun.core.plan import Plan, plan_of
from sovrun.core.spec.normal import spec_from_normal
from sovrun.core.step import Step
from sovrun.core.times import time_text
from sovrun.engine.history import chain_head, replay_token_of
from sovrun.store.protocol import Reads, RunRecord


async def plan_of_run(store: Reads, record: RunRecord) -> Plan:
    """Return the plan of a recorded run."""
    dag = await store.dag(record.head.tenant, record.head.version)
    return plan_of(spec_from_normal(decode(dag.normal)))


async def run_json(store: Reads, record: RunRecord) -> dict[str, Any]:
    """Return a run with its steps as the object that programs see."""
    head = record.head
    steps = await store.steps(head.tenant, head.id)
    plan = await plan_of_run(store, record)
    note = None if record.note is None else await store.payload(head.tenant, record.note)
    return {
        **run_line(record),
        "chainHead": await chain_head(store, head.tenant, head.id),
        "replayToken": await replay_token_of(store, record),
        "note": None if note is None else note.decode(errors="replace"),
        "steps": [
            await _step_json(store, head.tenant, spec.id, step)
            for spec, step in zip(plan.steps, steps, strict=True)
        ],
    }


def run_line(record: RunRecord) -> dict[str, Any]:
    """Return a run without its steps as the object that programs see."""
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
        "isolation": record.isolation,
        "priority": head.priority,
        "createdAt": time_text(record.created_us),
        "startedAt": None if record.started_us is None else time_text(record.started_us),
        "endedAt": None if record.ended_us is None else time_text(record.ended_us),
    }


async def _step_json(store: Reads, tenant: Tenant, step_id: str, step: Step) -> dict[str, Any]:
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
        "until": None if step.until_us is None else time_text(step.until_us),
        "environment": step.environment,
        "error": await step_error(store, tenant, step),
    }


async def step_error(store: Reads, tenant: Tenant, step: Step) -> dict[str, Any] | None:
    """Return the document of a step's last failed attempt, None when there is none or it is not kept inline."""
    if step.error is None:
        return None
    body = await store.payload(tenant, step.error)
    if body is None:
        return None
    document: dict[str, Any] = decode(body)
    return document
