"""One attempt of a step, from lease to report.

Owns: `Attempts`: what an attempt is given, and which outputs are accepted. An output is stored byte for byte as the
canonical form of what the step returned; nothing is read into it.
"""

from __future__ import annotations

from typing import Any, Final

from sovrun.core.canonical import canonical, decode, parse, sha256_hex
from sovrun.core.errors import CodeUnavailable, FileUnavailable, InvalidValue
from sovrun.core.events import Failure
from sovrun.core.ids import StepId, Tenant
from sovrun.core.plan import Plan
from sovrun.core.spec.model import Reference
from sovrun.core.step import Complete, Fail
from sovrun.engine.resolve import (
    CompiledStep,
    Resolved,
    Unresolved,
    file_digests,
    pick,
)
from sovrun.engine.workloads import Workload, Workloads
from sovrun.ports import Executor, Failed, Files, Succeeded, Task
from sovrun.store.payload import Payload
from sovrun.store.protocol import INLINE_MAX, Lease, Report, Store

LOG_TAIL: Final = 4_096


class Attempts:
    """Executes leased steps."""

    def __init__(self, store: Store, files: Files, executor: Executor) -> None:
        self._files = files
        self._executor = executor
        self._workloads = Workloads(store, files)

    async def execute(self, lease: Lease) -> Report:
        """Execute one leased step and say how it ended. Raises: StoreUnavailable."""
        resolved: Resolved | None = None
        result: Succeeded | Failed | Report
        if lease.isolation != self._executor.isolation:  # no sandbox, no run; nor the other way round
            return self._failed(lease, None, _otherwise_isolated(lease, self._executor.isolation))
        try:
            workload = self._workloads.known(lease) or await self._workloads.load(lease)
            step = workload.steps[lease.position]
            resolved = step.fixed or await self._workloads.resolve(lease, workload)
            task = await self._task(lease, workload, step, resolved)
            result = await self._executor.execute(task)
            if isinstance(result, Succeeded):
                result = self._accept(lease, workload, step, task, resolved, result)
        except Unresolved as error:
            result = Failed("input_unresolved", str(error), retryable=False)
        except (FileUnavailable, CodeUnavailable) as error:
            result = Failed(error.code, error.detail, circumstance=True, retryable=False)
        if isinstance(result, Report):
            return result
        return self._failed(lease, resolved, result)

    # --- what it is given -------------------------------------------------------------------------------------------

    async def _task(self, lease: Lease, workload: Workload, step: CompiledStep, resolved: Resolved) -> Task:
        spec = step.spec
        files = {}
        if b'"$file"' in resolved.arguments or b'"$tree"' in resolved.arguments:
            for digest in sorted(file_digests(decode(resolved.arguments))):
                files[digest] = self._files.locate(lease.tenant, digest)
        epoch = workload.plan.spec.epoch
        if isinstance(epoch, Reference):
            epoch = _epoch(epoch, pick(epoch, await self._workloads.inputs(lease)))
        return Task(
            tenant=lease.tenant,
            run=lease.run,
            step=spec.id,
            attempt=lease.attempt,
            kind=spec.kind,
            entry=spec.entry,  # type: ignore[arg-type] # only python and argv steps are leased
            arguments=resolved.arguments,
            resources=spec.resources,
            epoch=epoch,
            code=workload.code.path,
            code_digest=workload.code.digest,
            log=self._files.log(lease.tenant, lease.run, spec.id, lease.attempt),
            files=files,
            endpoints=spec.endpoints,
            secrets=spec.secrets,
            reproducible=spec.reproducible,
            verified=spec.verified,
        )

    # --- how it ended -----------------------------------------------------------------------------------------------

    def _accept(
        self,
        lease: Lease,
        workload: Workload,
        step: CompiledStep,
        task: Task,
        resolved: Resolved,
        result: Succeeded,
    ) -> Report | Failed:
        """Return the report of an attempt that returned, or why its output is refused."""
        limit = step.spec.resources.output
        if len(result.output) > limit:
            return _refused(
                result, "output_too_large", f"the output has more than {limit:,} bytes, the step's limit"
            )
        try:
            value, body = _checked(result.output)
        except InvalidValue as error:
            return _refused(result, "output_not_json", f"the output is not JSON: {error.detail}")
        mismatch = _mismatch(workload.schemas.get(lease.position), value)
        if mismatch is not None:
            return _refused(result, "output_schema_mismatch", mismatch)
        chosen: tuple[int, ...] | None = None
        if step.spec.select:
            chosen = _chosen(workload.plan, step, value)
            if chosen is None:
                allowed = ", ".join(step.spec.select)
                return _refused(
                    result, "bad_selection", f'the output must have "select", a list of ids among {allowed}'
                )
        if b'"$file"' in body or b'"$tree"' in body:
            unknown = file_digests(value) - set(task.files) - {made.digest for made in result.made}
            if unknown:
                return _refused(
                    result, "unknown_file", f"the output names a file that nobody made: {min(unknown)}"
                )
        for made in result.made:
            self._files.adopt(lease.tenant, made)
        for digest in task.files:  # what it read must be what was taken in, to the end
            self._files.locate(lease.tenant, digest)
        payload = self._payload(lease.tenant, body)
        complete = Complete(
            lease.fence,
            resolved.step_hash,
            payload.digest,
            self._executor.environment,
            chosen,
            result.connections,
            result.walls,
        )
        return Report(lease, complete, (payload,))

    def _failed(self, lease: Lease, resolved: Resolved | None, failed: Failed) -> Report:
        workload = self._workloads.known(lease)
        retry_on = None if workload is None else workload.plan.steps[lease.position].retry.retry_on
        wanted = (
            retry_on is None
            or failed.circumstance
            or not set(retry_on).isdisjoint((failed.error, *failed.lineage))
        )
        document = canonical(
            {
                "code": failed.reason,
                "message": failed.message,
                "error": failed.error,
                "traceback": failed.traceback,
                "log": failed.log[-LOG_TAIL:].decode(errors="replace"),
            }
        )
        payload = self._payload(lease.tenant, document)
        failure = Failure(
            code=failed.reason,
            error=payload.digest,
            step_hash=None if resolved is None else resolved.step_hash,
            environment=self._executor.environment,
            circumstance=failed.circumstance,
            retryable=failed.retryable and wanted,
            connections=failed.connections,
            walls=failed.walls,
        )
        return Report(lease, Fail(lease.fence, failure), (payload,))

    def _payload(self, tenant: Tenant, body: bytes) -> Payload:
        """Return a payload, after putting a large one among the files."""
        digest = sha256_hex(body)
        if len(body) <= INLINE_MAX:
            return Payload(digest, body)
        self._files.put(tenant, digest, body)
        return Payload(digest, None)


