"""`sovrun replay`: execute a recorded run again and say whether the same came out."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from sovrun.cli.options import AsJson, StoreUrl, TenantName, Workers, tenant_of
from sovrun.cli.output import Exit, complete, out, print_json, visible
from sovrun.cli.runs import find_run
from sovrun.core.errors import InvalidValue
from sovrun.core.identity import parse_replay_token
from sovrun.core.ids import RunId as Run
from sovrun.core.ids import Tenant
from sovrun.core.step import Step
from sovrun.engine.history import chain_head
from sovrun.engine.replay import Replay, StepVerdict, Verdict
from sovrun.wiring import StoreAddress, open_reader, replay_run


def replay(
    run: Annotated[str, typer.Argument(metavar="RUN|TOKEN", help="The run's id, or its replay token.")],
    *,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    workers: Workers = 2,
    isolation: Annotated[
        str | None, typer.Option("--isolation", metavar="KIND", help="Default: as the run was isolated.")
    ] = None,
    recorded_code: Annotated[
        bool,
        typer.Option(
            "--recorded-code", help="Execute the kept copy of the code, not the code where it came from."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Execute a recorded run again in a scratch store; exit 0 when it is reproduced, 1 when it diverges."""
    whose = tenant_of(tenant)
    address = StoreAddress.parse(store)

    async def job() -> Replay:
        found = await _checked(address, whose, run)
        return await replay_run(
            address, whose, found, isolation=isolation, slots=workers, recorded_code=recorded_code
        )

    result = complete(job())
    if as_json:
        print_json(_json(result))
    else:
        if result.code_kept and not recorded_code:
            out.print("the code where it came from is gone: executed the kept copy")
        _print(result)
    raise typer.Exit(Exit.COMPLETED if result.reproduced else Exit.FAILED)


async def _checked(address: StoreAddress, tenant: Tenant, text: str) -> Run:
    """Return the run of an id or token; a replay token must agree with what is recorded. Raises: InvalidValue."""
    async with open_reader(address) as (reader, _):
        found = await find_run(reader, tenant, text)
        record = await reader.run(tenant, found)
        token = parse_replay_token(text)
        if token is not None:
            recorded = (found, record.head.outcome, await chain_head(reader, tenant, found))
            if token != recorded:
                raise InvalidValue(
                    f"the replay token does not agree with the record of run {found}: the record or the token was changed",
                    hint="compare the token with the one kept elsewhere",
                )
        return found


def _json(result: Replay) -> dict[str, Any]:
    first = result.first_divergence
    return {
        "runId": result.record.head.id,
        "verdict": "reproduced" if result.reproduced else "diverged" if first else "unavailable",
        "code": "kept" if result.code_kept else "source",
        "codeDiffers": result.code_differs,
        "environmentDiffers": result.environment_differs,
        "outcomeHash": {"recorded": result.record.head.outcome, "replayed": result.outcome},
        "counts": {str(verdict): result.count(verdict) for verdict in Verdict},
        "firstDivergence": None if first is None else _step_json(first),
        "steps": [_step_json(step) for step in result.steps],
    }


def _step_json(step: StepVerdict) -> dict[str, Any]:
    after = step.replayed
    return {
        "id": step.id,
        "verdict": str(step.verdict),
        "why": step.why,
        "state": {"recorded": str(step.recorded.state), "replayed": after and str(after.state)},
        "stepHash": {"recorded": step.recorded.step_hash, "replayed": after and after.step_hash},
        "outputHash": {"recorded": step.recorded.output, "replayed": after and after.output},
        "failure": step.failure and {"code": step.failure[0], "message": step.failure[1]},
    }


def _print(result: Replay) -> None:
    head = result.record.head
    counts = ", ".join(f"{result.count(v):,} {v}" for v in Verdict if result.count(v))
    if result.environment_differs:
        out.print(
            "[yellow]the environment differs[/]: another interpreter or other packages than were recorded"
        )
    if result.code_differs:
        out.print(
            "[yellow]the code differs[/] from what was recorded (`--recorded-code` replays the kept copy)"
        )
    first = result.first_divergence
    if result.reproduced:
        out.print(f"[green]reproduced[/] run {head.id}: {counts}")
        out.print(f"outcome {head.outcome}")
        return
    out.print(f"[bold red]{'diverged' if first else 'unavailable'}[/] run {head.id}: {counts}")
    if first is not None:
        after = first.replayed
        out.print(f"first diverging step: [bold]{escape(first.id)}[/] ({first.why})")
        out.print(f"  output   recorded {_hash(first.recorded, first.recorded.output)}")
        out.print(f"           replayed {_hash(after, after and after.output)}")
        if first.failure is not None:
            code, message = first.failure
            out.print(f"           \\[{code}] {escape(visible(message))}")
        out.print(f"  step     recorded {_hash(first.recorded, first.recorded.step_hash)}")
        out.print(f"           replayed {_hash(after, after and after.step_hash)}")
    for step in result.steps:
        if step.verdict is Verdict.UNAVAILABLE:
            out.print(f"unavailable: {escape(step.id)} ({step.why})")


def _hash(step: Step | None, digest: str | None) -> str:
    """Return a digest of a step, or that and why it has none."""
    return digest or ("-" if step is None else f"- ({step.state})")
