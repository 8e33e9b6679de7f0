"""Nobody executes a run otherwise isolated than it is recorded.

Owns: `require_isolation` where a run is asked for, and `unfit` and `mixed`, by which an engine refuses a store whose runs
it would have to fail. A worker is the last that looks, at each lease (`attempt.py`).
"""

from __future__ import annotations

from typing import Final

from sovrun.core.errors import InvalidSetting
from sovrun.store.protocol import Reads, RunRecord

_NAMED_MAX: Final = 5
"""Runs that a refusal names."""


def require_isolation(wanted: str, given: str) -> None:
    """Refuse to make a run that nobody here would execute. Raises: InvalidSetting.

    Args:
        wanted: of the run; given: what those isolate by who are to execute it.
    """
    if wanted != given:
        raise InvalidSetting(
            f"the run is to be isolated by {wanted!r:.40}, and what executes the runs of this store isolates by {given!r}",
            hint=f"leave out --isolation for {given!r}, or have them executed with `--isolation {wanted:.40}`",
        )


async def unfit(reads: Reads, isolation: str) -> list[RunRecord]:
    """Return the unfinished runs that are recorded to be isolated otherwise, in the order of their submission."""
    records = [await reads.run(tenant, run) for tenant, run in await reads.unfinished()]
    return [record for record in records if record.isolation != isolation]


def mixed(found: list[RunRecord], isolation: str) -> InvalidSetting:
    """Return why an engine does not begin: it would have to fail these runs, for they are not isolated as it isolates."""
    other = found[0].isolation
    named = ", ".join(record.head.id for record in found[:_NAMED_MAX])
    named += f" and {len(found) - _NAMED_MAX:,} more" if len(found) > _NAMED_MAX else ""
    return InvalidSetting(
        f"isolation {isolation!r} is asked for, and unfinished runs of this store are recorded to be isolated by"
        f" {other!r}: {named}",
        hint=f"go on with them by `--isolation {other}`, or end them with `sovrun cancel`",
    )
