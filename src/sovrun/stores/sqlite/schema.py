"""Opening the file: connections, pragmas, the owner's lock, and the schema's version.

Owns: what a connection looks like, `OwnerLock`, `upgrade`. Alembic and SQLAlchemy are loaded only when a file is new or
old, because they take longer to import than most runs.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Final

from sovrun.core.errors import StoreOwned, StoreUnavailable, StoreVersion

HEAD: Final = "0001"
"""The newest version of the schema that this program knows."""

APPLICATION_ID: Final = 0x534F5652
"""Marks a file as a Sovrun store ("SOVR")."""


class OwnerLock:
    """The right of one process to write a store, held until `release` or the end of the process."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".lock")
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unavailable(path, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(self._file, 64).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise StoreOwned(
                f"{path} is owned by process {owner}",
                hint="wait until it ends; reading (runs, show, events) works beside it",
                owner=owner,
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the right back."""
        os.close(self._file)


def connect_owner(path: Path) -> sqlite3.Connection:
    """Return the one writing connection; the caller holds the lock. Raises: StoreUnavailable, StoreVersion."""
    new = not path.exists() or path.stat().st_size == 0
    try:
        connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
        if new:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(
            "PRAGMA foreign_keys = OFF"
        )  # one owner writes; the conformance suite holds the relations
        connection.execute("PRAGMA cache_size = -65536")
        version = _version(connection, path)
    except sqlite3.Error as error:
        raise _unavailable(path, error) from error
    if version != HEAD:
        connection.close()
        upgrade(path)
        return connect_owner(path)
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """Return a connection that can only read. Raises: StoreUnavailable, StoreVersion."""
    if not path.exists():
        raise StoreUnavailable(f"there is no store at {path}", hint="`sovrun run` makes one")
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        connection.execute("PRAGMA busy_timeout = 5000")
        version = _version(connection, path)
    except sqlite3.Error as error:
        raise _unavailable(path, error) from error
    if version != HEAD:
        connection.close()
        raise StoreVersion(
            f"{path} has schema {version or 'none'}, this program reads {HEAD}",
            hint="a command that writes (`sovrun run`, `sovrun resume`) upgrades it",
        )
    return connection


def _version(connection: sqlite3.Connection, path: Path) -> str | None:
    """Return the schema's version, None for an empty file. Raises: StoreVersion."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute(
        "SELECT count(*) FROM sqlite_master WHERE name = 'alembic_version'"
    ).fetchone()[0]
    if application != APPLICATION_ID:
        raise StoreVersion(f"{path} is not a Sovrun store", hint="name another file")
    if not tables:
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    version = None if row is None else str(row[0])
    if version is not None and version > HEAD:
        raise StoreVersion(
            f"{path} has schema {version}, newer than {HEAD} of this program", hint="install a newer Sovrun"
        )
    return version


def upgrade(path: Path, revision: str = HEAD) -> None:
    """Bring the schema of a file to `revision`; all of a migration happens or none of it. Raises: StoreUnavailable."""
    import sqlalchemy  # noqa: PLC0415 -- see the module's docstring
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    engine = sqlalchemy.create_engine(f"sqlite:///{path}", poolclass=sqlalchemy.pool.NullPool)

    # The driver's own transaction handling commits before DDL; SQLAlchemy's documentation gives this way round it.
    @sqlalchemy.event.listens_for(engine, "connect")
    def _no_implicit_transactions(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def _begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise _unavailable(path, error) from error
    finally:
        engine.dispose()


def _unavailable(path: Path, error: Exception) -> StoreUnavailable:
    return StoreUnavailable(f"{path}: {error}", hint="check the path, its permissions and the free space")
