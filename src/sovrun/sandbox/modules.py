"""Keeping the modules of one code directory apart from those of another within one interpreter.

Owns: which code directory is on the import path now, and the modules that were imported from each.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from sovrun.sandbox.exchange import load_function

CodeKey = tuple[str, str | None]
"""Path of a code directory and digest of what lies in it."""


class Stay:
    """One step's use of the directory on stage."""

    __slots__ = ("over",)

    def __init__(self) -> None:
        self.over = False


class CodeModules:
    """One code directory is on stage at a time; steps of the same one may run side by side.

    A step that imports something only while it runs finds its own directory's module, too. When the directory at a
    path has another digest than before, its modules are loaded afresh.
    """

    def __init__(self) -> None:
        self._functions: dict[tuple[CodeKey, str], Callable[..., Any]] = {}
        self._modules: dict[CodeKey, dict[str, ModuleType]] = {}
        self._on_stage: CodeKey | None = None
        self._users = 0
        self._waiting = 0
        self._changed = threading.Condition()

    def function(self, key: CodeKey, entry: str) -> Callable[..., Any]:
        """Return a function of the directory on stage. Raises: StepNotFound, and whatever the import raises."""
        function = self._functions.get((key, entry))
        if function is None:
            function = self._functions[key, entry] = load_function(entry)
        return function

    def enter(self, key: CodeKey) -> None:
        """Put a directory on stage for the only user; for an executor that runs one step at a time."""
        if key != self._on_stage:
            self._leave_stage()
            self._take_stage(key)

    def join(self, key: CodeKey) -> Stay:
        """Hold a directory on stage together with others that want the same one; wait while another is on it."""
        with self._changed:
            # Who comes later must not keep a waiting directory from its turn by prolonging the present one.
            while self._users and (key != self._on_stage or self._waiting):
                self._waiting += 1
                try:
                    self._changed.wait()
                finally:
                    self._waiting -= 1
            self.enter(key)
            self._users += 1
        return Stay()

    def leave(self, stay: Stay) -> None:
        """Give up what `join` gave; a second time does nothing."""
        with self._changed:
            if not stay.over:
                stay.over = True
                self._users -= 1
                if not self._users:
                    self._changed.notify_all()

    def close(self) -> None:
        """Leave the interpreter as it was found."""
        self._leave_stage()

    def _take_stage(self, key: CodeKey) -> None:
        path, _ = key
        if path:
            importlib.invalidate_caches()
            sys.path.insert(0, path)
            sys.modules.update(self._modules.get(key, {}))
        self._on_stage = key

    def _leave_stage(self) -> None:
        if self._on_stage is None or not self._on_stage[0]:
            return
        path, _ = self._on_stage
        own = {name: module for name, module in sys.modules.copy().items() if _lies_below(module, path)}
        self._modules[self._on_stage] = own
        for name in own:
            del sys.modules[name]
        if path in sys.path:
            sys.path.remove(path)
        self._on_stage = None


def _lies_below(module: ModuleType, path: str) -> bool:
    root: Final = path.rstrip("/") + os.sep
    file = getattr(module, "__file__", None)
    if file is not None:
        return str(file).startswith(root)
    return any(str(place).startswith(root) for place in getattr(module, "__path__", ()))
