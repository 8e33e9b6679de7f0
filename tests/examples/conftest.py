"""A small Python environment, made by hand, that tests break on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.environments import Environment


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    root = tmp_path / "site-packages"
    root.mkdir()
    return Environment(root)
