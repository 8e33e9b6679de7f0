"""What things are called by content: DAG versions, runs, steps, code, trees, outcomes (DESIGN section 4).

Owns: every digest that names something, as a function of values. The byte templates below equal the canonical form
(`canonical.digest_of`); tests compare the two.
Must not touch: files (`sovrun.stores.files` lists them), clocks, random sources.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, NamedTuple

from sovrun.core.canonical import canonical, digest_of
from sovrun.core.ids import DagId, Digest, RunId, StepId, Tenant
from sovrun.core.lifecycle import TERMINAL, Cause, State
from sovrun.core.spec.model import CommandCall, Confirmation, StepSpec, ToolWait


class CodeFile(NamedTuple):
    """One regular file of a DAG's code."""

    path: str
    executable: bool
    digest: Digest


class TreeFile(NamedTuple):
    """One regular file of a directory that is a value."""

    path: str
    executable: bool
    digest: Digest
    size: int


def code_digest(files: Iterable[CodeFile]) -> Digest:
    """Return the digest of code: sorted (relative path with `/`, executable bit, SHA-256) of every file."""
    return digest_of("sovrun.code", 1, {"files": sorted(list(file) for file in files)})


def tree_manifest(files: Iterable[TreeFile]) -> bytes:
    """Return the canonical listing of a directory; its SHA-256 is the `$tree` digest."""
    listing = sorted(list(file) for file in files)
    return canonical({"files": listing, "kind": "sovrun.tree", "version": 1})


def dag_version(normal: Mapping[str, Any], code: Digest) -> Digest:
    """Return the digest that names a DAG version: the normalised document with its code."""
    return digest_of("sovrun.dag", 1, {"code": code, "spec": normal})


@dataclass(frozen=True, slots=True)
class RunKey:
    """What makes one run of a DAG and inputs distinct from another.

    Exactly one form: a caller's key, a schedule's instant, a fresh UUIDv7, or the n-th re-run of a parent.
    """

    caller: str | None = None
    fresh: str | None = None
    schedule: tuple[str, str] | None = None
    rerun: tuple[RunId, int] | None = None

    def json(self) -> dict[str, Any]:
        """Return the key as it enters the run token. Raises: ValueError unless exactly one form is given."""
        forms: list[dict[str, Any]] = []
        if self.caller is not None:
            forms.append({"caller": self.caller})
        if self.fresh is not None:
            forms.append({"fresh": self.fresh})
        if self.schedule is not None:
            forms.append({"schedule": self.schedule[0], "instant": self.schedule[1]})
        if self.rerun is not None:
            forms.append({"rerun": self.rerun[0], "n": self.rerun[1]})
        if len(forms) != 1:
            raise ValueError(f"a run key has exactly one form, not {len(forms)}")
        return forms[0]


def run_token(tenant: Tenant, dag: DagId, version: Digest, inputs: Digest, key: RunKey) -> Digest:
    """Return the token that names a run; its first 32 digits are the run id."""
    return digest_of(
        "sovrun.run",
        1,
        {"tenant": tenant, "dag": dag, "dagVersion": version, "inputs": inputs, "key": key.json()},
    )


def run_id_of(token: Digest) -> RunId:
    """Return the run id of a run token."""
    return RunId(token[:32])


def step_hash_prefix(step: StepSpec, code: Digest) -> str:
    """Return all of a step hash's canonical text that comes before the digest of the resolved inputs."""
    entry = step.entry if isinstance(step.entry, str) else _plain(step.entry)
    endpoints = [str(endpoint) for endpoint in step.endpoints]
    head = canonical({"code": code, "endpoints": endpoints, "entry": entry, "flags": _flags(step)}).decode()
    return f'{head[:-1]},"inputs":"'


def step_hash_suffix(step: StepSpec) -> str:
    """Return all of a step hash's canonical text that comes after the digest of the resolved inputs."""
    secrets = canonical([list(each) for each in step.secrets]).decode() if step.secrets else "[]"
    return f'","kind":"sovrun.step","secrets":{secrets},"stepKind":"{step.kind}","version":1}}'


def _flags(step: StepSpec) -> list[str]:
    """Return how a step is run where that can change what comes out."""
    return ["reproducible"] * step.reproducible + ["verify-twice"] * step.verified


