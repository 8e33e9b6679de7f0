"""The first code inside a sandbox: seal, attest, say `ready`, wait for `go`, run the step, hand back its result.

Owns: what happens between bubblewrap's exec and the step's first line, and the reading of its result.
Must not touch: anything but the standard library and the few modules of Sovrun that also keep to it. Until `go` no
module of the step is importable, so that nothing of the step takes part in sealing or attesting.
"""

# ruff: noqa: PTH112, PTH208 -- pathlib costs the start of every step 8 ms
from __future__ import annotations

import _sitebuiltins
import builtins
import os
import sys

from sovrun import step
from sovrun.sandbox import exchange, values, verdicts, wire
from sovrun.sandbox.seal import CONTROL, seal

TYPE_CHECKING = False  # importing what follows would slow the start of every step
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final, NoReturn

BODY_MAX: Final = 1 << 30
EXIT_REFUSED: Final = 78
EXIT_UNHEARD: Final = 1
CLOSED: Final = b"the step closed the sandbox's own descriptor 3\n"


def main() -> NoReturn:
    """Run one step; never returns."""
    setup, _ = wire.receive(CONTROL, body_max=BODY_MAX)
    problems = seal(setup)
    wire.send(CONTROL, {"say": "refused" if problems else "ready", "problems": problems})
    if problems:
        os._exit(EXIT_REFUSED)
    task, [arguments, *values_of_secrets] = wire.receive(CONTROL, body_max=BODY_MAX)
    secrets = dict(zip(task["secrets"], values_of_secrets, strict=True))
    os.set_inheritable(CONTROL, False)  # noqa: FBT003 -- it takes no keyword
    os.environ["PYTHONPATH"] = (
        f"{exchange.CODE}:{exchange.LIBRARY}"  # from here on the step's modules may come first
    )
    files = {digest: f"{exchange.INPUTS}/{digest}" for digest in task["files"]}
    if task["kind"] == "argv":
        _become_program(task["entry"], values.decode(arguments), files, secrets)
    _find_distributions(setup["site"])
    step.enter_process(step.StepContext(files, exchange.WORK, secrets))
    _answer(task, arguments)
    os._exit(0)


# --- a Python function ------------------------------------------------------------------------------------------------


def _answer(task: Mapping[str, Any], arguments: bytes) -> None:
    """Run the function and send what became of it. What is sent has been flushed before."""
    control = os.fstat(CONTROL).st_ino
    try:
        output = _call(task["entry"], arguments)
        head = {"say": "result"}
        if len(output) > task["output_max"]:
            text = f"the step returned {len(output)} bytes; resources.output allows {task['output_max']}"
            head, output = verdicts.failure("output_too_large", text, say="failed"), b""
    except values.NotJson as error:
        head, output = verdicts.failure("output_not_json", f"the returned value: {error}", say="failed"), b""
    except BaseException as error:  # noqa: BLE001 -- whatever the step raises, SystemExit too, is its answer
        head, output = (
            {"say": "failed", **verdicts.failure_of(error, exchange.CODE, _is_full_of_processes)},
            b"",
        )
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed or replaced by the step
            continue
    try:
        if os.fstat(CONTROL).st_ino != control:  # the number may be another file's by now
            _complain()
        wire.send(CONTROL, head, output)
    except OSError:
        _complain()


def _complain() -> NoReturn:
    """End without an answer: nobody can hear one."""
    try:
        os.write(2, CLOSED)
    finally:
        os._exit(EXIT_UNHEARD)


def _is_full_of_processes() -> bool:
    """Return whether this sandbox has as many processes and threads as it may."""
    import resource  # noqa: PLC0415 -- only what failed asks

    running = sum(len(os.listdir(f"/proc/{pid}/task")) for pid in os.listdir("/proc") if pid.isdigit())
    return running >= resource.getrlimit(resource.RLIMIT_NPROC)[0]


def _find_distributions(site: Mapping[str, Any]) -> None:
    """Do what the start of the interpreter left out (`-S`): the installed distributions become importable.

    Args:
        site: `paths` of the distributions; `prefix`, where the interpreter's environment lies; `run`, whether the
            interpreter's own `site` has to do it, since a distribution asks for code at the start.
    """
    if site["run"]:
        import site as interpreters_own  # noqa: PLC0415 -- it is seldom needed

        interpreters_own.main()
        return
    sys.path += site["paths"]
    sys.prefix = sys.exec_prefix = site["prefix"]
    for name in ("exit", "quit"):
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))
    builtins.help = _sitebuiltins._Helper()  # noqa: SLF001 -- as `site` does


def _call(entry: str, arguments: bytes) -> bytes:
    if os.path.isdir(exchange.CODE):
        sys.path.insert(0, exchange.CODE)
    function = exchange.load_function(entry)
    return values.encode(function(**values.decode(arguments)))


# --- a program --------------------------------------------------------------------------------------------------------


def _become_program(
    entry: list[str], arguments: Mapping[str, Any], files: Mapping[str, str], secrets: Mapping[str, bytes]
) -> NoReturn:
    import signal  # noqa: PLC0415 -- functions do without it

    try:
        exchange.write_arguments(exchange.WORK, arguments, files)
        exchange.write_secrets(exchange.WORK, secrets)
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
