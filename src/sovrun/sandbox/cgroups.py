"""Control groups: limits over all processes of a step together, and what they used.

Owns: finding each controller, which may be in version 1 on one machine, in version 2 on another and in both on a third;
one group for each running step, nested in the supervisor's own, so that limits from outside go on to hold.
Must not touch: when a step may begin; until it does, its processes may be outside of their group.
Standard library only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PURPOSES: Final = ("memory", "pids", "cpu")
"""What a group is used for: a limit, a limit, and an account of processor time."""

_CONTROLLERS_V1: Final = {"memory": "memory", "pids": "pids", "cpu": "cpuacct"}
_NAME: Final = "sovrun-{}"
_ENTRIES: Final = "cgroup.procs"
DELEGATION: Final = "Delegate=yes, DelegateSubgroup=main"
"""How a service of systemd is given groups below its own, and its own processes a place beside them."""

_DELEGATED: Final = ("user.delegate", "trusted.delegate")


@dataclass(frozen=True, slots=True)
class Place:
    """Where groups for one purpose can be made, or why they cannot.

    Args:
        version: 1 or 2; 0 when there is none.
        folder: the supervisor's own group, or the delegated one around it.
        refusal: what is missing, empty when groups can be made.
    """

    version: int
    folder: Path | None = None
    refusal: str = ""


def find(process: Path = Path("/proc/self")) -> dict[str, Place]:
    """Return of each purpose where groups can be made. Nothing is made, except that v2 controllers are handed down.

    Args:
        process: directory in /proc of the process whose groups are looked at.
    """
    mounts = _mounts(_text(process / "mountinfo"))
    places = {purpose: Place(0, refusal="there is no such controller") for purpose in PURPOSES}
    for line in reversed(_text(process / "cgroup").splitlines()):  # version 2 stands last, and goes first
        number, names, path = line.split(":", 2)
        for purpose, controller in _CONTROLLERS_V1.items():
            if places[purpose].version and not places[purpose].refusal:
                continue
            if number == "0" and not names:
                found = _version_2(mounts.get(""), path, purpose)
            elif controller in names.split(","):
                found = _version_1(mounts.get(controller), path, controller)
            else:
                continue
            places[purpose] = found
    return places


def _mounts(text: str) -> dict[str, tuple[str, Path]]:
    """Return of each controller of version 1, and of "" for version 2, the root and the place of its mount."""
    found: dict[str, tuple[str, Path]] = {}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        root, place = before.split()[3:5]
        kind, _, options = after.split()[:3]
        names = [""] if kind == "cgroup2" else options.split(",") if kind == "cgroup" else []
        for name in names:
            found.setdefault(name, (root, Path(place)))
    return found


def _own(mount: tuple[str, Path] | None, path: str) -> Path | None:
    if mount is None:
        return None
    root, place = mount
    inside = path.removeprefix(root.rstrip("/")) if path.startswith(root) else path
    return place / inside.lstrip("/")


def _version_1(mount: tuple[str, Path] | None, path: str, controller: str) -> Place:
    folder = _own(mount, path)
    if folder is None or not folder.is_dir():
        return Place(1, refusal=f"controller {controller} of version 1 is not mounted")
    if not os.access(folder, os.W_OK):
        return Place(1, refusal=f"{folder} cannot be written")
    return Place(1, folder)


def _version_2(mount: tuple[str, Path] | None, path: str, purpose: str) -> Place:
    folder = _own(mount, path)
    if folder is None or not folder.is_dir():
        return Place(2, refusal="version 2 is not mounted")
    if _is_delegated(folder.parent):  # as systemd's DelegateSubgroup= leaves it
        folder = folder.parent
    if purpose not in _text(folder / "cgroup.controllers").split() and not (
        purpose == "cpu" and (folder / "cpu.stat").exists()
    ):
        return Place(2, refusal=f"controller {purpose} is not delegated to {folder}")
    if not os.access(folder, os.W_OK):
        return Place(2, refusal=f"{folder} cannot be written")
    if purpose != "cpu" and purpose not in _text(folder / "cgroup.subtree_control").split():
        try:
            (folder / "cgroup.subtree_control").write_text(f"+{purpose}")
        except OSError as error:
            return Place(
                2,
                refusal=f"{folder} hands controller {purpose} down to nobody ({error.strerror})",
            )
    return Place(2, folder)


def _is_delegated(folder: Path) -> bool:
    for name in _DELEGATED:
        with suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    return False


class Group:
    """The groups of one step, one for each purpose that has a place. Raises: OSError when one cannot be made."""

    def __init__(self, folders: Mapping[str, tuple[int, Path]], limits: Mapping[str, int]) -> None:
        self._folders = folders
        self.entries = tuple(sorted({str(folder / _ENTRIES) for _, folder in folders.values()}))
        """Files into which the number of a process is written to move it in."""
        self._mover = 0
        for _, folder in folders.values():
            folder.mkdir(exist_ok=True)
        if "memory" in folders:
            self._limit_memory(*folders["memory"], limits["memory"])
        if "pids" in folders:
            _write(folders["pids"][1] / "pids.max", limits["processes"])

    def _limit_memory(self, version: int, folder: Path, limit: int) -> None:
        if version == 1:
            _write(folder / "memory.limit_in_bytes", limit)
            with suppress(FileNotFoundError):  # a kernel that does not count swap
                _write(folder / "memory.memsw.limit_in_bytes", limit)
            return
        _write(folder / "memory.max", limit)
        with suppress(FileNotFoundError):
            _write(folder / "memory.swap.max", 0)
        _write(folder / "memory.oom.group", 1)

    def watch_memory(self) -> int | None:
        """Return an eventfd that becomes readable when memory runs out; None where the kernel kills the whole group.

        Version 1 kills one process and lets the rest of the step go on.
        """
        version, folder = self._folders.get("memory", (0, Path()))
        if version != 1:
            return None
        alarm = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        source = os.open(folder / "memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            (folder / "cgroup.event_control").write_text(f"{alarm} {source}")
        except OSError:
            os.close(alarm)
            raise
        finally:
            os.close(source)
        return alarm

    def begin_entering(self, pids: Sequence[int]) -> int:
        """Move processes into the groups, in a process of its own, for the kernel may let it wait for milliseconds.

        Returns: that process, for which `finish_entering` waits.
        """
        self._mover = os.fork()
        if self._mover == 0:
            try:
                self._move(pids)
            finally:
                os._exit(0)
        return self._mover

    def finish_entering(self, pids: Sequence[int]) -> list[int]:
        """Move those that came to life meanwhile as well; return which of `pids` are not in every group after all."""
        self._await_mover()
        self._move(self._missing(pids))
        return self._missing(pids)

    def _await_mover(self) -> None:
        if self._mover > 0:
            os.waitpid(self._mover, 0)
            self._mover = 0

    def _missing(self, pids: Sequence[int]) -> list[int]:
        found = [set(map(int, _text(Path(entries)).split())) for entries in self.entries]
        return [pid for pid in pids if not all(pid in inside for inside in found)]

    def _move(self, pids: Sequence[int]) -> None:
        for entries in self.entries:
            for pid in pids:
                with suppress(OSError):  # it has ended, or is seen to be missing
                    Path(entries).write_text(str(pid))

    def cpu_us(self) -> int | None:
        """Return the processor time of all its processes, dead ones too, in microseconds; None when nobody counts."""
        version, folder = self._folders.get("cpu", (0, Path()))
        if version == 1:
            return int(_text(folder / "cpuacct.usage")) // 1000
        return _counter(folder / "cpu.stat", "usage_usec") if version == 2 else None

    def memory_peak(self) -> int:
        """Return the most memory it had at once, in bytes; 0 when nobody counts."""
        version, folder = self._folders.get("memory", (0, Path()))
        name = {1: "memory.max_usage_in_bytes", 2: "memory.peak"}.get(version)
        text = _text(folder / name) if name else ""
        return int(text) if text.strip().isdigit() else 0

    def ran_out_of_memory(self) -> bool:
        """Return whether the kernel killed one of its processes for want of memory."""
        version, folder = self._folders.get("memory", (0, Path()))
        name = {1: "memory.oom_control", 2: "memory.events"}.get(version)
        return bool(name and _counter(folder / name, "oom_kill"))

    def ran_out_of_processes(self) -> bool:
        """Return whether it was refused a process."""
        _, folder = self._folders.get("pids", (0, Path()))
        return bool("pids" in self._folders and _counter(folder / "pids.events", "max"))

    def remove(self) -> None:
        """Remove it; a group whose processes are not quite gone is left to the next supervisor."""
        self._await_mover()
        for folder in {folder for _, folder in self._folders.values()}:
            with suppress(OSError):
                folder.rmdir()


class Groups:
    """The groups of one supervisor's steps.

    Args:
        places: as `find` gives them.
    """

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._bases: dict[str, tuple[int, Path]] = {}
        self._refusals = {purpose: place.refusal for purpose, place in places.items() if place.refusal}
        for purpose, place in places.items():
            if place.folder is not None:
                try:
                    self._bases[purpose] = (place.version, _base(place.folder))
                    self._hand_down(purpose)
                except OSError as error:
                    self._bases.pop(purpose, None)
                    self._refusals[purpose] = f"{place.folder}: {error.strerror}"

    def _hand_down(self, purpose: str) -> None:
        version, base = self._bases[purpose]
        if version == 2 and purpose != "cpu":
            (base / "cgroup.subtree_control").write_text(f"+{purpose}")

    @property
    def memory_is_counted(self) -> bool:
        """Whether all memory of a step is limited, whatever it belongs to."""
        return "memory" in self._bases

    def kinds(self) -> dict[str, str]:
        """Return of each purpose `v1`, `v2` or why there is none."""
        return {
            purpose: f"v{self._bases[purpose][0]}"
            if purpose in self._bases
            else self._refusals.get(purpose, "switched off")
            for purpose in PURPOSES
        }

    def make(self, name: str, limits: Mapping[str, int]) -> Group | None:
        """Return a new group, None where there is no controller at all. Raises: OSError.

        Args:
            limits: `memory` in bytes, `processes`.
        """
        if not self._bases:
            return None
        return Group(
            {purpose: (version, base / name) for purpose, (version, base) in self._bases.items()}, limits
        )

    def close(self) -> None:
        """Remove what is left."""
        for base in {base for _, base in self._bases.values()}:
            _remove(base)


def _base(folder: Path) -> Path:
    """Make the directory of this process's groups, and remove those of processes that have died."""
    for other in folder.glob(_NAME.format("*")):
        number = re.fullmatch(_NAME.format(r"(\d+)"), other.name)
        if number and not Path("/proc", number[1]).exists():
            _remove(other)
    base = folder / _NAME.format(os.getpid())
    base.mkdir(exist_ok=True)
    return base


def _remove(base: Path) -> None:
    for folder in (*(path for path in base.glob("*") if path.is_dir()), base):
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def opened(process: Path = Path("/proc/self")) -> Iterator[Groups]:
    """Find places, make groups in them, and leave nothing behind."""
    groups = Groups(find(process))
    try:
        yield groups
    finally:
        groups.close()


def _write(path: Path, value: int) -> None:
    """Write a limit and see that it holds; the kernel rounds to pages."""
    path.write_text(str(value))
    text = path.read_text().strip()
    if not text.isdigit() or int(text) > value:
        raise OSError(0, f"reads back as {text}, not {value}", str(path))


def _counter(path: Path, name: str) -> int:
    for line in _text(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
