"""The normalised DAG: what every other part of Sovrun sees of a document.

Owns: the frozen values below and their defaults, which belong to `apiVersion: sovrun/v1` and never change.
Must not touch: texts, lines and columns (`document.py`), the published schema (`schema.py`).
Durations are whole microseconds, sizes whole bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeAlias

from sovrun.core.ids import DagId, StepId
from sovrun.core.network import Endpoint

API_VERSION: Final = "sovrun/v1"

MEBIBYTE: Final = 1 << 20
SECOND_US: Final = 1_000_000


class Kind(StrEnum):
    """What a step does (DESIGN section 9)."""

    PYTHON = "python"
    ARGV = "argv"
    TOOL = "tool"
    CONFIRM = "confirm"
    COMMAND = "command"


WORKER_KINDS: Final = frozenset({Kind.PYTHON, Kind.ARGV})
"""Kinds of steps that a worker executes, and a replay executes again; the others walk the table in the engine."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The value a `{from: ...}` stands for: the run's inputs (`step` None) or a step's output, then fields of it."""

    step: StepId | None
    path: tuple[str, ...]

    def __str__(self) -> str:
        root = ("inputs",) if self.step is None else ("steps", self.step)
        return ".".join((*root, *self.path))


@dataclass(frozen=True, slots=True)
class Literal:
    """A value that stands for itself even where it looks like a reference."""

    value: Any


Template: TypeAlias = (
    "Reference | Literal | bool | int | float | str | list[Template] | dict[str, Template] | None"
)
"""JSON in which a reference may stand for any value."""


@dataclass(frozen=True, slots=True)
class Retry:
    """When an attempt that failed is followed by another.

    Args:
        max_attempts: starts in all, lost workers included.
        max_failures: reported failures in all.
        base_us, cap_us: first and largest delay.
        jitter: draw the delay from the step hash below its ceiling.
        retry_on: names of errors that may be retried; None means all.
    """

    max_attempts: int = 3
    max_failures: int = 3
    base_us: int = SECOND_US
    cap_us: int = 30 * SECOND_US
    jitter: bool = False
    retry_on: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """The limits of one attempt.

    Args:
        memory: bytes.
        cpu_us, wall_us: processor time and wall clock.
        processes, open_files: counts within the sandbox.
        disk: bytes of the work directory; files: its number of files and directories.
        log: bytes of standard output and standard error together; output: bytes of the returned value.
        memory_hard: the step is refused where its memory could only be limited as well as that goes.
        grace_us: how long it may take to end once it was told to; then it is killed.
    """

    memory: int = 512 * MEBIBYTE
    cpu_us: int = 3_600 * SECOND_US
    wall_us: int = 3_600 * SECOND_US
    processes: int = 64
    open_files: int = 256
    disk: int = 256 * MEBIBYTE
    files: int = 16_384
    log: int = 8 * MEBIBYTE
    output: int = 16 * MEBIBYTE
    memory_hard: bool = False
    grace_us: int = 2 * SECOND_US


@dataclass(frozen=True, slots=True)
class ToolWait:
    """A `tool` step: an outside tool must answer.

    Args:
        name: of the tool, shown to who answers.
        deadline_us: how long the answer may take from the moment the step begins to wait; None means for ever.
    """

    name: str
    deadline_us: int | None = None


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A `confirm` step: an allowed person must approve or reject exactly what is shown.

    Args:
        role, actor: who is allowed; both None means anyone who may approve at all.
        show: what is shown; the approval binds to the digest of its value.
        expires_us: how long the decision may take from the moment the step begins to wait; None means for ever.
        on_expiry: what no decision in time amounts to: `reject` or `fail`.
        bar_requester: who asked for the run may not decide.
    """

    role: str | None = None
    actor: str | None = None
    show: Template = None
    expires_us: int | None = None
    on_expiry: str = "fail"
    bar_requester: bool = False


@dataclass(frozen=True, slots=True)
class CommandCall:
    """A `command` step: one command through the boundary, its payload the step's arguments.

    Args:
        kind: `noun.verb`; adapter: by the name under which it is configured; mode: `paper` or `live`.
    """

    kind: str
    adapter: str
    mode: str = "paper"


@dataclass(frozen=True, slots=True)
class StepSpec:
    """One step.

    Args:
        entry: `module:function` for `python`, the program and its arguments for `argv`, `ToolWait`, `Confirmation`, or
            `CommandCall`.
        needs: ids of direct predecessors in code point order.
        arguments: what the step is given, by name; references not yet resolved.
        outputs: JSON Schema of the output, when declared.
        select: ids of the optional dependents among which the step's output chooses.
        join_any: the step goes on when at least one need was selected.
        timeout_us: how long the step may take over all attempts and waits, from when it is ready; None means for ever.
        endpoints: what it may reach outside, in code point order of their texts.
        secrets: what it calls each secret, and the reference by which its worker finds the value, in order of names.
        reproducible: it runs in reproducible mode.
        verified: it runs twice, and what comes out has to be the same.
    """

    id: StepId
    kind: Kind
    entry: str | tuple[str, ...] | ToolWait | Confirmation | CommandCall
    needs: tuple[StepId, ...] = ()
    arguments: Mapping[str, Template] = field(default_factory=dict)
    outputs: Mapping[str, Any] | None = None
    retry: Retry = Retry()
    resources: Resources = Resources()
    select: tuple[StepId, ...] = ()
    join_any: bool = False
    description: str | None = None
    timeout_us: int | None = None
    endpoints: tuple[Endpoint, ...] = ()
    secrets: tuple[tuple[str, str], ...] = ()
    reproducible: bool = False
    verified: bool = False


@dataclass(frozen=True, slots=True)
class DagSpec:
    """A DAG document that was found free of mistakes, defaults filled in.

    Args:
        inputs: JSON Schema (2020-12) of the run's inputs; an object.
        steps: in plan order.
        fail_fast: the first failed step cancels what has not started.
        failure_budget: failures reported by all steps together after which nothing is tried again; None means no bound.
        timeout_us: how long a run may take from its submission; None means for ever.
        code: paths below the DAG's directory that hold its code; None means all of it.
        epoch: SOURCE_DATE_EPOCH of every step: an instant in seconds, or the input it is taken from.
    """

    id: DagId
    inputs: Mapping[str, Any]
    steps: tuple[StepSpec, ...]
    description: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    fail_fast: bool = False
    code: tuple[str, ...] | None = None
    epoch: int | Reference = 315_532_800
    failure_budget: int | None = None
    timeout_us: int | None = None
