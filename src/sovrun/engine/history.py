"""What a run's history tells beside its state: its chain head, whose word ended what, and what steps ran behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from sovrun.core.canonical import decode
from sovrun.core.events import Event, chain_link
from sovrun.core.ids import Actor, Digest, RunId, StepId, Tenant
from sovrun.core.lifecycle import TERMINAL, Reason
from sovrun.store.protocol import Reads, RunRecord

PAGE = 5_000
_ENDS: Final = frozenset(f"run.{state}" for state in TERMINAL)
_WORDS: Final = frozenset({"answered", "failed", "approved", "rejected"})
"""What people and tools say about a step; what became of a command stands in the command's own history."""


class Word(NamedTuple):
    """Who spoke, what they decided, and the digest of why, when a reason was given."""

    actor: Actor
    decision: str
    why: Digest | None


class Told(NamedTuple):
    """What the history of a run tells.

    Args:
        chain_head: see `chain_head`.
        cancelled: whose word ended the run, None when nobody's did.
        decided: the last word about each step that waited for one.
        walls: what the last attempt of each step ran behind that ran in a sandbox, see `docs/reference/events.md`.
    """

    chain_head: Digest
    cancelled: Word | None
    decided: Mapping[StepId, Word]
    walls: Mapping[StepId, Mapping[str, Any]]


async def told_by(store: Reads, record: RunRecord) -> Told:
    """Return what the history of a run tells, in one walk over it. Raises: NotFound."""
    head, after = record.token, 0
    cancelled: Word | None = None
    decided: dict[StepId, Word] = {}
    walls: dict[StepId, Mapping[str, Any]] = {}
    while events := await store.events(record.head.tenant, record.head.id, after=after, limit=PAGE):
        for event in events:
            head = chain_link(head, event)
            if event.step is not None and '"walls":' in event.data:
                walls[event.step] = _data(event).get("walls", {})
            if event.step is not None and event.type == "step.executing" and '"decision":' in event.data:
                data = _data(event)
                if data["decision"] in _WORDS:
                    decided[event.step] = Word(event.actor, data["decision"], data["rationaleHash"])
            elif event.type == "step.cancelled" and f'"{Reason.RUN_CANCELLED}"' in event.data:
                cancelled = Word(event.actor, "cancelled", None)
            elif cancelled is not None and event.type in _ENDS:
                cancelled = cancelled._replace(why=_data(event).get("noteHash"))
        after = events[-1].sequence
    return Told(head, cancelled, decided, walls)


async def chain_head(store: Reads, tenant: Tenant, run: RunId) -> Digest:
    """Return the head of the hash chain over a run's events so far; it begins with the run token. Raises: NotFound."""
    head = (await store.run(tenant, run)).token
    after = 0
    while events := await store.events(tenant, run, after=after, limit=PAGE):
        for event in events:
            head = chain_link(head, event)
        after = events[-1].sequence
    return head


def _data(event: Event) -> dict[str, Any]:
    data: dict[str, Any] = decode(event.data.encode())
    return data
