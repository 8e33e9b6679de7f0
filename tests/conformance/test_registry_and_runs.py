"""DAG versions, submissions, payloads and reads: what is asked for once more, by whom, and what nobody else sees."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sovrun.core.canonical import sha256_hex
from sovrun.core.errors import IdempotencyKeyConflict, NotFound
from sovrun.core.ids import DagId, RunId, Tenant
from sovrun.core.lifecycle import State
from sovrun.store.payload import Payload
from sovrun.store.protocol import Store
from support import dags
from support.clock import START_US, SetClock
from support.requests import (
    ACTOR,
    CODE,
    TENANT,
    WORKER,
    claim_one,
    done,
    drained,
    payload,
    registration,
    submission,
    submitted,
    version_of,
)

CHAIN = dags.shaped(dags.CHAIN)
SINGLE = dags.shaped(dags.SINGLE)
STRANGER = Tenant("stranger")


# --- DAG versions -------------------------------------------------------------------------------------------------------


async def test_registering_a_known_version_writes_nothing(store: Store) -> None:
    first = registration(CHAIN)
    assert await store.register(first) is True
    assert await store.register(replace(first, source="elsewhere.yaml")) is False
    record = await store.dag(TENANT, first.version)
    assert (record.dag, record.version, record.code) == (CHAIN.id, first.version, CODE)
    assert (record.normal, record.source) == (first.normal, "dag.yaml")


async def test_each_tenant_registers_for_itself(store: Store) -> None:
    assert await store.register(registration(CHAIN))
    with pytest.raises(NotFound):
        await store.dag(STRANGER, version_of(CHAIN))
    with pytest.raises(NotFound):
        await store.submit(submission(CHAIN, "1", tenant=STRANGER))
    assert await store.register(registration(CHAIN, STRANGER))


async def test_a_dag_that_nobody_registered_has_no_runs(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.submit(submission(CHAIN, "1"))
    assert await store.runs(TENANT, limit=10) == []


# --- submissions --------------------------------------------------------------------------------------------------------


@pytest.mark.owner_only("the socket signs what it is sent with the caller's own name")
async def test_a_run_is_kept_as_it_was_asked_for(store: Store, clock: SetClock) -> None:
    await store.register(registration(CHAIN))
    request = submission(CHAIN, "1", inputs={"day": "monday"}, note="because \u00e9", priority=7)
    assert await store.submit(request) == (request.id, True)
    record = await store.run(TENANT, request.id)
    head = record.head
    assert (head.id, head.tenant, head.version, head.inputs) == (
        request.id,
        TENANT,
        request.version,
        request.inputs.digest,
    )
    assert (head.state, head.priority, head.sequence) == (State.QUEUED, 7, 3)
    assert (record.dag, record.token, record.key, record.actor) == (
        CHAIN.id,
        request.token,
        '{"fresh":"1"}',
        ACTOR,
    )
    assert request.note is not None
    assert (record.isolation, record.note) == ("in-process", request.note.digest)
    assert (record.created_us, record.started_us, record.ended_us) == (START_US, None, None)
    received = (await store.events(TENANT, request.id))[0]
    assert (received.type, received.actor, received.step) == ("run.received", ACTOR, None)
    assert json.loads(received.data) == {
        "dagId": "dag",
        "dagVersion": request.version,
        "inputsHash": request.inputs.digest,
        "isolation": "in-process",
        "key": {"fresh": "1"},
        "noteHash": request.note.digest,
        "priority": 7,
        "runToken": request.token,
    }


async def test_the_same_token_is_the_same_run(store: Store) -> None:
    await store.register(registration(CHAIN))
    request = replace(submission(CHAIN, "1"), key='{"rerun":"0","n":1}')
    assert (await store.submit(request)).created
    assert await store.submit(request) == (request.id, False)
    assert len(await store.runs(TENANT, limit=10)) == 1
    assert len(await store.events(TENANT, request.id)) == 3


@pytest.mark.owner_only("the socket refuses digests that are not of what they are sent with")
async def test_the_same_request_under_a_callers_key_answers_with_the_first_run(store: Store) -> None:
    await store.register(registration(CHAIN))
    first = await store.submit(submission(CHAIN, "1", caller_key="order 1"))
    again = replace(
        submission(CHAIN, "2", caller_key="order 1"), id=RunId("f" * 32), token=sha256_hex(b"newer")
    )
    assert await store.submit(again) == (first.run, False), "even when a newer version makes another token"
    assert len(await store.runs(TENANT, limit=10)) == 1


async def test_another_request_under_a_callers_key_is_a_conflict_and_writes_nothing(store: Store) -> None:
    await store.register(registration(CHAIN))
    first = await store.submit(submission(CHAIN, "1", caller_key="order 1"))
    with pytest.raises(IdempotencyKeyConflict) as refusal:
        await store.submit(submission(CHAIN, "2", caller_key="order 1", inputs={"other": 1}))
    assert refusal.value.facts == {"run": first.run}
    assert "order 1" in refusal.value.detail
    assert len(await store.runs(TENANT, limit=10)) == 1


async def test_a_callers_key_belongs_to_its_tenant_and_dag(store: Store) -> None:
    other = replace(CHAIN, id=DagId("other"))
    for spec, tenant in ((CHAIN, TENANT), (other, TENANT), (CHAIN, STRANGER)):
        await store.register(registration(spec, tenant))
        assert (await store.submit(submission(spec, "1", tenant=tenant, caller_key="k"))).created


# --- what others do not see ---------------------------------------------------------------------------------------------


async def test_no_tenant_sees_anything_of_another(store: Store) -> None:
    run = await submitted(store, CHAIN)
    lease = await claim_one(store)
    report = done(lease, "secret")
    await store.commit([report], worker=WORKER)
    with pytest.raises(NotFound):
        await store.run(STRANGER, run)
    with pytest.raises(NotFound):
        await store.steps(STRANGER, run)
    with pytest.raises(NotFound):
        await store.events(STRANGER, run)
    assert await store.runs(STRANGER, limit=10) == []
    assert await store.payload(STRANGER, report.payloads[0].digest) is None
    assert await store.payload(TENANT, report.payloads[0].digest) == report.payloads[0].body


async def test_a_report_in_the_name_of_another_tenant_is_lost(store: Store) -> None:
    run = await submitted(store, CHAIN)
    lease = await claim_one(store)
    before = await store.events(TENANT, run)
    forged = lease._replace(tenant=STRANGER)
    committed = await store.commit([done(forged)], worker=WORKER)
    assert committed.lost == (forged,)
    assert await store.events(TENANT, run) == before
    assert await store.payload(STRANGER, done(forged).payloads[0].digest) is None


@pytest.mark.parametrize("change", [{"run_key": 99}, {"position": 99}, {"fence": 9}])
async def test_a_report_on_what_does_not_exist_is_lost(store: Store, change: dict[str, int]) -> None:
    await submitted(store, CHAIN)
    forged = (await claim_one(store))._replace(**change)
    assert (await store.commit([done(forged)], worker=WORKER)).lost == (forged,)


# --- payloads and reads -------------------------------------------------------------------------------------------------


@pytest.mark.owner_only("the socket refuses digests that are not of what they are sent with")
async def test_payloads_are_kept_byte_for_byte_and_once(store: Store) -> None:
    await store.register(registration(SINGLE))
    request = submission(SINGLE, "1", inputs={"text": "\u20ac", "n": 1.5}, note="why")
    await store.submit(request)
    assert request.note is not None
    assert await store.payload(TENANT, request.inputs.digest) == request.inputs.body
    assert await store.payload(TENANT, request.note.digest) == b"why"
    assert await store.payload(TENANT, sha256_hex(b"unknown")) is None
    again = replace(submission(SINGLE, "2"), inputs=Payload(request.inputs.digest, b"not the same"))
    await store.submit(again)
    assert await store.payload(TENANT, request.inputs.digest) == request.inputs.body, "written once"


async def test_a_payload_that_lies_among_the_blobs_is_not_kept_here(store: Store) -> None:
    await store.register(registration(CHAIN))
    large = payload({"n": 1})._replace(body=None)
    await store.submit(replace(submission(CHAIN, "1"), inputs=large))
    assert await store.payload(TENANT, large.digest) is None
    lease = await claim_one(store)
    report = done(lease)
    outside = report._replace(payloads=(report.payloads[0]._replace(body=None),))
    await store.commit([outside], worker=WORKER)
    assert await store.outputs(lease, [0]) == {0: Payload(report.payloads[0].digest, None)}


async def test_a_worker_reads_the_outputs_its_step_needs(store: Store) -> None:
    await submitted(store, dags.shaped(dags.FAN_IN))
    leases = await store.claim(WORKER, 3)
    reports = [done(lease, lease.position) for lease in leases]
    committed = await store.commit(reports[:2], worker=WORKER)
    assert committed.leases == ()
    assert await store.outputs(leases[2], [0, 1, 2]) == {
        0: reports[0].payloads[0],
        1: reports[1].payloads[0],
        2: None,
    }
    assert await store.outputs(leases[2], []) == {}


async def test_runs_are_listed_latest_first_page_by_page(store: Store) -> None:
    ids = [await submitted(store, SINGLE, str(number)) for number in range(7)]
    await submitted(store, SINGLE, "elsewhere", tenant=STRANGER)
    listed: list[RunId] = []
    before = None
    while page := await store.runs(TENANT, limit=3, before=before):
        assert len(page) <= 3
        listed += [record.head.id for record in page]
        before = page[-1].head.key
    assert listed == ids[::-1]
    assert await store.runs(TENANT, limit=0) == []


async def test_events_are_read_in_pages(store: Store) -> None:
    run = await submitted(store, CHAIN)
    await drained(store)
    every = list(await store.events(TENANT, run))
    read = []
    while page := await store.events(TENANT, run, after=len(read), limit=4):
        assert len(page) <= 4
        read += page
    assert read == every


async def test_unfinished_runs_are_those_that_can_go_on(store: Store) -> None:
    one = await submitted(store, SINGLE, "1")
    two = await submitted(store, CHAIN, "2", tenant=STRANGER)
    assert list(await store.unfinished()) == [(TENANT, one), (STRANGER, two)]
    lease = await claim_one(store)
    assert lease.run in (one, two)
    await store.commit([done(lease)], worker=WORKER)
    await drained(store)
    assert list(await store.unfinished()) == []
