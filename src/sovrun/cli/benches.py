"""`sovrun bench`: measure the embedded engine on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sovrun.bench.scenarios import SCENARIOS, run_scenario
from sovrun.cli.options import AsJson
from sovrun.cli.output import out, print_json
from sovrun.core.errors import InvalidSetting


def bench(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"One of {', '.join(SCENARIOS)}, or all.")],
    *,
    store: Annotated[str, typer.Option("--store", metavar="KIND", help="`sqlite` or `memory`.")] = "sqlite",
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="Where the scratch files go; choose the disk to measure."),
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, max=1_000, help="How often.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Measure no-op steps, every one durably recorded, beside the machine's raw commit rate of the same run."""
    if name not in (*SCENARIOS, "all"):
        raise InvalidSetting(f"there is no benchmark {name!r}", hint=f"use {', '.join(SCENARIOS)} or all")
    if store not in ("sqlite", "memory"):
        raise InvalidSetting(f"{store!r} is no kind of store to measure", hint="use sqlite or memory")
    names = list(SCENARIOS) if name == "all" else [name]
    results = [run_scenario(each, store=store, directory=directory, repeats=repeats) for each in names]
    if as_json:
        print_json(results if name == "all" else results[0])
        return
    for result in results:
        out.print(f"[bold]{result['benchmark']}[/] [dim]{result['about']}[/]")
        for figure, value in result.items():
            if figure not in ("benchmark", "about"):
                out.print(f"  {figure:<20} {_figure(value)}", markup=False)


def _figure(value: Any) -> str:
    if isinstance(value, dict) and "median" in value:
        return f"{value['median']:g} ({value['min']:g}..{value['max']:g}, n={value['n']})"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_figure(item)}" for name, item in value.items())
    return str(value)
