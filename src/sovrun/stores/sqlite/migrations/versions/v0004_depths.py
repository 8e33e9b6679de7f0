"""What is asked of a queue without walking it: since when its steps and its runs wait, and how many runs there are.

A lane counts its runs as it counts its steps, and both kinds of waiting have an index that begins with the longest.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STATEMENTS = (
    "CREATE INDEX queue_since ON queue (lane, since_us)",
    "CREATE INDEX run_waiting_since ON run (lane, created_us) WHERE admitted = 0 AND ended_us IS NULL",
    # Runs that were cancelled while they waited stood in the way of those that wait still.
    "DROP INDEX run_waiting",
    "CREATE INDEX run_waiting ON run (lane, priority, key) WHERE admitted = 0 AND ended_us IS NULL",
    "ALTER TABLE lane ADD COLUMN runs INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE lane ADD COLUMN waiting INTEGER NOT NULL DEFAULT 0",
    """
    UPDATE lane SET
        runs = (SELECT count(*) FROM run r WHERE r.lane = lane.key AND r.ended_us IS NULL AND r.admitted = 1),
        waiting = (SELECT count(*) FROM run r WHERE r.lane = lane.key AND r.ended_us IS NULL AND r.admitted = 0)
    """,
)


def upgrade() -> None:
    """Add the indexes and the counts."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """History is append-only: there is no way back."""
    raise RuntimeError("a store is never downgraded; restore a copy made before the upgrade")
