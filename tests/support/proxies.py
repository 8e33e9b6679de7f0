"""A proxy between an adapter and its provider that does what networks do, at the moment that hurts.

It understands just enough of HTTP/1.1 to know where a request and its answer end, so that it can cut a connection after
the provider has done what was asked and before anybody was told.

As a program, for what is killed and started again around it:

    python tests/support/proxies.py --listen 0 --to 127.0.0.1:8000 --seed 7 --cut-share 0.33 --log FILE

prints `listening HOST:PORT` and then goes on until it is ended; the log has a line of JSON for every request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import reduce
from pathlib import Path
from random import Random
from typing import Any, Final, TextIO

_CLIENT_ID: Final = re.compile(rb"[0-9a-f]{32}")
_STRUCT: Final = re.compile(rb"<struct>(?:(?!</?struct>).)*</struct>", re.DOTALL)
_HEAD_MAX: Final = 1 << 20


class Fault(StrEnum):
    """What happens to a request."""

    NONE = "none"
    CUT_BEFORE = "cut_before"
    """The connection is closed, and the provider never hears of it."""
    CUT_AFTER = "cut_after"
    """The provider answers, and the connection is closed without a byte of it."""
    RESET_AFTER = "reset_after"
    """As `CUT_AFTER`, with a reset."""
    CUT_WITHIN = "cut_within"
    """The provider answers, and half of it arrives."""
    HANG = "hang"
    """The provider answers, and nothing of it arrives while the proxy stands."""
    ERROR_AFTER = "error_after"
    """The provider answers, and a 500 arrives instead."""
    NOT_JSON_AFTER = "not_json_after"
    """The provider answers, and a 200 with something else arrives instead."""
    GARBAGE_AFTER = "garbage_after"
    """The provider answers, and what arrives is no HTTP."""


@dataclass(frozen=True)
class Asked:
    """A request that passed: its line, the client id in it if there is one, how often that was seen, what happened."""

    method: str
    path: str
    key: str
    nth: int
    fault: Fault


Plan = Callable[[str, str, str, int], Fault]
"""What happens to a request, by method, path, key and how often this key was seen with this method before."""


def always(fault: Fault, *methods: str) -> Plan:
    """Have every request of these methods meet a fault; without methods, every request."""
    return lambda method, _path, _key, _nth: fault if not methods or method in methods else Fault.NONE


def seeded(seed: int, share: float, methods: Iterable[str], fault: Fault = Fault.CUT_AFTER) -> Plan:
    """Have a share of requests meet a fault, the same ones for the same seed in whatever order they come."""
    chosen = frozenset(methods)

    def plan(method: str, _path: str, key: str, nth: int) -> Fault:
        strikes = method in chosen and Random(f"{seed}/{method}/{key}/{nth}").random() < share
        return fault if strikes else Fault.NONE

    return plan


def mixed(seed: int, share: float, methods: Iterable[str], faults: Sequence[Fault]) -> Plan:
    """Have a share of requests meet one of several faults, each the same one for the same seed."""
    strikes = seeded(seed, share, methods)

    def plan(method: str, path: str, key: str, nth: int) -> Fault:
        if strikes(method, path, key, nth) is Fault.NONE:
            return Fault.NONE
        return Random(f"{seed}/which/{method}/{key}/{nth}").choice(faults)

    return plan


Reword = Callable[[bytes], bytes]
"""What the proxy makes of a provider's answer."""


def said(name: str, word: str, other: str) -> Reword:
    """Have the provider say another word of what bears a name, in JSON and in XML-RPC."""

    def told(value: Any) -> Any:
        if isinstance(value, list):
            return [told(item) for item in value]
        if not isinstance(value, dict):
            return value
        is_that = any(isinstance(item, str) and name in item for item in value.values())
        return {key: other if is_that and item == word else told(item) for key, item in value.items()}

    def reword(answer: bytes) -> bytes:
        head, _, body = answer.partition(b"\r\n\r\n")
        if body.startswith(b"<?xml"):
            body = _STRUCT.sub(
                lambda struct: (
                    struct[0].replace(word.encode(), other.encode())
                    if name.encode() in struct[0]
                    else struct[0]
                ),
                body,
            )
        elif body:
            body = json.dumps(told(json.loads(body))).encode()
        head = re.sub(rb"(?i)(content-length:) *[0-9]+", b"\\1 %d" % len(body), head)
        return head + b"\r\n\r\n" + body

    return reword


def in_turn(*rewords: Reword) -> Reword:
    """Have several things said otherwise."""
    return lambda answer: reduce(lambda told, reword: reword(told), rewords, answer)


