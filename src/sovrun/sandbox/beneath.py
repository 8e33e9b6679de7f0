"""Opening what lies below a directory, whatever its names and links were made to look like.

Owns: `open_beneath`, the system call openat2.
Standard library only. Source: openat2(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Final

_OPENAT2: Final = 437
"""Number of the system call, the same on every architecture."""

NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH = 1, 2, 4, 8
_RESOLVE: Final = NO_XDEV | NO_MAGICLINKS | NO_SYMLINKS | BENEATH
_TRIES: Final = 100
_libc: Final = ctypes.CDLL(None, use_errno=True)


def open_beneath(directory: int, path: str, flags: int) -> int:
    """Return a descriptor of `path`, which never leads out of `directory`, through a link or to another file system.

    A kernel older than 5.6, or a container that forbids the call, gets each name opened by itself and never through a
    link; then a mount below the directory is followed.

    Raises: OSError: ELOOP at a link, EXDEV at another file system or above the directory.
    """
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0, _RESOLVE)
    for _ in range(_TRIES):
        found: int = _libc.syscall(_OPENAT2, directory, os.fsencode(path), how, ctypes.c_size_t(len(how)))
        if found >= 0:
            return found
        error = ctypes.get_errno()
        if error in (errno.ENOSYS, errno.EPERM):
            return _name_by_name(directory, path, flags)
        if error != errno.EAGAIN:  # something was renamed meanwhile: ask again
            break
    raise OSError(error, os.strerror(error), path)


def _name_by_name(directory: int, path: str, flags: int) -> int:
    *folders, last = path.split("/")
    if "" in folders or ".." in (*folders, last):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    descriptor = os.dup(directory)
    for name in folders:
        try:
            below = os.open(
                name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor
            )
        finally:
            os.close(descriptor)
        descriptor = below
    try:
        return os.open(last, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
    finally:
        os.close(descriptor)
