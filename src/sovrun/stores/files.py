"""File contents on a local disk: code snapshots, input files and directories, large payloads.

Owns: `FileStore` and the layout of its directory:
`blobs/TENANT/xx/SHA256` (files and large payloads), `trees/TENANT/SHA256` (where a directory lies and what it looked
like), `code/SHA256/` (snapshots), `spool/` (files on their way in). Everything is written under another name, synced,
then renamed, so a name that exists holds all of its content. Only `logs/TENANT/RUN/STEP/ATTEMPT.ndjson` grows where it lies.
Must not touch: the database.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Final

from sovrun.core.canonical import canonical, decode
from sovrun.core.errors import CodeUnavailable, FileUnavailable, PayloadTooLarge, StoreUnavailable
from sovrun.core.identity import CodeFile, TreeFile, code_digest, tree_manifest
from sovrun.core.ids import Digest, RunId, StepId, Tenant
from sovrun.ports import Code, MadeFile
from sovrun.stores import listing as listings
from sovrun.stores.listing import Entry, UnusableTree

CODE_FILES_MAX: Final = 10_000
CODE_BYTES_MAX: Final = 256 << 20
TREE_FILES_MAX: Final = 1_000_000
TREE_BYTES_MAX: Final = 1 << 40
FILE_BYTES_MAX: Final = 1 << 40


class FileStore:
    """Implements `ports.Files` in one directory."""

    def __init__(self, root: Path, *, code_files_max: int = CODE_FILES_MAX) -> None:
        """Args: code_files_max: files that the code of one DAG may have."""
        self._root = root
        self._logs = f"{root}/logs"
        self._code_files_max = code_files_max
        self._checked_code: set[Digest] = set()

    @property
    def spool(self) -> Path:
        """A directory for files on their way in, on the same file system."""
        with self._disk():
            path = self._root / "spool"
            self._make(path)
            return path

    # --- files and large payloads -----------------------------------------------------------------------------------

    def take_in(self, tenant: Tenant, path: Path) -> dict[str, object]:
        """See `Files.take_in`."""
        if path.is_dir():
            return {"$tree": self._take_tree(tenant, path)}
        try:
            with path.open("rb") as source:
                size = os.fstat(source.fileno()).st_size
                if size > FILE_BYTES_MAX:
                    raise PayloadTooLarge(f"{path} has {size:,} bytes; the limit is {FILE_BYTES_MAX:,}")
                if not path.is_file():
                    raise FileUnavailable(f"{path} is neither a file nor a directory")
                with self._disk(), tempfile.NamedTemporaryFile(dir=self.spool, delete=False) as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)
        except OSError as error:
            raise FileUnavailable(f"{path}: {error.strerror or error}") from error
        made = Path(copy.name)
        with self._disk(), made.open("rb") as file:
            digest = Digest(file_digest(file, "sha256").hexdigest())
            size = os.fstat(file.fileno()).st_size
        self.adopt(tenant, MadeFile(digest, size, made))
        return {"$file": digest, "size": size}

    def put(self, tenant: Tenant, digest: Digest, body: bytes) -> None:
        """See `Files.put`."""
        if self._blob(tenant, digest).exists():
            return
        with self._disk(), tempfile.NamedTemporaryFile(dir=self.spool, delete=False) as file:
            file.write(body)
        self.adopt(tenant, MadeFile(digest, len(body), Path(file.name)))

    def adopt(self, tenant: Tenant, made: MadeFile) -> None:
        """See `Files.adopt`."""
        target = self._blob(tenant, made.digest)
        with self._disk():
            if target.exists():
                made.path.unlink()
                return
            made.path.chmod(0o444)
            _sync(made.path)
            self._make(target.parent)
            made.path.rename(target)
            _sync(target.parent)

    def get(self, tenant: Tenant, digest: Digest) -> bytes | None:
        """See `Files.get`."""
        with self._disk():
            try:
                return self._blob(tenant, digest).read_bytes()
            except FileNotFoundError:
                return None

    def locate(self, tenant: Tenant, digest: Digest) -> Path:
        """See `Files.locate`."""
        blob = self._blob(tenant, digest)
        record = self._root / "trees" / tenant / digest
        with self._disk():
            if record.exists():
                return _unchanged(digest, decode(record.read_bytes()))
            if blob.exists():
                return self._unfolded(tenant, digest, blob) if _is_manifest(blob) else blob
        raise FileUnavailable(
            f"file {digest} is not kept for tenant {tenant}", hint="give the file again as an input"
        )

    def log(self, tenant: Tenant, run: RunId, step: StepId, attempt: int) -> str:
        """See `Files.log`."""
        return f"{self._logs}/{tenant}/{run}/{step}/{attempt}.ndjson"

    def _take_tree(self, tenant: Tenant, path: Path) -> Digest:
        root = path.resolve()
        try:
            listing = listings.entries(root, files_max=TREE_FILES_MAX, bytes_max=TREE_BYTES_MAX)
            digests = listings.hashes(root, listing)
        except (OSError, UnusableTree) as error:
            raise FileUnavailable(f"{path}: {error}") from error
        manifest = tree_manifest(
            TreeFile(entry.path, entry.executable, digest, entry.size)
            for entry, digest in zip(listing, digests, strict=True)
        )
        tree = Digest(sha256(manifest).hexdigest())
        self.put(tenant, tree, manifest)
        record = canonical(
            {
                "source": str(root),
                "files": [[e.path, e.executable, e.size, str(e.mtime_ns), e.link] for e in listing],
            }
        )
        with self._disk():
            target = self._root / "trees" / tenant / tree
            self._make(target.parent)
            self._write(target, record)
        return tree

    def _unfolded(self, tenant: Tenant, digest: Digest, manifest: Path) -> Path:
        """Return a directory with the content of a tree that a step returned."""
        target = self._root / "unfolded" / tenant / digest
        if target.exists():
            return target
        with tempfile.TemporaryDirectory(dir=self.spool) as scratch:
            staged = Path(scratch) / "tree"
            staged.mkdir()
            for path, executable, member, _ in decode(manifest.read_bytes())["files"]:
                place = staged / path
                _make_readable(place.parent, staged)
                shutil.copyfile(self._blob(tenant, member), place)
                place.chmod(0o555 if executable else 0o444)
            self._make(target.parent)
            staged.rename(target)
        return target

    # --- code -------------------------------------------------------------------------------------------------------

    def take_code(self, root: Path, include: tuple[str, ...] | None, document: Path | None) -> Code:
        """See `Files.take_code`."""
        try:
            listing, digests = _code_files(root, include, document, self._code_files_max)
        except (OSError, UnusableTree) as error:
            raise CodeUnavailable(
                f"the code below {root}: {error}",
                hint="put the DAG into a directory of its own, or name its code with `code: [paths]`",
            ) from error
        digest = _digest_of(listing, digests)
        if not listing:
            return Code(digest, None)
        target = self._root / "code" / digest
        with self._disk():
            if not target.exists():
                self._snapshot(root, listing, digests, target)
        return self.code(digest)

    def code(self, digest: Digest) -> Code:
        """See `Files.code`."""
        if digest == code_digest(()):
            return Code(digest, None)
        path = self._root / "code" / digest
        if digest not in self._checked_code:
            try:
                listing = listings.entries(path, files_max=CODE_FILES_MAX, bytes_max=CODE_BYTES_MAX)
                found = _digest_of(listing, listings.hashes(path, listing))
            except (OSError, UnusableTree) as error:
                raise CodeUnavailable(f"the kept code {digest}: {error}") from error
            if found != digest:
                raise CodeUnavailable(
                    f"the kept code {digest} was changed; it is {found} now", hint=f"remove {path}"
                )
            self._checked_code.add(digest)
        return Code(digest, path)

    def _snapshot(self, root: Path, listing: list[Entry], digests: list[Digest], target: Path) -> None:
        with tempfile.TemporaryDirectory(dir=self.spool) as scratch:
            staged = Path(scratch) / "code"
            staged.mkdir()
            for entry, digest in zip(listing, digests, strict=True):
                place = staged / entry.path
                _make_readable(place.parent, staged)
                shutil.copyfile(root / entry.path, place)
                place.chmod(0o555 if entry.executable else 0o444)
                with place.open("rb") as copy:
                    if file_digest(copy, "sha256").hexdigest() != digest:
                        raise CodeUnavailable(
                            f"{root / entry.path} changed while it was read", hint="try again"
                        )
                _sync(place)
            self._make(target.parent)
            with suppress(OSError):  # another process of ours was first; `code` checks what lies there
                staged.rename(target)
            _sync(target.parent)

    # --- the directory ----------------------------------------------------------------------------------------------

    def _blob(self, tenant: Tenant, digest: Digest) -> Path:
        return self._root / "blobs" / tenant / digest[:2] / digest

    def _make(self, path: Path) -> None:
        if not path.is_dir():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            mark = self._root / listings.STORE_MARK
            if not mark.exists():
                mark.write_text("This directory belongs to a Sovrun store.\n")

    def _write(self, target: Path, body: bytes) -> None:
        with tempfile.NamedTemporaryFile(dir=self.spool, delete=False) as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).rename(target)
        _sync(target.parent)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Turn what the disk refuses into `StoreUnavailable`."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise StoreUnavailable(
                f"{error.filename or self._root}: {error.strerror or error}",
                hint=f"{'free space' if full else 'check the path and its permissions'}, then `sovrun resume`; "
                "nothing recorded is lost",
            ) from error


def _code_files(
    root: Path, include: tuple[str, ...] | None, document: Path | None, files_max: int
) -> tuple[list[Entry], list[Digest]]:
    found = listings.entries(root, files_max=files_max, bytes_max=CODE_BYTES_MAX) if include != () else []
    if include is not None:
        for wanted in include:
            if not (root / wanted).exists():
                raise UnusableTree(f"{wanted}, named by `code`, does not exist")
        found = [
            e for e in found if any(e.path == w or e.path.startswith(f"{w.rstrip('/')}/") for w in include)
        ]
    links = [entry.path for entry in found if entry.link is not None]
    if links:
        raise UnusableTree(f"{links[0]} is a symbolic link; code is made of regular files")
    own = listings.own_files(found, root)
    itself = None if document is None else document.resolve()
    code = [
        entry
        for entry in found
        if entry.path not in own
        and (root / entry.path).resolve() != itself
        and not listings.is_document(root / entry.path)
    ]
    return code, listings.hashes(root, code)


def _digest_of(listing: list[Entry], digests: list[Digest]) -> Digest:
    return code_digest(
        CodeFile(entry.path, entry.executable, digest) for entry, digest in zip(listing, digests, strict=True)
    )


def _is_manifest(blob: Path) -> bool:
    with blob.open("rb") as file:
        return (
            file.read(10) == b'{"files":['
            and file.seek(-35, os.SEEK_END) >= 0
            and b'"sovrun.tree"' in file.read()
        )


def _unchanged(digest: Digest, record: dict[str, object]) -> Path:
    """Return where a directory lies when nothing in it has changed since it was taken in."""
    source = Path(str(record["source"]))
    try:
        listing = listings.entries(source, files_max=TREE_FILES_MAX, bytes_max=TREE_BYTES_MAX)
    except (OSError, UnusableTree) as error:
        raise FileUnavailable(f"the directory {source}: {error}") from error
    now = [[e.path, e.executable, e.size, str(e.mtime_ns), e.link] for e in listing]
    then = record["files"]
    if now != then and isinstance(then, list):
        before = {tuple(item) for item in then}
        after = {tuple(item) for item in now}
        changed = sorted({str(item[0]) for item in before ^ after})
        raise FileUnavailable(
            f"{source} is no longer the directory {digest[:12]} that was taken in: {len(changed)} files differ, "
            f"the first is {changed[0]}",
            hint="submit the run again to take the directory in as it is now",
        )
    return source


def _make_readable(directory: Path, root: Path) -> None:
    """Make a directory below `root` that a step's own user can read, whatever this process's umask."""
    for path in [*reversed(directory.relative_to(root).parents), directory.relative_to(root)]:
        place = root / path
        place.mkdir(exist_ok=True)
        place.chmod(0o755)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class ScratchFiles:
    """Reads another file store and writes into one of its own: what a replay leaves behind stays out of the record."""

    def __init__(self, record: FileStore, scratch: FileStore) -> None:
        self._record = record
        self._scratch = scratch

    def take_in(self, tenant: Tenant, path: Path) -> dict[str, object]:
        """See `Files.take_in`."""
        return self._scratch.take_in(tenant, path)

    def put(self, tenant: Tenant, digest: Digest, body: bytes) -> None:
        """See `Files.put`."""
        self._scratch.put(tenant, digest, body)

    def adopt(self, tenant: Tenant, made: MadeFile) -> None:
        """See `Files.adopt`."""
        self._scratch.adopt(tenant, made)

    def get(self, tenant: Tenant, digest: Digest) -> bytes | None:
        """See `Files.get`."""
        return self._scratch.get(tenant, digest) or self._record.get(tenant, digest)

    def locate(self, tenant: Tenant, digest: Digest) -> Path:
        """See `Files.locate`."""
        try:
            return self._scratch.locate(tenant, digest)
        except FileUnavailable:
            return self._record.locate(tenant, digest)

    def log(self, tenant: Tenant, run: RunId, step: StepId, attempt: int) -> str:
        """See `Files.log`."""
        return self._scratch.log(tenant, run, step, attempt)

    def take_code(self, root: Path, include: tuple[str, ...] | None, document: Path | None) -> Code:
        """See `Files.take_code`."""
        return self._scratch.take_code(root, include, document)

    def code(self, digest: Digest) -> Code:
        """See `Files.code`."""
        try:
            return self._scratch.code(digest)
        except CodeUnavailable:
            return self._record.code(digest)
