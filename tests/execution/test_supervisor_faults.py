"""What breaks on the way to a real supervisord: cut connections, crashes, hangs. A client id still starts one process."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from sovrun.core.commands.model import StopDeployment
from sovrun.execution.adapters import supervisor_rpc
from sovrun.execution.adapters.supervisor_files import Folder
from sovrun.execution.adapters.supervisor_rpc import Address, Connection
from sovrun.execution.port import (
    Call,
    Deployment,
    DeploymentStatus,
    ExecutionAdapter,
    NotReached,
    OutcomeUnknown,
    Rejected,
    UnreadableRecord,
    unreadable_in,
)
from support import deploying
from support.cli import environment
from support.providers import Calls
from support.proxies import Fault, Plan, proxied, said, seeded
from support.supervisord import (
    BOT,
    PATIENT_US,
    Supervisord,
    adapter_of,
    created,
    starts_by_deployment,
    status_of,
    stopped,
    supervisord,
)
from support.up import until

RUNNING, STOPPED = DeploymentStatus.RUNNING, DeploymentStatus.STOPPED


@pytest.fixture
def server() -> Iterator[Supervisord]:
    with supervisord() as running:
        yield running


@pytest.fixture
async def host(server: Supervisord) -> AsyncIterator[ExecutionAdapter]:
    async with adapter_of(server.settings()) as adapter:
        yield adapter


@pytest.fixture
def calls(request: pytest.FixtureRequest) -> Calls:
    return Calls(request.node.nodeid)


async def test_a_crash_between_the_file_and_the_start_is_completed_by_sending_the_same_again(
    server: Supervisord, host: ExecutionAdapter, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die() -> None:
        raise RuntimeError("killed")

    call = calls.effect()
    with monkeypatch.context() as broken:
        after_writing(broken, die)
        with pytest.raises(RuntimeError, match="killed"):
            await host.create_deployment(call, BOT)
    assert len(server.files()) == 1
    assert server.starts() == []
    assert await host.find_deployment(call, str(call.client_id)) is None
    assert await host.list_deployments(call) == []
    outcome = await host.stop_deployment(calls.effect(), StopDeployment(str(call.client_id)))
    assert isinstance(outcome, Rejected)
    assert outcome.code == "not_found"
    await created(host, call)
    assert await status_of(host, server, call) is RUNNING
    assert len(server.started(1)) == 1


async def test_a_supervisord_that_goes_away_in_the_middle_is_not_one_that_was_never_reached(
    server: Supervisord, host: ExecutionAdapter, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = calls.effect()
    with monkeypatch.context() as broken:
        after_writing(broken, server.kill)
        with pytest.raises(OutcomeUnknown) as unknown:
            await host.create_deployment(call, BOT)
    assert not isinstance(unknown.value, NotReached)
    assert unknown.value.reason == "connection_lost"
    server.start()  # which reads the file that was left
    assert await status_of(host, server, call) is RUNNING
    await created(host, call)
    server.started(1)
    assert starts_by_deployment(server) == {call.client_id: 1}


async def test_a_supervisord_that_is_restarted_in_the_middle_has_it_already(
    server: Supervisord, host: ExecutionAdapter, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restart() -> None:
        server.kill()
        server.start()

    call = calls.effect(timeout_us=60_000_000)
    with monkeypatch.context() as broken:
        after_writing(broken, restart)
        await created(host, call)
    assert await status_of(host, server, call) is RUNNING
    server.started(1)
    assert starts_by_deployment(server) == {call.client_id: 1}


async def test_a_file_that_somebody_else_had_taken_up_is_not_taken_back(
    server: Supervisord, host: ExecutionAdapter, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = calls.effect()
    ask = Connection.call

    def too_late(connection: Connection, method: str, *parameters: Any, deadline: float) -> Any:
        answer = ask(connection, method, *parameters, deadline=deadline)
        if method == "supervisor.addProcessGroup":
            raise supervisor_rpc.Fault(supervisor_rpc.FaultCode.BAD_NAME, "as if it had not been there")
        return answer

    with monkeypatch.context() as broken:
        broken.setattr(Connection, "call", too_late)
        await created(host, call)
    assert server.files() == [f"sovrun-acme-{call.client_id}.conf"]
    assert await status_of(host, server, call) is RUNNING


async def test_a_stop_that_comes_to_nothing_in_time_is_unknown(
    server: Supervisord, host: ExecutionAdapter, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = calls.effect()
    await created(host, call)
    server.started(1)
    ask = Connection.call

    def ignored(connection: Connection, method: str, *parameters: Any, deadline: float) -> Any:
        if method == "supervisor.stopProcessGroup":
            return []
        return ask(connection, method, *parameters, deadline=deadline)

    with monkeypatch.context() as broken:
        broken.setattr(Connection, "call", ignored)
        with pytest.raises(OutcomeUnknown) as unknown:
            await host.stop_deployment(calls.effect(timeout_us=500_000), StopDeployment(str(call.client_id)))
    assert not isinstance(unknown.value, NotReached)
    assert unknown.value.reason == "timeout"
    assert (await stopped(host, calls.effect(timeout_us=PATIENT_US), str(call.client_id))).status is STOPPED


def after_writing(broken: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Have something happen whenever the file of a deployment has been written."""
    write = Folder.write

    def write_and_more(folder: Folder, group: str, text: str) -> None:
        write(folder, group, text)
        happens()

    broken.setattr(Folder, "write", write_and_more)


