"""Carries the connections of one attempt: from its listeners to exactly the addresses that were pinned for them.

Owns: `Relay`, a loop in a process of its own, which reads from one side only what the other has taken, ends each direction
as its sender does, and counts. Standard library only.
Must not touch: names and what is said; whatever is carried is bytes.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from sovrun.sandbox import wire

OPEN_MAX: Final = 256
"""Connections at a time; further ones wait in the listeners' queues."""
TOLD_MAX: Final = 100
"""Connections that are told one by one; later ones are summed up."""
DIAL_SECONDS: Final = 30.0
DRAIN_SECONDS: Final = 10.0
"""How long what a step had sent may still take to be delivered after its end."""

DRAIN: Final = b"d"
CUT: Final = b"c"

CHUNK: Final = 1 << 17
"""Bytes that are held of one direction of a connection, at most."""
_RESET: Final = struct.pack("ii", 1, 0)
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class _Way:
    """One direction of a connection: what was read and is not written yet, and how far its end has come."""

    __slots__ = ("carried", "ended", "pending", "shut")

    def __init__(self) -> None:
        self.pending = memoryview(b"")
        self.carried = 0
        self.ended = False
        self.shut = False


class _Connection:
    """One connection of the step, and the one that is made for it outside."""

    def __init__(self, relay: Relay, route: Mapping[str, Any], inside: socket.socket) -> None:
        self.route = route
        self.began = time.monotonic()
        self.out, self.back = _Way(), _Way()
        self.dial_until: float | None = None
        self._relay = relay
        self._inside = inside
        self._outside: socket.socket | None = None
        self._addresses = iter(route["addresses"])

    def dial(self) -> None:
        """Begin to connect to the next pinned address; without one left, refuse the step's call."""
        self._drop_outside()
        for address in self._addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            try:
                outside = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            except OSError:  # the machine has no such protocol
                continue
            outside.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                outside.connect((address, self.route["port"]))
            except BlockingIOError:
                pass
            except OSError:
                outside.close()
                continue
            self._outside = outside
            self.dial_until = time.monotonic() + DIAL_SECONDS
            self._relay.watch(outside, _WRITE, self._on_dialled)
            return
        self.end("refused")

    def _on_dialled(self, _: int) -> None:
        if self._outside is None or self._outside.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.dial()
            return
        self.dial_until = None
        self._settle()

    def _on_inside(self, events: int) -> None:
        self._carry(events, self._inside, self.out, self._outside, self.back)

    def _on_outside(self, events: int) -> None:
        self._carry(events, self._outside, self.back, self._inside, self.out)

    def _carry(
        self, events: int, near: socket.socket | None, away: _Way, far: socket.socket | None, towards: _Way
    ) -> None:
        """Move what can be moved now: `away` from the socket that is ready, `towards` it."""
        if near is None or far is None:
            return
        try:
            if events & _WRITE:
                self._flush(near, towards)
            if events & _READ and not away.pending and not away.ended:
                data = near.recv(CHUNK)
                away.ended = not data
                away.pending = memoryview(data)
                self._flush(far, away)
        except BlockingIOError:
            pass
        except OSError:
            self.end("reset")
            return
        self._settle()

    @staticmethod
    def _flush(to: socket.socket, way: _Way) -> None:
        while way.pending:
            try:
                sent = to.send(way.pending)
            except BlockingIOError:
                return
            way.carried += sent
            way.pending = way.pending[sent:]

    def _settle(self) -> None:
        """Hand on ends that have been reached, and watch for what can happen next."""
        if self._outside is None or self.dial_until is not None:
            return
        for way, to in ((self.out, self._outside), (self.back, self._inside)):
            if way.ended and not way.pending and not way.shut:
                way.shut = True
                try:
                    to.shutdown(socket.SHUT_WR)
                except OSError:
                    self.end("reset")
                    return
        if self.out.shut and self.back.shut:
            self.end("closed")
            return
        self._watch(self._inside, self.out, self.back, self._on_inside)
        self._watch(self._outside, self.back, self.out, self._on_outside)

    def _watch(self, one: socket.socket, away: _Way, towards: _Way, on_ready: Callable[[int], None]) -> None:
        reading = _READ if not away.pending and not away.ended else 0
        self._relay.watch(one, reading | (_WRITE if towards.pending else 0), on_ready)

    def drain(self) -> None:
        """See what the step has sent to its end, nothing more: it is dead, and nobody is left who could read."""
        self.back.pending = memoryview(b"")
        self.back.ended = self.back.shut = True
        self._settle()

    def end(self, end: str) -> None:
        """Close both sides; unless both were through, so that neither takes what it got for all there was."""
        for one in (self._inside, self._outside):
            if one is not None:
                self._relay.unwatch(one)
                if end != "closed":
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                one.close()
        self._outside = None
        self._relay.ended(self, end)

    def _drop_outside(self) -> None:
        if self._outside is not None:
            self._relay.unwatch(self._outside)
            self._outside.close()
            self._outside = None


class Ledger:
    """What is told of connections: the first `TOLD_MAX` by themselves, later ones summed by endpoint and end."""

    def __init__(self) -> None:
        self._told: list[list[Any]] = []
        self._sums: dict[tuple[Any, ...], list[Any]] = {}

    def add(self, name: tuple[str, int, str], sent: int, received: int, duration_us: int) -> None:
        """Note a connection that has ended; `name` is host, port and end."""
        if len(self._told) < TOLD_MAX:
            self._told.append([*name, 1, sent, received, duration_us])
            return
        sums = self._sums.setdefault(name, [*name, 0, 0, 0, 0])
        for place, number in enumerate((1, sent, received, duration_us), 3):
            sums[place] += number

    def entries(self) -> list[list[Any]]:
        """Return host, port, end, count, bytes sent and received, and microseconds, of each entry."""
        return [*self._told, *self._sums.values()]


