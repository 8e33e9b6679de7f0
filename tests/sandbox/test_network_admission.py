"""The operator's list decides what may be reached and where; a name is asked for once, and what it means later is nothing."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovrun.core.errors import InvalidSetting
from sovrun.core.ids import Tenant
from sovrun.core.network import Endpoint
from sovrun.sandbox.in_process import InProcessExecutor
from sovrun.sandbox.network import (
    ADDRESSES_MAX,
    AllowedEndpoint,
    NotAdmitted,
    admit,
    is_public,
    parse_allowed,
)
from sovrun.sandbox.network_relay import TOLD_MAX, Ledger
from sovrun.wiring import allowed_endpoints
from support.endpoints import declaring, server
from support.tasks import task, value_of

PUBLIC = "93.184.216.34"
API = Endpoint("api.test", 443)


class Resolver:
    """Gives one prepared answer after the other, and counts how often it is asked."""

    def __init__(self, *answers: list[str] | OSError) -> None:
        self._answers = list(answers)
        self.asked: list[Endpoint] = []

    async def __call__(self, endpoint: Endpoint) -> list[str]:
        self.asked.append(endpoint)
        answer = self._answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer


async def addresses(entry: str, *answers: list[str] | OSError) -> tuple[str, ...]:
    [route] = await admit(declaring(str(API), "m:f"), [parse_allowed(entry)], Resolver(*answers))
    return route.addresses


async def refusal(entry: str, *answers: list[str] | OSError) -> tuple[str, str]:
    with pytest.raises(NotAdmitted) as refused:
        await addresses(entry, *answers)
    return refused.value.told["reason"], refused.value.told["message"]


# --- the list ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("api.test:443", AllowedEndpoint(API)),
        ("API.Test:443", AllowedEndpoint(API)),
        ("acme/api.test:443", AllowedEndpoint(API, Tenant("acme"))),
        ("api.test:443=10.0.0.5,fd00::1", AllowedEndpoint(API, None, ("10.0.0.5", "fd00::1"))),
        ("acme/api.test:443=10.0.0.0/8", AllowedEndpoint(API, Tenant("acme"), (), ("10.0.0.0/8",))),
        ("api.test:443=10.0.0.0/8,fd00::/8", AllowedEndpoint(API, None, (), ("10.0.0.0/8", "fd00::/8"))),
    ],
)
def test_an_entry_says_what_to_whom_and_where(text: str, entry: AllowedEndpoint) -> None:
    assert parse_allowed(text) == entry


@pytest.mark.parametrize(
    "text",
    [
        *("", "api.test", "api.test:0", "*.test:443", "api.test:*", "10.0.0.5:5432", "https://api.test/"),
        *(
            "/api.test:443",
            "a b/api.test:443",
            "acme/",
            "api.test:443=",
            "api.test:443=host",
            "api.test:443=0.0.0.0",
        ),
        *(
            "api.test:443=10.0.0.1/8",
            "api.test:443=224.0.0.1",
            "api.test:443=10.0.0.5,10.0.0.0/8",
            "api.test:443=::",
        ),
        *("api.test:443=fe80::1%eth0", "api.test:443=10.0.0.5,", "acme/beta/api.test:443"),
    ],
)
def test_an_entry_of_another_form_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        parse_allowed(text)
    assert refused.value.hint


def test_the_list_is_what_a_command_is_told_and_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SOVRUN_ALLOW_ENDPOINTS", raising=False)
    assert allowed_endpoints() == ()
    monkeypatch.setenv("SOVRUN_ALLOW_ENDPOINTS", " b.test:1 acme/c.test:2\n")
    assert [str(entry.endpoint) for entry in allowed_endpoints(["a.test:3"])] == [
        "a.test:3",
        "b.test:1",
        "c.test:2",
    ]
    monkeypatch.setenv("SOVRUN_ALLOW_ENDPOINTS", "b.test")
    with pytest.raises(InvalidSetting):
        allowed_endpoints()


# --- who may ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ["other.test:443", "api.test:80", "beta/api.test:443"])
async def test_another_host_port_or_tenant_is_not_allowed_and_no_name_is_asked_for(entry: str) -> None:
    resolver = Resolver([PUBLIC])
    with pytest.raises(NotAdmitted) as refused:
        await admit(declaring("api.test:443", "m:f"), [parse_allowed(entry)], resolver)
    assert refused.value.told["reason"] == "network_not_allowed"
    assert "--allow-endpoint api.test:443" in refused.value.told["message"]
    assert "acme" in refused.value.told["message"]
    assert resolver.asked == []


async def test_one_endpoint_that_is_not_allowed_is_enough() -> None:
    step = declaring(["api.test:443", "db.test:5432"], "m:f")
    with pytest.raises(NotAdmitted, match=r"declares db\.test:5432"):
        await admit(step, [parse_allowed("api.test:443")], Resolver([PUBLIC]))


async def test_an_entry_for_the_tenant_goes_before_one_for_all_wherever_it_stands() -> None:
    entries = ["api.test:443=10.0.0.1", "acme/api.test:443=10.0.0.2", "beta/api.test:443=10.0.0.3"]
    for order in (entries, entries[::-1]):
        [route] = await admit(declaring("api.test:443", "m:f"), list(map(parse_allowed, order)), Resolver())
        assert route.addresses == ("10.0.0.2",)


async def test_a_step_that_declares_nothing_is_given_nothing() -> None:
    assert await admit(task("m:f"), [parse_allowed("api.test:443")], Resolver()) == ()


# --- where ------------------------------------------------------------------------------------------------------------

INSIDE = [
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "192.0.0.8"),
    "0.0.0.0",  # noqa: S104 -- nothing is bound to it
    *("224.0.0.1", "240.0.0.1", "255.255.255.255", "198.18.0.1", "::1", "::", "fe80::1", "fe80::1%2", "fc00::1"),
    *("fec0::1", "ff02::1", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "2002:a00:1::1", "64:ff9b::a00:1", "64:ff9b::7f00:1"),
]  # fmt: skip


@pytest.mark.parametrize("address", INSIDE)
async def test_a_name_that_leads_inside_is_refused_even_beside_a_public_address(address: str) -> None:
    for answer in ([address], [PUBLIC, address], [address, PUBLIC]):
        reason, message = await refusal("api.test:443", answer)
        assert reason == "network_not_allowed"
        assert f"api.test:443={address}" in message


@pytest.mark.parametrize(
    "address", [PUBLIC, "2606:2800:220:1::1", "64:ff9b::5db8:d822", "::ffff:93.184.216.34"]
)
async def test_public_addresses_are_pinned_in_the_order_of_the_resolver(address: str) -> None:
    assert await addresses("api.test:443", [address, "8.8.8.8", address]) == (address, "8.8.8.8")


async def test_no_more_addresses_are_tried_than_make_sense() -> None:
    many = [f"8.8.8.{number}" for number in range(100)]
    assert await addresses("api.test:443", many) == tuple(many[:ADDRESSES_MAX])


async def test_an_address_beyond_those_that_are_tried_is_looked_at_too() -> None:
    many = [*(f"8.8.8.{number}" for number in range(ADDRESSES_MAX)), "10.0.0.1"]
    assert (await refusal("api.test:443", many))[0] == "network_not_allowed"


async def test_listed_networks_are_the_only_ones_then() -> None:
    entry = "api.test:443=10.0.0.0/8,fd00::/8"
    assert await addresses(entry, ["10.9.9.9", "fd00::7"]) == ("10.9.9.9", "fd00::7")
    for outside in (PUBLIC, "11.0.0.1", "127.0.0.1", "fe80::1%2", "::ffff:10.0.0.1"):
        reason, message = await refusal(entry, ["10.9.9.9", outside])
        assert (reason, "not within 10.0.0.0/8, fd00::/8" in message) == ("network_not_allowed", True)


async def test_listed_addresses_are_taken_without_asking_for_the_name() -> None:
    assert await addresses("api.test:443=127.0.0.1,10.0.0.7") == ("127.0.0.1", "10.0.0.7")


async def test_an_answer_that_changes_afterwards_changes_nothing() -> None:
    resolver = Resolver([PUBLIC], ["127.0.0.1"])
    routes = await admit(declaring("api.test:443", "m:f"), [parse_allowed("api.test:443")], resolver)
    assert [route.addresses for route in routes] == [(PUBLIC,)]
    assert routes[0].wire() == {"host": "api.test", "port": 443, "addresses": (PUBLIC,)}
    assert resolver.asked == [API]
    with pytest.raises(NotAdmitted, match=r"127\.0\.0\.1"):  # the next attempt asks again, and is refused
        await admit(declaring("api.test:443", "m:f"), [parse_allowed("api.test:443")], resolver)


@pytest.mark.parametrize(
    "answer", [socket.gaierror(-2, "Name or service not known"), OSError("no answer"), []]
)
async def test_a_name_without_an_address_is_unresolved_and_that_may_pass(answer: list[str] | OSError) -> None:
    reason, message = await refusal("api.test:443", answer)
    assert reason == "endpoint_unresolved"
    assert "api.test:443" in message


async def test_the_machines_resolver_is_asked() -> None:
    local = Endpoint("localhost", 80)  # no document may say so, but every machine knows it
    everywhere = AllowedEndpoint(local, None, (), ("127.0.0.0/8", "::1/128"))
    step = declaring([], "m:f")
    [route] = await admit(_with(step, local), [everywhere])
    assert set(route.addresses) <= {"127.0.0.1", "::1"}
    assert route.addresses
    with pytest.raises(NotAdmitted, match="not a public one"):
        await admit(_with(step, local), [AllowedEndpoint(local)])


def _with(step, endpoint: Endpoint):
    return replace(step, endpoints=(endpoint,))


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_in_every_form_in_which_ipv6_holds_it(
    address: ipaddress.IPv4Address,
) -> None:
    forms = [0xFFFF << 32, 0x64_FF9B << 96]
    held = [ipaddress.IPv6Address(prefix | int(address)) for prefix in forms]
    held.append(ipaddress.IPv6Address(0x2002 << 112 | int(address) << 80))
    assert {is_public(form) for form in held} == {is_public(address)}


# --- beside it --------------------------------------------------------------------------------------------------------


async def test_in_process_there_is_neither_wall_nor_list(code, tmp_path: Path) -> None:
    folder = code(
        ask="import socket\ndef run(port):\n    socket.create_connection(('127.0.0.1', port)).close()\n    return 'ok'\n"
    )
    executor = InProcessExecutor(spool=tmp_path)
    with server(lambda made: made.recv(1)) as far:
        outcome = await executor.execute(declaring("api.test:443", "ask:run", code=folder, port=far.port))
        assert value_of(outcome) == "ok"
        assert far.results(1) == [b""]
    await executor.close()


def test_the_first_connections_are_told_singly_and_all_others_summed_by_endpoint_and_end() -> None:
    ledger = Ledger()
    for number in range(TOLD_MAX + 30):
        ledger.add(("a.test", 1 + number % 2, "closed" if number % 3 else "reset"), number, 2, 3)
    entries = ledger.entries()
    assert entries[: TOLD_MAX : TOLD_MAX - 1] == [
        ["a.test", 1, "reset", 1, 0, 2, 3],
        ["a.test", 2, "reset", 1, TOLD_MAX - 1, 2, 3],
    ]
    assert len(entries) == TOLD_MAX + 4
    assert sum(entry[3] for entry in entries) == TOLD_MAX + 30
    assert sum(entry[4] for entry in entries) == sum(range(TOLD_MAX + 30))
    assert [sum(entry[place] for entry in entries) for place in (5, 6)] == [
        2 * (TOLD_MAX + 30),
        3 * (TOLD_MAX + 30),
    ]
    assert {tuple(entry[:3]): entry[3] for entry in entries[TOLD_MAX:]} == {
        ("a.test", 1, "closed"): 10,
        ("a.test", 2, "closed"): 10,
        ("a.test", 1, "reset"): 5,
        ("a.test", 2, "reset"): 5,
    }
