"""Running hostile steps as a chosen user of the host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import sovrun
from sovrun.sandbox import landlock
from sovrun.sandbox.cgroups import find
from support import attacks
from support.tasks import require_bubblewrap

NOBODY = 65_534
CANARY = "canary-of-the-environment"


def users() -> list[int]:
    """Return the host's user ids as which this suite can run a supervisor."""
    return [0, NOBODY] if os.getuid() == 0 else [os.getuid()]


def has_landlock() -> bool:
    return landlock.version() > 0


class Attacker:
    """A process of its own, as the host's user `uid`, with an executor in it."""

    def __init__(self, uid: int, warm: bool = False) -> None:  # noqa: FBT001, FBT002 -- a parameter of a fixture
        require_bubblewrap()
        self.uid = uid
        self.warm = warm
        self.folder = Path(tempfile.mkdtemp(prefix="sovrun-attack-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.code = self.folder / "code"
        self.code.mkdir()
        shutil.copy(attacks.__file__, self.code / "attacks.py")
        self._serial = count()
        self._answers: dict[int, dict[str, Any]] = {}
        source, tests = Path(sovrun.__file__).parents[1], Path(__file__).parents[1]
        paths = [str(source), str(tests), *(path for path in sys.path if path.endswith("site-packages"))]
        self._process = subprocess.Popen(
            [_python(uid), str(tests / "support" / "ordinary.py"), str(uid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={"PYTHONPATH": ":".join(paths), "CANARY": CANARY, "PYTHONDONTWRITEBYTECODE": "1"},
        )

    @property
    def memory_is_hard(self) -> bool:
        """Whether this machine's control groups are this user's to use."""
        return self.uid == os.getuid() and find()["memory"].folder is not None

    def start(self, entry: str | list[str], *, control_groups: bool = True, **more: Any) -> int:
        """Begin a step; `more` are its limits and arguments."""
        entry = f"attacks:{entry}" if isinstance(entry, str) else entry
        return self._ask(do="run", entry=entry, code=str(self.code), more=more, control_groups=control_groups)

    def _ask(self, **request: Any) -> int:
        assert self._process.stdin is not None
        ident = next(self._serial)
        self._process.stdin.write(json.dumps({"id": ident, "warm": self.warm, **request}) + "\n")
        self._process.stdin.flush()
        return ident

    def result(self, ident: int) -> dict[str, Any]:
        """Wait for what became of a step."""
        assert self._process.stdout is not None
        while ident not in self._answers:
            line = self._process.stdout.readline()
            assert line, "the process that runs the steps has died"
            answer = json.loads(line)
            self._answers[answer["id"]] = answer
        return self._answers.pop(ident)

    def run(self, entry: str | list[str], **more: Any) -> dict[str, Any]:
        return self.result(self.start(entry, **more))

    def value(self, entry: str, **more: Any) -> Any:
        """Return what a step returned."""
        found = self.run(entry, **more)
        assert found["ok"], found
        return found["output"]

    def reason(self, entry: str | list[str], **more: Any) -> str:
        """Return why a step failed."""
        found = self.run(entry, **more)
        assert not found["ok"], found
        return str(found["reason"])

    def probe(self) -> dict[str, tuple[bool, str]]:
        """Return what `sovrun doctor` finds: of each item whether it is there, and the detail."""
        return {name: (ok, detail) for name, ok, detail in self.result(self._ask(do="probe"))["items"]}

    def kill(self, whom: str) -> None:
        """Kill the `supervisor` of its steps, or the `guard` above that."""
        self.result(self._ask(do="kill", whom=whom))

    def kill_engine(self) -> None:
        """Kill the process that has the executor."""
        self._process.kill()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        shutil.rmtree(self.folder)


def _python(uid: int) -> str:
    """Return an interpreter of our version that a user of the host can start."""
    candidates = [sys.executable, *(f"{folder}/python3" for folder in ("/usr/local/bin", "/usr/bin"))]
    for candidate in candidates:
        with suppress(OSError, subprocess.CalledProcessError):
            said = subprocess.run(
                [candidate, "-c", "import sys; print(*sys.version_info[:2])"],
                capture_output=True,
                text=True,
                check=True,
                user=uid if uid != os.getuid() else None,
                cwd="/",
            )
            if tuple(map(int, said.stdout.split())) == sys.version_info[:2]:
                return candidate
    raise AssertionError(f"user {uid} can start no Python {sys.version_info[:2]}; install one below /usr")


def living(marker: str) -> list[int]:
    """Return the processes of the host whose command line holds a marker."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit() and marker in (folder / "cmdline").read_text():
                found.append(int(folder.name))
    return found
