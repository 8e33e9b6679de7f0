"""The example with a network as its page tells it, with the server that its page names."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from support.guides import follow, require_as_told
from support.markdown import blocks
from support.tasks import require_bubblewrap
from support.up import until

EXAMPLE = Path(__file__).parents[2] / "examples" / "fetch"
PAGE = EXAMPLE / "README.md"


@pytest.fixture
def web() -> Iterator[None]:
    """Start the server as the page says."""
    (line,) = [block.text for block in blocks(PAGE.read_text()) if block.language == "text"]
    _, *rest = shlex.split(line)
    address, port = rest[rest.index("--bind") + 1], int(rest[rest.index("http.server") + 1])
    process = subprocess.Popen([sys.executable, *rest], cwd=EXAMPLE, stderr=subprocess.DEVNULL)

    def serves() -> bool:
        assert process.poll() is None, f"nothing can listen at {address}:{port}"
        with suppress(OSError):
            socket.create_connection((address, port)).close()
            return True
        return False

    until(serves, "the server")
    yield
    process.kill()
    process.wait()


def test_the_example_does_what_its_page_says(tmp_path: Path, web: None) -> None:
    require_bubblewrap()
    require_as_told(PAGE, follow(PAGE, tmp_path, beside=EXAMPLE))


def test_the_page_names_the_endpoint_of_the_document() -> None:
    declared = re.findall(r"[a-z.]+:\d+", (EXAMPLE / "dag.yaml").read_text())
    assert "rates.example.org:8080" in declared
    assert "--allow-endpoint rates.example.org:8080=" in PAGE.read_text()
