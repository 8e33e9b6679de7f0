"""The executor that runs every step in a sandbox of its own.

Owns: `SandboxExecutor`, the engine's side of the link to the supervisor process, and that process's life.
Must not touch: sandboxes themselves; the supervisor owns them, so that nothing that computes shares this interpreter.
"""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

import sovrun
from sovrun.core.errors import IsolationUnavailable
from sovrun.core.ids import Digest
from sovrun.core.network import Connection
from sovrun.core.spec.model import SECOND_US, Resources
from sovrun.core.walls import Walls
from sovrun.ports import Failed, MadeFile, Succeeded, Task, Usage
from sovrun.sandbox import wire
from sovrun.sandbox.caps import capped
from sovrun.sandbox.environment import environment_digest
from sovrun.sandbox.network import NotAdmitted, Route, admit, trusted_folders
from sovrun.sandbox.reasons import REASONS
from sovrun.sandbox.settings import Frame, SandboxSettings, make_frame
from sovrun.sandbox.verdicts import failure

_CHUNK: Final = 1 << 18
_BODY_MAX: Final = 1 << 31
SUPERVISOR: Final = "from sovrun.sandbox.supervisor import main; main()"
_FAREWELL_S: Final = 10.0


def start_supervisor(
    settings: SandboxSettings, frame: Frame, spool: Path
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a supervisor and configure it; return the process of its guard and our end of the link, which is blocking.

    Raises: IsolationUnavailable when bubblewrap is missing.
    """
    bwrap = settings.bubblewrap()
    if bwrap is None:
        raise IsolationUnavailable(
            "bubblewrap is not installed", hint="install the package `bubblewrap`, version 0.8 or newer"
        )
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(  # noqa: S603 -- our own interpreter and module
            [sys.executable, "-s", "-P", "-B", "-c", SUPERVISOR, str(theirs.fileno()), str(os.getpid())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # what a terminal sends to the engine is the engine's to act on
            env={"PYTHONPATH": str(Path(sovrun.__file__).parents[1]), "LC_ALL": "C.UTF-8"},
            cwd="/",
        )
    configuration = asdict(settings) | {"bwrap": str(bwrap), "frame": frame.wire(), "spool": str(spool)}
    wire.send(ours.fileno(), configuration)
    return process, ours


def limits_of(resources: Resources) -> dict[str, int]:
    """Return the limits that the sandbox's first process sets for itself and its children."""
    return {
        "memory": resources.memory,
        "processes": resources.processes,
        "open_files": resources.open_files,
        "disk": resources.disk,
        "core": 0,
        "cpu_seconds": max(1, math.ceil(resources.cpu_us / SECOND_US)),
    }


def request_of(task: Task, routes: Sequence[Route] = ()) -> dict[str, Any]:
    """Return a task as the supervisor takes it; its arguments and the values of its secrets travel beside it."""
    return {
        "tenant": str(task.tenant),
        "kind": task.kind.value,
        "entry": task.entry,
        "code": None if task.code is None else str(task.code),
        "files": {digest: str(path) for digest, path in task.files.items()},
        "limits": limits_of(task.resources),
        "epoch": task.epoch,
        "output_max": task.resources.output,
        "log_max": task.resources.log,
        "log": task.log,
        "wall_us": task.resources.wall_us,
        "grace_us": task.resources.grace_us,
        "files_max": task.resources.files,
        "memory_hard": task.resources.memory_hard,
        "network": [route.wire() for route in routes],
        "trusted": trusted_folders() if routes else [],
        "secrets": list(task.secret_values or ()),
        "reproducible": task.reproducible,
        "verified": task.verified,
    }


def outcome_of(head: Mapping[str, Any], output: bytes, log: bytes) -> Succeeded | Failed:
    """Return a supervisor's reply as a value of the port."""
    cpu_us, wall_us, memory = head["usage"]
    usage = Usage(cpu_us=cpu_us, wall_us=wall_us, memory=memory)
    connections = tuple(Connection(*entry) for entry in head["connections"])
    walls = Walls(**head["walls"]) if head["walls"]["filter"] else None
    told = head["failure"]
    if told is None:
        made = tuple(MadeFile(Digest(digest), size, Path(path)) for digest, size, path in head["made"])
        return Succeeded(output=output, made=made, log=log, usage=usage, connections=connections, walls=walls)
    return replace(failed_of(told, log, usage, connections), walls=walls)


def failed_of(
    told: Mapping[str, Any], log: bytes, usage: Usage, connections: tuple[Connection, ...] = ()
) -> Failed:
    """Return a failure as a value of the port; what it implies is looked up by its reason."""
    meaning = REASONS[told["reason"]]
    return Failed(
        reason=told["reason"],
        message=told["message"],
        error=told.get("error"),
        traceback=told.get("traceback"),
        lineage=tuple(told.get("lineage", ())),
        circumstance=meaning.circumstance,
        retryable=meaning.retryable,
        log=log,
        usage=usage,
        connections=connections,
    )


def _discard(outcome: Succeeded | Failed) -> None:
    for made in outcome.made if isinstance(outcome, Succeeded) else ():
        made.path.unlink(missing_ok=True)


class SandboxExecutor:
    """Runs attempts in sandboxes, as many at once as it is asked to. Made by `open`, ended by `close`."""

    isolation = "sandbox"
    inline = False

    def __init__(self, spool: Path, settings: SandboxSettings) -> None:
        spool.mkdir(parents=True, exist_ok=True)
        spool.chmod(0o700)
        self.environment = environment_digest()
        self._spool = spool.resolve()
        self._settings = settings
        self._frame_folder = Path(mkdtemp(prefix="frame-", dir=self._spool))
        self._frame = make_frame(self._frame_folder, warm=settings.warm)
        self._link: _Link | None = None
        self._starting = asyncio.Lock()
        self._serial = 0

    @classmethod
    async def open(cls, spool: Path, settings: SandboxSettings | None = None) -> SandboxExecutor:
        """Return an executor, once a real step has been seen to run in a sandbox on this machine.

        Args:
            spool: directory for files that steps make; made when missing, readable by nobody else.
        Raises: IsolationUnavailable, saying what to change on this machine.
        """
        from sovrun.sandbox.probe import require_isolation  # noqa: PLC0415 -- the probe itself uses this module

        chosen = settings or SandboxSettings()
        await asyncio.to_thread(require_isolation, chosen)
        return cls(spool, chosen)

    async def execute(self, task: Task) -> Succeeded | Failed:
        """Run one attempt. Cancelling the call returns only when its processes are dead.

        The step is told to end and has its grace time; cancelling again kills it at once.
        """
        try:
            routes = await admit(task, self._settings.endpoints)
        except NotAdmitted as refused:
            return failed_of(refused.told, b"", Usage())
        link = await self._running_link()
        self._serial += 1
        values = (task.secret_values or {}).values()
        granted = replace(task, resources=capped(task.resources, task.tenant, self._settings.caps))
        return await link.run(self._serial, request_of(granted, routes), task.arguments, *values)

    async def _running_link(self) -> _Link:
        async with self._starting:
            if self._link is None or self._link.is_dead:
                if self._link is not None:
                    await self._link.close()
                folder = Path(mkdtemp(prefix="made-", dir=self._spool))
                process, ours = start_supervisor(self._settings, self._frame, folder)
                self._link = await _Link.open(process, ours)
            return self._link

    async def close(self) -> None:
        """Kill what still runs."""
        if self._link is not None:
            await self._link.close()
            self._link = None
        shutil.rmtree(self._frame_folder, ignore_errors=True)
        for folder in self._spool.glob("made-*"):
            with suppress(OSError):  # files that the receiver has not taken yet stay
                folder.rmdir()


class _Link:
    """One supervisor process and the attempts that it runs for us."""

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.is_dead = False
        self._process = process
        self._reader = reader
        self._writer = writer
        self._waiting: dict[int, asyncio.Future[Succeeded | Failed]] = {}
        self._listener = asyncio.create_task(self._listen())

    @classmethod
    async def open(cls, process: subprocess.Popen[bytes], ours: socket.socket) -> _Link:
        reader, writer = await asyncio.open_connection(sock=ours, limit=_CHUNK)
        return cls(process, reader, writer)

    async def run(self, ident: int, request: dict[str, Any], *parts: bytes) -> Succeeded | Failed:
        answer: asyncio.Future[Succeeded | Failed] = asyncio.get_running_loop().create_future()
        self._waiting[ident] = answer
        self._write({"do": "run", "id": ident, "task": request}, *parts)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            self._write({"do": "cancel", "id": ident})
            while not answer.done():  # a slot is free only when its processes are dead
                try:
                    await asyncio.shield(answer)
                except asyncio.CancelledError:
                    self._write({"do": "kill", "id": ident})
            _discard(answer.result())
            raise

    def _write(self, head: dict[str, Any], *parts: bytes) -> None:
        if self.is_dead:
            self._fail_all()
        else:
            self._writer.write(wire.encode(head, *parts))

    async def _listen(self) -> None:
        decoder = wire.Decoder(body_max=_BODY_MAX)
        try:
            while data := await self._reader.read(_CHUNK):
                for head, [output, log] in decoder.feed(data):
                    answer = self._waiting.pop(head["id"])
                    answer.set_result(outcome_of(head, output, log))
        except ConnectionError:
            pass
        finally:
            self.is_dead = True
            self._fail_all()

    def _fail_all(self) -> None:
        told = failure(
            "sandbox_error", "the process that supervises the sandboxes died, and the step with it"
        )
        for answer in self._waiting.values():
            answer.set_result(failed_of(told, b"", Usage()))
        self._waiting.clear()

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()
        await self._listener
        try:
            await asyncio.to_thread(self._process.wait, _FAREWELL_S)
        except subprocess.TimeoutExpired:  # its sandboxes die with it either way
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
