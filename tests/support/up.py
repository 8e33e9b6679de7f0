"""Driving a real `sovrun up` in a process of its own, and looking at the processes below it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from support.cli import Done, command, environment, sovrun

Found = TypeVar("Found")
PATIENCE_SECONDS = 60.0


def until(look: Callable[[], Found], what: str, patience: float = PATIENCE_SECONDS) -> Found:
    """Return what `look` finds as soon as it finds something."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come about in {patience:g} s")


def children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    found = children(pid)
    for child in list(found):
        found += descendants(child)
    return found


def alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


@dataclass
class Up:
    """A server, and the commands beside it."""

    folder: Path
    options: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None

    @property
    def store(self) -> str:
        return f"sqlite:{self.folder / 's.db'}"

    @property
    def socket(self) -> Path:
        return self.folder / "s.db.sock"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def log(self) -> str:
        return (self.folder / "up.log").read_text()

    def start(self) -> None:
        """Start it and wait until it serves."""
        served = self.log().count("serving ") if (self.folder / "up.log").exists() else 0
        with (self.folder / "up.log").open("ab") as log:
            self.process = subprocess.Popen(
                command("up", "--store", self.store, *self.options),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
            )
        process = self.process
        until(lambda: self.log().count("serving ") > served or process.poll() is not None, "serving")
        assert process.poll() is None, self.log()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Stop it as an operator does. Returns: its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=PATIENCE_SECONDS)

    def workers(self) -> list[int]:
        return [pid for pid in children(self.pid) if alive(pid)]

    def do(self, *arguments: object) -> Done:
        """Run a command of the line on the same store."""
        return sovrun(*arguments, "--store", self.store, cwd=self.folder)

    def submit(self, file: Path, *options: object) -> str:
        done = self.do("submit", file, "--isolation", self.options[1], *options)
        assert done.code == 0, done.err
        return done.out.strip()

    def show(self, run: str) -> dict[str, Any]:
        shown: dict[str, Any] = self.do("show", run, "--json").json
        return shown

    def step(self, run: str, step: str) -> dict[str, Any]:
        return next(each for each in self.show(run)["steps"] if each["id"] == step)

    def events(self, run: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.do("events", run, "--json").out.splitlines()]

    def ended(self, run: str) -> dict[str, Any]:
        """Wait for the end of a run and return it."""
        ends = ("completed", "failed", "cancelled")
        return until(lambda: (shown := self.show(run))["status"] in ends and shown, f"the end of {run}")


@contextmanager
def up(
    isolation: str = "in-process",
    *,
    workers: int = 1,
    slots: int = 2,
    grace: float = 10,
    more: tuple[str, ...] = (),
) -> Iterator[Up]:
    """Give a server on a new store; whatever of it is left at the end is killed."""
    with TemporaryDirectory(prefix="sovrun-up-") as folder:  # short enough for a socket
        options = ("--isolation", isolation, "--workers", str(workers), "--slots", str(slots))
        server = Up(Path(folder), (*options, "--grace", str(grace), *more))
        server.start()
        try:
            yield server
        finally:
            if server.process is not None and server.process.poll() is None:
                below = descendants(server.pid)
                server.kill()
                for pid in below:
                    until(lambda pid=pid: not alive(pid) or _killed(pid), f"the end of {pid}")  # type: ignore[misc]


def _killed(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return False
