"""One step's processes in warm mode, from the template's clone to the runner: namespaces, mounts, and everything dropped.

Owns: `born`. The first process of the new process namespace makes a child, which waits for a step, makes its places, loses
every capability, loads the filter and goes on as the runner does in a sandbox that bubblewrap made.
Must not touch: modules of the step. They are not even mounted before the template has been left.
"""

# ruff: noqa: E402, PTH102, PTH208 -- pathlib costs time; what is imported before has to be known
from __future__ import annotations

import sys

COLD = frozenset(sys.modules)
"""What a cold step finds imported: nothing but this stands before it."""

import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
from contextlib import suppress

from sovrun.sandbox import exchange, runner
from sovrun.sandbox.seal import CONTROL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Final, NoReturn

INFO: Final = CONTROL + 1
"""Descriptor of the socket over which the supervisor learns which process this is, and hands it a step."""

EXIT_NOT_MADE: Final = 77
MESSAGE_MAX: Final = 1 << 17
DESCRIPTORS_MAX: Final = 253
SPACES: Final = 0x10000000 | 0x00020000 | 0x20000000 | 0x08000000 | 0x04000000 | 0x40000000
"""Of users, mounts, processes, IPC, host name and network. That of control groups follows once it has entered them."""

_NEW_GROUPS: Final = 0x02000000
_CLONE: Final = {"x86_64": 56, "aarch64": 220}
_MOVE_MOUNT: Final = 429
_FROM_DESCRIPTOR: Final = 4
_AT_FDCWD: Final = -100
_READ_ONLY: Final = 1
_NO_SUID_NO_DEV: Final = 2 | 4
_NO_EXEC: Final = 8
_REMOUNT_BIND: Final = 32 | 4096
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_SECCOMP: Final = 22
_PR_CAPBSET_DROP: Final = 24
_PR_CAP_AMBIENT: Final = 47
_CLEAR_ALL: Final = 4
_FILTERED: Final = 2
_CAPABILITIES_V3: Final = 0x20080522
_SET_FLAGS: Final = 0x8914
_UP: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True)
_SYSCALL: Final = _CLONE.get(os.uname().machine, -1)


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_char_p))


def born(beside: int, filtering: bytes) -> int:
    """Make a clone that waits for a step; return its first process's id to the template. Raises: OSError.

    Args:
        beside: the socket of `INFO`. What comes over it is one order, `epoch`; `rooms`, each with its path, bytes, number of
            files and mode; `mounts`, the paths of what is to be shown; `hosts`, the text of `/etc/hosts` or None; and with
            it the descriptors of standard output, standard error, the control socket, and a mount for each of `mounts`.
        filtering: the filter of system calls.
    """
    pid = int(_libc.syscall(_SYSCALL, SPACES | signal.SIGCHLD, 0, 0, 0, 0))
    if pid < 0:
        raise OSError(f"Creating new namespace failed: {os.strerror(ctypes.get_errno())}")
    if pid == 0:
        _live(beside, filtering)
    return pid


def _live(beside: int, filtering: bytes) -> NoReturn:
    try:
        _require(
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
            "parent death signal",
        )
        _arrange([fcntl.fcntl(beside, fcntl.F_DUPFD, INFO + 1)], INFO)
        _map_user()
        os.setsid()
        _cover()
        _raise_loopback()
        os.write(INFO, b"here")
        if os.read(INFO, 1) != b"g":  # it is not needed
            os._exit(0)
        waiting, dropped = os.pipe()
        step = os.fork()  # here, as what forks copies much memory
        if step == 0:
            os.close(dropped)
            os.read(waiting, 1)  # ends when the first process is as the supervisor wants to see it
            os.close(waiting)
            _become_step(filtering)
        os.closerange(0, INFO)
        _drop_everything(filtering)
        os.closerange(INFO + 1, dropped + 1)
        _reap_until(step)
    except BaseException as error:  # noqa: BLE001 -- a forked child must never return into the template's loop
        os.write(2, f"sovrun: {error}\n".encode())
    finally:
        os._exit(EXIT_NOT_MADE)


