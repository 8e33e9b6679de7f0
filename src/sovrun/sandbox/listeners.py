"""The listeners of one attempt: sockets in its empty network, and the process outside that carries what comes in.

Owns: how they are put there, `Listeners`, the names by which a step finds them. Standard library only.
Must not touch: the sandbox's processes. The carrier gives up the supervisor's user before it does anything, and who
enters the sandbox's namespaces does nothing there but listen.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NoReturn, Protocol

from sovrun.sandbox import launch, wire
from sovrun.sandbox.hub import Hub
from sovrun.sandbox.network_relay import CUT, DRAIN, Relay, close_all_but, raise_open_files

_NS_GET_USERNS: Final = 0xB701
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_BACKLOG: Final = 128
_CHUNK: Final = 1 << 16
_BODY_MAX: Final = 0
_libc: Final = ctypes.CDLL(None, use_errno=True)

Routes = Sequence[Mapping[str, Any]]


class Attempt(Protocol):
    """What is told to the attempt that the listeners are for."""

    def on_listening(self) -> None:
        """All listeners are in place."""

    def kill(self, reason: str, message: str) -> None:
        """There are no listeners, or none any more."""

    def on_network_ended(self, connections: list[Any]) -> None:
        """Everything is closed; what was carried is told as in `network_relay.Ledger.entries`."""


def inside_addresses(routes: Routes) -> dict[str, str]:
    """Return at which loopback address each host of `routes` is found inside."""
    hosts = dict.fromkeys(route["host"] for route in routes)
    return {host: f"127.0.1.{number}" for number, host in enumerate(hosts, 1)}


def hosts_file(routes: Routes) -> bytes:
    """Return what `/etc/hosts` says inside: the only names there are."""
    lines = ["127.0.0.1 localhost", *(f"{at} {host}" for host, at in inside_addresses(routes).items())]
    return "".join(f"{line}\n" for line in lines).encode()


class Listeners:
    """The supervisor's end of the process that carries an attempt's connections."""

    def __init__(self, hub: Hub, attempt: Attempt, routes: Routes) -> None:
        self._hub = hub
        self._attempt = attempt
        self._routes = routes
        self._carrier = -1
        self._decoder = wire.Decoder(body_max=_BODY_MAX)
        self._connections: list[Any] | None = None
        self._is_ending = self._has_told = False
        self._link: socket.socket | None = None

    def start(self, sandbox: int, uid: int | None) -> None:
        """Put the listeners into the network of the process `sandbox`.

        Args:
            uid: host user to do it as, which owns the sandbox; None means the supervisor's own.
        """
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        try:
            network = os.open(f"/proc/{sandbox}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._carrier = os.fork()
                if self._carrier == 0:
                    _carry(theirs, network, parent, uid, self._routes)
            finally:
                os.close(network)
        except OSError as error:
            ours.close()
            self._attempt.kill("sandbox_error", _broken(error))
            return
        finally:
            theirs.close()
        ours.settimeout(0)
        self._link = ours
        self._hub.watch(ours.fileno(), self._on_said)

    def cut(self) -> None:
        """Break off whatever is open; said before the step is killed, so that its death looks like no end of its own."""
        self._say(CUT)

    def end(self) -> None:
        """Tell what was carried, now that nothing of the step lives and what it had sent has been seen to its end."""
        self._is_ending = True
        self._say(DRAIN)
        if self._link is None:
            self._tell_end()

    def _say(self, word: bytes) -> None:
        if self._link is not None:
            with suppress(OSError):  # it has gone, which is about to be noticed
                self._link.send(word)

    def _on_said(self) -> None:
        if self._link is None:
            return
        try:
            data = self._link.recv(_CHUNK)
        except ConnectionResetError:
            data = b""
        for head, _ in self._decoder.feed(data):
            if head["say"] == "listening":
                self._attempt.on_listening()
            elif head["say"] == "ended":
                self._connections = head["connections"]
            else:
                self._attempt.kill("sandbox_error", head["why"])
        if not data:
            self._on_gone(self._link)

    def _on_gone(self, link: socket.socket) -> None:
        self._hub.unwatch(link.fileno())
        link.close()
        self._link = None
        os.waitpid(self._carrier, 0)
        if self._connections is None:
            self._attempt.kill("sandbox_error", "the process that carries the step's connections died")
        if self._is_ending:
            self._tell_end()

    def _tell_end(self) -> None:
        if not self._has_told:
            self._has_told = True
            self._attempt.on_network_ended(self._connections or [])


# --- the carrier ------------------------------------------------------------------------------------------------------


def _carry(link: socket.socket, network: int, parent: int, uid: int | None, routes: Routes) -> NoReturn:
    """In a forked child of the supervisor: place the listeners and carry until told to end."""
    try:
        close_all_but((link.fileno(), network))
        if uid is not None:
            launch.drop_to(uid)
        launch.die_with(parent)  # after the change of user, which clears it
        raise_open_files()
        listeners = _placed(network, routes)
        os.close(network)
        Relay(link, routes, listeners).run()
    except BaseException as error:  # noqa: BLE001 -- a forked child must never return into the supervisor's loop
        link.settimeout(None)
        wire.send(link.fileno(), {"say": "broken", "why": _broken(error)})
    finally:
        os._exit(0)


def _broken(error: BaseException) -> str:
    return f"no network for the step: {error}"


def _placed(network: int, routes: Routes) -> list[socket.socket]:
    """Return one listener for each of `routes`, made inside by a child, for whoever enters cannot come back."""
    ours, theirs = socket.socketpair()
    with ours:
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            _place(theirs, network, parent, routes)
        theirs.close()
        said, descriptors, _, _ = socket.recv_fds(ours, _CHUNK, len(routes))
        os.waitpid(child, 0)
    listeners = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    if len(listeners) != len(routes):
        raise OSError(said.decode(errors="replace") or "nobody listens")
    for listener in listeners:
        listener.settimeout(0)
    return listeners


def _place(link: socket.socket, network: int, parent: int, routes: Routes) -> NoReturn:
    try:
        launch.die_with(parent)
        _enter(fcntl.ioctl(network, _NS_GET_USERNS), _CLONE_NEWUSER, "user namespace")
        _enter(network, _CLONE_NEWNET, "network")
        inside = inside_addresses(routes)
        listeners = []
        for route in routes:
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            listener.bind((inside[route["host"]], route["port"]))
            listener.listen(_BACKLOG)
            listeners.append(listener)
        socket.send_fds(link, [b"."], [listener.fileno() for listener in listeners])
    except BaseException as error:  # noqa: BLE001 -- a forked child must never return
        link.send(str(error).encode())
    finally:
        os._exit(0)


def _enter(namespace: int, kind: int, what: str) -> None:
    if _libc.setns(namespace, kind) != 0:
        raise OSError(f"the sandbox's {what} cannot be entered: {os.strerror(ctypes.get_errno())}")
