"""What a sandbox starts with, as one file: the compiled runner and the modules it needs, in the order of their imports.

Owns: `image_of`. Looking for each module on the path, and compiling those that have no cached form, took longer than
the start of the interpreter itself.
"""

from __future__ import annotations

import importlib.util
import marshal
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Final

import sovrun

MODULES: Final = (
    "sovrun",
    "sovrun.step",
    "sovrun.sandbox",
    "sovrun.sandbox.smalljson",
    "sovrun.sandbox.verdicts",
    "sovrun.sandbox.values",
    "sovrun.sandbox.exchange",
    "sovrun.sandbox.wire",
    "sovrun.sandbox.syscalls",
    "sovrun.sandbox.landlock",
    "sovrun.sandbox.seal",
    "sovrun.sandbox.runner",
)
"""A module stands after those that it imports."""

_LOADER: Final = """\
import sys
from marshal import loads

def load(modules):
    del globals()["__file__"]  # else a child that multiprocessing spawns would take this for the step's program
    for name, folder, file, code in modules:
        module = type(sys)(name)
        module.__file__ = file
        module.__package__ = name if folder else name.rpartition(".")[0]
        if folder:
            module.__path__ = [folder]
        sys.modules[name] = module
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], own, module)
        exec(code, module.__dict__)
    return module

load(loads({modules!r})).main()
"""


WARM_MODULES: Final = (*MODULES, "sovrun.sandbox.warm_child", "sovrun.sandbox.template")
"""What a template starts with; see `warm_child.COLD` for why the runner's come first."""


@cache
def image_of(library: str, names: tuple[str, ...] = MODULES) -> bytes:
    """Return the image for this interpreter; compiled once per process.

    Args:
        names: of the modules; the last one has a `main`.
        library: directory inside the sandbox that holds the package, for tracebacks and further imports.
    """
    modules = tuple(_compiled(name, library) for name in names)
    code = compile(_LOADER.format(modules=marshal.dumps(modules)), "sovrun", "exec", dont_inherit=True)
    # The header of a cached module: magic number, no check against a source, whose hash is not given.
    return importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + marshal.dumps(code)


def source_of(path: Path) -> bytes:
    """Return what is to be compiled."""
    return path.read_bytes()


def _compiled(name: str, library: str) -> tuple[str, str, str, CodeType]:
    """Return name, folder when it is a package, file and code of a module, as they are inside."""
    relative = name.replace(".", "/")
    source = Path(sovrun.__file__).parents[1] / relative
    is_package = source.is_dir()
    path = source / "__init__.py" if is_package else source.with_suffix(".py")
    inside = f"{library}/{relative}/__init__.py" if is_package else f"{library}/{relative}.py"
    code = SourceFileLoader(name, str(path)).source_to_code(source_of(path), inside)
    return name, f"{library}/{relative}" if is_package else "", inside, code
