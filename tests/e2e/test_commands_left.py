"""Commands that were left, and words of a provider that are not known: what the command line makes of both."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from support.trading_desk import MAPPING, ORDER, Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_resuming_sends_what_was_left_looks_for_what_is_unknown_and_says_what_came_of_it(desk: Desk) -> None:
    found = desk.ask(*ORDER, "quantity=1", "--key", "found")
    left = desk.ask(*ORDER, "quantity=2", "--key", "left", "--no-wait", code=4)
    asked = desk.ask(*ORDER, "quantity=3", "--key", "asked", "--no-wait", code=4)
    desk.make_unknown(found["commandId"], parked=False)
    desk.make_unknown(asked["commandId"])
    resumed = desk.ask("resume", "--isolation", "in-process", code=4)
    assert resumed == {
        "ended": [],
        "commands": {"concluded": 2, "unknown": 0, "parked": 1, "intended": 0},
    }
    assert [desk.ask("commands", name)["state"] for name in (found["commandId"], left["commandId"])] == [
        "confirmed"
    ] * 2
    assert [order["quantity"] for order in desk.orders()] == ["1", "2"], "nothing was sent twice"
    told = desk.tell("resume", "--isolation", "in-process")
    assert (told.code, "1 open command" in told.err) == (4, True)
    assert "0 commands concluded, 0 left unknown, 1 parked for a person" in told.out
    desk.ask("resolve", asked["commandId"], "--refused", "--rationale", "it is not there")
    nothing = desk.tell("resume", "--isolation", "in-process")
    assert (nothing.code, "commands concluded" in nothing.out) == (0, False)


def test_a_status_that_is_not_mapped_is_told_with_its_word_wherever_somebody_looks(desk: Desk) -> None:
    """The provider stands for a mapping that is older than it is: one order is in a status that the mapping does not have."""
    desk.ask(*ORDER, "quantity=1", "--key", "k")
    orders = [order_of("acme.1", "OPEN"), order_of("acme.2", "HALTED")]
    with provider_that_says({"bids": {"100": [orders[0]], "99": [orders[1]]}, "offers": {}}) as port:
        adapter = {"kind": "http", "mapping": str(MAPPING), "baseUrl": f"http://127.0.0.1:{port}"}
        (desk.folder / "adapters.json").write_text(json.dumps({"adapters": {"desk": adapter}}))
        named = ("--tenant", "acme", "--adapters", "adapters.json")
        listed = desk.ask("orders", "desk", *named)
        told = desk.tell("orders", "desk", *named)
    assert [one["id"] for one in listed["orders"]] == ["acme.1"]
    (unreadable,) = listed["unreadable"]
    assert (unreadable["id"], unreadable["rawStatus"]) == ("acme.2", "HALTED")
    assert "order acme.2 cannot be read" in told.err
    assert "HALTED" in told.err


def order_of(name: str, status: str) -> dict[str, Any]:
    return {
        "order_id": name, "side": "BUY", "execution": "LIMIT", "size": 1.0, "price": 100.0, "status": status,
    }  # fmt: skip


@contextmanager
def provider_that_says(orders: dict[str, Any]) -> Iterator[int]:
    """Give the port of a server that shows these orders, and no trades."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"trades": []} if self.path.startswith("/trades") else orders).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
