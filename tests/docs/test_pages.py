"""The documentation holds together: links and anchors resolve, generated parts are as the code is, layers are those kept."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest

from support.markdown import DOCS, ROOT, anchors, blocks, first_cells, links, name_of, pages, rows, section

PAGES = pages()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_anchors_resolve(page: Path) -> None:
    broken = []
    for link in links(page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    assert broken == []


def test_every_page_can_be_reached_from_the_first() -> None:
    seen: set[Path] = set()
    pending = [ROOT / "README.md"]
    while pending:
        page = pending.pop()
        seen.add(page)
        for link in links(page.read_text()):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.exists() and target not in seen:
                pending.append(target)
    assert {name_of(page) for page in PAGES if page not in seen} <= {"docs/testing/broken-on-purpose.md"}


def test_the_interfaces_are_those_of_the_code() -> None:
    page = DOCS / "architecture" / "INTERFACES.md"
    made = runpy.run_path(str(DOCS / "generate_interfaces.py"))["page"](page.read_text())
    assert page.read_text() == made, "run `python docs/generate_interfaces.py`"
    assert made.count("<!-- from ") == 10


def test_the_layers_are_those_that_the_contract_keeps() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    kept = [re.findall(r"[a-z_]+", layer) for layer in contract["layers"]]
    package = ROOT / "src" / "sovrun"
    built = [[room for room in layer if (package / room / "__init__.py").exists() or (package / f"{room}.py").exists()]
             for layer in kept if layer != ["__main__"]]  # fmt: skip
    text = section((DOCS / "architecture" / "README.md").read_text(), "The layers").partition("###")[0]
    told = [re.findall(r"`([a-z_]+)`|^([a-z_]+)$", row[1]) for row in rows(text)]
    assert [{one or other for one, other in layer} for layer in told] == [set(layer) for layer in built]


def test_every_module_of_the_core_has_its_room_on_the_page() -> None:
    text = section((DOCS / "architecture" / "README.md").read_text(), "The rooms of the core")
    told = {name for cell in first_cells(text) for name in re.findall(r"[a-z_]+", cell)}
    core = ROOT / "src" / "sovrun" / "core"
    modules = {
        path.stem for path in core.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert modules - {"__init__"} <= told


def test_every_decision_is_in_the_index_in_order() -> None:
    folder = DOCS / "adr"
    index = [link for link in links((folder / "README.md").read_text()) if link.startswith("0")]
    assert index == sorted(path.name for path in folder.glob("0*.md"))
    for number, name in enumerate(index, 1):
        text = (folder / name).read_text()
        assert text.startswith(f"# {number}. ")
        assert [line for line in text.splitlines() if line.startswith("## ")] == [
            "## Context", "## Decision", "## Consequences",
        ]  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_is_whole(page: Path) -> None:
    text = page.read_text()
    assert text.startswith("# ")
    assert text.endswith("\n")
    assert not re.search(r"\b(TODO|FIXME|TBD)\b", text)
    assert all(block.language for block in blocks(text)), "a block says what it is"
