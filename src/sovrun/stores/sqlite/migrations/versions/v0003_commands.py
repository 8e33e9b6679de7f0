"""The command journal, the gates' settings, what commands made, and the ledgers of embedded providers.

A command's row is what is known of it; `command_event` is its history and only grows.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_STATEMENTS = (
    "DROP TABLE worker",  # nothing was ever written to it
    "ALTER TABLE run ADD COLUMN repeat_effects TEXT",
    # One number for (run, sequence): half the pages of a commit were those of the clustered table of events.
    """
    CREATE TABLE event_log (
        key INTEGER PRIMARY KEY,
        run INTEGER GENERATED ALWAYS AS (key >> 32) VIRTUAL,
        sequence INTEGER GENERATED ALWAYS AS (key & 4294967295) VIRTUAL,
        time_us INTEGER NOT NULL,
        actor TEXT NOT NULL,
        type TEXT NOT NULL,
        step TEXT,
        data TEXT
    ) STRICT
    """,
    """
    INSERT INTO event_log (key, time_us, actor, type, step, data)
    SELECT run << 32 | sequence, time_us, actor, type, step, data FROM event ORDER BY run, sequence
    """,
    "DROP TABLE event",
    "ALTER TABLE event_log RENAME TO event",
    """
    CREATE TABLE command (
        key INTEGER PRIMARY KEY,
        tenant TEXT NOT NULL,
        id TEXT NOT NULL,
        kind TEXT NOT NULL,
        version INTEGER NOT NULL,
        command_key TEXT NOT NULL,
        adapter TEXT NOT NULL,
        mode TEXT NOT NULL,
        payload TEXT NOT NULL,
        actor TEXT NOT NULL,
        opens INTEGER NOT NULL,
        symbol TEXT,
        notional TEXT,
        target TEXT,
        run TEXT,
        step TEXT,
        position INTEGER,
        fingerprint TEXT NOT NULL,
        state TEXT NOT NULL,
        revision INTEGER NOT NULL,
        created_us INTEGER NOT NULL,
        due_us INTEGER,
        reason TEXT,
        gate TEXT,
        parked INTEGER NOT NULL,
        resend INTEGER NOT NULL,
        sends INTEGER NOT NULL,
        looks INTEGER NOT NULL,
        handler TEXT,
        response TEXT,
        resource TEXT,
        sent_us INTEGER,
        first_sent_us INTEGER,
        reached_us INTEGER,
        unknown_us INTEGER,
        ended_us INTEGER,
        UNIQUE (tenant, id)
    ) STRICT
    """,
    "CREATE INDEX command_due ON command (due_us) WHERE due_us IS NOT NULL",
    "CREATE INDEX command_sent ON command (tenant, adapter, first_sent_us) WHERE first_sent_us IS NOT NULL AND opens = 1",
    "CREATE INDEX command_run ON command (tenant, run) WHERE run IS NOT NULL",
    "CREATE INDEX command_state ON command (tenant, state, key)",
    """
    CREATE TABLE command_event (
        command INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        time_us INTEGER NOT NULL,
        actor TEXT NOT NULL,
        type TEXT NOT NULL,
        data TEXT NOT NULL,
        PRIMARY KEY (command, sequence)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE command_switch (
        tenant TEXT PRIMARY KEY,
        tripped INTEGER NOT NULL,
        actor TEXT NOT NULL,
        rationale TEXT NOT NULL,
        time_us INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE adapter_limit (
        tenant TEXT NOT NULL,
        adapter TEXT NOT NULL,
        limits TEXT NOT NULL,
        PRIMARY KEY (tenant, adapter)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE resource (
        tenant TEXT NOT NULL,
        adapter TEXT NOT NULL,
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        command TEXT NOT NULL,
        status TEXT NOT NULL,
        raw TEXT NOT NULL,
        body BLOB NOT NULL,
        live INTEGER NOT NULL,
        seen_us INTEGER NOT NULL,
        PRIMARY KEY (tenant, adapter, kind, id)
    ) STRICT
    """,
    "CREATE INDEX resource_live ON resource (tenant, adapter) WHERE live = 1",
    """
    CREATE TABLE drift (
        key INTEGER PRIMARY KEY,
        tenant TEXT NOT NULL,
        adapter TEXT NOT NULL,
        kind TEXT NOT NULL,
        resource TEXT NOT NULL,
        previous TEXT,
        provider TEXT,
        resolution TEXT NOT NULL,
        time_us INTEGER NOT NULL
    ) STRICT
    """,
    "CREATE INDEX drift_of ON drift (tenant, adapter, kind, resource, key)",
    """
    CREATE TABLE ledger (
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        position INTEGER NOT NULL,
        entry BLOB NOT NULL,
        PRIMARY KEY (tenant, name, position)
    ) STRICT
    """,
)


def upgrade() -> None:
    """Add the tables."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """History is append-only: there is no way back."""
    raise RuntimeError("a store is never downgraded; restore a copy made before the upgrade")
