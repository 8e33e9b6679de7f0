"""What a hostile step tries. Copied into the code directory of a step; each function says how far it came."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    "x86_64": {"ptrace": 101, "process_vm_readv": 310, "keyctl": 250, "add_key": 248, "memfd_create": 319, "shmget": 29,
               "io_uring_setup": 425, "userfaultfd": 323, "personality": 135, "unshare": 272, "bpf": 321, "setns": 308,
               "perf_event_open": 298, "clone3": 435, "mount": 165},
    "aarch64": {"ptrace": 117, "process_vm_readv": 270, "keyctl": 219, "add_key": 217, "memfd_create": 279,
                "shmget": 194, "io_uring_setup": 425, "userfaultfd": 282, "personality": 92, "unshare": 97, "bpf": 280,
                "setns": 268, "perf_event_open": 241, "clone3": 435, "mount": 40},
}[os.uname().machine]  # fmt: skip


def call(name: str, *arguments: Any) -> str:
    """Return `done`, or the name of the error of a system call."""
    result = LIBC.syscall(NUMBERS[name], *arguments)
    return "done" if result >= 0 else errno.errorcode[ctypes.get_errno()]


def calls(wanted: list[list[Any]]) -> dict[str, str]:
    return {
        f"{name} {arguments[0] if arguments else ''}".strip(): call(name, *arguments)
        for name, *arguments in wanted
    }


def sockets(families: list[int]) -> dict[str, str]:
    found = {}
    for family in families:
        made = LIBC.socket(family, 1, 0)
        found[str(family)] = "done" if made >= 0 else errno.errorcode[ctypes.get_errno()]
    return found


# --- using things up --------------------------------------------------------------------------------------------------


def fork_bomb(hold: float = 0) -> dict[str, Any]:
    """Fork until it is refused; the children wait for their end."""
    children = []
    try:
        while True:
            pid = os.fork()
            if pid == 0:
                time.sleep(1000)
                os._exit(0)
            children.append(pid)
    except OSError as error:
        refused = errno.errorcode[error.errno or 0]
    time.sleep(hold)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    return {"made": len(children), "refused": refused}


def uncaught_fork_bomb() -> None:
    while True:
        if os.fork() == 0:
            time.sleep(1000)
            os._exit(0)


def uncaught_opening() -> None:
    kept = []
    while True:
        kept.append(os.open("/dev/null", os.O_RDONLY))


def memory_of_one(size: int) -> int:
    return len(bytearray(size))


def memory_of_many(count: int, size: int) -> None:
    """Let `count` processes hold memory that none of them may not have, and wait for ever."""
    for _ in range(count):
        if os.fork() == 0:
            held = bytearray(os.urandom(1 << 16)) * (size >> 16)
            time.sleep(1000)
            os._exit(len(held) & 1)
    time.sleep(1000)


def memory_of_none(size: int) -> str:
    """Fill memory that belongs to no process."""
    descriptor = LIBC.syscall(NUMBERS["memfd_create"], b"attack", 0)
    if descriptor < 0:
        return errno.errorcode[ctypes.get_errno()]
    chunk = os.urandom(1 << 20)
    for _ in range(size >> 20):
        os.write(descriptor, chunk)
    return "done"


def fill(folder: str, number: int, size: int) -> int:
    """Write files until the first error."""
    for position in range(number):
        Path(folder, f"f{position}").write_bytes(bytes(size))
    return number


def fill_with_names(folder: str) -> None:
    """Make empty files for ever."""
    number = 0
    while True:
        os.close(os.open(f"{folder}/n{number}", os.O_CREAT | os.O_WRONLY))
        number += 1


def print_for_ever() -> None:
    while True:
        sys.stdout.write("x" * 65_536)


def burn(number: int) -> None:
    """Use processor time in several processes, none of which uses much."""
    for _ in range(number):
        if os.fork() == 0:
            while True:
                pass
    os.wait()


# --- outliving --------------------------------------------------------------------------------------------------------


def tidy(marker: str, children: int) -> None:
    """End in order when told to, with children that would not."""

    def end(_number: int, _frame: object) -> None:
        os.write(1, b"tidied\n")  # it may come into the middle of a print
        sys.exit()

    signal.signal(signal.SIGTERM, end)
    os.write(1, b"started\n")
    for _ in range(children):
        daemon(marker)
    time.sleep(1000)


def linger(marker: str, children: int) -> None:
    """Ignore every request to end, and have children in sessions of their own that do so, too."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for _ in range(children):
        daemon(marker)
    print("started", flush=True)  # noqa: T201 -- it tells that it has begun
    time.sleep(1000)


def daemon(marker: str) -> int:
    """Leave a process behind that ignores what it can, by forking twice."""
    command = ["/bin/sh", "-c", f"trap '' TERM HUP INT; sleep 1000; : {marker}"]
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(command[0], command)  # noqa: S606 -- no shell is wanted
        os._exit(0)
    os.waitpid(child, 0)
    return child


def scribble(marker: str, children: int) -> Any:
    """Keep a file, and leave children that go on writing to it and printing."""
    from sovrun.step import keep_file, work_dir  # noqa: PLC0415 -- no other attack needs them

    kept = work_dir() / "kept"
    kept.write_text("kept")
    found = keep_file(kept)
    script = f"while :; do echo noise; echo late >> {kept}; done; : {marker}"
    for _ in range(children):
        if os.fork() == 0:
            os.setsid()
            os.execv("/bin/sh", ["/bin/sh", "-c", script])  # noqa: S606 -- no shell is wanted
    return found


# --- reaching out -----------------------------------------------------------------------------------------------------


