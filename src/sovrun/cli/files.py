"""Writing the files that a user names: each appears whole or not at all.

Owns: `written`, `require_directory`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from sovrun.core.errors import FileUnavailable


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes its name when it is whole; until then, what had the name stays.

    Raises: FileUnavailable.
    """
    try:
        if (
            path.exists() and not path.is_file() and not path.is_dir()
        ):  # a pipe, a device: nothing to put in its place
            with path.open("wb") as file:
                yield file
            return
        place = path.resolve()  # behind a symbolic link
        made, name = tempfile.mkstemp(prefix=f".{place.name[:64]}.", dir=place.parent)
        try:
            with os.fdopen(made, "wb") as file:
                yield file
                file.flush()
                os.fchmod(made, _mode(place))
                os.fsync(made)
            Path(name).replace(place)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise FileUnavailable(
            f"{path}: {error.strerror or error}", hint="name a file in a directory that you may write to"
        ) from error


def _mode(place: Path) -> int:
    """Return the permissions of the file that is replaced, or those that a new one has here."""
    if place.is_file():
        return place.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def require_directory(path: Path) -> None:
    """Make a directory if it is missing, and see that files can be made in it. Raises: FileUnavailable."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise FileUnavailable(
            f"{path}: {error.strerror or error}", hint="name a directory that you may write to"
        ) from error
