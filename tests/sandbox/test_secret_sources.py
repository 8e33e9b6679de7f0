"""Values come from the operator's sources, each tenant's from its own, and no refusal shows what a source holds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sovrun.core.errors import InvalidSetting
from sovrun.core.ids import Tenant
from sovrun.sandbox.redaction import VALUE_MIN
from sovrun.sandbox.secrets import (
    VALUE_MAX,
    NoSecret,
    SecretSources,
    parse_source,
    require_outside,
    without_values,
)

ACME, OTHER = Tenant("acme"), Tenant("other")
CANARY = "canary-7f3a91"


def sources(*texts: str) -> SecretSources:
    return SecretSources([parse_source(text, ACME) for text in texts])


def refused(found: SecretSources, reference: str = "token", tenant: Tenant = ACME) -> tuple[str, str]:
    with pytest.raises(NoSecret) as raised:
        found.values(tenant, [("TOKEN", reference)])
    failure = raised.value.failure
    assert (failure.circumstance, failure.retryable) == (True, False)
    assert CANARY not in failure.message + str(raised.value)
    return failure.reason, failure.message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "token").write_text(CANARY + "\n")
    (tmp_path / "file.json").write_text(json.dumps({"token": CANARY}))
    return tmp_path


def test_each_kind_of_source_is_read_where_it_says(folder, monkeypatch) -> None:
    monkeypatch.setenv("ACME_token", CANARY)
    for text in (f"dir:{folder}/dir", f"file:{folder}/file.json", "env:ACME_"):
        assert sources(text).values(ACME, [("A", "token"), ("B", "token")]) == {
            "A": CANARY.encode(),
            "B": CANARY.encode(),
        }


def test_the_first_source_that_has_it_gives_it_and_it_is_read_anew_each_time(folder, monkeypatch) -> None:
    monkeypatch.setenv("ACME_token", "from-the-environment")
    found = sources(f"dir:{folder}/dir", "env:ACME_")
    assert found.values(ACME, [("T", "token")]) == {"T": CANARY.encode()}
    (folder / "dir" / "token").write_bytes(b"turned-over\r\n")
    assert found.values(ACME, [("T", "token")]) == {"T": b"turned-over"}
    (folder / "dir" / "token").unlink()
    assert found.values(ACME, [("T", "token")]) == {"T": b"from-the-environment"}


def test_nothing_is_read_for_another_tenant(folder, monkeypatch) -> None:
    monkeypatch.setenv("ACME_token", CANARY)
    found = sources(f"dir:{folder}/dir", f"acme=file:{folder}/file.json", "env:ACME_")
    assert refused(found, tenant=OTHER)[0] == "secret_not_found"


@pytest.mark.parametrize("kind", ["dir", "file"])
def test_a_source_of_all_tenants_has_a_place_for_each(tmp_path, kind) -> None:
    for tenant in (ACME, OTHER):
        place = tmp_path / tenant
        if kind == "dir":
            place.mkdir()
            (place / "token").write_text(f"value-of-{tenant}")
        else:
            place.write_text(json.dumps({"token": f"value-of-{tenant}"}))
    found = sources(f"{kind}:{tmp_path}/{{tenant}}")
    for tenant in (ACME, OTHER):
        assert found.values(tenant, [("T", "token")]) == {"T": f"value-of-{tenant}".encode()}
    assert refused(found, tenant=Tenant("third"))[0] == "secret_not_found"


def test_a_reference_that_no_source_has_is_named(folder) -> None:
    reason, message = refused(sources(f"dir:{folder}/dir"), "absent")
    assert reason == "secret_not_found"
    assert "'absent'" in message
    assert "acme" in message
    assert refused(sources(), "token")[0] == "secret_not_found"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("x" * (VALUE_MIN - 1), "less than"),
        ("", "less than"),
        ("y" * (VALUE_MAX + 1), "more than"),
    ],
)
def test_what_cannot_be_told_from_other_text_or_is_too_long_is_refused(tmp_path, value, why) -> None:
    (tmp_path / "token").write_text(value)
    reason, message = refused(sources(f"dir:{tmp_path}"))
    assert reason == "secret_unusable"
    assert why in message
    assert str(tmp_path) not in message, "a tenant need not know where the operator keeps secrets"


@pytest.mark.parametrize("size", [VALUE_MIN, VALUE_MAX])
def test_the_shortest_and_the_longest_value_are_taken(tmp_path, size) -> None:
    (tmp_path / "token").write_text("v" * size + "\n")
    assert sources(f"dir:{tmp_path}").values(ACME, [("T", "token")]) == {"T": b"v" * size}


@pytest.mark.parametrize(
    "text", [f"{CANARY}", f'["{CANARY}"]', f'{{"token": 1, "x": "{CANARY}"}}', f'{{"token": "{CANARY}']
)
def test_a_file_of_another_form_is_refused_without_quoting_it(tmp_path, text) -> None:
    (tmp_path / "held").write_text(text)
    assert refused(sources(f"file:{tmp_path}/held"))[0] == "secret_unusable"


def test_what_is_no_regular_file_is_refused_and_waited_for_never(tmp_path) -> None:
    os.mkfifo(tmp_path / "token")
    (tmp_path / "folder").mkdir()
    assert refused(sources(f"dir:{tmp_path}"))[0] == "secret_unusable"
    assert refused(sources(f"dir:{tmp_path}"), "folder")[0] == "secret_unusable"
    assert refused(sources(f"file:{tmp_path}"))[0] == "secret_unusable"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "token",
        "vault:x",
        "env:",
        "dir:",
        "acme=",
        "acme=token",
        "bad name=dir:/x",
        "env:{tenant}_",
        "acme=dir:/x/{tenant}",
    ],
)
def test_a_text_of_another_form_is_no_source(text) -> None:
    with pytest.raises(InvalidSetting):
        parse_source(text, ACME)


def test_the_text_of_a_source_stands_for_the_same_source_elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in ("dir:here", "file:x=y", "other=env:O_", "dir:/x/{tenant}"):
        source = parse_source(text, ACME)
        assert parse_source(str(source), Tenant("somebody")) == source
    assert parse_source("dir:here", ACME).place == str(tmp_path / "here")
    assert parse_source("file:x=y", ACME).tenant == ACME


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("acme=env:A_", "other=env:A_B_"),
        ("acme=env:A_", "other=env:A_"),
        ("acme=dir:/s/x", "other=dir:/s/../s/x"),
        ("acme=file:/s/x", "other=file:/s/x"),
    ],
)
def test_sources_of_two_tenants_do_not_overlap(one, other) -> None:
    with pytest.raises(InvalidSetting, match="different tenants"):
        sources(one, other)
    with pytest.raises(InvalidSetting, match="different tenants"):
        sources(other, one)
    sources(one, other.replace("other=", "acme="))


def test_a_source_within_the_code_of_a_dag_is_refused(tmp_path) -> None:
    (tmp_path / "dag" / "secrets").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "dag")
    within = [
        f"dir:{tmp_path}/dag/secrets",
        f"file:{tmp_path}/link/held.json",
        f"dir:{tmp_path}/dag/{{tenant}}",
    ]
    for text in within:
        with pytest.raises(InvalidSetting, match="within the code"):
            require_outside([parse_source(text, ACME)], tmp_path / "dag", None)
        require_outside([parse_source(text, ACME)], tmp_path / "dag", ["plugin"])
    with pytest.raises(InvalidSetting):
        require_outside([parse_source(within[0], ACME)], tmp_path / "dag", ["secrets"])
    outside = (f"dir:{tmp_path}/dagger", "env:A_", f"dir:{tmp_path}")
    require_outside([parse_source(text, ACME) for text in outside], tmp_path / "dag", None)


def test_what_a_person_wrote_loses_the_values_that_can_be_had(folder) -> None:
    wanted = [("A", "absent"), ("T", "token")]
    found = sources(f"dir:{folder}/dir")
    assert without_values(f"with {CANARY}!", found, ACME, wanted) == "with ***!"
    assert without_values(f"with {CANARY}!", found, ACME, []) == f"with {CANARY}!"
    assert without_values("nothing", found, OTHER, wanted) == "nothing"