def _plain(entry: tuple[str, ...] | ToolWait | Confirmation | CommandCall) -> Any:
    """Return an entry as it enters the step hash: what is done and who may do it, not how long that may take."""
    if isinstance(entry, ToolWait):
        return {"tool": entry.name}
    if isinstance(entry, Confirmation):
        return {"actor": entry.actor, "barRequester": entry.bar_requester, "role": entry.role}
    if isinstance(entry, CommandCall):
        return {"adapter": entry.adapter, "command": entry.kind, "mode": entry.mode}
    return list(entry)


def step_hash(prefix: str, inputs: Digest, suffix: str) -> Digest:
    """Return the step hash: (kind, entry point, resolved inputs, code, endpoints, secret names, flags)."""
    return Digest(sha256(f"{prefix}{inputs}{suffix}".encode()).hexdigest())


class StepResult(NamedTuple):
    """What of a terminal step enters the outcome hash, in plan order."""

    step_hash: Digest | None
    state: State
    cause: Cause | None
    output: Digest | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of a run.

    Args:
        outcome: the outcome hash; outputs: digest of the completed steps' outputs.
        reproducible: no step's end is owed to circumstance.
    """

    outcome: Digest
    outputs: Digest
    reproducible: bool


def outcome_of(
    version: Digest, inputs: Digest, steps: Sequence[StepSpec], results: Iterable[StepResult]
) -> Outcome:
    """Return the outcome of a run whose steps are all terminal.

    Args:
        steps, results: both in plan order, of equal length.
    Raises: ValueError when the lengths differ or a step is not terminal.
    """
    outcome = sha256(
        f'{{"dagVersion":"{version}","inputs":"{inputs}","kind":"sovrun.outcome","steps":['.encode()
    )
    outputs = sha256(b'{"kind":"sovrun.outputs","outputs":[')
    reproducible = True
    separator = outputs_separator = ""
    for step, (hash_, state, cause, output) in zip(steps, results, strict=True):
        if state not in TERMINAL:
            raise ValueError(
                f"step {step.id} is {state}: a run has no outcome before all its steps are terminal"
            )
        if cause is Cause.CIRCUMSTANCE:
            reproducible = False
        outcome.update(
            f'{separator}{{"cause":{_text(cause)},"id":"{step.id}","output":{_text(output)},"state":"{state}",'
            f'"stepHash":{_text(hash_)}}}'.encode()
        )
        separator = ","
        if state is State.COMPLETED:
            outputs.update(f'{outputs_separator}{{"id":"{step.id}","output":"{output}"}}'.encode())
            outputs_separator = ","
    outcome.update(b'],"version":1}')
    outputs.update(b'],"version":1}')
    return Outcome(Digest(outcome.hexdigest()), Digest(outputs.hexdigest()), reproducible)


def _text(value: str | None) -> str:
    return "null" if value is None else f'"{value}"'


def outcome_body(
    version: Digest, inputs: Digest, ids: Sequence[StepId], results: Sequence[StepResult]
) -> dict[str, Any]:
    """Return the canonical object that the outcome hash is taken of, for those who want to check it themselves."""
    return {
        "dagVersion": version,
        "inputs": inputs,
        "steps": [
            {
                "id": id_,
                "stepHash": r.step_hash,
                "state": str(r.state),
                "cause": r.cause and str(r.cause),
                "output": r.output,
            }
            for id_, r in zip(ids, results, strict=True)
        ],
    }


_REPLAY_TOKEN: Final = re.compile(r"sovrun1\.([0-9a-f]{32})\.([0-9a-f]{64})\.([0-9a-f]{64})")


def replay_token(run: RunId, outcome: Digest, chain_head: Digest) -> str:
    """Return the text that names a run together with what came out and what happened: `sovrun1.RUN.OUTCOME.CHAIN`."""
    return f"sovrun1.{run}.{outcome}.{chain_head}"


def parse_replay_token(text: str) -> tuple[RunId, Digest, Digest] | None:
    """Return the parts of a replay token, None when `text` is none."""
    parts = _REPLAY_TOKEN.fullmatch(text)
    return None if parts is None else (RunId(parts[1]), Digest(parts[2]), Digest(parts[3]))
