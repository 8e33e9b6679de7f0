"""Every public code that the program can give out, found in the program itself.

Owns: the lists that `docs/reference/errors.md` is held against.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import sovrun
from sovrun.core import errors

PACKAGE = Path(sovrun.__file__).parent
_MISTAKE_MAKERS = {"Finding": 0, "Mistake": 0, "Fault": 0, "_find": 0, "BadReferenceError": 0, "_fault": 0}
_FAILURE_MAKERS = {"Failed": 0, "_refused": 1, "failure": 0, "Refused": 1}


def errors_raised() -> list[type[errors.SovrunError]]:
    """Return every class of error with a code of its own, the whole package loaded."""
    found: list[type[errors.SovrunError]] = []
    pending: list[type[errors.SovrunError]] = [errors.SovrunError]
    while pending:
        for kind in pending.pop().__subclasses__():
            pending.append(kind)
            if kind.__module__.startswith("sovrun.") and "code" in vars(kind):
                found.append(kind)
    return found


def literals(folder: Path, makers: dict[str, int]) -> Iterator[str]:
    """Yield the texts that are given to calls of `makers`, at the position told."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                if name in makers and len(node.args) > makers[name]:
                    yield from _texts(node.args[makers[name]])


def _pairs(folder: Path) -> Iterator[str]:
    """Yield the codes of pairs (code, message), in which some findings are handed on."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Tuple) and len(node.elts) == 2:
                code, message = node.elts
                if isinstance(code, ast.Constant) and re.fullmatch(r"[a-z]+(_[a-z]+)+", str(code.value)):
                    text = ast.unparse(message)
                    if isinstance(message, ast.JoinedStr | ast.Name) or " " in text:
                        yield str(code.value)


def _texts(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)


def mistake_codes() -> set[str]:
    """Return the codes of mistakes in a document that the code names literally."""
    return set(literals(PACKAGE / "core", _MISTAKE_MAKERS)) | set(_pairs(PACKAGE / "core" / "spec"))


def failure_codes() -> set[str]:
    """Return the codes of failed attempts that the engine and the executors name literally."""
    return {
        code
        for folder in ("engine", "sandbox")
        for code in literals(PACKAGE / folder, _FAILURE_MAKERS)
        if code.replace("_", "").isalpha()
    }


def stop_reasons() -> set[str]:
    """Return the reasons, named literally, of steps that fail without a failed attempt."""
    return set(literals(PACKAGE / "core", {"StepStopped": 0}))
