"""Following a run: a live table or bar on a terminal, plain lines in a pipe, nothing for a program."""

from __future__ import annotations

import asyncio
from typing import Final

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sovrun.cli.output import STYLE, err, steps_table
from sovrun.core.events import Event
from sovrun.core.ids import RunId, Tenant
from sovrun.core.lifecycle import State
from sovrun.core.plan import Plan
from sovrun.engine.views import plan_of_run
from sovrun.store.protocol import RunRecord
from sovrun.wiring import Opened

REFRESH_SECONDS: Final = 0.1
TABLE_STEPS_MAX: Final = 40
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
                err.print(_line(event), markup=False)
        if over:
            return
        await asyncio.wait([ended], timeout=REFRESH_SECONDS)


def _line(event: Event) -> str:
    what = event.type.partition(".")[2]
    if event.step is None:
        return f"run {what}" if event.type.startswith("run.") else f"steps {what} {event.data}"
    detail = "" if State(what) is State.COMPLETED else f" {event.data}"
    return f"step {event.step} {what}{detail}"
