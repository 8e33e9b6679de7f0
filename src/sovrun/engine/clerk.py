"""The clerk: takes up the queued steps that no worker runs, and steps of a re-run, before a worker may have them.

Owns: `Clerk`. A `tool` or `confirm` step begins to wait for what its resolved arguments ask; a step of a re-run gets the
output that its parent recorded under the same step hash, or is left to a worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from sovrun.core.actions import Action, EnterWait, Refuse, Release, Reuse
from sovrun.core.canonical import canonical, sha256_hex
from sovrun.core.errors import CodeUnavailable, FileUnavailable, IllegalTransition, NotFound
from sovrun.core.ids import Digest, RunId, StepId, Tenant
from sovrun.core.lifecycle import State
from sovrun.core.plan import Plan
from sovrun.core.spec.model import WORKER_KINDS
from sovrun.core.step import Step
from sovrun.engine.resolve import Resolved, Unresolved
from sovrun.engine.workloads import Workload, Workloads
from sovrun.ports import Files
from sovrun.store.protocol import INLINE_MAX, Payload, Pending, Store

PATIENCE_US: Final = 3_600 * 1_000_000
BATCH: Final = 256


class Clerk:
    """Takes up pending steps until it is told to stop.

    Args:
        environment: of the workers beside it; an output is reused only when it was made in the same one.
    """

    def __init__(self, store: Store, files: Files, environment: Digest) -> None:
        self._store = store
        self._files = files
        self._environment = environment
        self._workloads = Workloads(store, files)
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
        """Take up some pending steps. Raises: StoreUnavailable."""
        for step in pending:
            await self._take_up(step)

    async def _take_up(self, pending: Pending) -> None:
        payloads: tuple[Payload, ...]
        try:
            workload = self._workloads.known(pending) or await self._workloads.load(pending)
            resolved = workload.steps[pending.position].fixed or await self._workloads.resolve(
                pending, workload
            )
            action, payloads = await self._decided(pending, workload, resolved)
        except Unresolved as error:
            action, payloads = self._refusal(pending, "input_unresolved", str(error))
        except (FileUnavailable, CodeUnavailable) as error:
            action, payloads = self._refusal(pending, error.code, error.detail)
        try:
            await self._store.act(action, payloads=payloads)
        except (IllegalTransition, NotFound):
            return  # the run ended meanwhile

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
        if workload.plan.steps[pending.position].kind in WORKER_KINDS:
            return Release(*name), ()
        shown = self._payload(pending.tenant, resolved.arguments)
        return EnterWait(*name, shown.digest, resolved.step_hash), (shown,)

    async def _reusable(self, pending: Pending, plan: Plan, step_hash: Digest) -> Step | None:
        """Return the parent's step when its output stands for this one; its payload is checked by digest."""
        assert pending.parent is not None  # noqa: S101 -- asked only for re-runs
        if pending.from_step is not None and _descends(plan, pending.position, pending.from_step):
            return None
        parent = await self._step_of_parent(pending.tenant, pending.parent, plan.steps[pending.position].id)
        if parent is None or parent.state is not State.COMPLETED or parent.step_hash != step_hash:
            return None
        if parent.environment not in (None, self._environment) or parent.output is None:
            return None
        body = await self._body(pending.tenant, parent.output)
        return parent if body is not None and sha256_hex(body) == parent.output else None

    async def _step_of_parent(self, tenant: Tenant, run: RunId, step: StepId) -> Step | None:
        record = await self._store.run(tenant, run)
        dag = await self._store.dag(tenant, record.head.version)
        plan = self._workloads.plan(tenant, dag)
        position = plan.index.get(step)
        return None if position is None else (await self._store.steps(tenant, run))[position]

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


def _descends(plan: Plan, position: int, ancestor: StepId) -> bool:
    """Return whether a step is `ancestor` or comes after it."""
    start = plan.index.get(ancestor)
    seen: set[int] = set()
    waiting = [position]
    while waiting:
        step = waiting.pop()
        if step == start:
            return True
        if step not in seen:
            seen.add(step)
            waiting.extend(need for need in plan.needs[step] if start is not None and need >= start)
    return False
