"""A value or document by its digest, with or without its bytes."""

from __future__ import annotations

from typing import NamedTuple

from sovrun.core.ids import Digest


class Payload(NamedTuple):
    """A value or document by its digest; `body` is None when it was put among the blobs before."""

    digest: Digest
    body: bytes | None
