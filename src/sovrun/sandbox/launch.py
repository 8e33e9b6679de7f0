"""From a running supervisor to bubblewrap's exec: mounts that the step's user can reach, the user id, the command.

Owns: the order of these steps and bubblewrap's arguments. Everything here runs in a forked child of the supervisor, which
has one thread, or builds what that child needs.
Must not touch: host user id 0. A sandbox that root starts is none: the kernel asks the host's user id for sysctl.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from sovrun.sandbox.exchange import (
    CODE,
    INPUTS,
    LIBRARY,
    WORK,
    fixed_environment,
    reproducible_environment,
)

INFO: Final = 4
ARGUMENTS: Final = 5
FILTER: Final = 6
HOSTS: Final = 7
"""Descriptors of bubblewrap: where it says which process is the sandbox's first, and what it reads its options, the filter
of system calls and, for a step with a network, `/etc/hosts` from."""

EXIT_NOT_LAUNCHED: Final = 77
SHARED_MEMORY_MAX: Final = 64 << 20
OWN_FILES: Final = 16
"""Files and directories of ours in a place that the step may fill: its root, and where files are handed over."""
STAGE: Final = "/mnt" if Path("/mnt").is_dir() else "/tmp"  # noqa: S108 -- covered by a mount of our own before use

CALLS: Final[Mapping[str, Mapping[str, int]]] = {
    "x86_64": {"keyctl": 250, "socket": 41},
    "aarch64": {"keyctl": 219, "socket": 198},
}
"""Numbers of system calls by architecture, as `uname` names it."""

_JOIN_SESSION_KEYRING: Final = 1
_ADDR_NO_RANDOMIZE: Final = 0x0040000
_CLONE_NEWNS: Final = 0x00020000
_MS_NOSUID_NODEV: Final = 2 | 4
_MS_BIND: Final = 4096
_MS_REC_PRIVATE: Final = 16384 | 1 << 18
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_libc: Final = ctypes.CDLL(None, use_errno=True)


class NotLaunched(OSError):
    """The kernel refused a step on the way to bubblewrap."""


def _require(result: int, what: str) -> None:
    if result != 0:
        raise NotLaunched(f"{what}: {os.strerror(ctypes.get_errno())}")


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies. Raises: NotLaunched when `parent` is gone already."""
    _require(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "parent death signal")
    if os.getppid() != parent:
        raise NotLaunched("the parent has gone")


def adopt_orphans() -> None:
    """Become the parent of processes whose own parent below this one has died."""
    _require(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "child subreaper")


def staged(position: int) -> str:
    """Return where the source number `position` lies once it is staged."""
    return f"{STAGE}/{position}"


@dataclass(frozen=True, slots=True)
class Room:
    """A place that may be written.

    Args:
        inside: its path in the sandbox.
        size: bytes.
        files: how many files and directories.
        mode: its permissions, in octal digits.
    """

    inside: str
    size: int
    files: int
    mode: str


def stage(sources: Sequence[str], rooms: Sequence[Room], uid: int) -> None:
    """Show `sources` at `staged(0)`, `staged(1)`, ... to whoever this process becomes, in mounts of its own.

    The rooms follow them, owned by `uid`. bubblewrap could make them, but cannot limit their number of files.

    A source may lie below a directory that only root may enter. It is opened first, for the stage may cover it.
    """
    _require(_libc.unshare(_CLONE_NEWNS), "private mounts")
    _mount(None, "/", None, _MS_REC_PRIVATE, None)
    descriptors = [os.open(source, os.O_PATH | os.O_CLOEXEC) for source in sources]
    _mount("sovrun", STAGE, "tmpfs", _MS_NOSUID_NODEV, "mode=0755,size=1m,nr_inodes=65536")
    for position, descriptor in enumerate(descriptors):
        target = staged(position)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            Path(target).mkdir()
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        _mount(f"/proc/self/fd/{descriptor}", target, None, _MS_BIND, None)
        os.close(descriptor)
    for position, room in enumerate(rooms, len(sources)):
        Path(staged(position)).mkdir()
        limits = f"mode={room.mode},size={room.size},nr_inodes={room.files},uid={uid},gid={uid}"
        _mount("tmpfs", staged(position), "tmpfs", _MS_NOSUID_NODEV, limits)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None) -> None:
    texts = [None if text is None else text.encode() for text in (source, target, kind, data)]
    result = _libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])
    _require(result, f"private mounts: {target}")


