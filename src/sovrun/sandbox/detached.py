"""Mounts that belong to nowhere yet, so that a sandbox which already runs can be given directories and files.

Owns: `detached`: read-only copies of mounts as descriptors, which whoever receives them attaches.
Must not touch: the mounts of the host. Root copies where it is; an ordinary user may do so only in a user namespace of
its own, which a child enters for the purpose.
Source: Linux kernel, open_tree(2), mount_setattr(2), from version 5.12 on.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Sequence
from typing import Final, NoReturn

from sovrun.sandbox import launch

FILES_MAX: Final = 200
"""How many can be handed over at once; the kernel's own limit is 253 descriptors a message."""

_OPEN_TREE: Final = 428
_MOUNT_SETATTR: Final = 442
_CLONE: Final = 1
_RECURSIVE: Final = 0x8000
_EMPTY_PATH: Final = 0x1000
_AT_FDCWD: Final = -100
_READ_ONLY_NO_SUID_NO_DEV: Final = 7
_MS_PRIVATE: Final = 1 << 18
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNS: Final = 0x00020000
_CHUNK: Final = 1 << 12
_libc: Final = ctypes.CDLL(None, use_errno=True)


def detached(paths: Sequence[str]) -> list[int]:
    """Return a descriptor of a read-only mount for each path. Raises: OSError naming the path, or `private mounts`."""
    if not paths:
        return []
    if os.getuid() == 0:
        return _copied(paths, 0)
    ours, theirs = socket.socketpair()
    with ours:
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            _copy_for(theirs, parent, paths)
        theirs.close()
        said, descriptors, _, _ = socket.recv_fds(ours, _CHUNK, len(paths))
        os.waitpid(child, 0)
    if len(descriptors) != len(paths):
        raise OSError(said.decode(errors="replace") or "private mounts: nobody made them")
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)  # noqa: FBT003 -- it takes no keyword
    return descriptors


def _copied(paths: Sequence[str], recursive: int) -> list[int]:
    made: list[int] = []
    try:
        made.extend(_copy(path, recursive) for path in paths)
    except OSError:
        for descriptor in made:
            os.close(descriptor)
        raise
    return made


def _copy(path: str, recursive: int) -> int:
    flags = _CLONE | os.O_CLOEXEC | recursive
    descriptor = int(_libc.syscall(_OPEN_TREE, _AT_FDCWD, path.encode(), flags))
    if descriptor < 0:
        raise _refused(path)
    words = (_READ_ONLY_NO_SUID_NO_DEV, 0, _MS_PRIVATE, 0)
    attributes = b"".join(word.to_bytes(8, "little") for word in words)
    flags = _EMPTY_PATH | recursive
    if _libc.syscall(_MOUNT_SETATTR, descriptor, b"", flags, attributes, len(attributes)) != 0:
        os.close(descriptor)
        raise _refused(path)
    return descriptor


def _refused(path: str) -> OSError:
    return OSError(f"private mounts: {path}: {os.strerror(ctypes.get_errno())}")


def _copy_for(link: socket.socket, parent: int, paths: Sequence[str]) -> NoReturn:
    try:
        launch.die_with(parent)
        uid, gid = os.getuid(), os.getgid()
        _leave_user_namespace(uid, gid)
        descriptors = _copied(paths, _RECURSIVE)  # what lies below a mount may be locked to it
        socket.send_fds(link, [b"."], descriptors)
    except BaseException as error:  # noqa: BLE001 -- a forked child must never return
        link.send(str(error).encode()[:_CHUNK])
    finally:
        os._exit(0)


def _leave_user_namespace(uid: int, gid: int) -> None:
    """Enter new namespaces of users and mounts, and be there who one was outside. Raises: OSError."""
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS) != 0:
        raise OSError(f"Creating new namespace failed: {os.strerror(ctypes.get_errno())}")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
