"""Commands that read: runs, show, events. They work beside the owner of a store and without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from sovrun.cli.holds import why_nothing_goes_on
from sovrun.cli.options import AsJson, RunId, StoreUrl, TenantName, tenant_of
from sovrun.cli.output import STYLE, complete, err, out, print_json, print_line, steps_table, visible
from sovrun.cli.walls import weaker_walls
from sovrun.core import ids
from sovrun.core.errors import InvalidIdentifier, NotFound
from sovrun.core.identity import parse_replay_token
from sovrun.core.times import time_text
from sovrun.engine.holds import Holds
from sovrun.engine.views import plan_of_run, run_json, run_summary
from sovrun.store.codec import shown
from sovrun.store.protocol import Reads, RunRecord
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
    whose = tenant_of(tenant)
    address = StoreAddress.parse(store)

    async def job() -> None:
        found: Sequence[RunRecord] = ()
        if is_there(address):
            async with open_reader(address) as (reader, _):
                found = await reader.runs(whose, limit=limit)
                shown = [await run_summary(reader, record) for record in found]
                holds = await Holds.read(reader, whose)
        if as_json:
            print_json({"runs": shown if found else []})
            return
        if not found:
            out.print(f"no runs of tenant {tenant} yet; `sovrun run FILE` makes one")
            return
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("run", "dag", "status", "reason", "created", "outcome"):
            table.add_column(column, no_wrap=True)
        for record, told in zip(found, shown, strict=True):
            head = record.head
            unresolved = told["effectsUnresolved"]
            more = f", effects unresolved: {unresolved}" if unresolved else ""
            table.add_row(
                head.id,
                escape(record.dag),
                f"[{STYLE[head.state]}]{head.state}[/]{more}",
                ", ".join(hold.reason for hold in holds.of(record)) or head.reason or "",
                time_text(record.created_us)[:19] + "Z",
                (head.outcome or "")[:16],
            )
        out.print(table)

    complete(job())


def show(
    run: RunId, *, store: StoreUrl = None, tenant: TenantName = "default", as_json: AsJson = False
) -> None:
    """Show a run and its steps, what holds it, and whose word ended what."""
    whose = tenant_of(tenant)
    address = StoreAddress.parse(store)

    async def job() -> None:
        async with open_reader(address) as (reader, _):
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
            for line in (*weaker_walls(whole), *await why_nothing_goes_on(reader, record, address)):
                out.print(f"[yellow]{escape(line)}[/]")
            for step in whole["steps"]:
                if step["decision"] is not None:
                    why = "" if step["rationale"] is None else f": {step['rationale']}"
                    out.print(
                        visible(f"{step['id']} {step['decision']} by {step['decidedBy']}{why}"), markup=False
                    )
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


def is_there(address: StoreAddress) -> bool:
    """Return whether a store has been made; of one that has not, say so: what is listed of it is nothing."""
    if address.path is None or address.path.exists():
        return True
    err.print(
        f"[dim]there is no store at {escape(str(address.path))} yet; `sovrun run`, `submit` and `up` make one[/]"
    )
    return False


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
