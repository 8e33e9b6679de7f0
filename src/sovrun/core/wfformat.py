"""Workflows recorded in WfFormat (wfcommons.org) as DAG documents whose steps stand for the recorded tasks.

Owns: reading the 1.5 layout of WfFormat, and the document that is made of it.
Must not touch: what a replica does when it runs (`sovrun.replica`).
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sovrun.core.canonical import digest_of, parse, sha256_hex
from sovrun.core.errors import InvalidSetting, InvalidSpec, InvalidValue, Mistake
from sovrun.core.ids import NAME, StepId
from sovrun.core.jsontext import INTEGER_MAX, Path, Place, line_columns, offsets
from sovrun.core.plan import Cycle, plan_order
from sovrun.core.spec.findings import Finding, Suggester, kind_of, quoted, subject
from sovrun.core.spec.graph import circle_text
from sovrun.core.spec.json_document import JSON_BYTES_MAX
from sovrun.core.spec.model import API_VERSION, SECOND_US, Resources
from sovrun.core.spec.shape import STEPS_MAX

VERSION: Final = "1.5"
ENTRY: Final = "sovrun.replica:run_task"

_GZIP: Final = b"\x1f\x8b"
_RUNTIME_MAX_S: Final = 366 * 86_400
_OTHER_CHARACTER: Final = re.compile(r"[^A-Za-z0-9_-]", re.ASCII)
_NAME_MAX: Final = 128
_SHORTENED: Final = 100  # what is left of a longer name, followed by part of the digest of all of it
_LISTS: Final = ("parents", "inputFiles", "outputFiles")
_OUTPUTS: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {"digest": {"type": "string"}, "files": {"type": "array"}},
    "required": ["digest"],
}


class _Execution(NamedTuple):
    """How long a task is to take, and what it ran."""

    runtime_us: int = 0
    program: str = ""


@dataclass(frozen=True, slots=True)
class _Task:
    """One recorded task; `at` is where it stands in the file."""

    id: str
    step: StepId
    parents: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    at: Path


def import_wfformat(data: bytes, *, name: str, time_scale: float) -> dict[str, Any]:
    """Return a DAG document, a JSON value, of a workflow recorded in WfFormat 1.5.

    Each task is a step that waits for the task's parents and is given their digests, the names, sizes and digests of
    its files, and the recorded run time multiplied by `time_scale`, in microseconds.

    Args:
        data: JSON, UTF-8; or that compressed by gzip, as recorded workflows are published.
        name: what messages call the file.
        time_scale: at least 0; with 0 the steps take no time.
    Raises: InvalidSpec with the mistakes in the file; InvalidSetting when `time_scale` is not usable.
    """
    if not (math.isfinite(time_scale) and time_scale >= 0):
        raise InvalidSetting(f"the time scale must be 0 or more, not {time_scale}")
    if data.startswith(_GZIP):
        data = _inflated(data, name)
    if len(data) > JSON_BYTES_MAX:
        message = f"the file has {len(data)} bytes; {JSON_BYTES_MAX >> 20} MiB is the most"
        raise InvalidSpec(name, [Mistake("too_large", message)])
    try:
        value = parse(data)
    except InvalidValue as error:
        line, column = (int(error.facts.get(fact, 0)) for fact in ("line", "column"))
        raise InvalidSpec(name, [Mistake("bad_json", error.detail, (), line, column)]) from None
    reader = _Reader(value, time_scale)
    document = reader.document()
    if document is None or reader.found:
        raise InvalidSpec(name, _placed(data, reader.found))
    return document


def _inflated(data: bytes, name: str) -> bytes:
    """Return what gzip has compressed, never making more of it than may be read. Raises: InvalidSpec."""
    whole = b""
    while data:
        member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            whole += member.decompress(data, JSON_BYTES_MAX + 1 - len(whole))
        except zlib.error as error:
            message = f"the file is not of gzip's form: {error}"
            raise InvalidSpec(name, [Mistake("bad_gzip", message)]) from None
        if len(whole) > JSON_BYTES_MAX:
            message = f"the file inflates to more than {JSON_BYTES_MAX >> 20} MiB, the most that is read"
            raise InvalidSpec(name, [Mistake("too_large", message)])
        if not member.eof:
            raise InvalidSpec(name, [Mistake("bad_gzip", "the file ends before what gzip has compressed")])
        data = member.unused_data
    return whole


def _placed(data: bytes, found: Sequence[Finding]) -> list[Mistake]:
    text = data.decode()
    at = offsets(text, {finding.path for finding in found})
    places = line_columns(text, [where.value for where in at.values()])
    mistakes = [
        finding.mistake(places[at[finding.path].value] if finding.path in at else Place(0, 0))
        for finding in found
    ]
    return sorted(mistakes, key=lambda mistake: (mistake.line, mistake.column))


def step_name(recorded: str) -> str:
    """Return a recorded name in the alphabet of step ids: other characters become `_`, long names are shortened."""
    mapped = _OTHER_CHARACTER.sub("_", recorded)
    if NAME.match(mapped) is None:
        mapped = f"_{mapped}"
    if len(mapped) > _NAME_MAX:
        mapped = f"{mapped[:_SHORTENED]}_{sha256_hex(recorded.encode())[:16]}"
    return mapped


class _Reader:
    """Reads the parts of a workflow, noting what is wrong with them."""

    def __init__(self, value: Any, time_scale: float) -> None:
        self.found: list[Finding] = []
        self._value = value
        self._time_scale = time_scale

    def document(self) -> dict[str, Any] | None:
        """Return the DAG document; None when the layout is not known at all."""
        version = self._value.get("schemaVersion") if isinstance(self._value, dict) else None
        if version != VERSION:
            what = "no schemaVersion" if version is None else f"schemaVersion {quoted(version)}"
            path = () if version is None else ("schemaVersion",)
            hint = f"WfFormat {VERSION} is read; convert the file"
            self._find("unknown_version", f"this is not WfFormat {VERSION}: it has {what}", path, hint)
            return None
        at = ("workflow", "specification")
        specification = self._map(self._map(self._value, "workflow", ()), "specification", ("workflow",))
        recorded = self._list(specification, "tasks", at)
        if not 0 < len(recorded) <= STEPS_MAX:
            self._find(
                "bad_length", f"a workflow has 1 to {STEPS_MAX} tasks, not {len(recorded)}", (*at, "tasks")
            )
            return None
        tasks = list(self._tasks(recorded, (*at, "tasks")))
        files = dict(self._files(self._list(specification, "files", at), (*at, "files")))
        executions = self._executions()
        self._check_graph(tasks)
        if self.found:
            return None
        steps = {task.id: task.step for task in tasks}
        return {
            "apiVersion": API_VERSION,
            "kind": "Dag",
            "metadata": {
                "id": step_name(str(self._value.get("name") or "workflow")),
                "description": f"{len(tasks)} tasks recorded in WfFormat, run times multiplied by {self._time_scale:g}",
            },
            "code": [],
            "steps": [_step(task, steps, files, executions.get(task.id, _Execution())) for task in tasks],
        }

    def _find(self, code: str, message: str, path: Path, hint: str | None = None) -> None:
        self.found.append(Finding(code, message, path, hint))

    def _map(self, within: Any, field: str, at: Path) -> dict[str, Any]:
        value = within.get(field) if isinstance(within, dict) else None
        if isinstance(value, dict):
            return value
        if isinstance(within, dict):
            message = f"`{field}` must be a map; it is {kind_of(value)}"
            self._find("wrong_type", message, (*at, field) if field in within else at)
        return {}

    def _list(self, within: Mapping[str, Any], field: str, at: Path) -> list[Any]:
        value = within.get(field, [])
        if isinstance(value, list):
            return value
        self._find("wrong_type", f"`{field}` must be a list; it is {kind_of(value)}", (*at, field))
        return []

    def _text(self, within: Any, field: str, at: Path) -> str | None:
        if not isinstance(within, dict):
            self._find("wrong_type", f"{subject(at)} must be a map; it is {kind_of(within)}", at)
            return None
        value = within.get(field)
        if isinstance(value, str) and value:
            return value
        self._find(
            "wrong_type",
            f"`{field}` must be a text; it is {kind_of(value)}",
            (*at, field) if field in within else at,
        )
        return None

    def _texts(self, within: Mapping[str, Any], field: str, at: Path) -> tuple[str, ...]:
        texts = []
        for position, text in enumerate(self._list(within, field, at)):
            if isinstance(text, str):
                texts.append(text)
            else:
                self._find("wrong_type", f"an item of `{field}` must be a text", (*at, field, position))
        return tuple(texts)

    def _number(self, within: Mapping[str, Any], field: str, at: Path, most: float) -> float:
        value = within.get(field)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most:
            return value
        message = f"`{field}` must be a number from 0 to {most:g}, not {quoted(value)}"
        self._find("out_of_range", message, (*at, field) if field in within else at)
        return 0

    def _tasks(self, recorded: Sequence[Any], at: Path) -> Iterator[_Task]:
        names: dict[str, str] = {}
        for position, task in enumerate(recorded):
            path = (*at, position)
            identity = self._text(task, "id", path)
            if identity is None:
                continue
            step = step_name(identity)
            if names.get(step) == identity:
                self._find("duplicate_step", f"the task {quoted(identity)} stands twice", (*path, "id"))
            elif step in names:
                message = (
                    f"{quoted(identity)} and {quoted(names[step])} would both be the step {quoted(step)}"
                )
                self._find("id_collision", message, (*path, "id"), "rename one of them in the file")
            names.setdefault(step, identity)
            parents, inputs, outputs = (self._texts(task, field, path) for field in _LISTS)
            yield _Task(identity, StepId(step), parents, inputs, outputs, path)

    def _files(self, recorded: Sequence[Any], at: Path) -> Iterator[tuple[str, int]]:
        for position, file in enumerate(recorded):
            path = (*at, position)
            identity = self._text(file, "id", path)
            if identity is not None:
                yield identity, int(self._number(file, "sizeInBytes", path, INTEGER_MAX))

    def _executions(self) -> Mapping[str, _Execution]:
        """Return how long each task took, in microseconds times the scale, and its program; both may be unrecorded."""
        workflow = self._map(self._value, "workflow", ())
        if "execution" not in workflow:
            return {}
        at: Path = ("workflow", "execution")
        found = {}
        for position, task in enumerate(
            self._list(self._map(workflow, "execution", ("workflow",)), "tasks", at)
        ):
            path = (*at, "tasks", position)
            identity = self._text(task, "id", path)
            if identity is not None:
                longest = _RUNTIME_MAX_S / max(self._time_scale, 1)
                seconds = self._number(task, "runtimeInSeconds", path, longest)
                found[identity] = _Execution(round(seconds * self._time_scale * SECOND_US), _program(task))
        return found

    def _check_graph(self, tasks: Sequence[_Task]) -> None:
        known = {task.id for task in tasks}
        suggester = Suggester()
        for task in tasks:
            for position, parent in enumerate(task.parents):
                path = (*task.at, "parents", position)
                if parent not in known:
                    hint = suggester.hint(parent, known)
                    self._find("unknown_need", f"there is no task {quoted(parent)}", path, hint)
        if self.found:
            return
        try:
            plan_order({StepId(task.id): [StepId(parent) for parent in task.parents] for task in tasks})
        except Cycle as cycle:
            at = next(task.at for task in tasks if task.id == cycle.path[0])
            self._find("cycle", circle_text(cycle.path), (*at, "parents"))


def _program(task: Mapping[str, Any]) -> str:
    command = task.get("command")
    program = command.get("program") if isinstance(command, dict) else None
    return program if isinstance(program, str) else ""


def _step(
    task: _Task, steps: Mapping[str, StepId], files: Mapping[str, int], execution: _Execution
) -> dict[str, Any]:
    parents = sorted({steps[parent] for parent in task.parents})
    step: dict[str, Any] = {
        "id": task.step,
        "python": ENTRY,
        "needs": parents,
        "with": {
            "program": execution.program,
            "runtimeUs": execution.runtime_us,
            "inputs": [_file(name, files) for name in task.inputs],
            "outputs": [_file(name, files) for name in task.outputs],
            "upstream": {parent: {"from": f"steps.{parent}.digest"} for parent in parents},
        },
        "outputs": dict(_OUTPUTS),
    }
    enough_us = 2 * execution.runtime_us
    if enough_us > Resources().wall_us:
        seconds = min(math.ceil(enough_us / SECOND_US), _RUNTIME_MAX_S)
        step["resources"] = {"cpuSeconds": seconds, "wallSeconds": seconds}
    return step


def _file(name: str, files: Mapping[str, int]) -> dict[str, Any]:
    size = files.get(name, 0)
    return {
        "name": name,
        "size": size,
        "digest": digest_of("sovrun.wfformat.file", 1, {"name": name, "size": size}),
    }
