"""What a caller and a worker send to a store, made from DAGs and leases as the engine makes it."""

from __future__ import annotations

from collections.abc import Sequence

from sovrun.core.canonical import canonical, sha256_hex
from sovrun.core.events import Failure
from sovrun.core.identity import RunKey, dag_version, run_id_of, run_token
from sovrun.core.ids import Actor, Digest, RunId, Tenant, WorkerId
from sovrun.core.spec.model import DagSpec
from sovrun.core.spec.normal import normal_form
from sovrun.core.step import Complete, Fail
from sovrun.store.payload import Payload
from sovrun.store.protocol import PRIORITY_DEFAULT, Committed, Lease, Registration, Report, Store, Submission

TENANT = Tenant("t")
ACTOR = Actor("local:tester")
WORKER = WorkerId("worker/1")
OTHER = WorkerId("other/1")
CODE = sha256_hex(b"code")
ENVIRONMENT = sha256_hex(b"environment")


def payload(value: object) -> Payload:
    body = canonical(value)
    return Payload(sha256_hex(body), body)


def version_of(spec: DagSpec) -> Digest:
    return dag_version(normal_form(spec), CODE)


def registration(spec: DagSpec, tenant: Tenant = TENANT) -> Registration:
    normal = normal_form(spec)
    return Registration(
        tenant, spec.id, dag_version(normal, CODE), CODE, canonical(normal), "dag.yaml", ACTOR
    )


def submission(
    spec: DagSpec,
    name: str,
    *,
    tenant: Tenant = TENANT,
    caller_key: str | None = None,
    inputs: object = None,
    note: str | None = None,
    priority: int = PRIORITY_DEFAULT,
    parent: tuple[RunId, int] | None = None,
) -> Submission:
    """Return the request for a run; without a caller's key, `name` makes it another run than the rest.

    Args:
        parent: the run of which it is a re-run, and which one.
    """
    version = version_of(spec)
    given = payload(inputs or {})
    key = RunKey(fresh=name) if caller_key is None else RunKey(caller=caller_key)
    key = key if parent is None else RunKey(rerun=parent)
    token = run_token(tenant, spec.id, version, given.digest, key)
    return Submission(
        tenant=tenant,
        dag=spec.id,
        version=version,
        token=token,
        id=run_id_of(token),
        key=canonical(key.json()).decode(),
        request=sha256_hex(canonical({"inputs": given.digest})),
        inputs=given,
        actor=ACTOR,
        isolation="in-process",
        caller_key=caller_key,
        note=None if note is None else Payload(sha256_hex(note.encode()), note.encode()),
        priority=priority,
        parent=None if parent is None else parent[0],
    )


async def submitted(
    store: Store, spec: DagSpec, name: str = "1", *, tenant: Tenant = TENANT, priority: int = PRIORITY_DEFAULT
) -> RunId:
    """Register a DAG, where it is not known, and make a run of it."""
    await store.register(registration(spec, tenant))
    answer = await store.submit(submission(spec, name, tenant=tenant, priority=priority))
    assert answer.created
    return answer.run


def step_of(spec: DagSpec, lease: Lease) -> str:
    return spec.steps[lease.position].id


def hash_of(lease: Lease) -> Digest:
    return sha256_hex(f"{lease.version} {lease.position}".encode())


def done(lease: Lease, output: object = None, chosen: Sequence[int] | None = None) -> Report:
    """Return the report of an attempt that returned `output`."""
    made = payload({"step": lease.position, "output": output})
    choice = None if chosen is None else tuple(chosen)
    return Report(lease, Complete(lease.fence, hash_of(lease), made.digest, ENVIRONMENT, choice), (made,))


def broken(
    lease: Lease, code: str = "step_raised", *, circumstance: bool = False, retryable: bool = True
) -> Report:
    """Return the report of an attempt that failed."""
    error = payload({"code": code})
    failure = Failure(code, error.digest, hash_of(lease), ENVIRONMENT, circumstance, retryable)
    return Report(lease, Fail(lease.fence, failure), (error,))


async def claim_one(store: Store, worker: WorkerId = WORKER) -> Lease:
    leases = await store.claim(worker, 1)
    assert len(leases) == 1, "nothing was ready"
    return leases[0]


async def drained(store: Store, worker: WorkerId = WORKER, *, slots: int = 4) -> list[Lease]:
    """Complete whatever is ready until nothing is; return the leases in the order in which they were given."""
    seen: list[Lease] = []
    leases = list(await store.claim(worker, slots))
    while leases:
        seen += leases
        reports = [done(lease) for lease in leases]
        leases = list((await store.commit(reports, worker=worker, slots=slots)).leases)
    return seen


async def commit(store: Store, *reports: Report, slots: int = 0) -> Committed:
    """Send reports as the usual worker."""
    return await store.commit(reports, worker=WORKER, slots=slots)
