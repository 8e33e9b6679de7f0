"""Commands from the command line: without a server, beside one, and after what was interrupted."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from support.cli import sovrun, write_dag
from support.trading_desk import BUY, MAPPING, ORDER, Desk
from support.up import until, up

TRADE = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: trade}
steps:
  - id: buy
    command: {kind: order.place, adapter: paper}
    with: {symbol: ACME, side: buy, type: market, quantity: "3"}
"""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# --- one effect -------------------------------------------------------------------------------------------------------


def test_the_same_command_twice_is_one_order_and_one_answer(desk: Desk) -> None:
    first = desk.tell(*ORDER, "quantity=2", "--key", "k", "--json")
    again = desk.tell(*ORDER, "quantity=2.0", "--key", "k", "--json")
    assert (first.code, again.code) == (0, 0)
    assert first.out == again.out
    shown = desk.ask("commands", first.json["commandId"])
    assert shown["responseHash"] == sha256(first.out.encode()).hexdigest(), (
        "the bytes are those that are recorded"
    )
    assert len(desk.orders()) == 1
    assert desk.refusal(*ORDER, "quantity=3", "--key", "k") == "idempotency_key_conflict"
    assert len(desk.orders()) == 1


def test_a_refusal_is_exit_code_1_and_says_why(desk: Desk) -> None:
    done = desk.tell(*ORDER, "quantity=1000000", "--key", "k")
    assert done.code == 1
    assert "insufficient_funds" in done.out
    assert desk.ask(*ORDER, "quantity=1000000", "--key", "k", code=1)["status"] == "refused"


def test_what_is_not_waited_for_is_performed_by_whoever_comes_next(desk: Desk) -> None:
    left = desk.ask(*ORDER, "quantity=1", "--key", "k", "--no-wait", code=4)
    assert left["state"] == "intended"
    assert desk.orders() == []
    desk.tell(*ORDER, "quantity=1", "--key", "other")
    desk.ask(*ORDER, "quantity=1", "--key", "k")
    assert len(desk.orders()) == 2


def test_a_payload_may_come_from_a_file_and_from_standard_input(desk: Desk) -> None:
    payload = {"symbol": "ACME", "side": "buy", "type": "market", "quantity": "1"}
    (desk.folder / "order.json").write_text(json.dumps(payload))
    plain = ("command", "order.place", "--adapter", "paper", "--key")
    first = desk.ask(*plain, "a", "--payload", "order.json")
    piped = desk.ask(*plain, "b", "--payload", "-", "quantity=2", stdin=json.dumps(payload).encode())
    assert [first["resource"]["filled"], piped["resource"]["filled"]] == ["1", "2"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((*ORDER, "quantity=-1", "--key", "k"), "invalid_command"),
        ((*ORDER, "quantity=1e3", "--key", "k"), "invalid_command"),
        ((*ORDER, "quantity=1", "price=1", "--key", "k"), "invalid_command"),
        ((*ORDER, "quantity=1"), "idempotency_key_required"),
        ((*ORDER, "quantity=1", "--key", "k" * 100_000), "invalid_identifier"),
        ((*ORDER[:4], "symbol=NOPE", *BUY[1:], "quantity=1", "--key", "k"), "unknown_symbol"),
        ((*ORDER, "quantity=1", "--key", "k", "--mode", "live"), "invalid_command"),
        ((*ORDER, "quantity", "--key", "k"), "invalid_setting"),
        ((*ORDER, "quantity=1", "--key", "k", "--wait", "soon"), "invalid_setting"),
        ((*ORDER, "quantity=1", "--key", "k", "--payload", "nothing.json"), "file_unavailable"),
        (
            ("command", "order.place", "--adapter", "nothing", *BUY, "quantity=1", "--key", "k"),
            "adapter_unavailable",
        ),
        (("command", "order.place", *BUY, "quantity=1", "--key", "k"), "invalid_setting"),
        (("command", "order.cancel", "--adapter", "paper", "orderId=o1"), "not_found"),
    ],
)
def test_bad_input_has_a_clear_code_and_nothing_is_sent(
    desk: Desk, arguments: tuple[str, ...], code: str
) -> None:
    assert desk.refusal(*arguments) == code
    assert not (desk.folder / "s.db").exists() or desk.ask("commands")["commands"] == []


