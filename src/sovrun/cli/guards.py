"""What an operator lets out: switch trips and resets the kill switch, gate shows and sets the limits of an adapter."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from sovrun.cli.options import Adapters, AsJson, StoreUrl, TenantName, tenant_of
from sovrun.cli.output import complete, err, out, print_json, visible
from sovrun.core.commands.gates import AdapterLimits, AdapterLimitsChange
from sovrun.core.errors import AdapterUnavailable, InvalidSetting
from sovrun.core.spec.units import duration_us
from sovrun.engine.command_desk import CommandDesk
from sovrun.engine.command_views import adapter_limits_json, switch_json
from sovrun.reach import adapters_of
from sovrun.wiring import StoreAddress, local_actor, open_reader, open_submitting

_AMOUNT: Final = re.compile(r"[0-9]{1,36}(\.[0-9]{1,36})?")
_RATE: Final = re.compile(r"([0-9]{1,9})/([0-9]+[a-z]+)")
NONE: Final = "none"
MOVES_MAX: Final = 1_000
"""How many moves of a switch are listed."""


class Act(StrEnum):
    """What is done to a kill switch."""

    SHOW = "show"
    TRIP = "trip"
    RESET = "reset"


def switch(
    wanted: Annotated[Act | None, typer.Argument(metavar="[trip|reset|show]", show_default=False)] = None,
    *,
    everybody: Annotated[
        bool, typer.Option("--global", help="The switch of all tenants, not of one.")
    ] = False,
    rationale: Annotated[
        str | None, typer.Option("--rationale", metavar="TEXT", help="Why; kept with the record.")
    ] = None,
    history: Annotated[
        bool, typer.Option("--history", help="List who moved it when and why, latest first.")
    ] = False,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    as_json: AsJson = False,
) -> None:
    """Trip the kill switch, so that no command that opens something is sent any more; reset or show it."""
    act, whose, address = wanted or Act.SHOW, tenant_of(tenant), StoreAddress.parse(store)
    if act is not Act.SHOW and rationale is None:
        raise InvalidSetting(f"to {act} a switch, say why", hint="give --rationale TEXT")
    if act is not Act.SHOW and history:
        raise InvalidSetting(f"--history shows, and does not {act}", hint="leave out one of them")

    async def job() -> list[dict[str, Any]]:
        if act is not Act.SHOW:
            async with open_submitting(address) as opened:
                named = None if everybody else whose
                await CommandDesk(opened.store).move_switch(
                    named, local_actor(), rationale or "", tripped=act is Act.TRIP
                )
        async with open_reader(address) as (reader, _):
            found = await (reader.switch_moves(whose, limit=MOVES_MAX) if history else reader.switches(whose))
            return [await switch_json(reader, one) for one in found]

    switches = complete(job())
    if as_json:
        print_json({"moves" if history else "switches": switches})
        return
    if not switches:
        out.print(f"no kill switch that concerns tenant {tenant} was ever moved")
    for one in switches:
        whom = "everybody" if one["tenant"] is None else f"tenant {one['tenant']}"
        let_go = "reset" if history else "not tripped"
        state = "[bold red]tripped[/]" if one["tripped"] else f"[green]{let_go}[/]"
        out.print(f"{escape(whom)}: {state} by {escape(one['actor'])} at {one['movedAt']}")
        out.print(f"  {visible(one['rationale'] or '')}", markup=False)


def gate(  # noqa: PLR0913 -- one parameter per option of the command
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="Its name.", show_default=False)],
    *,
    rate: Annotated[
        str | None, typer.Option("--rate", metavar="N/TIME|none", help="Commands within a time, as 10/60s.")
    ] = None,
    per_day: Annotated[
        str | None, typer.Option("--per-day", metavar="N|none", help="Commands within 24 hours.")
    ] = None,
    order_notional: Annotated[
        str | None, typer.Option("--order-notional", metavar="D|none", help="Largest value of one command.")
    ] = None,
    day_notional: Annotated[
        str | None, typer.Option("--day-notional", metavar="D|none", help="Largest value within 24 hours.")
    ] = None,
    symbols: Annotated[
        str | None, typer.Option("--symbols", metavar="A,B|none", help="The only symbols allowed.")
    ] = None,
    modes: Annotated[
        str | None, typer.Option("--modes", metavar="M,M|none", help="The only modes allowed.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take all limits away first.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also for an adapter that there is not, or not yet.")
    ] = False,
    adapters: Adapters = None,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    as_json: AsJson = False,
) -> None:
    """Show what a tenant may do through an adapter, or set it; what is not named stays as it is."""
    whose, address = tenant_of(tenant), StoreAddress.parse(store)
    changes = _changes(
        {
            "rate": rate,
            "perDay": per_day,
            "orderNotional": order_notional,
            "dayNotional": day_notional,
            "symbols": symbols,
            "modes": modes,
        }
    )

    named = AdapterLimitsChange.of(changes)
    change = AdapterLimitsChange.to(named.limits) if clear else named

    async def limits() -> AdapterLimits | None:
        if address.path is not None and not address.path.exists():
            return None
        async with open_reader(address) as (reader, _):
            return (await reader.adapter_limits(whose)).get(adapter)

    async def job() -> AdapterLimits:
        known = await adapters_of(address, whose, adapters)
        one = next((one for one in known if one["name"] == adapter), None)
        if one is None and not force and await limits() is None:
            raise _unknown(adapter, whose, known)
        if one is not None:
            _warn(one, named.limits)
        if changes or clear:
            async with open_submitting(address) as opened:
                return await CommandDesk(opened.store).limit(whose, adapter, change, local_actor())
        return await limits() or AdapterLimits()

    shown = adapter_limits_json(adapter, complete(job()))
    if as_json:
        print_json(shown)
        return
    out.print(f"tenant {tenant} through {adapter}: {_text(shown['limits'])}", markup=False)


def _unknown(adapter: str, tenant: str, known: Sequence[Mapping[str, Any]]) -> AdapterUnavailable:
    names = [one["name"] for one in known]
    near = get_close_matches(adapter, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names) or 'none'}"
    return AdapterUnavailable(
        f"tenant {tenant} has no adapter {adapter!r:.80}: nothing would be limited",
        hint=f"{hint} With --force it is set for one that is to come",
        adapter=adapter,
    )


def _warn(adapter: Mapping[str, Any], limits: AdapterLimits) -> None:
    """Tell of names among those allowed that the adapter does not know: they let nothing out."""
    for what, named in (("symbols", limits.symbols), ("modes", limits.modes)):
        strange = sorted(
            (named or frozenset()) - set(adapter[what] if adapter[what] is not None else named or ())
        )
        if strange:
            names = visible(", ".join(strange))
            err.print(f"warning: {adapter['name']} does not know the {what} {names}", markup=False)


def _changes(told: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the limits that are named, in their JSON form. Raises: InvalidSetting."""
    changes: dict[str, Any] = {}
    for name, text in told.items():
        if text is None:
            continue
        if text == NONE:
            changes[name] = None
        elif name == "perDay":
            if not (text.isascii() and text.isdigit() and len(text) <= 9):
                raise InvalidSetting(f"--per-day {text[:40]!r} is neither a number of commands nor none")
            changes[name] = int(text)
        elif name == "rate":
            changes[name] = _rate_of(text)
        elif name in ("symbols", "modes"):
            changes[name] = [part.strip() for part in text.split(",") if part.strip()]
        else:
            changes[name] = _amount_of(
                text, "--order-notional" if name == "orderNotional" else "--day-notional"
            )
    return changes


