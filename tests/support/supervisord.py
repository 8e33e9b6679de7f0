"""A real supervisord in a process of its own, and a program for it to run that leaves a trace of every start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from sovrun.core.commands.model import CreateDeployment, StopDeployment
from sovrun.execution.adapters.supervisor import open_adapter
from sovrun.execution.adapters.supervisor_rpc import Address, Connection
from sovrun.execution.adapters.supervisor_states import STATES
from sovrun.execution.port import Call, Deployment, DeploymentStatus, Done, ExecutionAdapter, OutcomeUnknown
from support.providers import Entry, Provider
from support.up import descendants, until

PATIENCE_SECONDS = 60.0
PATIENT_US = 60_000_000
"""For calls that shall see the end of what they ask for, however slow the machine is."""

PROGRAM = """
import json, os, signal, sys
deaf = sys.argv[2:] == ["deaf"]
if deaf:
    signal.signal(signal.SIGTERM, lambda *_: None)
told = {name: value for name, value in os.environ.items() if name.startswith(("SOVRUN_", "BOT_"))}
with open(sys.argv[1], "a") as starts:
    starts.write(json.dumps({"pid": os.getpid(), "environment": told}) + "\\n")
if sys.argv[2:] and not deaf:
    sys.exit(int(sys.argv[2]))
while True:
    signal.pause()
