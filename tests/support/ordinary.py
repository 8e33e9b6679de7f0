"""A process that runs steps as the user it is told to be, for tests that are run by root, too.

Started as a script by `Attacker`. It reads one request a line and answers each with one line, in any order.
"""

# ruff: noqa: PLC0415 -- nothing of Sovrun is to be imported as root
from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

SESSION_KEY = b"canary-of-the-keyring"


def become(uid: int) -> None:
    if os.getuid() == 0 and uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def leave_key() -> bool:
    """Put a secret into a new session keyring, as a login program would; return whether this machine has keyrings."""
    numbers = {"x86_64": (250, 248), "aarch64": (219, 217)}[os.uname().machine]
    libc = ctypes.CDLL(None)
    libc.syscall(numbers[0], 1, b"launcher")
    return bool(libc.syscall(numbers[1], b"user", SESSION_KEY, b"secret", 6, -3) > 0)


async def serve() -> None:
    from sovrun.core.errors import SovrunError
    from sovrun.sandbox.executor import SandboxExecutor
    from sovrun.sandbox.probe import probe
    from sovrun.sandbox.settings import SandboxSettings
    from support.supervised import guard_of, supervisor_of
    from support.tasks import task

    executors: dict[tuple[bool, bool], SandboxExecutor] = {}
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()

    async def answer(request: dict[str, Any]) -> None:
        groups = request.get("control_groups", True)
        kind = groups, request["warm"]
        reply: dict[str, Any] = {"id": request["id"]}
        try:
            if request["do"] == "probe":
                reply |= {"items": [[item.name, item.ok, item.detail] for item in probe().items]}
                return
            if kind not in executors:
                settings = SandboxSettings(control_groups=groups, warm=request["warm"])
                executors[kind] = await SandboxExecutor.open(folder / f"spool-{groups}", settings)
            if request["do"] == "kill":
                found = {"supervisor": supervisor_of, "guard": guard_of}[request["whom"]](executors[kind])
                os.kill(found, signal.SIGKILL)
            else:
                entry = request["entry"]
                given = task(
                    tuple(entry) if isinstance(entry, list) else entry,
                    code=Path(request["code"]),
                    **request["more"],
                )
                reply |= told(await executors[kind].execute(given))
        except SovrunError as error:
            reply |= {"ok": False, "reason": error.code, "message": f"{error.detail} {error.hint}"}
        finally:
            say(reply)

    def say(reply: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()

    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            one = asyncio.create_task(answer(json.loads(line)))
            running.add(one)
            one.add_done_callback(running.discard)
        for executor in executors.values():
            await executor.close()


def told(outcome: Any) -> dict[str, Any]:
    walls = outcome.walls and {"landlock": outcome.walls.landlock, "memory": outcome.walls.memory}
    found: dict[str, Any] = {"walls": walls, "usage": outcome.usage.memory, "log": len(outcome.log)}
    if hasattr(outcome, "output"):
        modes = [oct(made.path.stat().st_mode & 0o7777) for made in outcome.made]
        return {"ok": True, "output": json.loads(outcome.output), "modes": modes, **found}
    return {"ok": False, "reason": outcome.reason, "message": outcome.message, **found}


if __name__ == "__main__":
    become(int(sys.argv[1]))
    leave_key()
    asyncio.run(serve())
