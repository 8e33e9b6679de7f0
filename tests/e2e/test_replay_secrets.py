"""A replay has no secrets: steps that need one come out as they were recorded, and what they gave is built upon."""

from __future__ import annotations

from pathlib import Path

from support.cli import sovrun, write_dag

DAG = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: kept}
steps:
  - {id: fetch, python: "plug:fetch", secrets: {TOKEN: token}}
  - {id: count, python: "plug:count", needs: [fetch], with: {page: {from: steps.fetch}}}
"""
PLUG = """
from sovrun.step import keep_file, path_of, secret, work_dir

def fetch():
    page = work_dir() / "page"
    page.write_text(f"fetched with a token of {len(secret('TOKEN'))}")
    return keep_file(page)

def count(page):
    return len(path_of(page).read_text())
"""


def test_a_step_with_a_secret_is_not_executed_again(tmp_path: Path) -> None:
    file = write_dag(tmp_path / "dag", DAG, PLUG)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "token").write_text("canary-7f3a91")
    store = ["--store", f"sqlite:{tmp_path / 'runs.db'}"]
    options = ["--isolation", "in-process", "--secrets", f"dir:{tmp_path / 'secrets'}", "--json"]
    run = sovrun("run", file, *store, *options, cwd=tmp_path).json
    assert run["status"] == "completed"
    done = sovrun("replay", run["runId"], *store, "--json", cwd=tmp_path)
    assert done.code == 0, done.out
    assert {step["id"]: step["verdict"] for step in done.json["steps"]} == {
        "fetch": "recorded",
        "count": "reproduced",
    }
    assert done.json["outcomeHash"]["replayed"] == run["outcomeHash"]
