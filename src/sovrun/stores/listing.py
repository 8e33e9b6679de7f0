"""What is below a directory: a walk that leaves out caches and Sovrun's own files, with bounds.

Owns: the rule of what counts as code and as part of a directory value.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Final

from sovrun.core.ids import Digest

CACHES: Final = frozenset({
    "__pycache__", ".git", ".hg", ".svn", ".venv", ".tox", ".nox", ".mypy_cache", ".pytest_cache", ".ruff_cache",
    ".hypothesis", ".import_linter_cache", "node_modules", ".sovrun",
})  # fmt: skip
CACHE_SUFFIXES: Final = (".pyc", ".pyo")
STORE_MARK: Final = ".sovrun-files"
"""A file of this name marks a directory as one of Sovrun's own."""

_DOCUMENT_SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
_DOCUMENT_MARK: Final = b"sovrun/v1"
_STORE_SUFFIXES: Final = ("-wal", "-shm", "-journal", ".lock")
_SQLITE_HEADER: Final = b"SQLite format 3\x00"


class UnusableTree(Exception):
    """The directory cannot be a value; the message says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file below a directory.

    Args:
        path: relative, with `/`.
        mtime_ns: when it was last changed, for noticing a later change without hashing.
        link: target when it is a symbolic link, else None.
    """

    path: str
    executable: bool
    size: int
    mtime_ns: int
    link: str | None = None


def entries(root: Path, *, files_max: int, bytes_max: int) -> list[Entry]:
    """Return the files below `root` in path order, caches left out.

    Raises: UnusableTree when a bound is passed, a name is not UTF-8, or something is neither file, link nor directory;
        OSError when it cannot be read.
    """
    found: list[Entry] = []
    size = 0
    for entry in _walk(root, ""):
        found.append(entry)
        size += entry.size
        if len(found) > files_max:
            raise UnusableTree(f"it holds more than {files_max:,} files")
        if size > bytes_max:
            raise UnusableTree(f"it holds more than {bytes_max >> 20:,} MiB")
    found.sort(key=lambda entry: entry.path)
    return found


def _walk(directory: Path, prefix: str) -> Iterator[Entry]:
    with os.scandir(directory) as listing:
        children = sorted(listing, key=lambda child: child.name)
    names = {child.name for child in children}
    if STORE_MARK in names:
        return
    for child in children:
        path = prefix + child.name
        if child.name in CACHES or child.name.endswith(CACHE_SUFFIXES):
            continue
        try:
            path.encode()
        except UnicodeEncodeError:
            raise UnusableTree(f"the name {path!r} is not UTF-8") from None
        status = child.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(Path(child.path), path + "/")
        elif stat.S_ISLNK(status.st_mode):
            target = str(Path(child.path).readlink())
            yield Entry(path, executable=False, size=0, mtime_ns=status.st_mtime_ns, link=target)
        elif stat.S_ISREG(status.st_mode):
            executable = bool(status.st_mode & 0o100)
            yield Entry(path, executable, status.st_size, status.st_mtime_ns)
        elif not stat.S_ISSOCK(status.st_mode):  # a socket, such as a server's own, holds nothing
            raise UnusableTree(f"{path} is neither a file nor a directory")


def hashes(root: Path, listing: list[Entry]) -> list[Digest]:
    """Return the SHA-256 of each file, of a link that of its target's text. Raises: OSError."""

    def one(entry: Entry) -> Digest:
        if entry.link is not None:
            return Digest(sha256(b"link\x00" + os.fsencode(entry.link)).hexdigest())
        with (root / entry.path).open("rb") as file:
            return Digest(file_digest(file, "sha256").hexdigest())

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # hashing lets go of the interpreter lock
        return list(pool.map(one, listing, chunksize=64))


def is_document(path: Path) -> bool:
    """Return whether a file is a DAG document, which its own digest covers, so it is not code."""
    return path.suffix.lower() in _DOCUMENT_SUFFIXES and _DOCUMENT_MARK in path.read_bytes()


def own_files(listing: list[Entry], root: Path) -> set[str]:
    """Return the paths of Sovrun's own stores among a listing: their files change with every run."""
    stores = [entry.path for entry in listing if entry.size >= 100 and _is_store(root / entry.path)]
    return {path + suffix for path in stores for suffix in ("", *_STORE_SUFFIXES)}


def _is_store(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(72)
    return head.startswith(_SQLITE_HEADER) and head[68:72] == b"SOVR"
