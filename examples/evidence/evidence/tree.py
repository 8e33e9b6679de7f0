"""The files of an environment, read without ever leaving it.

Owns: listing, reading and hashing files below one root, and the text form of their names. Links are listed but never
followed, so that nothing outside the root is ever opened.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CACHE_FOLDER = "__pycache__"
CACHE_SUFFIXES = (".pyc", ".pyo")


@dataclass(frozen=True, slots=True)
class Entry:
    """What lies at one path: its size in bytes, and whether it is a regular file rather than a link or device."""

    size: int
    regular: bool


@dataclass(frozen=True, slots=True)
class Tree:
    """The entries below `root` by their path from it, with `/` between the parts, in the order of the paths."""

    root: Path
    entries: dict[str, Entry]

    def read(self, path: str) -> bytes | None:
        """Return the bytes of a regular file, None when there is none at `path`."""
        entry = self.entries.get(path)
        return (self.root / path).read_bytes() if entry is not None and entry.regular else None

    def digest(self, path: str, algorithm: str) -> str:
        """Return the hex digest of the regular file at `path`."""
        with (self.root / path).open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()


def tree_of(root: Path) -> Tree:
    """List everything below `root` but directories and bytecode caches."""
    return Tree(root, dict(sorted(_entries(root, ""))))


def _entries(root: Path, below: str) -> Iterator[tuple[str, Entry]]:
    folders = [below]
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as found:
            for item in found:
                path = f"{folder}{item.name}"
                if item.is_dir(follow_symlinks=False):
                    if item.name != CACHE_FOLDER:
                        folders.append(f"{path}/")
                elif not item.name.endswith(CACHE_SUFFIXES):
                    regular = item.is_file(follow_symlinks=False)
                    yield path, Entry(item.stat(follow_symlinks=False).st_size, regular)


def is_cache(path: str) -> bool:
    """Say whether a path names a bytecode cache, which is made again at will and is no part of the evidence."""
    return path.endswith(CACHE_SUFFIXES) or CACHE_FOLDER in path.split("/")


def shown(text: str) -> str:
    r"""Return a file's name for JSON and people: bytes that are not UTF-8 as `\xNN`, a backslash doubled.

    Two names never look the same.
    """
    return text.replace("\\", "\\\\").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def clean(text: str) -> str:
    """Return free text with the code points that UTF-8 cannot hold written out."""
    return text.encode("utf-8", "backslashreplace").decode()
