"""Whatever the provider: what is out of reach is not called drift, and what is there agrees with what was recorded of it."""

from __future__ import annotations

from sovrun.core.canonical import canonical
from sovrun.core.commands.journal import Intention
from sovrun.core.ids import Digest
from sovrun.execution.adapter_set import AdapterSet
from sovrun.execution.drift import DriftWatch
from sovrun.execution.port import Deployment, Done, Order
from sovrun.execution.sightings import resource_json
from sovrun.store.journal import Resource
from sovrun.store.memory import MemoryStore
from support.clock import SetClock
from support.providers import ACTOR, TENANT, Calls, Provider


async def recorded(store: MemoryStore, name: str, made: Order | Deployment) -> None:
    """Record what a command has made, as the command layer does."""
    kind = "order" if isinstance(made, Order) else "deployment"
    wanted = Intention(TENANT, f"{kind}.create", 1, "key", name, "paper", Digest("0" * 64), ACTOR, opens=True)
    resource = Resource(
        *(TENANT, name, kind, made.id, wanted.id, str(made.status), made.raw_status),
        body=canonical(resource_json(made)),
        live=True,
    )
    await store.note_drifts([], seen=[resource])


async def live(provider: Provider, calls: Calls) -> Order | Deployment:
    """Make something at the provider that goes on, and return it as the provider tells of it."""
    adapter = provider.adapter
    if provider.resting is not None:
        made = await adapter.place_order(calls.effect(), provider.resting)
    else:
        assert provider.deployment is not None
        made = await adapter.create_deployment(calls.effect(), provider.deployment)
    assert isinstance(made, Done), made
    await provider.settle()
    assert isinstance(made.resource, Order | Deployment)
    name = made.resource.id
    found = (
        await adapter.get_order(calls.read(), name)
        if isinstance(made.resource, Order)
        else await adapter.get_deployment(calls.read(), name)
    )
    assert found is not None
    return found


async def test_a_provider_out_of_reach_is_not_drift(provider: Provider, calls: Calls) -> None:
    store, name = MemoryStore(SetClock()), provider.adapter.name
    made = await live(provider, calls)
    await recorded(store, name, made)
    watch = DriftWatch(store, AdapterSet({name: provider.adapter}))
    agreed = await watch.compare(TENANT, name)
    assert (agreed.unreachable, agreed.drifts, agreed.compared) == (None, (), 1)
    before = await store.resources(TENANT)
    async with provider.gone():
        lost = await watch.compare(TENANT, name)
    assert lost.unreachable
    assert lost.drifts == ()
    assert await store.drifts(TENANT, limit=9) == []
    assert await store.resources(TENANT) == before


async def test_what_no_command_has_made_is_unrecorded(provider: Provider, calls: Calls) -> None:
    store, name = MemoryStore(SetClock()), provider.adapter.name
    made = await live(provider, calls)
    watch = DriftWatch(store, AdapterSet({name: provider.adapter}))
    found = await watch.compare(TENANT, name)
    assert [(drift.resource, drift.previous, drift.resolution) for drift in found.drifts] == [
        (made.id, None, "unrecorded")
    ]
    assert await store.resources(TENANT) == []
