"""Settings are read here once, and the parts joined; nothing below sees a setting.

Owns: store addresses, the system's clock and identity, and how an engine, a reader and a replay are put together.
"""

from __future__ import annotations

import os
import pwd
import secrets
import socket
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sovrun.core.errors import FileUnavailable, InvalidSetting, StoreOwned, StoreUnavailable
from sovrun.core.ids import Actor, Digest, RunId, Tenant, WorkerId, actor
from sovrun.core.spec.document import parse_dag
from sovrun.core.spec.model import DagSpec
from sovrun.engine.desk import Desk
from sovrun.engine.engine import Engine
from sovrun.engine.handler import KnownDag, RunRequest, known_dag, registration_of, submission_of
from sovrun.engine.isolation import require_isolation
from sovrun.engine.replay import Recorded, RecordedClerk, Replay, recorded_run, replay
from sovrun.engine.worker import Worker
from sovrun.execution.adapter_set import PAPER_ALONE, AdapterSet, read_adapter_settings
from sovrun.execution.layer import CommandLayer
from sovrun.ports import Code, Executor
from sovrun.sandbox.caps import STEP_LIMITS, parse_caps
from sovrun.sandbox.careful import CarefulExecutor
from sovrun.sandbox.executor import SandboxExecutor
from sovrun.sandbox.in_process import InProcessExecutor
from sovrun.sandbox.network import AllowedEndpoint, parse_allowed
from sovrun.sandbox.secrets import SecretSource, SecretSources, parse_source, require_outside
from sovrun.sandbox.settings import from_environment
from sovrun.store.memory import MemoryStore
from sovrun.store.protocol import Store, Submitted
from sovrun.stores.files import FileStore, ScratchFiles
from sovrun.stores.remote.store import RemoteStore
from sovrun.stores.sqlite.reader import SqliteReader
from sovrun.stores.sqlite.schema import connect_reader
from sovrun.stores.sqlite.store import SqliteStore

STORE_VARIABLE: Final = "SOVRUN_STORE"
ISOLATIONS: Final = ("sandbox", "in-process")
DEFAULT_ISOLATION: Final = "sandbox"
DEFAULT_TENANT: Final = "default"
ALLOW_ENDPOINTS: Final = "SOVRUN_ALLOW_ENDPOINTS"
"""Environment variable: entries of the operator's list of endpoints, between spaces."""
SECRETS: Final = "SOVRUN_SECRETS"
"""Environment variable: the operator's sources of secrets, between spaces."""
DOCUMENT_BYTES_MAX: Final = 33 << 20
"""More than any document may have; the parser names the limit of each form."""


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        """See `Clock.now_us`."""
        return time.time_ns() // 1_000

    def elapsed_us(self) -> int:
        """See `Clock.elapsed_us`."""
        return time.monotonic_ns() // 1_000


class SystemIdentity:
    """UUIDv7 from the machine's clock and random source (RFC 9562)."""

    def fresh(self) -> str:
        """See `Identity.fresh`."""
        milliseconds = time.time_ns() // 1_000_000
        value = (
            milliseconds << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
        )
        return str(uuid.UUID(int=value))


def local_actor() -> Actor:
    """Return who runs this process, as `local:USER`."""
    uid = os.geteuid()
    try:
        return actor(f"local:{pwd.getpwuid(uid).pw_name}")
    except KeyError:
        return actor(f"local:uid-{uid}")


def worker_name() -> str:
    """Return the name of this process's worker: host and process."""
    return str(actor(f"{socket.gethostname()}-{os.getpid()}")).replace('"', "?").replace("\\", "?")


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """Where a store is: `path` None means in memory."""

    path: Path | None

    @classmethod
    def parse(cls, text: str | None) -> StoreAddress:
        """Return the address `memory:` or `sqlite:PATH`; None means the setting, else the user's own store.

        Raises: InvalidSetting.
        """
        text = text or os.environ.get(STORE_VARIABLE) or f"sqlite:{default_path()}"
        kind, separator, rest = text.partition(":")
        if kind == "memory" and separator and not rest:
            return cls(None)
        if kind == "sqlite" and rest:
            path = Path(rest).expanduser().absolute()
            if path.is_dir():
                raise InvalidSetting(
                    f"the store {text} is a directory", hint="name a file in it, as sqlite:DIR/sovrun.db"
                )
            return cls(path)
        raise InvalidSetting(f"{text!r} is no store", hint="use memory: or sqlite:PATH")

    def __str__(self) -> str:
        return "memory:" if self.path is None else f"sqlite:{self.path}"


def default_path() -> Path:
    """Return the file of the user's own store."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "sovrun" / "sovrun.db"


def files_of(path: Path) -> FileStore:
    """Return the file store that belongs to a database file."""
    return FileStore(path.with_name(path.name + ".files"))


def read_document(path: Path) -> DagSpec:
    """Return the DAG of a file. Raises: FileUnavailable, InvalidSpec."""
    return parse_dag(read_bounded(path, DOCUMENT_BYTES_MAX), name=str(path))


def read_bounded(path: Path, most: int) -> bytes:
    """Return up to `most` + 1 bytes of a regular file. Raises: FileUnavailable."""
    try:
        if path.is_dir():
            raise FileUnavailable(f"{path} is a directory; a file is wanted")
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise FileUnavailable(f"{path}: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine at work with what it stands on."""

    engine: Engine
    store: Store
    files: FileStore
    executor: Executor
    secrets: Sequence[SecretSource] = ()

    @property
    def isolation(self) -> str:
        """What its runs are isolated by."""
        return self.executor.isolation

    def load(self, path: Path, tenant: Tenant) -> KnownDag:
        """Return the DAG of a file with its code, kept as it is now.

        Raises: FileUnavailable, InvalidSpec, CodeUnavailable; InvalidSetting when a source of
            secrets lies within the code.
        """
        return load_dag(self.files, path, tenant, self.secrets)


def load_dag(files: FileStore, path: Path, tenant: Tenant, secrets: Sequence[SecretSource] = ()) -> KnownDag:
    """Return the DAG of a file with its code, kept as it is now. Raises: see `Opened.load`."""
    spec = read_document(path)
    require_outside(secrets, path.resolve().parent, spec.code)
    code = files.take_code(path.resolve().parent, spec.code, path)
    return known_dag(tenant, spec, code.digest, str(path.resolve()))


@contextmanager
def _file_store(address: StoreAddress) -> Iterator[FileStore]:
    if address.path is not None:
        yield files_of(address.path)
        return
    with tempfile.TemporaryDirectory(prefix="sovrun-") as scratch:
        yield FileStore(Path(scratch))


def allowed_endpoints(told: Sequence[str] = ()) -> tuple[AllowedEndpoint, ...]:
    """Return the operator's list: what a command was told, then $SOVRUN_ALLOW_ENDPOINTS. Raises: InvalidSetting."""
    return tuple(map(parse_allowed, [*told, *os.environ.get(ALLOW_ENDPOINTS, "").split()]))


def secret_sources(told: Sequence[str] = (), tenant: str = DEFAULT_TENANT) -> tuple[SecretSource, ...]:
    """Return the operator's sources of secrets: what a command was told, then $SOVRUN_SECRETS.

    A source that names nobody is that of `tenant`. Raises: InvalidSetting.
    """
    texts = [*told, *os.environ.get(SECRETS, "").split()]
    sources = tuple(parse_source(text, Tenant(tenant)) for text in texts)
    SecretSources(sources)  # refuses what reaches across tenants
    return sources


async def open_executor(
    isolation: str,
    slots: int,
    spool: Path,
    allow: Sequence[str] = (),
    secrets: Sequence[SecretSource] = (),
) -> Executor:
    """Return the executor of an isolation. Raises: IsolationUnavailable, InvalidSetting, StoreUnavailable.

    Args:
        allow: the operator's list of endpoints, as texts; secrets: where the values of secrets are looked for.
    """
    endpoints = allowed_endpoints(allow)
    sources = SecretSources(secrets)
    if isolation == "sandbox":
        caps = parse_caps(os.environ.get(STEP_LIMITS, ""))
        chosen = replace(from_environment(os.environ), endpoints=endpoints, caps=caps)
        try:
            sandbox = await SandboxExecutor.open(spool, chosen)
        except OSError as error:
            raise StoreUnavailable(
                f"{error.filename or spool}: {error.strerror or error}", hint="free space or restore access"
            ) from error
        return CarefulExecutor(sandbox, sources)
    if isolation == "in-process":
        return CarefulExecutor(InProcessExecutor(spool=spool, slots=slots), sources)
    raise _no_isolation(isolation)


def isolation_of(named: str | None) -> str:
    """Return the isolation that an option names, or the one where it names none. Raises: InvalidSetting."""
    if named is not None and named not in ISOLATIONS:
        raise _no_isolation(named)
    return named or DEFAULT_ISOLATION


def _no_isolation(named: str) -> InvalidSetting:
    return InvalidSetting(f"{named!r:.80} is no isolation", hint=f"use {' or '.join(ISOLATIONS)}")