async def test_whoever_deploys_may_be_killed_at_any_moment(
    server: Supervisord, host: ExecutionAdapter, calls: Calls
) -> None:
    client_ids = [calls.client_id() for _ in range(50)]
    ends = []
    program = Path(deploying.__file__)
    command = [sys.executable, program, json.dumps(server.settings()), *client_ids]
    for count in range(2, 30, 4):
        with subprocess.Popen(command, env=environment()) as killed:  # noqa: ASYNC220 -- nothing else to do meanwhile
            until(lambda count=count: len(server.files()) >= count, f"{count} files")  # type: ignore[misc]
            killed.kill()
        ends.append(killed.returncode)
    assert ends.count(-signal.SIGKILL) > 3, "it was not killed in the middle"
    subprocess.run(command, env=environment(), check=True)  # noqa: ASYNC221 -- the same
    server.started(len(client_ids))
    server.settle()
    assert starts_by_deployment(server) == dict.fromkeys(client_ids, 1)
    assert [one.id for one in await host.list_deployments(calls.read())] == sorted(client_ids)


async def test_a_supervisord_that_hangs_leaves_every_outcome_unknown_and_nothing_twice(
    server: Supervisord, host: ExecutionAdapter, calls: Calls
) -> None:
    running = calls.effect()
    await created(host, running)
    server.started(1)
    server.signal(signal.SIGSTOP)
    fresh = calls.effect(timeout_us=300_000)
    with pytest.raises(OutcomeUnknown) as unknown:
        await host.create_deployment(fresh, BOT)
    assert unknown.value.reason == "timeout"
    with pytest.raises(OutcomeUnknown) as unknown:
        await host.stop_deployment(calls.effect(timeout_us=300_000), StopDeployment(str(running.client_id)))
    assert unknown.value.reason == "timeout"
    with pytest.raises(OutcomeUnknown):
        await host.find_deployment(calls.effect(timeout_us=300_000), str(fresh.client_id))
    server.signal(signal.SIGCONT)
    await created(host, Call(fresh.tenant, fresh.actor, fresh.mode, fresh.client_id))
    assert await status_of(host, server, fresh) is RUNNING
    assert await status_of(host, server, running) is RUNNING
    server.started(2)
    assert starts_by_deployment(server) == {running.client_id: 1, fresh.client_id: 1}


def first_of(key_of: str, fault: Fault) -> Plan:
    """Have the first call that names this client id meet a fault."""
    return lambda _method, _path, key, nth: fault if (key, nth) == (key_of, 0) else Fault.NONE


async def test_a_supervisord_that_shuts_down_is_told_from_one_that_knows_nothing(
    server: Supervisord, calls: Calls
) -> None:
    artifacts = {"bot": server.artifact("deaf", stopSeconds=60, parameters={"type": "object"})}
    async with adapter_of(server.settings(artifacts=artifacts)) as host:
        call = calls.effect()
        await created(host, call)
        server.started(1)
        assert server.process is not None
        server.process.terminate()
        until(lambda: is_shutting_down(server), "the end of supervisord")
        for known in (str(call.client_id), calls.client_id()):
            with pytest.raises(NotReached, match="shutting down"):
                await host.find_deployment(calls.read(), known)
        with pytest.raises(NotReached, match="shutting down"):
            await host.create_deployment(calls.effect(), BOT)
        with pytest.raises(NotReached, match="shutting down"):
            await host.stop_deployment(calls.effect(), StopDeployment(str(call.client_id)))
        assert len(server.files()) == 1
        assert "autostart=true" in (server.conf_d / server.files()[0]).read_text()


def is_shutting_down(server: Supervisord) -> bool:
    try:
        server.ask("supervisor.getState")
    except supervisor_rpc.Fault as fault:
        return fault.code == supervisor_rpc.FaultCode.SHUTDOWN_STATE
    return False


