"""From a request to a run: inputs checked and completed, names taken, one submission made.

Owns: `RunRequest`, `prepare_inputs`, `submission_of`. What a request means is worked out here once, for every face.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jsonschema_rs

from sovrun.core.canonical import canonical, digest_of, path_text, sha256_hex
from sovrun.core.errors import InvalidInputs, StepKindUnavailable
from sovrun.core.identity import SANDBOXED, RunKey, dag_version, run_id_of, run_token
from sovrun.core.ids import Actor, Digest, Tenant
from sovrun.core.spec.model import DagSpec
from sovrun.core.spec.normal import normal_form
from sovrun.store.protocol import INLINE_MAX, PRIORITY_DEFAULT, Payload, Registration, Submission


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a caller asks for.

    Args:
        code: digest of the DAG's code; source: where the document came from, for people and for replay.
        inputs: by name; missing ones are filled from the schema's defaults.
        key: what makes the run distinct; a caller's key makes the request idempotent.
        note: why the caller wants the run.
    """

    tenant: Tenant
    spec: DagSpec
    code: Digest
    inputs: Mapping[str, Any]
    key: RunKey
    actor: Actor
    isolation: str
    source: str = ""
    note: str | None = None
    priority: int = PRIORITY_DEFAULT


def prepare_inputs(spec: DagSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of a run: the given ones and the schema's defaults. Raises: InvalidInputs, InvalidValue."""
    inputs = _completed(spec.inputs, dict(given))
    canonical(inputs)
    schema = jsonschema_rs.Draft202012Validator(dict(spec.inputs), validate_formats=True)
    mistakes = [f"{path_text(('inputs', *m.instance_path))[2:]}: {m.message:.300}" for m in schema.iter_errors(inputs)]
    if mistakes:
        known = ", ".join(sorted(spec.inputs.get("properties", {}))) or "none"
        raise InvalidInputs("; ".join(mistakes[:20]), hint=f"the DAG {spec.id} knows the inputs: {known}")
    return inputs


def _completed(schema: Any, value: Any) -> Any:
    """Return `value` with the defaults of missing properties filled in, at every level."""
    if not isinstance(schema, Mapping) or not isinstance(value, dict):
        return value
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return value
    completed = dict(value)
    for name, of_property in properties.items():
        if name in completed:
            completed[name] = _completed(of_property, completed[name])
        elif isinstance(of_property, Mapping) and "default" in of_property:
            completed[name] = of_property["default"]
    return completed


def registration_of(request: RunRequest) -> Registration:
    """Return the DAG version of a request as the store is to know it."""
    normal = normal_form(request.spec)
    return Registration(
        tenant=request.tenant,
        dag=request.spec.id,
        version=dag_version(normal, request.code),
        code=request.code,
        normal=canonical(normal),
        source=request.source,
        actor=request.actor,
    )


def submission_of(request: RunRequest, version: Digest) -> tuple[Submission, bytes]:
    """Return the submission of a request and the canonical inputs.

    Raises: InvalidInputs; StepKindUnavailable when the DAG has steps that no worker of this installation runs.
    """
    for step in request.spec.steps:
        if step.kind not in SANDBOXED:
            raise StepKindUnavailable(
                f"step {step.id} is of kind {step.kind}, which this version cannot run yet",
                hint="python and argv steps run",
                step=step.id,
            )
    inputs = canonical(prepare_inputs(request.spec, request.inputs))
    inputs_hash = sha256_hex(inputs)
    token = run_token(request.tenant, request.spec.id, version, inputs_hash, request.key)
    note = None if request.note is None else request.note.encode()
    sent = {"inputs": inputs_hash, "version": version}
    submission = Submission(
        tenant=request.tenant,
        dag=request.spec.id,
        version=version,
        token=token,
        id=run_id_of(token),
        key=canonical(request.key.json()).decode(),
        caller_key=request.key.caller,
        request=digest_of("sovrun.request", 1, sent),
        inputs=Payload(inputs_hash, inputs if len(inputs) <= INLINE_MAX else None),
        note=None if note is None else Payload(sha256_hex(note), note),
        actor=request.actor,
        isolation=request.isolation,
        priority=request.priority,
    )
    return submission, inputs
