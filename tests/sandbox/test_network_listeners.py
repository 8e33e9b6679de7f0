"""A declared and allowed endpoint is reached by any TCP client as it is; everything else is not there."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from sovrun.core.ids import Tenant
from sovrun.sandbox.network import TRUSTED
from support.endpoints import CLIENT, authority, declaring, sandbox_allowing, server, told, web_page
from support.network_client import trusted
from support.tasks import failure_of, task, value_of

ECONNREFUSED, ENETUNREACH, EACCES, EROFS = 111, 101, 13, 30


@pytest.fixture
def client(code) -> Path:
    return code(client=CLIENT)


# --- clients as they are ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["fetch", "curl"])
async def test_a_web_client_reaches_a_declared_endpoint(client, tmp_path: Path, function: str) -> None:
    with server(web_page) as web:
        name = f"api.test:{web.port}"
        async with sandbox_allowing(tmp_path, f"{name}=127.0.0.1") as executor:
            outcome = await executor.execute(
                declaring(name, f"client:{function}", code=client, url=f"http://{name}/rates")
            )
        assert value_of(outcome) == f"/rates at {name}"
        assert web.results(1) == ["GET /rates HTTP/1.1"]
        [one] = outcome.connections
        assert (one.host, one.port, one.end, one.count) == ("api.test", web.port, "closed", 1)
        assert one.sent > len("GET /rates HTTP/1.1") < one.received
        assert one.duration_us > 0


@pytest.mark.parametrize("function", ["fetch", "curl"])
async def test_tls_verifies_under_the_right_name_and_no_other(client, tmp_path: Path, function: str) -> None:
    root, certificate, key = authority(tmp_path, "api.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def page(connection: socket.socket) -> object:
        with context.wrap_socket(connection, server_side=True) as secure:
            return web_page(secure)

    with server(page) as web:
        names = [f"api.test:{web.port}", f"other.test:{web.port}"]
        async with sandbox_allowing(tmp_path, *(f"{name}=127.0.0.1" for name in names)) as executor:
            said = [
                value_of(
                    await executor.execute(
                        declaring(
                            names,
                            f"client:{function}",
                            code=client,
                            url=f"https://{name}/x",
                            cafile=root.read_text(),
                        )
                    )
                )
                for name in names
            ]
    assert said[0] == f"/x at {names[0]}"
    assert "other.test" in said[1]
    assert "match" in said[1]


async def test_each_name_and_port_leads_to_its_own_server(client, tmp_path: Path) -> None:
    with server(lambda made: made.sendall(b"one")) as one, server(lambda made: made.sendall(b"two")) as two:
        names = [f"a.test:{one.port}", f"a.test:{two.port}", f"b.test:{one.port}"]
        async with sandbox_allowing(tmp_path, *(f"{name}=127.0.0.1" for name in names)) as executor:
            said = []
            for name in names:
                host, _, port = name.partition(":")
                step = declaring(names, "client:knock", code=client, host=host, port=int(port))
                said.append(value_of(await executor.execute(step)))
    assert said == ["one", "two", "one"]


async def test_a_program_reaches_its_endpoint_too(code, tmp_path: Path) -> None:
    folder = code(ask='#!/bin/sh\nmkdir outputs\ncurl -sS "$1" > outputs/page\n')
    with server(web_page) as web:
        name = f"api.test:{web.port}"
        async with sandbox_allowing(tmp_path, f"{name}=127.0.0.1") as executor:
            outcome = await executor.execute(declaring(name, ("ask", f"http://{name}/p"), code=folder))
            assert [made.path.read_text() for made in outcome.made] == [f"/p at {name}"]
        assert told(outcome) == [("api.test", web.port, "closed", 1)]


# --- everything else --------------------------------------------------------------------------------------------------

REFUSED = {
    "an undeclared host": ("knock", {"host": "other.test"}, "gaierror -2"),
    "an undeclared port of a declared host": ("knock", {"host": "api.test", "port": 9}, f"ConnectionRefusedError {ECONNREFUSED}"),
    "the machine's loopback": ("knock", {"host": "127.0.0.1"}, f"ConnectionRefusedError {ECONNREFUSED}"),
    "an address outside": ("knock", {"host": "192.0.2.1", "port": 80}, f"OSError {ENETUNREACH}"),
    "an address that metadata services have": ("knock", {"host": "169.254.169.254", "port": 80}, f"OSError {ENETUNREACH}"),
    "a resolver outside": ("datagram", {"host": "192.0.2.1", "port": 53}, ENETUNREACH),
    "the addresses of another name": ("look_up", {"host": "other.test"}, -2),
    "the address of a declared name is one inside": ("look_up", {"host": "api.test"}, ["127.0.1.1"]),
    "an abstract socket of the machine": ("abstract", {}, "ConnectionRefusedError"),
    "proxies": ("environment", {}, []),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
async def test_nothing_is_reached_but_what_is_declared(client, tmp_path: Path, what: str) -> None:
    function, arguments, expected = REFUSED[what]
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"\0sovrun-test-{os.getpid()}")
    listening.listen()
    with listening, server(lambda made: made.sendall(b"reached")) as near:
        name = f"api.test:{near.port}"
        if function == "abstract":
            arguments = {"name": f"sovrun-test-{os.getpid()}"}
        elif function == "knock":
            arguments = {"port": near.port, **arguments}
        allowed = [f"{name}=127.0.0.1", f"other.test:{near.port}=127.0.0.1"]
        async with sandbox_allowing(tmp_path, *allowed) as executor:
            outcome = await executor.execute(declaring(name, f"client:{function}", code=client, **arguments))
        assert value_of(outcome) == expected
        assert outcome.connections == ()
        assert near.calls == 0


async def test_the_names_inside_are_the_declared_ones_and_cannot_be_changed(client, tmp_path: Path) -> None:
    names = ["b.test:2", "a.test:1", "a.test:3"]
    async with sandbox_allowing(tmp_path, *(f"{name}=127.0.0.1" for name in names)) as executor:
        outcome = await executor.execute(declaring(names, "client:names", code=client))
        bare = await executor.execute(task("client:names", code=client))
    names, refused = value_of(outcome)
    assert names == "127.0.0.1 localhost\n127.0.1.1 b.test\n127.0.1.2 a.test\n"
    assert refused in (EACCES, EROFS)
    assert value_of(bare)[0] == "127.0.0.1 localhost\n"


async def test_a_step_with_a_network_sees_the_certificates_that_the_machine_trusts(
    client, tmp_path: Path
) -> None:
    async with sandbox_allowing(tmp_path, "a.test:1=127.0.0.1") as executor:
        with_network = await executor.execute(
            declaring("a.test:1", "client:trusted", code=client, paths=list(TRUSTED))
        )
        without = await executor.execute(task("client:trusted", code=client, paths=list(TRUSTED)))
    assert value_of(with_network) == trusted(TRUSTED)
    assert value_of(without) == []


async def test_what_is_allowed_but_not_declared_is_not_there(client, tmp_path: Path) -> None:
    with server(web_page) as web:
        name = f"api.test:{web.port}"
        async with sandbox_allowing(tmp_path, f"{name}=127.0.0.1") as executor:
            said = value_of(await executor.execute(task("client:fetch", code=client, url=f"http://{name}/")))
        assert "not known" in said
        assert web.calls == 0


async def test_what_is_declared_but_not_allowed_fails_before_the_step_starts(client, tmp_path: Path) -> None:
    with server(web_page) as web:
        allowed, declared = f"api.test:{web.port}", f"db.test:{web.port}"
        async with sandbox_allowing(tmp_path, f"{allowed}=127.0.0.1") as executor:
            step = declaring([allowed, declared], "client:fetch", code=client, url=f"http://{allowed}/")
            failed = failure_of(await executor.execute(step))
        assert (failed.reason, failed.circumstance, failed.retryable) == ("network_not_allowed", True, False)
        assert f"--allow-endpoint {declared}" in failed.message
        assert (failed.usage.wall_us, web.calls) == (0, 0)


async def test_two_tenants_reach_each_its_own_server_under_the_same_name(client, tmp_path: Path) -> None:
    with ExitStack() as both_servers:
        ours = both_servers.enter_context(server(lambda made: made.sendall(b"ours")))
        both_servers.enter_context(server(lambda made: made.sendall(b"for all"), "127.0.0.2", ours.port))
        name = f"api.test:{ours.port}"
        async with sandbox_allowing(tmp_path, f"{name}=127.0.0.2", f"acme/{name}=127.0.0.1") as executor:
            step = declaring(name, "client:knock", code=client, host="api.test", port=ours.port)
            assert step.tenant == "acme"
            theirs = replace(step, tenant=Tenant("beta"))
            both = await asyncio.gather(executor.execute(step), executor.execute(theirs))
    assert [value_of(outcome) for outcome in both] == ["ours", "for all"]
