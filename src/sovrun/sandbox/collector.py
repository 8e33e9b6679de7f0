"""The process that takes out what a step left, so that large files never stop the supervisor.

Owns: its start, and what it answers with: one frame.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from sovrun.sandbox import collect, launch, wire
from sovrun.sandbox.verdicts import failure


def start(
    spool: Path, prefix: str, work: int, task: Mapping[str, Any], output: bytes | None
) -> tuple[int, int]:
    """Start it; return its process id and the descriptor that its answer comes from.

    Args:
        spool, prefix: where copies go, see `collect.Spool`.
        work: descriptor of the step's work directory.
        output: what the function returned; None for a program, whose files are its output.
    """
    reading, writing = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        limits = task["limits"]
        _work(
            writing,
            parent,
            collect.Spool(spool, prefix, limits["disk"], task["files_max"]),
            work,
            task,
            output,
        )
    os.close(writing)
    return pid, reading


def _work(
    writing: int, parent: int, spool: collect.Spool, work: int, task: Mapping[str, Any], output: bytes | None
) -> NoReturn:
    try:
        launch.die_with(parent)
        if output is None:
            output = collect.collect_outputs(work, spool, task["output_max"])
        else:
            collect.collect_made(work, output, frozenset(task["files"]), spool)
        made = [[digest, size, str(spool.path(digest))] for digest, size in spool.made.items()]
        wire.send(writing, {"failure": None, "made": made}, output)
    except collect.Refused as error:
        wire.send(writing, {"failure": failure(error.reason, str(error))}, b"")
    except Exception as error:  # noqa: BLE001 -- this process has no one else to tell
        wire.send(writing, {"failure": failure("sandbox_error", f"collecting failed: {error!r}")}, b"")
    finally:
        os._exit(0)
