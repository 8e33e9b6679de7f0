"""The store: runs, steps, queue and history of every tenant, behind a few coarse verbs.

Owns: `Store` and the values that pass through it. Each verb is atomic per run: all of it is durable on return, or none
of it is. One conformance suite (`tests/conformance`) runs on every back end.
Must not touch: how any back end does it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from sovrun.core.actions import Action
from sovrun.core.events import Event
from sovrun.core.ids import Actor, DagId, Digest, RunId, StepId, Tenant, WorkerId
from sovrun.core.lanes import Governed, Lane, Lanes, Limits, LimitsChange
from sovrun.core.lifecycle import Reason, State
from sovrun.core.run import Run
from sovrun.core.step import Complete, Fail, Step
from sovrun.store.journal import Journal, JournalReads
from sovrun.store.payload import Payload

INLINE_MAX: Final = 65_536
"""Bytes up to which a payload is kept by the store itself; a larger one lies among the blobs."""

PRIORITY_DEFAULT: Final = 100


@dataclass(frozen=True, slots=True)
class Registration:
    """A DAG version to be known.

    Args:
        version: digest of (`normal`, `code`), see `identity.dag_version`.
        normal: canonical JSON of the normalised document.
        source: where the document came from on this machine, for `replay` and for people; may be empty.
    """

    tenant: Tenant
    dag: DagId
    version: Digest
    code: Digest
    normal: bytes
    source: str
    actor: Actor


@dataclass(frozen=True, slots=True)
class DagRecord:
    """A registered DAG version."""

    dag: DagId
    version: Digest
    code: Digest
    normal: bytes
    source: str


@dataclass(frozen=True, slots=True)
class Submission:
    """A run to be made.

    Args:
        token: run token; `id` its first 32 digits.
        key: canonical JSON of the run key, recorded in the history.
        caller_key: the caller's own key, unique per (tenant, DAG id).
        request: digest of the request as sent, which a repeat of `caller_key` must equal.
        inputs: canonical JSON object; note: rationale of the caller, UTF-8 text.
        isolation: what the run's steps are isolated by: `sandbox` or `in-process`.
        priority: lower goes first.
        parent: the run of which this is a re-run; from_step: the step from which nothing is reused.
        repeat_effects: `command` steps of a re-run whose effect is wanted again.
    """

    tenant: Tenant
    dag: DagId
    version: Digest
    token: Digest
    id: RunId
    key: str
    request: Digest
    inputs: Payload
    actor: Actor
    isolation: str
    parent: RunId | None = None
    from_step: StepId | None = None
    repeat_effects: tuple[StepId, ...] = ()
    caller_key: str | None = None
    note: Payload | None = None
    priority: int = PRIORITY_DEFAULT


class Submitted(NamedTuple):
    """The run that answers a submission; `created` is False when an earlier, identical request made it."""

    run: RunId
    created: bool


class Lease(NamedTuple):
    """A worker's right to one step, until it reports, loses it or the step leaves `executing` otherwise.

    Args:
        run_key: the store's own number of the run.
        position: of the step in the plan.
        attempt: from 1; fence: the fencing number a report must carry.
        inputs: digest of the run's inputs; isolation: of the run, the only one in which the step may be executed.
    """

    tenant: Tenant
    run: RunId
    run_key: int
    version: Digest
    position: int
    attempt: int
    fence: int
    worker: WorkerId
    inputs: Digest
    isolation: str


class Report(NamedTuple):
    """How an attempt ended, with the payloads that the result names."""

    lease: Lease
    result: Complete | Fail
    payloads: tuple[Payload, ...] = ()


class Committed(NamedTuple):
    """What became of a commit: the leases of refused reports in their order, new leases, and runs that are terminal now."""

    lost: tuple[Lease, ...] = ()
    leases: tuple[Lease, ...] = ()
    ended: tuple[RunId, ...] = ()


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as it is read: its head and what never changes about it.

    Args:
        note: digest of the rationale, when one was given.
        from_step: of a re-run, the step from which nothing is reused.
        created_us, started_us, ended_us: when it was received, first executing, terminal.
    """

    head: Run
    dag: DagId
    token: Digest
    key: str
    actor: Actor
    isolation: str
    note: Digest | None
    created_us: int
    started_us: int | None
    ended_us: int | None
    from_step: StepId | None = None
    repeat_effects: tuple[StepId, ...] = ()


@dataclass(frozen=True, slots=True)
class Pending:
    """A queued step that the engine itself is to take up: a wait, or a step of a re-run."""

    tenant: Tenant
    run: RunId
    run_key: int
    version: Digest
    position: int
    inputs: Digest
    parent: RunId | None
    from_step: StepId | None


class Acted(NamedTuple):
    """What an action came to: whether it changed anything, and the run's state after it."""

    changed: bool
    state: State


@dataclass(frozen=True, slots=True)
class Governance:
    """An operator's word on what may go on: for one DAG of a tenant, or with `dag` None for the whole tenant.

    It names what is to change and nothing else, so that two operators who change different things cannot undo each other.
    """

    tenant: Tenant
    dag: DagId | None
    change: LimitsChange
    actor: Actor
    note: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """A step that waits for somebody, as `sovrun waiting` shows it.

    Args:
        since_us: when it began to wait; until_us: when it ends by itself; shown: digest of what is asked.
    """

    tenant: Tenant
    run: RunId
    dag: DagId
    version: Digest
    position: int
    state: State
    reason: str | None
    since_us: int
    until_us: int | None
    shown: Digest | None


@dataclass(frozen=True, slots=True)
class Depth:
    """The queue of one DAG of a tenant.

    Args:
        executing: steps that workers hold, those included whose leases ended while their processes may still run.
        oldest_us: since when the step is in the queue that has been there longest; None when none is.
        runs: admitted and not terminal; waiting: not admitted yet, and in no queue before they are.
        waiting_us: since when the run waits to be admitted that has waited longest; None when none does.
        waits_for: why they are not admitted; None when none waits.
    """

    tenant: Tenant
    dag: DagId
    limits: Limits
    queued: int
    executing: int
    oldest_us: int | None
    runs: int
    waiting: int
    waiting_us: int | None
    waits_for: Reason | None


def depth_of(lanes: Lanes, lane: Lane, oldest_us: int | None, waiting_us: int | None) -> Depth:
    """Return the queue of a lane of `lanes`, which have all lanes of its tenant."""
    counts = (lane.queued, lane.executing, oldest_us, lane.runs, lane.waiting, waiting_us)
    return Depth(lane.tenant, lane.dag, lane.limits, *counts, lanes.reason(lane) if lane.waiting else None)


class Reads(JournalReads, Protocol):
    """What can be read, each within one tenant; beside the owner of a store, too."""

    async def dag(self, tenant: Tenant, version: Digest) -> DagRecord:
        """Return a registered DAG version. Raises: NotFound."""

    async def payload(self, tenant: Tenant, digest: Digest) -> bytes | None:
        """Return a payload that the store itself keeps, None when it does not."""

    async def outputs(self, lease: Lease | Pending, positions: Sequence[int]) -> Mapping[int, Payload | None]:
        """Return the outputs of completed steps of the lease's run; None for a step that has none."""

    async def run(self, tenant: Tenant, run: RunId) -> RunRecord:
        """Return a run. Raises: NotFound."""

    async def runs(self, tenant: Tenant, *, limit: int, before: int | None = None) -> Sequence[RunRecord]:
        """Return runs, latest first, of run keys below `before` when given."""

    async def unfinished(self) -> Sequence[tuple[Tenant, RunId]]:
        """Return the runs of all tenants that are not terminal, in the order of their submission."""

    async def steps(self, tenant: Tenant, run: RunId) -> Sequence[Step]:
        """Return the steps of a run in plan order. Raises: NotFound."""

    async def events(
        self, tenant: Tenant, run: RunId, *, after: int = 0, limit: int = 10_000
    ) -> Sequence[Event]:
        """Return up to `limit` events of a run with sequence greater than `after`, in order. Raises: NotFound."""

    async def waiting(
        self, tenant: Tenant, *, limit: int = 1_000, after: Wait | None = None
    ) -> Sequence[Wait]:
        """Return up to `limit` steps that wait for a tool or a person, longest first, those behind `after` when given."""

    async def depths(self, tenant: Tenant) -> Sequence[Depth]:
        """Return the tenant's queues, by DAG id; costs nothing that grows with them."""

    async def tenant_limits(self, tenant: Tenant) -> Limits:
        """Return what an operator allows the tenant as a whole."""

    async def reruns(self, tenant: Tenant, run: RunId) -> int:
        """Return how many re-runs a run has."""

    async def late_reports(self, tenant: Tenant) -> int:
        """Return how many reports on the tenant's steps were refused as late; no part of any run's history."""


class Store(Reads, Journal, Protocol):
    """Runs, steps, queue and history. Every read and write but `claim` names its tenant; `claim` takes tenants in turn."""

    async def register(self, registration: Registration) -> bool:
        """Make a DAG version known. Returns: False when it was already, and nothing was written.

        Raises: StoreUnavailable.
        """

    async def submit(self, submission: Submission) -> Submitted:
        """Make a run, `received` and, as soon as a step is ready, `queued`.

        An identical request under the same caller's key, or the same run token, answers with the first run.
        Raises: IdempotencyKeyConflict; NotFound (DAG version not registered); StoreUnavailable.
        """

    async def claim(self, worker: WorkerId, slots: int, *, patience_us: int = 0) -> Sequence[Lease]:
        """Lease up to `slots` due steps in queue order; never a step that another live lease holds.

        Waits up to `patience_us` for the first of them; returns nothing when none came.
        Raises: StoreUnavailable.
        """

    async def commit(self, reports: Sequence[Report], *, worker: WorkerId, slots: int = 0) -> Committed:
        """Record `reports`, decide the steps that depend on them and claim up to `slots` more for `worker`.

        Atomic per run. A report whose lease is lost writes nothing and comes back in `Committed.lost`; one that was
        recorded before is acknowledged again.
        Raises: StoreUnavailable (outcome unknown: send the same reports again).
        """

    async def act(self, action: Action, *, payloads: Sequence[Payload] = ()) -> Acted:
        """Do to a run what its workers do not: begin or end a wait, reuse an output, cancel.

        Raises: IllegalTransition, ConfirmationChanged, NotFound, StoreUnavailable.
        """

    async def pending(self, limit: int, *, patience_us: int = 0) -> Sequence[Pending]:
        """Return queued steps that the engine itself is to take up by `act`, waiting for the first of them.

        They stay pending until an action has moved them; two engines may get the same ones.
        """

    async def renew(self, worker: WorkerId, held: Sequence[Lease]) -> Sequence[Lease]:
        """Note that a worker is alive, and return those of the leases it holds that are over: their processes are to stop.

        What was leased to the worker and is not in `held` is taken back, for the answer that gave it was lost.

        Args:
            held: every lease that the worker knows of and has not reported. It asks while no claim and no commit of
                its own is under way, else it might lose what it is just being given.
        """

    async def take_back(
        self,
        silent_us: int,
        *,
        dead: Sequence[WorkerId] = (),
        told: Callable[[WorkerId, int], None] | None = None,
    ) -> int:
        """Take back the leases of workers not heard of for `silent_us`, and of `dead` ones. Returns: how many.

        A worker is heard of when it claims, commits or renews; after the store was opened, all are given that long.

        Args:
            told: called with each of these workers and how many leases were taken back from it, when that is durable.
        """

    async def govern(self, governance: Governance) -> Governed:
        """Change what is allowed to a tenant or one of its DAGs, from what holds at the moment of the write.

        Recorded as an administrative act, unless it was so already. Raises: NotFound, StoreUnavailable.
        """

    def subscribe(self, told: Callable[[RunId], None]) -> None:
        """Have `told` called with every run that becomes terminal by this process's writes, after they are durable."""

    async def recover(self) -> int:
        """Take back every lease; for a caller who knows that no worker is alive. Returns: how many were taken back."""

    async def close(self) -> None:
        """Finish what is under way and release everything held."""
