"""The outside endpoints that steps may reach, and what is recorded of the connections to them.

Owns: the one text form of an `Endpoint`, what is wrong with a text that is none, and `Connection`.
Must not touch: names as the outside resolves them, addresses, sockets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from sovrun.core.canonical import canonical

PORT_MAX: Final = 65_535
HOST_MAX: Final = 253
_SHOWN: Final = 80
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_NUMERIC: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_SCHEME_PORTS: Final = {"http": 80, "https": 443, "postgres": 5432, "postgresql": 5432, "ftp": 21, "ssh": 22}


class Endpoint(NamedTuple):
    """A host by its DNS name in lower case, and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class BadEndpoint(ValueError):
    """A text is no endpoint; `hint` says what to write instead, where that is known."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def parse_endpoint(text: str) -> Endpoint:
    """Return the endpoint that `HOST:PORT` names; capital letters of the host become small ones.

    Raises: BadEndpoint.
    """
    scheme, separator, rest = text.partition("://")
    if separator:
        host, _, port = rest.partition("/")[0].partition(":")
        shown = port or _SCHEME_PORTS.get(scheme.lower(), "PORT")
        raise BadEndpoint(f"{_quoted(text)} is a URL, not an endpoint", _write(f"{host}:{shown}"))
    if text.count(":") > 1 or text.startswith("["):
        raise _address(text)
    host, separator, port = text.partition(":")
    if not separator or not port:
        raise BadEndpoint(f"{_quoted(text)} has no port", _write(f"{host or 'HOST'}:PORT"))
    return Endpoint(_host(host.lower(), text), _port(port, text))


def _port(port: str, text: str) -> int:
    plain = port.isascii() and port.isdigit()
    if plain and not port.startswith("0") and len(port) <= 5 and int(port) <= PORT_MAX:
        return int(port)
    if port == "*":
        raise BadEndpoint(f"{_quoted(text)} means many ports", "declare each port that the step needs")
    hint = f"write {int(port)}" if plain and len(port) <= 5 and 0 < int(port) <= PORT_MAX else None
    raise BadEndpoint(f"{_quoted(port)} is no port: a whole number from 1 to {PORT_MAX}", hint)


def _host(host: str, text: str) -> str:
    if "*" in host:
        raise BadEndpoint(
            f"{_quoted(text)} means many hosts", "declare each host that the step needs by its name"
        )
    if not host.isascii():
        raise BadEndpoint(
            f"the host of {_quoted(text)} has characters beyond ASCII",
            "write it as DNS has it, beginning with xn--",
        )
    if host.endswith("."):
        raise BadEndpoint(f"the host of {_quoted(text)} ends with a dot", _write(text.replace(".:", ":", 1)))
    labels = host.split(".")
    if _NUMERIC.fullmatch(labels[-1]):
        raise _address(text)
    if labels[-1] == "localhost":
        message = f"{_quoted(text)} is the step's own machine, where nothing listens"
        raise BadEndpoint(message, "give the service a name; the operator's list may say what its address is")
    if len(host) > HOST_MAX or not all(_LABEL.fullmatch(label) for label in labels):
        rule = "labels of 1 to 63 of a-z 0-9 _ -, not beginning or ending with -, joined by dots"
        raise BadEndpoint(f"the host of {_quoted(text)} is no DNS name: {rule}")
    return host


def _address(text: str) -> BadEndpoint:
    message = f"{_quoted(text)} is an address; an endpoint has a name"
    return BadEndpoint(message, "give the host a name; the operator's list may say what its address is")


def _write(text: str) -> str | None:
    """Return the advice to write `text`, None where it could not be read."""
    return f"write {text}" if text.isascii() and text.isprintable() and len(text) <= _SHOWN else None


def _quoted(text: str) -> str:
    return repr(text) if len(text) <= _SHOWN else repr(text[:_SHOWN]) + "..."


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection of a step to an endpoint, or several that are told together.

    Args:
        end: `closed` by both sides; `reset` by one of them; `refused`: the endpoint could not be reached; `cut`: it
            was open when the attempt ended.
        count: how many; then the other numbers are sums.
        sent, received: bytes from and to the step. duration_us: from the step's call to the end.
    """

    host: str
    port: int
    end: str
    count: int
    sent: int
    received: int
    duration_us: int


def connections_member(connections: Sequence[Connection]) -> str:
    """Return the member of an event's JSON object that tells of connections, with a comma; empty without any."""
    if not connections:
        return ""
    told = [
        {
            "host": one.host,
            "port": one.port,
            "end": one.end,
            "count": one.count,
            "sent": one.sent,
            "received": one.received,
            "durationUs": one.duration_us,
        }
        for one in connections
    ]
    return f'"connections":{canonical(told).decode()},'
