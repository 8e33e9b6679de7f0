"""The walls that a process inside a sandbox puts up around itself, and its proof that all the others stand.

Owns: `seal`: limits, then the attestation of what was made from outside, then Landlock and its own attestation.
Must not touch: anything of the step. Standard library only: this is imported inside the sandbox, before the step's
first module can be.
"""

# ruff: noqa: PTH108, PTH208 -- pathlib costs the start of every step 8 ms
from __future__ import annotations

import os
import resource

from sovrun.sandbox import landlock
from sovrun.sandbox.syscalls import call

TYPE_CHECKING = False  # importing what follows would slow the start of every step
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

CONTROL: Final = 3
"""Descriptor of the socket to the supervisor; with 0, 1 and 2 the only one that is open."""

ADDRESSES_FIXED: Final = 0x0040000
"""What `/proc/self/personality` says of a process without randomisation of its address space."""

WRITABLE: Final = ("/work", "/tmp", "/dev/shm")  # noqa: S108 -- inside
DEVICES: Final = (
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/pts",
)

_LIMITS: Final = {
    "memory": resource.RLIMIT_AS,
    "data": resource.RLIMIT_DATA,
    "processes": resource.RLIMIT_NPROC,
    "open_files": resource.RLIMIT_NOFILE,
    "disk": resource.RLIMIT_FSIZE,
    "core": resource.RLIMIT_CORE,
}
_AF_VSOCK: Final = 40
_SESSION_KEYRING: Final = -3
_GET_KEYRING_ID: Final = 0


def seal(setup: Mapping[str, Any]) -> list[str]:
    """Seal this process and its children for good; return everything that is not as it must be.

    Args:
        setup: `limits`; `read_only`, the directories in which nothing may be created; `keyctl` and `socket`, the numbers of
            these system calls; `landlock`, the kernel's version of it as the host sees it.
    """
    problems = set_limits(setup["limits"]) + attest(setup)
    try:
        used = landlock.restrict(WRITABLE, [path for path in DEVICES if os.path.exists(path)])  # noqa: PTH110
    except OSError as error:
        return [*problems, str(error)]
    if used != setup["landlock"]:
        problems.append(f"Landlock is of version {used} here and {setup['landlock']} outside")
    if used and is_writable("/proc/self/comm"):  # no other wall forbids it
        problems.append("Landlock does not hold")
    return problems


def set_limits(limits: Mapping[str, int]) -> list[str]:
    """Set the limits of this process and its children; return what did not hold."""
    problems = []
    wanted = {_LIMITS[name]: (value, value) for name, value in limits.items() if name in _LIMITS}
    # One second later the kernel ends a process that ignores SIGXCPU.
    wanted[resource.RLIMIT_CPU] = (limits["cpu_seconds"], limits["cpu_seconds"] + 1)
    for kind, (soft, hard) in wanted.items():
        try:
            resource.setrlimit(kind, (soft, hard))
        except (OSError, ValueError) as error:
            problems.append(f"limit {kind} cannot be set to {soft}: {error}")
            continue
        if resource.getrlimit(kind) != (soft, hard):
            problems.append(f"limit {kind} reads back as {resource.getrlimit(kind)}, not {soft}")
    return problems


def attest(setup: Mapping[str, Any]) -> list[str]:
    """Return everything about this sandbox that is not as whoever made it should have left it."""
    problems = status_problems(_read("/proc/self/status")) + interface_problems(_read("/proc/net/dev"))
    problems += [f"{path} can be written" for path in setup["read_only"] if can_create_in(path)]
    problems += filter_problems(setup["keyctl"], setup["socket"])
    if setup["reproducible"] and int(_read("/proc/self/personality"), 16) != ADDRESSES_FIXED:
        problems.append("addresses are not fixed")
    # The listing itself holds one descriptor, the lowest that is free.
    descriptors = sorted(map(int, os.listdir("/proc/self/fd")))
    if descriptors != [0, 1, 2, CONTROL, CONTROL + 1]:
        problems.append(f"open descriptors {descriptors}")
    if os.getsid(0) == 0:
        problems.append("the session is that of the launcher")
    return problems


def status_problems(text: str) -> list[str]:
    """Return what `/proc/self/status` says about this process that must not be."""
    status = dict(line.split(":", 1) for line in text.splitlines())
    problems = [
        f"{name} is {status[name].strip()}"
        for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")
        if int(status[name], 16)
    ]
    if status["NoNewPrivs"].strip() != "1":
        problems.append("no_new_privs is not set")
    if status["Seccomp"].strip() != "2":
        problems.append("no filter of system calls is loaded")
    if "0" in status["Uid"].split():
        problems.append("the user inside is root")
    return problems


def filter_problems(keyctl: int, socket: int) -> list[str]:
    """Return which of two calls that pass through every namespace the filter does not deny.

    Args:
        keyctl, socket: numbers of these system calls on this architecture.
    """
    problems = []
    made = call(socket, _AF_VSOCK, 1, 0)
    if made >= 0:
        os.close(made)
        problems.append("sockets to the machine's host are not denied")
    if call(keyctl, _GET_KEYRING_ID, _SESSION_KEYRING, 0) >= 0:
        problems.append("the keyring is not denied")
    return problems


def interface_problems(text: str) -> list[str]:
    """Return the network interfaces in `/proc/net/dev` beside the loopback."""
    names = [line.split(":")[0].strip() for line in text.splitlines()[2:]]
    return [f"there is the network interface {name}" for name in names if name != "lo"]


def can_create_in(folder: str) -> bool:
    """Return whether a file can be made in a directory."""
    path = f"{folder}/.sovrun-attest"
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError:
        return False
    os.unlink(path)
    return True


def is_writable(path: str) -> bool:
    """Return whether an existing file can be opened for writing."""
    try:
        os.close(os.open(path, os.O_WRONLY))
    except OSError:
        return False
    return True


def _read(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 1 << 16).decode()
    finally:
        os.close(descriptor)
