"""What a sandbox starts with: the image, its JSON, and what stands in for the interpreter's `site`."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sovrun
from sovrun.sandbox import smalljson
from sovrun.sandbox.image import MODULES, image_of
from sovrun.sandbox.settings import site_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
MANY = settings(max_examples=1_000, deadline=None)


@MANY
@given(VALUES)
def test_small_json_writes_what_json_writes_and_reads_it_back(value: object) -> None:
    text = smalljson.dumps(value)
    assert text == json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    data = text.encode(errors="surrogatepass")
    if "\\ud" not in json.dumps(value).lower():
        assert smalljson.loads(data) == value


@MANY
@given(
    st.binary(max_size=12)
    | st.text(alphabet='[]{}:,"0123456789.eE-+truefalsn \\u', max_size=12).map(str.encode)
)
def test_small_json_reads_only_what_json_reads_and_as_that(data: bytes) -> None:
    try:
        found = smalljson.loads(data)
    except (ValueError, RecursionError):
        return
    assert found == json.loads(data)


@pytest.mark.parametrize(
    "text", [b"", b" 1", b"1 ", b"1 2", b"NaN", b"[Infinity]", b'{"a":1', b"\xff", b"nul"]
)
def test_what_is_not_exactly_one_value_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- each has words of its own
        smalljson.loads(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_numbers_without_a_form_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        smalljson.dumps(value)


def test_types_without_a_form_are_refused() -> None:
    with pytest.raises(TypeError, match="type set"):
        smalljson.dumps({"a": {1}})


def imported_by(path: Path) -> set[str]:
    """Return the modules of ours that a module imports when it is loaded."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "sovrun":
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "sovrun"}
    return found


def test_each_module_of_the_image_stands_after_those_that_it_imports() -> None:
    """Else it would be looked for on the path, and compiled, in every sandbox."""
    root = Path(sovrun.__file__).parents[1]
    known: set[str] = set()
    for name in MODULES:
        path = root / name.replace(".", "/")
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        modules = {
            one for one in imported_by(source) if (root / one.replace(".", "/")).with_suffix(".py").is_file()
        }
        assert modules <= known, (name, modules - known)
        known.add(name)


def test_the_image_is_a_cached_module_of_this_interpreter() -> None:
    header = image_of("/sovrun/lib")[:16]
    assert header[:4] == __import__("importlib.util").util.MAGIC_NUMBER
    assert header[4:] == bytes([1]) + bytes(11)  # checked against nothing


def test_site_is_worked_out_from_what_is_installed(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "own.pth").write_text("# a comment\nsub\nabsent\n/somewhere/on/the/host\n")
    (tmp_path / "distutils-precedence.pth").write_text("import os; something()\n")
    found = site_of([(str(tmp_path), "/inside")], "/prefix")
    assert found == {"paths": ["/inside", "/inside/sub"], "prefix": "/prefix", "run": False}


@pytest.mark.parametrize(
    ("name", "text"), [("x.pth", "import x_hook\n"), ("x.pth", "import\tx_hook"), ("sitecustomize.py", "")]
)
def test_where_a_distribution_asks_for_code_site_itself_runs(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert site_of([(str(tmp_path), "/inside")], "/prefix")["run"] is True


async def test_a_step_finds_the_installed_distributions_its_prefix_and_exit(sandbox, code) -> None:
    from support.tasks import task, value_of  # noqa: PLC0415 -- beside its use

    folder = code(
        work="""
        import importlib.metadata, sys
        def run():
            import orjson
            return [importlib.metadata.version("orjson"), sys.prefix, callable(exit), sys.executable, "sovrun.step" in sys.modules]
        """
    )
    version, prefix, has_exit, executable, has_step = value_of(
        await sandbox.execute(task("work:run", code=folder))
    )
    assert version == __import__("importlib.metadata").metadata.version("orjson")
    assert executable.startswith(prefix)
    assert (has_exit, has_step) == (True, True)
    assert sys.prefix == sys.base_prefix or prefix == "/sovrun/env"
