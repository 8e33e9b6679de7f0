"""The layers of DESIGN section 12 hold: the contracts themselves are in `pyproject.toml`."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

PACKAGE = Path(__file__).parents[2] / "src" / "sovrun"


def imported_roots(source: str) -> set[str]:
    """Return the top-level packages a module imports, wherever in it; `.` for a relative import."""
    roots = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add("." if node.level else str(node.module).partition(".")[0])
    return roots


def test_imports_only_point_downward_and_the_core_is_pure() -> None:
    assert lint_imports(no_cache=True) == 0


@pytest.mark.parametrize("name", ["step.py", "replica.py"])
def test_what_plug_ins_import_needs_nothing_but_the_standard_library(name: str) -> None:
    source = (PACKAGE / name).read_text(encoding="utf-8")
    assert imported_roots(source) <= sys.stdlib_module_names