class Relay:
    """The loop.

    Args:
        link: to the supervisor: it says `DRAIN` when the step is dead, `CUT` (or nothing more) when all is to stop.
        routes: `host`, `port` and `addresses` of each endpoint; listeners: bound and listening, in the same order.
    """

    def __init__(
        self, link: socket.socket, routes: Sequence[Mapping[str, Any]], listeners: Sequence[socket.socket]
    ) -> None:
        self.is_draining = False
        self._link = link
        self._listening = dict(zip(listeners, routes, strict=True))
        self._accepting = False
        self._open: set[_Connection] = set()
        self._ledger = Ledger()
        self._selector = selectors.DefaultSelector()
        self._drain_until = 0.0
        self._is_cut = False

    def run(self) -> None:
        """Carry until the supervisor ends it, then tell what was carried."""
        self._link.settimeout(0)
        self._selector.register(self._link, _READ, self._on_link)
        wire.send(self._link.fileno(), {"say": "listening"})
        self._listen()
        while self._goes_on():
            ready = self._selector.select(self._patience())
            # Before the step's death can be seen, the supervisor has said whether that is an end or a cut.
            for key, events in sorted(ready, key=lambda one: one[0].fileobj is not self._link):
                current = self._selector.get_map().get(key.fd)
                if (
                    current is not None and current.data == key.data
                ):  # a callback of this round may have closed it
                    key.data(events)
                if self._is_cut:
                    break
            self._mind_the_time()
            self._listen()
        self._link.settimeout(None)
        wire.send(self._link.fileno(), {"say": "ended", "connections": self._ledger.entries()})

    def _goes_on(self) -> bool:
        return not self._is_cut and (not self.is_draining or bool(self._open or self._listening))

    def _patience(self) -> float | None:
        times = [one.dial_until for one in self._open if one.dial_until is not None]
        if self.is_draining:
            times.append(self._drain_until)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _mind_the_time(self) -> None:
        now = time.monotonic()
        for connection in list(self._open):
            if connection.dial_until is not None and connection.dial_until <= now:
                connection.dial()
        if self.is_draining and self._drain_until <= now:
            self._cut()

    def _on_link(self, _: int) -> None:
        if self._link.recv(16) == DRAIN:
            self.is_draining = True
            self._drain_until = time.monotonic() + DRAIN_SECONDS
            for connection in list(self._open):
                connection.drain()
        else:
            self._cut()

    def _cut(self) -> None:
        self._is_cut = True
        for connection in list(self._open):
            connection.end("cut")

    # --- calls from the step ------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Take calls as long as there is room."""
        if self.is_draining:
            self._take_the_rest()
            return
        has_room = len(self._open) < OPEN_MAX
        if has_room == self._accepting:
            return
        self._accepting = has_room
        for listener, route in self._listening.items():
            on_call = partial(self._accept, listener, route)
            self.watch(listener, _READ if has_room else 0, on_call)

    def _take_the_rest(self) -> None:
        """Take the calls that the step had made before it died; nobody can make another."""
        for listener, route in list(self._listening.items()):
            self.unwatch(listener)
            while self._accept(listener, route):
                pass
            if len(self._open) < OPEN_MAX:
                listener.close()
                del self._listening[listener]

    def _accept(self, listener: socket.socket, route: Mapping[str, Any], _: int = 0) -> bool:
        """Take one waiting call; return whether there was one."""
        if len(self._open) >= OPEN_MAX:
            return False
        try:
            inside, _ = listener.accept()
        except OSError:  # nobody, or it hung up while it waited
            return False
        inside.settimeout(0)
        inside.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(self, route, inside)
        self._open.add(connection)
        connection.dial()
        if self.is_draining:
            connection.drain()
        return True

    # --- what connections use -----------------------------------------------------------------------------------------

    def watch(self, one: socket.socket, events: int, on_ready: Callable[[int], Any]) -> None:
        """Call `on_ready` with what a socket is ready for, of `events`; with 0 no longer."""
        known = self._selector.get_map().get(one.fileno())
        if known is None:
            if events:
                self._selector.register(one, events, on_ready)
        elif not events:
            self._selector.unregister(one)
        elif known.events != events or known.data != on_ready:
            self._selector.modify(one, events, on_ready)

    def unwatch(self, one: socket.socket) -> None:
        """Forget a socket; before it is closed."""
        self.watch(one, 0, bool)

    def ended(self, connection: _Connection, end: str) -> None:
        """Note a connection whose sockets are closed."""
        self._open.discard(connection)
        duration_us = round((time.monotonic() - connection.began) * 1_000_000)
        name = (connection.route["host"], connection.route["port"], end)
        self._ledger.add(name, connection.out.carried, connection.back.carried, duration_us)


def raise_open_files() -> None:
    """Let this process hold as many descriptors as it may; two are needed for a connection."""
    import resource  # noqa: PLC0415 -- only this process needs it

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def close_all_but(kept: Sequence[int]) -> None:
    """Close every descriptor beyond standard error that is not kept."""
    low = 3
    for descriptor in sorted(kept):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))