ADAPTERS: Final = "SOVRUN_ADAPTERS"
"""The environment variable that names the file of the adapters' settings where no option does."""


def adapter_settings(path: Path | None) -> Mapping[str, Any]:
    """Return the settings of the adapters by name; where no file is named, of the embedded paper provider alone.

    Args:
        path: of the file; None means the one that the environment variable `SOVRUN_ADAPTERS` names.
    Raises: InvalidSetting.
    """
    named = path or (Path(os.environ[ADAPTERS]) if os.environ.get(ADAPTERS) else None)
    return PAPER_ALONE if named is None else read_adapter_settings(named)


def open_commands(store: Store, settings: Mapping[str, Any]) -> CommandLayer:
    """Return the command layer of a store that this process owns. Raises: InvalidSetting, InvalidIdentifier."""
    clock = SystemClock()
    adapters = AdapterSet.open(settings, ledger=store, clock=clock)
    return CommandLayer(store, adapters, clock, SystemIdentity())


@asynccontextmanager
async def open_engine(
    address: StoreAddress,
    *,
    isolation: str,
    slots: int,
    allow: Sequence[str] = (),
    secrets: Sequence[SecretSource] = (),
    adapters: Path | None = None,
) -> AsyncIterator[Opened]:
    """Open a store for writing and set an engine to work on it; `allow`, `secrets`: see `open_executor`.

    Args:
        adapters: the file of the adapters' settings; see `adapter_settings`.

    Raises: StoreOwned, StoreUnavailable, StoreVersion, IsolationUnavailable, InvalidSetting.
    """
    clock = SystemClock()
    settings = adapter_settings(adapters)
    isolation = isolation_of(isolation)
    allowed_endpoints(allow)  # what the operator has misspelt is said before anything is made
    with _file_store(address) as files:
        # The store first: where a server owns it, what this machine could isolate is of no matter.
        store: Store = (
            MemoryStore(clock) if address.path is None else SqliteStore.open_owner(address.path, clock)
        )
        try:
            commands = open_commands(store, settings)
            executor = await open_executor(isolation, slots, files.spool, allow, secrets)
        except BaseException:
            await store.close()
            raise
        async with Engine(
            *(store, files, executor, SystemIdentity()), slots=slots, name=worker_name(), commands=commands
        ) as engine:
            yield Opened(engine, store, files, executor, secrets)


@dataclass(frozen=True, slots=True)
class OpenedDesk:
    """A store that this process owns for as long as it takes to act on runs; nothing in it is executed."""

    store: Store
    files: FileStore
    desk: Desk


@asynccontextmanager
async def open_desk(address: StoreAddress) -> AsyncIterator[OpenedDesk]:
    """Open an existing store for acting on it, without setting an engine to work; what was interrupted stays so.

    Where a server owns the file, the acts go through its socket.
    Raises: InvalidSetting, StoreOwned, StoreUnavailable, StoreVersion.
    """
    path = _path_of(address)
    if not socket_of(path).exists():
        connect_reader(path).close()  # an owner would make a file that is not there, and say that it is empty
    store = _owned_or_served(path)
    files = files_of(path)
    try:
        yield OpenedDesk(store, files, Desk(store, files))
    finally:
        await store.close()


def _owned_or_served(path: Path) -> Store:
    """Return the store of a file: owned by this process, or through the socket of the server that owns it."""
    try:
        return SqliteStore.open_owner(path, SystemClock())
    except StoreOwned:
        if not socket_of(path).exists():
            raise
        return RemoteStore(socket_of(path))


def socket_of(path: Path) -> Path:
    """Return where a server that owns a database file listens."""
    return path.with_name(path.name + ".sock")


def is_served(address: StoreAddress) -> bool:
    """Return whether a server has left its socket beside a store; it may still be that nobody listens."""
    return address.path is not None and socket_of(address.path).exists()


async def _isolation_beside(store: RemoteStore, named: str | None) -> str:
    """Return the isolation of the server that owns a store. Raises: InvalidSetting when another is `named`."""
    given = await store.isolation()
    if named is not None:
        require_isolation(isolation_of(named), given)
    return given


