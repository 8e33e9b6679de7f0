"""Sandboxes that lack a wall: what of them is taken away, and steps in them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sovrun.ports import Failed, Succeeded
from sovrun.sandbox import executor as executor_module
from sovrun.sandbox import image
from sovrun.sandbox.executor import SandboxExecutor
from sovrun.sandbox.settings import SandboxSettings
from support import attacks
from support.tasks import require_bubblewrap, task

ATTACKS = Path(attacks.__file__).read_text()
Run = Callable[..., Awaitable[Succeeded | Failed]]
Replacements = tuple[tuple[str, str], ...]

WITHOUT = """
from sovrun.sandbox import attempt, launch, supervisor, templates, warm
def without(*flags, of=launch):
    words, left = list(of._BOUNDARY), []
    while words:
        word = words.pop(0)
        values = []
        while words and not words[0].startswith("--"):
            values.append(words.pop(0))
        if word not in flags:
            left += [word, *values]
    of._BOUNDARY = tuple(left)
def allow_everything():
    import os
    from pathlib import Path
    from sovrun.sandbox.filters import Filter
    made = os.memfd_create("filter")
    os.write(made, bytes.fromhex("060000000000ff7f"))
    supervisor.own_filter = lambda **_: Filter(Path(f"/proc/self/fd/{made}"), "0" * 64, 1)
def writable(*options):
    plain = launch._writable
    launch._writable = lambda *given: [word for word in plain(*given) if word not in options]
"""
"""Said to the supervisor before it begins; what follows takes something away."""

NOT_ATTESTED = (
    ("return [*problems, str(error)]", "return []"),
    ("    return problems\n\n\ndef set_limits", "    return []\n\n\ndef set_limits"),
)
"""The inside does not refuse, whatever it finds."""

NO_LANDLOCK = (("used = landlock.restrict(", "used = (lambda *_: setup['landlock'])("),)

SINGLE = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]


def all_but(flag: str, of: str = "launch") -> str:
    """Return what makes all namespaces but one; of a template's when `of` is `templates`."""
    others = [one for one in SINGLE if one != flag]
    return f"without('--unshare-all', of={of}); {of}._BOUNDARY = ({others!r} + list({of}._BOUNDARY))"


@asynccontextmanager
async def lacking_walls(
    folder: Path, code: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Run]:
    """Give a function that runs an attack in a sandbox which lacks something; its `opened` has the executors.

    Its arguments: `lacking`, what the supervisor is told; `inside` and `clone`, what is replaced in `seal.py` and in
    `warm_child.py`; `warm`; `control_groups`; limits and arguments of the step.
    """
    require_bubblewrap()
    opened: list[SandboxExecutor] = []
    steps = code(attacks=ATTACKS)

    async def carry_out(
        entry: str, *, lacking: str = "", inside: Replacements = (), clone: Replacements = (), **more: Any
    ) -> Succeeded | Failed:
        monkeypatch.setattr(executor_module, "SUPERVISOR", f"{WITHOUT}\n{lacking}\nsupervisor.main()")
        replaced = {"seal.py": inside, "warm_child.py": clone}
        monkeypatch.setattr(image, "source_of", lambda path: _changed(path, replaced.get(path.name, ())))
        image.image_of.cache_clear()
        settings = SandboxSettings(
            control_groups=more.pop("control_groups", True), warm=more.pop("warm", False)
        )
        executor = SandboxExecutor(folder / f"spool-{len(opened)}", settings)
        opened.append(executor)
        return await executor.execute(task(f"attacks:{entry}", code=steps, **more))

    carry_out.opened = opened  # type: ignore[attr-defined]
    try:
        yield carry_out
    finally:
        image.image_of.cache_clear()
        for executor in opened:
            await executor.close()


def _changed(path: Path, replacements: Replacements) -> bytes:
    text = path.read_text()
    for old, new in replacements:
        assert old in text, old
        text = text.replace(old, new)
    return text.encode()
