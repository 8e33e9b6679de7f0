"""A call of supervisord's is sent once, and what cannot be known of it is told from what certainly did not happen."""

from __future__ import annotations

import socket
import xmlrpc.client
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from time import monotonic

import pytest

from sovrun.execution.adapters import supervisor_rpc
from sovrun.execution.adapters.supervisor_rpc import Address, Connection, Fault, FaultCode
from sovrun.execution.port import NotReached, OutcomeUnknown

Behaviour = Callable[[socket.socket, bytes], None]
METHOD = "supervisor.getState"
LONG, SHORT = 60.0, 0.3


class Server:
    """Takes connections one after the other, notes what is asked, and behaves as it is told."""

    def __init__(self, listening: socket.socket, behaviour: Behaviour) -> None:
        self.address = Address(None, "127.0.0.1", listening.getsockname()[1])
        self.asked: list[bytes] = []
        self._listening, self._behaviour = listening, behaviour

    def run(self) -> None:
        with suppress(OSError):
            while True:
                connected, _ = self._listening.accept()
                with connected, suppress(OSError):
                    request = whole_request(connected)
                    self.asked.append(request)
                    self._behaviour(connected, request)


def whole_request(connected: socket.socket) -> bytes:
    request = b""
    while piece := connected.recv(1 << 16):
        request += piece
        head, end, body = request.partition(b"\r\n\r\n")
        if end and len(body) == int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            break
    return request


@contextmanager
def served(behaviour: Behaviour) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Server(listening, behaviour)
        thread = Thread(target=server.run)
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def answering(answer: bytes) -> Behaviour:
    return lambda connected, _request: connected.sendall(answer)


def http(body: bytes, status: str = "200 OK", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Type: text/xml\r\nContent-Length: {size}\r\n\r\n".encode() + body


def value(told: object) -> bytes:
    return http(xmlrpc.client.dumps((told,), methodresponse=True).encode())


def ask(server: Server, seconds: float = LONG, credentials: tuple[str, str] | None = None) -> object:
    return Connection(server.address, credentials).call(
        METHOD, "name", "more", deadline=monotonic() + seconds
    )


def test_a_call_says_who_asks_what_and_brings_the_answer() -> None:
    with served(answering(value({"statecode": 1}))) as server:
        assert ask(server, credentials=("me", "my:secret")) == {"statecode": 1}
    (request,) = server.asked
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /RPC2 HTTP/1.0\r\n")
    assert b"Authorization: Basic " + b64encode(b"me:my:secret") in head
    assert xmlrpc.client.loads(body) == (("name", "more"), METHOD)


def test_a_fault_is_what_supervisord_did_not_do() -> None:
    fault = xmlrpc.client.dumps(xmlrpc.client.Fault(90, "ALREADY_ADDED: x"), methodresponse=True)
    with served(answering(http(fault.encode()))) as server, pytest.raises(Fault) as told:
        ask(server)
    assert told.value.code == FaultCode.ALREADY_ADDED
    assert "ALREADY_ADDED: x" in str(told.value)


def slowly(piece: bytes, done: Event) -> Behaviour:
    def behave(connected: socket.socket, _request: bytes) -> None:
        for _ in range(500):  # in the end the connection is closed, which is another outcome
            if done.wait(0.02):
                break
            connected.sendall(piece)

    return behave


def no_answer(_connected: socket.socket, _request: bytes) -> None:
    pass


def reset(connected: socket.socket, _request: bytes) -> None:
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


WHOLE = value({"statecode": 1})


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (no_answer, "connection_lost"),
        (reset, "connection_lost"),
        (answering(WHOLE[:10]), "connection_lost"),
        (answering(WHOLE[:-1]), "connection_lost"),
        (answering(b"what is this?\r\n\r\n"), "bad_answer"),
        (answering(http(b"<html>")), "bad_answer"),
        (answering(http(b"")), "bad_answer"),
        (answering(http(b"\xff\xfe\x00")), "bad_answer"),
        (answering(http(xmlrpc.client.dumps((1, 2), "m").encode())), "bad_answer"),
        (answering(http(b"no such page", "404 Not Found")), "bad_answer"),
        (answering(http(b"oops", "500 Internal Server Error")), "server_error"),
        (answering(http(b"later", "503 Service Unavailable")), "server_error"),
    ],
)
def test_what_is_no_answer_leaves_the_outcome_unknown(behaviour: Behaviour, reason: str) -> None:
    with served(behaviour) as server, pytest.raises(OutcomeUnknown) as unknown:
        ask(server)
    assert not isinstance(unknown.value, NotReached)
    assert unknown.value.reason == reason
    assert len(server.asked) == 1, "a call is never repeated"


@pytest.mark.parametrize("piece", [b"", b" ", b"HTTP/1.1 200 OK\r\nX: y\r\n"])
def test_what_comes_in_drops_does_not_outlast_the_deadline(piece: bytes) -> None:
    done = Event()
    with served(slowly(piece, done)) as server:
        try:
            with pytest.raises(OutcomeUnknown) as unknown:
                ask(server, SHORT)
        finally:
            done.set()
    assert unknown.value.reason == "timeout"


def test_an_answer_that_is_too_large_is_not_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_rpc, "ANSWER_MAX", 1000)
    with served(answering(value("x" * 2000))) as server, pytest.raises(OutcomeUnknown) as unknown:
        ask(server)
    assert unknown.value.reason == "bad_answer"


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
def test_a_password_that_is_not_taken_means_that_nothing_was_done(status: str) -> None:
    with served(answering(http(b"", status))) as server, pytest.raises(NotReached, match="password"):
        ask(server, credentials=("me", "wrong"))


def test_where_nobody_listens_nothing_was_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with TemporaryDirectory(prefix="sovrun-sv-") as folder:
        left_behind = Path(folder) / "s.sock"
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(left_behind))
        for address in (
            Address(None, "127.0.0.1", port),
            Address(str(left_behind)),
            Address(f"{folder}/none"),
        ):
            with pytest.raises(NotReached, match=r"not to be reached"):
                Connection(address, None).call(METHOD, deadline=monotonic() + LONG)


def test_after_the_deadline_nothing_is_sent() -> None:
    with served(answering(value(1))) as server, pytest.raises(NotReached):
        ask(server, -1.0)
    assert server.asked == []
