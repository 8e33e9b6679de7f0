"""Where an operator says that secrets are: by option or environment, for a run and for a server with its workers."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from support.cli import command, environment, sovrun, write_dag
from support.up import until

DAG = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: secretive}
steps:
  - {id: use, python: "plug:use", secrets: {TOKEN: token}}
"""
PLUG = """
from sovrun.step import secret

def use():
    return len(secret("TOKEN"))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "token").write_text("canary-7f3a91\n")
    return write_dag(tmp_path / "dag", DAG, PLUG)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path is short enough for a socket."""
    with TemporaryDirectory(prefix="sovrun-") as folder:
        yield Path(folder)


def options(tmp_path: Path) -> list[str]:
    return ["--store", f"sqlite:{tmp_path / 's.db'}", "--isolation", "in-process"]


@pytest.mark.parametrize(
    ("source", "tenant", "status"),
    [
        ("dir:held", "acme", "completed"),
        ("acme=dir:held", "acme", "completed"),
        ("default=dir:held", "acme", "failed"),
        ("acme=dir:held", "default", "failed"),
    ],
)
def test_a_source_serves_the_tenant_that_it_names_or_that_the_run_is_of(
    tmp_path, file, source, tenant, status
) -> None:
    asked = ["--secrets", source, "--tenant", tenant, "--json"]
    shown = sovrun("run", file, *options(tmp_path), *asked, cwd=tmp_path).json
    assert shown["status"] == status
    assert shown["steps"][0]["failure"] == (None if status == "completed" else "secret_not_found")


@pytest.mark.parametrize("source", ["vault:x", "acme=dir:held/{tenant}", "dir:dag"])
def test_what_is_no_source_or_lies_within_the_code_is_refused_before_anything_runs(
    tmp_path, file, source
) -> None:
    done = sovrun("run", file, *options(tmp_path), "--secrets", source, "--json", cwd=tmp_path)
    assert (done.code, done.error["code"]) == (2, "invalid_setting")


def test_a_server_reads_the_environment_and_its_workers_find_the_place(tmp_path, file, short) -> None:
    with (tmp_path / "said").open("wb") as said:
        server = subprocess.Popen(
            command("up", *options(short)),
            cwd=tmp_path,
            env=environment(SOVRUN_SECRETS="dir:held"),
            stdout=said,
            stderr=said,
        )
    try:
        until(lambda: b"serving" in (tmp_path / "said").read_bytes(), "the server")
        shown = sovrun("run", file, *options(short), "--json", cwd=tmp_path).json
        assert shown["status"] == "completed", shown
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
