"""The main job: `run` makes a run and works until it has ended; `resume` works until nothing is left."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from sovrun.cli.files import require_directory, written
from sovrun.cli.options import (
    Adapters,
    AllowEndpoint,
    AsJson,
    DagFile,
    Isolation,
    NamedIsolation,
    Secrets,
    StoreUrl,
    TenantName,
    Workers,
    inputs_of,
    same_store,
    tenant_of,
)
from sovrun.cli.output import (
    STYLE,
    Exit,
    complete,
    err,
    error_json,
    exit_of_run,
    out,
    print_json,
    report_error,
    visible,
)
from sovrun.cli.progress import follow
from sovrun.cli.serving import followed
from sovrun.cli.waits import print_waits_of
from sovrun.core.canonical import decode
from sovrun.core.errors import SovrunError, StoreOwned
from sovrun.core.identity import RunKey
from sovrun.core.ids import RunId, StepId, Tenant, idempotency_key
from sovrun.core.lifecycle import TERMINAL, State
from sovrun.engine.desk import Desk
from sovrun.engine.handler import RunRequest
from sovrun.engine.views import is_reused, plan_of_run, run_json, step_error
from sovrun.sandbox.secrets import SecretSource, SecretSources, without_values
from sovrun.store.protocol import PRIORITY_DEFAULT, RunRecord
from sovrun.wiring import (
    Opened,
    StoreAddress,
    Submitting,
    SystemIdentity,
    is_served,
    isolation_of,
    local_actor,
    open_engine,
    open_submitting,
    secret_sources,
)

_NAMES_MAX: Final = 20
"""Names of steps that a summary lists."""


def run(  # noqa: PLR0913 -- one parameter per option of the command
    file: DagFile,
    *,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", metavar="K=V", help="An input: JSON, or a plain text.")
    ] = None,
    input_files: Annotated[
        list[str] | None,
        typer.Option("--input-file", metavar="K=PATH", help="An input: a file or a directory."),
    ] = None,
    inputs_file: Annotated[
        Path | None,
        typer.Option("--inputs", metavar="FILE", help="All inputs: a JSON object; `-` reads it from stdin."),
    ] = None,
    workers: Workers = 2,
    store: StoreUrl = None,
    isolation: NamedIsolation = None,
    allow_endpoint: AllowEndpoint = None,
    secrets: Secrets = None,
    adapters: Adapters = None,
    tenant: TenantName = "default",
    key: Annotated[
        str | None,
        typer.Option(
            "--idempotency-key", metavar="K", help="The same request under this key is the same run."
        ),
    ] = None,
    note: Annotated[
        str | None, typer.Option("--note", metavar="TEXT", help="Why; kept with the run.")
    ] = None,
    priority: Annotated[int, typer.Option("--priority", min=0, max=1_000_000, help="Lower goes first.")] = (
        PRIORITY_DEFAULT
    ),
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="DIR", help="Copy the files that steps returned to DIR/STEP/NAME."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a DAG durably to its end and show what came out; where a server owns the store, it executes the run."""
    whose = tenant_of(tenant)
    caller = None if key is None else idempotency_key(key)
    address = StoreAddress.parse(store)
    if save is not None:
        require_directory(save)  # before there is a run whose files could not be put there

    def request_of(opened: Opened | Submitting) -> RunRequest:
        dag = opened.load(file, whose)
        given = inputs_of(
            dag.spec.inputs, inputs or [], input_files or [], inputs_file, whose=whose, kept=opened.files
        )
        run_key = RunKey(fresh=SystemIdentity().fresh()) if caller is None else RunKey(caller=caller)
        wanted = {secret for step in dag.spec.steps for secret in step.secrets}
        told = note and without_values(note, SecretSources(sources), whose, sorted(wanted))
        return RunRequest(dag, given, run_key, local_actor(), opened.isolation, told, priority)

    sources = secret_sources(secrets or (), whose)
    order = _Order(
        *(address, whose, isolation, workers, save, as_json, request_of, allow_endpoint or []),
        secrets=sources,
        adapters=adapters,
    )

    async def job() -> Exit:
        try:
            return await _run_here(order)
        except StoreOwned:
            if not is_served(address):
                raise
            return await _run_beside(order)

    raise typer.Exit(complete(job()))


@dataclass(frozen=True, slots=True)
class _Order:
    """What `sovrun run` was told; `request_of` takes the DAG and the inputs into the files of a store."""

    address: StoreAddress
    tenant: Tenant
    isolation: str | None
    workers: int
    save: Path | None
    as_json: bool
    request_of: Callable[[Opened | Submitting], RunRequest]
    allow: list[str]
    secrets: tuple[SecretSource, ...]
    adapters: Path | None


