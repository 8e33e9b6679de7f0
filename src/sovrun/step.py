"""What the code of a step may use: its files, its secrets, its work directory, and a way to say "do not try again".

Owns: `path_of`, `keep_file`, `keep_tree`, `work_dir`, `secret`, `secret_bytes`, `DoNotRetry`, and the context in which they work.
Must not touch: anything but the standard library. It is imported inside the sandbox, by code that is not trusted.
"""

from __future__ import annotations

import os
import stat
from _collections_abc import Mapping  # `collections` itself costs the start of every step a millisecond
from contextvars import ContextVar, Token
from itertools import count

TYPE_CHECKING = False  # importing what follows would slow the start of every step
if TYPE_CHECKING:
    import hashlib
    from pathlib import Path
    from typing import Any, Final

MADE: Final = ".sovrun/made"
"""Where kept files lie below the work directory, each named by its digest."""

_CHUNK: Final = 1 << 20


class DoNotRetry(Exception):
    """Raised by a step to fail for good: the attempt is not repeated, whatever the retry policy says."""


class StepContext:
    """What one attempt of a step has: its input files, its secrets, and its work directory, made when first asked for."""

    __slots__ = ("files", "secrets", "work")

    def __init__(
        self,
        files: Mapping[Any, str | os.PathLike[str]],
        work: str | None = None,
        secrets: Mapping[str, bytes] | None = None,
    ) -> None:
        self.files = files
        self.work = work
        self.secrets = secrets or {}

    def work_dir(self) -> Path:
        """Return the attempt's own directory."""
        if self.work is None:
            from tempfile import mkdtemp  # noqa: PLC0415 -- most steps never ask, and it costs milliseconds

            self.work = mkdtemp(prefix="sovrun-step-")
        return _path(self.work)


_context: Final[ContextVar[StepContext | None]] = ContextVar("sovrun_step", default=None)
_process: list[StepContext] = []
_serial: Final = count()


def enter_process(context: StepContext) -> None:
    """Make `context` that of the whole process, threads included; for a process that runs one step only."""
    _process[:] = [context]


def enter(context: StepContext) -> Token[StepContext | None]:
    """Make `context` that of the code that runs from here on this thread, until `leave`."""
    return _context.set(context)


def leave(token: Token[StepContext | None]) -> None:
    """Undo the `enter` that gave `token`."""
    _context.reset(token)


def current() -> StepContext:
    """Return the context of the step that is running. Raises: RuntimeError outside a step."""
    context = _context.get()
    if context is not None:
        return context
    if _process:
        return _process[0]
    raise RuntimeError("sovrun.step works only while a step runs; call this from the step's function")


def work_dir() -> Path:
    """Return a writable directory that belongs to this attempt alone and is gone after it."""
    return current().work_dir()


def secret(name: str) -> str:
    """Return the value of a secret.

    It is taken out of what the step prints and of its errors; an output that holds it is refused.

    Args:
        name: what the step calls it, under `secrets` in the document.
    Raises: LookupError when the step declares none of that name, ValueError when it is no text (use `secret_bytes`).
    """
    value = secret_bytes(name)
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ValueError(f"the secret {name!r} is not UTF-8; use secret_bytes") from None


def secret_bytes(name: str) -> bytes:
    """Return the value of a secret, whatever its bytes are. Raises: LookupError, see `secret`."""
    found = current().secrets.get(name)
    if found is None:
        raise LookupError(f"the step declares no secret {name!r}; name it under `secrets` in the document")
    return found


def path_of(value: Any) -> Path:
    """Return where the file or directory of an argument lies, read-only.

    Args:
        value: `{"$file": sha256, "size": n}` or `{"$tree": sha256}`, as the step was given it.
    Raises: ValueError when `value` is of another form, LookupError when it is not among the step's arguments.
    """
    digest = value.get("$file", value.get("$tree")) if isinstance(value, Mapping) else None
    if not isinstance(digest, str) or len(digest) != 64 or digest.strip("0123456789abcdef"):
        raise ValueError(
            f"not a file or directory: {str(value)[:100]}; expected $file or $tree with a digest"
        )
    path = current().files.get(digest)
    if path is None:
        raise LookupError(f"the file {digest[:12]}... was not given to this step; pass it in `with`")
    return _path(path)


def keep_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Take a copy of a file as it is now, and return the value to return from the step.

    Returns: `{"$file": sha256, "size": bytes}`.
    Raises: ValueError when `path` is not a regular file (a link is not followed), OSError when it cannot be read.
    """
    digest, size = _keep(_path(path))
    return {"$file": digest, "size": size}


def keep_tree(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Take a copy of every regular file below a directory, and return the value to return from the step.

    Empty directories are not kept.
    Returns: `{"$tree": sha256}`, the digest of the list of its files.
    Raises: ValueError for anything that is neither a file nor a directory, and for names that are not UTF-8.
    """
    root = _path(path)
    entries: list[tuple[str, bool, str, int]] = []
    pending = [(root, "")]
    while pending:
        folder, prefix = pending.pop()
        with os.scandir(folder) as found:
            for entry in found:
                name = prefix + _text(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    pending.append((_path(entry.path), name + "/"))
                    continue
                executable = bool(entry.stat(follow_symlinks=False).st_mode & 0o100)
                entries.append((name, executable, *_keep(_path(entry.path))))
    manifest = tree_manifest(entries)
    digest = _hash(manifest).hexdigest()
    target = _made() / digest
    if not target.exists():
        target.write_bytes(manifest)
    return {"$tree": digest}


def tree_manifest(entries: list[tuple[str, bool, str, int]]) -> bytes:
    """Return the canonical list of a directory's files; its SHA-256 names the directory.

    Args:
        entries: of each file the relative path with `/`, whether its owner may execute it, its SHA-256, its size in
            bytes.
    """
    import json  # noqa: PLC0415 -- see TYPE_CHECKING

    listing = {"files": [list(entry) for entry in sorted(entries)], "kind": "sovrun.tree", "version": 1}
    return json.dumps(listing, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _path(path: str | os.PathLike[str]) -> Path:
    from pathlib import Path  # noqa: PLC0415 -- see TYPE_CHECKING

    return Path(path)


def _hash(data: bytes = b"") -> hashlib._Hash:
    import hashlib  # noqa: PLC0415 -- see TYPE_CHECKING

    return hashlib.sha256(data)


def _made() -> Path:
    made = current().work_dir() / MADE
    made.mkdir(parents=True, exist_ok=True)
    return made


def _text(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the file name {name!r} is not UTF-8") from None
    return name


def _keep(path: Path) -> tuple[str, int]:
    """Copy and hash in one pass, so that the digest is that of the copy."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError(f"{path.name!r} is not a regular file: links, pipes and devices cannot be kept")
    made = _made()
    part = made / f"part-{os.getpid()}-{next(_serial)}"
    hashed, size = _hash(), 0
    try:
        with path.open("rb") as source, part.open("xb") as copy:
            while chunk := source.read(_CHUNK):
                hashed.update(chunk)
                copy.write(chunk)
                size += len(chunk)
        part.rename(made / hashed.hexdigest())
    except BaseException:
        try:  # noqa: SIM105 -- contextlib is not worth its import here
            part.unlink()
        except OSError:
            pass
        raise
    return hashed.hexdigest(), size
