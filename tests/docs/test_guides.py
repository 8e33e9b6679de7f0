"""Every guide can be followed word by word: its files are written, its commands run, its output is what is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.guides import follow, require_as_told
from support.markdown import DOCS, name_of, pattern_of
from support.tasks import require_bubblewrap

GUIDES = sorted(page for page in (DOCS / "guides").glob("*.md") if "```console" in page.read_text())


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_a_guide_can_be_followed_word_by_word(page: Path, tmp_path: Path) -> None:
    require_bubblewrap()
    require_as_told(page, follow(page, tmp_path))


def test_both_first_guides_are_followed() -> None:
    assert {"first-dag.md", "reading-a-run.md"} <= {page.name for page in GUIDES}


def test_an_output_that_is_not_what_a_guide_shows_is_noticed() -> None:
    assert pattern_of("a ... c\n...\nend").fullmatch("a b c\none\ntwo\nend\n")
    assert not pattern_of("a ... c\n...\nend").fullmatch("a b d\nend\n")
    assert not pattern_of("valid").fullmatch("valid\nand more\n")
