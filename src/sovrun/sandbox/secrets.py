"""Where a worker finds the values of secrets: environment variables, a file, a directory of files.

Owns: the form of an operator's sources, and which tenant may read from which.
Must not touch: what is done with a value. No message here holds one, or anything else that a source holds.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sovrun.core.canonical import parse
from sovrun.core.errors import InvalidSetting, InvalidValue
from sovrun.core.ids import NAME, Tenant
from sovrun.ports import Failed
from sovrun.sandbox.redaction import VALUE_MIN, Redaction

VALUE_MAX: Final = 64 << 10
FILE_MAX: Final = 16 << 20
"""Bytes of a file that holds several secrets."""
ANY_TENANT: Final = "{tenant}"
"""What stands for the tenant's name in the place of a source that serves all of them."""
_FORM: Final = "write [TENANT=]env:PREFIX, [TENANT=]file:PATH or [TENANT=]dir:PATH"


@dataclass(frozen=True, slots=True)
class SecretSource:
    """One place in which values are looked for.

    Args:
        kind: `env`: the variable PLACE + reference; `file`: the member of the JSON object in the file PLACE; `dir`: the
            file of that name in the directory PLACE.
        tenant: who reads from it; None means everybody, each from a place of their own with `{tenant}` replaced.
    """

    kind: str
    place: str
    tenant: Tenant | None

    def __str__(self) -> str:
        return f"{'' if self.tenant is None else f'{self.tenant}='}{self.kind}:{self.place}"


class NoSecret(Exception):
    """A value cannot be had; `failure` says so without it."""

    def __init__(self, failure: Failed) -> None:
        super().__init__(failure.message)
        self.failure = failure


def parse_source(text: str, tenant: Tenant) -> SecretSource:
    """Return the source that a text such as `acme=dir:/run/secrets/acme` stands for.

    Args:
        tenant: whose it is when the text names nobody.
    Raises: InvalidSetting.
    """
    owner, separator, rest = text.partition("=")
    if not separator or NAME.fullmatch(owner) is None:
        owner, rest = "", text
    kind, _, place = rest.partition(":")
    if kind not in _READERS or not place:
        raise InvalidSetting(f"{text[:200]!r} is no source of secrets", hint=_FORM)
    serves_all = ANY_TENANT in place
    if serves_all and (owner or kind == "env"):
        why = "one tenant's variable could be another's" if kind == "env" else f"it is for {owner} only"
        raise InvalidSetting(
            f"the source of secrets {text[:200]!r} cannot hold {ANY_TENANT}: {why}", hint=_FORM
        )
    if kind != "env":
        place = os.path.abspath(os.path.expanduser(place))  # noqa: PTH100, PTH111 -- a text that may hold a placeholder
    return SecretSource(kind, place, None if serves_all else Tenant(owner or tenant))


def require_outside(sources: Sequence[SecretSource], folder: Path, include: Sequence[str] | None) -> None:
    """See to it that no source lies within a DAG's code, which is kept and shown to every step.

    Args:
        folder: the document's directory; include: what of it is code, None for all of it.
    Raises: InvalidSetting.
    """
    code = [os.path.realpath(folder / part) for part in ((".",) if include is None else include)]
    for source in sources:
        place = os.path.realpath(source.place.partition(ANY_TENANT)[0])
        if source.kind != "env" and any(place == part or place.startswith(f"{part}/") for part in code):
            raise InvalidSetting(
                f"the source of secrets {source} lies within the code of the DAG, which is kept and shown to every step",
                hint="move it elsewhere, or name the code with `code: [paths]` in the document",
            )


