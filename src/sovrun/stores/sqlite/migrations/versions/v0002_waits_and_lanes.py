"""Lanes, waits, timers, workers, limits: what many runs, tenants and workers need.

The queue is clustered by lane (tenant and DAG), so that a lane that is paused or full costs a claim nothing.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_STATEMENTS = (
    "ALTER TABLE step ADD COLUMN shown TEXT",
    "ALTER TABLE step ADD COLUMN answer TEXT",
    "ALTER TABLE step ADD COLUMN since_us INTEGER",
    """
    CREATE TABLE tenant (
        tenant TEXT PRIMARY KEY,
        paused INTEGER NOT NULL DEFAULT 0,
        weight INTEGER NOT NULL DEFAULT 1,
        runs_max INTEGER,
        steps_max INTEGER
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE lane (
        key INTEGER PRIMARY KEY,
        tenant TEXT NOT NULL,
        dag TEXT NOT NULL,
        paused INTEGER NOT NULL DEFAULT 0,
        runs_max INTEGER,
        steps_max INTEGER,
        queued INTEGER NOT NULL DEFAULT 0,
        executing INTEGER NOT NULL DEFAULT 0,
        UNIQUE (tenant, dag)
    ) STRICT
    """,
    "INSERT INTO lane (tenant, dag) SELECT tenant, dag FROM dag_version GROUP BY tenant, dag ORDER BY min(key)",
    "ALTER TABLE run ADD COLUMN lane INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE run ADD COLUMN failures INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE run ADD COLUMN admitted INTEGER NOT NULL DEFAULT 1",
    "ALTER TABLE run ADD COLUMN parent TEXT",
    "ALTER TABLE run ADD COLUMN from_step TEXT",
    "ALTER TABLE run ADD COLUMN cancel TEXT",
    """
    UPDATE run SET lane = (
        SELECT l.key FROM lane l JOIN dag_version d ON d.tenant = l.tenant AND d.dag = l.dag WHERE d.key = run.dag)
    """,
    "CREATE INDEX run_waiting ON run (lane, priority, key) WHERE admitted = 0",
    "CREATE INDEX run_parent ON run (tenant, parent) WHERE parent IS NOT NULL",
    """
    CREATE TABLE lane_queue (
        lane INTEGER NOT NULL,
        priority INTEGER NOT NULL,
        run INTEGER NOT NULL,
        position INTEGER NOT NULL,
        since_us INTEGER NOT NULL,
        PRIMARY KEY (lane, priority, run, position)
    ) STRICT, WITHOUT ROWID
    """,
    """
    INSERT INTO lane_queue (lane, priority, run, position, since_us)
    SELECT r.lane, q.priority, q.run, q.position, r.time_us FROM queue q JOIN run r ON r.key = q.run
    """,
    "DROP TABLE queue",
    "ALTER TABLE lane_queue RENAME TO queue",
    """
    UPDATE lane SET
        queued = (SELECT count(*) FROM queue q WHERE q.lane = lane.key),
        executing = (SELECT coalesce(sum(r.executing), 0) FROM run r WHERE r.lane = lane.key AND r.ended_us IS NULL)
    """,
    """
    CREATE TABLE pending (
        run INTEGER NOT NULL,
        position INTEGER NOT NULL,
        PRIMARY KEY (run, position)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE timer (
        due_us INTEGER NOT NULL,
        run INTEGER NOT NULL,
        position INTEGER NOT NULL,
        PRIMARY KEY (due_us, run, position)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE worker (
        id TEXT PRIMARY KEY,
        beat_us INTEGER NOT NULL,
        late_reports INTEGER NOT NULL DEFAULT 0
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE lingering (
        run INTEGER NOT NULL,
        position INTEGER NOT NULL,
        fence INTEGER NOT NULL,
        worker TEXT NOT NULL,
        lane INTEGER NOT NULL,
        PRIMARY KEY (run, position, fence)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE act (
        key INTEGER PRIMARY KEY,
        tenant TEXT NOT NULL,
        time_us INTEGER NOT NULL,
        actor TEXT NOT NULL,
        type TEXT NOT NULL,
        data TEXT NOT NULL
    ) STRICT
    """,
    "CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
)


def upgrade() -> None:
    """Add the tables and move the queue into its lanes."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """History is append-only: there is no way back."""
    raise RuntimeError("a store is never downgraded; restore a copy made before the upgrade")
