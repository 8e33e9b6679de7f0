"""Commands around a server: up, worker, submit, watch."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

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
    duration_of,
    inputs_of,
    tenant_of,
)
from sovrun.cli.output import STYLE, Exit, complete, err, exit_of_run, out, print_json
from sovrun.cli.runs import find_run
from sovrun.core.identity import RunKey
from sovrun.core.ids import RunId, Tenant, idempotency_key
from sovrun.core.lifecycle import TERMINAL, Reason, State
from sovrun.engine.handler import RunRequest
from sovrun.engine.views import run_json, run_summary
from sovrun.store.protocol import PRIORITY_DEFAULT, Reads, RunRecord
from sovrun.wiring import (
    SECRETS,
    StoreAddress,
    SystemIdentity,
    adapter_settings,
    allowed_endpoints,
    isolation_of,
    local_actor,
    open_reader,
    open_submitting,
    open_worker,
    secret_sources,
)

LOOK_SECONDS: Final = 0.2


def up(  # noqa: PLR0913 -- one parameter per option of the command
    *,
    store: StoreUrl = None,
    isolation: Isolation = "sandbox",
    allow_endpoint: AllowEndpoint = None,
    secrets: Secrets = None,
    adapters: Adapters = None,
    drift_every: Annotated[
        str,
        typer.Option(
            "--drift-every",
            metavar="TIME|none",
            help="How often providers are compared with what is recorded.",
        ),
    ] = "60s",
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=256, metavar="N", help="Worker processes.")
    ] = 1,
    slots: Annotated[
        int, typer.Option("--slots", min=1, max=1_024, metavar="N", help="Steps at a time in each.")
    ] = 2,
    grace: Annotated[
        float,
        typer.Option(
            "--grace",
            min=0,
            metavar="SECONDS",
            help="How long steps have when told to stop, the last quarter of it after SIGTERM.",
        ),
    ] = 10.0,
) -> None:
    """Own a store, serve it on a Unix socket beside it, and execute what is submitted, until interrupted."""
    address = StoreAddress.parse(store)
    isolation_of(isolation)  # refused here, not by each worker
    options = ["--store", str(address), "--isolation", isolation, "--workers", str(workers)]
    options += ["--slots", str(slots), "--grace", str(grace)]
    allowed_endpoints(allow_endpoint or ())
    options += [word for endpoint in allow_endpoint or () for word in ("--allow-endpoint", endpoint)]
    options += [word for source in secret_sources(secrets or ()) for word in ("--secrets", str(source))]
    os.environ.pop(
        SECRETS, None
    )  # passed on as options, whose paths count from here and not from a worker's directory
    adapter_settings(adapters)  # refused here, with the same words as elsewhere
    options += [] if adapters is None else ["--adapters", str(adapters.absolute())]
    options += (
        []
        if drift_every == "none"
        else ["--drift-every", str(duration_of(drift_every, "--drift-every") / 1e6)]
    )
    os.execv(sys.executable, [sys.executable, "-m", "sovrun.service", *options])  # noqa: S606 -- our own module


def worker(
    *,
    store: StoreUrl = None,
    isolation: NamedIsolation = None,
    allow_endpoint: AllowEndpoint = None,
    secrets: Secrets = None,
    slots: Annotated[
        int, typer.Option("--slots", min=1, max=1_024, metavar="N", help="Steps at a time.")
    ] = 2,
    name: Annotated[
        str | None, typer.Option("--name", help="What the server calls this worker.", hidden=True)
    ] = None,
) -> None:
    """Execute steps for the server that owns a store; `sovrun up` starts these by itself."""
    address = StoreAddress.parse(store)

    async def job() -> None:
        opened = open_worker(
            address,
            isolation=isolation,
            slots=slots,
            name=name,
            allow=allow_endpoint or (),
            secrets=secret_sources(secrets or ()),
        )
        async with opened as working:
            loop = asyncio.get_running_loop()
            work = asyncio.create_task(working.run())
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, working.stop)
            # Another signal, as a whole terminal or service may be told to stop, and its worker once more by the server.
            loop.add_signal_handler(signal.SIGQUIT, work.cancel)
            await asyncio.wait((work,))
            if not work.cancelled():
                work.result()

    complete(job())


def submit(  # noqa: PLR0913 -- one parameter per option of the command
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
    store: StoreUrl = None,
    isolation: NamedIsolation = None,
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
    as_json: AsJson = False,
) -> None:
    """Make a run and return at once; a server (`sovrun up`) or `sovrun resume` executes it."""
    whose = tenant_of(tenant)
    caller = None if key is None else idempotency_key(key)

    async def job() -> dict[str, Any]:
        async with open_submitting(StoreAddress.parse(store), isolation) as opened:
            dag = opened.load(file, whose)
            given = inputs_of(
                dag.spec.inputs, inputs or [], input_files or [], inputs_file, whose=whose, kept=opened.files
            )
            run_key = RunKey(fresh=SystemIdentity().fresh()) if caller is None else RunKey(caller=caller)
            request = RunRequest(dag, given, run_key, local_actor(), opened.isolation, note, priority)
            submitted = await opened.submit(request)
            record = await opened.store.run(whose, submitted.run)
            return {**await run_summary(opened.store, record), "created": submitted.created}

    made = complete(job())
    if as_json:
        print_json(made)
    else:
        out.print(made["runId"], highlight=False)


def watch(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="The run's id, or a beginning of it.", show_default=False)
    ],
    *,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    as_json: AsJson = False,
) -> None:
    """Follow a run until it is over or left waiting."""
    whose = tenant_of(tenant)

    async def job() -> Exit:
        async with open_reader(StoreAddress.parse(store)) as (reader, _):
            record = await followed(reader, whose, await find_run(reader, whose, run), quiet=as_json)
            if as_json:
                print_json(await run_json(reader, record))
            else:
                head = record.head
                out.print(f"[{STYLE[head.state]}]{head.state}[/] {escape(record.dag)} {head.id}")
                if head.outcome is not None:
                    out.print(f"outcome {head.outcome} ({'' if head.reproducible else 'not '}reproducible)")
            return exit_of_run(record.head.state)

    raise typer.Exit(complete(job()))


async def followed(reader: Reads, tenant: Tenant, run: RunId, *, quiet: bool) -> RunRecord:
    """Show the events of a run that others execute until it is terminal or left waiting, and return it."""
    after = 0
    while True:
        record = await reader.run(tenant, run)
        for event in await reader.events(tenant, run, after=after):
            after = event.sequence
            if not quiet:
                err.print(f"{event.type.replace('.', ' ', 1)} {event.step or ''}".rstrip(), markup=False)
        if record.head.state in TERMINAL or record.head.state is State.AWAITING_USER_CONFIRMATION:
            return record
        if record.head.state is State.AWAITING_TOOL:
            waits = [step for step in await reader.steps(tenant, run) if step.reason == Reason.TOOL]
            if len(waits) == record.head.counts.awaiting_tool:
                return record
        await asyncio.sleep(LOOK_SECONDS)
