"""`sovrun simulate`: break things on purpose, and check what was recorded."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sovrun.cli.options import AsJson
from sovrun.cli.output import Exit, err, out, print_json
from sovrun.core.errors import InvalidSetting
from sovrun.simulation.campaign import Finding, Report, campaign, lines_of
from sovrun.simulation.faults import ALL_FAULTS, Fault
from sovrun.simulation.world import Settings

_TELL_EVERY = 50


def simulate(  # noqa: PLR0913 -- one parameter per option
    *,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Decides everything that happens.")] = 1,
    runs: Annotated[int, typer.Option("--runs", min=1, metavar="N", help="Runs to simulate.")] = 2_000,
    store: Annotated[str, typer.Option("--store", metavar="KIND", help="`memory` or `sqlite`.")] = "memory",
    long: Annotated[
        int | None,
        typer.Option("--long", min=1, metavar="SECONDS", help="Go on for so long, whatever --runs says."),
    ] = None,
    per_world: Annotated[int, typer.Option("--per-world", min=1, help="Runs that share a world.")] = 12,
    steps: Annotated[int, typer.Option("--steps", min=1, max=100, help="Most steps of a DAG.")] = 12,
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, help="Most workers at a time.")] = 4,
    faults: Annotated[
        str,
        typer.Option(
            "--faults", metavar="LIST", help="What may go wrong: `all`, `none`, or names and commas."
        ),
    ] = "all",
    as_json: AsJson = False,
) -> None:
    """Run the real engine in simulated worlds full of faults and check every history by rules of its own."""
    if store not in ("memory", "sqlite"):
        raise InvalidSetting(f"{store!r} is no kind of store to simulate", hint="use memory or sqlite")
    settings = Settings(store=store, runs=per_world, steps=steps, workers=workers, faults=_faults_of(faults))
    report = campaign(
        seed, settings, runs=None if long else runs, seconds=long, told=None if as_json else _tell
    )
    vacuous = report.vacuous(settings)
    if as_json:
        print_json(report.plain() | {"vacuous": vacuous, "finding": _plain(report.finding)})
    else:
        _show(report, vacuous)
    if report.finding is not None or vacuous:
        raise typer.Exit(Exit.FAILED)


def _faults_of(text: str) -> frozenset[Fault]:
    if text in ("all", "none"):
        return ALL_FAULTS if text == "all" else frozenset()
    try:
        return frozenset(Fault(name) for name in text.split(","))
    except ValueError as error:
        known = ", ".join(sorted(ALL_FAULTS))
        raise InvalidSetting(f"--faults {text!r}: {error}", hint=f"the faults are {known}") from error


def _tell(report: Report) -> None:
    if sys.stderr.isatty() and report.worlds % _TELL_EVERY == 0:
        err.print(f"{report.runs:,} runs in {report.seconds:.0f} s", end="\r")


def _plain(finding: Finding | None) -> dict[str, object] | None:
    if finding is None:
        return None
    return {
        "rule": finding.violation.rule,
        "text": finding.violation.text,
        "seed": finding.seed,
        "repeat": finding.command(),
        "history": list(lines_of(finding)),
    }


def _show(report: Report, vacuous: list[str]) -> None:
    for name, value in report.plain().items():
        shown = ", ".join(f"{key} {n:,}" for key, n in value.items()) if isinstance(value, dict) else value
        out.print(f"  {name:<22} {shown}", markup=False)
    for missing in vacuous:
        err.print(f"The simulation proves too little: {missing}", markup=False)
    finding = report.finding
    if finding is None:
        out.print("no rule was broken")
        return
    err.print(f"[bold red]broken[/] {finding.violation.rule}: ", end="")
    err.print(finding.violation.text, markup=False)
    for line in lines_of(finding):
        err.print(line, markup=False)
    err.print(f"Repeat it with: {finding.command()}", markup=False)