async def _run_here(order: _Order) -> Exit:
    """Execute the run in this process. Raises: StoreOwned when another has the store."""
    async with open_engine(
        order.address,
        isolation=isolation_of(order.isolation),
        slots=order.workers,
        allow=order.allow,
        secrets=order.secrets,
        adapters=order.adapters,
    ) as opened:
        request = order.request_of(opened)
        await opened.engine.register(request.dag, request.actor)
        submitted = await opened.engine.submit(request)
        if not order.as_json:
            announce(opened, order.address, submitted.run, created=submitted.created)
        record = await follow(opened, order.tenant, submitted.run, quiet=order.as_json)
        return await finish(opened, order.address, record, save=order.save, as_json=order.as_json)


async def _run_beside(order: _Order) -> Exit:
    """Give the run to the server that owns the store, and follow it."""
    async with open_submitting(order.address, order.isolation) as opened:
        submitted = await opened.submit(order.request_of(opened))
        if order.allow or order.secrets or order.adapters:
            err.print(
                "[dim]a server executes the run; what it was started with says which endpoints, secrets and adapters"
                " there are[/]"
            )
        if not order.as_json:
            announce(opened, order.address, submitted.run, created=submitted.created)
        record = await followed(opened.store, order.tenant, submitted.run, quiet=order.as_json)
        return await finish(opened, order.address, record, save=order.save, as_json=order.as_json)


def resume(
    *,
    workers: Workers = 2,
    store: StoreUrl = None,
    isolation: Isolation = "sandbox",
    allow_endpoint: AllowEndpoint = None,
    secrets: Secrets = None,
    adapters: Adapters = None,
    as_json: AsJson = False,
) -> None:
    """Go on with every run that was interrupted, until each is over or left waiting."""
    address = StoreAddress.parse(store)

    async def job() -> Exit:
        async with open_engine(
            address,
            isolation=isolation,
            slots=workers,
            allow=allow_endpoint or (),
            secrets=secret_sources(secrets or ()),
            adapters=adapters,
        ) as opened:
            waiting = await opened.store.unfinished()
            if not as_json:
                err.print(
                    f"{len(waiting):,} unfinished {'run' if len(waiting) == 1 else 'runs'} in {address}"
                )
            ended = [await opened.engine.wait_idle(tenant, run) for tenant, run in waiting]
            if as_json:
                print_json({"ended": [{"runId": r.head.id, "status": str(r.head.state)} for r in ended]})
            for record in () if as_json else ended:
                out.print(f"{record.head.id} [{STYLE[record.head.state]}]{record.head.state}[/]")
                if record.head.state not in TERMINAL:
                    await print_waits_of(opened.engine.desk, record, address)
        return max((exit_of_run(record.head.state) for record in ended), default=Exit.COMPLETED)

    raise typer.Exit(complete(job()))


def announce(opened: Opened | Submitting, address: StoreAddress, run_id: RunId, *, created: bool) -> None:
    """Say on standard error which run is worked on."""
    if isinstance(opened, Opened) and opened.engine.resumed:
        err.print(f"[dim]took back {opened.engine.resumed} steps that an interrupted engine had begun[/]")
    err.print(f"[dim]{'run' if created else 'known run'}[/] {run_id} [dim]in {escape(str(address))}[/]")


async def finish(
    opened: Opened | Submitting, address: StoreAddress, record: RunRecord, *, save: Path | None, as_json: bool
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
        await _summary(opened, address, record, saved)
        if problem is not None:
            report_error(problem, as_json=False)
    return exit_of_run(record.head.state) if problem is None else Exit.ENVIRONMENT


async def _summary(
    opened: Opened | Submitting, address: StoreAddress, record: RunRecord, saved: list[Path]
) -> None:
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
    unresolved = await opened.store.unresolved(head.tenant, head.id)
    if unresolved:
        out.print(f"[yellow]effects unresolved: {unresolved}[/]; `sovrun commands --unknown` shows them")
    for path in saved:
        out.print(f"saved {escape(str(path))}")
    if not ended:
        await print_waits_of(Desk(opened.store, opened.files), record, address)
    elif address.path is not None:
        out.print(f"replay with: sovrun replay {head.id}{same_store(address, head.tenant)}", markup=False)


def _few(names: list[StepId]) -> str:
    shown = ", ".join(names[:_NAMES_MAX])
    return shown if len(names) <= _NAMES_MAX else f"{shown} and {len(names) - _NAMES_MAX:,} more"


async def save_files(
    opened: Opened | Submitting, record: RunRecord, directory: Path, saved: list[Path]
) -> None:
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


async def _payload(opened: Opened | Submitting, tenant: Tenant, digest: Any) -> bytes | None:
    return await opened.store.payload(tenant, digest) or opened.files.get(tenant, digest)
