"""Effects outside: command performs one, commands lists them, resolve says what became of one that nobody knows of."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape
from rich.table import Table

from sovrun.cli.options import (
    Adapters,
    AsJson,
    StoreUrl,
    TenantName,
    duration_of,
    pair_of,
    same_store,
    tenant_of,
    value_of,
)
from sovrun.cli.output import Exit, complete, out, print_json, visible
from sovrun.cli.runs import find_run
from sovrun.core.canonical import parse
from sovrun.core.commands.journal import UNRESOLVED, Command, CommandId, CommandState
from sovrun.core.commands.model import PAYLOAD_MAX
from sovrun.core.errors import (
    AdapterUnavailable,
    InvalidCommand,
    InvalidSetting,
    NotFound,
    StoreUnavailable,
)
from sovrun.core.ids import Tenant, run_id
from sovrun.core.times import time_text
from sovrun.engine.command_desk import CommandDesk, Verdict
from sovrun.engine.command_views import command_json, whole_command_json
from sovrun.execution.layer import CommandRequest
from sovrun.reach import Concluded, UnderWay, open_access, schema_of
from sovrun.store.protocol import Reads
from sovrun.wiring import StoreAddress, local_actor, open_desk, open_reader, read_bounded

STYLE: Final = {
    CommandState.INTENDED: "dim",
    CommandState.SENT: "blue",
    CommandState.CONFIRMED: "green",
    CommandState.REFUSED: "bold red",
    CommandState.UNKNOWN: "yellow",
}
PREFIX_MIN: Final = 4
LOOKED_THROUGH: Final = 10_000
"""Commands among which a beginning of an id is looked for."""

Rationale = Annotated[
    str, typer.Option("--rationale", metavar="TEXT", help="Why; kept with the record.", show_default=False)
]


# --- one effect -------------------------------------------------------------------------------------------------------


def command(  # noqa: PLR0913 -- one parameter per option of the command
    kind: Annotated[str, typer.Argument(metavar="KIND", help="For example order.place.", show_default=False)],
    members: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=VALUE]...", help="Members of the payload.", show_default=False),
    ] = None,
    *,
    adapter: Annotated[
        str | None, typer.Option("--adapter", metavar="A", help="The adapter it goes to.", show_default=False)
    ] = None,
    mode: Annotated[str, typer.Option("--mode", metavar="M", help="`paper` or `live`.")] = "paper",
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="K", help="Idempotency key: the same command under it happens once."),
    ] = None,
    payload: Annotated[
        Path | None,
        typer.Option(
            "--payload", metavar="FILE", help="The payload: a JSON object; `-` reads it from stdin."
        ),
    ] = None,
    wait: Annotated[
        str, typer.Option("--wait", metavar="TIME", help="How long to wait for the outcome.")
    ] = "10s",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Journal it and return at once.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of the payload.")] = False,
    adapters: Adapters = None,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    as_json: AsJson = False,
) -> None:
    """Perform one effect outside, at most once under its key, and print the recorded answer."""
    whose, address = tenant_of(tenant), StoreAddress.parse(store)
    if schema:
        print_json(complete(schema_of(address, whose, kind, adapter=adapter, adapters=adapters)))
        return
    if adapter is None:
        raise InvalidSetting(
            "a command goes to an adapter", hint="name one: --adapter paper; `sovrun adapters` lists them"
        )
    wait_us = 0 if no_wait else duration_of(wait, "--wait")

    async def job() -> Concluded | UnderWay:
        properties: Mapping[str, Any] = {}
        if members:
            # What is wrong is told when it is performed.
            with suppress(NotFound, InvalidCommand, AdapterUnavailable, StoreUnavailable):
                declared = await schema_of(address, whose, kind, adapter=adapter, adapters=adapters)
                properties = declared.get("properties", {})
        asked = payload_of(kind, members or (), payload, properties)
        request = CommandRequest(*(whose, kind, adapter, asked, local_actor(), mode), key=key)
        async with open_access(address, whose, adapters) as access:
            return await access.perform(request, wait_us=wait_us)

    raise typer.Exit(_show(complete(job()), address, whose, as_json=as_json))


def payload_of(
    kind: str, members: Sequence[str], file: Path | None, properties: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the payload that the arguments give; single members win over those of the file.

    Args:
        properties: of the kind's schema: what is declared as a text is one.
    Raises: InvalidSetting, InvalidValue, InvalidCommand, FileUnavailable.
    """
    given: dict[str, Any] = {}
    if file is not None:
        body = sys.stdin.buffer.read(PAYLOAD_MAX + 1) if str(file) == "-" else read_bounded(file, PAYLOAD_MAX)
        if len(body) > PAYLOAD_MAX:
            raise InvalidCommand(f"{file}: a payload has at most {PAYLOAD_MAX:,} bytes", kind=kind)
        value = parse(body)
        if not isinstance(value, dict):
            raise InvalidCommand(f"{file}: a payload is a JSON object, not {type(value).__name__}", kind=kind)
        given.update(value)
    told: set[str] = set()
    for member in members:
        name, text = pair_of(member, "the member")
        if name in told:
            raise InvalidSetting(
                f"the member {name!r:.80} is given twice", hint="say once what it is; nothing was sent"
            )
        told.add(name)
        given[name] = value_of(text, properties.get(name, {}))
    return given


