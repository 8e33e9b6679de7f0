"""Commands about documents: validate, plan, import. They need no store and run nothing."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from sovrun.cli.files import written
from sovrun.cli.options import AsJson, DagFile
from sovrun.cli.output import counted, out, print_json, reading
from sovrun.core.identity import dag_version
from sovrun.core.ids import Digest
from sovrun.core.plan import plan_of
from sovrun.core.spec.model import DagSpec
from sovrun.core.spec.normal import normal_form
from sovrun.core.wfformat import import_wfformat as convert
from sovrun.stores.files import FileStore
from sovrun.wiring import DOCUMENT_BYTES_MAX, read_bounded, read_document


def validate(file: DagFile, *, as_json: AsJson = False) -> None:
    """Check a DAG document and name all its mistakes at once, each with its place."""
    spec = _read(file)
    if as_json:
        print_json({"valid": True, "dagId": spec.id, "steps": len(spec.steps)})
    else:
        out.print(
            f"[green]valid[/] {escape(str(file))}: DAG {escape(spec.id)}, {counted(len(spec.steps), 'step')}"
        )


def plan(file: DagFile, *, as_json: AsJson = False) -> None:
    """Show the order in which the steps of a DAG are considered, and the digest that names this version of it."""
    spec = _read(file)
    code, version = _named(spec, file)
    steps = plan_of(spec)
    order = [step.id for step in spec.steps]
    levels = _levels(steps.needs)
    if as_json:
        print_json(
            {
                "dagId": spec.id,
                "version": version,
                "codeDigest": code,
                "order": order,
                "needs": {step.id: list(step.needs) for step in spec.steps},
                "levels": {step.id: level for step, level in zip(spec.steps, levels, strict=True)},
            }
        )
        return
    out.print(
        f"DAG [bold]{escape(spec.id)}[/], {counted(len(order), 'step')}, {counted(max(levels) + 1, 'level')}"
    )
    out.print(f"version {version}")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("#", "step", "kind", "level", "needs"):
        table.add_column(column)
    for position, step in enumerate(spec.steps):
        needs = ", ".join(step.needs)
        shown = needs if len(needs) <= 60 else f"{needs[:50]}... ({len(step.needs)})"
        table.add_row(str(position), escape(step.id), step.kind, str(levels[position]), escape(shown))
    out.print(table)


def _read(file: Path) -> DagSpec:
    with reading(file):
        return read_document(file)


def _named(spec: DagSpec, file: Path) -> tuple[Digest, Digest]:
    """Return the digests of the code and of the DAG version, leaving nothing behind."""
    with tempfile.TemporaryDirectory(prefix="sovrun-") as scratch:
        code = FileStore(Path(scratch)).take_code(file.resolve().parent, spec.code, file)
    return code.digest, dag_version(normal_form(spec), code.digest)


def _levels(needs: tuple[tuple[int, ...], ...]) -> list[int]:
    levels: list[int] = []
    for of_step in needs:
        levels.append(1 + max((levels[need] for need in of_step), default=-1))
    return levels


def import_wfformat(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A WfFormat instance (JSON, also gzipped).", show_default=False),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT", help="Where to write the DAG; default: print it."),
    ] = None,
    time_scale: Annotated[
        float,
        typer.Option("--time-scale", min=0, metavar="X", help="Recorded runtimes are multiplied by this."),
    ] = 1.0,
    *,
    as_json: AsJson = False,
) -> None:
    """Turn a recorded WfFormat workflow into a DAG whose steps stand for the recorded tasks."""
    document = convert(read_bounded(file, DOCUMENT_BYTES_MAX * 8), name=str(file), time_scale=time_scale)
    text = json.dumps(document, indent=1) + "\n"
    if output is None:
        typer.echo(text, nl=False)
        return
    with written(output) as made:
        made.write(text.encode())
    summary: dict[str, Any] = {
        "dagId": document["metadata"]["id"], "steps": len(document["steps"]), "file": str(output)
    }  # fmt: skip
    if as_json:
        print_json(summary)
    else:
        out.print(
            f"{escape(str(output))}: DAG {escape(summary['dagId'])}, {counted(len(document['steps']), 'step')}"
        )
