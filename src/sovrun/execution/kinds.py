"""The kinds of commands of an installation: ours, and those that the adapters of a tenant declare.

Owns: `Declared`, `kinds_of`, `kind_named`. Reading only: a command is held to its kind in `execution.requests`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sovrun.core.commands.model import KINDS, CommandKind
from sovrun.core.errors import InvalidCommand, NotFound
from sovrun.core.ids import Tenant
from sovrun.execution.adapter_set import AdapterSet


@dataclass(frozen=True, slots=True)
class Declared:
    """A kind, and which adapters take it; two adapters may each declare another one under the same name."""

    kind: CommandKind
    adapters: tuple[str, ...]


def kinds_of(adapters: AdapterSet, tenant: Tenant) -> Sequence[Declared]:
    """Return the kinds that a tenant can ask for, by name: ours also where no adapter takes them."""
    takers: dict[CommandKind, list[str]] = {kind: [] for kind in KINDS.values()}
    for name in adapters.names(tenant):
        known = adapters.reads(tenant, name).capabilities
        for kind in KINDS.values():
            if kind.resource in known.resources:
                takers[kind].append(name)
        for kind in known.kinds.values():
            takers.setdefault(kind, []).append(name)
    return sorted(
        (Declared(kind, tuple(names)) for kind, names in takers.items()),
        key=lambda one: (one.kind.name, one.adapters),
    )


def kind_named(adapters: AdapterSet, tenant: Tenant, name: str, adapter: str | None = None) -> CommandKind:
    """Return the kind of a name.

    Args:
        adapter: whose; None means anybody's, as long as all of them mean the same.
    Raises: NotFound; InvalidCommand when several adapters mean something else; AdapterUnavailable.
    """
    if name in KINDS:
        return KINDS[name]
    if adapter is not None:
        adapters.reads(tenant, adapter)
    known = kinds_of(adapters, tenant)
    found = [one for one in known if one.kind.name == name and (adapter is None or adapter in one.adapters)]
    if not found:
        raise NotFound(
            f"no kind {name[:80]!r} for tenant {tenant}" + (f" at {adapter}" if adapter else ""),
            hint=f"there are {', '.join(sorted({one.kind.name for one in known}))}",
        )
    if len(found) > 1:
        raise InvalidCommand(
            f"several adapters have a kind {name!r}, each its own: "
            + ", ".join(taker for one in found for taker in one.adapters),
            hint="name the adapter",
            kind=name,
        )
    return found[0].kind