"""

CONFIGURATION = """
[supervisord]
nodaemon=true
logfile={folder}/supervisord.log
pidfile={folder}/supervisord.pid
childlogdir={folder}/logs
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[{server}]
{listen}
[program:of-the-operator]
command={python} {folder}/program.py {folder}/operator-starts
startsecs=0
[include]
files={folder}/conf.d/*.conf
"""


@dataclass
class Supervisord:
    """A supervisord in a folder; `listen` is what its HTTP server is told, `address` where that is."""

    folder: Path
    address: Address
    listen: str
    credentials: tuple[str, str] | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        for name in ("conf.d", "logs"):
            (self.folder / name).mkdir()
        (self.folder / "program.py").write_text(PROGRAM)
        server = "unix_http_server" if self.address.path is not None else "inet_http_server"
        text = CONFIGURATION.format(
            folder=self.folder, listen=self.listen, server=server, python=sys.executable
        )
        (self.folder / "supervisord.conf").write_text(text)

    @property
    def conf_d(self) -> Path:
        return self.folder / "conf.d"

    def files(self) -> list[str]:
        return sorted(path.name for path in self.conf_d.glob("*.conf"))

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "supervisor.supervisord",
                    "-n",
                    "-c",
                    self.folder / "supervisord.conf",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        process = self.process
        until(lambda: self.answers() or process.poll() is not None, "an answer of supervisord")
        assert process.poll() is None, (self.folder / "output").read_text()

    def answers(self) -> bool:
        try:
            self.ask("supervisor.getState")
        except OutcomeUnknown:
            return False
        return True

    def ask(self, method: str, *parameters: str | bool) -> Any:
        """Call supervisord as its operator does."""
        connection = Connection(self.address, self.credentials)
        return connection.call(method, *parameters, deadline=monotonic() + PATIENCE_SECONDS)

    def states(self) -> dict[str, str]:
        """Return the state of every process by its name."""
        return {info["name"]: info["statename"] for info in self.ask("supervisor.getAllProcessInfo")}

    def settle(self) -> None:
        """Wait until nothing is about to change; what was just added is started between two questions."""
        moving = {"STARTING", "BACKOFF", "STOPPING"}
        until(lambda: self.ask("supervisor.getState") and not moving & set(self.states().values()), "calm")

    def starts(self, name: str = "starts") -> list[dict[str, Any]]:
        """Return what every process that was ever started has written."""
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def started(self, count: int) -> list[dict[str, Any]]:
        """Wait for so many starts in all and return them."""
        until(lambda: len(self.starts()) >= count, f"{count} starts")
        return self.starts()

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def stop(self) -> None:
        """Stop it as its operator does, with all that it runs."""
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(PATIENCE_SECONDS) == 0

    def kill(self) -> None:
        """Kill it and what it runs, if it runs."""
        if self.process is None or self.process.poll() is not None:
            return
        self.signal(signal.SIGSTOP)  # so that it starts nothing any more
        below = descendants(self.process.pid)
        self.process.kill()
        self.process.wait()
        for pid in below:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def artifact(self, *arguments: str, **more: Any) -> dict[str, Any]:
        """Return the settings of an artifact that runs the program."""
        command = [sys.executable, str(self.folder / "program.py"), str(self.folder / "starts"), *arguments]
        return {"command": command, "startSeconds": 0, "stopSeconds": 5, **more}

    def settings(self, **more: Any) -> dict[str, Any]:
        """Return settings of the adapter, with an artifact `bot` unless others are given."""
        anything = {"parameters": {"type": "object"}}
        return {
            "url": str(self.address),
            "directory": str(self.conf_d),
            "logs": str(self.folder / "logs"),
            "artifacts": {"bot": self.artifact(**anything)},
            **more,
        }


@contextmanager
def supervisord(*, running: bool = True) -> Iterator[Supervisord]:
    """Give a supervisord on a Unix socket; whatever of it is left at the end is killed."""
    with TemporaryDirectory(prefix="sovrun-sv-") as name:  # short enough for a socket
        folder = Path(name)
        server = Supervisord(folder, Address(f"{folder}/s.sock"), f"file={folder}/s.sock")
        if running:
            server.start()
        try:
            yield server
        finally:
            server.kill()


@asynccontextmanager
async def adapter_of(settings: Mapping[str, Any]) -> AsyncIterator[ExecutionAdapter]:
    adapter = open_adapter("host", settings)
    try:
        yield adapter
    finally:
        await adapter.close()


@asynccontextmanager
async def supervised(_folder: Path) -> AsyncIterator[Provider]:
    """Give the adapter on a real supervisord to the conformance suite."""

    @asynccontextmanager
    async def hanging() -> AsyncIterator[None]:
        server.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            server.signal(signal.SIGCONT)

    @asynccontextmanager
    async def gone() -> AsyncIterator[None]:
        server.stop()
        yield
        server.start()

    async def settle() -> None:
        server.settle()

    with supervisord() as server:
        async with adapter_of(server.settings()) as adapter:
            yield Provider(
                adapter,
                hanging,
                gone,
                raw_statuses=STATES,
                settle=settle,
                deployment=CreateDeployment("maker", "bot", None, {"symbol": "ACME"}),
                unknown_artifact="nobody-knows",
            )


SUPERVISOR = Entry("supervisor", supervised, frozenset({"deployment"}))

BOT = CreateDeployment(
    "maker", "bot", Decimal("1000.50"), {"symbol": "ACME", "note": 'it\'s "50%" ;#\n\u00e9'}
)
"""What the tests of this adapter deploy; its parameters are as nasty as they can be."""


async def created(host: ExecutionAdapter, call: Call, order: CreateDeployment = BOT) -> Deployment:
    outcome = await host.create_deployment(call, order)
    assert isinstance(outcome, Done), outcome
    assert isinstance(outcome.resource, Deployment)
    return outcome.resource


async def stopped(host: ExecutionAdapter, call: Call, deployment: str) -> Deployment:
    outcome = await host.stop_deployment(call, StopDeployment(deployment))
    assert isinstance(outcome, Done), outcome
    assert isinstance(outcome.resource, Deployment)
    return outcome.resource


async def status_of(host: ExecutionAdapter, server: Supervisord, call: Call) -> DeploymentStatus:
    server.settle()
    found = await host.find_deployment(call, str(call.client_id))
    assert found is not None
    return found.status


def starts_by_deployment(server: Supervisord) -> Counter[str]:
    return Counter(start["environment"]["SOVRUN_DEPLOYMENT_ID"] for start in server.starts())
