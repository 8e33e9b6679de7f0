"""A run whose steps use the network, from the command line: what the operator allows, and what the history tells."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from support.cli import Done, sovrun, write_dag
from support.endpoints import Server, server, web_page
from support.tasks import require_bubblewrap
from support.up import up

PLUG = """
import urllib.request
from pathlib import Path
from sovrun.step import keep_file, work_dir

def fetch(url):
    page = urllib.request.urlopen(url, timeout=60).read()
    path = work_dir() / "page"
    path.write_bytes(b"the same page whatever came before it")
    return {"size": len(page) > 0, "page": keep_file(path)}

def read(page):
    from sovrun.step import path_of
    return path_of(page).read_text()
"""
DAG = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: rates}
inputs: {type: object, properties: {url: {type: string}}, required: [url]}
steps:
  - id: fetch
    python: plug:fetch
    with: {url: {from: inputs.url}}
    network: {allow: [NAME]}
    retry: {maxAttempts: 2, base: 1ms}
  - {id: read, python: "plug:read", needs: [fetch], with: {page: {from: steps.fetch.page}}}
"""


class Site:
    """A folder with a DAG that fetches from a server under a name that only the operator knows."""

    def __init__(self, folder: Path, web: Server) -> None:
        self.folder = folder
        self.name = f"api.test:{web.port}"
        self.entry = f"{self.name}=127.0.0.1"
        self.file = write_dag(folder / "dag", DAG.replace("NAME", self.name), PLUG)
        self.store = f"sqlite:{folder / 's.db'}"

    def run(self, *more: object, path: str = "/x") -> Done:
        url = f"url=http://{self.name}{path}"
        return self.do("run", self.file, "--input", url, *more)

    def do(self, *arguments: object) -> Done:
        require_bubblewrap()
        return sovrun(*arguments, "--store", self.store, cwd=self.folder)

    def told(self, run: str, type_: str) -> list[dict[str, object]]:
        """The connections in the events of a type."""
        events = self.do("events", run, "--json").lines()
        found = [event["data"].get("connections", []) for event in events if event["type"] == type_]
        return [one for connections in found for one in connections]


@pytest.fixture
def site(tmp_path: Path):
    with server(web_page) as web:
        yield Site(tmp_path, web)


def test_what_a_connection_carried_is_in_the_history_and_in_no_hash_but_the_chain(site: Site) -> None:
    long, short = (
        site.run("--allow-endpoint", site.entry, "--json", path=f"/{path}").json
        for path in ("x" * 400, "x" * 400)
    )
    assert long["outcomeHash"] == short["outcomeHash"]
    assert long["chainHead"] != short["chainHead"]
    [one] = site.told(long["runId"], "step.completed")
    host, _, port = site.name.partition(":")
    assert (one["host"], one["port"], one["end"], one["count"]) == (host, int(port), "closed", 1)
    assert one["sent"] > 400
    assert one["received"] > 400
    assert one["durationUs"] > 0


def test_a_step_that_the_operator_does_not_allow_fails_by_name_and_says_how_to_allow_it(site: Site) -> None:
    done = site.run("--json")
    assert done.code == 1
    fetch, read = done.json["steps"]
    assert (fetch["reason"], fetch["cause"], fetch["attempts"]) == ("network_not_allowed", "circumstance", 1)
    assert read["reason"] == "upstream_failed"
    assert done.json["reproducible"] is False
    shown = site.run()
    assert f"--allow-endpoint {site.name}" in shown.err
    assert "network_not_allowed" in shown.err


def test_the_environment_allows_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from support import cli  # noqa: PLC0415 -- whose environment is that of the commands

    plain = cli.environment
    entry = f"other/{site.name}=10.0.0.1 {site.entry}"
    monkeypatch.setattr(cli, "environment", lambda **more: plain(SOVRUN_ALLOW_ENDPOINTS=entry, **more))
    assert site.run().code == 0


def test_an_entry_of_another_form_is_refused_before_anything_is_done(site: Site) -> None:
    for command in (("run", site.file), ("up",), ("worker",), ("resume",)):
        done = site.do(*command, "--allow-endpoint", "10.0.0.1")
        assert (done.code, "invalid_setting" in done.err) == (2, True), done.err
    assert not (site.folder / "s.db").exists()


def test_failed_attempts_tell_their_connections_too(tmp_path: Path) -> None:
    calls = []

    def first_broken_off(made: socket.socket) -> None:
        calls.append(made)
        if len(calls) > 1:
            web_page(made)
            return
        made.recv(1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with server(first_broken_off) as web:
        site = Site(tmp_path, web)
        run = site.run("--allow-endpoint", site.entry, "--json").json
        assert run["status"] == "completed"
        assert [one["end"] for one in site.told(run["runId"], "step.awaiting_tool")] == ["reset"]
        assert [one["end"] for one in site.told(run["runId"], "step.completed")] == ["closed"]


def test_the_workers_of_a_server_have_its_list(site: Site) -> None:
    require_bubblewrap()
    with up("sandbox", more=("--allow-endpoint", site.entry)) as served:
        url = f"url=http://{site.name}/x"
        ended = served.ended(served.submit(site.file, "--input", url))
        assert ended["status"] == "completed"
        told = [event["data"].get("connections") for event in served.events(ended["runId"])]
        assert [one[0]["end"] for one in told if one] == ["closed"]


def test_a_replay_takes_what_was_recorded_and_reaches_nothing(tmp_path: Path) -> None:
    with server(web_page) as web:
        site = Site(tmp_path, web)
        run = site.run("--allow-endpoint", site.entry, "--json").json
        calls = web.calls
        for more in ((), ("--isolation", "in-process")):
            done = site.do("replay", run["runId"], "--json", *more)
            assert done.code == 0, done.out
            assert {step["id"]: step["verdict"] for step in done.json["steps"]} == {
                "fetch": "recorded",
                "read": "reproduced",
            }
            assert done.json["outcomeHash"]["replayed"] == run["outcomeHash"]
        assert web.calls == calls == 1
