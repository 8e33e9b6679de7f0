"""A process that has imported what steps need, and clones itself for each: the inside of warm mode.

Owns: the imports, the proof that there is one thread, the loop that starts a step's processes and tells how they ended.
Must not touch: what belongs to a step. It sees no code, no inputs, no secrets; there is no place where it may write.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys

from sovrun.sandbox import runner, warm_child, wire
from sovrun.sandbox.seal import CONTROL
from sovrun.sandbox.warm_child import MESSAGE_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final, NoReturn

COMMON: Final = (
    *(
        "base64",
        "collections",
        "contextlib",
        "csv",
        "dataclasses",
        "datetime",
        "decimal",
        "enum",
        "functools",
    ),
    *(
        "hashlib",
        "io",
        "itertools",
        "json",
        "logging",
        "math",
        "pathlib",
        "random",
        "re",
        "statistics",
        "string",
    ),
    *(
        "struct",
        "subprocess",
        "tempfile",
        "textwrap",
        "time",
        "traceback",
        "typing",
        "uuid",
    ),
)
"""What steps usually need of the standard library."""

EXIT_REFUSED: Final = 78


def main() -> NoReturn:
    """Serve the supervisor until it has gone."""
    link = socket.socket(fileno=CONTROL)
    head, [filtering] = _configuration(link)
    problems = prepared(head)
    link.send(json.dumps({"say": "refused" if problems else "ready", "problems": problems}).encode())
    if problems:
        os._exit(EXIT_REFUSED)
    serve(link, filtering)


def _configuration(link: socket.socket) -> tuple[dict[str, Any], list[bytes]]:
    [frame] = wire.Decoder(body_max=MESSAGE_MAX).feed(link.recv(MESSAGE_MAX))
    return frame


def prepared(head: Mapping[str, Any]) -> list[str]:
    """Import everything; return why no step can be cloned from this process.

    Args:
        head: `site`, see `runner`; `modules`, what the operator wants imported beside `COMMON`.
    """
    runner._find_distributions(head["site"])  # noqa: SLF001 -- as it does for a cold step, and once
    problems = []
    for name in (*COMMON, *head["modules"]):
        try:
            importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001 -- whatever a distribution raises, it is told
            problems.append(f"the module {name} cannot be preloaded: {type(error).__name__}: {error}")
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 -- a count
    if threads != 1:
        problems.append(
            f"the template has {threads} threads after importing {' '.join(head['modules'])}, and a clone would have "
            "one: preload only modules that start none (SOVRUN_WARM_MODULES)"
        )
    sys.stdout.flush()
    sys.stderr.flush()
    sys.argv[:] = [sys.argv[0].replace("template.pyc", "run.pyc")]
    gc.collect()
    gc.freeze()  # a collection in a clone must not touch, and so copy, what it shares
    return problems


def serve(link: socket.socket, filtering: bytes) -> NoReturn:
    """Clone for each order, and tell the end of each clone."""
    poll = select.poll()
    poll.register(link, select.POLLIN)
    living: dict[int, tuple[int, int]] = {}
    while True:
        for ready, _ in poll.poll():
            if ready == link.fileno():
                message, descriptors, _, _ = socket.recv_fds(link, MESSAGE_MAX, 1)
                if not message:
                    os._exit(0)
                ident, pid = _cloned(link, json.loads(message), descriptors, filtering)
                if pid > 0:
                    watched = os.pidfd_open(pid)
                    living[watched] = ident, pid
                    poll.register(watched, select.POLLIN)
            else:
                poll.unregister(ready)
                os.close(ready)
                ident, pid = living.pop(ready)
                _, status, used = os.wait4(pid, 0)
                _tell(link, ident, status, used.ru_utime + used.ru_stime, used.ru_maxrss)


def _cloned(
    link: socket.socket,
    order: Mapping[str, Any],
    descriptors: list[int],
    filtering: bytes,
) -> tuple[int, int]:
    try:
        return order["id"], warm_child.born(descriptors[0], filtering)
    except OSError as error:
        os.write(2, f"sovrun: {error}\n".encode())
        _tell(link, order["id"], signal.SIGKILL, 0.0, 0)
        return order["id"], -1
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _tell(link: socket.socket, ident: int, status: int, cpu_s: float, memory_kb: int) -> None:
    end = {
        "say": "gone",
        "id": ident,
        "status": status,
        "cpu_s": cpu_s,
        "memory": memory_kb * 1024,
    }
    link.send(json.dumps(end).encode())
