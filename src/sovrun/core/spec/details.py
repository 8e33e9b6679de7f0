"""What a shape cannot say about single fields: ranges, names that Python accepts, paths, schemas within the document.

Owns: these checks.
Must not touch: what steps mean to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from keyword import iskeyword
from typing import Any, Final

from sovrun.core.canonical import canonical
from sovrun.core.ids import NAME, NAME_RULE
from sovrun.core.jsontext import Path
from sovrun.core.spec.endpoints import endpoint_findings
from sovrun.core.spec.findings import Finding, quoted, subject
from sovrun.core.spec.model import Retry
from sovrun.core.spec.schemas import BadSchema, compile_schema, unfit_defaults
from sovrun.core.spec.units import duration_us, grace_us, long_duration_us, size_bytes

_Converter = Callable[[Any], int]
_RETRY: Final[Mapping[str, _Converter]] = {"base": duration_us, "cap": duration_us}
_RESOURCES: Final[Mapping[str, _Converter]] = {
    "memory": size_bytes, "disk": size_bytes, "log": size_bytes, "output": size_bytes,
    "cpuSeconds": duration_us, "wallSeconds": duration_us, "graceSeconds": grace_us,
}  # fmt: skip
_NO_NAME: Final = f"{{}} cannot be what a step calls a secret: {NAME_RULE}"
_TIMEOUT: Final[Mapping[str, _Converter]] = {"timeout": long_duration_us}
_WAITS: Final[Mapping[str, Mapping[str, _Converter]]] = {
    "tool": {"deadline": long_duration_us},
    "confirm": {"expires": long_duration_us},
}


def detail_findings(document: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what is wrong within single fields of a document and of its steps."""
    schemas = _Schemas()
    yield from schemas.findings(document.get("inputs"), ("inputs",))
    yield from schemas.default_findings(document.get("inputs"), ("inputs",))
    code = document.get("code")
    for position, path in enumerate(code if isinstance(code, list) else ()):
        yield from _path_findings(path, ("code", position))
    yield from _range_findings(document, _TIMEOUT, ())
    steps = document.get("steps")
    for position, step in enumerate(steps if isinstance(steps, list) else ()):
        if isinstance(step, dict):
            yield from _step_findings(step, ("steps", position), schemas)


def _step_findings(step: Mapping[str, Any], at: Path, schemas: _Schemas) -> Iterator[Finding]:
    if "outputs" in step:
        yield from schemas.findings(step["outputs"], (*at, "outputs"))
    if "python" in step and isinstance(step.get("with"), dict):
        for name in step["with"]:
            if not name.isidentifier() or iskeyword(name):
                yield _bad_argument(name, (*at, "with", name))
    argv = step.get("argv")
    if isinstance(argv, list) and argv and isinstance(argv[0], str) and not argv[0].startswith("/"):
        yield from _path_findings(argv[0], (*at, "argv", 0))
    if isinstance(step.get("secrets"), dict):
        for name in step["secrets"]:
            if NAME.fullmatch(name) is None:
                yield Finding("bad_name", _NO_NAME.format(quoted(name)), (*at, "secrets", name), at_key=True)
    if "retry" in step:
        yield from _range_findings(step["retry"], _RETRY, (*at, "retry"))
        yield from _back_off_findings(step["retry"], (*at, "retry"))
    if "resources" in step:
        yield from _range_findings(step["resources"], _RESOURCES, (*at, "resources"))
    yield from endpoint_findings(step.get("network"), (*at, "network"))
    yield from _range_findings(step, _TIMEOUT, at)
    for kind, durations in _WAITS.items():
        yield from _range_findings(step.get(kind), durations, (*at, kind))


def _bad_argument(name: str, path: Path) -> Finding:
    message = f"{quoted(name)} cannot be the name of an argument of a Python function"
    hint = (
        "`with` itself is not a reference; name the argument: with: {data: {from: ...}}"
        if name == "from"
        else None
    )
    return Finding("bad_argument_name", message, path, hint, at_key=True)


def _path_findings(path: Any, at: Path) -> Iterator[Finding]:
    if isinstance(path, str) and not {".", "..", ""}.isdisjoint(path.split("/")):
        message = (
            f"{quoted(path)} is not a plain path below the DAG's directory: it has an empty part, `.` or `..`"
        )
        yield Finding("bad_path", message, at)


def _range_findings(settings: Any, converters: Mapping[str, _Converter], at: Path) -> Iterator[Finding]:
    if not isinstance(settings, dict):
        return
    for name, convert in converters.items():
        value = settings.get(name)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            try:
                convert(value)
            except ValueError as error:
                path = (*at, name)
                yield Finding("out_of_range", f"{subject(path)} {error}; it is {quoted(value)}", path)


def _back_off_findings(retry: Any, at: Path) -> Iterator[Finding]:
    if not isinstance(retry, dict):
        return
    try:
        base = duration_us(retry["base"]) if "base" in retry else Retry().base_us
        cap = duration_us(retry["cap"]) if "cap" in retry else Retry().cap_us
    except (ValueError, TypeError):  # reported where it stands
        return
    if base > cap:
        shown = "" if "cap" in retry else " (30s unless it is given)"
        path = (*at, "base" if "base" in retry else "cap")
        yield Finding("out_of_range", f"`base` is longer than `cap`{shown}", path)


class _Schemas:
    """Compiles each different schema of a document once."""

    def __init__(self) -> None:
        self._faults: dict[bytes, BadSchema | None] = {}

    def findings(self, schema: Any, path: Path) -> Iterator[Finding]:
        if not isinstance(schema, dict):
            return
        form = canonical(schema)
        if form not in self._faults:
            self._faults[form] = self._fault(schema)
        fault = self._faults[form]
        if fault is not None:
            message = f"{subject(path)} is not a usable JSON Schema: {fault.detail}"
            yield Finding("bad_schema", message, (*path, *fault.at))

    def default_findings(self, schema: Any, path: Path) -> Iterator[Finding]:
        """Yield the defaults of a usable schema that it refuses itself."""
        if isinstance(schema, dict) and next(self.findings(schema, path), None) is None:
            for place, why in unfit_defaults(schema):
                yield Finding(
                    "bad_default", f"this default does not fit its own schema: {why}", (*path, *place)
                )

    def _fault(self, schema: Mapping[str, Any]) -> BadSchema | None:
        try:
            compile_schema(schema)
        except BadSchema as fault:
            return fault
        return None
