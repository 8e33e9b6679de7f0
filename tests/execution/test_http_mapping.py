"""A mapping file is read strictly: every mistake is named at its line and column, and what to write instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from sovrun.core.errors import InvalidSetting
from sovrun.core.ids import Tenant
from sovrun.execution.adapter_set import AdapterSet, read_adapter_settings
from sovrun.execution.adapters.http import open_adapter
from sovrun.execution.adapters.http_document import InvalidMapping, mapping_schema, read_mapping
from sovrun.wiring import SystemClock
from support.ledgers import MemoryLedger
from support.order_server import MAPPING

VALID = """\
apiVersion: sovrun/http-adapter/v1
kind: HttpAdapter
baseUrl: https://api.example.org/v2
modes: [paper]
tenant: acme
processingDeadline: 10s
absenceIsConclusive: true
headers:
  Authorization: {join: ["Bearer ", {env: TOKEN}]}
errors:
  - {status: 409, duplicate: true}
orders:
  place:
    method: POST
    path: /orders
    headers: {Idempotency-Key: {from: clientId}}
    body: {symbol: {from: symbol}, side: {from: side}, quantity: {from: quantity}, price: {from: price}}
    record: ""
  cancel: {method: DELETE, path: "/orders/{orderId}"}
  get: {path: "/orders/{orderId}", items: [""]}
  list: {path: /orders, items: [/orders/*]}
  record:
    id: /id
    clientId: /clientId
    symbol: /symbol
    side: {at: /side, map: {buy: buy, sell: sell}}
    type: {const: limit}
    quantity: /quantity
    status: {at: /status, map: {new: pending, done: filled}}
"""

FURTHER = """\
commands:
  report.publish:
    perform: {method: PUT, path: "/reports/{clientId}", body: {from: payload.text}}
    find: {path: "/reports/{clientId}", items: [""]}
    clientId: /name
    version: 1
    schema: {type: object, properties: {text: {type: string}}, required: [text]}
"""

MISTAKES: list[tuple[str, str, str, str]] = [
    # what is replaced, by what, where the mistake is, what is said
    ("modes: [paper]", "modes: [paper]\nmoods: []", "5:1", "unknown field 'moods' (did you mean 'modes'?)"),
    ("apiVersion: sovrun/http-adapter/v1", "apiVersion: v2", "1:13", "`apiVersion` must be"),
    ("processingDeadline: 10s\n", "", "1:1", "lacks the field `processingDeadline`"),
    ("processingDeadline: 10s", "processingDeadline: soon", "6:21", "'soon' is not a duration"),
    ("processingDeadline: 10s", "processingDeadline: 400d", "6:21", "at most 366 days"),
    ("absenceIsConclusive: true", "absenceIsConclusive: perhaps", "7:22", "must be true or false; it is a text"),
    ("baseUrl: https://api.example.org/v2", "baseUrl: ftp://x", "3:10", "is not a URL"),
    ("baseUrl: https://api.example.org/v2", "baseUrl: https://u:p@x", "3:10", "is not a URL"),
    ("baseUrl: https://api.example.org/v2", "baseUrl: https://x:99999", "3:10", "is not a URL"),
    ("baseUrl: https://api.example.org/v2", "baseUrl: http://api.example.org", "3:10", "over https only"),
    ("modes: [paper]", "modes: [paper, real]", "4:16", "must be 'paper' or 'live', not 'real'"),
    ("tenant: acme\n", "", "22:5", "nothing says whose these records are"),
    ("quantity: {from: quantity}", "quantity: {from: quantty}", "17:73", "did you mean 'quantity'?"),
    ("{from: symbol}", "{from: symbol, maps: {}}", "17:35", "a reference with `from` takes no 'maps'"),
    ("{from: price}", "{from: price, step: 0}", "17:111", "`step` must be a decimal in quotes"),
    ("{from: price}", "{from: price, as: float}", "17:109", "`as` must be"),
    ("{from: price}", "{env: TOKEN}", "17:97", "a secret may stand in headers only"),
    ("{from: price}", "{from: actor.name}", "17:98", "'actor' has no members"),
    ("{from: side}", "{literal: buy}", "14:5", "the request does not pass on `side`"),
    ("{from: clientId}", "{from: actor}", "14:5", "the request does not pass on `clientId`"),
    ("{from: symbol}", "{literal: X}", "14:5", "the request does not pass on `symbol`"),
    ('path: "/orders/{orderId}"}', "path: /orders/last}", "19:11", "the request does not pass on `orderId`"),
    ('path: "/orders/{orderId}", items', 'path: "/orders/{id}", items', "20:15", "there is no 'id' here"),
    ("items: [/orders/*]", "items: [orders]", "21:33", "'orders' is not a JSON Pointer"),
    ("method: POST", "method: GET", "14:13", "must be 'POST'"),
    ("    id: /id\n", "", "23:5", "lacks the field `id`"),
    ("map: {buy: buy, sell: sell}", "map: {B: long}", "26:11", "'long' is none of buy, sell"),
    ("{at: /side, map: {buy: buy, sell: sell}}", "/side", "26:11", "`side` needs a `map` to buy, sell"),
    ("type: {const: limit}", "type: {const: limit, at: /t}", "27:11", "exactly one of `at` and `const`"),
    ("done: filled", "done: finished", "29:13", "'finished' is none of pending, filled"),
    ("quantity: /quantity\n", "quantity: /quantity\n    remaining: /left\n", "23:5", "exactly one of `quantity`"),
    ("{status: 409, duplicate: true}", "{status: 503}", "11:14", "`status`"),
    ("duplicate: true", 'is: "x"', "11:5", "a test of the body is `at` with one of"),
    ("duplicate: true", "outcome: unknown, code: x", "11:5", "only what is rejected has a `code`"),
    ("headers:\n", "headers:\n  Host: x\n", "9:3", "the header Host is the client's own"),
    ("tenant: acme", "symbols: {A: X, B: X}\ntenant: acme", "5:20", "'X' is 'A' already"),
    ("orders:\n", FURTHER.replace("report.publish", "order.place") + "orders:\n", "13:3", "is no further kind"),
    ("orders:\n", FURTHER.replace("report.publish", "Report") + "orders:\n", "13:3", "`commands`"),
    ("orders:\n", FURTHER.replace("payload.", "payloads.") + "orders:\n", "14:70", "mean 'payload'?"),
    ("orders:\n", FURTHER.replace("{clientId}", "x", 1) + "orders:\n", "14:14", "pass on `clientId`"),
    ("orders:\n", FURTHER.replace("report.publish", "order.plac") + "orders:\n", "13:3", "for 'order.place', misspelt"),
    ("orders:\n", FURTHER.replace("    version: 1\n", "") + "orders:\n", "14:5", "lacks the field `version`"),
    ("orders:\n", FURTHER.replace("version: 1", "version: 0") + "orders:\n", "17:14", "`version`"),
    ("orders:\n", FURTHER.replace("required: [text]", "required: text") + "orders:\n", "18:74", "usable JSON Schema"),
    ("orders:\n", FURTHER.replace("{type: object,", "{") + "orders:\n", "18:13", "its `type` is object"),
    ("orders:\n", FURTHER + "    target: {order: id}\norders:\n", "19:13", "that 'id' is a text and required"),
    ("orders:\n", FURTHER + "    decimals: [sum]\norders:\n", "19:15", "that 'sum' is a text"),
    ("orders:\n", FURTHER + "    target: {run: id}\norders:\n", "19:14", "unknown field 'run'"),
    ("modes: [paper]", "modes: &m [paper]", "4:8", "an anchor (&m) is not allowed"),
    ("kind: HttpAdapter", "kind: HttpAdapter\nkind: HttpAdapter", "3:1", "stands twice"),
]  # fmt: skip


def read(text: str) -> Any:
    return read_mapping(text.encode(), name="m.yaml")


def test_what_is_valid_is_read() -> None:
    mapping = read(VALID)
    assert mapping.base_url == "https://api.example.org/v2"
    assert mapping.secrets == (("env", "TOKEN"),)
    assert mapping.orders.begin.request.timeout_us == 10_000_000
    assert mapping.orders.get.absent == {404}
    assert mapping.orders.list.absent == frozenset()


def test_a_further_kind_is_declared_with_all_that_the_command_layer_asks_of_one() -> None:
    declared = FURTHER + "    opens: false\n    target: {order: text}\n    decimals: [text]\n"
    (kind,) = (one.kind for one in read(VALID.replace("orders:\n", declared + "orders:\n")).commands.values())
    assert (kind.name, kind.version, kind.needs_key) == ("report.publish", 1, True)
    assert (kind.opens, kind.resource, kind.target, kind.decimals) == (False, "order", "text", ("text",))
    assert kind.schema["properties"] == {"text": {"type": "string"}}


def test_the_example_is_valid() -> None:
    mapping = read_mapping(MAPPING.read_bytes(), name=MAPPING.name)
    assert mapping.orders is not None
    assert mapping.orders.fills is not None
    assert not mapping.absence_is_conclusive


@pytest.mark.parametrize(("old", "new", "place", "said"), MISTAKES, ids=[row[3] for row in MISTAKES])
def test_a_mistake_is_named_where_it_stands(old: str, new: str, place: str, said: str) -> None:
    assert old in VALID
    with pytest.raises(InvalidMapping) as refused:
        read(VALID.replace(old, new, 1))
    found = [f"m.yaml:{one.line}:{one.column}: {one.message}" for one in refused.value.mistakes]
    assert said in refused.value.detail
    assert any(line.startswith(f"m.yaml:{place}: ") for line in found), found


def test_all_mistakes_are_named_at_once_in_their_order() -> None:
    text = VALID.replace("method: POST", "method: GET").replace("[paper]", "[real]").replace("/id", "id")
    with pytest.raises(InvalidMapping) as refused:
        read(text)
    lines = [one.line for one in refused.value.mistakes]
    assert lines == sorted(lines)
    assert {4, 14, 23} <= set(lines)


def test_a_mapping_for_nothing_is_no_mapping() -> None:
    with pytest.raises(InvalidMapping, match="none of `orders`, `deployments` and `commands`"):
        read(VALID.partition("orders:")[0])


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"a: [", b"{}"])
def test_what_is_no_mapping_at_all_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidMapping):
        read_mapping(data, name="m.yaml")


def test_the_published_schema_is_one_and_agrees_with_what_is_valid() -> None:
    Draft202012Validator.check_schema(dict(mapping_schema()))
    for text in (VALID, MAPPING.read_text()):
        document = YAML(typ="safe").load(text)
        assert list(Draft202012Validator(dict(mapping_schema())).iter_errors(document)) == []


# --- settings ---------------------------------------------------------------------------------------------------------


def opened(folder: Path, text: str = VALID, **settings: Any) -> Any:
    file = folder / "m.yaml"
    file.write_text(text)
    return open_adapter("exchange", {"mapping": str(file), **settings}, clock=SystemClock())


async def test_settings_may_give_another_base_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "t0p")
    adapter = opened(tmp_path, baseUrl="https://other.example.org/")
    assert adapter.capabilities.resources == {"order"}
    assert adapter.capabilities.modes == {"paper"}
    assert adapter.capabilities.processing_deadline_us == 10_000_000
    assert adapter.capabilities.absence_is_conclusive
    await adapter.close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"maping": "x"}, "there is no setting 'maping'"),
        ({"baseUrl": "nowhere"}, "is not a URL"),
        ({"baseUrl": "https://ä..b"}, "IDNA"),
        ({"baseUrl": "http://api.example.org"}, "over https only"),
        ({"baseUrl": 7}, "does not fit"),
    ],
)
def test_a_setting_that_is_wrong_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], said: str
) -> None:
    monkeypatch.setenv("TOKEN", "t0p")
    with pytest.raises(InvalidSetting) as refused:
        opened(tmp_path, **settings)
    assert said in refused.value.detail
    assert refused.value.hint


def test_a_mapping_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="it is missing"):
        open_adapter("exchange", {}, clock=SystemClock())
    with pytest.raises(InvalidSetting, match="No such file"):
        open_adapter("exchange", {"mapping": str(tmp_path / "none.yaml")}, clock=SystemClock())


def test_a_mapping_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="more than 1 MiB"):
        opened(tmp_path, VALID + "# " + "x" * (1 << 20))


def test_certificates_that_cannot_be_read_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "t0p")
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("ca.pem", "none.pem"):
        with pytest.raises(InvalidSetting, match=r"tls\.ca"):
            opened(tmp_path, VALID + f"tls: {{ca: {tmp_path / name}}}\n")


@pytest.mark.parametrize("value", [None, "", "two\nlines", "umlaut-ä", " spaced"])
def test_a_secret_that_cannot_be_sent_is_refused_without_being_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("TOKEN", raising=False)
    if value is not None:
        monkeypatch.setenv("TOKEN", value)
    with pytest.raises(InvalidSetting) as refused:
        opened(tmp_path)
    assert "TOKEN" in refused.value.detail
    assert not value or value not in f"{refused.value.detail} {refused.value.hint}"


def test_a_secret_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    text = VALID.replace("{env: TOKEN}", f"{{file: {tmp_path / 'token'}}}")
    with pytest.raises(InvalidSetting, match="the secret file"):
        opened(tmp_path, text)


async def test_paths_in_a_mapping_count_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t0p")
    await opened(tmp_path, VALID.replace("{env: TOKEN}", "{file: token}")).close()
    with pytest.raises(InvalidSetting, match=r"tls\.ca"):
        opened(tmp_path, VALID.replace("{env: TOKEN}", "{file: token}") + "tls: {ca: token}\n")


async def test_the_example_of_settings_opens() -> None:
    settings = read_adapter_settings(MAPPING.with_name("http.yaml"))
    adapters = AdapterSet.open(settings, ledger=MemoryLedger(), clock=SystemClock())
    assert list(adapters.names(Tenant("acme"))) == ["exchange"]
    assert adapters.reads(Tenant("acme"), "exchange").capabilities.resources == {"order"}
    await adapters.close()
