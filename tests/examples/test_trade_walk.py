"""The trade example as its page tells it: an order is placed, cancelled by a person's word, and never placed twice."""

from __future__ import annotations

from pathlib import Path

from support.guides import follow, require_as_told
from support.tasks import require_bubblewrap

EXAMPLE = Path(__file__).parents[2] / "examples" / "trade"


def test_the_example_does_what_its_page_says(tmp_path: Path) -> None:
    require_bubblewrap()
    page = EXAMPLE / "README.md"
    require_as_told(page, follow(page, tmp_path, beside=EXAMPLE))
