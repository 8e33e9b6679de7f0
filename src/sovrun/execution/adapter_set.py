"""The adapters of an installation: which there are, for whom, and that others than the command layer only read.

Owns: `AdapterSet`, `ReadsOnly`, the opening of adapters by their settings: ours, and those that installed
distributions declare. `effects_of` is for `execution.layer` alone: an import contract and a test see to it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from inspect import isfunction
from pathlib import Path
from typing import Any, Final, cast

from sovrun.core.commands.kinds import kind_faults
from sovrun.core.commands.model import CommandKind
from sovrun.core.errors import AdapterUnavailable, InvalidSetting, SovrunError
from sovrun.core.ids import Tenant, require_name
from sovrun.core.spec.document import read_any
from sovrun.core.spec.findings import UnreadableError
from sovrun.execution.port import AdapterReads, Capabilities, ExecutionAdapter, Ledger
from sovrun.ports import Clock

FILE_MAX: Final = 1 << 20
PLUGINS: Final = "sovrun.adapters"
"""The group of entry points by which installed distributions declare kinds of adapters."""
PAPER_ALONE: Final[Mapping[str, Any]] = {"paper": {"kind": "paper"}}
"""What there is without any configuration."""

_READS: Final = (
    "get_deployment",
    "list_deployments",
    "get_order",
    "list_orders",
    "portfolio",
    "find_deployment",
    "find_order",
    "find_performed",
    "quote",
)


_EFFECTS: Final = tuple(
    verb for verb, one in vars(ExecutionAdapter).items() if isfunction(one) and not verb.startswith("_")
)


class ReadsOnly:
    """What everybody but the command layer gets of an adapter. Nothing that it holds leads back to the effects."""

    __slots__ = ("capabilities", "name", *_READS)

    def __init__(self, adapter: AdapterReads) -> None:
        self.name = adapter.name
        self.capabilities = adapter.capabilities
        for read in _READS:
            setattr(self, read, _reading(getattr(adapter, read)))


def _reading(read: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return a function that reads: a method of the adapter would give away the adapter."""

    async def ask(*arguments: Any, **named: Any) -> Any:
        return await read(*arguments, **named)

    return ask


@dataclass(frozen=True, slots=True)
class _Configured:
    adapter: ExecutionAdapter
    tenants: frozenset[Tenant] | None


class AdapterSet:
    """The adapters that are configured here."""

    def __init__(self, adapters: Mapping[str, ExecutionAdapter]) -> None:
        self._adapters = {name: _Configured(adapter, None) for name, adapter in adapters.items()}

    @classmethod
    def open(cls, settings: Mapping[str, Any], *, ledger: Ledger, clock: Clock) -> AdapterSet:
        """Return the adapters of a map of settings by name. Raises: InvalidSetting, InvalidIdentifier."""
        opened = cls({})
        for name, of_one in settings.items():
            require_name(name, "adapter")
            if not isinstance(of_one, Mapping) or not isinstance(of_one.get("kind"), str):
                raise InvalidSetting(
                    f"adapter {name}: it needs a `kind`", hint=f"kinds are {', '.join(_kinds())}"
                )
            own = {key: value for key, value in of_one.items() if key not in ("kind", "tenants")}
            opener = _OPENERS.get(of_one["kind"])
            if opener is None:
                adapter = _plugged_in(name, _plugin(name, of_one["kind"]), own, ledger, clock)
            else:
                adapter = opener(name, own, ledger, clock)
            _require_usable(name, adapter)
            opened._adapters[name] = _Configured(adapter, _tenants(name, of_one.get("tenants")))
        return opened

    def names(self, tenant: Tenant) -> Iterator[str]:
        """Yield the names of a tenant's adapters, in order."""
        return (
            name
            for name, one in sorted(self._adapters.items())
            if one.tenants is None or tenant in one.tenants
        )

    def reads(self, tenant: Tenant, name: str) -> AdapterReads:
        """Return what may be read of an adapter. Raises: AdapterUnavailable."""
        return cast("AdapterReads", ReadsOnly(_adapter(self, tenant, name)))

    async def close(self) -> None:
        """Release what the adapters hold."""
        for one in self._adapters.values():
            await one.adapter.close()


def effects_of(adapters: AdapterSet, tenant: Tenant, name: str) -> ExecutionAdapter:
    """Return an adapter with its effects: for the command layer alone. Raises: AdapterUnavailable."""
    return _adapter(adapters, tenant, name)


def _adapter(adapters: AdapterSet, tenant: Tenant, name: str) -> ExecutionAdapter:
    found = adapters._adapters.get(name)  # noqa: SLF001 -- the two belong together
    if found is None or (found.tenants is not None and tenant not in found.tenants):
        known = ", ".join(adapters.names(tenant)) or "none"
        raise AdapterUnavailable(
            f"tenant {tenant} has no adapter {name!r:.80}", hint=f"configured are: {known}", adapter=name
        )
    return found.adapter


def _kinds() -> list[str]:
    return sorted({*_OPENERS, *(one.name for one in entry_points(group=PLUGINS))})