def _amount_of(text: str, option: str) -> str:
    if _AMOUNT.fullmatch(text) is None:
        raise InvalidSetting(
            f"{option} {text[:40]!r} is neither a decimal of at least 0 nor none", hint="write 25000 or 99.50"
        )
    return text


def _rate_of(text: str) -> dict[str, int]:
    parts = _RATE.fullmatch(text)
    try:
        window_us = duration_us(parts[2]) if parts else 0
    except ValueError:
        window_us = 0
    if parts is None or window_us <= 0 or window_us % 1_000_000:
        raise InvalidSetting(
            f"--rate {text[:40]!r} is no rate", hint="write 10/60s: ten commands within 60 seconds"
        )
    return {"commands": int(parts[1]), "seconds": window_us // 1_000_000}


def _text(limits: Mapping[str, Any]) -> str:
    rate = limits["rate"]
    told = [
        *([] if rate is None else [f"{rate['commands']:,} commands within {rate['seconds']:,} s"]),
        *([] if limits["perDay"] is None else [f"{limits['perDay']:,} within 24 hours"]),
        *([] if limits["orderNotional"] is None else [f"each worth at most {limits['orderNotional']}"]),
        *([] if limits["dayNotional"] is None else [f"{limits['dayNotional']} within 24 hours in all"]),
        *(
            f"{name} {', '.join(limits[name]) or 'none'}"
            for name in ("symbols", "modes")
            if limits[name] is not None
        ),
    ]
    return ", ".join(told) or "no limits"
