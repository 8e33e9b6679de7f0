"""Write `reference/lifecycle.md` from the one table of legal moves; run it after the table has changed.

A test compares the page with what this makes, so the two never differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sovrun.core.lifecycle import TERMINAL, TRANSITIONS, State

PAGE: Final = Path(__file__).parent / "reference" / "lifecycle.md"

MEANING: Final = {
    State.RECEIVED: "not yet decided: its needs are not all terminal",
    State.QUEUED: "ready, in the tenant's queue",
    State.EXECUTING: "leased to a worker and running",
    State.AWAITING_TOOL: "an external tool must answer, a retry waits for its time, or a lost lease waits to be taken up",
    State.AWAITING_USER_CONFIRMATION: "a named person or role must approve or reject",
    State.COMPLETED: "the step returned",
    State.FAILED: "its attempts or failures are spent, or it may not be retried",
    State.CANCELLED: "it never ran, or was not allowed to go on",
}

HEAD: Final = """\
# Lifecycle

Runs and steps move through the same eight states along one table, `sovrun.core.lifecycle.TRANSITIONS`. A move that
the table does not have is refused as `illegal_transition`, with both states in the error. This page is written from
the table by `docs/generate_lifecycle.py`.
"""

DECISIONS: Final = """\
## How a received step is decided

Once, when all its needs are terminal, by counters that its needs have left:

1. a need `failed` or is `upstream_failed`: it is `cancelled`, reason `upstream_failed`;
2. its selector did not choose it, or every need is `not_selected`, or one is and the step is not `join: any`: it is
   `cancelled`, reason `not_selected`;
3. else it is `queued`.

Only cancellation of the run (`run_cancelled`) and `failFast` (`fail_fast`) come earlier.

## How the state of a run follows from its steps

| steps | run |
|---|---|
| all terminal, a cancellation was accepted | `cancelled` |
| all terminal, any failed | `failed` |
| all terminal | `completed` |
| none has ever started, none is queued | `received` |
| none has ever started | `queued` |
| any is queued or executing | `executing` |
| any awaits a confirmation | `awaiting_user_confirmation` |
| else | `awaiting_tool` |

Where the new state is not one legal move away, the run passes through `executing`: both events, in the same write.
"""


def diagram() -> str:
    """Return the table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.RECEIVED}"]
    lines += [
        f"    {source} --> {target}" for source in State for target in State if target in TRANSITIONS[source]
    ]
    lines += [f"    {state} --> [*]" for state in State if state in TERMINAL]
    return "\n".join(lines)


def table() -> str:
    """Return the table as one, a row for each state."""
    lines = ["| from | to | meaning for a step |", "|---|---|---|"]
    for source in State:
        targets = " ".join(f"`{target}`" for target in State if target in TRANSITIONS[source])
        lines.append(f"| `{source}` | {targets or 'none: terminal and immutable'} | {MEANING[source]} |")
    return "\n".join(lines)


def page() -> str:
    """Return the whole page."""
    moves = sum(map(len, TRANSITIONS.values()))
    count = f"{moves} moves are legal, {len(State)} keep the state, {len(State) ** 2 - moves - len(State)} are refused."
    return f"{HEAD}\n```mermaid\n{diagram()}\n```\n\n{table()}\n\n{count}\n\n{DECISIONS}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
