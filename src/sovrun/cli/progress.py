"""Following a run: a live table or bar on a terminal, plain lines in a pipe, nothing for a program."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sovrun.cli.output import STYLE, counted, err, steps_table
from sovrun.core.canonical import decode
from sovrun.core.events import Event
from sovrun.core.ids import RunId, Tenant
from sovrun.core.plan import Plan
from sovrun.engine.views import plan_of_run
from sovrun.store.protocol import RunRecord
from sovrun.wiring import Opened

REFRESH_SECONDS: Final = 0.1
TABLE_STEPS_MAX: Final = 40
_STEPS_MAX: Final = 5
"""Names of steps that moved together that one line lists."""
_ENDS: Final = frozenset(
    {
        "step.completed",
        "step.failed",
        "step.cancelled",
        "step.awaiting_tool",
        "step.awaiting_user_confirmation",
    }
)


async def follow(opened: Opened, tenant: Tenant, run: RunId, *, quiet: bool) -> RunRecord:
    """Show a run's progress until it is terminal or left waiting, and return it. Raises: StoreUnavailable."""
    ended = asyncio.create_task(opened.engine.wait_idle(tenant, run))
    try:
        if not quiet:
            if err.is_terminal:
                await _live(opened, tenant, run, ended)
            else:
                await _lines(opened, tenant, run, ended)
        return await ended
    finally:
        ended.cancel()


async def _live(opened: Opened, tenant: Tenant, run: RunId, ended: asyncio.Task[RunRecord]) -> None:
    plan = await plan_of_run(opened.store, await opened.store.run(tenant, run))
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=err
    )
    task = bar.add_task("received", total=plan.size)
    with Live(console=err, refresh_per_second=10, transient=plan.size > TABLE_STEPS_MAX) as live:
        while True:
            over = ended.done()
            live.update(await _picture(opened, tenant, run, plan, bar, task))
            if over:
                return
            await asyncio.wait([ended], timeout=REFRESH_SECONDS)


async def _picture(
    opened: Opened, tenant: Tenant, run: RunId, plan: Plan, bar: Progress, task: TaskID
) -> RenderableType:
    record = await opened.store.run(tenant, run)
    counts = record.head.counts
    open_steps = (
        counts.received + counts.queued + counts.executing + counts.awaiting_tool + counts.awaiting_user
    )
    state = record.head.state
    bar.update(task, completed=plan.size - open_steps, description=f"[{STYLE[state]}]{state}[/]")
    if plan.size > TABLE_STEPS_MAX:
        return bar
    return Group(steps_table(plan, list(await opened.store.steps(tenant, run))), bar)


async def _lines(opened: Opened, tenant: Tenant, run: RunId, ended: asyncio.Task[RunRecord]) -> None:
    after = 0
    while True:
        over = ended.done()
        for event in await opened.store.events(tenant, run, after=after):
            after = event.sequence
            if event.type in _ENDS or event.type.startswith("run."):
                err.print(event_line(event), markup=False)
        if over:
            return
        await asyncio.wait([ended], timeout=REFRESH_SECONDS)


def event_line(event: Event) -> str:
    """Return what an event says to a person, in one line."""
    what = event.type.partition(".")[2]
    data = decode(event.data.encode())
    if event.step is not None:
        subject = f"step {event.step}"
    elif event.type.startswith("run."):
        subject = "run"
    else:
        steps = data.get("steps", [])
        subject = f"{counted(len(steps), 'step')} ({', '.join(steps[:_STEPS_MAX])}{', ...' if len(steps) > _STEPS_MAX else ''})"
    return f"{subject} {what}{_why(data)}"


def _why(data: Mapping[str, Any]) -> str:
    """Return why a step is in its state, on which of its attempts, and until when."""
    reason, failure = data.get("reason"), data.get("failure")
    codes = [code for code in (failure or reason, reason if data.get("until") else None) if code]
    text = f" [{', '.join(dict.fromkeys(codes))}]" if codes else ""
    if "attemptsLeft" in data:
        text += f", attempt {data['attempts']} of {data['attempts'] + data['attemptsLeft']}"
        if failure and reason and not data.get("until"):
            text += f", {reason}"
    return text + (f", until {data['until']}" if data.get("until") else "")
