"""From a request to a run: inputs checked and completed, names taken, one submission made.

Owns: `KnownDag`, `RunRequest`, `submission_of`. What a request means is worked out here once, for every face.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jsonschema_rs

from sovrun.core.canonical import canonical, digest_of, path_text, sha256_hex
from sovrun.core.errors import InvalidInputs
from sovrun.core.identity import RunKey, dag_version, run_id_of, run_token
from sovrun.core.ids import Actor, Digest, Tenant
from sovrun.core.spec.model import DagSpec
from sovrun.core.spec.normal import normal_form
from sovrun.store.payload import Payload
from sovrun.store.protocol import INLINE_MAX, PRIORITY_DEFAULT, Registration, Submission


@dataclass(frozen=True, slots=True)
class KnownDag:
    """A DAG version of a tenant with what every request for it needs, worked out once.

    Args:
        normal: canonical JSON of the normalised document.
        source: where the document came from on this machine, for people and for replay.
        schema: the compiled schema of its inputs.
    """

    tenant: Tenant
    spec: DagSpec
    version: Digest
    code: Digest
    normal: bytes
    source: str
    schema: jsonschema_rs.Draft202012Validator


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a caller asks for.

    Args:
        inputs: by name; missing ones are filled from the schema's defaults.
        key: what makes the run distinct; a caller's key makes the request idempotent.
        note: why the caller wants the run.
    """

    dag: KnownDag
    inputs: Mapping[str, Any]
    key: RunKey
    actor: Actor
    isolation: str
    note: str | None = None
    priority: int = PRIORITY_DEFAULT


def known_dag(tenant: Tenant, spec: DagSpec, code: Digest, source: str = "") -> KnownDag:
    """Return a DAG version by its name."""
    normal = normal_form(spec)
    schema = jsonschema_rs.Draft202012Validator(dict(spec.inputs), validate_formats=True)
    return KnownDag(tenant, spec, dag_version(normal, code), code, canonical(normal), source, schema)


def registration_of(dag: KnownDag, actor: Actor) -> Registration:
    """Return the DAG version as the store is to know it."""
    return Registration(dag.tenant, dag.spec.id, dag.version, dag.code, dag.normal, dag.source, actor)


def prepare_inputs(dag: KnownDag, given: Mapping[str, Any]) -> bytes:
    """Return the canonical inputs of a run: the given ones and the schema's defaults.

    Raises: InvalidInputs, InvalidValue.
    """
    inputs = _completed(dag.spec.inputs, dict(given))
    body = canonical(inputs)
    mistakes = [
        f"{path_text(('inputs', *mistake.instance_path))[2:]}: {mistake.message:.300}"
        for mistake in dag.schema.iter_errors(inputs)
    ]
    if mistakes:
        known = ", ".join(sorted(dag.spec.inputs.get("properties", {}))) or "none"
        raise InvalidInputs("; ".join(mistakes[:20]), hint=f"the DAG {dag.spec.id} knows the inputs: {known}")
    return body


def _completed(schema: Any, value: Any) -> Any:
    """Return `value` with the defaults of missing properties filled in, at every level."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if not isinstance(properties, Mapping) or not isinstance(value, dict):
        return value
    completed = dict(value)
    for name, of_property in properties.items():
        if name in completed:
            completed[name] = _completed(of_property, completed[name])
        elif isinstance(of_property, Mapping) and "default" in of_property:
            completed[name] = of_property["default"]
    return completed


def submission_of(request: RunRequest) -> tuple[Submission, bytes]:
    """Return the submission of a request and its canonical inputs. Raises: InvalidInputs, InvalidValue."""
    dag = request.dag
    inputs = prepare_inputs(dag, request.inputs)
    inputs_hash = sha256_hex(inputs)
    key = request.key.json()
    token = run_token(dag.tenant, dag.spec.id, dag.version, inputs_hash, request.key)
    note = None if request.note is None else request.note.encode()
    submission = Submission(
        tenant=dag.tenant,
        dag=dag.spec.id,
        version=dag.version,
        token=token,
        id=run_id_of(token),
        key=canonical(key).decode(),
        caller_key=request.key.caller,
        request=digest_of("sovrun.request", 1, {"inputs": inputs_hash, "dagVersion": dag.version}),
        inputs=Payload(inputs_hash, inputs if len(inputs) <= INLINE_MAX else None),
        note=None if note is None else Payload(sha256_hex(note), note),
        actor=request.actor,
        isolation=request.isolation,
        priority=request.priority,
    )
    return submission, inputs
