"""Deployments on a real supervisord: one start for each client id, whatever breaks in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any

import pytest

from sovrun.core.commands.model import CreateDeployment, StopDeployment
from sovrun.execution.port import (
    DeploymentStatus,
    ExecutionAdapter,
    NotReached,
    Rejected,
)
from support.providers import NEIGHBOUR, Calls
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

RUNNING, STOPPED, FAILED = DeploymentStatus.RUNNING, DeploymentStatus.STOPPED, DeploymentStatus.FAILED


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


async def test_a_process_is_started_once_and_told_what_it_is_for(
    server: Supervisord, host: ExecutionAdapter, calls: Calls
) -> None:
    call = calls.effect()
    deployment = await created(host, call)
    (start,) = server.started(1)
    assert json.loads(start["environment"].pop("SOVRUN_PARAMETERS")) == BOT.parameters
    assert start["environment"] == {
        "SOVRUN_CAPITAL": "1000.5",
        "SOVRUN_DEPLOYMENT_ID": call.client_id,
        "SOVRUN_DEPLOYMENT_NAME": "maker",
        "SOVRUN_MODE": "paper",
        "SOVRUN_TENANT": "acme",
    }
    server.settle()
    found = await host.get_deployment(calls.read(), deployment.id)
    assert found is not None
    group = f"sovrun-acme-{call.client_id}"
    assert found.detail == {
        "group": group,
        "artifact": "bot",
        "capital": "1000.5",
        "mode": "paper",
        "processes": [{"name": group, "state": "RUNNING", "pid": start["pid"]}],
    }
    assert server.files() == [f"{group}.conf"]
    assert (server.folder / "logs" / f"{group}.log").exists()


async def test_a_stopped_deployment_stays_stopped_and_a_running_one_runs_after_a_restart_of_supervisord(
    server: Supervisord, host: ExecutionAdapter, calls: Calls
) -> None:
    going, over = calls.effect(), calls.effect()
    for call in (going, over):
        await created(host, call)
    server.started(2)
    ended = await stopped(host, calls.effect(timeout_us=PATIENT_US), str(over.client_id))
    assert ended.status is STOPPED
    server.stop()
    server.start()
    assert await status_of(host, server, going) is RUNNING
    assert await status_of(host, server, over) is STOPPED
    server.started(3)
    assert starts_by_deployment(server) == {going.client_id: 2, over.client_id: 1}
    again = await created(host, over)
    assert again.status is STOPPED
    assert starts_by_deployment(server)[str(over.client_id)] == 1


async def test_a_deployment_is_found_after_supervisord_was_killed(
    server: Supervisord, host: ExecutionAdapter, calls: Calls
) -> None:
    call = calls.effect()
    await created(host, call)
    server.started(1)
    server.kill()
    with pytest.raises(NotReached):
        await host.find_deployment(call, str(call.client_id))
    server.start()
    assert await status_of(host, server, call) is RUNNING


async def test_many_callers_with_one_client_id_start_one_process(
    server: Supervisord, host: ExecutionAdapter, calls: Calls
) -> None:
    call = calls.effect(timeout_us=30_000_000)
    async with adapter_of(server.settings()) as other:  # as another process would
        sent = [created(one, call) for one in (host, other) for _ in range(15)]
        told = await asyncio.gather(*sent)
    assert {one.id for one in told} == {call.client_id}
    server.started(1)
    server.settle()
    assert starts_by_deployment(server) == {call.client_id: 1}


async def test_many_deployments_at_once_are_all_started_once(
    server: Supervisord, host: ExecutionAdapter, calls: Calls
) -> None:
    wanted = [calls.effect(timeout_us=30_000_000) for _ in range(20)]
    await asyncio.gather(*(created(host, call) for call in (*wanted, *wanted)))
    server.started(len(wanted))
    server.settle()
    assert starts_by_deployment(server) == {call.client_id: 1 for call in wanted}
    listed = await host.list_deployments(calls.read())
    assert [one.id for one in listed] == sorted(str(call.client_id) for call in wanted)
    await asyncio.gather(*(stopped(host, calls.effect(timeout_us=PATIENT_US), one.id) for one in listed))
    assert {one.status for one in await host.list_deployments(calls.read())} == {STOPPED}


async def test_the_same_client_id_for_something_else_is_refused_as_a_duplicate(
    server: Supervisord, host: ExecutionAdapter, calls: Calls
) -> None:
    call = calls.effect()
    await created(host, call)
    other = CreateDeployment(BOT.name, BOT.artifact, Decimal("1000.51"), BOT.parameters)
    outcome = await host.create_deployment(call, other)
    assert isinstance(outcome, Rejected)
    assert (outcome.code, outcome.duplicate) == ("duplicate_client_id", True)
    server.settle()
    assert len(server.started(1)) == 1


async def test_a_tenant_reaches_neither_others_nor_what_the_operator_runs(
    server: Supervisord, host: ExecutionAdapter, calls: Calls
) -> None:
    ours, theirs = calls.effect(), calls.effect(tenant=NEIGHBOUR)
    await created(host, ours)
    await created(host, theirs)
    server.started(2)
    assert [one.id for one in await host.list_deployments(calls.read())] == [ours.client_id]
    for foreign in (str(theirs.client_id), f"sovrun-globex-{theirs.client_id}", "of-the-operator", "", "*"):
        outcome = await host.stop_deployment(calls.effect(), StopDeployment(foreign))
        assert isinstance(outcome, Rejected)
        assert outcome.code == "not_found"
        assert await host.get_deployment(calls.read(), foreign) is None
    server.settle()
    assert set(server.states().values()) == {"RUNNING"}
    assert len(server.states()) == 3


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"size": 2}, "symbol"),
    ({"symbol": 7}, "symbol"),
    ({"symbol": "ACME", "more": 1}, "more"),
    ({"symbol": "A'; touch x"}, "environment variable"),
    ({"symbol": "A\n[program:x]\ncommand=/bin/false"}, "environment variable"),
]


async def test_parameters_that_are_not_declared_start_nothing(server: Supervisord, calls: Calls) -> None:
    declared = {
        "environment": {"BOT_SYMBOL": {"parameter": "symbol"}},
        "parameters": {
            "type": "object",
            "properties": {"symbol": {"type": "string"}, "size": {}},
            "required": ["symbol"],
            "additionalProperties": False,
        },
    }
    artifacts = {"bot": server.artifact(**declared), "plain": server.artifact()}
    async with adapter_of(server.settings(artifacts=artifacts)) as host:
        refused = [CreateDeployment("maker", "bot", None, parameters) for parameters, _ in REFUSED]
        for order, what in [
            *zip(refused, (what for _, what in REFUSED), strict=True),
            (CreateDeployment("maker", "plain", None, {"any": 1}), "parameters"),
        ]:
            outcome = await host.create_deployment(calls.effect(), order)
            assert isinstance(outcome, Rejected)
            assert outcome.code == "invalid_parameters"
            assert what in outcome.message
        assert server.files() == []
        await created(host, calls.effect(), CreateDeployment("maker", "bot", None, {"symbol": "ACME"}))
        (start,) = server.started(1)
        assert start["environment"]["BOT_SYMBOL"] == "ACME"
        assert "SOVRUN_CAPITAL" not in start["environment"]


async def test_how_processes_end_is_told(server: Supervisord, calls: Calls) -> None:
    artifacts = {
        "ends": server.artifact("3", restart="never", exitCodes=[0, 3]),
        "fails": server.artifact("4", restart="never"),
        "quick": server.artifact("0", startSeconds=60, startRetries=0),
        "missing": {"command": ["/no/such/program"], "startRetries": 0},
        "two": server.artifact(processes=2),
    }
    told = {"ends": STOPPED, "fails": FAILED, "quick": FAILED, "missing": FAILED, "two": RUNNING}
    async with adapter_of(server.settings(artifacts=artifacts)) as host:
        wanted = {name: calls.effect() for name in artifacts}
        for name, call in wanted.items():
            await created(host, call, CreateDeployment("maker", name, None, {}))
        server.started(5)
        for name, call in wanted.items():
            assert await status_of(host, server, call) is told[name], name
        found = await host.find_deployment(calls.read(), str(wanted["ends"].client_id))
        assert found is not None
        assert found.detail["processes"][0]["exitStatus"] == 3
        missing = await host.find_deployment(calls.read(), str(wanted["missing"].client_id))
        assert missing is not None
        assert "find command" in missing.detail["processes"][0]["message"]
        both = await stopped(host, calls.effect(timeout_us=PATIENT_US), str(wanted["two"].client_id))
        assert [one["state"] for one in both.detail["processes"]] == ["STOPPED", "STOPPED"]
        for name in ("ends", "fails", "missing"):
            over = await stopped(host, calls.effect(timeout_us=PATIENT_US), str(wanted[name].client_id))
            assert over.status is told[name]


async def test_what_is_started_again_and_again_is_stopped_too(server: Supervisord, calls: Calls) -> None:
    artifacts = {"restless": server.artifact("0", restart="always")}
    async with adapter_of(server.settings(artifacts=artifacts)) as host:
        call = calls.effect()
        await created(host, call, CreateDeployment("maker", "restless", None, {}))
        server.started(3)
        ended = await stopped(host, calls.effect(timeout_us=PATIENT_US), str(call.client_id))
        assert ended.status not in {RUNNING, DeploymentStatus.QUEUED}
        count = len(server.starts())
        server.settle()
        assert server.states()[f"sovrun-acme-{call.client_id}"] in {"STOPPED", "FATAL", "EXITED"}
        assert len(server.starts()) == count


async def test_stopping_at_once_what_was_just_created_leaves_nothing_running(
    server: Supervisord, host: ExecutionAdapter, calls: Calls
) -> None:
    for _ in range(4):
        call = calls.effect()
        await created(host, call)
        # What supervisord forks does not hear of a signal before it becomes the program: it is killed later.
        ended = await stopped(host, calls.effect(timeout_us=PATIENT_US), str(call.client_id))
        assert ended.status is STOPPED
        assert await status_of(host, server, call) is STOPPED


async def test_a_process_that_takes_its_time_is_stopping_and_then_stopped(
    server: Supervisord, calls: Calls
) -> None:
    artifacts = {"deaf": server.artifact("deaf", stopSeconds=3)}
    async with adapter_of(server.settings(artifacts=artifacts)) as host:
        call = calls.effect()
        await created(host, call, CreateDeployment("maker", "deaf", None, {}))
        server.started(1)
        asked = await stopped(host, calls.effect(timeout_us=1_500_000), str(call.client_id))
        assert (asked.status, asked.raw_status) == (DeploymentStatus.STOPPING, "STOPPING")
        ended = await stopped(host, calls.effect(timeout_us=PATIENT_US), str(call.client_id))
        assert ended.status is STOPPED


async def test_a_supervisord_that_does_not_include_the_directory_starts_nothing_now_or_later(
    server: Supervisord, calls: Calls
) -> None:
    elsewhere = server.folder / "elsewhere"
    elsewhere.mkdir()
    async with adapter_of(server.settings(directory=str(elsewhere))) as host:
        outcome = await host.create_deployment(calls.effect(), BOT)
        assert isinstance(outcome, Rejected)
        assert outcome.code == "provider_misconfigured"
        assert "[include]" in outcome.message
    assert list(elsewhere.glob("*.conf")) == []


async def test_a_configuration_that_supervisord_cannot_read_starts_nothing_now_or_later(
    server: Supervisord, host: ExecutionAdapter, calls: Calls
) -> None:
    broken = server.conf_d / "zz-broken.conf"
    broken.write_text("[program:broken]\ncommand=%(nothing)s\n")
    call = calls.effect()
    outcome = await host.create_deployment(call, BOT)
    assert isinstance(outcome, Rejected)
    assert outcome.code == "provider_misconfigured"
    assert "zz-broken.conf" in outcome.message
    assert "ENV_" not in outcome.message, "which variables supervisord has is nobody's business"
    assert server.files() == [broken.name]
    broken.unlink()
    server.ask("supervisor.reloadConfig")
    assert await host.find_deployment(call, str(call.client_id)) is None
    await created(host, call)
    assert await status_of(host, server, call) is RUNNING


async def test_a_directory_that_cannot_be_written_sends_nothing(
    server: Supervisord, host: ExecutionAdapter, calls: Calls
) -> None:
    conf_d = server.conf_d
    moved = conf_d.rename(conf_d.with_name("moved"))
    with pytest.raises(NotReached, match=r"conf\.d"):
        await host.create_deployment(calls.effect(), BOT)
    moved.rename(conf_d)


async def test_what_was_stopped_is_not_started_by_sending_it_again_even_when_supervisord_has_dropped_it(
    server: Supervisord, host: ExecutionAdapter, calls: Calls
) -> None:
    call = calls.effect()
    await created(host, call)
    server.started(1)
    await stopped(host, calls.effect(timeout_us=PATIENT_US), str(call.client_id))
    server.ask("supervisor.removeProcessGroup", f"sovrun-acme-{call.client_id}")
    assert await host.find_deployment(call, str(call.client_id)) is None
    await created(host, call)
    assert await status_of(host, server, call) is STOPPED
    assert len(server.starts()) == 1


async def test_what_the_operator_cleared_up_is_gone(
    server: Supervisord, host: ExecutionAdapter, calls: Calls
) -> None:
    call = calls.effect()
    await created(host, call)
    server.started(1)
    await stopped(host, calls.effect(timeout_us=PATIENT_US), str(call.client_id))
    (server.conf_d / server.files()[0]).unlink()
    found = await host.find_deployment(call, str(call.client_id))
    assert found is not None
    assert (found.status, found.name) == (STOPPED, f"sovrun-acme-{call.client_id}")
    again = await created(host, call)
    assert again.status is STOPPED
    assert server.files() == []
    server.ask("supervisor.removeProcessGroup", f"sovrun-acme-{call.client_id}")
    assert await host.find_deployment(call, str(call.client_id)) is None
    assert len(server.starts()) == 1