def _show(answer: Concluded | UnderWay, address: StoreAddress, tenant: Tenant, *, as_json: bool) -> Exit:
    """Print the recorded answer, or what is known as yet; return the exit code."""
    if isinstance(answer, UnderWay):
        shown = answer.command
        if as_json:
            print_json(shown)
        else:
            out.print(
                f"[yellow]{shown['state']}[/] {escape(shown['kind'])} at {escape(shown['adapter'])}: there is no outcome yet"
            )
            where = same_store(address, tenant)
            out.print(f"follow it with: sovrun commands {shown['commandId']}{where}", markup=False)
        return Exit.WAITING
    shown = answer.document
    confirmed = shown["status"] == CommandState.CONFIRMED
    if as_json:
        sys.stdout.write(answer.body.decode() + ("\n" if sys.stdout.isatty() else ""))
    else:
        style = STYLE[CommandState(shown["status"])]
        what = _resource_text(shown["resource"]) if confirmed else _refusal_text(shown)
        out.print(
            f"[{style}]{shown['status']}[/] {escape(shown['kind'])} at {escape(shown['adapter'])}{what}"
        )
        out.print(f"[dim]command {shown['commandId']}[/]")
    return Exit.COMPLETED if confirmed else Exit.FAILED


def _resource_text(resource: Mapping[str, Any] | None) -> str:
    if resource is None:
        return ""
    words = [resource.get("type"), resource.get("id"), resource.get("status")]
    filled = f", {resource['filled']} of {resource['quantity']} filled" if resource.get("filled") else ""
    told = " ".join(str(word) for word in words if word)
    return escape(visible(f": {told}{filled}"))


def _refusal_text(shown: Mapping[str, Any]) -> str:
    gate = f" by the gate {shown['gate']}" if shown["gate"] else ""
    return escape(visible(f"{gate}: [{shown['code']}] {shown['message'] or ''}"))


# --- what there is ----------------------------------------------------------------------------------------------------


def commands(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="One command, or a beginning of its id.", show_default=False),
    ] = None,
    *,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Those that were sent and have no outcome.")
    ] = False,
    run: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Those of a run.")] = None,
    state: Annotated[
        list[CommandState] | None, typer.Option("--state", metavar="S", help="Those in a state. Repeatable.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many, latest first.")] = 20,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    as_json: AsJson = False,
) -> None:
    """List commands, latest first, or show one with its history."""
    whose, address = tenant_of(tenant), StoreAddress.parse(store)
    states = UNRESOLVED if unknown else state

    async def job() -> None:
        async with open_reader(address) as (reader, _):
            if name is not None:
                found = await find_command(reader, whose, name)
                _show_one(await whole_command_json(reader, found), found, address, as_json=as_json)
                return
            of_run = None if run is None else await find_run(reader, whose, run)
            listed = [one for _, one in await reader.commands(whose, limit=limit, states=states, run=of_run)]
            if as_json:
                print_json({"commands": [command_json(one) for one in listed]})
            elif not listed:
                out.print(f"no such commands of tenant {tenant}")
            else:
                out.print(_table(listed))

    complete(job())


