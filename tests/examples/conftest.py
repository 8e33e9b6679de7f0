"""The example's package is imported as a worker would: from the DAG's directory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parents[2] / "examples" / "evidence"), str(Path(__file__).parent)]

from evidence_environment import Environment  # noqa: E402 -- found through the line above


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    root = tmp_path / "site-packages"
    root.mkdir()
    return Environment(root)
