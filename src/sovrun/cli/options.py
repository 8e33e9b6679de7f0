"""The options that several commands share, and how texts become values.

Owns: option types; `tenant_of`, `inputs_of`, `note_of`, `same_store`.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sovrun.core.canonical import parse
from sovrun.core.errors import InvalidInputs, InvalidSetting, InvalidValue, PayloadTooLarge
from sovrun.core.ids import Tenant, tenant
from sovrun.core.spec.findings import Suggester, quoted
from sovrun.core.spec.references import lacking_field
from sovrun.core.spec.units import duration_us
from sovrun.engine.desk import NOTE_MAX
from sovrun.store.protocol import INLINE_MAX
from sovrun.stores.files import FileStore
from sovrun.wiring import DEFAULT_TENANT, DOCUMENT_BYTES_MAX, StoreAddress, read_bounded

DagFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="The DAG document, YAML or JSON.", show_default=False)
]
RunId = Annotated[
    str, typer.Argument(metavar="RUN", help="The run's id, or a beginning of it.", show_default=False)
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="`sqlite:PATH`; default: $SOVRUN_STORE, else your own store.",
        show_default=False,
    ),
]
RunStoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="`sqlite:PATH`, or `memory:`; default: $SOVRUN_STORE, else your own store.",
        show_default=False,
    ),
]
TenantName = Annotated[str, typer.Option("--tenant", metavar="T", help="Whose runs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
StepId = Annotated[str, typer.Argument(metavar="STEP", help="The step's id.", show_default=False)]
Note = Annotated[str | None, typer.Option("--note", metavar="TEXT", help="Why; kept with the record.")]
Workers = Annotated[int, typer.Option("--workers", min=1, max=1_024, metavar="N", help="Steps at a time.")]
Isolation = Annotated[
    str,
    typer.Option(
        "--isolation",
        metavar="KIND",
        help="`sandbox`, or `in-process` for code you trust as much as Sovrun itself.",
    ),
]

NamedIsolation = Annotated[
    str | None,
    typer.Option(
        "--isolation",
        metavar="KIND",
        help="`sandbox`, or `in-process` for code you trust as much as Sovrun itself; default: that of the server that "
        "executes it, else `sandbox`.",
        show_default=False,
    ),
]

AllowEndpoint = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-endpoint",
        metavar="E",
        help="An endpoint that steps may reach when they declare it: [TENANT/]HOST:PORT[=ADDRESS]; also "
        "$SOVRUN_ALLOW_ENDPOINTS.",
        show_default=False,
    ),
]


Secrets = Annotated[
    list[str] | None,
    typer.Option(
        "--secrets",
        metavar="SOURCE",
        help="Where the values of secrets are: [TENANT=]env:PREFIX, [TENANT=]file:PATH or [TENANT=]dir:PATH; also "
        "$SOVRUN_SECRETS.",
        show_default=False,
    ),
]


Adapters = Annotated[
    Path | None,
    typer.Option(
        "--adapters",
        metavar="FILE",
        help="The adapters' settings; default: $SOVRUN_ADAPTERS, else the paper provider alone.",
        show_default=False,
    ),
]


def tenant_of(text: str) -> Tenant:
    """Return a tenant's name. Raises: InvalidIdentifier."""
    return tenant(text)


def inputs_of(
    schema: Mapping[str, Any],
    pairs: Sequence[str],
    files: Sequence[str],
    document: Path | None,
    *,
    whose: Tenant,
    kept: FileStore,
) -> dict[str, Any]:
    """Return the inputs that the options give, later forms over earlier ones: document, pairs, files.

    Args:
        schema: of the DAG's inputs; a text stays a text where it declares a string.
        pairs, files: `name=value` and `name=path`.
    Raises: InvalidSetting for what is given twice; InvalidInputs for a single input that no reference of the DAG could
        name, which is rather a slip than meant (a document may hold what it likes); InvalidValue, FileUnavailable.
    """
    inputs: dict[str, Any] = {}
    if document is not None:
        text = sys.stdin.buffer.read() if str(document) == "-" else read_bounded(document, DOCUMENT_BYTES_MAX)
        value = parse(text)
        if not isinstance(value, dict):
            raise InvalidValue(f"{document}: inputs are a JSON object, not {type(value).__name__}")
        inputs.update(value)
    properties = schema.get("properties", {})
    for name, text in _single(pairs, "--input", schema).items():
        inputs[name] = value_of(text, properties.get(name, {}))
    for name, place in _single(files, "--input-file", schema).items():
        inputs[name] = kept.take_in(whose, Path(place))
    return inputs


def _single(pairs: Sequence[str], option: str, schema: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of single inputs by name. Raises: InvalidSetting, InvalidInputs."""
    texts: dict[str, str] = {}
    for pair in pairs:
        name, text = pair_of(pair, option)
        if name in texts:
            raise InvalidSetting(f"{option} {name} is given twice", hint="give each input once")
        lack = lacking_field(schema, (name,))
        if lack is not None:
            known = f"the DAG knows the inputs: {', '.join(sorted(lack.known)) or 'none'}"
            near = Suggester().hint(name, lack.known)
            raise InvalidInputs(
                f"the DAG has no input {quoted(name)}", hint=known if near is None else f"{near} {known}"
            )
        texts[name] = text
    return texts


def pair_of(pair: str, option: str) -> tuple[str, str]:
    """Return the name and the text of `name=text`. Raises: InvalidSetting."""
    name, separator, text = pair.partition("=")
    if not separator or not name:
        raise InvalidSetting(f"{option} {pair!r} is not of the form name=value")
    return name, text


def value_of(text: str, schema: Any) -> Any:
    """Return what a text on the command line stands for: itself where a string is declared, else JSON, else itself."""
    declared = schema.get("type") if isinstance(schema, Mapping) else None
    if declared == "string" or len(text) > INLINE_MAX:
        return text
    try:
        return parse(text)
    except InvalidValue:
        return text


def duration_of(text: str, option: str) -> int:
    """Return a duration in microseconds. Raises: InvalidSetting."""
    try:
        return duration_us(text)
    except ValueError as error:
        raise InvalidSetting(f"{option} {text[:40]!r} {error}", hint="write it as 10s or 5m") from None


def note_of(text: str | None) -> str | None:
    """Return a note or rationale. Raises: PayloadTooLarge, for one is never cut off in silence."""
    if text is not None and len(text) > NOTE_MAX:
        raise PayloadTooLarge(
            f"the text has {len(text):,} characters; the limit is {NOTE_MAX:,}",
            hint="keep the document elsewhere and give its digest",
        )
    return text


def same_store(address: StoreAddress, tenant: str | None = None) -> str:
    """Return the options by which a suggested command finds the same store and tenant."""
    return f" --store {shlex.quote(str(address))}" + (
        "" if tenant in (None, DEFAULT_TENANT) else f" --tenant {tenant}"
    )