def test_a_price_that_is_a_float_is_refused_from_a_file(desk: Desk) -> None:
    body = b'{"symbol": "ACME", "side": "buy", "quantity": "1", "price": 10.5}'
    plain = ("command", "order.place", "--adapter", "paper", "--key", "k", "--payload", "-")
    assert desk.refusal(*plain, stdin=body) == "invalid_command"
    assert desk.ask("commands")["commands"] == []


def test_the_deployment_of_another_tenant_cannot_be_stopped(desk: Desk) -> None:
    made = desk.ask(
        "command", "deployment.create", "--adapter", "paper", "--key", "k", "name=one", "artifact=a"
    )
    stop = ("command", "deployment.stop", "--adapter", "paper", f"deploymentId={made['resource']['id']}")
    assert desk.refusal(*stop, "--tenant", "globex") == "not_found"
    assert desk.ask("commands", "--tenant", "globex")["commands"] == []
    assert desk.ask(*stop)["resource"]["status"] == "stopped"


def test_the_schema_of_a_kind_is_printed(desk: Desk) -> None:
    schema = desk.tell("command", "order.place", "--schema").json
    assert schema["required"] == ["symbol", "side", "quantity"]
    assert desk.refusal("command", "order.eat", "--schema") == "not_found"


# --- beside a server --------------------------------------------------------------------------------------------------


def test_every_verb_works_beside_a_server() -> None:
    with up() as server:

        def ask(*arguments: object, code: int = 0) -> Any:
            done = server.do(*arguments, "--json")
            assert done.code == code, done.out + done.err
            return done.json

        first = server.do(*ORDER, "quantity=2", "--key", 'k "1"', "--json")
        assert first.code == 0, first.err
        assert server.do(*ORDER, "quantity=2", "--key", 'k "1"', "--json").out == first.out
        conflict = ask(*ORDER, "quantity=3", "--key", 'k "1"', code=2)
        assert conflict["error"]["code"] == "idempotency_key_conflict"
        assert ask("commands")["commands"][0]["key"] == 'k "1"'
        assert [one["status"] for one in ask("orders", "paper")["orders"]] == ["filled"]
        assert ask("portfolio", "paper")["positions"] == {"ACME": "2"}
        assert ask("deployments", "paper") == {"deployments": [], "unreadable": []}
        assert [one["name"] for one in ask("adapters")["adapters"]] == ["paper"]
        assert [one["status"] for one in ask("resources")["resources"]] == ["filled"]
        assert ask("switch", "trip", "--rationale", "hot")["switches"][0]["tripped"]
        assert ask(*ORDER, "quantity=1", "--key", "2", code=1)["gate"] == "kill_switch"
        assert ask("switch", "trip", "--global", "--rationale", "all")["switches"][0]["tenant"] is None
        assert not ask("switch", "reset", "--global", "--rationale", "cold")["switches"][0]["tripped"]
        assert not ask("switch", "reset", "--rationale", "cold")["switches"][1]["tripped"]
        assert ask("gate", "paper", "--per-day", "1")["limits"]["perDay"] == 1
        assert ask(*ORDER, "quantity=1", "--key", "3", code=1)["gate"] == "count"
        name = first.json["commandId"]
        refused = ask("resolve", name, "--refused", "--rationale", "why not", code=2)
        assert refused["error"]["code"] == "illegal_transition"


def test_a_dead_servers_socket_does_not_keep_anybody_from_commands() -> None:
    with up() as server:
        server.kill()
        assert server.socket.exists()
        assert server.do(*ORDER, "quantity=2", "--key", "k", "--json").code == 0
        assert server.do("portfolio", "paper", "--json").json["positions"] == {"ACME": "2"}


# --- drift ------------------------------------------------------------------------------------------------------------


THIN = ("command", "order.place", "--adapter", "paper", "symbol=THIN")
FILLS_ITSELF = (
    (*THIN, "side=buy", "quantity=2", "price=99.8", "--key", "rests"),
    (*THIN, "side=buy", "quantity=2", "type=market", "--key", "position"),
    (*THIN, "side=sell", "quantity=2", "price=99.8", "--key", "meets the first"),
)


