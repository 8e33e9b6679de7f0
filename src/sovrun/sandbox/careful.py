"""What surrounds the execution of steps that have secrets, are reproducible or are verified; all others pass by it.

Owns: `CarefulExecutor`: where a step's secrets come from, what of them may come back (nothing), and running a step twice.
Must not touch: processes. The executor within it hands the values over and keeps them out of what is printed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from sovrun.core.canonical import canonical, parse, sha256_hex
from sovrun.core.errors import InvalidValue
from sovrun.ports import Executor, Failed, Succeeded, Task
from sovrun.sandbox.redaction import Redaction
from sovrun.sandbox.secrets import NoSecret, SecretSources

_CHUNK: Final = 1 << 20


class CarefulExecutor:
    """Executes steps by another executor, which gets their secrets with them."""

    def __init__(self, inner: Executor, sources: SecretSources) -> None:
        self.isolation = inner.isolation
        self.inline = inner.inline
        self.environment = inner.environment
        self._inner = inner
        self._sources = sources

    def execute(self, task: Task) -> Awaitable[Succeeded | Failed]:
        """See `Executor.execute`."""
        if task.secrets or task.reproducible or task.verified:
            return self._execute(task)
        return self._inner.execute(task)

    async def close(self) -> None:
        """See `Executor.close`."""
        await self._inner.close()

    async def _execute(self, task: Task) -> Succeeded | Failed:
        if task.reproducible and self.isolation != "sandbox":
            message = f"{self.isolation} cannot fix the addresses and the environment of a step"
            return Failed("reproducible_unavailable", message, circumstance=True, retryable=False)
        try:
            secrets = self._sources.values(task.tenant, task.secrets)
        except NoSecret as missing:
            return missing.failure
        run = replace(task, secret_values=secrets)
        outcome = await self._inner.execute(run)
        if task.verified and isinstance(outcome, Succeeded):
            outcome = await self._verified(run, outcome)
        if not secrets:
            return outcome
        if isinstance(outcome, Failed):
            return _without(outcome, Redaction(secrets.values()))
        return await asyncio.to_thread(_refused_with, outcome, secrets) or outcome

    async def _verified(self, task: Task, first: Succeeded) -> Succeeded | Failed:
        """Run a step again and return its first outcome when the second is the same."""
        try:
            second = await self._inner.execute(task)
        except asyncio.CancelledError:
            _discard(first)
            raise
        both = first.connections + second.connections
        if isinstance(second, Failed):
            _discard(first)
            second = replace(second, connections=both)
            if second.circumstance:
                return second
            message = f"the first run returned {_digest(first)}, the second failed: {second.reason}: {second.message}"
            return replace(second, reason="not_reproducible", message=message, retryable=False)
        digests = _digest(first), _digest(second)
        if digests[0] == digests[1]:
            _discard(second, but=first)
            return replace(first, connections=both)
        _discard(first)
        _discard(second)
        return Failed(
            "not_reproducible",
            f"two runs returned different outputs: {digests[0]} and {digests[1]}",
            retryable=False,
            log=first.log + second.log,
            usage=second.usage,
            connections=both,
            walls=second.walls,
        )


def _digest(outcome: Succeeded) -> str:
    """Return the digest of an output's canonical form, of which the record is made; of its bytes when it has none."""
    with suppress(InvalidValue):
        return sha256_hex(canonical(parse(outcome.output)))
    return sha256_hex(outcome.output)


def _without(failed: Failed, redaction: Redaction) -> Failed:
    """Return a failure that tells nothing of the values."""
    return replace(
        failed,
        message=redaction.text(failed.message),
        error=None if failed.error is None else redaction.text(failed.error),
        traceback=None if failed.traceback is None else redaction.text(failed.traceback),
    )


def _refused_with(outcome: Succeeded, secrets: dict[str, bytes]) -> Failed | None:
    """Return the refusal of an output that holds a value, in itself or in a file; None when there is none."""
    for name, value in secrets.items():
        redaction = Redaction([value])
        place = "the output" if redaction.is_in(outcome.output) else None
        for made in outcome.made:
            if place is None and redaction.is_in_chunks(_chunks(made.path)):
                place = "a file that it returned"
        if place is not None:
            _discard(outcome)
            return Failed(
                "secret_in_output",
                f"{place} holds the value of the secret {name!r}; outputs are recorded, so it was not kept",
                retryable=False,
                log=outcome.log,
                usage=outcome.usage,
                connections=outcome.connections,
                walls=outcome.walls,
            )
    return None


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _discard(outcome: Succeeded, but: Succeeded | None = None) -> None:
    """Remove the files of an outcome, except those that are another's, too."""
    kept = set() if but is None else {made.path for made in but.made}
    for made in outcome.made:
        if made.path not in kept:
            made.path.unlink(missing_ok=True)
