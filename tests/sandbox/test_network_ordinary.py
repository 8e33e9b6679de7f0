"""All that holds of the network of a step holds for an ordinary user as well as for root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from support.facilities import lacking

HERE = Path(__file__).parent
NOBODY = 65_534


def interpreter() -> str:
    """Return a Python of this version that every user can start."""
    said = "import sys; print(sys.version_info[:2])"
    for found in filter(None, (sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin"))):
        with suppress(PermissionError):
            asked = subprocess.run(
                [found, "-c", said], capture_output=True, text=True, user=NOBODY, check=False, cwd="/"
            )
            if asked.stdout.strip() == str(sys.version_info[:2]):
                return found
    return lacking("no Python of this version can be started by an ordinary user")


@pytest.mark.skipif(os.getuid() != 0, reason="the files named here are themselves run by an ordinary user")
@pytest.mark.parametrize("file", ["test_network_listeners.py", "test_network_carrying.py"])
def test_it_holds_for_an_ordinary_user(file: str, tmp_path: Path) -> None:
    paths = [str(HERE.parent), *(path for path in sys.path if path.endswith(("site-packages", "/src")))]
    script = (
        f"import os, sys; sys.path[:0] = {paths!r}\n"
        f"os.setgroups([]); os.setresgid({NOBODY}, {NOBODY}, {NOBODY}); os.setresuid({NOBODY}, {NOBODY}, {NOBODY})\n"
        f"import pytest; sys.exit(pytest.main(['-q', '-n0', '-p', 'no:cacheprovider', {str(HERE / file)!r}]))\n"
    )
    done = subprocess.run([interpreter(), "-c", script], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout
