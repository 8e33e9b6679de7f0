"""The clerk: takes up the queued steps that no worker runs, and steps of a re-run, before a worker may have them.

Owns: `Clerk`. A `tool` or `confirm` step begins to wait for what its resolved arguments ask; a step of a re-run gets the
output that its parent recorded under the same step hash, or is left to a worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from sovrun.core.actions import Action, EnterCommand, EnterWait, Refuse, Release, Reuse
from sovrun.core.canonical import canonical, decode, sha256_hex
from sovrun.core.errors import (
    CodeUnavailable,
    FileUnavailable,
    IllegalTransition,
    NotFound,
    SovrunError,
    StepKindUnavailable,
    StoreUnavailable,
)
from sovrun.core.ids import Digest, RunId, StepId, Tenant
from sovrun.core.lifecycle import TERMINAL, State
from sovrun.core.plan import Plan
from sovrun.core.spec.model import WORKER_KINDS, CommandCall, Confirmation, StepSpec
from sovrun.core.step import Step
from sovrun.engine.command_steps import CommandSteps
from sovrun.engine.deciders import decider_of
from sovrun.engine.resolve import Resolved, Unresolved
from sovrun.engine.workloads import Workload, Workloads
from sovrun.ports import Files
from sovrun.store.payload import Payload
from sovrun.store.protocol import INLINE_MAX, Pending, Store

PATIENCE_US: Final = 3_600 * 1_000_000
BATCH: Final = 256


@dataclass(frozen=True, slots=True)
class _Parent:
    """A run whose outputs may be reused, which nothing changes any more."""

    tenant: Tenant
    run: RunId
    plan: Plan
    steps: Sequence[Step]


class Clerk:
    """Takes up pending steps until it is told to stop.

    Args:
        environment: of the workers beside it; an output is reused only when it was made in the same one.
        commands: what takes up the commands of `command` steps; without it such steps are refused.
    """

    def __init__(
        self, store: Store, files: Files, environment: Digest, commands: CommandSteps | None = None
    ) -> None:
        self._commands = commands
        self._store = store
        self._files = files
        self._environment = environment
        self._workloads = Workloads(store, files)
        self._parent: _Parent | None = None
        self._executed: tuple[tuple[Digest, StepId], frozenset[int]] | None = None
        self._told_to_stop = asyncio.Event()
        self._asking: asyncio.Future[Sequence[Pending]] | None = None

    def stop(self) -> None:
        """Take up nothing more; `run` returns when what it has begun is done."""
        self._told_to_stop.set()
        if self._asking is not None:
            self._asking.cancel()

    async def run(self) -> None:
        """Work until stopped. Raises: StoreUnavailable."""
        while not self._told_to_stop.is_set():
            self._asking = asyncio.ensure_future(self._store.pending(BATCH, patience_us=PATIENCE_US))
            try:
                await asyncio.wait([self._asking])
            finally:
                self._asking.cancel()
            if not self._asking.cancelled():
                await self.work_off(self._asking.result())

    async def work_off(self, pending: Iterable[Pending]) -> None:
        """Take up some pending steps, all at once, so that a store may answer them by one commit.

        Raises: StoreUnavailable.
        """
        taken = [await self._taken_up(step) for step in pending]
        await asyncio.gather(*(self._act(action, payloads) for action, payloads in taken))

    async def _taken_up(self, pending: Pending) -> tuple[Action, tuple[Payload, ...]]:
        """Return what is to be done about a pending step."""
        try:
            workload = self._workloads.known(pending) or await self._workloads.load(pending)
            resolved = workload.steps[pending.position].fixed or await self._workloads.resolve(
                pending, workload
            )
            return await self._decided(pending, workload, resolved)
        except Unresolved as error:
            return self._refusal(pending, "input_unresolved", str(error))
        except (FileUnavailable, CodeUnavailable) as error:
            return self._refusal(pending, error.code, error.detail)

    async def _act(self, action: Action, payloads: tuple[Payload, ...]) -> None:
        with suppress(IllegalTransition, NotFound):  # the run ended meanwhile
            await self._store.act(action, payloads=payloads)

    async def _decided(
        self, pending: Pending, workload: Workload, resolved: Resolved
    ) -> tuple[Action, tuple[Payload, ...]]:
        name = (pending.tenant, pending.run, pending.position)
        if pending.parent is not None:
            before = await self._reusable(pending, workload.plan, resolved.step_hash)
            if before is not None and before.output is not None:
                chosen = await self._chosen(pending, workload, before)
                reuse = Reuse(
                    *name, pending.parent, resolved.step_hash, before.output, before.environment, chosen
                )
                return reuse, ()
        step = workload.plan.steps[pending.position]
        if step.kind in WORKER_KINDS:
            return Release(*name), ()
        if isinstance(step.entry, CommandCall):
            return await self._command(pending, step, resolved)
        shown = self._payload(pending.tenant, resolved.arguments)
        return EnterWait(*name, shown.digest, resolved.step_hash), (shown,)

    async def _command(
        self, pending: Pending, step: StepSpec, resolved: Resolved
    ) -> tuple[Action, tuple[Payload, ...]]:
        if self._commands is None:
            message = "this engine performs no commands"
            return self._refusal(pending, StepKindUnavailable.code, message)
        try:
            prepared = await self._commands.prepare(pending, step, decode(resolved.arguments))
        except StoreUnavailable:
            raise
        except (
            SovrunError
        ) as refusal:  # the document's, the payload's or the configuration's fault; nothing was sent
            return self._refusal(pending, refusal.code, refusal.detail)
        name = (pending.tenant, pending.run, pending.position)
        return EnterCommand(*name, resolved.step_hash, prepared.intention), (prepared.payload,)

    async def _reusable(self, pending: Pending, plan: Plan, step_hash: Digest) -> Step | None:
        """Return the parent's step when its output stands for this one; its payload is checked by digest."""
        assert pending.parent is not None  # noqa: S101 -- asked only for re-runs
        if pending.from_step is not None and pending.position in self._fresh(plan, pending):
            return None
        parent = await self._step_of_parent(pending.tenant, pending.parent, plan.steps[pending.position].id)
        if parent is None or parent.state is not State.COMPLETED or parent.step_hash != step_hash:
            return None
        if parent.environment not in (None, self._environment) or parent.output is None:
            return None
        if not await self._may_stand(pending, plan.steps[pending.position]):
            return None
        body = await self._body(pending.tenant, parent.output)
        return parent if body is not None and sha256_hex(body) == parent.output else None

    async def _may_stand(self, pending: Pending, step: StepSpec) -> bool:
        """Return whether a recorded decision may stand for a re-run: nobody barred from deciding has made it.

        Who asks for a re-run would else approve it with what they once said about somebody else's run.
        """
        if not isinstance(step.entry, Confirmation) or not step.entry.bar_requester:
            return True
        assert pending.parent is not None  # noqa: S101 -- asked only for re-runs
        decider = await decider_of(self._store, pending.tenant, pending.parent, step.id)
        requester = (await self._store.run(pending.tenant, pending.run)).actor
        return decider is not None and decider != requester

    async def _step_of_parent(self, tenant: Tenant, run: RunId, step: StepId) -> Step | None:
        parent = self._parent
        if parent is None or (parent.tenant, parent.run) != (tenant, run):
            record = await self._store.run(tenant, run)
            plan = self._workloads.plan(tenant, await self._store.dag(tenant, record.head.version))
            parent = _Parent(tenant, run, plan, await self._store.steps(tenant, run))
            self._parent = parent if record.head.state in TERMINAL else None
        position = parent.plan.index.get(step)
        return None if position is None else parent.steps[position]

    def _fresh(self, plan: Plan, pending: Pending) -> frozenset[int]:
        """Return the steps of a re-run that are executed in any case: the named one and all that come after it."""
        assert pending.from_step is not None  # noqa: S101 -- asked only where it is
        name = (pending.version, pending.from_step)
        if self._executed is None or self._executed[0] != name:
            self._executed = (name, with_descendants(plan, pending.from_step))
        return self._executed[1]

    async def _chosen(self, pending: Pending, workload: Workload, before: Step) -> tuple[int, ...] | None:
        step = workload.plan.steps[pending.position]
        if not step.select or before.output is None:
            return None
        value = await self._workloads.value(pending.tenant, Payload(before.output, None))
        return tuple(sorted(workload.plan.index[StepId(name)] for name in value["select"]))

    async def _body(self, tenant: Tenant, digest: Digest) -> bytes | None:
        return await self._store.payload(tenant, digest) or self._files.get(tenant, digest)

    def _refusal(self, pending: Pending, reason: str, message: str) -> tuple[Action, tuple[Payload, ...]]:
        document = self._payload(pending.tenant, canonical({"code": reason, "message": message}))
        action = Refuse(pending.tenant, pending.run, pending.position, reason, document.digest)
        return action, (document,)

    def _payload(self, tenant: Tenant, body: bytes) -> Payload:
        digest = sha256_hex(body)
        if len(body) <= INLINE_MAX:
            return Payload(digest, body)
        self._files.put(tenant, digest, body)
        return Payload(digest, None)


def with_descendants(plan: Plan, first: StepId) -> frozenset[int]:
    """Return a step and all that come after it; none where there is no such step."""
    seen: set[int] = set()
    waiting = [plan.index[first]] if first in plan.index else []
    while waiting:
        step = waiting.pop()
        if step not in seen:
            seen.add(step)
            waiting.extend(plan.dependents[step])
    return frozenset(seen)
