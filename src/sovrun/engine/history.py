"""What a finished run proves about itself: its chain head and replay token, from the recorded facts."""

from __future__ import annotations

from sovrun.core.events import chain_link
from sovrun.core.identity import replay_token
from sovrun.core.ids import Digest, RunId, Tenant
from sovrun.store.protocol import Reads, RunRecord

PAGE = 5_000


async def chain_head(store: Reads, tenant: Tenant, run: RunId) -> Digest:
    """Return the head of the hash chain over a run's events so far; it begins with the run token. Raises: NotFound."""
    head = (await store.run(tenant, run)).token
    after = 0
    while events := await store.events(tenant, run, after=after, limit=PAGE):
        for event in events:
            head = chain_link(head, event)
        after = events[-1].sequence
    return head


async def replay_token_of(store: Reads, record: RunRecord) -> str | None:
    """Return the replay token of a terminal run, None before that."""
    outcome = record.head.outcome
    if outcome is None:
        return None
    return replay_token(record.head.id, outcome, await chain_head(store, record.head.tenant, record.head.id))
