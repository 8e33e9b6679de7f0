"""An operator's word on runs and queues: cancel, rerun, pause, unpause, limit, queue.

Each command has two parts: what is asked of a desk, and how it is shown. The desk may stand on a store that this process
owns or on the server that owns it; nothing here knows which, except that a server executes a re-run by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from sovrun.cli.holds import print_how_to_go_on
from sovrun.cli.options import (
    Adapters,
    AsJson,
    Note,
    RunId,
    StoreUrl,
    TenantName,
    Workers,
    note_of,
    same_store,
    tenant_of,
)
from sovrun.cli.output import STYLE, Exit, complete, err, out, print_json, print_unresolved
from sovrun.cli.progress import follow
from sovrun.cli.runs import find_run
from sovrun.cli.summary import announce, finish
from sovrun.cli.watching import followed
from sovrun.core import ids
from sovrun.core.errors import InvalidSetting, StoreOwned
from sovrun.core.lanes import LIMIT_MAX, WEIGHT_MAX, Bound, Governed, Limits, LimitsChange
from sovrun.core.times import time_text
from sovrun.engine.desk import Desk
from sovrun.engine.queues import TenantQueue, queue_of
from sovrun.engine.views import governed_json, run_summary, tenant_queue_json
from sovrun.store.protocol import Acted, Governance, Reads, RunRecord, Submitted
from sovrun.wiring import StoreAddress, local_actor, open_desk, open_engine, open_reader

DagName = Annotated[
    str | None,
    typer.Argument(metavar="[DAG]", help="Its id; without one the whole tenant.", show_default=False),
]


# --- runs -----------------------------------------------------------------------------------------------------------


async def ask_cancel(
    desk: Desk, reads: Reads, tenant: ids.Tenant, run: str, note: str | None
) -> tuple[ids.RunId, Acted]:
    """End a run now. Raises: NotFound, IllegalTransition."""
    found = await find_run(reads, tenant, run)
    return found, await desk.cancel(tenant, found, local_actor(), note)


def cancel(
    run: RunId,
    *,
    note: Note = None,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    as_json: AsJson = False,
) -> None:
    """End a run now, whatever it is doing; the same request again changes nothing."""
    whose, why = tenant_of(tenant), note_of(note)

    async def job() -> tuple[ids.RunId, Acted, int]:
        async with open_desk(StoreAddress.parse(store)) as opened:
            found, acted = await ask_cancel(opened.desk, opened.store, whose, run, why)
            return found, acted, await opened.store.unresolved(whose, found)

    found, acted, unresolved = complete(job())
    if as_json:
        shown = {"runId": found, "changed": acted.changed, "status": str(acted.state)}
        print_json({**shown, "effectsUnresolved": unresolved})
    else:
        already = "" if acted.changed else " (already so)"
        out.print(f"run {found} is [{STYLE[acted.state]}]{acted.state}[/]{already}")
        print_unresolved(unresolved)


@dataclass(frozen=True, slots=True)
class Again:
    """What is to be run again: the run as a person names it, from which step on in any case, and why."""

    run: str
    from_step: ids.StepId | None
    note: str | None
    key: str | None
    repeat_effects: tuple[ids.StepId, ...]
    """`command` steps whose effect is wanted again."""


async def ask_rerun(desk: Desk, reads: Reads, tenant: ids.Tenant, again: Again) -> Submitted:
    """Make a new run that cites its parent. Raises: see `Desk.rerun`."""
    found = await find_run(reads, tenant, again.run)
    asked = (tenant, found, local_actor())
    return await desk.rerun(
        *asked,
        from_step=again.from_step,
        note=again.note,
        key=again.key,
        repeat_effects=again.repeat_effects,
    )


def rerun(  # noqa: PLR0913 -- one parameter per option
    run: RunId,
    *,
    from_step: Annotated[
        str | None,
        typer.Option("--from", metavar="STEP", help="Execute this step and all that follow in any case."),
    ] = None,
    repeat_effects: Annotated[
        list[str] | None,
        typer.Option(
            "--repeat-effect", metavar="STEP", help="Have the effect of this command step again. Repeatable."
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="KEY", help="Ask under this key: the same again makes no other run."),
    ] = None,
    note: Note = None,
    detach: Annotated[bool, typer.Option("--detach", help="Make the run and return at once.")] = False,
    workers: Workers = 2,
    adapters: Adapters = None,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    as_json: AsJson = False,
) -> None:
    """Run a run again that is over, reusing the outputs of unchanged steps, and show what came out."""
    whose = tenant_of(tenant)
    address = StoreAddress.parse(store)
    start = None if from_step is None else ids.StepId(from_step)
    asked = None if key is None else ids.idempotency_key(key)
    again = Again(run, start, note_of(note), asked, tuple(map(ids.StepId, repeat_effects or ())))
    if not detach:
        try:
            raise typer.Exit(complete(_run_again(address, whose, again, workers, adapters, as_json=as_json)))
        except StoreOwned:
            err.print("[dim]another process owns the store; a server executes the run[/]")
        raise typer.Exit(complete(_run_again_beside(address, whose, again, as_json=as_json)))
    record, shown = complete(_made_again(address, whose, again))
    if as_json:
        print_json(shown)
    else:
        out.print(record.head.id)
        print_how_to_go_on(address, record.isolation)


async def _made_again(
    address: StoreAddress, tenant: ids.Tenant, again: Again
) -> tuple[RunRecord, dict[str, Any]]:
    async with open_desk(address) as opened:
        made = await ask_rerun(opened.desk, opened.store, tenant, again)
        record = await opened.store.run(tenant, made.run)
        return record, {**await run_summary(opened.store, record), "created": made.created}


async def _run_again(
    address: StoreAddress,
    tenant: ids.Tenant,
    again: Again,
    workers: int,
    adapters: Path | None,
    *,
    as_json: bool,
) -> Exit:
    """Make the re-run and execute it here, isolated as its parent was. Raises: StoreOwned, with nothing made."""
    async with open_reader(address) as (reader, _):
        isolation = (await reader.run(tenant, await find_run(reader, tenant, again.run))).isolation
    async with open_engine(address, isolation=isolation, slots=workers, adapters=adapters) as opened:
        made = await ask_rerun(opened.engine.desk, opened.store, tenant, again)
        if not as_json:
            announce(opened, address, made.run, created=made.created)
        record = await follow(opened, tenant, made.run, quiet=as_json)
        return await finish(opened, address, record, save=None, as_json=as_json)


async def _run_again_beside(
    address: StoreAddress, tenant: ids.Tenant, again: Again, *, as_json: bool
) -> Exit:
    """Have the server that owns the store execute the re-run, and follow it."""
    async with open_desk(address) as opened:
        made = await ask_rerun(opened.desk, opened.store, tenant, again)
        if not as_json:
            announce(opened, address, made.run, created=made.created)
        record = await followed(opened, address, tenant, made.run, quiet=as_json)
        return await finish(opened, address, record, save=None, as_json=as_json)


# --- what may go on -------------------------------------------------------------------------------------------------


async def ask_limits(
    desk: Desk, tenant: ids.Tenant, dag: str | None, note: str | None, change: LimitsChange
) -> Governed:
    """Change what is allowed to a DAG, or to the whole tenant; what is so already is not recorded again.

    Raises: NotFound, InvalidIdentifier.
    """
    name = None if dag is None else ids.DagId(ids.require_name(dag, "DAG"))
    return await desk.govern(Governance(tenant, name, change, local_actor(), note or ""))


def pause(
    dag: DagName = None,
    *,
    note: Note = None,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    as_json: AsJson = False,
) -> None:
    """Start nothing more of a DAG or of a whole tenant; what executes goes on to its end."""
    _govern(StoreAddress.parse(store), tenant, dag, note, LimitsChange(paused=True), as_json)


def unpause(
    dag: DagName = None,
    *,
    note: Note = None,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    as_json: AsJson = False,
) -> None:
    """Let a paused DAG or tenant go on."""
    _govern(StoreAddress.parse(store), tenant, dag, note, LimitsChange(paused=False), as_json)


def limit(
    dag: DagName = None,
    *,
    runs: Annotated[
        str | None, typer.Option("--runs", metavar="N|none", help="Runs at a time; more wait as received.")
    ] = None,
    steps: Annotated[
        str | None, typer.Option("--steps", metavar="N|none", help="Steps that execute at a time.")
    ] = None,
    weight: Annotated[
        int | None,
        typer.Option(
            "--weight", min=1, max=WEIGHT_MAX, metavar="N", help="Steps a tenant takes in its turn."
        ),
    ] = None,
    note: Note = None,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    as_json: AsJson = False,
) -> None:
    """Bound what a DAG or a whole tenant does at a time."""
    if (runs, steps, weight) == (None, None, None):
        raise InvalidSetting(
            "nothing to change: give --runs, --steps or --weight", hint="`sovrun queue` shows limits"
        )
    if weight is not None and dag is not None:
        raise InvalidSetting("a weight belongs to a tenant, not to one of its DAGs", hint="leave out the DAG")
    change = LimitsChange(
        runs_max=None if runs is None else _bound_of(runs, "--runs"),
        steps_max=None if steps is None else _bound_of(steps, "--steps"),
        weight=weight,
    )
    _govern(StoreAddress.parse(store), tenant, dag, note, change, as_json)


def _bound_of(text: str, option: str) -> Bound:
    if text == "none":
        return Bound(None)
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:10]) <= LIMIT_MAX):
        raise InvalidSetting(
            f"{option} {text[:40]!r} is neither a number from 1 to {LIMIT_MAX:,} nor none",
            hint="`sovrun pause` starts nothing at all",
        )
    return Bound(int(text))


def _govern(
    address: StoreAddress,
    tenant: str,
    dag: str | None,
    note: str | None,
    change: LimitsChange,
    as_json: bool,  # noqa: FBT001 -- the last of them
) -> None:
    whose, why = tenant_of(tenant), note_of(note)

    async def job() -> Governed:
        async with open_desk(address) as opened:
            return await ask_limits(opened.desk, whose, dag, why, change)

    governed = complete(job())
    if as_json:
        print_json({**governed_json(whose, dag, governed.limits), "changed": governed.changed})
    else:
        what = f"tenant {whose}" if dag is None else f"DAG {dag} of tenant {whose}"
        already = "" if governed.changed else " (already so)"
        out.print(f"{escape(what)}: {_limits_text(governed.limits, whole=dag is None)}{already}")


# --- queues ---------------------------------------------------------------------------------------------------------


def queue(*, store: StoreUrl = None, tenant: TenantName = "default", as_json: AsJson = False) -> None:
    """Show how much waits and executes in all and of each DAG, since when, why runs wait, and what is allowed."""
    whose = tenant_of(tenant)
    address = StoreAddress.parse(store)

    async def job() -> TenantQueue:
        async with open_reader(address) as (reader, _):
            return await queue_of(reader, whose)

    found = complete(job())
    if as_json:
        print_json(tenant_queue_json(whose, found))
        return
    out.print(f"tenant {whose}: {_limits_text(found.limits, whole=True)}", markup=False)
    out.print(f"steps: {found.queued:,} queued{_since(found.oldest_us)}, {found.executing:,} executing")
    out.print(f"runs: {found.runs:,} admitted, {_waiting_text(found)}")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("dag", "queued", "executing", "oldest", "runs", "waiting", "allowed"):
        table.add_column(column, no_wrap=True)
    for depth in found.depths:
        waiting = f"{depth.waiting:,} {depth.waits_for}" if depth.waiting else ""
        table.add_row(
            escape(depth.dag),
            f"{depth.queued:,}",
            f"{depth.executing:,}",
            _short_time(depth.oldest_us),
            f"{depth.runs:,}",
            waiting,
            _limits_text(depth.limits, whole=False),
        )
    out.print(table)
    if any(each.paused for each in (found.limits, *(depth.limits for depth in found.depths))):
        out.print(f"end a pause with: sovrun unpause [DAG]{same_store(address, whose)}", markup=False)


def _waiting_text(found: TenantQueue) -> str:
    if not found.waiting:
        return "none waits to be admitted"
    reasons = ", ".join(f"{reason} {runs:,}" for reason, runs in found.reasons.items())
    return f"{found.waiting:,} waiting to be admitted{_since(found.waiting_us)}: {reasons}"


def _since(instant_us: int | None) -> str:
    return "" if instant_us is None else f" since {_short_time(instant_us)}"


def _short_time(instant_us: int | None) -> str:
    return "" if instant_us is None else time_text(instant_us)[:19] + "Z"


def _limits_text(limits: Limits, *, whole: bool) -> str:
    bounds = [
        *(["paused"] if limits.paused else []),
        *([] if limits.runs_max is None else [f"runs at most {limits.runs_max:,}"]),
        *([] if limits.steps_max is None else [f"steps at most {limits.steps_max:,}"]),
    ]
    weight = f", weight {limits.weight}" if whole else ""
    return (", ".join(bounds) or "no limits") + weight
