"""Host user ids for steps, each held by one sandbox of the whole machine.

Owns: `HostUsers`: a lock for each id that is taken, which every supervisor of this machine asks for; and what speaks against
a range of ids.
Standard library only: the supervisor uses it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

_LOCK: Final = struct.Struct("hhqqi0q")
"""`struct flock`: kind, whence, start, length, process (0)."""

_ACCOUNTS: Final = ("/etc/passwd", "/etc/group")
_DELEGATED: Final = ("/etc/subuid", "/etc/subgid")


class NoUser(OSError):
    """No host user id can be given to a step."""


class HostUsers:
    """The ids that the steps of one supervisor have.

    The locks belong to an open file, which a guard that was forked afterwards has, too: an id is free again when it was
    given back, or when both have gone.

    Args:
        ids: the range to choose from.
        folder: where the locks lie, for root alone; made when missing.
    Raises: NoUser where they cannot lie there.
    """

    def __init__(self, ids: range, folder: Path) -> None:
        self._ids = ids
        self._taken: set[int] = set()
        try:
            self._locks = _locks_in(folder)
        except OSError as error:
            raise NoUser(
                f"no host user id can be reserved for a step: {error.filename or folder}: {error.strerror or error}. "
                "Set SOVRUN_UIDS_FOLDER to a directory that only root may write"
            ) from None

    def take(self) -> int:
        """Return an id that nobody has. Raises: NoUser."""
        for uid in self._ids:
            if uid not in self._taken and self._set(uid, fcntl.F_WRLCK):
                self._taken.add(uid)
                return uid
        raise NoUser(
            f"all {len(self._ids)} host user ids for steps are taken. Set SOVRUN_UIDS to a larger range, or let fewer "
            "steps run at once"
        )

    def give(self, uid: int) -> None:
        """Give an id back; nothing that had it lives."""
        if uid in self._taken:
            self._taken.discard(uid)
            self._set(uid, fcntl.F_UNLCK)

    def close(self) -> None:
        """Give all of them back."""
        os.close(self._locks)

    def _set(self, uid: int, kind: int) -> bool:
        try:
            fcntl.fcntl(self._locks, fcntl.F_OFD_SETLK, _LOCK.pack(kind, os.SEEK_SET, uid, 1, 0))
        except (BlockingIOError, PermissionError):  # another's
            return False
        return True


def _locks_in(folder: Path) -> int:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise OSError(errno.EPERM, "others can change it", str(folder))
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(folder / "held", flags, 0o600)


# --- what speaks against a range --------------------------------------------------------------------------------------


def is_mapped(ids: range, uid_map: str) -> bool:
    """Return whether all ids exist here.

    Args:
        uid_map: text of `/proc/self/uid_map` or `gid_map`.
    """
    rows = sorted(tuple(map(int, line.split())) for line in uid_map.splitlines())
    reached = ids.start
    for inside, _, count in rows:
        if inside <= reached < inside + count:
            reached = inside + count
    return reached >= ids.stop


def owners_within(ids: range, etc: Path = Path("/etc")) -> list[str]:
    """Return whom ids of a range belong to: accounts and groups of this machine, and ids that are handed to accounts."""
    found = []
    for path in _ACCOUNTS:
        for name, _, number, *_ in _rows(etc / Path(path).name, 3):
            if number.isdigit() and int(number) in ids:
                found.append(f"{name} ({path})")
    for path in _DELEGATED:
        for name, first, count, *_ in _rows(etc / Path(path).name, 3):
            if (
                first.isdigit()
                and count.isdigit()
                and int(first) < ids.stop
                and ids.start < int(first) + int(count)
            ):
                found.append(f"{name} ({path})")
    return found


def _rows(path: Path, fields: int) -> Iterable[list[str]]:
    with suppress(OSError):
        for line in path.read_text(errors="replace").splitlines():
            row = line.split(":")
            if len(row) >= fields:
                yield row
