"""Typed identifiers and their one text form.

Owns: the form of names (`Tenant`, `DagId`, `StepId`), of digests and of run ids.
Must not touch: how any of them is made up; randomness comes from `ports.Identity`.
"""

from __future__ import annotations

import re
from typing import Final, NewType

from sovrun.core.errors import InvalidIdentifier

Tenant = NewType("Tenant", str)
DagId = NewType("DagId", str)
StepId = NewType("StepId", str)
RunId = NewType("RunId", str)
Digest = NewType("Digest", str)
"""SHA-256 as 64 lowercase hexadecimal digits."""
Actor = NewType("Actor", str)
"""Who asked, as `scheme:name`; printable ASCII without `"` and `\\`, for example `local:alice` or `worker:host-1`."""
WorkerId = NewType("WorkerId", str)
"""Name and incarnation of one worker process, as `name/incarnation`; printable ASCII."""

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}", re.ASCII)
NAME_RULE: Final = "1 to 128 of A-Z a-z 0-9 _ -, not beginning with a digit or -"
_RUN_ID: Final = re.compile(r"[0-9a-f]{32}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_KEY: Final = re.compile(r"[\x20-\x7e]{1,512}")


def require_name(text: str, what: str) -> str:
    """Return `text` when it is a legal name of a tenant, DAG or step, else raise `InvalidIdentifier`."""
    if NAME.fullmatch(text) is None:
        raise InvalidIdentifier(f"{what} {text[:140]!r} is not a legal name: {NAME_RULE}")
    return text


def tenant(text: str) -> Tenant:
    """Return `text` as a tenant's name. Raises: InvalidIdentifier."""
    return Tenant(require_name(text, "tenant"))


def run_id(text: str) -> RunId:
    """Return `text` as a run's id, 32 lowercase hexadecimal digits. Raises: InvalidIdentifier."""
    if _RUN_ID.fullmatch(text) is None:
        raise InvalidIdentifier(f"{text[:140]!r} is not a run id: 32 hexadecimal digits")
    return RunId(text)


def digest(text: str) -> Digest:
    """Return `text` as a digest, 64 lowercase hexadecimal digits. Raises: InvalidIdentifier."""
    if _DIGEST.fullmatch(text) is None:
        raise InvalidIdentifier(f"{text[:140]!r} is not a SHA-256 digest: 64 hexadecimal digits")
    return Digest(text)


def actor(text: str) -> Actor:
    """Return `text` as an actor; other characters become `?`, an empty text becomes `unknown`."""
    cleaned = re.sub(r"[^!-~]|[\"\\\\]", "?", text)[:256] or "unknown"
    return Actor(cleaned)


def idempotency_key(text: str) -> str:
    """Return `text` when it may serve as a caller's key. Raises: InvalidIdentifier."""
    if _KEY.fullmatch(text) is None:
        raise InvalidIdentifier("an idempotency key has 1 to 512 printable ASCII characters")
    return text
