"""Which outside endpoints a step may reach, by the operator's list, and at which addresses.

Owns: `AllowedEndpoint` and its text form, `admit`. A name is resolved once for an attempt, outside its sandbox, and what
came of it is all that the attempt can ever reach, whatever the name means a moment later.
Must not touch: connections; `listeners` and `network_relay` carry them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from sovrun.core.errors import InvalidIdentifier, InvalidSetting
from sovrun.core.ids import Tenant, tenant
from sovrun.core.network import BadEndpoint, Endpoint, parse_endpoint
from sovrun.ports import Task
from sovrun.sandbox.verdicts import failure

RESOLVE_SECONDS: Final = 30.0
ADDRESSES_MAX: Final = 8
"""Addresses of one name that are tried; a resolver puts the best first."""

TRUSTED: Final = ("/etc/ssl/certs", "/etc/pki/tls/certs", "/etc/pki/ca-trust/extracted")
"""Where systems keep the certificates by which TLS knows a server; steps that have a network see them."""

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve: TypeAlias = Callable[[Endpoint], Awaitable[Sequence[str]]]
"""Asks the machine for the addresses of an endpoint's host. Raises: OSError."""

_FORM: Final = "[TENANT/]HOST:PORT, or with =ADDRESS,... or =NETWORK,... at its end"
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_PROTOCOLS: Final = ipaddress.IPv4Network("192.0.0.0/24")


@dataclass(frozen=True, slots=True)
class AllowedEndpoint:
    """One entry of the operator's list.

    Args:
        endpoint: what steps declare.
        tenant: whose steps may reach it; None means those of every tenant.
        addresses: where it is; the name is then not resolved.
        networks: in which its addresses have to lie. With neither, they have to be public.
    """

    endpoint: Endpoint
    tenant: Tenant | None = None
    addresses: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """An admitted endpoint, and the addresses that its connections go to, to be tried in this order."""

    endpoint: Endpoint
    addresses: tuple[str, ...]

    def wire(self) -> dict[str, Any]:
        """Return the route as it goes to the supervisor."""
        return {"host": self.endpoint.host, "port": self.endpoint.port, "addresses": self.addresses}


class NotAdmitted(Exception):
    """An endpoint that a step declares is not for it, or not now; `told` is the failure of its attempt."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(told["message"])
        self.told = told


def trusted_folders() -> list[str]:
    """Return the directories with this machine's certificates."""
    return [path for path in TRUSTED if Path(path).is_dir()]


# --- the operator's list ----------------------------------------------------------------------------------------------


def parse_allowed(text: str) -> AllowedEndpoint:
    """Return the entry that a text stands for. Raises: InvalidSetting."""
    name, separator, places = text.partition("=")
    whose, slash, rest = name.partition("/")
    try:
        owner = tenant(whose) if slash and ":" not in whose else None
        endpoint = parse_endpoint(rest if owner else name)
        found = [_place(place) for place in places.split(",")] if separator else []
    except (BadEndpoint, InvalidIdentifier, ValueError) as error:
        hint = getattr(error, "hint", None) or f"use {_FORM}"
        raise InvalidSetting(f"allowed endpoint {text[:200]!r}: {error}", hint=hint) from None
    networks = tuple(str(place) for place in found if isinstance(place, _Network))
    addresses = tuple(str(place) for place in found if not isinstance(place, _Network))
    if addresses and networks:
        message = f"allowed endpoint {text[:200]!r}: either addresses or networks"
        raise InvalidSetting(message, hint=f"use {_FORM}")
    return AllowedEndpoint(endpoint, owner, addresses, networks)


def _place(text: str) -> _Address | _Network:
    """Return the address or network that a text stands for. Raises: ValueError."""
    if "/" in text:
        return ipaddress.ip_network(text)
    address = ipaddress.ip_address(text)
    if address.is_multicast or address.is_unspecified or "%" in text:
        raise ValueError(f"{text} is not the address of a service")
    return address


# --- admission --------------------------------------------------------------------------------------------------------


async def resolve(endpoint: Endpoint) -> Sequence[str]:
    """Ask the machine's resolver for the TCP addresses of an endpoint, best first. Raises: OSError."""
    loop = asyncio.get_running_loop()
    asked = loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    try:
        # `wait_for` would lose a cancellation that comes together with the answer
        async with asyncio.timeout(RESOLVE_SECONDS):
            answers = await asked
    except TimeoutError:
        raise OSError(f"no answer within {RESOLVE_SECONDS:g} s") from None
    return [str(place[0]) for *_, place in answers]


async def admit(task: Task, allowed: Sequence[AllowedEndpoint], ask: Resolve = resolve) -> tuple[Route, ...]:
    """Return where each endpoint that a task declares is, for this attempt.

    Args:
        allowed: the operator's list.
        ask: the resolver.
    Raises: NotAdmitted with `network_not_allowed` when the list does not have one of them or it lies where the list
        does not say, `endpoint_unresolved` when its name has no address now.
    """
    entries = [_entry(task.tenant, endpoint, allowed) for endpoint in task.endpoints]
    return tuple([Route(entry.endpoint, await _addresses(entry, ask)) for entry in entries])


def _entry(whose: Tenant, endpoint: Endpoint, allowed: Sequence[AllowedEndpoint]) -> AllowedEndpoint:
    """Return the entry for an endpoint; one for the tenant goes before one for all."""
    for owner in (whose, None):
        for entry in allowed:
            if entry.endpoint == endpoint and entry.tenant == owner:
                return entry
    raise NotAdmitted(
        failure(
            "network_not_allowed",
            f"the step declares {endpoint}, which this machine's operator does not allow to the tenant {whose}: "
            f"start what executes steps with --allow-endpoint {endpoint}, or add that to $SOVRUN_ALLOW_ENDPOINTS",
        )
    )


async def _addresses(entry: AllowedEndpoint, ask: Resolve) -> tuple[str, ...]:
    if entry.addresses:
        return entry.addresses
    try:
        answers = list(dict.fromkeys(await ask(entry.endpoint)))
    except (OSError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise _unresolved(entry.endpoint, str(said)) from None
    if not answers:
        raise _unresolved(entry.endpoint, "no address")
    networks = [ipaddress.ip_network(text) for text in entry.networks]
    for text in answers:
        if not _is_acceptable(text, networks):
            where = f"not within {', '.join(entry.networks)}" if networks else "not a public one"
            raise NotAdmitted(
                failure(
                    "network_not_allowed",
                    f"{entry.endpoint} has the address {text}, which is {where}: if that is meant, say so in the "
                    f"operator's list with {entry.endpoint}={text}",
                )
            )
    return tuple(answers[:ADDRESSES_MAX])


def _unresolved(endpoint: Endpoint, said: str) -> NotAdmitted:
    return NotAdmitted(failure("endpoint_unresolved", f"{endpoint} cannot be resolved: {said}"))


def _is_acceptable(text: str, networks: Sequence[_Network]) -> bool:
    address = ipaddress.ip_address(text)  # an answer with a scope is link-local
    if networks:
        return any(address.version == network.version and address in network for network in networks)
    return is_public(address)


def is_public(address: _Address) -> bool:
    """Whether an address is one of the public network, looked at through the forms in which IPv6 holds IPv4."""
    if isinstance(address, ipaddress.IPv6Address):
        held = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if address in _NAT64:
            held = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if held:
            return is_public(held)
        if address.is_site_local:
            return False
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_link_local or address in _PROTOCOLS
    )
