"""`sovrun doctor`: what this machine can isolate and store, and what to change where it cannot."""

from __future__ import annotations

import os
from dataclasses import asdict

import typer
from rich.markup import escape

from sovrun.cli.options import AsJson, StoreUrl
from sovrun.cli.output import Exit, out, print_json
from sovrun.sandbox.probe import probe
from sovrun.sandbox.settings import SandboxSettings, parse_warm
from sovrun.wiring import StoreAddress, store_facts


def doctor(*, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Say what this machine can isolate and store; exit 3 when it cannot isolate steps or write the store."""
    address = StoreAddress.parse(store)
    warm, modules = parse_warm(os.environ)
    isolation = probe(SandboxSettings(warm=warm, warm_modules=modules))
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