def _plugin(name: str, kind: str) -> EntryPoint:
    """Return the entry point of a kind that is none of ours. Raises: InvalidSetting."""
    found = sorted(entry_points(group=PLUGINS, name=kind), key=lambda one: one.value)
    if len({one.value for one in found}) > 1:
        raise InvalidSetting(
            f"adapter {name}: several distributions declare the kind {kind!r:.80}: "
            + ", ".join(f"{one.value} of {one.dist.name if one.dist else '?'}" for one in found),
            hint="uninstall all but one of them",
        )
    if not found:
        near = get_close_matches(kind, _kinds(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"kinds are {', '.join(_kinds())}"
        raise InvalidSetting(f"adapter {name}: there is no kind {kind!r:.80}", hint=hint)
    return found[0]


def _plugged_in(
    name: str, plugin: EntryPoint, settings: Mapping[str, Any], ledger: Ledger, clock: Clock
) -> ExecutionAdapter:
    """Return the adapter that a plug-in opens. Raises: InvalidSetting, whatever it does wrong."""
    try:
        opened = plugin.load()(name, settings, ledger=ledger, clock=clock)
    except SovrunError:
        raise
    except Exception as error:
        raise InvalidSetting(
            f"adapter {name}: {plugin.value} cannot open it: {type(error).__name__}: {error!s:.500}",
            hint=f"it is called as open(name, settings, *, ledger, clock); see {PLUGINS} in the guide",
        ) from error
    lacking = sorted(verb for verb in (*_READS, *_EFFECTS) if not callable(getattr(opened, verb, None)))
    lacking += ["name"] * (getattr(opened, "name", None) != name)
    lacking += ["capabilities"] * (not isinstance(getattr(opened, "capabilities", None), Capabilities))
    if lacking:
        what = ", ".join(lacking)
        raise InvalidSetting(f"adapter {name}: what {plugin.value} opens is no adapter: it lacks {what}")
    return cast("ExecutionAdapter", opened)


def _require_usable(name: str, adapter: AdapterReads) -> None:
    """Refuse an adapter that declares a kind of command that could not be asked for. Raises: InvalidSetting."""
    kinds: object = adapter.capabilities.kinds
    if not isinstance(kinds, Mapping) or not all(isinstance(kind, CommandKind) for kind in kinds.values()):
        raise InvalidSetting(f"adapter {name}: its `capabilities.kinds` is no map of kinds by name")
    for called, kind in kinds.items():
        faults = [
            f"{fault.message} ({fault.hint})" if fault.hint else fault.message for fault in kind_faults(kind)
        ]
        if called != kind.name:
            faults.append(f"it is declared as {called!r:.80}")
        if faults:
            raise InvalidSetting(f"adapter {name}: the kind {kind.name!r:.80}: {'; '.join(faults)}")


def _tenants(name: str, value: Any) -> frozenset[Tenant] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise InvalidSetting(f"adapter {name}: `tenants` is a list of names")
    return frozenset(Tenant(require_name(one, "tenant")) for one in value)


def read_adapter_settings(path: Path) -> Mapping[str, Any]:
    """Return the `adapters` of a settings file, YAML or JSON. Raises: InvalidSetting.

    Relative paths in it (`mapping`, `directory`) count from the file.
    """
    try:
        if path.stat().st_size > FILE_MAX:
            raise InvalidSetting(f"{path}: more than {FILE_MAX >> 20} MiB")
        document = read_any(path.read_bytes())
    except OSError as error:
        raise InvalidSetting(
            f"{path}: {error.strerror}", hint="name the file with the adapters' settings"
        ) from None
    except UnreadableError as error:
        mistake = error.mistakes[0]
        raise InvalidSetting(f"{path}:{mistake.line}:{mistake.column}: {mistake.message}") from None
    value = document.value
    if not isinstance(value, dict) or set(value) != {"adapters"} or not isinstance(value["adapters"], dict):
        raise InvalidSetting(f"{path}: it has the one member `adapters`, a map by name")
    if document.findings:
        raise InvalidSetting(f"{path}: {document.findings[0].message}")
    return {name: _placed(path.parent, settings) for name, settings in value["adapters"].items()}


def _placed(folder: Path, settings: Any) -> Any:
    if not isinstance(settings, dict):
        return settings
    return {
        name: str(folder / value) if name in ("mapping", "directory") and isinstance(value, str) else value
        for name, value in settings.items()
    }


def _paper(name: str, settings: Mapping[str, Any], ledger: Ledger, clock: Clock) -> ExecutionAdapter:
    del clock
    from sovrun.execution.adapters import paper  # noqa: PLC0415 -- only those that are configured are loaded

    return paper.open_adapter(name, settings, ledger=ledger)


def _http(name: str, settings: Mapping[str, Any], ledger: Ledger, clock: Clock) -> ExecutionAdapter:
    del ledger
    from sovrun.execution.adapters import http  # noqa: PLC0415 -- only those that are configured are loaded

    return http.open_adapter(name, settings, clock=clock)


def _supervisor(name: str, settings: Mapping[str, Any], ledger: Ledger, clock: Clock) -> ExecutionAdapter:
    del ledger, clock
    from sovrun.execution.adapters import supervisor  # noqa: PLC0415 -- only those that are configured are loaded

    return supervisor.open_adapter(name, settings)


_OPENERS: Final[Mapping[str, Callable[[str, Mapping[str, Any], Ledger, Clock], ExecutionAdapter]]] = {
    "paper": _paper,
    "http": _http,
    "supervisor": _supervisor,
}