def _become_step(filtering: bytes) -> NoReturn:
    _leave_template()
    order, mounts = _order()
    os.environ["SOURCE_DATE_EPOCH"] = str(order["epoch"])
    _furnish(order, mounts)
    _require(_libc.unshare(_NEW_GROUPS), "namespace of control groups")
    os.closerange(INFO, INFO + 1 + len(mounts))
    _drop_everything(filtering)
    _forget_what_the_step_has_itself()
    runner.main()


def _order() -> tuple[dict[str, Any], list[int]]:
    """Wait for a step, take its streams, and return its order with the descriptors of its mounts."""
    with socket.socket(fileno=os.dup(INFO)) as beside:
        message, descriptors, _, _ = socket.recv_fds(beside, MESSAGE_MAX, DESCRIPTORS_MAX)
    if not message:  # it is not needed
        os._exit(0)
    above = max(descriptors) + 1
    moved = [fcntl.fcntl(own, fcntl.F_DUPFD, above) for own in descriptors]
    _arrange(moved[:3], 1)
    return json.loads(message), _arrange(moved[3:], INFO + 1)


def _require(result: int, what: str) -> None:
    if result != 0:
        raise OSError(f"{what}: {os.strerror(ctypes.get_errno())}")


def _arrange(descriptors: Sequence[int], first: int) -> list[int]:
    """Give descriptors the numbers from `first` on, which are returned."""
    numbers = list(range(first, first + len(descriptors)))
    for number, own in zip(numbers, descriptors, strict=True):
        os.dup2(own, number)
    if first >= INFO:  # whatever lies above is nobody's
        os.closerange(first + len(numbers), os.sysconf("SC_OPEN_MAX"))
    return numbers


def _map_user() -> None:
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", "1000 1000 1"),
        ("gid_map", "1000 1000 1"),
    ):
        descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(descriptor, text.encode())
        os.close(descriptor)


def _mount(kind: str, target: str, flags: int, options: str | None) -> None:
    text = None if options is None else options.encode()
    result = _libc.mount(kind.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), text)
    _require(result, f"mount {kind} on {target}")


def _cover() -> None:
    """Cover the template's processes and terminals with the clone's own.

    Nothing is taken away, for what covers it cannot be lifted without the capability that goes before the step comes.
    """
    _mount("proc", "/proc", _NO_SUID_NO_DEV | _NO_EXEC, None)
    _mount("devpts", "/dev/pts", 2 | _NO_EXEC, "newinstance,ptmxmode=0666,mode=620")


def _furnish(order: Mapping[str, Any], mounts: Sequence[int]) -> None:
    """Make the places that may be written, and show what is to be shown."""
    for inside, size, files, mode in order["rooms"]:
        options = f"mode={mode},size={size},nr_inodes={files},uid=1000,gid=1000"
        _mount("tmpfs", inside, _NO_SUID_NO_DEV, options)
    targets = order["mounts"]
    inputs = [target for target in targets if target.startswith(exchange.INPUTS)]
    if inputs or order["hosts"] is not None:
        _mount(
            "tmpfs",
            exchange.INPUTS,
            _NO_SUID_NO_DEV,
            f"mode=755,nr_inodes={len(targets) + 8}",
        )
    for descriptor, target in zip(mounts, targets, strict=True):
        _show(descriptor, target)
    if order["hosts"] is not None:
        _tell_hosts(order["hosts"])
    if inputs or order["hosts"] is not None:
        flags = ctypes.c_ulong(_REMOUNT_BIND | _READ_ONLY | _NO_SUID_NO_DEV)
        _require(
            _libc.mount(None, exchange.INPUTS.encode(), None, flags, None),
            "mount inputs read-only",
        )
    os.chdir(exchange.WORK)


