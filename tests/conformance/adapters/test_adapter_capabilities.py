"""What every adapter declares, and what it answers to what it does not know."""

from __future__ import annotations

from sovrun.execution.port import Done
from support.providers import NEIGHBOUR, Calls, Provider


async def test_an_adapter_declares_what_may_be_relied_on(provider: Provider) -> None:
    capabilities = provider.adapter.capabilities
    assert provider.adapter.name
    assert capabilities.resources <= {"order", "deployment"}
    assert capabilities.modes <= {"paper", "live"}
    assert capabilities.modes
    assert capabilities.processing_deadline_us >= 0


async def test_resources_of_a_kind_that_a_provider_does_not_have_are_none(
    provider: Provider, calls: Calls
) -> None:
    adapter, read = provider.adapter, calls.read()
    if "order" not in adapter.capabilities.resources:
        assert await adapter.list_orders(read) == []
        assert await adapter.find_order(read, calls.client_id()) is None
    if "deployment" not in adapter.capabilities.resources:
        assert await adapter.list_deployments(read) == []
        assert await adapter.find_deployment(read, calls.client_id()) is None


async def test_a_kind_that_the_adapter_does_not_know_is_refused(provider: Provider, calls: Calls) -> None:
    outcome = await provider.adapter.perform_further(calls.effect(), "nobody.knows", {})
    assert getattr(outcome, "code", None) == "unknown_kind"
    assert await provider.adapter.find_performed(calls.read(), "nobody.knows", calls.client_id()) is None


async def test_a_further_kind_is_performed_and_found_by_its_client_id(
    provider: Provider, calls: Calls
) -> None:
    adapter = provider.adapter
    if provider.further is None:
        assert adapter.capabilities.kinds == {}
        return
    kind, payload_for = provider.further
    assert kind in adapter.capabilities.kinds
    payload, call = payload_for(await provider.deployed(calls.effect())), calls.effect()
    assert await adapter.find_performed(calls.read(), kind, str(call.client_id)) is None
    outcome = await adapter.perform_further(call, kind, payload)
    assert isinstance(outcome, Done)
    assert await adapter.find_performed(calls.read(), kind, str(call.client_id)) == outcome.resource
    assert await adapter.find_performed(calls.read(), kind, calls.client_id()) is None
    assert await adapter.find_performed(calls.read(NEIGHBOUR), kind, str(call.client_id)) is None