def _table(listed: Sequence[Command]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("command", "kind", "adapter", "state", "why", "asked by", "since"):
        table.add_column(column, no_wrap=column != "why")
    for one in listed:
        wanted = one.intention
        by = f"{wanted.run[:8]} {wanted.step}" if wanted.run else f"key {wanted.key[:24]}"
        table.add_row(
            one.id[:12],
            escape(wanted.kind),
            escape(wanted.adapter),
            f"[{STYLE[one.state]}]{state_text(one)}[/]",
            escape(one.reason or ""),
            escape(by),
            time_text(one.created_us)[:19] + "Z",
        )
    return table


def state_text(command: Command) -> str:
    """Return a command's state for a person."""
    return f"{command.state}, parked" if command.parked else str(command.state)


def _show_one(whole: dict[str, Any], found: Command, address: StoreAddress, *, as_json: bool) -> None:
    if as_json:
        print_json(whole)
        return
    for name, value in whole.items():
        if name not in ("history", "tenant") and value not in (None, False):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            out.print(f"[dim]{name:<13}[/] {escape(visible(text))}")
    for entry in whole["history"]:
        data = json.dumps(entry["data"], ensure_ascii=False)
        out.print(
            f"{entry['sequence']:>4} {entry['timestamp']} {entry['type']:<22} {entry['actor']} {visible(data)}",
            markup=False,
        )
    if found.state is CommandState.UNKNOWN:
        out.print(f"resolve it with: {resolving(found, address)}", markup=False)


def resolving(command: Command, address: StoreAddress) -> str:
    """Return the command line by which a person says what became of a command."""
    return (
        f"sovrun resolve {command.id} --confirmed|--refused|--resend --rationale TEXT"
        f"{same_store(address, command.intention.tenant)}"
    )


async def find_command(reads: Reads, tenant: Tenant, text: str) -> Command:
    """Return the command that a text names: its id, or the beginning of one. Raises: NotFound, InvalidIdentifier."""
    if len(text) == 32:
        return await reads.command(tenant, CommandId(run_id(text)))
    if len(text) >= PREFIX_MIN:
        listed = await reads.commands(tenant, limit=LOOKED_THROUGH)
        matching = [one for _, one in listed if one.id.startswith(text)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise NotFound(f"{len(matching)} commands begin with {text}", hint="give more digits")
    raise NotFound(f"no command {text[:40]!r} for tenant {tenant}", hint="`sovrun commands` lists them")


# --- a person's verdict -----------------------------------------------------------------------------------------------


def resolve(  # noqa: PLR0913 -- one parameter per option of the command
    name: Annotated[
        str, typer.Argument(metavar="ID", help="The command, or a beginning of its id.", show_default=False)
    ],
    *,
    rationale: Rationale,
    confirmed: Annotated[bool, typer.Option("--confirmed", help="The effect happened.")] = False,
    refused: Annotated[bool, typer.Option("--refused", help="It did not, and never will.")] = False,
    resend: Annotated[
        bool, typer.Option("--resend", help="It did not; send it again under the same client id.")
    ] = False,
    resource: Annotated[
        str | None,
        typer.Option(
            "--resource",
            metavar="ID",
            help="Of what was confirmed: the provider's id of it. Required for what makes an order or a deployment.",
        ),
    ] = None,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    as_json: AsJson = False,
) -> None:
    """Say what became of a command whose outcome is unknown, after you have looked at the provider yourself."""
    chosen = [
        verdict for verdict, wanted in zip(Verdict, (confirmed, refused, resend), strict=True) if wanted
    ]
    if len(chosen) != 1:
        raise InvalidSetting("a verdict is one of --confirmed, --refused and --resend")
    whose, address = tenant_of(tenant), StoreAddress.parse(store)

    async def job() -> Command:
        async with open_desk(address) as opened:
            found = await find_command(opened.store, whose, name)
            desk = CommandDesk(opened.store)
            return await desk.resolve(
                whose, found.id, chosen[0], actor=local_actor(), rationale=rationale, resource=resource
            )

    resolved = complete(job())
    if as_json:
        print_json(command_json(resolved))
        return
    style = STYLE[resolved.state]
    wanted = "; it is sent again when nothing of it can be found" if resolved.resend else ""
    out.print(f"command {resolved.id} is [{style}]{resolved.state}[/]{wanted}")