def _show(descriptor: int, target: str) -> None:
    is_folder = os.path.isdir(f"/proc/self/fd/{descriptor}")  # noqa: PTH112 -- see above
    if target.startswith(f"{exchange.INPUTS}/"):
        if is_folder:
            os.mkdir(target)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o444))
    moved = _libc.syscall(_MOVE_MOUNT, descriptor, b"", _AT_FDCWD, target.encode(), _FROM_DESCRIPTOR)
    _require(moved, f"mount {target}")
    if not os.access(target, os.R_OK | (os.X_OK if is_folder else 0)):
        raise OSError(f"source path of {target} cannot be read by other users: chmod o+rX")


def _tell_hosts(text: str) -> None:
    path = f"{exchange.INPUTS}/.hosts"
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123 -- see above
        file.write(text)
    os.chmod(path, 0o444)  # noqa: PTH101 -- see above
    flags = ctypes.c_ulong(4096)
    _require(_libc.mount(path.encode(), b"/etc/hosts", None, flags, None), "mount /etc/hosts")
    os.unlink(path)  # noqa: PTH108 -- see above
    flags = ctypes.c_ulong(_REMOUNT_BIND | _READ_ONLY | _NO_SUID_NO_DEV)
    _require(
        _libc.mount(None, b"/etc/hosts", None, flags, None),
        "mount /etc/hosts read-only",
    )


def _raise_loopback() -> None:
    request = b"lo".ljust(16, b"\0") + _UP.to_bytes(2, sys.byteorder) + bytes(22)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        fcntl.ioctl(made, _SET_FLAGS, request)


def _drop_everything(filtering: bytes) -> None:
    """Lose all capabilities for good, also those that a program could bring, and load the filter of system calls."""
    capability = 0
    while _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    _require(_libc.prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0), "ambient capabilities")
    header = _CAPABILITIES_V3.to_bytes(4, sys.byteorder) + bytes(4)
    _require(_libc.capset(header, bytes(24)), "capabilities")
    program = _Program(len(filtering) // 8, filtering)
    loaded = _libc.prctl(_PR_SET_SECCOMP, _FILTERED, ctypes.byref(program), 0, 0)
    _require(loaded, "PR_SET_SECCOMP")


def _leave_template() -> None:
    """Leave nothing of the template that a cold step would not find, as far as the step need not be known."""
    os.environ.clear()
    variables = exchange.fixed_environment(
        0,
        home=exchange.WORK,
        tmp="/tmp",  # noqa: S108 -- inside
        python_path=exchange.LIBRARY,
    )
    os.environ.update(variables | {"PWD": exchange.WORK})
    os.umask(0o022)


def _forget_what_the_step_has_itself() -> None:
    """Drop preloaded modules whose names the step's code has too: it comes first on the path, as in a cold step."""
    if not os.path.isdir(exchange.CODE):  # noqa: PTH112 -- see above
        return
    names = {name.partition(".")[0] for name in os.listdir(exchange.CODE)}
    own = {name for name in names if name in sys.modules}  # to go through all modules copies much memory
    if own:
        for name in [name for name in sys.modules if name.partition(".")[0] in own and name not in COLD]:
            del sys.modules[name]


def _reap_until(step: int) -> NoReturn:
    """Wait for every process that ends here, and end as the step does, in the form of a shell.

    When the step was the last of its processes, its end is told at once: the kernel takes a millisecond to end this one.
    """
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == step:
            code = os.waitstatus_to_exitcode(status)
            code = code if code >= 0 else 128 - code
            if _is_alone():
                used = resource.getrusage(resource.RUSAGE_CHILDREN)
                end = {
                    "status": code << 8,
                    "cpu_s": used.ru_utime + used.ru_stime,
                    "memory": used.ru_maxrss * 1024,
                }
                with suppress(OSError):  # nobody listens any more
                    os.write(INFO, json.dumps(end).encode())
            os._exit(code)


def _is_alone() -> bool:
    """Return whether nothing but this first process is left; orphans would be its children."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False
