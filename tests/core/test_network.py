"""An endpoint has one text form, whatever is no endpoint is refused with advice, and what is not used moves no digest."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.errors import InvalidSpec
from sovrun.core.identity import dag_version, step_hash_prefix
from sovrun.core.ids import Digest
from sovrun.core.network import BadEndpoint, Endpoint, parse_endpoint
from sovrun.core.spec.document import parse_dag
from sovrun.core.spec.findings import MISTAKES_MAX
from sovrun.core.spec.model import DagSpec
from sovrun.core.spec.normal import normal_form

CODE = Digest("c" * 64)
LABELS = st.from_regex(r"[a-z_]([a-z0-9_-]{0,8}[a-z0-9_])?", fullmatch=True).filter(
    lambda text: text != "localhost"
)


def dag(network: str) -> DagSpec:
    text = (
        f"apiVersion: sovrun/v1\nkind: Dag\nmetadata: {{id: d}}\nsteps: [{{id: a, python: m:f{network}}}]\n"
    )
    return parse_dag(text.encode(), name="d.yaml")


@settings(max_examples=1_000, deadline=None)
@given(st.lists(LABELS, min_size=1, max_size=4), st.integers(1, 65_535), st.randoms())
def test_an_endpoint_comes_back_from_its_text_however_its_name_is_spelt(labels, port, rng) -> None:
    endpoint = Endpoint(".".join(labels), port)
    spelt = "".join(rng.choice([letter, letter.upper()]) for letter in str(endpoint))
    assert parse_endpoint(spelt) == endpoint


@settings(max_examples=1_000, deadline=None)
@given(st.text(st.sampled_from("ab0.:-_*/[]%x é\n"), max_size=12) | st.text(max_size=12))
def test_whatever_is_accepted_is_a_dns_name_and_a_port_and_no_address(text: str) -> None:
    said = [""]
    try:
        host, port = parse_endpoint(text)
    except BadEndpoint as error:
        said = [str(error), error.hint or ""]
    if said != [""]:
        assert all(line.isprintable() for line in said)
        return
    assert parse_endpoint(f"{host}:{port}") == (host, port)
    assert 1 <= port <= 65_535
    assert not set(host) - set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
    assert not host.split(".")[-1].isdigit()


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "1.2.3.0x4", "10.0.0.5", "a.0"])
def test_what_a_resolver_would_take_for_an_address_is_no_name(host: str) -> None:
    with pytest.raises(BadEndpoint, match="is an address"):
        parse_endpoint(f"{host}:80")


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "LOCALHOST"])
def test_the_steps_own_machine_is_no_endpoint(host: str) -> None:
    with pytest.raises(BadEndpoint, match="own machine"):
        parse_endpoint(f"{host}:80")


def test_names_have_the_lengths_of_dns() -> None:
    longest = ".".join(["a" * 63] * 3 + ["b" * 61])
    assert parse_endpoint(f"{longest}:1").host == longest
    for host in ("a" * 64, longest + "b", "a..b", ".a", "a."):
        with pytest.raises(BadEndpoint):
            parse_endpoint(f"{host}:1")


def test_no_network_at_all_moves_no_digest() -> None:
    absent, empty = dag(""), dag(", network: {allow: []}")
    assert "network" not in normal_form(absent)["steps"][0]
    assert dag_version(normal_form(absent), CODE) == dag_version(normal_form(empty), CODE)
    assert '"endpoints":[]' in step_hash_prefix(absent.steps[0], CODE)


def test_endpoints_are_part_of_the_version_and_the_step_whatever_their_order_and_spelling() -> None:
    one = dag(", network: {allow: [b.test:443, A.test:80]}")
    other = dag(", network: {allow: [a.test:80, B.TEST:443]}")
    assert normal_form(one) == normal_form(other)
    assert normal_form(one)["steps"][0]["network"] == {"allow": ["a.test:80", "b.test:443"]}
    assert dag_version(normal_form(one), CODE) != dag_version(normal_form(dag("")), CODE)
    assert step_hash_prefix(one.steps[0], CODE) == step_hash_prefix(other.steps[0], CODE)
    assert '"endpoints":["a.test:80","b.test:443"]' in step_hash_prefix(one.steps[0], CODE)


def test_a_hostile_list_of_endpoints_makes_a_bounded_report() -> None:
    step = {"id": "a", "python": "m:f", "network": {"allow": ["*:0"] * 200_000}}
    document = {"apiVersion": "sovrun/v1", "kind": "Dag", "metadata": {"id": "d"}, "steps": [step]}
    with pytest.raises(InvalidSpec) as caught:
        parse_dag(json.dumps(document).encode(), name="d.json")
    codes = [mistake.code for mistake in caught.value.mistakes]
    assert len(codes) == MISTAKES_MAX + 1
    assert {"bad_length", "bad_endpoint"} <= set(codes)
