"""DAG versions and values as workers and the engine's clerk need them, kept at hand.

Owns: `Workload`, `Workloads`: the compiled form of DAG versions, and the values that references stand for.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import jsonschema_rs

from sovrun.core.canonical import decode
from sovrun.core.errors import FileUnavailable
from sovrun.core.ids import Digest, StepId, Tenant
from sovrun.core.plan import Plan, plan_of
from sovrun.core.spec.normal import spec_from_normal
from sovrun.engine.resolve import CompiledStep, Resolved, compile_step, resolve
from sovrun.ports import Code, Files
from sovrun.store.payload import Payload
from sovrun.store.protocol import INLINE_MAX, DagRecord, Lease, Pending, Store

WORKLOADS_MAX: Final = 64
VALUES_MAX: Final = 1_024

Taken: TypeAlias = Lease | Pending
"""A step that somebody has taken up: a worker by its lease, or the engine itself."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A DAG version as a worker runs it; `schemas` holds, by position, the compiled schemas of declared outputs."""

    plan: Plan
    code: Code
    steps: tuple[CompiledStep, ...]
    schemas: dict[int, Any]


class Workloads:
    """The DAG versions and values that were needed lately."""

    def __init__(self, store: Store, files: Files) -> None:
        self._store = store
        self._files = files
        self._known: OrderedDict[tuple[Tenant, Digest], Workload] = OrderedDict()
        self._values: OrderedDict[tuple[Tenant, Digest], bytes] = OrderedDict()

    def known(self, taken: Taken) -> Workload | None:
        """Return the compiled DAG version of a step when it is at hand."""
        return self._known.get((taken.tenant, taken.version))

    async def load(self, taken: Taken) -> Workload:
        """Return the compiled DAG version of a step that was taken up. Raises: CodeUnavailable, NotFound."""
        record = await self._store.dag(taken.tenant, taken.version)
        plan = self.plan(taken.tenant, record)
        workload = Workload(
            plan=plan,
            code=self._files.code(record.code),
            steps=tuple(compile_step(plan, step, record.code) for step in plan.steps),
            schemas={
                position: jsonschema_rs.Draft202012Validator(dict(step.outputs), validate_formats=True)
                for position, step in enumerate(plan.steps)
                if step.outputs is not None
            },
        )
        _remember(self._known, (taken.tenant, taken.version), workload, WORKLOADS_MAX)
        return workload

    def plan(self, tenant: Tenant, record: DagRecord) -> Plan:
        """Return the plan of a registered DAG version."""
        known = self._known.get((tenant, record.version))
        return known.plan if known is not None else plan_of(spec_from_normal(decode(record.normal)))

    async def resolve(self, taken: Taken, workload: Workload) -> Resolved:
        """Return what a step is given. Raises: Unresolved, FileUnavailable."""
        step = workload.steps[taken.position]
        inputs = await self.inputs(taken) if step.uses_inputs else None
        outputs: dict[StepId, Any] = {}
        if step.sources:
            found = await self._store.outputs(taken, step.sources)
            for position in step.sources:
                payload = found.get(position)
                value = None if payload is None else await self.value(taken.tenant, payload)
                outputs[workload.plan.steps[position].id] = value
        return resolve(step, inputs, outputs)

    async def inputs(self, taken: Taken) -> Any:
        """Return the inputs of the run of a step. Raises: FileUnavailable."""
        return await self.value(taken.tenant, Payload(taken.inputs, None))

    async def value(self, tenant: Tenant, payload: Payload) -> Any:
        """Return the value of a payload, which may lie in the store or among the files. Raises: FileUnavailable."""
        name = (tenant, payload.digest)
        body = payload.body or self._values.get(name)
        if body is None:
            body = await self._store.payload(*name) or self._files.get(*name)
            if body is None:
                raise FileUnavailable(f"the value {payload.digest} is not kept any more")
            if len(body) <= INLINE_MAX:
                _remember(self._values, name, body, VALUES_MAX)
        return decode(body)


def _remember(known: OrderedDict[Any, Any], name: Any, value: Any, most: int) -> None:
    known[name] = value
    if len(known) > most:
        known.popitem(last=False)