def test_what_went_on_by_itself_is_noticed_when_asked(desk: Desk) -> None:
    rests, *_ = [desk.ask(*order)["resource"] for order in FILLS_ITSELF]
    assert rests["status"] == "pending"
    assert desk.ask("drift") == {"drifts": [], "providers": []}
    assert "no provider was ever compared" in desk.tell("drift").out
    found = desk.ask("drift", "--now")
    assert [(one["adapter"], one["compared"], one["unreachable"]) for one in found["comparisons"]] == [
        ("paper", 1, None)
    ]
    (drift,) = found["drifts"]
    assert (drift["resourceId"], drift["previous"], drift["provider"], drift["resolution"]) == (
        *(rests["id"], "pending", "filled", "progressed"),
    )
    assert drift["changes"]["filled"] == {"recorded": "0", "provider": "2"}
    told = desk.tell("drift", "--now").out
    assert "progressed" in told
    assert "filled 0 -> 2" in told
    assert "paper was compared at 2" in told
    assert [one["adapter"] for one in desk.ask("drift")["providers"]] == ["paper"]
    assert len(desk.ask("drift")["drifts"]) == 1
    assert desk.ask("resources", "--live") == {"resources": []}


def test_a_server_notices_by_itself() -> None:
    with up(more=("--drift-every", "1s")) as server:
        for order in FILLS_ITSELF:
            assert server.do(*order).code == 0
        drifts = until(lambda: server.do("drift", "--json").json["drifts"], "the difference")
        assert [one["resolution"] for one in drifts] == ["progressed"]
        assert server.do("drift", "--now", "--json").json["comparisons"][0]["drifts"] == []


# --- what an operator lets out ------------------------------------------------------------------------------------------


def test_a_limit_is_set_for_an_adapter_that_there_is(desk: Desk) -> None:
    refused = desk.tell("gate", "papr", "--per-day", "1", "--json")
    assert (refused.code, refused.error["code"]) == (2, "adapter_unavailable")
    assert "did you mean paper?" in refused.error["hint"]
    assert desk.refusal("gate", "papr") == "adapter_unavailable"
    assert desk.ask("gate", "papr", "--per-day", "1", "--force")["limits"]["perDay"] == 1
    assert desk.ask("gate", "papr")["limits"]["perDay"] == 1, "what is limited can be looked at, and freed"
    assert desk.ask("gate", "paper")["limits"]["perDay"] is None


def test_a_name_that_lets_nothing_out_is_warned_of(desk: Desk) -> None:
    told = desk.tell("gate", "paper", "--symbols", "ACME,NOSUCH", "--modes", "paper")
    assert told.code == 0
    assert "does not know the symbols NOSUCH" in told.err
    assert "modes" not in told.err
    assert desk.tell("gate", "paper", "--symbols", "ACME").err == ""


@pytest.mark.parametrize("option", ["--order-notional", "--day-notional"])
def test_an_amount_that_is_none_is_refused_in_words(desk: Desk, option: str) -> None:
    for amount in ("-5", "much", "NaN", "1e9"):
        refused = desk.tell("gate", "paper", option, amount)
        assert refused.code == 2
        assert f"{option} '{amount}' is neither" in refused.err
        assert "Error(" not in refused.err


def test_who_moved_a_switch_when_and_why_can_be_read(desk: Desk) -> None:
    assert desk.ask(*ORDER, "quantity=1", "--key", "a")["status"] == "confirmed"
    desk.ask("switch", "trip", "--rationale", "prices look wrong")
    refused = desk.ask(*ORDER, "quantity=1", "--key", "b", code=1)
    assert refused["message"].endswith(": prices look wrong")
    desk.ask("switch", "reset", "--rationale", "checked")
    moves = desk.ask("switch", "--history")["moves"]
    assert [(one["tripped"], one["rationale"]) for one in moves] == [
        (False, "checked"),
        (True, "prices look wrong"),
    ]
    told = desk.tell("switch", "--history").out
    assert told.index("checked") < told.index("prices look wrong")
    assert desk.refusal("switch", "trip", "--history", "--rationale", "x") == "invalid_setting"


def test_what_there_is_not_is_said_in_words(desk: Desk) -> None:
    assert [one["name"] for one in desk.ask("adapters")["adapters"]] == ["paper"], "before there is a store"
    desk.ask("switch", "trip", "--rationale", "so that there is a store")
    told = {verb: desk.tell(*verb).out for verb in (("orders", "paper"), ("resources",), ("drift",))}
    assert told["orders", "paper"] == "paper has no orders of tenant default\n"
    assert told["resources",] == "no command of tenant default has made any order or deployment\n"
    assert told["drift",].startswith("no difference is recorded for tenant default\n")


