"""An effect can be called from the command layer alone, which journals before it calls; everything else only reads.

That adapters are imported by the adapter set alone is a contract in `pyproject.toml`, checked by `test_imports.py`.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from sovrun.execution.adapter_set import AdapterSet, ReadsOnly
from sovrun.execution.port import AdapterReads, ExecutionAdapter
from support.clock import SetClock
from support.requests import TENANT
from support.scripted_provider import ScriptedProvider

PACKAGE = Path(__file__).parents[2] / "src" / "sovrun"
LAYER = "execution/layer.py"
ADAPTERS = "execution/adapters/"
WAYS_BACK = {"__self__", "__func__", "__closure__", "cell_contents"}
"""By which what is given to read with would lead to whose it is."""


def verbs(protocol: type) -> set[str]:
    """Return the names of the methods that a protocol declares itself."""
    return {name for name, value in vars(protocol).items() if inspect.isfunction(value) and name[0] != "_"}


READS = verbs(AdapterReads)
EFFECTS = verbs(ExecutionAdapter) - {"close"}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def named(tree: ast.Module, names: set[str]) -> set[str]:
    """Return which of these names a module takes from something, imports, or asks for by a text."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in names:
            found.add(node.attr)
        elif isinstance(node, ast.alias) and node.name.rpartition(".")[2] in names:
            found.add(node.name.rpartition(".")[2])
        elif isinstance(node, ast.Constant) and node.value in names:
            found.add(str(node.value))
    return found


def users(names: set[str]) -> dict[str, set[str]]:
    return {path: found for path, tree in sources() if (found := named(tree, names))}


def test_the_effects_are_those_that_the_port_declares() -> None:
    assert {
        "create_deployment",
        "stop_deployment",
        "place_order",
        "cancel_order",
        "perform_further",
    } == EFFECTS


def test_only_the_layer_calls_an_effect() -> None:
    outside = {path: found for path, found in users(EFFECTS).items() if not path.startswith(ADAPTERS)}
    assert outside == {LAYER: EFFECTS}


def test_nobody_asks_a_function_whose_it_is() -> None:
    assert users(WAYS_BACK) == {}


def test_no_adapter_calls_the_effects_of_another() -> None:
    """Its own it may define, and have its parts carry out."""
    imported = {
        path: found
        for path, tree in sources()
        if path.startswith(ADAPTERS) and (found := named(tree, {"effects_of", "AdapterSet", "CommandLayer"}))
    }
    assert imported == {}


def test_only_the_layer_gets_an_adapter_with_its_effects() -> None:
    assert set(users({"effects_of"})) == {LAYER}
    typed = {path for path in users({"ExecutionAdapter"}) if not path.startswith(ADAPTERS)}
    assert typed <= {LAYER, "execution/adapter_set.py"}
    assert {path for path, tree in sources() if reaches_into(tree, "_adapters")} == {
        "execution/adapter_set.py"
    }


def reaches_into(tree: ast.Module, name: str) -> bool:
    """Return whether a module takes a private attribute of something other than `self`."""
    return any(
        isinstance(node, ast.Attribute)
        and node.attr == name
        and not (isinstance(node.value, ast.Name) and node.value.id == "self")
        for node in ast.walk(tree)
    )


@pytest.mark.parametrize("effect", sorted(EFFECTS | {"close"}))
def test_what_everybody_else_gets_of_an_adapter_has_no_effects(effect: str) -> None:
    adapters = AdapterSet({"scripted": ScriptedProvider(SetClock())})
    reads = adapters.reads(TENANT, "scripted")
    assert isinstance(reads, ReadsOnly)
    assert not hasattr(reads, effect)
    with pytest.raises(AttributeError):
        setattr(reads, effect, None)


def test_everybody_gets_every_read() -> None:
    reads = AdapterSet({"scripted": ScriptedProvider(SetClock())}).reads(TENANT, "scripted")
    assert {name for name in dir(reads) if name[0] != "_"} - {"name", "capabilities"} == READS


@pytest.mark.parametrize("read", sorted(READS))
def test_no_read_gives_away_the_adapter(read: str) -> None:
    reads = AdapterSet({"scripted": ScriptedProvider(SetClock())}).reads(TENANT, "scripted")
    assert inspect.isfunction(getattr(reads, read)), "a method would know whose it is"


@pytest.mark.parametrize(
    "source",
    [
        "async def f(a): await a.place_order(1, 2)",
        "f = adapter.cancel_order",
        "getattr(adapter, 'create_deployment')",
        "from sovrun.execution.adapter_set import effects_of",
        "import sovrun.execution.adapter_set as s; s.effects_of(1, 2, 3)",
        "from sovrun.execution.adapter_set import effects_of as harmless",
        "async def look_for(adapter): await adapter.perform_further(1, 2, 3)",
        "async def f(reads): await reads.get_order.__self__.perform_further(1, 2, 3)",
        "async def f(reads, name): await getattr(reads.get_order.__self__, name)(1, 2, 3)",
        "getattr(reads.get_order, '__self__')",
        "reads.get_order.__closure__[0].cell_contents",
    ],
)
def test_a_call_from_elsewhere_would_be_noticed(source: str) -> None:
    assert named(ast.parse(source), EFFECTS | WAYS_BACK | {"effects_of"})
