"""Opening the file: connections, pragmas, the owner's lock, and the schema's version.

Owns: what a connection looks like, `OwnerLock`, `upgrade`. Alembic and SQLAlchemy are loaded only when a file is new or
old, because they take longer to import than most runs.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Final

from sovrun.core.errors import SovrunError, StoreOwned, StoreUnavailable, StoreVersion

HEAD: Final = "0005"
"""The newest version of the schema that this program knows."""

APPLICATION_ID: Final = 0x534F5652
"""Marks a file as a Sovrun store ("SOVR")."""


_CANNOT_MAKE_FILES: Final = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})


class OwnerLock:
    """The right of one process to write a store, held until `release` or the end of the process."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".lock")
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _refusal(path, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(self._file, 64).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise _owned(path, owner) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        _held.add(self._file)

    def release(self) -> None:
        """Give the right back; a forked child has none."""
        if self._file in _held:
            _held.remove(self._file)
            os.close(self._file)


_held: Final[set[int]] = set()
"""Descriptors of the locks that this process holds."""


def _leave_to_parent() -> None:
    """Let go in a forked child, whatever it does then: the right is the parent's, and ends with the parent."""
    while _held:
        os.close(_held.pop())


# A lock belongs to the open file, which a child shares: a daemon that a step in this process leaves behind would keep it.
os.register_at_fork(after_in_child=_leave_to_parent)


def _owned(path: Path, owner: str) -> StoreOwned:
    """Return the refusal that names who has the lock, and says so where the name is of nobody."""
    if owner.isdigit() and not Path("/proc", owner).exists():
        return StoreOwned(
            f"{path} was owned by process {owner}, which has ended; something that it started still holds the lock",
            hint=f"`fuser {path.name}.lock` in its directory names it; end that process",
            owner=owner,
        )
    return StoreOwned(
        f"{path} is owned by process {owner}",
        hint="where that is a server (`sovrun up`), all but `up` and `resume` goes through it; else wait until it ends: "
        "reading (runs, show, events) works beside it",
        owner=owner,
    )


def owner_of(path: Path) -> int | None:
    """Return the process that has the right to write a store, None when there is none or it has ended.

    It is not asked for with the lock itself: to hold that, for however short, would refuse a server that starts.
    """
    with suppress(OSError, ValueError):
        owner = int(path.with_name(path.name + ".lock").read_text())
        return owner if Path("/proc", str(owner)).exists() else None
    return None


def connect_owner(path: Path) -> sqlite3.Connection:
    """Return the one writing connection; the caller holds the lock. Raises: StoreUnavailable, StoreVersion."""
    try:
        new = not path.exists() or path.stat().st_size == 0
        connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
    except (OSError, sqlite3.Error) as error:
        raise _refusal(path, error) from error
    try:
        connection.execute("PRAGMA busy_timeout = 5000")
        if new:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        version = _version(
            connection, path
        )  # before anything is changed in a file that may be someone else's
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StoreUnavailable(
                f"{path} cannot be written beside readers: its journal mode stays {mode!r}",
                hint="put the store on a local file system",
            )
        connection.execute("PRAGMA synchronous = FULL")
        # Foreign keys are not checked: one owner writes, and the conformance suite holds the relations.
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("PRAGMA cache_size = -65536")
        if version == HEAD:
            return connection
    except sqlite3.Error as error:
        connection.close()
        raise _refusal(path, error) from error
    except SovrunError:
        connection.close()
        raise
    connection.close()
    upgrade(path)
    return connect_owner(path)


def connect_reader(path: Path) -> sqlite3.Connection:
    """Return a connection that can only read. Raises: StoreUnavailable, StoreVersion."""
    try:
        if not path.exists():
            raise StoreUnavailable(
                f"there is no store at {path}",
                hint="`sovrun run`, `submit` and `up` make one; --store names another",
            )
        try:
            return _checked_reader(path, "mode=ro")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _CANNOT_MAKE_FILES or _has_log(path):
                raise
            # Reading in WAL mode makes files beside the store, which a read-only disk does not allow. Where there is
            # no log, nobody owns the store and all of it is in the one file.
            return _checked_reader(path, "mode=ro&immutable=1")
    except (OSError, sqlite3.Error) as error:
        raise _refusal(path, error) from error


def _has_log(path: Path) -> bool:
    log = path.with_name(path.name + "-wal")
    return log.exists() and log.stat().st_size > 0


def _checked_reader(path: Path, query: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{query}", uri=True, isolation_level=None)
    try:
        connection.execute("PRAGMA busy_timeout = 5000")
        version = _version(connection, path)
        if version == HEAD:
            return connection
        raise StoreVersion(
            f"{path} has schema {version or 'none'}, this program reads {HEAD}",
            hint=f"`sovrun resume --store {shlex.quote(f'sqlite:{path}')}` upgrades it and goes on with what was"
            " interrupted; to read it as it is, upgrade a copy, or read it with the Sovrun that wrote it",
        )
    except (sqlite3.Error, SovrunError):
        connection.close()
        raise


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
        raise _refusal(path, error) from error
    finally:
        engine.dispose()


def _refusal(path: Path, error: Exception) -> SovrunError:
    if isinstance(error, sqlite3.Error) and error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
        return StoreVersion(f"{path} is not a Sovrun store", hint="name another file")
    return StoreUnavailable(f"{path}: {error}", hint="check the path, its permissions and the free space")