# --- steps ------------------------------------------------------------------------------------------------------------


def test_a_rerun_repeats_an_effect_only_when_it_is_named(desk: Desk) -> None:
    file = write_dag(desk.folder / "dag", TRADE)
    run = desk.ask("run", file, "--isolation", "in-process")
    assert (run["status"], run["effectsUnresolved"]) == ("completed", 0)
    (command,) = desk.ask("commands", "--run", run["runId"])["commands"]
    assert (command["runId"], command["stepId"], command["state"]) == (run["runId"], "buy", "confirmed")
    assert desk.refusal("rerun", run["runId"], "--from", "buy") == "effect_would_repeat"
    assert desk.ask("rerun", run["runId"])["status"] == "completed"
    assert len(desk.orders()) == 1
    again = desk.ask("rerun", run["runId"], "--from", "buy", "--repeat-effect", "buy")
    assert again["status"] == "completed"
    assert len(desk.orders()) == 2
    assert desk.refusal("rerun", run["runId"], "--repeat-effect", "sell") == "not_found"


def test_an_effect_that_nobody_knows_of_is_shown_everywhere_and_resolved_by_a_person(desk: Desk) -> None:
    name = desk.ask(*ORDER, "quantity=1", "--key", "k", "--no-wait", code=4)["commandId"]
    desk.make_unknown(name)
    (listed,) = desk.ask("commands", "--unknown")["commands"]
    assert (listed["commandId"], listed["parked"], listed["reason"]) == (name, True, "sends_exhausted")
    (waiting,) = desk.ask("waiting")["commands"]
    payload = {"symbol": "ACME", "side": "buy", "type": "market", "quantity": "1"}
    assert waiting == {**listed, "payload": payload, "detail": None}
    told = desk.tell("waiting").out
    assert json.dumps(payload["symbol"]) in told
    assert f"sovrun resolve {name}" in told
    assert "key k" in told
    assert desk.refusal("resolve", name, "--rationale", "x") == "invalid_setting"
    assert desk.tell("resolve", name, "--confirmed").code == 2, "a rationale is demanded"
    nameless = desk.tell("resolve", name, "--confirmed", "--rationale", "seen there", "--json")
    assert (nameless.code, nameless.error["code"]) == (2, "invalid_setting")
    assert "--resource" in nameless.error["hint"], "nothing could cancel it"
    resolved = desk.ask("resolve", name[:8], "--confirmed", "--resource", "o-1", "--rationale", "seen there")
    assert (resolved["state"], resolved["resourceId"]) == ("confirmed", "o-1")
    answer = desk.ask(*ORDER, "quantity=1", "--key", "k")
    assert answer["resolvedBy"]["rationale"] == "seen there"
    assert desk.ask("commands", "--unknown")["commands"] == desk.ask("waiting")["commands"] == []
    assert desk.orders() == [], "nobody has sent it"
    assert [one["id"] for one in desk.ask("resources", "--live")["resources"]] == ["o-1"]


def test_a_member_that_is_given_twice_is_refused(desk: Desk) -> None:
    assert desk.refusal(*ORDER, "quantity=1", "--key", "k", "symbol=THIN") == "invalid_setting"
    assert desk.refusal(*ORDER, "quantity=1", "quantity=1", "--key", "k") == "invalid_setting"
    assert not (desk.folder / "s.db").exists() or desk.ask("commands")["commands"] == []


