"""The first schema: DAG versions, runs, steps, queue, history, payloads.

`run.key` rises with submission and is the run sequence of the queue's order. Tables that the hot path touches are
clustered by their own key (WITHOUT ROWID) and hold small rows; texts of unknown size lie in rowid tables.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_STATES = "'received','queued','executing','awaiting_tool','awaiting_user_confirmation','completed','failed','cancelled'"

_TABLES = (
    """
    CREATE TABLE dag_version (
        key INTEGER PRIMARY KEY,
        tenant TEXT NOT NULL,
        dag TEXT NOT NULL,
        version TEXT NOT NULL,
        code TEXT NOT NULL,
        normal BLOB NOT NULL,
        source TEXT NOT NULL,
        actor TEXT NOT NULL,
        registered_us INTEGER NOT NULL,
        UNIQUE (tenant, version)
    ) STRICT
    """,
    """
    CREATE TABLE dag_step (
        dag INTEGER NOT NULL REFERENCES dag_version (key),
        position INTEGER NOT NULL,
        needs INTEGER NOT NULL,
        PRIMARY KEY (dag, position)
    ) STRICT, WITHOUT ROWID
    """,
    f"""
    CREATE TABLE run (
        key INTEGER PRIMARY KEY,
        tenant TEXT NOT NULL,
        id TEXT NOT NULL,
        token TEXT NOT NULL,
        dag INTEGER NOT NULL REFERENCES dag_version (key),
        inputs TEXT NOT NULL,
        priority INTEGER NOT NULL,
        run_key TEXT NOT NULL,
        actor TEXT NOT NULL,
        isolation TEXT NOT NULL,
        note TEXT,
        created_us INTEGER NOT NULL,
        state TEXT NOT NULL CHECK (state IN ({_STATES})),
        reason TEXT,
        received INTEGER NOT NULL,
        queued INTEGER NOT NULL,
        executing INTEGER NOT NULL,
        awaiting_tool INTEGER NOT NULL,
        awaiting_user INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        started INTEGER NOT NULL,
        cancelled INTEGER NOT NULL,
        stopping INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        time_us INTEGER NOT NULL,
        started_us INTEGER,
        ended_us INTEGER,
        outcome TEXT,
        outputs TEXT,
        reproducible INTEGER,
        UNIQUE (tenant, id)
    ) STRICT
    """,
    "CREATE INDEX run_unfinished ON run (key) WHERE ended_us IS NULL",
    "CREATE INDEX run_latest ON run (tenant, key)",
    """
    CREATE TABLE caller_key (
        tenant TEXT NOT NULL,
        dag TEXT NOT NULL,
        key TEXT NOT NULL,
        request TEXT NOT NULL,
        run TEXT NOT NULL,
        PRIMARY KEY (tenant, dag, key)
    ) STRICT, WITHOUT ROWID
    """,
    f"""
    CREATE TABLE step (
        run INTEGER NOT NULL REFERENCES run (key),
        position INTEGER NOT NULL,
        state TEXT NOT NULL CHECK (state IN ({_STATES})),
        reason TEXT,
        cause TEXT,
        attempts INTEGER NOT NULL DEFAULT 0,
        failures INTEGER NOT NULL DEFAULT 0,
        circumstances INTEGER NOT NULL DEFAULT 0,
        fence INTEGER NOT NULL DEFAULT 1,
        worker TEXT,
        until_us INTEGER,
        step_hash TEXT,
        output TEXT,
        failure TEXT,
        error TEXT,
        environment TEXT,
        remaining INTEGER NOT NULL,
        failed_needs INTEGER NOT NULL DEFAULT 0,
        skipped_needs INTEGER NOT NULL DEFAULT 0,
        unchosen INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (run, position)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX step_due ON step (until_us) WHERE until_us IS NOT NULL",
    """
    CREATE TABLE queue (
        tenant TEXT NOT NULL,
        priority INTEGER NOT NULL,
        run INTEGER NOT NULL,
        position INTEGER NOT NULL,
        PRIMARY KEY (tenant, priority, run, position)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE event (
        run INTEGER NOT NULL REFERENCES run (key),
        sequence INTEGER NOT NULL,
        time_us INTEGER NOT NULL,
        actor TEXT NOT NULL,
        type TEXT NOT NULL,
        step TEXT,
        data TEXT,
        PRIMARY KEY (run, sequence)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE event_data (
        key INTEGER PRIMARY KEY,
        run INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        data TEXT NOT NULL,
        UNIQUE (run, sequence)
    ) STRICT
    """,
    """
    CREATE TABLE payload (
        key INTEGER PRIMARY KEY,
        tenant TEXT NOT NULL,
        digest TEXT NOT NULL,
        body BLOB NOT NULL,
        UNIQUE (tenant, digest)
    ) STRICT
    """,
)


def upgrade() -> None:
    """Create the first schema."""
    for statement in _TABLES:
        op.execute(statement)


def downgrade() -> None:
    """History is append-only: there is no way back."""
    raise RuntimeError("a store is never downgraded; restore a copy made before the upgrade")
