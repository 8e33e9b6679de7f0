"""Why nothing of a run goes on, and what to type: what an operator's pauses and limits hold, and that nobody executes it.

Owns: the words for both, wherever they are shown: `show`, `submit`, `watch`, and where a run is left waiting.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from rich.console import Console

from sovrun.cli.options import same_store
from sovrun.cli.output import out
from sovrun.core.lifecycle import TERMINAL, Reason, State
from sovrun.engine.holds import STEP_LIMIT, Hold, Holds
from sovrun.reach import is_listened_to
from sovrun.store.protocol import Reads, RunRecord
from sovrun.stores.sqlite.schema import owner_of
from sovrun.wiring import StoreAddress

HELD: Final = {
    Reason.TENANT_PAUSED: "its tenant is paused",
    Reason.DAG_PAUSED: "its DAG is paused",
    Reason.RUN_LIMIT: "as many runs are under way as are allowed",
    STEP_LIMIT: "as many steps execute as are allowed",
}
"""Why nothing more of a run is started, by the reason of what holds it."""


def held_lines(holds: Iterable[Hold], record: RunRecord, address: StoreAddress) -> list[str]:
    """Return what keeps a run from going on, and how that is ended; no line when nothing does."""
    lines = []
    for hold in holds:
        what = "" if hold.dag is None else f" {hold.dag}"
        where = same_store(address, record.head.tenant)
        lines.append(
            f"nothing more of the run is started: {HELD.get(hold.reason, hold.reason)} ({hold.reason})"
        )
        if hold.reason in (Reason.TENANT_PAUSED, Reason.DAG_PAUSED):
            lines.append(f"end the pause with: sovrun unpause{what}{where}")
        else:
            lines.append(f"see what is allowed with: sovrun queue{where}")
    return lines


def is_worked_on(address: StoreAddress) -> bool:
    """Return whether another process may be executing what is in a store: it owns the file, or answers at its socket."""
    if address.path is None:
        return False
    return owner_of(address.path) not in (None, os.getpid()) or is_listened_to(address)


def how_to_go_on(address: StoreAddress, isolation: str = "sandbox") -> str | None:
    """Return what executes the work that is left, None while another process does."""
    if address.path is None or is_worked_on(address):
        return None
    option = "" if isolation == "sandbox" else f" --isolation {isolation}"
    return f"go on with: sovrun resume{same_store(address)}{option}"


def print_how_to_go_on(address: StoreAddress, isolation: str = "sandbox", *, to: Console = out) -> None:
    """Say what executes the work that is left, unless another process does."""
    line = how_to_go_on(address, isolation)
    if line is not None:
        to.print(line, markup=False)


async def is_left(reader: Reads, record: RunRecord) -> bool:
    """Return whether a run is over, or waits for people and tools alone."""
    head = record.head
    if head.state in TERMINAL or head.state is State.AWAITING_USER_CONFIRMATION:
        return True
    if head.state is not State.AWAITING_TOOL:
        return False
    waits = [step for step in await reader.steps(head.tenant, head.id) if step.reason == Reason.TOOL]
    return len(waits) == head.counts.awaiting_tool


async def why_nothing_goes_on(reader: Reads, record: RunRecord, address: StoreAddress) -> list[str]:
    """Return what holds a run, and that nobody executes it where that is so; no line when nothing is amiss."""
    lines = held_lines((await Holds.read(reader, record.head.tenant)).of(record), record, address)
    resume = how_to_go_on(address, record.isolation)
    if resume is not None and not await is_left(reader, record):
        lines += [
            "nobody executes the run: no server (`sovrun up`) and no other command has the store",
            resume,
        ]
    return lines
