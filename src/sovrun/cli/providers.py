"""What there is outside: adapters, resources, orders, deployments, portfolio. Nothing here changes anything.

Where a server owns the store it is asked, for its settings say which adapters there are; else the adapters are read from here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.markup import escape
from rich.table import Table

from sovrun.cli.options import Adapters, AsJson, StoreUrl, TenantName, tenant_of
from sovrun.cli.output import Exit, complete, err, out, print_json, visible
from sovrun.core.errors import ProviderUnavailable
from sovrun.core.ids import Tenant
from sovrun.engine.command_views import compared_json, drift_json, recorded_json
from sovrun.execution.adapter_set import AdapterSet
from sovrun.execution.port import AdapterReads, Call, OutcomeUnknown
from sovrun.execution.sightings import listing_json, portfolio_json
from sovrun.reach import adapters_of, compare, is_listened_to, local_adapters
from sovrun.stores.remote.rest import RestClient
from sovrun.wiring import StoreAddress, local_actor, open_reader, socket_of

AdapterName = Annotated[
    str, typer.Argument(metavar="ADAPTER", help="Its name; `sovrun adapters` lists them.", show_default=False)
]


async def shown_by(
    address: StoreAddress,
    tenant: Tenant,
    file: Path | None,
    path: str,
    look: Callable[[AdapterSet], Awaitable[dict[str, Any]]],
) -> dict[str, Any]:
    """Return what a server's route `path` shows, or without a server what `look` finds by the adapters of the settings.

    Raises: ProviderUnavailable, AdapterUnavailable, StoreUnavailable, InvalidSetting.
    """
    if address.path is not None and is_listened_to(address):
        async with RestClient(socket_of(address.path), tenant) as server:
            told: dict[str, Any] = await server.get(path)
            return told
    async with local_adapters(address, file) as adapters:
        try:
            return await look(adapters)
        except OutcomeUnknown as unknown:
            raise ProviderUnavailable(str(unknown), reason=unknown.reason) from unknown


def adapters(
    *,
    adapters: Adapters = None,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    as_json: AsJson = False,
) -> None:
    """List the adapters: what each knows, for which modes it is, and how long an effect may take to come about."""
    whose = tenant_of(tenant)

    shown = complete(adapters_of(StoreAddress.parse(store), whose, adapters))
    if as_json:
        print_json({"adapters": shown})
        return
    table = _table("adapter", "resources", "modes", "deadline", "absence", "symbols")
    for one in shown:
        symbols = "any" if one["symbols"] is None else ", ".join(one["symbols"])
        absence = "conclusive" if one["absenceIsConclusive"] else "a person decides"
        deadline = f"{one['processingDeadlineSeconds']:g} s"
        names = ", ".join([*one["resources"], *one["kinds"]])
        table.add_row(*map(escape, (one["name"], names, ", ".join(one["modes"]), deadline, absence, symbols)))
    _print(table, f"tenant {whose} has no adapters")


def resources(
    *,
    adapter: Annotated[
        str | None, typer.Option("--adapter", metavar="A", help="Those at one adapter.")
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Those that may still change.")] = False,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    as_json: AsJson = False,
) -> None:
    """List the orders and deployments that commands have made, as they were last seen."""
    whose = tenant_of(tenant)

    async def job() -> list[dict[str, Any]]:
        async with open_reader(StoreAddress.parse(store)) as (reader, _):
            found = await reader.resources(whose, adapter=adapter, live=live)
            return [recorded_json(one) for one in found]

    found = complete(job())
    if as_json:
        print_json({"resources": found})
        return
    table = _table("adapter", "type", "id", "status", "command", "seen")
    for one in found:
        cells = (
            one["adapter"],
            one["type"],
            one["id"],
            one["status"],
            one["commandId"][:12],
            one["seenAt"][:19] + "Z",
        )
        table.add_row(*map(escape, cells))
    which = f"{'live ' if live else ''}order or deployment{f' through {adapter}' if adapter else ''}"
    _print(table, f"no command of tenant {whose} has made any {which}")


def orders(
    adapter: AdapterName,
    *,
    adapters: Adapters = None,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    as_json: AsJson = False,
) -> None:
    """List the orders at a provider, as it tells of them now."""
    columns = ("id", "symbol", "side", "quantity", "filled", "price", "status")
    address = StoreAddress.parse(store)
    _list("orders", adapter, adapters, address, tenant_of(tenant), columns, as_json)


def deployments(
    adapter: AdapterName,
    *,
    adapters: Adapters = None,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    as_json: AsJson = False,
) -> None:
    """List the deployments at a provider, as it tells of them now."""
    address = StoreAddress.parse(store)
    _list(
        "deployments",
        adapter,
        adapters,
        address,
        tenant_of(tenant),
        ("id", "name", "status", "rawStatus"),
        as_json,
    )


def _list(
    what: str,
    adapter: str,
    file: Path | None,
    address: StoreAddress,
    tenant: Tenant,
    columns: Sequence[str],
    as_json: bool,  # noqa: FBT001 -- the last of them
) -> None:
    async def look(known: AdapterSet) -> dict[str, Any]:
        reads, call = known.reads(tenant, adapter), Call(tenant, local_actor())
        found = await (reads.list_orders(call) if what == "orders" else reads.list_deployments(call))
        return listing_json(what, found)

    shown = complete(shown_by(address, tenant, file, f"/adapters/{quote(adapter, safe='')}/{what}", look))
    if as_json:
        print_json(shown)
        return
    table = _table(*columns)
    for one in shown[what]:
        table.add_row(*(escape(visible(str(one[name] if one[name] is not None else ""))) for name in columns))
    _print(
        table, f"{adapter} has no {what} of tenant {tenant}{' that can be read' * bool(shown['unreadable'])}"
    )
    for one in shown["unreadable"]:
        name = "one without an id" if one["id"] is None else one["id"]
        err.print(f"{one['type']} {visible(name)} cannot be read: {visible(one['message'])}", markup=False)


def portfolio(
    adapter: AdapterName,
    *,
    adapters: Adapters = None,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    as_json: AsJson = False,
) -> None:
    """Show cash and positions at a provider."""
    whose = tenant_of(tenant)

    async def look(known: AdapterSet) -> dict[str, Any]:
        reads: AdapterReads = known.reads(whose, adapter)
        return portfolio_json(await reads.portfolio(Call(whose, local_actor())))

    address = StoreAddress.parse(store)
    shown = complete(
        shown_by(address, whose, adapters, f"/adapters/{quote(adapter, safe='')}/portfolio", look)
    )
    if as_json:
        print_json(shown)
        return
    table = _table("what", "name", "amount")
    for what, amounts in (("cash", shown["cash"]), ("position", shown["positions"])):
        for name, amount in amounts.items():
            table.add_row(what, escape(visible(name)), amount)
    _print(table, f"tenant {whose} owns nothing at {adapter}")


def drift(
    *,
    now: Annotated[
        bool, typer.Option("--now", help="Compare the providers with what is recorded first.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many, latest first.")] = 20,
    adapters: Adapters = None,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    as_json: AsJson = False,
) -> None:
    """List the differences between what is recorded of live resources and what their providers say."""
    whose, address = tenant_of(tenant), StoreAddress.parse(store)

    async def job() -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
        compared = await compare(address, whose, adapters) if now else []
        async with open_reader(address) as (reader, _):
            drifts = [drift_json(one) for one in await reader.drifts(whose, limit=limit)]
            providers = [compared_json(one) for one in await reader.comparisons(whose)]
        return compared, {"drifts": drifts, "providers": providers}

    compared, shown = complete(job())
    if as_json:
        print_json({**shown, **({"comparisons": compared} if now else {})})
    else:
        _print_drifts(shown["drifts"], f"no difference is recorded for tenant {whose}")
        _print_compared(shown["providers"])
    if any(one["unreachable"] is not None for one in compared):
        raise typer.Exit(Exit.ENVIRONMENT)


def _print_drifts(drifts: Sequence[dict[str, Any]], nothing: str) -> None:
    table = _table("adapter", "type", "resource", "recorded", "provider", "resolution", "noticed", "differs")
    for one in drifts:
        states = (one["previous"] or "-", visible(one["provider"] or "-"))
        cells = (one["adapter"], one["type"], visible(one["resourceId"]), *states, one["resolution"])
        differs = ", ".join(
            f"{name} {_word(sides['recorded'])} -> {_word(sides['provider'])}"
            for name, sides in one["changes"].items()
            if name != "status"
        )
        table.add_row(*map(escape, cells), one["timestamp"][:19] + "Z", escape(differs))
    _print(table, nothing)


def _word(value: Any) -> str:
    return "-" if value is None else visible(str(value))


def _print_compared(providers: Sequence[dict[str, Any]]) -> None:
    """Say when each provider was compared last, and which could not be."""
    for one in providers:
        at = "never" if one["comparedAt"] is None else one["comparedAt"][:19] + "Z"
        if one["unreachable"] is None:
            out.print(f"{one['adapter']} was compared at {at}", markup=False)
        else:
            tried = one["triedAt"][:19] + "Z"
            why = visible(one["unreachable"])
            err.print(
                f"{one['adapter']} could not be compared at {tried}, last time it could: {at}: {why}",
                markup=False,
            )
    if not providers:
        out.print("no provider was ever compared; `sovrun drift --now` does so, and a server by itself")


def _print(table: Table, nothing: str) -> None:
    """Print a table, or in words that there is nothing in it."""
    if table.row_count:
        out.print(table)
    else:
        out.print(nothing, markup=False)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table
