"""What a person and a program are shown: one place for the shapes of JSON and for the look of the terminal.

Owns: exit codes, `run_json`, the error texts, the consoles.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import Any, Final, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sovrun.core.errors import (
    CorruptHistory,
    InvalidSpec,
    IsolationUnavailable,
    ProviderUnavailable,
    SovrunError,
    StoreOwned,
    StoreUnavailable,
    StoreVersion,
    SystemRefused,
)
from sovrun.core.lifecycle import State
from sovrun.core.plan import Plan
from sovrun.core.step import Step
from sovrun.core.times import time_text
from sovrun.engine.views import is_reused, mistakes_json

Result = TypeVar("Result")


class Exit(IntEnum):
    """Exit codes, public."""

    COMPLETED = 0
    FAILED = 1
    BAD_INPUT = 2
    ENVIRONMENT = 3
    WAITING = 4


_ENVIRONMENT: Final = (
    *(CorruptHistory, IsolationUnavailable, ProviderUnavailable),
    *(StoreOwned, StoreUnavailable, StoreVersion, SystemRefused),
)

STYLE: Final = {
    State.RECEIVED: "dim",
    State.QUEUED: "cyan",
    State.EXECUTING: "blue",
    State.AWAITING_TOOL: "yellow",
    State.AWAITING_USER_CONFIRMATION: "yellow",
    State.COMPLETED: "green",
    State.FAILED: "bold red",
    State.CANCELLED: "magenta",
}

PATIENCE_SECONDS: Final = 2.0
"""How long a person waits without asking what goes on."""
_PIPE_WIDTH: Final = 200
"""Columns of a table that no terminal bounds."""


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=width)


out: Final = _console(stderr=False)
err: Final = _console(stderr=True)


def exit_of(error: SovrunError) -> Exit:
    """Return the exit code of an error: what the caller gave, or what the machine lacks."""
    return Exit.ENVIRONMENT if isinstance(error, _ENVIRONMENT) else Exit.BAD_INPUT


def exit_of_run(state: State) -> Exit:
    """Return the exit code of a run's state."""
    if state is State.COMPLETED:
        return Exit.COMPLETED
    return Exit.FAILED if state in (State.FAILED, State.CANCELLED) else Exit.WAITING


def complete(work: Coroutine[Any, Any, Result], *, resume: str = "sovrun resume") -> Result:
    """Run a command's work to its end; an interrupt ends it cleanly with exit code 130, a termination with 143.

    A second signal breaks off what does not end by itself, as a step in this process.
    Args: resume: the command that goes on with what was not finished.
    """
    number = signal.SIGINT

    def terminate(_number: int, _frame: FrameType | None) -> None:
        nonlocal number
        number = signal.SIGTERM
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        err.print(f"interrupted; `{resume}` goes on with what was not finished", markup=False)
        raise typer.Exit(128 + number) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def print_unresolved(effects: int) -> None:
    """Say how many effects of a run nobody knows the outcome of, when there are any."""
    if effects:
        out.print(f"[yellow]effects unresolved: {effects}[/]; `sovrun commands --unknown` shows them")


def print_json(value: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_line(value: Any, *, ascii_only: bool = False) -> None:
    """Print one line of NDJSON. Args: ascii_only: for texts of strangers, which may hold what moves a terminal."""
    sys.stdout.write(json.dumps(value, ensure_ascii=ascii_only, separators=(",", ":")) + "\n")


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Say on standard error that a document is being read, if that takes longer than a person waits without asking."""
    doing = f"still reading {file}; a large DAG is read faster as JSON"
    note = threading.Timer(PATIENCE_SECONDS, err.print, (escape(doing),))
    note.daemon = True
    note.start()
    try:
        yield
    finally:
        note.cancel()


def counted(number: int, what: str) -> str:
    """Return a number of things in words: "1 step", "2 steps"."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def visible(text: str) -> str:
    """Return a text in which nothing moves the cursor or changes the direction of reading: such characters as escapes."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else json.dumps(letter)[1:-1] for letter in text
    )


def report_error(error: SovrunError, *, as_json: bool) -> None:
    """Say what was wrong, where, and what to do: for programs on standard output, for people on standard error."""
    if as_json:
        print_json({"error": error_json(error)})
        return
    err.print(f"[bold red]error[/] \\[{error.code}] {escape(error.detail)}")
    if isinstance(error, InvalidSpec):
        for mistake in error.mistakes:
            place = f"{error.name}:{mistake.line}:{mistake.column}" if mistake.line else error.name
            err.print(f"  {escape(place)}: {escape(mistake.message)} [dim]\\[{mistake.code}][/]")
            if mistake.hint:
                err.print(f"    [dim]{escape(mistake.hint)}[/]")
    if error.hint:
        err.print(f"  [dim]{escape(error.hint)}[/]")


def error_json(error: SovrunError) -> dict[str, Any]:
    """Return an error as the object that programs see."""
    shown: dict[str, Any] = {
        "code": error.code,
        "title": error.title,
        "detail": error.detail,
        "hint": error.hint,
        "facts": error.facts,
    }
    if isinstance(error, InvalidSpec):
        shown["mistakes"] = mistakes_json(error)
    return shown


def steps_table(plan: Plan, steps: list[Step]) -> Table:
    """Return the steps of a run as a table in plan order."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("step", "state", "attempts", "reason", "output"):
        table.add_column(column, no_wrap=column != "reason")
    for spec, step in zip(plan.steps, steps, strict=True):
        reason = step.reason or ""
        if step.failure and step.failure != step.reason:
            reason = f"{reason}: {step.failure}" if reason else step.failure
        if step.until_us is not None:
            reason = f"{reason} until {time_text(step.until_us)}"
        if is_reused(step):
            reason = "reused"
        table.add_row(
            escape(spec.id),
            f"[{STYLE[step.state]}]{step.state}[/]",
            str(step.attempts or ""),
            reason,
            "" if step.output is None else step.output[:12],
        )
    return table
