"""The ports through which time, randomness, identity and execution reach the engine, and their value types.

Owns: `Clock`, `Identity`, `Executor` and what passes through them. A new capability of the outside world is a new port.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sovrun.core.ids import Digest, RunId, StepId, Tenant
from sovrun.core.network import Connection, Endpoint
from sovrun.core.spec.model import Kind, Resources
from sovrun.core.walls import Walls


class Clock(Protocol):
    """Time."""

    def now_us(self) -> int:
        """Return the instant: whole microseconds since the Unix epoch. It may jump when the clock is set."""

    def elapsed_us(self) -> int:
        """Return whole microseconds since some fixed instant; it never jumps."""


class Identity(Protocol):
    """Names that never repeat."""

    def fresh(self) -> str:
        """Return a new UUIDv7 in its usual text form."""


@dataclass(frozen=True, slots=True)
class Task:
    """One attempt of a `python` or `argv` step, ready to run.

    Args:
        attempt: from 1.
        entry: `module:function`, or the program (a path below `code`, or an absolute one) and its arguments.
        arguments: canonical JSON object: the resolved arguments by name.
        code: directory that holds the DAG's code, read-only; None when the DAG has none.
        files: of each `$file` and `$tree` digest within `arguments`, where it lies on this machine.
        code_digest: of what lies in `code`, so that what was imported from it before is not taken for it.
        resources: limits; an executor that cannot enforce one says so in `Executor.limits`.
        epoch: SOURCE_DATE_EPOCH, in seconds.
        log: path of the file to which what the step prints is appended as it comes; None means nowhere.
        endpoints: what the step declares to reach outside.
        secrets: what the step calls each of its secrets, and its reference; `secret_values` by the same names, once
            somebody has looked them up.
        reproducible: run it in reproducible mode.
        verified: run it twice and compare.
    """

    tenant: Tenant
    run: RunId
    step: StepId
    attempt: int
    kind: Kind
    entry: str | tuple[str, ...]
    arguments: bytes
    resources: Resources
    epoch: int
    code: Path | None = None
    files: Mapping[Digest, Path] = field(default_factory=dict)
    code_digest: Digest | None = None
    log: str | None = None
    endpoints: tuple[Endpoint, ...] = ()
    secrets: tuple[tuple[str, str], ...] = ()
    reproducible: bool = False
    verified: bool = False
    secret_values: Mapping[str, bytes] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Usage:
    """What an attempt used: processor and wall time, and the largest resident size when known (else 0)."""

    cpu_us: int = 0
    wall_us: int = 0
    memory: int = 0


@dataclass(frozen=True, slots=True)
class MadeFile:
    """A file that a step returned, taken out of its work directory: verified digest, size, and where it lies for now.

    The receiver moves or deletes it.
    """

    digest: Digest
    size: int
    path: Path


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The step returned.

    Args:
        output: the returned value as the step's process wrote it: JSON text, not yet checked.
        made: the files that `output` names by `{"$file": ...}` and that were not among the inputs.
        log: what the step printed, standard output and standard error as they came, capped.
        connections: what it had to do with the outside, as far as the executor sees it.
        walls: what it ran behind, None when it did not run in a sandbox.
    """

    output: bytes
    made: tuple[MadeFile, ...] = ()
    log: bytes = b""
    usage: Usage = Usage()
    connections: tuple[Connection, ...] = ()
    walls: Walls | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed.

    Args:
        reason: stable public code, see `docs/reference/errors.md`.
        message: one line for a person.
        error: name of the exception's class when the step raised.
        traceback: of the step's own code, when it raised.
        lineage: names of the exception's class and of its base classes, most derived first, for `retryOn`.
        circumstance: it belongs to the machine or to a limit, not to the work.
        retryable: another attempt may end otherwise.
    """

    reason: str
    message: str
    error: str | None = None
    traceback: str | None = None
    circumstance: bool = False
    retryable: bool = True
    log: bytes = b""
    usage: Usage = Usage()
    lineage: tuple[str, ...] = ()
    connections: tuple[Connection, ...] = ()
    walls: Walls | None = None


class Executor(Protocol):
    """Runs one attempt of a step. The only way in which the code of a step is ever reached."""

    isolation: str
    """`sandbox` or `in-process`: recorded in every run."""

    inline: bool
    """Whether `execute` never waits, so that a worker may simply call it in turn."""

    environment: Digest
    """Interpreter version, platform tag and installed distributions with their hashes, as one digest."""

    def execute(self, task: Task) -> Awaitable[Succeeded | Failed]:
        """Run the attempt to its end and return how it ended.

        Cancelling the call ends the attempt with all its processes: a step that runs is told to end and has its grace
        time for that, as far as the executor can tell it; cancelling again kills it at once. Everything that goes wrong
        with the step or with its isolation is a `Failed`; only a bug raises.
        """

    async def close(self) -> None:
        """Kill what still runs and release what is held."""


@dataclass(frozen=True, slots=True)
class Code:
    """A DAG's code: its digest, and a directory that holds exactly it and never changes; None when there is none."""

    digest: Digest
    path: Path | None


class Files(Protocol):
    """File contents: code, input files and directories, large payloads. All but code belong to one tenant.

    Every method may block on a disk; all raise StoreUnavailable when it refuses.
    """

    def take_in(self, tenant: Tenant, path: Path) -> dict[str, object]:
        """Return a file as `{"$file": sha256, "size": n}`, or a directory as `{"$tree": sha256}`, kept for steps.

        A file is copied. A directory is hashed and read in place; when it changes later, steps are refused.
        Raises: FileUnavailable, PayloadTooLarge.
        """

    def put(self, tenant: Tenant, digest: Digest, body: bytes) -> None:
        """Keep a large payload, durably."""

    def adopt(self, tenant: Tenant, made: MadeFile) -> None:
        """Keep a file that a step made, durably; `made.path` is gone afterwards."""

    def get(self, tenant: Tenant, digest: Digest) -> bytes | None:
        """Return a kept payload or file, None when there is none."""

    def locate(self, tenant: Tenant, digest: Digest) -> Path:
        """Return where a file or directory may be read. Raises: FileUnavailable when it is gone or has changed."""

    def log(self, tenant: Tenant, run: RunId, step: StepId, attempt: int) -> str:
        """Return the path of the file to which what an attempt prints is appended; it may not be there yet."""

    def take_code(self, root: Path, include: tuple[str, ...] | None, document: Path | None) -> Code:
        """Return the code below a DAG's directory, kept as it is now.

        Args:
            include: paths below `root`; None means all of it.
            document: the DAG's own file, which is not code.
        Raises: CodeUnavailable.
        """

    def code(self, digest: Digest) -> Code:
        """Return code that was taken before. Raises: CodeUnavailable when it is gone or has changed."""