def drop_to(uid: int) -> None:
    """Become the user and group `uid` for good, with no other groups. Raises: NotLaunched."""
    try:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        what = "uid range" if error.errno == errno.EINVAL else "drop the user id"
        raise NotLaunched(f"{what}: {uid}: {error.strerror}") from None
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (uid, uid, uid):
        raise NotLaunched(f"drop the user id: still {os.getresuid()}")


def call_numbers() -> Mapping[str, int]:
    """Return the numbers of `keyctl` and `socket` on this machine. Raises: NotLaunched."""
    numbers = CALLS.get(os.uname().machine)
    if numbers is None:
        raise NotLaunched(f"architecture: no filter of system calls was made for {os.uname().machine}")
    return numbers


def leave_keyring() -> None:
    """Join a session keyring that is new and empty: the caller's passes through every namespace."""
    joined = _libc.syscall(call_numbers()["keyctl"], _JOIN_SESSION_KEYRING, None)
    # Where a kernel has no keyrings, or a container forbids them, the inside has none either.
    if joined < 0 and ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM):
        raise NotLaunched(f"new session keyring: {os.strerror(ctypes.get_errno())}")


@dataclass(frozen=True, slots=True)
class Order:
    """One sandbox to be started.

    Args:
        bwrap: path of bubblewrap.
        options: its options, which it reads from a descriptor so that no host path shows on its command line.
        command: what it executes inside.
        sources: what has to be staged, in the order of `staged`; empty for an ordinary user.
        rooms: what may be written; root makes them, for an ordinary user bubblewrap does.
        uid: host user id to drop to; None for an ordinary user, who stays.
        fixed_addresses: without randomisation of the address space.
        read_only: directories inside in which nothing may be created.
    """

    bwrap: str
    options: bytes
    command: tuple[str, ...]
    sources: tuple[str, ...]
    rooms: tuple[Room, ...]
    uid: int | None
    fixed_addresses: bool
    read_only: tuple[str, ...]


def order(bwrap: str, frame: Mapping[str, Any], task: Mapping[str, Any], uid: int | None) -> Order:
    """Return how to start the sandbox of one step.

    Args:
        frame: `Frame.wire()`.
        task: the step: `code` (path or None), `files` (path by digest), `limits`, `files_max`, `epoch`,
            `network` (routes), `trusted` (directories of certificates), `reproducible`.
        uid: host user id to drop to, or None.
    """
    binds = [(source, inside) for source, inside in frame["binds"]]
    if task["code"] is not None:
        binds.append((task["code"], CODE))
    binds += [(source, f"{INPUTS}/{digest}") for digest, source in sorted(task["files"].items())]
    binds += [(source, source) for source in task["trusted"]]
    sources: list[str] = []
    shown = []
    for source, inside in binds:
        if uid is None or is_system(source):
            shown.append((source, inside))
        else:
            shown.append((staged(len(sources)), inside))
            sources.append(source)
    rooms = rooms_of(task["limits"]["disk"], task["files_max"])
    options = [
        *_BOUNDARY,
        *_environment(task["epoch"], reproducible=task["reproducible"]),
        *_writable(rooms, None if uid is None else len(sources)),
        *(word for target, inside in frame["links"] for word in ("--symlink", target, inside)),
        *(word for source, inside in shown for word in ("--ro-bind", source, inside)),
        *(("--perms", "0444", "--ro-bind-data", str(HOSTS), "/etc/hosts") if task["network"] else ()),
        *("--remount-ro", "/", "--chdir", WORK),
    ]
    return Order(
        bwrap=bwrap,
        options=b"".join(word.encode() + b"\0" for word in options),
        command=tuple(frame["command"]),
        sources=tuple(sources),
        rooms=rooms,
        uid=uid,
        fixed_addresses=task["reproducible"],
        read_only=("/", "/dev", *(inside for source, inside in binds if Path(source).is_dir())),
    )


