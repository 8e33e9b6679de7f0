"""Reading the documentation: its headings, links, tables and fenced blocks.

Owns: just as much of Markdown as `docs/` uses. A fenced block carries attributes after its language, which readers do not
see: `file=PATH` names the file it is, `exit=N` the exit code of the last command of a `console` block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^(`{3,})(.*)$")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, attributes, text and the number of its first line."""

    language: str
    attributes: dict[str, str]
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """A command of a `console` block and the output shown below it; `...` stands for what differs from run to run."""

    text: str
    shown: str
    code: int
    line: int


def pages() -> list[Path]:
    """Return every page of the documentation, the ones at the top of the repository among them."""
    return [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]


def name_of(path: Path) -> str:
    """Return how a page is called in a test's name."""
    return str(path.relative_to(ROOT))


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    found: list[Block] = []
    fence, begun, head = "", 0, ""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        mark = _FENCE.match(line)
        if not fence and mark:
            fence, head, begun = mark[1], mark[2], number
        elif fence and line.strip() == fence:
            language, *rest = head.split() or [""]
            attributes = dict(part.split("=", 1) for part in rest)
            body = "".join(f"{one}\n" for one in lines[begun + 1 : number])
            found.append(Block(language, attributes, body, begun + 2))
            fence = ""
    assert not fence, f"the block of line {begun + 1} has no end"
    return found


def prose(text: str) -> str:
    """Return a page without its fenced blocks."""
    kept, inside = [], ""
    for line in text.splitlines():
        mark = _FENCE.match(line)
        if inside:
            inside = "" if line.strip() == inside else inside
        elif mark:
            inside = mark[1]
        else:
            kept.append(line)
    return "\n".join(kept)


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as they are made where the repository is browsed."""
    found: set[str] = set()
    for line in prose(text).splitlines():
        if heading := re.match(r"#{1,6} +(.*?) *#*$", line):
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).replace("`", "").replace("*", "")
            slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
            count = sum(
                one == slug or re.fullmatch(re.escape(slug) + r"-\d+", one) is not None for one in found
            )
            found.add(f"{slug}-{count}" if count else slug)
    return found


def links(text: str) -> list[str]:
    """Return the targets of a page's links."""
    return _LINK.findall(re.sub(r"`[^`\n]*`", "", prose(text)))


def section(text: str, heading: str) -> str:
    """Return what stands below a heading, as far as the next one of the same or a higher level."""
    match = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,6}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert match, f"there is no section {heading!r}"
    level = len(match[1])
    whole = re.search(
        rf"^#{{{level}}} {re.escape(heading)}\n(.*?)(?=^#{{1,{level}}} |\Z)", text, re.MULTILINE | re.DOTALL
    )
    assert whole
    return whole[1]


def rows(text: str) -> list[list[str]]:
    """Return the rows of all tables of a text, without their heads; code marks are taken off single names."""
    found: list[list[str]] = []
    head = True
    for line in prose(text).splitlines():
        if not line.startswith("|"):
            head = True
        elif re.fullmatch(r"[|: -]+", line):
            head = False
        elif not head:
            found.append([_cell(cell) for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))])
    return found


def _cell(text: str) -> str:
    text = text.strip().replace("\\|", "|")
    return text[1:-1] if re.fullmatch(r"`[^`]*`", text) else text


def first_cells(text: str) -> list[str]:
    """Return the first cell of each row of a text's tables."""
    return [row[0] for row in rows(text)]


def commands(block: Block) -> Iterator[Command]:
    """Yield the commands of a `console` block with what is shown below each."""
    begun: list[tuple[int, list[str], list[str]]] = []
    for number, line in enumerate(block.text.splitlines(), block.line):
        if line.startswith("$ "):
            begun.append((number, [line[2:]], []))
        elif line.startswith("> ") and begun and not begun[-1][2]:
            begun[-1][1].append(line[2:])
        else:
            assert begun, f"line {number}: output before any command"
            begun[-1][2].append(line)
    for place, (number, command, shown) in enumerate(begun):
        last = place == len(begun) - 1
        code = int(block.attributes.get("exit", "0")) if last else 0
        yield Command("\n".join(command), "\n".join(shown), code, number)


def pattern_of(shown: str) -> re.Pattern[str]:
    """Return what an output must match: `...` within a line is anything in it, alone on a line any lines."""
    parts = []
    for line in shown.splitlines():
        if line.strip() == "...":
            parts.append(r"(?:.*\n)*?")
        else:
            parts.append(r".*?".join(re.escape(piece) for piece in line.split("...")) + r" *\n")
    return re.compile("".join(parts))
