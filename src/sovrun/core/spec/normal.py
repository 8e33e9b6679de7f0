"""The normal form of a DAG: one JSON value for all the ways in which it can be written.

Owns: filling in defaults, and the way from a valid document to `DagSpec`, from there to the normal form, and back.
Must not touch: whether a document is valid.

The normal form is what a DAG version is the digest of, so neither its names nor its defaults ever change under
`sovrun/v1`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from sovrun.core.ids import DagId, StepId
from sovrun.core.network import Endpoint, parse_endpoint
from sovrun.core.spec.model import (
    API_VERSION,
    WORKER_KINDS,
    CommandCall,
    Confirmation,
    DagSpec,
    Kind,
    Reference,
    Resources,
    Retry,
    StepSpec,
    ToolWait,
)
from sovrun.core.spec.references import normal_of, parse_reference, template_of
from sovrun.core.spec.units import duration_us, grace_us, long_duration_us, size_bytes

NO_INPUTS: Final[Mapping[str, Any]] = {"type": "object", "properties": {}, "additionalProperties": False}

_Convert = Callable[[Any], Any]
_Fields = tuple[tuple[str, str, _Convert], ...]
"""Name in a document or in the normal form, name in the model, what makes the one of the other."""
_Entry: TypeAlias = str | tuple[str, ...] | ToolWait | Confirmation | CommandCall


def _names(value: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(sorted(value))


def _listed(value: Sequence[str] | None) -> list[str] | None:
    return None if value is None else list(value)


def _same(value: Any) -> Any:
    return value


def _is_hard(value: Any) -> bool:
    return bool(value == "hard")


_RETRY_WRITTEN: Final[_Fields] = (
    ("maxAttempts", "max_attempts", int), ("maxFailures", "max_failures", int), ("base", "base_us", duration_us),
    ("cap", "cap_us", duration_us), ("jitter", "jitter", bool), ("retryOn", "retry_on", _names),
)  # fmt: skip
_RESOURCES_WRITTEN: Final[_Fields] = (
    ("memory", "memory", size_bytes), ("cpuSeconds", "cpu_us", duration_us), ("wallSeconds", "wall_us", duration_us),
    ("processes", "processes", int), ("openFiles", "open_files", int), ("disk", "disk", size_bytes),
    ("files", "files", int), ("log", "log", size_bytes), ("output", "output", size_bytes),
    ("memoryLimit", "memory_hard", _is_hard), ("graceSeconds", "grace_us", grace_us),
)  # fmt: skip
_RETRY_NORMAL: Final[_Fields] = (
    ("maxAttempts", "max_attempts", _same), ("maxFailures", "max_failures", _same), ("baseUs", "base_us", _same),
    ("capUs", "cap_us", _same), ("jitter", "jitter", _same), ("retryOn", "retry_on", _listed),
)  # fmt: skip
_RESOURCES_NORMAL: Final[_Fields] = (
    ("memory", "memory", _same), ("cpuUs", "cpu_us", _same), ("wallUs", "wall_us", _same),
    ("processes", "processes", _same), ("openFiles", "open_files", _same), ("disk", "disk", _same),
    ("files", "files", _same), ("log", "log", _same), ("output", "output", _same),
)  # fmt: skip
_TOOL_WRITTEN: Final[_Fields] = (("name", "name", _same), ("deadline", "deadline_us", long_duration_us))
_TOOL_NORMAL: Final[_Fields] = (("name", "name", _same), ("deadlineUs", "deadline_us", _same))
_CONFIRM_WRITTEN: Final[_Fields] = (
    ("role", "role", _same), ("actor", "actor", _same), ("show", "show", template_of),
    ("expires", "expires_us", long_duration_us), ("onExpiry", "on_expiry", _same), ("barRequester", "bar_requester", _same),
)  # fmt: skip
_CONFIRM_NORMAL: Final[_Fields] = (
    ("role", "role", _same), ("actor", "actor", _same), ("show", "show", normal_of), ("expiresUs", "expires_us", _same),
    ("onExpiry", "on_expiry", _same), ("barRequester", "bar_requester", _same),
)  # fmt: skip
_CONFIRM_READ: Final[_Fields] = tuple(
    (name, field, template_of if field == "show" else convert) for name, field, convert in _CONFIRM_NORMAL
)
_COMMAND: Final[_Fields] = (("kind", "kind", _same), ("adapter", "adapter", _same), ("mode", "mode", _same))
_KINDS: Final = tuple(
    (kind.value, kind) for kind in Kind
)  # going through the class itself takes ten times as long
_DEFAULT_RETRY: Final = Retry()
_DEFAULT_RESOURCES: Final = Resources()


def spec_of(document: Mapping[str, Any], order: Sequence[StepId]) -> DagSpec:
    """Return a valid document as a value.

    Args:
        document: found free of mistakes.
        order: ids of its steps in plan order.
    """
    names = {name: name for name in order}
    steps = {step["id"]: step for step in document["steps"]}
    metadata = document["metadata"]
    code = document.get("code")
    all_reproducible = document.get("reproducible", False)
    epoch = document.get("sourceDateEpoch", DagSpec.__dataclass_fields__["epoch"].default)
    return DagSpec(
        id=DagId(metadata["id"]),
        inputs=document.get("inputs", NO_INPUTS),
        steps=tuple(_step_of(steps[name], name, names, all_reproducible) for name in order),
        description=metadata.get("description"),
        labels=metadata.get("labels", {}),
        fail_fast=document.get("failFast", False),
        code=_names(code),
        epoch=parse_reference(epoch["from"]) if isinstance(epoch, dict) else int(epoch),
        failure_budget=int(document["failureBudget"]) if "failureBudget" in document else None,
        timeout_us=_timeout_of(document),
    )


def _step_of(
    step: Mapping[str, Any],
    name: StepId,
    names: Mapping[StepId, StepId],
    all_reproducible: bool,  # noqa: FBT001 -- what the document says for all of them
) -> StepSpec:
    kind = _kind_of(step)
    retry, resources = step.get("retry"), step.get("resources")
    return StepSpec(
        id=name,
        kind=kind,
        entry=_entry_of(kind, step[kind.value], _TOOL_WRITTEN, _CONFIRM_WRITTEN),
        needs=tuple(sorted([names[need] for need in step.get("needs", ())])),
        arguments={argument: template_of(value) for argument, value in step.get("with", {}).items()},
        outputs=step.get("outputs"),
        retry=Retry(**_converted(retry, _RETRY_WRITTEN)) if retry else _DEFAULT_RETRY,
        resources=Resources(**_converted(resources, _RESOURCES_WRITTEN)) if resources else _DEFAULT_RESOURCES,
        select=tuple(sorted([names[choice] for choice in step.get("select", ())])),
        join_any=step.get("join") == "any",
        description=step.get("description"),
        timeout_us=_timeout_of(step),
        endpoints=_endpoints_of(step),
        secrets=_secrets_of(step),
        reproducible=step.get("reproducible", all_reproducible and kind in WORKER_KINDS),
        verified="verify" in step,
    )


def _timeout_of(written: Mapping[str, Any]) -> int | None:
    return long_duration_us(written["timeout"]) if "timeout" in written else None


def _endpoints_of(step: Mapping[str, Any]) -> tuple[Endpoint, ...]:
    if "network" not in step:
        return ()
    return tuple(sorted(map(parse_endpoint, step["network"]["allow"]), key=str))


def _secrets_of(step: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(step["secrets"].items())) if "secrets" in step else ()


def _kind_of(step: Mapping[str, Any]) -> Kind:
    return next(kind for name, kind in _KINDS if name in step)


def _entry_of(kind: Kind, entry: Any, tool: _Fields, confirm: _Fields) -> _Entry:
    if kind is Kind.TOOL:
        return ToolWait(**_converted(entry, tool))
    if kind is Kind.CONFIRM:
        return Confirmation(**_converted(entry, confirm))
    if kind is Kind.COMMAND:
        return CommandCall(**_converted(entry, _COMMAND))
    made: _Entry = tuple(entry) if isinstance(entry, list) else entry
    return made


def _converted(written: Mapping[str, Any], fields: _Fields) -> dict[str, Any]:
    return {field: convert(written[name]) for name, field, convert in fields if name in written}


def normal_form(spec: DagSpec) -> dict[str, Any]:
    """Return the normal form of a DAG: JSON, defaults filled in, steps in plan order, whole microseconds and bytes.

    Equal settings of different steps are one object, so do not change what is returned.
    """
    retries: dict[Retry, dict[str, Any]] = {}
    resources: dict[Resources, dict[str, Any]] = {}
    form = {
        "apiVersion": API_VERSION,
        "kind": "Dag",
        "metadata": {"id": spec.id, "description": spec.description, "labels": dict(spec.labels)},
        "inputs": spec.inputs,
        "failFast": spec.fail_fast,
        "code": _listed(spec.code),
        "sourceDateEpoch": {"from": str(spec.epoch)} if isinstance(spec.epoch, Reference) else spec.epoch,
        "steps": [_normal_step(step, retries, resources) for step in spec.steps],
    }
    if spec.timeout_us is not None:  # what is younger than the first digests is absent where it is not used
        form["timeoutUs"] = spec.timeout_us
    if spec.failure_budget is not None:
        form["failureBudget"] = spec.failure_budget
    return form


def _normal_step(
    step: StepSpec, retries: dict[Retry, dict[str, Any]], resources: dict[Resources, dict[str, Any]]
) -> dict[str, Any]:
    retry = retries.get(step.retry)
    if retry is None:
        retry = retries[step.retry] = _written(step.retry, _RETRY_NORMAL)
    limits = resources.get(step.resources)
    if limits is None:
        limits = resources[step.resources] = _written(step.resources, _RESOURCES_NORMAL)
        if (
            step.resources.memory_hard
        ):  # its absence must not move the digests of versions that are older than it
            limits["memoryLimit"] = "hard"
        if step.resources.grace_us != _DEFAULT_RESOURCES.grace_us:  # likewise
            limits["graceUs"] = step.resources.grace_us
    form = {
        "id": step.id,
        "description": step.description,
        step.kind.value: _normal_entry(step.entry),
        "needs": list(step.needs),
        "with": {name: normal_of(template) for name, template in step.arguments.items()},
        "outputs": step.outputs,
        "retry": retry,
        "resources": limits,
        "select": list(step.select),
        "join": "any" if step.join_any else "all",
    }
    if step.timeout_us is not None:
        form["timeoutUs"] = step.timeout_us
    if step.endpoints:
        form["network"] = {"allow": [str(endpoint) for endpoint in step.endpoints]}
    if step.secrets:
        form["secrets"] = dict(step.secrets)
    if step.reproducible:
        form["reproducible"] = True
    if step.verified:
        form["verify"] = "twice"
    return form


def _normal_entry(entry: _Entry) -> Any:
    if isinstance(entry, ToolWait):
        return _written(entry, _TOOL_NORMAL)
    if isinstance(entry, Confirmation):
        return _written(entry, _CONFIRM_NORMAL)
    if isinstance(entry, CommandCall):
        return _written(entry, _COMMAND)
    return list(entry) if isinstance(entry, tuple) else entry


def _written(
    settings: Retry | Resources | ToolWait | Confirmation | CommandCall, fields: _Fields
) -> dict[str, Any]:
    return {name: convert(getattr(settings, field)) for name, field, convert in fields}


def spec_from_normal(form: Mapping[str, Any]) -> DagSpec:
    """Return the DAG whose normal form is `form`; it is trusted, not checked."""
    metadata = form["metadata"]
    epoch = form["sourceDateEpoch"]
    code = form["code"]
    read = _Reader()
    return DagSpec(
        id=DagId(metadata["id"]),
        inputs=form["inputs"],
        steps=tuple([read.step(step) for step in form["steps"]]),
        description=metadata["description"],
        labels=metadata["labels"],
        fail_fast=form["failFast"],
        code=None if code is None else tuple(code),
        epoch=parse_reference(epoch["from"]) if isinstance(epoch, dict) else epoch,
        failure_budget=form.get("failureBudget"),
        timeout_us=form.get("timeoutUs"),
    )


class _Reader:
    """Reads steps back; names and equal settings become one object, which is most of the memory of a large DAG."""

    def __init__(self) -> None:
        self._names: dict[str, StepId] = {}
        self._retries: dict[tuple[Any, ...], Retry] = {}
        self._resources: dict[tuple[Any, ...], Resources] = {}

    def step(self, form: Mapping[str, Any]) -> StepSpec:
        """Return the step whose normal form is `form`; steps come in plan order."""
        name = self._names[form["id"]] = StepId(form["id"])
        kind = _kind_of(form)
        return StepSpec(
            id=name,
            kind=kind,
            entry=_entry_of(kind, form[kind.value], _TOOL_NORMAL, _CONFIRM_READ),
            needs=tuple([self._names[need] for need in form["needs"]]),
            arguments={argument: template_of(value) for argument, value in form["with"].items()},
            outputs=form["outputs"],
            retry=self._retry(form["retry"]),
            resources=self._limits(form["resources"]),
            select=tuple(form["select"]),
            join_any=form["join"] == "any",
            description=form["description"],
            timeout_us=form.get("timeoutUs"),
            endpoints=_endpoints_of(form),
            secrets=_secrets_of(form),
            reproducible="reproducible" in form,
            verified="verify" in form,
        )

    def _retry(self, form: Mapping[str, Any]) -> Retry:
        retry_on = form["retryOn"]
        values = tuple([form[name] for name, _, _ in _RETRY_NORMAL[:-1]])
        key = (*values, None if retry_on is None else tuple(retry_on))
        if key not in self._retries:
            self._retries[key] = Retry(*key)
        return self._retries[key]

    def _limits(self, form: Mapping[str, Any]) -> Resources:
        key = (
            *[form[name] for name, _, _ in _RESOURCES_NORMAL],
            _is_hard(form.get("memoryLimit")),
            form.get("graceUs", _DEFAULT_RESOURCES.grace_us),
        )
        if key not in self._resources:
            self._resources[key] = Resources(*key)
        return self._resources[key]
