"""The code keeps the size a reader can take in, and the repository names no machine it was made on."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = ("src", "tests", "examples", "benchmarks")
FUNCTION_LINES_MAX = 70
FUNCTION_LINES_USUAL = 40
FILE_LINES_MAX = 500
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".in", ".lock", ".sql", ".html", ""}


def code_files() -> list[Path]:
    return sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py"))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Give the name and the number of lines of each function of a file, docstring included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node.end_lineno - node.lineno + 1


def repository_texts() -> Iterator[tuple[Path, str]]:
    """Give what a clone holds, without recorded data, caches and what was installed."""
    top = [path for path in ROOT.iterdir() if path.is_file()]
    below = [path for name in (*CODE, "docs", "requirements", ".ci") for path in (ROOT / name).rglob("*")]
    for path in sorted({*top, *below}):
        if (
            path.is_file()
            and path.suffix in TEXT
            and "data" not in path.parts
            and "__pycache__" not in path.parts
        ):
            yield path, path.read_text(encoding="utf-8", errors="replace")


def test_no_function_is_longer_than_a_reader_can_hold() -> None:
    sizes = [size for path in code_files() if "src" in path.parts for size in functions(path)]
    assert [item for item in sizes if item[1] > FUNCTION_LINES_MAX] == []
    long = [item for item in sizes if item[1] > FUNCTION_LINES_USUAL]
    assert len(long) * 20 <= len(sizes), (
        f"more than one function in twenty is over {FUNCTION_LINES_USUAL} lines: {long}"
    )


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in code_files()}
    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > FILE_LINES_MAX} == {}


def test_nothing_names_the_place_it_was_made() -> None:
    here = re.compile(re.escape(f"{ROOT}/"))
    texts = list(repository_texts())
    assert len(texts) > 20, "the repository was not found"
    assert [str(path) for path, text in texts if here.search(text)] == []


def test_lock_files_pin_every_package_by_hash_and_name_no_host() -> None:
    for lock in sorted((ROOT / "requirements").glob("*.lock")):
        text = lock.read_text(encoding="utf-8")
        assert not re.search(r"://|index-url|find-links|file:| @ ", text), (
            f"{lock.name} names where packages come from"
        )
        pins = re.findall(
            r"^[a-z0-9._-]+==\S+.*(?:\n {4}--hash=sha256:[0-9a-f]{64}.*)+", text, flags=re.MULTILINE
        )
        assert len(pins) == len(re.findall(r"^[a-z]", text, flags=re.MULTILINE)), (
            f"{lock.name} holds an unpinned package"
        )


def test_names_of_tests_are_unique_within_a_file() -> None:
    for path in code_files():
        names = [
            node.name
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef)
        ]
        assert len(names) == len(set(names)), (
            f"{path.relative_to(ROOT)} defines a function twice, so that the first never runs"
        )