@asynccontextmanager
async def open_worker(
    address: StoreAddress,
    *,
    isolation: str | None,
    slots: int,
    name: str | None = None,
    allow: Sequence[str] = (),
    secrets: Sequence[SecretSource] = (),
) -> AsyncIterator[Worker]:
    """Return a worker for a store that a server owns. Raises: InvalidSetting, IsolationUnavailable.

    Args:
        isolation: None means that of the server.
        name: of this life of the worker, by which its server knows that it is over; None makes one up.
        allow, secrets: see `open_executor`.
    """
    allowed_endpoints(allow)  # as in `open_engine`
    path = _path_of(address)
    files = files_of(path)
    store = RemoteStore(socket_of(path))
    try:
        isolation = await _isolation_beside(store, isolation)
        # With one slot, in-process steps would run on the very thread that is to show that the worker is alive.
        threads = max(2, slots) if isolation == "in-process" else slots
        executor = await open_executor(isolation, threads, files.spool, allow, secrets)
        called = WorkerId(name or f"{worker_name()}/{SystemIdentity().fresh()}")
        try:
            yield Worker(called, store, files, executor, slots=slots)
        finally:
            await executor.close()
    finally:
        await store.close()


@dataclass(frozen=True, slots=True)
class Submitting:
    """A store to which runs can be submitted, owned or through a server's socket; `isolation` is that of its runs."""

    store: Store
    files: FileStore
    isolation: str

    def load(self, path: Path, tenant: Tenant) -> KnownDag:
        """See `Opened.load`."""
        return load_dag(self.files, path, tenant)

    async def submit(self, request: RunRequest) -> Submitted:
        """Register the DAG and make the run. Raises: as `Engine.submit`."""
        await self.store.register(registration_of(request.dag, request.actor))
        submission, inputs = submission_of(request)
        if submission.inputs.body is None:
            self.files.put(submission.tenant, submission.inputs.digest, inputs)
        return await self.store.submit(submission)


@asynccontextmanager
async def open_submitting(address: StoreAddress, isolation: str | None = None) -> AsyncIterator[Submitting]:
    """Open a store, making it when it is new, for submitting runs that others execute.

    Args:
        isolation: of the runs; None means that of the server that executes them, else the default.
    Raises: InvalidSetting, StoreOwned, StoreUnavailable, StoreVersion.
    """
    path = _path_of(address)
    store = _owned_or_served(path)
    try:
        if isinstance(store, RemoteStore):
            isolation = await _isolation_beside(store, isolation)
        yield Submitting(store, files_of(path), isolation_of(isolation))
    finally:
        await store.close()


def _path_of(address: StoreAddress) -> Path:
    if address.path is None:
        raise InvalidSetting("memory: holds nothing beyond the process that made it", hint="use sqlite:PATH")
    return address.path


@asynccontextmanager
async def open_reader(address: StoreAddress) -> AsyncIterator[tuple[SqliteReader, FileStore]]:
    """Open a store for reading, beside its owner or without one. Raises: StoreUnavailable, StoreVersion."""
    path = _path_of(address)
    reader = SqliteReader.open(path)
    try:
        yield reader, files_of(path)
    finally:
        await reader.close()


async def replay_run(
    address: StoreAddress,
    tenant: Tenant,
    run: RunId,
    *,
    isolation: str | None,
    slots: int,
    recorded_code: bool,
) -> Replay:
    """Execute a recorded run again, on the code where it came from, or with `recorded_code` on the kept copy.

    Raises: NotFound, FileUnavailable, CodeUnavailable, IsolationUnavailable, StoreUnavailable.
    """
    async with open_reader(address) as (store, kept):
        recorded = await recorded_run(store, kept, tenant, run)
        with tempfile.TemporaryDirectory(prefix="sovrun-replay-") as directory:
            scratch_files = FileStore(Path(directory))
            files = ScratchFiles(kept, scratch_files)
            source = None if recorded_code else _source_of(recorded)
            code = _code_to_replay(files, recorded, source)
            executor = await open_executor(isolation or recorded.record.isolation, slots, scratch_files.spool)
            scratch = MemoryStore(SystemClock())
            clerk = RecordedClerk(scratch, files, executor.environment, recorded)
            engine = Engine(
                *(scratch, files, executor, SystemIdentity()), slots=slots, name=worker_name(), clerk=clerk
            )
            async with engine:
                return await replay(recorded, code, engine, scratch, local_actor(), code_kept=source is None)


def _source_of(recorded: Recorded) -> Path | None:
    """Return the document that a run was made from, None when its directory is gone."""
    source = Path(recorded.dag.source)
    return source if recorded.dag.source and source.parent.is_dir() else None


def _code_to_replay(files: ScratchFiles, recorded: Recorded, source: Path | None) -> Code:
    if source is not None:
        return files.take_code(source.parent, recorded.plan.spec.code, source)
    return files.code(Digest(recorded.dag.code))
