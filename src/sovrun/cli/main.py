"""The `sovrun` command.

Owns: the list of commands, and that an error raised on purpose becomes one clear message and an exit code.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import Annotated, Any

import typer

from sovrun import __version__
from sovrun.cli import (
    benches,
    commands,
    control,
    dags,
    doctor,
    guards,
    logs,
    providers,
    replays,
    running,
    runs,
    serving,
    simulate,
    waits,
    watching,
)
from sovrun.cli.output import Exit, exit_of, report_error
from sovrun.core.errors import InvalidSetting, SovrunError, SystemRefused

app = typer.Typer(
    name="sovrun",
    help="Run DAGs of jobs so that every run can be reproduced, proved and replayed.",
    epilog="Exit codes: 0 completed, 1 failed or cancelled, 2 bad input, 3 the machine or the store, 4 left waiting.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("validate")(dags.validate)
app.command("plan")(dags.plan)
app.command("run")(running.run)
app.command("resume")(running.resume)
app.command("runs")(runs.runs)
app.command("show")(runs.show)
app.command("events")(runs.events)
app.command("logs")(logs.logs)
app.command("replay")(replays.replay)
app.command("up")(serving.up)
app.command("worker")(serving.worker)
app.command("submit")(serving.submit)
app.command("watch")(watching.watch)
app.command("waiting")(waits.waiting)
app.command("answer")(waits.answer)
app.command("approve")(waits.approve)
app.command("reject")(waits.reject)
app.command("cancel")(control.cancel)
app.command("rerun")(control.rerun)
app.command("pause")(control.pause)
app.command("unpause")(control.unpause)
app.command("limit")(control.limit)
app.command("queue")(control.queue)
app.command("command")(commands.command)
app.command("commands")(commands.commands)
app.command("resolve")(commands.resolve)
app.command("switch")(guards.switch)
app.command("gate")(guards.gate)
app.command("adapters")(providers.adapters)
app.command("resources")(providers.resources)
app.command("orders")(providers.orders)
app.command("deployments")(providers.deployments)
app.command("portfolio")(providers.portfolio)
app.command("drift")(providers.drift)
app.command("doctor")(doctor.doctor)
app.command("bench")(benches.bench)
app.command("simulate")(simulate.simulate)

imports = typer.Typer(name="import", help="Turn workflows of other systems into DAGs.", no_args_is_help=True)
imports.command("wfformat")(dags.import_wfformat)
app.add_typer(imports)


def _version(wanted: bool) -> None:  # noqa: FBT001 -- typer's callback
    if wanted:
        typer.echo(f"sovrun {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    del version


_UsageError: Any = typer.BadParameter.__base__
"""Whatever is wrong with a command's words; typer gives it no name of its own."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    as_json = "--json" in sys.argv
    gc.freeze()  # what was imported is never garbage; looking at it in every collection costs a twentieth of the steps
    try:
        sys.exit(app(standalone_mode=not as_json))
    except SovrunError as error:
        report_error(error, as_json=as_json)
        sys.exit(exit_of(error))
    except _UsageError as error:  # with --json alone: people get the usage shown
        wrong = InvalidSetting(error.format_message(), hint="the command with `--help` lists its options")
        report_error(wrong, as_json=True)
        sys.exit(Exit.BAD_INPUT)
    except typer.Abort:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.COMPLETED)
    except OSError as error:  # the last net: whoever knows more about it has caught it below
        report_error(_refused(error), as_json=as_json)
        sys.exit(Exit.ENVIRONMENT)


def _refused(error: OSError) -> SystemRefused:
    named = "" if error.filename is None else f"{error.filename}: "
    return SystemRefused(
        f"{named}{error.strerror or error}",
        hint="free space or restore access, then `sovrun resume`; nothing recorded is lost",
    )
