"""What the operator lets a step have at most, for every tenant or for one.

Owns: `Cap`, `parse_caps`, `capped`. A step that asks for more gets the cap, and the limit that ends it says the number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from sovrun.core.errors import InvalidIdentifier, InvalidSetting
from sovrun.core.ids import Tenant, tenant
from sovrun.core.spec.model import Resources
from sovrun.core.spec.units import duration_us, grace_us, size_bytes


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError("must be a whole number, 1 or more")
    return int(text)


def _seconds(text: str) -> int:
    return duration_us(float(text) if text.replace(".", "", 1).isdigit() else text)


def _grace(text: str) -> int:
    if not text.isascii() or not text.replace(".", "", 1).isdigit():
        raise ValueError("must be a number of seconds")
    return grace_us(float(text))


_FIELDS: Final[Mapping[str, tuple[str, Callable[[str], int]]]] = {
    "memory": ("memory", size_bytes), "cpuSeconds": ("cpu_us", _seconds), "wallSeconds": ("wall_us", _seconds),
    "processes": ("processes", _count), "openFiles": ("open_files", _count), "disk": ("disk", size_bytes),
    "files": ("files", _count), "log": ("log", size_bytes), "output": ("output", size_bytes),
    "graceSeconds": ("grace_us", _grace),
}  # fmt: skip
STEP_LIMITS: Final = "SOVRUN_STEP_LIMITS"
"""Environment variable: caps, between spaces."""

_FORM: Final = (
    "[TENANT/]NAME=VALUE with a name and a value as in the `resources` of a step, such as memory=1Gi"
)


@dataclass(frozen=True, slots=True)
class Cap:
    """The most of one limit.

    Args:
        tenant: whose steps it is for; None means everybody's.
        field: of `Resources`.
    """

    tenant: Tenant | None
    field: str
    most: int


def parse_cap(text: str) -> Cap:
    """Return the cap that a text stands for. Raises: InvalidSetting."""
    name, separator, value = text.partition("=")
    whose, slash, limit = name.rpartition("/")
    try:
        owner = tenant(whose) if slash else None
        field, convert = _field(limit if separator else "")
        return Cap(owner, field, convert(value))
    except (InvalidIdentifier, ValueError) as error:
        raise InvalidSetting(f"step limit {text[:200]!r}: {error}", hint=f"use {_FORM}") from None


def _field(name: str) -> tuple[str, Callable[[str], int]]:
    try:
        return _FIELDS[name]
    except KeyError:
        raise ValueError(f"there is no limit {name!r}") from None


def parse_caps(text: str) -> tuple[Cap, ...]:
    """Return the caps that stand between spaces. Raises: InvalidSetting."""
    return tuple(map(parse_cap, text.split()))


def capped(resources: Resources, whose: Tenant, caps: Iterable[Cap]) -> Resources:
    """Return the limits that a tenant's step gets: what it asks for, and no more than any cap that concerns it."""
    least: dict[str, int] = {}
    for cap in caps:
        if cap.tenant in (None, whose):
            least[cap.field] = min(cap.most, least.get(cap.field, cap.most))
    lower = {field: most for field, most in least.items() if most < getattr(resources, field)}
    # The fields are those of `_FIELDS`, all of them numbers.
    return replace(resources, **lower) if lower else resources  # type: ignore[arg-type]