def processes() -> dict[str, Any]:
    """Say what can be seen of processes, and read of their environments."""
    seen, environments = [], ""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            seen.append(int(folder.name))
            try:
                environments += (folder / "environ").read_text()
            except OSError as error:
                environments += f" {type(error).__name__} "
    return {"seen": sorted(seen), "environments": environments, "own": dict(os.environ), "argv": sys.argv}


def keyring(description: str) -> dict[str, str]:
    """Look for a key that the launcher left in its session's keyring (KEYCTL_SEARCH)."""
    return {
        "search": call("keyctl", 10, -3, b"user", description.encode(), 0),
        "add": call("add_key", b"user", b"own", b"x", 1, -3),
    }


def write_into(folders: list[str]) -> dict[str, str]:
    found = {}
    for folder in folders:
        try:
            Path(folder, "probe").write_text("x")
        except OSError as error:
            found[folder] = errno.errorcode[error.errno or 0]
        else:
            found[folder] = "written"
    return found


def open_for_writing(paths: list[str]) -> dict[str, str]:
    found = {}
    for path in paths:
        try:
            os.close(os.open(path, os.O_WRONLY))
        except OSError as error:
            found[path] = errno.errorcode[error.errno or 0]
        else:
            found[path] = "opened"
    return found


def read_all(paths: list[str]) -> dict[str, str]:
    found = {}
    for path in paths:
        try:
            Path(path).read_bytes()
        except OSError as error:
            found[path] = errno.errorcode[error.errno or 0]
        else:
            found[path] = "read"
    return found


def own_groups() -> str:
    """Return what this process sees of its control groups."""
    return Path("/proc/self/cgroup").read_text()


def make_nodes() -> dict[str, str]:
    """Make a device, and a hard link to a file that is mounted read-only."""
    found = {}
    for name, attempt in (
        ("device", lambda: os.mknod("/work/device", 0o600 | 0o060000, os.makedev(8, 0))),
        ("link", lambda: os.link("/etc/passwd", "/work/passwd")),
    ):
        try:
            attempt()
            found[name] = "made"
        except OSError as error:
            found[name] = errno.errorcode[error.errno or 0]
    return found


def connect(address: str, port: int) -> str:
    return _connected(socket.AF_INET, (address, port))


def connect_abstract(name: str) -> str:
    return _connected(socket.AF_UNIX, "\0" + name)


def _connected(family: int, address: Any) -> str:
    with socket.socket(family) as made:
        made.settimeout(5)
        try:
            made.connect(address)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, type(error).__name__)
    return "connected"


def send_datagram(address: str, port: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        try:
            made.sendto(b"x", (address, port))
        except OSError as error:
            return errno.errorcode[error.errno or 0]
    return "sent"


def resolve(name: str) -> str:
    try:
        socket.getaddrinfo(name, 443)
    except socket.gaierror as error:
        return next(
            word for word in vars(socket) if word.startswith("EAI_") and getattr(socket, word) == error.errno
        )
    return "resolved"


# --- becoming more ----------------------------------------------------------------------------------------------------


def become_root() -> dict[str, Any]:
    """Run a setuid program, and look what is mounted so that it would matter."""
    shown = subprocess.run(["/bin/su", "-c", "id -u"], capture_output=True, text=True, check=False, stdin=-3)
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    gains = [fields[4] for fields in mounts if "nosuid" not in fields[5].split(",")]
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "status": shown.returncode,
        "out": shown.stdout,
        "suid": gains,
        "no_new_privs": status["NoNewPrivs"].strip(),
    }


def raise_limits() -> list[str]:
    """Return the limits that could be raised, or taken off."""
    raised = []
    for name in ("AS", "DATA", "NPROC", "NOFILE", "FSIZE", "CORE", "CPU"):
        kind = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(kind)
        if hard == resource.RLIM_INFINITY:
            continue  # it is not limited: nothing to raise
        try:
            resource.setrlimit(kind, (hard + 1, hard + 1))
        except (ValueError, OSError):
            continue
        raised.append(name)
    return raised


def identity() -> list[int]:
    return [os.getuid(), os.getgid()]


def hello() -> str:
    return "hello"


def burn_unwaited() -> None:
    """Use processor time in children that nobody waits for, each too short to be looked at."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        if os.fork() == 0:
            until = time.process_time() + 0.04
            while time.process_time() < until:
                pass
            os._exit(0)
        time.sleep(0.03)


def hide_shared(count: int, size: int) -> None:
    """Fill shared memory in each of `count` processes, show it no more, and wait for ever."""
    for _ in range(count):
        if os.fork() == 0:
            held = mmap.mmap(-1, size)
            for start in range(0, size, 1 << 20):
                held[start : start + (1 << 20)] = bytes(1 << 20)
            held.madvise(mmap.MADV_DONTNEED)
            time.sleep(1000)
    time.sleep(1000)


def fill_sockets(count: int) -> None:
    """Fill as many sockets in each of `count` processes as it may open, and wait for ever."""
    for _ in range(count):
        if os.fork() == 0:
            kept = []
            with contextlib.suppress(OSError):
                while True:
                    kept.append(socket.socketpair())
                    kept[-1][0].settimeout(0)
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            kept[-1][0].send(bytes(1 << 16))
            time.sleep(1000)
    time.sleep(1000)


def use_sockets_and_shared_memory(number: int, size: int) -> int:
    """Have some empty sockets and some shared memory that is seen, as honest steps do."""
    pairs = [socket.socketpair() for _ in range(number)]
    held = mmap.mmap(-1, size)
    held[:] = bytes(size)
    time.sleep(0.3)
    return 2 * len(pairs) + len(held) // size


def lease() -> str:
    """Hold up whoever would write to a file that is only shown to the step."""
    with Path(__file__).open() as own:
        try:
            fcntl.fcntl(own, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as error:
            return errno.errorcode[error.errno]
    return "done"
