"""What of a resource differs, and when each provider was last compared."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_STATEMENTS = (
    "ALTER TABLE drift ADD COLUMN changes TEXT NOT NULL DEFAULT '{}'",
    """
    CREATE TABLE comparison (
        tenant TEXT NOT NULL,
        adapter TEXT NOT NULL,
        unreachable TEXT,
        compared_us INTEGER NOT NULL,
        tried_us INTEGER NOT NULL,
        PRIMARY KEY (tenant, adapter)
    ) STRICT, WITHOUT ROWID
    """,
)


def upgrade() -> None:
    """Add the column and the table."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """History is append-only: there is no way back."""
    raise RuntimeError("a store is never downgraded; restore a copy made before the upgrade")