class SecretSources:
    """What an operator lets steps read, in the order in which it is looked through."""

    def __init__(self, sources: Sequence[SecretSource] = ()) -> None:
        """Raises: InvalidSetting when one tenant could reach what is another's."""
        self._sources = tuple(sources)
        for one in self._sources:
            for other in self._sources:
                if one.tenant != other.tenant and _overlap(one, other):
                    raise InvalidSetting(
                        f"the sources of secrets {one} and {other} overlap, and they are of different tenants",
                        hint="give each tenant a place of its own",
                    )

    def values(self, tenant: Tenant, wanted: Sequence[tuple[str, str]]) -> dict[str, bytes]:
        """Return the values of secrets, read now, by what the step calls them.

        Args:
            wanted: of each secret what the step calls it, and its reference.
        Raises: NoSecret.
        """
        return {name: self._value(tenant, reference) for name, reference in wanted}

    def _value(self, tenant: Tenant, reference: str) -> bytes:
        for source in self._sources:
            if source.tenant in (None, tenant):
                place = source.place if source.tenant else source.place.replace(ANY_TENANT, tenant)
                try:
                    value = _READERS[source.kind](place, reference)
                except (OSError, ValueError) as error:
                    why = error.strerror if isinstance(error, OSError) else str(error)
                    raise _unusable(
                        reference, f"its source of kind {source.kind} cannot be read: {why}"
                    ) from None
                if value is not None:
                    return _checked(reference, value)
        raise NoSecret(
            Failed(
                "secret_not_found",
                f"no source of secrets of this worker has {reference!r} for the tenant {tenant}",
                circumstance=True,
                retryable=False,
            )
        )


def without_values(
    text: str, sources: SecretSources, tenant: Tenant, wanted: Iterable[tuple[str, str]]
) -> str:
    """Return what a person wrote without the values of secrets, as far as these can be had.

    Args:
        wanted: the secrets in question, as for `SecretSources.values`.
    """
    values: list[bytes] = []
    for secret in wanted:
        with suppress(NoSecret):
            values += sources.values(tenant, [secret]).values()
    redaction = Redaction.of(values)
    return text if redaction is None else redaction.text(text)


def _overlap(one: SecretSource, other: SecretSource) -> bool:
    if one.kind == other.kind == "env":
        return one.place.startswith(other.place)
    return one.kind == other.kind and os.path.realpath(one.place) == os.path.realpath(other.place)


def _checked(reference: str, value: bytes) -> bytes:
    if len(value) < VALUE_MIN:
        raise _unusable(reference, f"it has less than {VALUE_MIN} bytes and cannot be told from other text")
    if len(value) > VALUE_MAX:
        raise _unusable(reference, f"it has more than {VALUE_MAX:,} bytes")
    return value


def _unusable(reference: str, why: str) -> NoSecret:
    message = f"the secret {reference!r} cannot be used: {why}"
    return NoSecret(Failed("secret_unusable", message, circumstance=True, retryable=False))


def _of_environment(prefix: str, reference: str) -> bytes | None:
    return os.environb.get(os.fsencode(prefix + reference))


def _of_file(path: str, reference: str) -> bytes | None:
    data = _read(path, FILE_MAX)
    if data is None:
        return None
    try:
        held: Any = parse(data)
    except InvalidValue:
        held = None  # what is wrong with it may quote it
    if not isinstance(held, Mapping):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 -- not a type within this program
    value = held.get(reference)
    if value is not None and not isinstance(value, str):
        raise ValueError("it is not a text")
    return None if value is None else value.encode("utf-8", "surrogatepass")


def _of_directory(folder: str, reference: str) -> bytes | None:
    value = _read(f"{folder}/{reference}", VALUE_MAX + 2)
    if value is None:
        return None
    # The end of line that editors and `echo` leave is no part of a token, and would hide it from who looks for its value.
    return value.removesuffix(b"\n").removesuffix(b"\r")


def _read(path: str, most: int) -> bytes | None:
    """Return up to `most` bytes of a regular file, None when there is none. Raises: OSError, ValueError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:  # noqa: PTH123 -- it is open already
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a regular file")
        return file.read(most)


_READERS: Final = {"env": _of_environment, "file": _of_file, "dir": _of_directory}
