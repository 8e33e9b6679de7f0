"""What steps have printed: `sovrun logs`, beside whoever executes them and afterwards."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Final

import typer

from sovrun.cli.options import AsJson, RunId, StoreUrl, TenantName, tenant_of
from sovrun.cli.output import complete, err, print_line, visible
from sovrun.cli.runs import find_run
from sovrun.core import ids
from sovrun.core.ids import Tenant
from sovrun.core.times import time_text
from sovrun.engine.logs import Logs, Piece, RunLogs, piece_json
from sovrun.wiring import StoreAddress, open_reader

LOOK_SECONDS: Final = 0.2
_LINE: Final = re.compile(r"[^\n]*\n|[^\n]+")


def logs(  # noqa: PLR0913 -- one parameter per option of the command
    run: RunId,
    step: Annotated[
        str | None,
        typer.Argument(metavar="[STEP]", help="One step; all of them without it.", show_default=False),
    ] = None,
    *,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on until nothing more is printed.")
    ] = False,
    attempt: Annotated[
        int | None, typer.Option("--attempt", min=1, metavar="N", help="Which attempt; default: the latest.")
    ] = None,
    stdout: Annotated[bool, typer.Option("--stdout", help="Only standard output.")] = False,
    stderr: Annotated[bool, typer.Option("--stderr", help="Only standard error.")] = False,
    timestamps: Annotated[bool, typer.Option("--timestamps", help="Show when each line was begun.")] = False,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    as_json: AsJson = False,
) -> None:
    """Show what steps have printed, while they run and afterwards."""
    whose = tenant_of(tenant)
    wanted = frozenset(name for name, told in (("stdout", stdout), ("stderr", stderr)) if told)

    async def job() -> None:
        async with open_reader(StoreAddress.parse(store)) as (reader, files):
            found = await find_run(reader, whose, run)
            screen = Screen(named=step is None, timed=timestamps)
            shown = 0
            source = Logs(reader, files)
            async for name, number, piece in _pieces(
                source, whose, found, step, attempt=attempt, follow=follow
            ):
                if wanted and piece.stream not in wanted:
                    continue
                shown += 1
                if as_json:
                    print_line({"stepId": name, "attempt": number, **piece_json(piece)}, ascii_only=True)
                else:
                    screen.show(name, piece)
                sys.stdout.flush()
            screen.end()
            if not shown and not as_json:
                err.print("nothing was printed")

    complete(job())


@dataclass
class _Reading:
    """How far one step's log has been read."""

    attempt: int = 0
    place: int = 0
    is_done: bool = False


async def _pieces(
    source: Logs, tenant: Tenant, run: ids.RunId, step: str | None, *, attempt: int | None, follow: bool
) -> AsyncIterator[tuple[str, int, Piece]]:
    """Yield (step, attempt, piece) of one step or of all, each step's in order; of each step its latest attempt."""
    readings: dict[str, _Reading] = {}
    while True:
        found = await source.look(tenant, run)  # before reading, so that what is printed last is not missed
        is_quiet = True
        for name in found.steps() if step is None else [step]:
            reading = readings.setdefault(name, _Reading(attempt or 0))
            for piece in [] if reading.is_done else _unread(found, name, reading, fixed=attempt is not None):
                is_quiet = False
                yield name, reading.attempt, piece
        is_over = found.is_over if step is None else readings[step].is_done
        if not follow or is_over:
            return
        if is_quiet:
            await asyncio.sleep(LOOK_SECONDS)


def _unread(found: RunLogs, name: str, reading: _Reading, *, fixed: bool) -> Iterator[Piece]:
    """Yield what can be read of one step by now, going on to its next attempt when one is over."""
    while True:
        page = found.page(name, attempt=reading.attempt or None, after=reading.place)
        reading.attempt, reading.place = page.attempt, page.next
        yield from page.pieces
        if page.pieces:
            continue
        later = [number for number in page.attempts if number > page.attempt]
        if fixed or not later or not page.is_over:
            reading.is_done = page.is_over and (fixed or page.is_last)
            return
        reading.attempt, reading.place = later[0], 0


@dataclass
class Screen:
    """Standard output, on which the lines of several steps are not mixed up.

    Args:
        named, timed: begin each line with the step's name, with the time at which it was begun.
    """

    named: bool
    timed: bool
    _open: tuple[str, str] | None = field(default=None, init=False)
    """Step and stream of a line that has no end yet."""

    def show(self, step: str, piece: Piece) -> None:
        """Write what was printed, in a form that cannot do anything to a terminal."""
        for line in _LINE.findall(piece.text.replace("\r\n", "\n")):
            self._show_part(step, piece, line)

    def _show_part(self, step: str, piece: Piece, part: str) -> None:
        if self._open != (step, piece.stream):
            self.end()
            head = f"{time_text(piece.time_us)} " if self.timed else ""
            sys.stdout.write(head + (f"{step} | " if self.named else ""))
        text = part.removesuffix("\n")
        sys.stdout.write(visible(text))
        self._open = (step, piece.stream)
        if text != part:
            self.end()

    def end(self) -> None:
        """End a line that has no end yet."""
        if self._open is not None:
            sys.stdout.write("\n")
            self._open = None
