"""`sovrun simulate`: break things on purpose, and check what was recorded."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any, Protocol, TypeVar

import typer

from sovrun.cli.options import AsJson
from sovrun.cli.output import Exit, err, out, print_json
from sovrun.core.errors import InvalidSetting
from sovrun.simulation.campaign import campaign, lines_of
from sovrun.simulation.command_campaign import command_campaign, lines_of_command
from sovrun.simulation.command_faults import ALL_COMMAND_FAULTS
from sovrun.simulation.command_world import CommandSettings
from sovrun.simulation.faults import ALL_FAULTS
from sovrun.simulation.histories import Violation
from sovrun.simulation.world import Settings

_TELL_EVERY = 50
_RUNS = 2_000
_RUNS_PER_WORLD = 12
_COMMANDS_PER_WORLD = 24
_RUNS_BESIDE_COMMANDS = 6
Name = TypeVar("Name", bound=str)


class _Report(Protocol):
    """What both kinds of campaigns come to."""

    worlds: int
    seconds: float

    def plain(self) -> dict[str, Any]: ...


class _Finding(Protocol):
    """A broken rule of either kind."""

    @property
    def seed(self) -> int: ...
    @property
    def violation(self) -> Violation: ...
    def command(self) -> str: ...


def simulate(  # noqa: PLR0913 -- one parameter per option
    *,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Decides everything that happens.")] = 1,
    runs: Annotated[
        int | None,
        typer.Option(
            "--runs", min=0, metavar="N", help="Runs to simulate; with --commands, runs in each world."
        ),
    ] = None,
    commands: Annotated[
        int | None,
        typer.Option("--commands", min=1, metavar="N", help="Simulate so many commands instead of runs."),
    ] = None,
    store: Annotated[str, typer.Option("--store", metavar="KIND", help="`memory` or `sqlite`.")] = "memory",
    long: Annotated[
        int | None,
        typer.Option("--long", min=1, metavar="SECONDS", help="Go on for so long, whatever --runs says."),
    ] = None,
    per_world: Annotated[
        int | None,
        typer.Option("--per-world", min=1, metavar="N", help="Runs or commands that share a world."),
    ] = None,
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
    if runs == 0 and commands is None and long is None:
        raise InvalidSetting("--runs 0 simulates nothing", hint="give 1 or more; 0 goes with --commands only")
    told = None if as_json else _tell
    if commands is not None:
        if store != "memory":
            raise InvalidSetting("worlds of commands are in memory", hint="leave --store out")
        worlds = CommandSettings(
            per_world or _COMMANDS_PER_WORLD,
            _RUNS_BESIDE_COMMANDS if runs is None else runs,
            _faults_of(faults, ALL_COMMAND_FAULTS),
        )
        of_commands = command_campaign(
            seed, worlds, commands=None if long else commands, seconds=long, told=told
        )
        found = of_commands.finding
        lines = [] if found is None else list(lines_of_command(found))
        _conclude(of_commands, found, of_commands.vacuous(worlds), lines, as_json=as_json)
        return
    settings = Settings(
        store, per_world or _RUNS_PER_WORLD, steps, workers, faults=_faults_of(faults, ALL_FAULTS)
    )
    of_runs = campaign(
        seed,
        settings,
        runs=None if long else _RUNS if runs is None else runs,
        seconds=long,
        told=told,
    )
    lines = [] if of_runs.finding is None else list(lines_of(of_runs.finding))
    _conclude(of_runs, of_runs.finding, of_runs.vacuous(settings), lines, as_json=as_json)


def _faults_of(text: str, known: frozenset[Name]) -> frozenset[Name]:
    if text in ("all", "none"):
        return known if text == "all" else frozenset()
    by_name: Mapping[str, Name] = {str(fault): fault for fault in known}
    unknown = [name for name in text.split(",") if name not in by_name]
    if unknown:
        hint = f"the faults are {', '.join(sorted(by_name))}"
        raise InvalidSetting(f"--faults: there is no fault {unknown[0]!r:.80}", hint=hint)
    return frozenset(by_name[name] for name in text.split(","))


def _tell(report: _Report) -> None:
    if sys.stderr.isatty() and report.worlds % _TELL_EVERY == 0:
        err.print(f"{report.worlds:,} worlds in {report.seconds:.0f} s", end="\r")


def _conclude(
    report: _Report, finding: _Finding | None, vacuous: list[str], lines: list[str], *, as_json: bool
) -> None:
    """Tell what a campaign came to. Raises: typer.Exit when it found something, or shows too little."""
    if as_json:
        print_json(report.plain() | {"vacuous": vacuous, "finding": _plain(finding, lines)})
    else:
        _show(report, finding, vacuous, lines)
    if finding is not None or vacuous:
        raise typer.Exit(Exit.FAILED)


def _plain(finding: _Finding | None, lines: list[str]) -> dict[str, object] | None:
    if finding is None:
        return None
    return {
        "rule": finding.violation.rule,
        "text": finding.violation.text,
        "seed": finding.seed,
        "repeat": finding.command(),
        "history": lines,
    }


def _show(report: _Report, finding: _Finding | None, vacuous: list[str], lines: list[str]) -> None:
    for name, value in report.plain().items():
        shown = ", ".join(f"{key} {n:,}" for key, n in value.items()) if isinstance(value, dict) else value
        out.print(f"  {name:<22} {shown}", markup=False)
    for missing in vacuous:
        err.print(f"The simulation proves too little: {missing}", markup=False)
    if finding is None:
        out.print("no rule was broken")
        return
    err.print(f"[bold red]broken[/] {finding.violation.rule}: ", end="")
    err.print(finding.violation.text, markup=False)
    for line in lines:
        err.print(line, markup=False)
    err.print(f"Repeat it with: {finding.command()}", markup=False)
