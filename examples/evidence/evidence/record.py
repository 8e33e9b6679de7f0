"""RECORD files: the list of files a distribution installed, with their hashes.

Owns: reading one RECORD whatever it holds; a line that makes no sense is reported, not fatal.
Source: the "Recording installed projects" specification of the Python Packaging User Guide.
"""

from __future__ import annotations

import base64
import csv
import io
import posixpath
from dataclasses import dataclass

STRONG = frozenset({"sha256", "sha384", "sha512", "sha3_256", "sha3_384", "sha3_512", "blake2b", "blake2s"})
"""Hashes worth trusting; the specification forbids md5, sha1 and their like."""

WITHOUT_HASH = ("RECORD", "RECORD.jws", "RECORD.p7s")
"""Files of a `.dist-info` that cannot list their own hash."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a RECORD.

    Args:
        written: the path as the line gives it.
        path: the same within the environment, None when it leads outside.
        algorithm, digest: the hash in hex, None when the line has none.
    """

    written: str
    path: str | None
    algorithm: str | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """What a RECORD lists, and what is wrong with the lines it lists nothing by."""

    listed: tuple[Listed, ...]
    mistakes: tuple[str, ...]


class BadLine(ValueError):
    """A line of a RECORD does not say which file or which hash it means."""


def parse_record(data: bytes) -> Record:
    """Return what `data` lists; never raises."""
    listed: list[Listed] = []
    mistakes: list[str] = []
    rows = csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape"), newline=""), strict=True)
    while True:
        try:
            row = next(rows)
            if row:
                listed.append(_listed(row))
        except StopIteration:
            return Record(tuple(listed), tuple(mistakes))
        except (csv.Error, BadLine) as mistake:
            mistakes.append(f"line {rows.line_num}: {mistake}")


def _listed(row: list[str]) -> Listed:
    if len(row) != 3 or not row[0]:
        raise BadLine("is not a path, a hash and a size")
    written, hashed, _size = row
    if not hashed:
        return Listed(written, inside(written))
    algorithm, _, value = hashed.partition("=")
    if algorithm not in STRONG:
        raise BadLine("names a hash that is unknown or too weak")
    try:
        digest = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True).hex()
    except ValueError as error:
        raise BadLine("holds a hash that is not base64") from error
    return Listed(written, inside(written), algorithm, digest)


def inside(written: str) -> str | None:
    """Return the path within the environment that a RECORD means, None when it is absolute or climbs out."""
    path = posixpath.normpath(written)
    return None if path in {".", ".."} or path.startswith(("/", "../")) else path