def _otherwise_isolated(lease: Lease, isolation: str) -> Failed:
    return Failed(
        "isolation_mismatch",
        f"the run is recorded to be isolated by {lease.isolation!r}, and the worker isolates by {isolation!r}; nothing was"
        f" executed. Have runs of this store executed with `--isolation {lease.isolation}` and run this one again:"
        f" `sovrun rerun {lease.run}`",
        circumstance=True,
        retryable=False,
    )


def _refused(result: Succeeded, reason: str, message: str) -> Failed:
    return Failed(
        reason,
        message,
        retryable=False,
        log=result.log,
        usage=result.usage,
        connections=result.connections,
        walls=result.walls,
    )


def _checked(output: bytes) -> tuple[Any, bytes]:
    """Return the value of a step's output and its canonical form. Raises: InvalidValue."""
    try:
        value = decode(output)
        if (
            canonical(value) == output
        ):  # then it is strict, too: duplicate keys and odd numbers do not come back equal
            return value, output
    except (ValueError, InvalidValue):
        pass
    value = parse(output)
    return value, canonical(value)


def _mismatch(schema: Any, value: Any) -> str | None:
    mistake = None if schema is None else next(schema.iter_errors(value), None)
    if mistake is None:
        return None
    where = "/".join(str(part) for part in mistake.instance_path)
    return f"the output at /{where} does not fit the declared schema: {mistake.message:.500}"


def _chosen(plan: Plan, step: CompiledStep, value: Any) -> tuple[int, ...] | None:
    """Return the positions that a selector's output chose, None when it is not a proper choice."""
    names = value.get("select") if isinstance(value, dict) else None
    if not isinstance(names, list) or not all(name in step.spec.select for name in names):
        return None
    return tuple(sorted({plan.index[StepId(name)] for name in names}))


def _epoch(reference: Reference, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise Unresolved(f"{reference}, the SOURCE_DATE_EPOCH, is not a number of seconds: {value!r:.60}")
