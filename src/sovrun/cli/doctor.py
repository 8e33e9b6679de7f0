"""`sovrun doctor`: what this machine can isolate and store, and what to change where it cannot."""

from __future__ import annotations

import os
import shutil
import sqlite3
from dataclasses import asdict, dataclass
from typing import Final

import typer
from rich.markup import escape

from sovrun.cli.options import AsJson, RunStoreUrl
from sovrun.cli.output import Exit, out, print_json
from sovrun.core.errors import SovrunError
from sovrun.sandbox.probe import probe
from sovrun.sandbox.settings import from_environment
from sovrun.stores.sqlite.schema import HEAD, connect_reader
from sovrun.wiring import StoreAddress

FREE_MIN: Final = 64 << 20
"""Bytes of free disk below which `doctor` complains."""


def doctor(*, store: RunStoreUrl = None, as_json: AsJson = False) -> None:
    """Say what this machine can isolate and store; exit 3 when it cannot isolate steps or write the store."""
    address = StoreAddress.parse(store)
    isolation = probe(from_environment(os.environ))
    storage = store_facts(address)
    good = isolation.ok and all(fact.ok for fact in storage)
    if as_json:
        print_json(
            {
                "ok": good,
                "isolation": {"ok": isolation.ok, "items": [asdict(item) for item in isolation.items]},
                "store": {"address": str(address), "items": [asdict(fact) for fact in storage]},
            }
        )
    else:
        out.print("[bold]isolation[/]")
        for item in isolation.items:
            mark = (
                "[green]ok     [/]"
                if item.ok
                else "[bold red]missing[/]"
                if item.needed
                else "[yellow]absent [/]"
            )
            out.print(f"  {mark} {item.name:<18} {escape(item.detail)}")
            if not item.ok and item.fix:
                out.print(f"          [dim]{escape(item.fix)}[/]")
        out.print(f"[bold]store[/] {escape(str(address))}")
        for fact in storage:
            out.print(
                f"  {'[green]ok     [/]' if fact.ok else '[bold red]missing[/]'} {fact.name:<18} {escape(fact.detail)}"
            )
            if not fact.ok and fact.fix:
                out.print(f"          [dim]{escape(fact.fix)}[/]")
        out.print(
            "steps can be isolated"
            if isolation.ok
            else "[bold red]steps cannot be isolated; sandboxed runs are refused[/]"
        )
    raise typer.Exit(Exit.COMPLETED if good else Exit.ENVIRONMENT)


@dataclass(frozen=True, slots=True)
class StoreFact:
    """One fact about a store; `fix` says what to do when it is not `ok`."""

    name: str
    ok: bool
    detail: str
    fix: str = ""


def store_facts(address: StoreAddress) -> list[StoreFact]:
    """Return what can be said of a store without changing it."""
    facts = [StoreFact("sqlite", sqlite3.sqlite_version_info >= (3, 38), f"SQLite {sqlite3.sqlite_version}",
                       "SQLite 3.38 or newer is needed")]  # fmt: skip
    if address.path is None:
        return facts
    place = address.path.parent
    while not place.exists():
        place = place.parent
    writable = os.access(place, os.W_OK)
    facts.append(
        StoreFact(
            "directory", writable, str(place), "" if writable else "choose a directory you may write to"
        )
    )
    free = shutil.disk_usage(place).free
    facts.append(
        StoreFact(
            "free space", free > FREE_MIN, f"{free >> 20:,} MiB", "" if free > FREE_MIN else "free some space"
        )
    )
    if not address.path.exists():
        facts.append(StoreFact("file", ok=True, detail="does not exist yet; the first run makes it"))
        return facts
    try:
        connect_reader(address.path).close()
        facts.append(
            StoreFact("file", ok=True, detail=f"{address.path.stat().st_size:,} bytes, schema {HEAD}")
        )
    except SovrunError as error:
        facts.append(StoreFact("file", ok=False, detail=error.detail, fix=error.hint or ""))
    return facts
