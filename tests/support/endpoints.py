"""Real servers on the loopback of this machine, and executors whose operator allows steps to reach them."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from sovrun.core.network import parse_endpoint
from sovrun.ports import Failed, Succeeded, Task
from sovrun.sandbox.executor import SandboxExecutor
from sovrun.sandbox.network import parse_allowed
from sovrun.sandbox.settings import SandboxSettings
from support.tasks import require_bubblewrap, task

CLIENT = Path(__file__).with_name("network_client.py").read_text()
"""Steps that use the network, as the text of a module."""

Handler = Callable[[socket.socket], Any]


class Server:
    """A TCP server; what its handler returned or raised for each connection is kept, in the order of their ends."""

    def __init__(self, handler: Handler, host: str = "127.0.0.1", port: int = 0) -> None:
        self._listening = socket.create_server((host, port), backlog=512)
        self._handler = handler
        self._ended = threading.Condition()
        self._results: list[Any] = []
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    def _handle(self, connection: socket.socket) -> None:
        with connection:
            try:
                result = self._handler(connection)
            except OSError as error:
                result = type(error).__name__
        with self._ended:
            self._results.append(result)
            self._ended.notify_all()

    def results(self, count: int) -> list[Any]:
        """Return the results of the first `count` connections, once they have ended."""
        with self._ended:
            assert self._ended.wait_for(lambda: len(self._results) >= count, timeout=60)
            return self._results[:count]

    @property
    def calls(self) -> int:
        """How many connections have ended."""
        return len(self._results)

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # closing alone would not wake who waits for a call
        self._listening.close()


@contextmanager
def server(handler: Handler, host: str = "127.0.0.1", port: int = 0) -> Iterator[Server]:
    made = Server(handler, host, port)
    try:
        yield made
    finally:
        made.close()


def all_of(connection: socket.socket) -> bytes:
    """Read until the other side has ended."""
    data = bytearray()
    while more := connection.recv(1 << 16):
        data += more
    return bytes(data)


def web_page(connection: socket.socket) -> str:
    """Answer one HTTP request with its path and the host it asked for; return its first line."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(1 << 16)
    lines = head.decode().split("\r\n")
    host = next(line.partition(" ")[2] for line in lines if line.lower().startswith("host:"))
    body = f"{lines[0].split()[1]} at {host}".encode()
    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    return lines[0]


@asynccontextmanager
async def sandbox_allowing(folder: Path, *entries: str) -> AsyncIterator[SandboxExecutor]:
    """An executor whose operator's list has `entries`."""
    require_bubblewrap()
    settings = SandboxSettings(endpoints=tuple(map(parse_allowed, entries)))
    executor = await SandboxExecutor.open(folder / "spool", settings)
    try:
        yield executor
    finally:
        await executor.close()


def declaring(endpoints: str | list[str], entry: str | tuple[str, ...], **more: Any) -> Task:
    """A task of a step that declares endpoints."""
    texts = [endpoints] if isinstance(endpoints, str) else endpoints
    return replace(task(entry, **more), endpoints=tuple(map(parse_endpoint, texts)))


def authority(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """Make an authority and a certificate of it for `name`; return its own, the server's, and the server's key."""

    def request(subject: str, *options: str) -> tuple[Path, Path]:
        certificate, key = folder / f"{subject}.pem", folder / f"{subject}.key"
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ]
        command += [
            "-days",
            "2",
            "-subj",
            f"/CN={subject}",
            "-keyout",
            str(key),
            "-out",
            str(certificate),
            *options,
        ]
        subprocess.run(command, check=True, capture_output=True)
        return certificate, key

    root, root_key = request("root", "-addext", "keyUsage=critical,keyCertSign")
    usage = ("-addext", f"subjectAltName=DNS:{name}", "-addext", "basicConstraints=critical,CA:FALSE")
    certificate, key = request(name, "-CA", str(root), "-CAkey", str(root_key), *usage)
    return root, certificate, key


def told(outcome: Succeeded | Failed) -> list[tuple[str, int, str, int]]:
    """Host, port, end and count of the connections of an attempt."""
    return [(one.host, one.port, one.end, one.count) for one in outcome.connections]
