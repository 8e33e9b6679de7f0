"""How a run ended or what it is left waiting for, as every command that works on one or follows one shows it.

Owns: `announce`, `finish`, `save_files`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from rich.markup import escape

from sovrun.cli.files import require_directory, written
from sovrun.cli.options import same_store
from sovrun.cli.output import (
    STYLE,
    Exit,
    counted,
    err,
    error_json,
    exit_of_run,
    out,
    print_json,
    print_unresolved,
    report_error,
    visible,
)
from sovrun.cli.waits import print_waits_of
from sovrun.cli.walls import weaker_walls
from sovrun.core.canonical import decode
from sovrun.core.errors import SovrunError
from sovrun.core.ids import RunId, Tenant
from sovrun.core.lifecycle import TERMINAL, State
from sovrun.engine.desk import Lookout
from sovrun.engine.views import is_reused, plan_of_run, run_json, step_error
from sovrun.store.protocol import Reads, RunRecord
from sovrun.stores.files import FileStore
from sovrun.wiring import Opened, StoreAddress

_NAMES_MAX: Final = 20
"""Names of steps that a summary lists."""


class Seen(Protocol):
    """A store with its files, whoever opened it and for whatever."""

    @property
    def store(self) -> Reads:
        """What is recorded."""

    @property
    def files(self) -> FileStore:
        """What lies beside it."""


@dataclass(frozen=True, slots=True)
class Stand:
    """A reader of a store, with its files."""

    store: Reads
    files: FileStore


def announce(opened: Seen, address: StoreAddress, run_id: RunId, *, created: bool) -> None:
    """Say on standard error which run is worked on."""
    if isinstance(opened, Opened) and opened.engine.resumed:
        err.print(
            f"[dim]took back {counted(opened.engine.resumed, 'step')} that an interrupted engine had begun[/]"
        )
    err.print(f"[dim]{'run' if created else 'known run'}[/] {run_id} [dim]in {escape(str(address))}[/]")


async def finish(
    opened: Seen, address: StoreAddress, record: RunRecord, *, save: Path | None, as_json: bool
) -> Exit:
    """Show how a run ended or what it is left waiting for, and return the exit code for it."""
    saved: list[Path] = []
    problem: SovrunError | None = None
    try:
        if save is not None:
            await save_files(opened, record, save, saved)
    except SovrunError as error:  # the run is over all the same, and what came of it is told first
        problem = error
    shown = await run_json(opened.store, record)
    if as_json:
        more: dict[str, Any] = {} if save is None else {"saved": [str(path) for path in saved]}
        print_json(shown | more | ({} if problem is None else {"error": error_json(problem)}))
    else:
        for line in weaker_walls(shown):
            err.print(f"[yellow]{line}[/]")
        await _summary(opened, address, record, saved)
        if problem is not None:
            report_error(problem, as_json=False)
    return exit_of_run(record.head.state) if problem is None else Exit.ENVIRONMENT


async def _summary(opened: Seen, address: StoreAddress, record: RunRecord, saved: list[Path]) -> None:
    head = record.head
    steps = await opened.store.steps(head.tenant, head.id)
    plan = await plan_of_run(opened.store, record)
    for spec, step in zip(plan.steps, steps, strict=True):
        if step.state is State.FAILED:
            document = await step_error(opened.store, head.tenant, step) or {}
            err.print(f"[bold red]failed[/] {escape(spec.id)} \\[{step.failure or step.reason}] "
                      f"{escape(visible(str(document.get('message') or '')))}")  # fmt: skip
            if document.get("traceback"):
                err.print(f"[dim]{escape(visible(str(document['traceback']).rstrip()))}[/]")
    done = sum(step.state is State.COMPLETED for step in steps)
    out.print(
        f"[{STYLE[head.state]}]{head.state}[/] {escape(record.dag)}: {done:,} of {len(steps):,} steps completed"
    )
    reused = [spec.id for spec, step in zip(plan.steps, steps, strict=True) if is_reused(step)]
    if reused:
        out.print(f"reused from {head.parent}: {_few(reused)}", markup=False)
    ended = head.state in TERMINAL
    if ended:
        out.print(f"outcome {head.outcome} ({'' if head.reproducible else 'not '}reproducible)")
    print_unresolved(await opened.store.unresolved(head.tenant, head.id))
    for path in saved:
        out.print(f"saved {escape(str(path))}")
    if not ended:
        await print_waits_of(Lookout(opened.store, opened.files), record, address)
    elif address.path is not None:
        out.print(f"replay with: sovrun replay {head.id}{same_store(address, head.tenant)}", markup=False)


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMES_MAX])
    return shown if len(names) <= _NAMES_MAX else f"{shown} and {len(names) - _NAMES_MAX:,} more"


async def save_files(opened: Seen, record: RunRecord, directory: Path, saved: list[Path]) -> None:
    """Copy the files named by members of the steps' outputs to `directory/STEP/MEMBER`, and add to `saved` where they are.

    Raises: FileUnavailable, StoreUnavailable; what was saved until then stays.
    """
    head = record.head
    plan = await plan_of_run(opened.store, record)
    for spec, step in zip(plan.steps, await opened.store.steps(head.tenant, head.id), strict=True):
        if step.output is None:
            continue
        body = await _payload(opened, head.tenant, step.output)
        value = decode(body) if body is not None and b'"$file"' in body else None
        for name, member in sorted(value.items()) if isinstance(value, dict) else ():
            if isinstance(member, dict) and "$file" in member and name == Path(name).name:
                target = directory / spec.id / name
                require_directory(target.parent)
                source = opened.files.locate(head.tenant, member["$file"])
                with source.open("rb") as kept, written(target) as file:
                    shutil.copyfileobj(kept, file, 1 << 20)
                saved.append(target)


async def _payload(opened: Seen, tenant: Tenant, digest: Any) -> bytes | None:
    return await opened.store.payload(tenant, digest) or opened.files.get(tenant, digest)