def test_a_run_that_was_cancelled_says_that_an_effect_is_unresolved(tmp_path: Path) -> None:
    """Nobody listens at the provider's port: the order was not sent, and is tried again for as long as it takes."""
    adapter = {"kind": "http", "mapping": str(MAPPING), "baseUrl": "http://127.0.0.1:1"}
    (tmp_path / "adapters.json").write_text(json.dumps({"adapters": {"desk": adapter}}))
    with up(more=("--adapters", str(tmp_path / "adapters.json"))) as server:
        text = TRADE.replace("adapter: paper", "adapter: desk").replace("type: market, ", 'price: "1", ')
        run = server.submit(write_dag(server.folder / "dag", text))
        (left,) = until(lambda: server.do("commands", "--unknown", "--json").json["commands"], "the command")
        assert (left["runId"], left["reason"]) == (run, "not_reached")
        assert server.show(run)["effectsUnresolved"] == 1
        cancelled = server.do("cancel", run)
        assert (cancelled.code, "effects unresolved: 1" in cancelled.out) == (0, True)
        assert server.do("cancel", run, "--json").json["effectsUnresolved"] == 1
        shown = server.show(run)
        assert (shown["status"], shown["effectsUnresolved"]) == ("cancelled", 1)
        assert "effects unresolved: 1" in server.do("show", run).out
        assert "effects unresolved: 1" in server.do("runs").out
        asked = server.do("orders", "desk", "--json")
        assert (asked.code, asked.error["code"]) == (3, "provider_unavailable")
        compared = server.do("drift", "--now", "--json")
        assert (compared.code, compared.json["drifts"]) == (3, [])
        (provider,) = compared.json["providers"]
        assert (provider["comparedAt"], provider["unreachable"] is None) == (None, False)
        assert "desk could not be compared at 2" in server.do("drift").err
        assert server.do("drift", "--now").code == 3
        assert server.log().count("desk of tenant default could not be compared") == 1, "it is said once"
        done = server.do(
            "resolve", left["commandId"], "--refused", "--rationale", "it is switched off", "--json"
        )
        assert (done.code, done.json["state"]) == (0, "refused")
        assert server.show(run)["effectsUnresolved"] == 0


# --- settings ---------------------------------------------------------------------------------------------------------


SETTINGS = 'adapters: {desk: {kind: paper, prices: {GOLD: "10"}}}\n'


def test_adapters_come_from_the_file_that_is_named(desk: Desk) -> None:
    (desk.folder / "adapters.yaml").write_text(SETTINGS)
    order = (
        "command",
        "order.place",
        "--adapter",
        "desk",
        "symbol=GOLD",
        "side=buy",
        "type=market",
        "quantity=1",
    )
    named = ("--adapters", "adapters.yaml")
    assert desk.ask(*order, "--key", "k", *named)["resource"]["averagePrice"] == "10"
    assert desk.refusal(*order, "--key", "k2") == "adapter_unavailable"
    assert [one["name"] for one in desk.ask("adapters", *named)["adapters"]] == ["desk"]
    assert desk.ask("portfolio", "desk", *named)["positions"] == {"GOLD": "1"}
    assert desk.refusal("adapters", "--adapters", "nothing.yaml") == "invalid_setting"


def test_a_run_a_resumption_and_a_rerun_know_the_adapters_that_are_named(desk: Desk) -> None:
    (desk.folder / "adapters.yaml").write_text(SETTINGS)
    text = TRADE.replace("adapter: paper", "adapter: desk").replace("symbol: ACME", "symbol: GOLD")
    file = write_dag(desk.folder / "dag", text)
    named = ("--adapters", "adapters.yaml")
    run = desk.ask("run", file, "--isolation", "in-process", *named)
    assert run["status"] == "completed"
    desk.ask("submit", file, "--isolation", "in-process")
    assert desk.ask("resume", "--isolation", "in-process", *named)["ended"][0]["status"] == "completed"
    again = desk.ask("rerun", run["runId"], "--from", "buy", "--repeat-effect", "buy", *named)
    assert again["status"] == "completed"
    assert desk.ask("portfolio", "desk", *named)["positions"] == {"GOLD": "9"}


def test_a_server_knows_the_adapters_that_are_named(tmp_path: Path) -> None:
    (tmp_path / "adapters.yaml").write_text(SETTINGS)
    with up(more=("--adapters", str(tmp_path / "adapters.yaml"))) as server:
        order = ("command", "order.place", "--adapter", "desk", "symbol=GOLD", "side=buy", "type=market")
        assert server.do(*order, "quantity=1", "--key", "k", "--json").code == 0
        assert server.do("portfolio", "desk", "--json").json["positions"] == {"GOLD": "1"}
    wrong = sovrun("up", "--store", f"sqlite:{tmp_path / 'x.db'}", "--adapters", "no.yaml", cwd=tmp_path)
    assert wrong.code == 2
    assert "invalid_setting" in wrong.err