@asynccontextmanager
async def behind_a_proxy() -> AsyncIterator[tuple[Supervisord, Any, dict[str, Any]]]:
    with TemporaryDirectory(prefix="sovrun-sv-") as name:
        folder = Path(name)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = Supervisord(
            folder,
            Address(None, "127.0.0.1", port),
            f"port=127.0.0.1:{port}\nusername=me\npassword=secret",
            ("me", "secret"),
        )
        (folder / "password").write_text("secret\n")
        server.start()
        try:
            async with proxied(port) as proxy:
                password = {"file": str(folder / "password")}
                yield server, proxy, server.settings(url=proxy.url, user="me", password=password)
        finally:
            server.kill()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.CUT_BEFORE, "connection_lost"),
        (Fault.CUT_AFTER, "connection_lost"),
        (Fault.CUT_WITHIN, "connection_lost"),
        (Fault.ERROR_AFTER, "server_error"),
        (Fault.NOT_JSON_AFTER, "bad_answer"),
        (Fault.HANG, "timeout"),
    ],
)
async def test_a_start_whose_answer_is_lost_is_found_or_completed_and_never_made_twice(
    calls: Calls, fault: Fault, reason: str
) -> None:
    async with behind_a_proxy() as (server, proxy, settings), adapter_of(settings) as host:
        call = calls.effect(timeout_us=2_000_000)
        async with proxy.meeting(first_of(str(call.client_id), fault)):
            with pytest.raises(OutcomeUnknown) as unknown:
                await host.create_deployment(call, BOT)
        assert not isinstance(unknown.value, NotReached)
        assert unknown.value.reason == reason
        found = await host.find_deployment(call, str(call.client_id))
        assert (found is None) == (fault is Fault.CUT_BEFORE)
        await created(host, calls.effect(call.client_id))
        assert await status_of(host, server, call) is RUNNING
        server.started(1)
        assert starts_by_deployment(server) == {call.client_id: 1}


async def resolved(host: ExecutionAdapter, call: Call) -> tuple[Deployment, int]:
    """Send, and after an unknown outcome look, and send again what is not found. Returns: how often it was sent, too."""
    sends = 0
    while True:
        with suppress(OutcomeUnknown):
            sends += 1
            return await created(host, call), sends
        while True:
            with suppress(OutcomeUnknown):
                found = await host.find_deployment(call, str(call.client_id))
                break
        if found is not None:
            return found, sends


async def test_when_a_third_of_all_calls_is_cut_every_deployment_is_started_exactly_once(
    calls: Calls,
) -> None:
    async with behind_a_proxy() as (server, proxy, settings), adapter_of(settings) as host:
        wanted = [calls.effect() for _ in range(40)]
        async with proxy.meeting(seeded(7, 0.33, {"POST"})):
            told = await asyncio.gather(*(resolved(host, call) for call in wanted))
        cut = sum(asked.fault is not Fault.NONE for asked in proxy.asked)
        assert cut * 4 > len(proxy.asked), "the faults did not strike"
        assert sum(sends for _, sends in told) > len(wanted), "nothing had to be sent again"
        assert [one.client_id for one, _ in told] == [call.client_id for call in wanted]
        server.started(len(wanted))
        server.settle()
        assert starts_by_deployment(server) == {call.client_id: 1 for call in wanted}
        assert len(await host.list_deployments(calls.read())) == len(wanted)


async def test_a_stop_whose_answer_is_lost_is_found_stopped(calls: Calls) -> None:
    async with behind_a_proxy() as (server, proxy, settings), adapter_of(settings) as host:
        call = calls.effect()
        await created(host, call)
        server.started(1)
        before = sum(asked.key == call.client_id for asked in proxy.asked)

        def plan(_method: str, _path: str, key: str, nth: int) -> Fault:
            third = (call.client_id, before + 2)  # it is looked at twice, and stopped
            return Fault.CUT_AFTER if (key, nth) == third else Fault.NONE

        async with proxy.meeting(plan):
            with pytest.raises(OutcomeUnknown) as unknown:
                await host.stop_deployment(calls.effect(), StopDeployment(str(call.client_id)))
        assert unknown.value.reason == "connection_lost"
        assert await status_of(host, server, call) is STOPPED
        assert (
            await stopped(host, calls.effect(timeout_us=PATIENT_US), str(call.client_id))
        ).status is STOPPED


async def test_a_state_that_supervisord_did_not_have_before_is_named_and_hides_no_other(calls: Calls) -> None:
    async with behind_a_proxy() as (server, proxy, settings), adapter_of(settings) as host:
        call, other = calls.effect(), calls.effect()
        for each in (call, other):
            await created(host, each)
        server.started(2)
        client_id = str(call.client_id)
        with proxy.saying(said(client_id, "RUNNING", "HALTED")):
            listed = await host.list_deployments(calls.read())
            assert [one.client_id for one in listed] == [other.client_id]
            (named,) = unreadable_in(listed)
            assert (named.kind, named.id, named.client_id) == ("deployment", client_id, client_id)
            assert "HALTED" in str(named.raw_status)
            with pytest.raises(UnreadableRecord, match="HALTED") as unknown:
                await host.find_deployment(calls.read(), client_id)
            assert unknown.value.record == named
            assert await host.find_deployment(calls.read(), calls.client_id()) is None
            with pytest.raises(OutcomeUnknown, match="HALTED"):
                await host.stop_deployment(calls.effect(), StopDeployment(client_id))
        assert len(await host.list_deployments(calls.read())) == 2


async def test_a_wrong_password_does_nothing(calls: Calls) -> None:
    async with behind_a_proxy() as (server, _, settings):
        (server.folder / "password").write_text("wrong")
        async with adapter_of(settings) as host:
            with pytest.raises(NotReached, match="password"):
                await host.create_deployment(calls.effect(), BOT)
        assert server.files() == []