@dataclass
class Proxy:
    """Listens on `port` of 127.0.0.1 and passes requests on to a provider."""

    host: str
    to_port: int
    plan: Plan = field(default=always(Fault.NONE))
    log: TextIO | None = None
    asked: list[Asked] = field(default_factory=list)
    port: int = 0
    reword: Reword = bytes
    _server: asyncio.Server | None = None
    _seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        """Listen, on the same port as before if it has listened before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=_HEAD_MAX)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Refuse connections from now on, and close those that are open."""
        if self._server is not None:
            self._server.close()
            for task in [*self._open]:
                task.cancel()
            await asyncio.gather(*self._open)
            await self._server.wait_closed()
            self._server = None

    @asynccontextmanager
    async def meeting(self, plan: Plan) -> AsyncIterator[None]:
        """Have requests meet other faults for a while."""
        before, self.plan = self.plan, plan
        try:
            yield
        finally:
            self.plan = before

    @contextmanager
    def saying(self, reword: Reword) -> Iterator[None]:
        """Have answers say something else for a while."""
        before, self.reword = self.reword, reword
        try:
            yield
        finally:
            self.reword = before

    @asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        """Refuse connections for a while."""
        await self.close()
        try:
            yield
        finally:
            await self.open()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # One side went away, which ends the other too; or the proxy closes. A connection's task must not end as
            # cancelled: asyncio would report it as a fault of the server.
            pass
        finally:
            self._open.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Pass one request on; return whether the connection stays open."""
        request = await _message(reader)
        if request is None:
            return False
        fault = self._note(request)
        if fault is Fault.CUT_BEFORE:
            return False
        answer = self.reword(await self._answer(request))
        match fault:
            case Fault.NONE:
                writer.write(answer)
            case Fault.HANG:
                await asyncio.Event().wait()
            case Fault.RESET_AFTER:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            case Fault.CUT_WITHIN:
                writer.write(answer[: len(answer) - max(1, len(answer.partition(b"\r\n\r\n")[2]) // 2)])
            case Fault.ERROR_AFTER:
                writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\noops")
            case Fault.NOT_JSON_AFTER:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")
            case Fault.GARBAGE_AFTER:
                writer.write(b"\x00\x01\x02 what is this?\r\n\r\n")
            case _:
                pass
        await writer.drain()
        return fault is Fault.NONE

    async def _answer(self, request: bytes) -> bytes:
        """Return the whole answer of the provider to one request, on a connection of its own."""
        reader, writer = await asyncio.open_connection(self.host, self.to_port, limit=_HEAD_MAX)
        try:
            writer.write(request)
            await writer.drain()
            answer = await _message(reader, is_answer=True)
        finally:
            writer.close()
        if answer is None:
            raise ConnectionResetError("the provider went away")
        return answer

    def _note(self, request: bytes) -> Fault:
        method, path, _ = request.partition(b"\r\n")[0].decode().split(" ", 2)
        found = _CLIENT_ID.search(path.encode()) or _CLIENT_ID.search(request.partition(b"\r\n\r\n")[2])
        key = found[0].decode() if found else path
        nth = self._seen[method, key]
        self._seen[method, key] += 1
        asked = Asked(method, path, key, nth, self.plan(method, path, key, nth))
        self.asked.append(asked)
        if self.log is not None:
            line = {"method": method, "path": path, "key": key, "nth": nth, "fault": asked.fault}
            self.log.write(json.dumps(line) + "\n")
            self.log.flush()
        return asked.fault


async def _message(reader: asyncio.StreamReader, *, is_answer: bool = False) -> bytes | None:
    """Return one whole message of HTTP/1.1 as it came, None when there is no more."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
    }
    if b"content-length" in fields:
        return head + await reader.readexactly(int(fields[b"content-length"]))
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        return head + await _chunks(reader)
    has_body = is_answer and head.split(b" ", 2)[1][:3] not in (b"204", b"304")
    return head + await reader.read(-1) if has_body else head


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        body += line + await reader.readexactly(size + 2)
        if size == 0:
            return body


@asynccontextmanager
async def proxied(port: int, plan: Plan | None = None) -> AsyncIterator[Proxy]:
    """Give a proxy before a provider on this machine."""
    proxy = Proxy("127.0.0.1", port, plan or always(Fault.NONE))
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.close()


async def _main(options: argparse.Namespace) -> None:
    host, _, port = options.to.rpartition(":")
    plan = seeded(options.seed, options.cut_share, options.methods.split(","), Fault(options.fault))
    log = Path(options.log).open("a") if options.log else None  # noqa: ASYNC230, SIM115 -- one file, open to the end
    proxy = Proxy(host, int(port), plan, log, port=options.listen)
    await proxy.open()
    print(f"listening 127.0.0.1:{proxy.port}", flush=True)  # noqa: T201 -- it is a program
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Pass requests on, and cut some connections after that.")
    parser.add_argument("--listen", type=int, default=0, metavar="PORT", help="0 takes a free one")
    parser.add_argument("--to", required=True, metavar="HOST:PORT", help="the provider")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cut-share", type=float, default=0.33, help="share of requests that meet the fault")
    parser.add_argument("--methods", default="POST,DELETE", help="which requests may meet it")
    parser.add_argument("--fault", default="cut_after", choices=[str(fault) for fault in Fault])
    parser.add_argument("--log", metavar="FILE")
    with suppress(KeyboardInterrupt):
        asyncio.run(_main(parser.parse_args()))
