"""Landlock by itself, without any other wall: what a process may still do that has restricted itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sovrun
from sovrun.sandbox import landlock

RESTRICTED = """
import ctypes, errno, json, os, signal, socket, sys
sys.path.insert(0, sys.argv[1])
from sovrun.sandbox import landlock
folder, name = sys.argv[2:]
server = socket.socket(socket.AF_UNIX)
server.bind("\\0" + name)
server.listen()
reading, writing = os.pipe()
parent = os.getpid()
def tried(call):
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
if os.fork() == 0:
    ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    used = landlock.restrict([folder + "/open"], ["/dev/null"])
    found = {
        "version": used,
        "outside": tried(lambda: open(folder + "/probe", "w")),
        "existing": tried(lambda: open(folder + "/closed/file", "a")),
        "removing": tried(lambda: os.unlink(folder + "/closed/file")),
        "inside": tried(lambda: open(folder + "/open/probe", "w")),
        "moving": tried(lambda: os.rename(folder + "/closed/file", folder + "/open/stolen")),
        "reading": tried(lambda: open(folder + "/closed/file")),
        "device": tried(lambda: open("/dev/null", "w")),
        "other device": tried(lambda: open("/dev/zero", "w")),
        "making a device": tried(lambda: os.mknod(folder + "/open/node", 0o060600, os.makedev(8, 0))),
        "socket": tried(lambda: socket.socket(socket.AF_UNIX).connect("\\0" + name)),
        "signal": tried(lambda: os.kill(parent, 0)),
    }
    os.write(writing, json.dumps(found).encode())
    os._exit(0)
os.wait()
print(os.read(reading, 65536).decode())
"""


def test_a_restricted_process_writes_only_where_it_may(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "file").write_text("x")
    arguments = [str(Path(sovrun.__file__).parents[1]), str(tmp_path), f"sovrun-landlock-{tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-c", RESTRICTED, *arguments], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    version = found.pop("version")
    assert version == landlock.version()
    if version == 0:  # nothing is restricted, and whoever asks is told so
        assert found["outside"] == "done"
        return
    scoped = "EPERM" if version >= 6 else "done"
    assert {found.pop("socket"), found.pop("signal")} == {scoped}
    assert found.pop("moving") in ("EACCES", "EXDEV")
    allowed = {"inside": "done", "reading": "done", "device": "done"}
    assert found == {**dict.fromkeys(found, "EACCES"), **allowed}


def test_a_kernel_without_landlock_restricts_nothing_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "call", lambda *_: -1)
    assert (landlock.version(), landlock.restrict(["/work"], [])) == (0, 0)


def test_a_refusal_of_the_kernel_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "call", lambda *given: 7 if given[-1] == 1 else -1)
    with pytest.raises(OSError, match="Landlock refuses a set of rules"):
        landlock.restrict([], [])


@pytest.mark.parametrize(("version", "words"), [(1, 1), (3, 1), (4, 2), (5, 2), (6, 3), (9, 3)])
def test_each_version_is_asked_only_for_what_it_knows(monkeypatch, version: int, words: int) -> None:
    asked: list[bytes] = []

    def call(number: int, *arguments: object) -> int:
        if number == landlock.CREATE_RULESET and arguments[0] is None:
            return version
        if number == landlock.CREATE_RULESET:
            asked.append(arguments[0])  # type: ignore[arg-type]
            return os.open("/", os.O_RDONLY)
        return 0

    monkeypatch.setattr(landlock, "call", call)
    assert landlock.restrict(["/tmp"], ["/dev/null"]) == version  # noqa: S108 -- nothing is written
    (attributes,) = asked
    assert len(attributes) == 8 * words
    files = int.from_bytes(attributes[:8], "little")
    assert bool(files >> 13 & 1) == (version >= 2)
    assert bool(files >> 14 & 1) == (version >= 3)
    assert bool(files >> 15 & 1) == (version >= 5)
