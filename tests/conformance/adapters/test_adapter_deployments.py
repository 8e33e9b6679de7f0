"""What every provider of deployments promises through its adapter."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from sovrun.core.commands.model import StopDeployment
from sovrun.execution.port import (
    LIVE,
    Call,
    Deployment,
    DeploymentStatus,
    Done,
    NotReached,
    OutcomeUnknown,
    Rejected,
    UnreadableRecord,
    unreadable_in,
)
from support.providers import NEIGHBOUR, STRANGE, UNKNOWN_ID, Calls, Provider


async def created(host: Provider, call: Call, name: str | None = None) -> Deployment:
    """Create a deployment, and return it as it is once it runs."""
    assert host.deployment is not None
    wanted = host.deployment if name is None else replace(host.deployment, name=name)
    outcome = await host.adapter.create_deployment(call, wanted)
    assert isinstance(outcome, Done), outcome
    assert isinstance(outcome.resource, Deployment)
    await host.settle()
    found = await host.adapter.get_deployment(call, outcome.resource.id)
    assert found is not None
    return found


async def stopped(host: Provider, call: Call, deployment: str) -> Deployment:
    """Stop a deployment, and return it as it is then."""
    outcome = await host.adapter.stop_deployment(call, StopDeployment(deployment))
    assert isinstance(outcome, Done), outcome
    await host.settle()
    found = await host.adapter.get_deployment(call, deployment)
    assert found is not None
    return found


def require_rejected(outcome: Done | Rejected, code: str) -> None:
    """Fail unless the provider refused, under this code."""
    assert isinstance(outcome, Rejected), outcome
    assert outcome.code == code


async def test_a_created_deployment_runs_and_is_found_by_id_and_by_client_id_and_listed(
    host: Provider, calls: Calls
) -> None:
    call = calls.effect()
    deployment = await created(host, call)
    assert host.deployment is not None
    assert deployment.client_id == call.client_id
    assert deployment.name == host.deployment.name
    assert deployment.status is DeploymentStatus.RUNNING
    adapter, read = host.adapter, calls.read()
    assert await adapter.get_deployment(read, deployment.id) == deployment
    assert await adapter.find_deployment(read, str(call.client_id)) == deployment
    assert await adapter.list_deployments(read) == [deployment]


async def test_a_stopped_deployment_is_found_for_what_it_is(host: Provider, calls: Calls) -> None:
    call = calls.effect()
    deployment = await created(host, call)
    now = await stopped(host, calls.effect(), deployment.id)
    assert now.status is DeploymentStatus.STOPPED
    assert now.status not in LIVE
    assert await host.adapter.find_deployment(calls.read(), str(call.client_id)) == now
    assert await host.adapter.list_deployments(calls.read()) == [now]


async def test_stopping_what_is_stopped_is_done(host: Provider, calls: Calls) -> None:
    deployment = await created(host, calls.effect())
    first = await stopped(host, calls.effect(), deployment.id)
    assert await stopped(host, calls.effect(), deployment.id) == first


async def test_a_deployment_that_does_not_exist_is_neither_read_nor_stopped(
    host: Provider, calls: Calls
) -> None:
    outcome = await host.adapter.stop_deployment(calls.effect(), StopDeployment(UNKNOWN_ID))
    require_rejected(outcome, "not_found")
    assert await host.adapter.get_deployment(calls.read(), UNKNOWN_ID) is None
    assert await host.adapter.find_deployment(calls.read(), calls.client_id()) is None
    assert await host.adapter.list_deployments(calls.read()) == []


async def test_an_unknown_artifact_is_refused(host: Provider, calls: Calls) -> None:
    assert host.deployment is not None
    if host.unknown_artifact is None:
        wanted = replace(host.deployment, artifact="any/artifact:1")
        assert isinstance(await host.adapter.create_deployment(calls.effect(), wanted), Done)
        return
    wanted = replace(host.deployment, artifact=host.unknown_artifact)
    require_rejected(await host.adapter.create_deployment(calls.effect(), wanted), "unknown_artifact")
    assert await host.adapter.list_deployments(calls.read()) == []


async def test_another_tenants_deployments_are_invisible_and_cannot_be_stopped(
    host: Provider, calls: Calls
) -> None:
    call = calls.effect()
    deployment = await created(host, call)
    adapter, neighbour = host.adapter, calls.read(NEIGHBOUR)
    assert await adapter.get_deployment(neighbour, deployment.id) is None
    assert await adapter.find_deployment(neighbour, str(call.client_id)) is None
    assert await adapter.list_deployments(neighbour) == []
    outcome = await adapter.stop_deployment(calls.effect(tenant=NEIGHBOUR), StopDeployment(deployment.id))
    require_rejected(outcome, "not_found")
    assert await adapter.get_deployment(calls.read(), deployment.id) == deployment


async def test_a_mode_that_the_adapter_is_not_for_deploys_and_stops_nothing(
    host: Provider, calls: Calls
) -> None:
    assert host.deployment is not None
    call = calls.effect(mode=host.wrong_mode)
    assert call.mode not in host.adapter.capabilities.modes
    require_rejected(await host.adapter.create_deployment(call, host.deployment), "mode_not_allowed")
    assert await host.adapter.list_deployments(calls.read()) == []
    deployment = await created(host, calls.effect())
    call = calls.effect(mode=host.wrong_mode)
    outcome = await host.adapter.stop_deployment(call, StopDeployment(deployment.id))
    require_rejected(outcome, "mode_not_allowed")
    assert await host.adapter.get_deployment(calls.read(), deployment.id) == deployment


async def test_the_same_client_id_never_makes_a_second_deployment(host: Provider, calls: Calls) -> None:
    call = calls.effect()
    assert host.deployment is not None
    deployment = await created(host, call)
    for _ in range(2):
        again = await host.adapter.create_deployment(call, host.deployment)
        if isinstance(again, Rejected):
            assert again.duplicate
        else:
            assert isinstance(again.resource, Deployment)
            assert again.resource.id == deployment.id
        listed = await host.adapter.list_deployments(calls.read())
        assert [one.id for one in listed] == [deployment.id]
        await stopped(host, calls.effect(), deployment.id)
    listed = await host.adapter.list_deployments(calls.read())
    assert [one.status for one in listed] == [DeploymentStatus.STOPPED]


async def test_one_client_id_sent_several_times_at_once_makes_one_deployment(
    host: Provider, calls: Calls
) -> None:
    assert host.deployment is not None
    call, wanted = calls.effect(), host.deployment
    answers = await asyncio.gather(*(host.adapter.create_deployment(call, wanted) for _ in range(8)))
    listed = await host.adapter.list_deployments(calls.read())
    assert [one.client_id for one in listed] == [call.client_id]
    assert any(isinstance(answer, Done) for answer in answers)
    for answer in answers:
        if isinstance(answer, Rejected):
            assert answer.duplicate
        else:
            assert isinstance(answer.resource, Deployment)
            assert answer.resource.id == listed[0].id


async def test_identical_deployments_under_two_client_ids_are_two(host: Provider, calls: Calls) -> None:
    first = await created(host, calls.effect())
    second = await created(host, calls.effect())
    assert first.id != second.id
    assert len(await host.adapter.list_deployments(calls.read())) == 2


async def test_deployments_are_listed_by_id(host: Provider, calls: Calls) -> None:
    for name in ("c", "a", "b"):
        await created(host, calls.effect(), name)
    ids = [deployment.id for deployment in await host.adapter.list_deployments(calls.read())]
    assert len(ids) == 3
    assert ids == sorted(ids)


async def test_reads_of_deployments_change_nothing(host: Provider, calls: Calls) -> None:
    call, read = calls.effect(), calls.read()
    deployment = await created(host, call)
    adapter = host.adapter

    async def read_all() -> list[object]:
        return [
            await adapter.get_deployment(read, deployment.id),
            await adapter.find_deployment(read, str(call.client_id)),
            await adapter.list_deployments(read),
            await adapter.portfolio(read),
        ]

    first = await read_all()
    assert await read_all() == first


async def test_every_status_of_a_deployment_is_one_that_the_adapter_maps(
    host: Provider, calls: Calls
) -> None:
    deployment = await created(host, calls.effect())
    for told in (deployment, await stopped(host, calls.effect(), deployment.id)):
        assert host.raw_statuses[told.raw_status] is told.status


async def test_a_status_of_a_deployment_that_is_not_mapped_is_named_with_its_word_and_hides_no_other(
    host: Provider, calls: Calls
) -> None:
    first, call, read, adapter = calls.effect(), calls.effect(), calls.read(), host.adapter
    other = await created(host, first)
    deployment = await created(host, call)
    if host.strange is None:  # its words are ours, or tests/execution/test_supervisor_faults.py shows it
        assert {other.raw_status, deployment.raw_status} <= set(host.raw_statuses)
        return
    with host.strange(str(call.client_id)):
        listed = await adapter.list_deployments(read)
        assert listed == [other]
        (named,) = unreadable_in(listed)
        assert (named.kind, named.id, named.client_id, named.raw_status) == (
            *("deployment", deployment.id, call.client_id),
            STRANGE,
        )
        for asked in (
            adapter.get_deployment(read, deployment.id),
            adapter.find_deployment(read, str(call.client_id)),
        ):
            with pytest.raises(UnreadableRecord, match=STRANGE) as unknown:
                await asked
            assert unknown.value.record == named
        assert await adapter.get_deployment(read, other.id) == other
        assert await adapter.find_deployment(read, calls.client_id()) is None
    assert len(await adapter.list_deployments(read)) == 2


async def test_a_deployment_without_an_answer_in_time_is_unknown(host: Provider, calls: Calls) -> None:
    assert host.deployment is not None
    async with host.hanging():
        with pytest.raises(OutcomeUnknown) as unknown:
            await host.adapter.create_deployment(calls.effect(timeout_us=300_000), host.deployment)
    assert not isinstance(unknown.value, NotReached)
    assert unknown.value.reason == "timeout"


async def test_a_deployment_that_was_never_sent_is_told_from_an_unknown_one(
    host: Provider, calls: Calls
) -> None:
    assert host.deployment is not None
    async with host.gone():
        with pytest.raises(NotReached):
            await host.adapter.create_deployment(calls.effect(), host.deployment)
        with pytest.raises(NotReached):
            await host.adapter.stop_deployment(calls.effect(), StopDeployment(UNKNOWN_ID))
        with pytest.raises(OutcomeUnknown):
            await host.adapter.list_deployments(calls.read())
