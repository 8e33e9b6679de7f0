"""The first code inside a sandbox: seal, attest, say `ready`, wait for `go`, run the step, hand back its result.

Owns: what happens between bubblewrap's exec and the step's first line, and the reading of its result.
Must not touch: anything but the standard library and the few modules of Sovrun that also keep to it. Until `go` no
module of the step is importable, so that nothing of the step takes part in sealing or attesting.

Further walls are put up in `seal`, in this order: limits, Landlock, a second seccomp filter.
"""

# ruff: noqa: PTH108, PTH112, PTH123, PTH208 -- pathlib costs the start of every step 8 ms
from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Mapping

from sovrun import step
from sovrun.sandbox import exchange, values, verdicts, wire

TYPE_CHECKING = False  # importing what follows would slow the start of every step
if TYPE_CHECKING:
    from typing import Any, Final, NoReturn

CONTROL: Final = 3
"""Descriptor of the socket to the supervisor; with 0, 1 and 2 the only one that is open."""

BODY_MAX: Final = 1 << 30
EXIT_REFUSED: Final = 78

_LIMITS: Final = {
    "memory": resource.RLIMIT_AS,
    "processes": resource.RLIMIT_NPROC,
    "open_files": resource.RLIMIT_NOFILE,
    "disk": resource.RLIMIT_FSIZE,
    "core": resource.RLIMIT_CORE,
}


def main() -> NoReturn:
    """Run one step; never returns."""
    setup, _ = wire.receive(CONTROL, body_max=BODY_MAX)
    problems = seal(setup["limits"]) + attest(setup)
    wire.send(CONTROL, {"say": "refused" if problems else "ready", "problems": problems})
    if problems:
        os._exit(EXIT_REFUSED)
    task, [arguments] = wire.receive(CONTROL, body_max=BODY_MAX)
    os.set_inheritable(CONTROL, False)  # noqa: FBT003 -- it takes no keyword
    os.environ["PYTHONPATH"] = (
        f"{exchange.CODE}:{exchange.LIBRARY}"  # from here on the step's modules may come first
    )
    files = {digest: f"{exchange.INPUTS}/{digest}" for digest in task["files"]}
    if task["kind"] == "argv":
        _become_program(task["entry"], values.decode(arguments), files)
    step.enter_process(step.StepContext(files, exchange.WORK))
    _answer(task, arguments)
    os._exit(0)


# --- sealing and attesting --------------------------------------------------------------------------------------------


def seal(limits: Mapping[str, int]) -> list[str]:
    """Set the limits of this process and its children for good; return what did not hold."""
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
    """Return everything about this sandbox that is not as it must be.

    Args:
        setup: `read_only`, the directories in which nothing may be created.
    """
    problems = status_problems(_read("/proc/self/status")) + interface_problems(_read("/proc/net/dev"))
    problems += [f"{path} can be written" for path in setup["read_only"] if can_create_in(path)]
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
    if "0" in status["Uid"].split():
        problems.append("the user inside is root")
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


def _read(path: str) -> str:
    with open(path) as source:
        return source.read()


# --- a Python function ------------------------------------------------------------------------------------------------


def _answer(task: Mapping[str, Any], arguments: bytes) -> None:
    """Run the function and send what became of it. What is sent has been flushed before."""
    try:
        output = _call(task["entry"], arguments)
        head = {"say": "result"}
        if len(output) > task["output_max"]:
            text = f"the step returned {len(output)} bytes; resources.output allows {task['output_max']}"
            head, output = verdicts.failure("output_too_large", text, say="failed"), b""
    except values.NotJson as error:
        head, output = verdicts.failure("output_not_json", f"the returned value: {error}", say="failed"), b""
    except BaseException as error:  # noqa: BLE001 -- whatever the step raises, SystemExit too, is its answer
        head, output = {"say": "failed", **verdicts.failure_of(error, exchange.CODE)}, b""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed or replaced by the step
            continue
    wire.send(CONTROL, head, output)


def _call(entry: str, arguments: bytes) -> bytes:
    if os.path.isdir(exchange.CODE):
        sys.path.insert(0, exchange.CODE)
    function = exchange.load_function(entry)
    return values.encode(function(**values.decode(arguments)))


# --- a program --------------------------------------------------------------------------------------------------------


def _become_program(entry: list[str], arguments: Mapping[str, Any], files: Mapping[str, str]) -> NoReturn:
    try:
        exchange.write_arguments(exchange.WORK, arguments, files)
        program = exchange.program_of(entry[0], exchange.CODE)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and an exec would hand that on
            signal.signal(number, signal.SIG_DFL)
        os.execv(program, [program, *entry[1:]])  # noqa: S606 -- no shell is wanted
    except (OSError, ValueError) as error:
        head = verdicts.failure("step_not_found", f"the program {entry[0]!r} cannot be started: {error}")
        if isinstance(error, OSError) and error.errno in verdicts.DISK_FULL:
            head = verdicts.failure_of(error, exchange.CODE)
    except verdicts.StepNotFound as error:
        head = verdicts.failure_of(error, exchange.CODE)
    wire.send(CONTROL, {"say": "failed", **head})
    os._exit(EXIT_REFUSED)


if __name__ == "__main__":
    main()
