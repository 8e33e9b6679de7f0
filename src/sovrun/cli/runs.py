"""Commands that read: runs, show, events. They work beside the owner of a store and without one."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from sovrun.cli.options import AsJson, RunId, StoreUrl, TenantName, tenant_of
from sovrun.cli.output import STYLE, complete, out, print_json, print_line, steps_table, visible
from sovrun.core import ids
from sovrun.core.errors import InvalidIdentifier, NotFound
from sovrun.core.identity import parse_replay_token
from sovrun.core.times import time_text
from sovrun.engine.views import plan_of_run, run_json, run_summary
from sovrun.store.codec import shown
from sovrun.store.protocol import Reads
from sovrun.wiring import StoreAddress, open_reader

PAGE = 5_000


def runs(
    *,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many, latest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List runs, latest first."""

    async def job() -> None:
        async with open_reader(StoreAddress.parse(store)) as (reader, _):
            found = await reader.runs(tenant_of(tenant), limit=limit)
            shown = [await run_summary(reader, record) for record in found]
        if as_json:
            print_json({"runs": shown})
            return
        if not found:
            out.print(f"no runs of tenant {tenant} yet; `sovrun run FILE` makes one")
            return
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("run", "dag", "status", "created", "outcome"):
            table.add_column(column, no_wrap=True)
        for record, told in zip(found, shown, strict=True):
            head = record.head
            unresolved = told["effectsUnresolved"]
            more = f", effects unresolved: {unresolved}" if unresolved else ""
            table.add_row(
                head.id,
                escape(record.dag),
                f"[{STYLE[head.state]}]{head.state}[/]{more}",
                time_text(record.created_us)[:19] + "Z",
                (head.outcome or "")[:16],
            )
        out.print(table)

    complete(job())


def show(
    run: RunId, *, store: StoreUrl = None, tenant: TenantName = "default", as_json: AsJson = False
) -> None:
    """Show a run and its steps."""

    async def job() -> None:
        async with open_reader(StoreAddress.parse(store)) as (reader, _):
            whose = tenant_of(tenant)
            record = await reader.run(whose, await find_run(reader, whose, run))
            whole = await run_json(reader, record)
            if as_json:
                print_json(whole)
                return
            for name, value in whole.items():
                if name not in ("steps", "effectsUnresolved") and value is not None:
                    out.print(f"[dim]{name:<13}[/] {escape(visible(str(value)))}")
            if whole["effectsUnresolved"]:
                out.print(f"[yellow]effects unresolved: {whole['effectsUnresolved']}[/]")
            plan = await plan_of_run(reader, record)
            out.print(steps_table(plan, list(await reader.steps(whose, record.head.id))))
            for step in whole["steps"]:
                if step["error"] is not None:
                    out.print(
                        f"[bold red]{escape(step['id'])}[/] {escape(visible(step['error']['message']))}"
                    )

    complete(job())


def events(
    run: RunId, *, store: StoreUrl = None, tenant: TenantName = "default", as_json: AsJson = False
) -> None:
    """Show the history of a run; with --json one event a line, as it is chained and exported."""

    async def job() -> None:
        async with open_reader(StoreAddress.parse(store)) as (reader, _):
            whose = tenant_of(tenant)
            found = await find_run(reader, whose, run)
            after = 0
            while page := await reader.events(whose, found, after=after, limit=PAGE):
                after = page[-1].sequence
                for event in page:
                    if as_json:
                        print_line(shown(event))
                    else:
                        out.print(
                            f"{event.sequence:>6} {time_text(event.time_us)} {event.type:<24} "
                            f"{event.step or '-':<20} {event.actor} {event.data}",
                            markup=False,
                        )

    complete(job())


async def find_run(reader: Reads, tenant: ids.Tenant, text: str) -> ids.RunId:
    """Return the run that a text names: its id, the beginning of one (8 digits or more), a token or a replay token.

    Raises: NotFound, InvalidIdentifier.
    """
    token = parse_replay_token(text)
    if token is not None:
        return token[0]
    if text.startswith("sovrun1."):
        raise InvalidIdentifier(
            "the replay token is cut off or changed: a whole one is sovrun1.RUN.OUTCOME.CHAINHEAD"
        )
    if len(text) == 64:
        return ids.run_id(text[:32])
    if len(text) == 32:
        return ids.run_id(text)
    if len(text) >= 4:
        matching = [r.head.id for r in await reader.runs(tenant, limit=10_000) if r.head.id.startswith(text)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise NotFound(f"{len(matching)} runs begin with {text}", hint="give more digits")
    raise NotFound(f"no run {text!r} for tenant {tenant}", hint="`sovrun runs` lists them")
