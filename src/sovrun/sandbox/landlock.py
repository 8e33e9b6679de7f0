"""Landlock: a second wall around files, and one around abstract sockets and signals, put up by the process itself.

Owns: the rights, the rules, the three system calls.
Standard library only: this is imported inside the sandbox, and by the probe.
Source: Linux kernel, Documentation/userspace-api/landlock.rst; `linux/landlock.h`.
"""

from __future__ import annotations

import os

from sovrun.sandbox.syscalls import call

TYPE_CHECKING = False  # importing what follows would slow the start of every step
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

CREATE_RULESET: Final = 444
ADD_RULE: Final = 445
RESTRICT_SELF: Final = 446
"""Numbers of the system calls, the same on every architecture."""

_VERSION: Final = 1
_PATH_BENEATH: Final = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_REMOVE, _MAKE_PLAIN = 0x30, 0x1780  # whatever can be made, but devices
_REFER, _TRUNCATE, _IOCTL_DEVICE = 1 << 13, 1 << 14, 1 << 15
_HANDLED: Final = (0x1FFF, 0x3FFF, 0x7FFF, 0x7FFF)
"""What the first four versions know of files; from the fifth on, `_IOCTL_DEVICE` too."""

_READ: Final = _EXECUTE | _READ_FILE | _READ_DIR
_WRITE: Final = _WRITE_FILE | _REMOVE | _MAKE_PLAIN | _REFER | _TRUNCATE
_DEVICE: Final = _READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL_DEVICE
_SCOPED: Final = 3
"""Abstract sockets and signals, from version 6 on."""


def version() -> int:
    """Return the kernel's version of Landlock, 0 when it has none. The call is asked: /sys need not be mounted."""
    return max(0, call(CREATE_RULESET, None, 0, _VERSION))


def restrict(writable: Sequence[str], devices: Sequence[str]) -> int:
    """Make everything read-only for this process and its children for good, except what is named.

    Args:
        writable: directories below which files may be changed, made and removed.
        devices: files that may be written to.
    Returns: the version that was used, 0 when the kernel has none and nothing is restricted.
    Raises: OSError when the kernel has Landlock and refuses.
    """
    known = version()
    if known == 0:
        return 0
    handled = _HANDLED[min(known, 4) - 1] | (_IOCTL_DEVICE if known >= 5 else 0)
    words = [handled, *([0] if known >= 4 else []), *([_SCOPED] if known >= 6 else [])]
    attributes = b"".join(word.to_bytes(8, "little") for word in words)
    ruleset = _required("a set of rules", CREATE_RULESET, attributes, len(attributes), 0)
    try:
        _allow(ruleset, "/", _READ & handled)
        for path in writable:
            _allow(ruleset, path, (_READ | _WRITE) & handled)
        for path in devices:
            _allow(ruleset, path, _DEVICE & handled)
        _required("the restriction", RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return known


def _allow(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = rights.to_bytes(8, "little") + descriptor.to_bytes(4, "little")
        _required(f"the rule for {path}", ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)


def _required(what: str, number: int, *arguments: int | bytes) -> int:
    result = call(number, *arguments)
    if result < 0:
        raise OSError(f"Landlock refuses {what}")
    return result
