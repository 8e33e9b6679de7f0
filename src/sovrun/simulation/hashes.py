"""What the checker computes for itself: chain links, outcome, outputs, retry delays.

Written from DESIGN sections 3 to 5 alone, so that a mistake of the engine is not repeated here.
Must not touch: the engine's own functions for the same things.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any

import orjson

from sovrun.core.spec.model import Retry
from sovrun.simulation.histories import Entry

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def digest(value: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical form of an object of strings, integers, booleans, null and ASCII keys."""
    return sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()


def time_of(instant_us: int) -> str:
    """Return an instant as it is recorded."""
    seconds, rest_us = divmod(instant_us, 1_000_000)
    return f"{_second(seconds)}.{rest_us:06}Z"


@lru_cache(maxsize=4_096)
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


def chain(token: str, entries: Iterable[Entry]) -> str:
    """Return the head of the hash chain over a run's entries; its first predecessor is the run token."""
    head = token
    for entry in entries:
        event = {
            "tenant": entry.tenant,
            "runId": entry.run,
            "sequence": entry.sequence,
            "time": time_of(entry.time_us),
            "actor": entry.actor,
            "type": entry.type,
            "stepId": entry.step,
            "data": entry.data,
        }
        head = digest({"kind": "sovrun.event", "version": 1, "previous": head, "event": event})
    return head


def outcome_hash(version: str, inputs: str, steps: Sequence[Mapping[str, str | None]]) -> str:
    """Return the outcome hash; `steps` in plan order with `id`, `stepHash`, `state`, `cause`, `output`."""
    return digest(
        {
            "kind": "sovrun.outcome",
            "version": 1,
            "dagVersion": version,
            "inputs": inputs,
            "steps": list(steps),
        }
    )


def outputs_hash(outputs: Sequence[tuple[str, str | None]]) -> str:
    """Return the digest of (id, output hash) of the completed steps in plan order."""
    listed = [{"id": id_, "output": output} for id_, output in outputs]
    return digest({"kind": "sovrun.outputs", "version": 1, "outputs": listed})


def delay_us(failures: int, retry: Retry, step_hash: str | None) -> int:
    """Return how long a step waits after its `failures`-th reported failure, in microseconds."""
    ceiling = retry.base_us
    for _ in range(failures - 1):
        ceiling *= 2
        if ceiling >= retry.cap_us:
            break
    ceiling = min(ceiling, retry.cap_us)
    if not retry.jitter:
        return ceiling
    seed = f"sovrun.jitter/1:{step_hash or '0' * 64}:{failures}"
    return int(sha256(seed.encode()).hexdigest(), 16) % (ceiling + 1)
