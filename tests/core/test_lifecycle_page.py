"""The page about the lifecycle shows the table that the code obeys."""

from __future__ import annotations

import runpy
from pathlib import Path

from sovrun.core.lifecycle import State

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_what_the_table_makes() -> None:
    made = runpy.run_path(str(DOCS / "generate_lifecycle.py"))["page"]()
    assert (DOCS / "reference" / "lifecycle.md").read_text(encoding="utf-8") == made, (
        "run `python docs/generate_lifecycle.py`"
    )


def test_the_page_has_every_move_once() -> None:
    text = (DOCS / "reference" / "lifecycle.md").read_text(encoding="utf-8")
    arrows = [line for line in text.splitlines() if "-->" in line and "[*]" not in line]
    assert len(arrows) == len(set(arrows)) == 17
    assert all(f"| `{state}` |" in text for state in State)
    assert "17 moves are legal, 8 keep the state, 39 are refused." in text
