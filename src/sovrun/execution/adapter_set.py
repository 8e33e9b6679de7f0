"""The adapters of an installation: which there are, for whom, and that others than the command layer only read.

Owns: `AdapterSet`, `ReadsOnly`, the opening of adapters by their settings. `effects_of` is for `execution.layer` alone:
an import contract and a test see to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, cast

from sovrun.core.errors import AdapterUnavailable, InvalidSetting
from sovrun.core.ids import Tenant, require_name
from sovrun.core.spec.document import read_any
from sovrun.core.spec.findings import UnreadableError
from sovrun.execution.port import AdapterReads, ExecutionAdapter, Ledger
from sovrun.ports import Clock

FILE_MAX: Final = 1 << 20
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
    "quote",
)


class ReadsOnly:
    """What everybody but the command layer gets of an adapter."""

    __slots__ = ("capabilities", "name", *_READS)

    def __init__(self, adapter: AdapterReads) -> None:
        self.name = adapter.name
        self.capabilities = adapter.capabilities
        for read in _READS:
            setattr(self, read, getattr(adapter, read))


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
                    f"adapter {name}: it needs a `kind`", hint=f"kinds are {', '.join(sorted(_OPENERS))}"
                )
            own = {key: value for key, value in of_one.items() if key not in ("kind", "tenants")}
            opener = _OPENERS.get(of_one["kind"])
            if opener is None:
                near = get_close_matches(of_one["kind"], _OPENERS, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"kinds are {', '.join(sorted(_OPENERS))}"
                raise InvalidSetting(f"adapter {name}: there is no kind {of_one['kind']!r:.80}", hint=hint)
            adapter = opener(name, own, ledger, clock)
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
