"""The main job: `run` makes a run and works until it has ended; `resume` works until nothing is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from sovrun.cli.files import require_directory
from sovrun.cli.options import (
    Adapters,
    AllowEndpoint,
    AsJson,
    DagFile,
    Isolation,
    NamedIsolation,
    RunStoreUrl,
    Secrets,
    TenantName,
    Workers,
    inputs_of,
    same_store,
    tenant_of,
)
from sovrun.cli.output import STYLE, Exit, complete, counted, err, exit_of_run, out, print_json, reading
from sovrun.cli.progress import follow
from sovrun.cli.summary import announce, finish
from sovrun.cli.waits import print_waits_of
from sovrun.cli.watching import followed
from sovrun.core.commands.journal import Command, CommandState
from sovrun.core.errors import StoreOwned
from sovrun.core.identity import RunKey
from sovrun.core.ids import Tenant, idempotency_key
from sovrun.core.lifecycle import TERMINAL
from sovrun.engine.handler import RunRequest
from sovrun.sandbox.secrets import SecretSource, SecretSources, without_values
from sovrun.store.protocol import PRIORITY_DEFAULT
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

OPEN_MAX: Final = 10_000
"""Commands without an outcome that are counted."""


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
    store: RunStoreUrl = None,
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
        with reading(file):
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

    raise typer.Exit(complete(_run(order), resume=f"sovrun resume{same_store(address)}"))


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


async def _run(order: _Order) -> Exit:
    """Execute the run here, or have the server that owns the store do it. Raises: StoreOwned when another does."""
    try:
        return await _run_here(order)
    except StoreOwned:
        if not is_served(order.address):
            raise
        return await _run_beside(order)


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
        record = await followed(opened, order.address, order.tenant, submitted.run, quiet=order.as_json)
        return await finish(opened, order.address, record, save=order.save, as_json=order.as_json)


def resume(
    *,
    workers: Workers = 2,
    store: RunStoreUrl = None,
    isolation: Isolation = "sandbox",
    allow_endpoint: AllowEndpoint = None,
    secrets: Secrets = None,
    adapters: Adapters = None,
    as_json: AsJson = False,
) -> None:
    """Go on with every run and command that was interrupted, until each is over or left waiting."""
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
            before = await opened.store.open_commands(OPEN_MAX)
            if not as_json:
                more = f" and {counted(len(before), 'open command')}" if before else ""
                err.print(f"{counted(len(waiting), 'unfinished run')}{more} in {address}")
            ended = [await opened.engine.wait_idle(tenant, run) for tenant, run in waiting]
            await opened.engine.settle_commands()
            commands = Commands.of(before, await opened.store.open_commands(OPEN_MAX))
            if as_json:
                runs = [{"runId": r.head.id, "status": str(r.head.state)} for r in ended]
                print_json({"ended": runs, "commands": asdict(commands)})
            for record in () if as_json else ended:
                out.print(f"{record.head.id} [{STYLE[record.head.state]}]{record.head.state}[/]")
                if record.head.state not in TERMINAL:
                    await print_waits_of(opened.engine.desk, record, address)
            if not as_json and (before or commands.left):
                out.print(commands.text())
        left = Exit.WAITING if commands.left else Exit.COMPLETED
        return max([left, *(exit_of_run(record.head.state) for record in ended)])

    raise typer.Exit(complete(job(), resume=f"sovrun resume{same_store(address)}"))


@dataclass(frozen=True, slots=True)
class Commands:
    """What came of the commands that were open: how many have an outcome now, have none, wait for a person, or were not sent."""

    concluded: int
    unknown: int
    parked: int
    intended: int

    @classmethod
    def of(cls, before: Sequence[Command], after: Sequence[Command]) -> Commands:
        """Compare what was open with what still is."""
        intended = sum(one.state is CommandState.INTENDED for one in after)
        parked = sum(one.parked for one in after)
        concluded = {one.id for one in before} - {one.id for one in after}
        return cls(len(concluded), len(after) - intended - parked, parked, intended)

    @property
    def left(self) -> int:
        """How many have no outcome."""
        return self.unknown + self.parked + self.intended

    def text(self) -> str:
        """Say it to a person."""
        more = f", {self.intended:,} not sent" if self.intended else ""
        where = "; `sovrun commands --unknown` and `sovrun waiting` show them" if self.left else ""
        return (
            f"{counted(self.concluded, 'command')} concluded, {self.unknown:,} left unknown, {self.parked:,} parked for a person"
            f"{more}{where}"
        )
