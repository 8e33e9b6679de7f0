"""Commands around a server: up, worker, submit."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sovrun.cli.holds import held_lines, print_how_to_go_on
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
from sovrun.cli.output import complete, err, out, print_json, reading
from sovrun.core.identity import RunKey
from sovrun.core.ids import idempotency_key
from sovrun.engine.handler import RunRequest
from sovrun.engine.holds import Holds
from sovrun.engine.views import run_summary
from sovrun.store.protocol import PRIORITY_DEFAULT
from sovrun.wiring import (
    SECRETS,
    StoreAddress,
    SystemIdentity,
    adapter_settings,
    allowed_endpoints,
    isolation_of,
    local_actor,
    open_submitting,
    open_worker,
    secret_sources,
)


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
    address = StoreAddress.parse(store)

    async def job() -> tuple[dict[str, Any], list[str]]:
        async with open_submitting(address, isolation) as opened:
            with reading(file):
                dag = opened.load(file, whose)
            given = inputs_of(
                dag.spec.inputs, inputs or [], input_files or [], inputs_file, whose=whose, kept=opened.files
            )
            run_key = RunKey(fresh=SystemIdentity().fresh()) if caller is None else RunKey(caller=caller)
            request = RunRequest(dag, given, run_key, local_actor(), opened.isolation, note, priority)
            submitted = await opened.submit(request)
            record = await opened.store.run(whose, submitted.run)
            holds = (await Holds.read(opened.store, whose)).of(record)
            made = {**await run_summary(opened.store, record), "created": submitted.created}
            return made, held_lines(holds, record, address)

    made, held = complete(job())
    if as_json:
        print_json(made)
        return
    out.print(made["runId"], highlight=False)
    for line in held:
        err.print(line, markup=False)
    if made["endedAt"] is None:
        print_how_to_go_on(address, made["isolation"], to=err)