_BOUNDARY: Final = (
    *("--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"),
    *("--cap-drop", "ALL", "--uid", "1000", "--gid", "1000", "--hostname", "sovrun"),
    *("--info-fd", str(INFO), "--seccomp", str(FILTER)),
)
"""The walls; Landlock and limits are put up inside, see `seal`."""


def _environment(epoch: int, *, reproducible: bool) -> list[str]:
    # /code joins the path only after the sandbox is sealed: see the runner.
    variables = fixed_environment(epoch, home=WORK, tmp="/tmp", python_path=LIBRARY)  # noqa: S108 -- inside
    if reproducible:
        variables = reproducible_environment(variables)
    return ["--clearenv", *(word for name, value in variables.items() for word in ("--setenv", name, value))]


def rooms_of(disk: int, files: int) -> tuple[Room, ...]:
    """Return the three places that may be written."""
    files += OWN_FILES
    return (
        Room(WORK, disk, files, "755"),
        Room("/tmp", disk, files, "1777"),  # noqa: S108 -- inside
        Room("/dev/shm", min(disk, SHARED_MEMORY_MAX), files, "1777"),  # noqa: S108 -- inside
    )


def _writable(rooms: Sequence[Room], first_staged: int | None) -> list[str]:
    """Return the options for the places that may be written, and for what goes with them.

    Args:
        first_staged: position of the first room when they are staged.
    """
    options = ["--proc", "/proc", "--dev", "/dev"]
    for position, room in enumerate(rooms):
        if first_staged is None:
            options += ["--size", str(room.size), "--perms", room.mode, "--tmpfs", room.inside]
        else:
            options += ["--bind", staged(first_staged + position), room.inside]
    return [*options, "--remount-ro", "/dev"]


def is_system(path: str) -> bool:
    """Whether every user of the host can reach a path."""
    return path.startswith(("/usr/", "/etc/", "/lib", "/bin", "/sbin")) or path == "/usr"


def fix_addresses() -> None:
    """Have whatever this process becomes and starts laid out in memory the same way each time. Raises: NotLaunched."""
    if _libc.personality(_ADDR_NO_RANDOMIZE) < 0:
        raise NotLaunched(f"fixed addresses: {os.strerror(ctypes.get_errno())}")


def memory_file(data: bytes) -> int:
    """Return a descriptor of a file without a name that holds `data`, at its beginning."""
    descriptor = os.memfd_create("sovrun")
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def launch(wanted: Order, descriptors: Mapping[int, int], parent: int) -> NoReturn:
    """In a forked child: become bubblewrap, or say why not on standard error and exit.

    Args:
        descriptors: of each number that bubblewrap shall have, which of ours it is. All others are closed.
        parent: process id of the supervisor.
    """
    complain = descriptors[2]
    try:
        os.setsid()
        if wanted.uid is not None:
            stage(wanted.sources, wanted.rooms, wanted.uid)
            drop_to(wanted.uid)
            _require_readable(wanted)
        leave_keyring()
        if wanted.fixed_addresses:
            fix_addresses()
        die_with(parent)  # last, for a change of user clears it
        complain = _arrange(descriptors)
        os.umask(0o022)
        command = ("bwrap", "--args", str(ARGUMENTS), "--", *wanted.command)
        os.execve(wanted.bwrap, command, {})  # noqa: S606 -- no shell is wanted
    except BaseException as error:  # noqa: BLE001 -- a forked child must never return into the supervisor's loop
        os.write(complain, f"sovrun: {error}\n".encode())
    finally:
        os._exit(EXIT_NOT_LAUNCHED)


def _require_readable(wanted: Order) -> None:
    for position, source in enumerate(wanted.sources):
        path = Path(staged(position))
        if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
            raise NotLaunched(f"source path {source} cannot be read by other users: chmod o+rX")


def _arrange(descriptors: Mapping[int, int]) -> int:
    """Give every descriptor its number, close the rest, and return the number of standard error."""
    above = max(descriptors) + 1
    moved = {number: fcntl.fcntl(own, fcntl.F_DUPFD, above) for number, own in descriptors.items()}
    for number, own in moved.items():
        os.dup2(own, number, inheritable=True)
    os.closerange(above, os.sysconf("SC_OPEN_MAX"))
    return 2
