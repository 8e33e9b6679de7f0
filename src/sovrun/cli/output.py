"""What a person and a program are shown: one place for the shapes of JSON and for the look of the terminal.

Owns: exit codes, `run_json`, the error texts, the consoles.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Coroutine
from enum import IntEnum
from typing import Any, Final, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sovrun.core.canonical import decode
from sovrun.core.errors import (
    CorruptHistory,
    InvalidSpec,
    IsolationUnavailable,
    SovrunError,
    StoreOwned,
    StoreUnavailable,
    StoreVersion,
)
from sovrun.core.ids import Tenant
from sovrun.core.lifecycle import State
from sovrun.core.plan import Plan, plan_of
from sovrun.core.spec.normal import spec_from_normal
from sovrun.core.step import Step
from sovrun.core.times import time_text
from sovrun.engine.history import chain_head, replay_token_of
from sovrun.store.protocol import Reads, RunRecord

Result = TypeVar("Result")


class Exit(IntEnum):
    """Exit codes, public."""

    COMPLETED = 0
    FAILED = 1
    BAD_INPUT = 2
    ENVIRONMENT = 3
    WAITING = 4


_ENVIRONMENT: Final = (CorruptHistory, IsolationUnavailable, StoreOwned, StoreUnavailable, StoreVersion)

STYLE: Final = {
    State.RECEIVED: "dim",
    State.QUEUED: "cyan",
    State.EXECUTING: "blue",
    State.AWAITING_TOOL: "yellow",
    State.AWAITING_USER_CONFIRMATION: "yellow",
    State.COMPLETED: "green",
    State.FAILED: "bold red",
    State.CANCELLED: "magenta",
}

_PIPE_WIDTH: Final = 200
"""Columns of a table that no terminal bounds."""


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=width)


out: Final = _console(stderr=False)
err: Final = _console(stderr=True)


def exit_of(error: SovrunError) -> Exit:
    """Return the exit code of an error: what the caller gave, or what the machine lacks."""
    return Exit.ENVIRONMENT if isinstance(error, _ENVIRONMENT) else Exit.BAD_INPUT


def exit_of_run(state: State) -> Exit:
    """Return the exit code of a run's state."""
    if state is State.COMPLETED:
        return Exit.COMPLETED
    return Exit.FAILED if state in (State.FAILED, State.CANCELLED) else Exit.WAITING


def complete(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a command's work to its end; an interrupt ends it cleanly with exit code 130."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        err.print("interrupted; `sovrun resume` goes on with what was not finished")
        raise typer.Exit(128 + signal.SIGINT) from None


def print_json(value: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_line(value: Any) -> None:
    """Print one line of NDJSON."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def report_error(error: SovrunError, *, as_json: bool) -> None:
    """Say what was wrong, where, and what to do: for programs on standard output, for people on standard error."""
    if as_json:
        print_json({"error": error_json(error)})
        return
    err.print(f"[bold red]error[/] \\[{error.code}] {escape(error.detail)}")
    if isinstance(error, InvalidSpec):
        for mistake in error.mistakes:
            place = f"{error.name}:{mistake.line}:{mistake.column}" if mistake.line else error.name
            err.print(f"  {escape(place)}: {escape(mistake.message)} [dim]\\[{mistake.code}][/]")
            if mistake.hint:
                err.print(f"    [dim]{escape(mistake.hint)}[/]")
    if error.hint:
        err.print(f"  [dim]{escape(error.hint)}[/]")


def error_json(error: SovrunError) -> dict[str, Any]:
    """Return an error as the object that programs see."""
    shown: dict[str, Any] = {
        "code": error.code,
        "title": error.title,
        "detail": error.detail,
        "hint": error.hint,
        "facts": error.facts,
    }
    if isinstance(error, InvalidSpec):
        shown["mistakes"] = [
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
    return shown


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


def steps_table(plan: Plan, steps: list[Step]) -> Table:
    """Return the steps of a run as a table in plan order."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("step", "state", "attempts", "reason", "output"):
        table.add_column(column, no_wrap=column != "reason")
    for spec, step in zip(plan.steps, steps, strict=True):
        reason = step.reason or ""
        if step.failure and step.failure != step.reason:
            reason = f"{reason}: {step.failure}" if reason else step.failure
        table.add_row(
            escape(spec.id),
            f"[{STYLE[step.state]}]{step.state}[/]",
            str(step.attempts or ""),
            reason,
            "" if step.output is None else step.output[:12],
        )
    return table
