"""Taking what a step left behind out of its work directory, as if every name and byte were chosen by an attacker.

Owns: `collect_outputs` (the files of an `argv` step), `collect_made` (files a function kept), and their caps.
Must not touch: anything that is not reached from the held directory descriptor, one name at a time and never
through a link. Nothing may be writing any more when this runs.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from sovrun.sandbox.beneath import open_beneath
from sovrun.sandbox.exchange import OUTPUTS_DIR
from sovrun.step import MADE, tree_manifest

DEPTH_MAX: Final = 32
_CHUNK: Final = 1 << 20
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY
_FILE: Final = os.O_RDONLY | os.O_NONBLOCK


class Refused(Exception):
    """Something in the work directory is not what may be taken out.

    Args:
        reason: one of `reasons.REASONS`.
    """

    def __init__(self, message: str, reason: str = "bad_output_file") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(slots=True)
class Spool:
    """Where files are copied to, and how much may still be.

    Args:
        folder, prefix: copies are `folder/prefix-DIGEST`.
        bytes_left, files_left: caps.
        made: of each digest taken, the size.
    """

    folder: Path
    prefix: str
    bytes_left: int
    files_left: int
    made: dict[str, int] = field(default_factory=dict)

    def path(self, digest: str) -> Path:
        """Return where the copy of a file lies."""
        return self.folder / f"{self.prefix}-{digest}"

    def take(self, parent: int, name: str, shown: str) -> tuple[str, int, bool]:
        """Copy one regular file; return its digest, size and whether its owner may execute it. Raises: Refused."""
        self._count(shown)
        descriptor, status = _open_file(parent, name, shown)
        part = self.folder / f"{self.prefix}-part"
        try:
            hashed, size = sha256(), 0
            with part.open("wb") as copy:
                while chunk := os.read(descriptor, _CHUNK):
                    size += len(chunk)
                    if size > self.bytes_left:
                        raise Refused("the step's files are larger than resources.disk", "disk_limit")
                    hashed.update(chunk)
                    copy.write(chunk)
        finally:
            os.close(descriptor)
        self._keep(part, hashed.hexdigest(), size)
        return hashed.hexdigest(), size, bool(status.st_mode & stat.S_IXUSR)

    def add(self, data: bytes) -> str:
        """Store a text of our own making; return its digest."""
        part = self.folder / f"{self.prefix}-part"
        part.write_bytes(data)
        digest = sha256(data).hexdigest()
        self._keep(part, digest, len(data))
        return digest

    def _keep(self, part: Path, digest: str, size: int) -> None:
        part.replace(self.path(digest))
        self.bytes_left -= size if digest not in self.made else 0
        self.made[digest] = size

    def _count(self, shown: str) -> None:
        self.files_left -= 1
        if self.files_left < 0:
            raise Refused(f"more files than resources.files allows, at {shown!r}", "disk_limit")


def _open_file(parent: int, name: str, shown: str) -> tuple[int, os.stat_result]:
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    _require_plain(status, shown)
    try:
        descriptor = open_beneath(parent, name, _FILE)
    except OSError as error:
        raise Refused(f"{shown!r} cannot be read: {error.strerror}") from None
    opened = os.fstat(descriptor)
    if (opened.st_dev, opened.st_ino) != (status.st_dev, status.st_ino):
        os.close(descriptor)
        raise Refused(f"{shown!r} changed while it was taken")
    return descriptor, opened


def _require_plain(status: os.stat_result, shown: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
        raise Refused(f"{shown!r} is {kind}; only regular files and directories are taken")
    if status.st_nlink != 1:
        raise Refused(f"{shown!r} is a hard link; copy the file instead")


def _open_directory(parent: int, name: str, shown: str) -> int:
    try:
        descriptor = open_beneath(parent, name, _DIRECTORY)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise Refused(f"{shown!r} lies on another file system") from None
        raise Refused(f"{shown!r} cannot be read as a directory: {error.strerror}") from None
    if (
        os.fstat(descriptor).st_dev != os.fstat(parent).st_dev
    ):  # where the kernel could not be asked to refuse it
        os.close(descriptor)
        raise Refused(f"{shown!r} lies on another file system")
    return descriptor


def _names(directory: int, shown: str) -> list[str]:
    names = os.listdir(directory)
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise Refused(f"{shown!r} holds a name that is not UTF-8: {name!r}") from None
    return sorted(names)


def _is_directory(parent: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _walk(parent: int, name: str, shown: str, depth: int = 0) -> Iterator[tuple[int, str, str]]:
    """Yield descriptor of the directory, name and shown path of everything below that is not a directory."""
    if depth > DEPTH_MAX:
        raise Refused(f"{shown!r} lies deeper than {DEPTH_MAX} directories")
    directory = _open_directory(parent, name, shown)
    try:
        for child in _names(directory, shown):
            below = f"{shown}/{child}"
            if _is_directory(directory, child):
                yield from _walk(directory, child, below, depth + 1)
            else:
                yield directory, child, below
    finally:
        os.close(directory)


# --- what an `argv` step left in its outputs directory ----------------------------------------------------------------


def collect_outputs(work: int, spool: Spool, output_max: int) -> bytes:
    """Return the output of an `argv` step as a JSON object with one member for each entry of `outputs/`.

    `X.json` becomes member X with the value in it, another file NAME becomes `{"$file", "size"}`, a directory
    `{"$tree"}`.

    Args:
        work: descriptor of the work directory.
        output_max: bytes of the object.
    Raises: Refused.
    """
    members: dict[str, bytes] = {}
    outputs = _open_directory(work, OUTPUTS_DIR, OUTPUTS_DIR)
    try:
        for name in _names(outputs, OUTPUTS_DIR):
            shown = f"{OUTPUTS_DIR}/{name}"
            member, text = _member(outputs, name, shown, spool, output_max)
            if member in members:
                raise Refused(f"two entries of {OUTPUTS_DIR}/ would both become the member {member!r}")
            members[member] = text
            if sum(map(len, members.values())) > output_max:
                raise Refused(f"the output is larger than {output_max} bytes", "output_too_large")
    finally:
        os.close(outputs)
    return b"{" + b",".join(json.dumps(name).encode() + b":" + text for name, text in members.items()) + b"}"


def _member(outputs: int, name: str, shown: str, spool: Spool, output_max: int) -> tuple[str, bytes]:
    if _is_directory(outputs, name):
        entries = []
        for directory, child, below in _walk(outputs, name, shown):
            digest, size, executable = spool.take(directory, child, below)
            entries.append((below.removeprefix(shown + "/"), executable, digest, size))
        return name, _json({"$tree": spool.add(tree_manifest(entries))})
    if name.endswith(".json") and name != ".json":
        return name.removesuffix(".json"), _read_json(outputs, name, shown, output_max)
    digest, size, _ = spool.take(outputs, name, shown)
    return name, _json({"$file": digest, "size": size})


def _read_json(parent: int, name: str, shown: str, output_max: int) -> bytes:
    descriptor, status = _open_file(parent, name, shown)
    try:
        if status.st_size > output_max:
            raise Refused(f"{shown!r} is larger than {output_max} bytes", "output_too_large")
        with os.fdopen(os.dup(descriptor), "rb") as source:
            text = source.read(output_max + 1)
    finally:
        os.close(descriptor)
    try:
        json.loads(
            text.decode(), parse_constant=_no_constant
        )  # its text is kept, numbers as they were written
    except (ValueError, RecursionError) as error:
        raise Refused(f"{shown!r} is not JSON: {error}", "output_not_json") from None
    return text


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} has no JSON form")


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


# --- what a function kept ---------------------------------------------------------------------------------------------


def may_name_files(output: bytes) -> bool:
    """Return whether an output could name a file, so that the work directory has to be looked at."""
    return b'"$file"' in output or b'"$tree"' in output or b"\\u" in output


def collect_made(work: int, output: bytes, inputs: frozenset[str], spool: Spool) -> None:
    """Take the files that `output` names and that were not among the inputs.

    Args:
        work: descriptor of the work directory.
        inputs: digests of the files and directories that the step was given.
    Raises: Refused when a file that is named was not kept, or is not what its name says.
    """
    try:
        value = json.loads(output)
    except (ValueError, RecursionError) as error:
        raise Refused(f"the returned text is not JSON: {error}", "output_not_json") from None
    wanted = [(kind, digest) for kind, digest in _named(value) if digest not in inputs]
    if not wanted:
        return
    made = -1
    try:
        made = _open_made(work)
        for kind, digest in wanted:
            _take_named(made, digest, spool)
            if kind == "$tree":
                for _, _, member, size in _tree_members(spool.path(digest)):
                    _take_named(made, member, spool)
                    if spool.made[member] != size:
                        raise Refused(f"the directory {digest[:12]}... gives a file another size than it has")
    finally:
        if made >= 0:
            os.close(made)


def _open_made(work: int) -> int:
    descriptor = os.dup(work)
    for name in MADE.split("/"):
        try:
            below = _open_directory(descriptor, name, MADE)
        except Refused:
            raise Refused("the step names a file that it did not keep; use sovrun.step.keep_file") from None
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


def _take_named(made: int, digest: str, spool: Spool) -> None:
    if digest in spool.made:
        return
    try:
        found, _, _ = spool.take(made, digest, digest)
    except FileNotFoundError:
        raise Refused(
            f"the step names the file {digest[:12]}..., which it neither kept nor was given; use keep_file"
        ) from None
    if found != digest:
        raise Refused(f"the kept file {digest[:12]}... was changed afterwards")


def _named(value: Any) -> list[tuple[str, str]]:
    """Return kind and digest of every file and directory that a value names, in order."""
    found: list[tuple[str, str]] = []
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            for kind, keys in (("$file", {"$file", "size"}), ("$tree", {"$tree"})):
                digest = item.get(kind)
                if set(item) == keys and isinstance(digest, str) and _DIGEST.fullmatch(digest):
                    found.append((kind, digest))
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    return found


def _tree_members(path: Path) -> list[tuple[str, bool, str, int]]:
    """Return the entries of a directory's list, which must be exactly as we would write it. Raises: Refused."""
    data = path.read_bytes()
    try:
        entries = [tuple(entry) for entry in json.loads(data)["files"]]
        well_formed = all(_is_entry(entry) for entry in entries) and tree_manifest(entries) == data
    except (ValueError, TypeError, KeyError, RecursionError):
        well_formed = False
    paths = {entry[0] for entry in entries} if well_formed else set()
    nested = any(path[:end] in paths for path in paths for end in _slashes(path))
    if not well_formed or nested or len(paths) != len(entries):
        raise Refused("a returned directory's list is not well-formed; use sovrun.step.keep_tree")
    return entries


def _slashes(path: str) -> list[int]:
    return [position for position, character in enumerate(path) if character == "/"]


def _is_entry(entry: tuple[Any, ...]) -> bool:
    if [type(part) for part in entry] != [str, bool, str, int]:
        return False
    path, _, digest, size = entry
    parts = path.split("/")
    return (
        size >= 0
        and _DIGEST.fullmatch(digest) is not None
        and "\0" not in path
        and not any(part in ("", ".", "..") for part in parts)
    )
