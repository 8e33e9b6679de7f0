"""How supervisord is called: XML-RPC over loopback or its Unix socket, one connection for each call.

Owns: `Address`, `Connection`, `Fault` and the numbers of supervisord's faults. A call is sent once and ends by its
deadline; it tells what was certainly not sent from what nobody can know.
Must not touch: deployments.
"""

from __future__ import annotations

import re
import socket
import xmlrpc.client
from base64 import b64encode
from contextlib import closing
from dataclasses import dataclass
from enum import IntEnum
from http.client import HTTPException, HTTPResponse, IncompleteRead
from io import BytesIO
from time import monotonic
from typing import Any, Final, cast
from xml.parsers.expat import ExpatError

from sovrun.execution.port import NotReached, OutcomeUnknown

ANSWER_MAX: Final = 64 << 20
"""Bytes of an answer; a process takes about one kibibyte."""
_PIECE: Final = 1 << 16
_VARIABLES: Final = re.compile(r" Available names: .*?(?= in section |$)", re.DOTALL)
"""Where supervisord lists its whole environment in a message."""
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,12})", re.IGNORECASE)


class FaultCode(IntEnum):
    """What supervisord's API says that it cannot do; the numbers are its own."""

    UNKNOWN_METHOD = 1
    INCORRECT_PARAMETERS = 2
    BAD_ARGUMENTS = 3
    SIGNATURE_UNSUPPORTED = 4
    SHUTDOWN_STATE = 6
    BAD_NAME = 10
    BAD_SIGNAL = 11
    NO_FILE = 20
    NOT_EXECUTABLE = 21
    FAILED = 30
    ABNORMAL_TERMINATION = 40
    SPAWN_ERROR = 50
    ALREADY_STARTED = 60
    NOT_RUNNING = 70
    SUCCESS = 80
    ALREADY_ADDED = 90
    STILL_RUNNING = 91
    CANT_REREAD = 92


class Fault(Exception):
    """Supervisord took the call, and did not do it; `code` is one of `FaultCode`, or a number that is new."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Address:
    """Where supervisord listens: the path of a Unix socket, or a host and a port of this machine."""

    path: str | None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        return f"unix://{self.path}" if self.path is not None else f"http://{self.host}:{self.port}"


class Connection:
    """Calls one supervisord; usable from any thread. `credentials` are a user's name and password."""

    def __init__(self, address: Address, credentials: tuple[str, str] | None) -> None:
        self.address = address
        self._authorization = ""
        if credentials is not None:
            encoded = b64encode(":".join(credentials).encode()).decode()
            self._authorization = f"Authorization: Basic {encoded}\r\n"

    def call(self, method: str, *parameters: Any, deadline: float) -> Any:
        """Return what a method of supervisord's answers until `deadline`, an instant of `time.monotonic`.

        Raises: Fault; NotReached when supervisord certainly did nothing; OutcomeUnknown otherwise.
        """
        return self._value(method, self._answer(self._request(method, parameters), method, deadline))

    def _request(self, method: str, parameters: tuple[Any, ...]) -> bytes:
        body = xmlrpc.client.dumps(parameters, method).encode()
        # HTTP/1.0: the answer is neither chunked nor followed by another one.
        head = (
            "POST /RPC2 HTTP/1.0\r\nHost: localhost\r\nContent-Type: text/xml\r\n"
            f"{self._authorization}Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def _answer(self, request: bytes, method: str, deadline: float) -> bytes:
        with closing(self._connected(deadline)) as connected:
            answer = bytearray()
            try:
                connected.settimeout(_left(deadline))
                connected.sendall(request)
                while not _is_whole(answer) and (piece := _received(connected, deadline)):
                    answer += piece
                    if len(answer) > ANSWER_MAX:
                        raise OutcomeUnknown(
                            "bad_answer", f"{method}: the answer is larger than {ANSWER_MAX} bytes"
                        )
            except TimeoutError as error:
                raise OutcomeUnknown(
                    "timeout", f"{self.address} gave no answer to {method} in time"
                ) from error
            except OSError as error:
                raise OutcomeUnknown(
                    "connection_lost", f"{self.address} broke off during {method}: {error}"
                ) from error
        return bytes(answer)

    def _connected(self, deadline: float) -> socket.socket:
        family = socket.AF_UNIX if self.address.path is not None else socket.AF_INET
        if ":" in self.address.host:
            family = socket.AF_INET6
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.settimeout(_left(deadline))
            made.connect(self.address.path or (self.address.host, self.address.port))
        except OSError as error:
            made.close()
            raise NotReached(f"supervisord is not to be reached at {self.address}: {error}") from error
        return made

    def _value(self, method: str, answer: bytes) -> Any:
        if _HEAD_END not in answer:
            raise OutcomeUnknown("connection_lost", f"{self.address} broke off before its answer to {method}")
        try:
            response = HTTPResponse(cast("socket.socket", _Received(answer)))
            response.begin()
            body = response.read()
        except IncompleteRead as error:
            raise OutcomeUnknown(
                "connection_lost", f"{self.address} broke off in its answer to {method}"
            ) from error
        except HTTPException as error:
            raise OutcomeUnknown(
                "bad_answer", f"what answers {method} at {self.address} does not speak HTTP"
            ) from error
        if response.status in {401, 403}:
            raise NotReached(f"supervisord at {self.address} does not take the user name and password")
        if response.status != 200:
            reason = "server_error" if response.status >= 500 else "bad_answer"
            raise OutcomeUnknown(
                reason, f"{self.address} answers {method} with HTTP status {response.status}"
            )
        return self._decoded(method, body)

    def _decoded(self, method: str, body: bytes) -> Any:
        try:
            values, _ = xmlrpc.client.loads(body)
        except xmlrpc.client.Fault as fault:
            message = _VARIABLES.sub("", str(fault.faultString))
            raise Fault(fault.faultCode, f"{method}: {message:.500}") from fault
        except (xmlrpc.client.Error, ExpatError, ValueError, LookupError, TypeError) as error:
            raise OutcomeUnknown(
                "bad_answer", f"the answer of {self.address} to {method} cannot be read"
            ) from error
        if len(values) != 1:
            raise OutcomeUnknown("bad_answer", f"{self.address} answers {method} with {len(values)} values")
        return values[0]


class _Received:
    """Bytes that were received, where a response is read from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> BytesIO:
        return BytesIO(self._data)


def _left(deadline: float) -> float:
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    return left


def _is_whole(answer: bytearray) -> bool:
    # Whoever stands between may keep the connection open.
    end = answer.find(_HEAD_END)
    length = _LENGTH.search(answer, 0, end) if end >= 0 else None
    return length is not None and len(answer) - end - len(_HEAD_END) >= int(length[1])


def _received(connected: socket.socket, deadline: float) -> bytes:
    # What comes in drops must not outlast the deadline.
    connected.settimeout(_left(deadline))
    return connected.recv(_PIECE)
