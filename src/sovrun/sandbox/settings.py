"""What an operator may set about the sandbox, and the one place where its machine-dependent layout is worked out.

Owns: `SandboxSettings`, `Frame`.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from site import getsitepackages
from typing import Any, Final

import sovrun
from sovrun.core.errors import InvalidSetting
from sovrun.core.spec.model import SECOND_US
from sovrun.sandbox.caps import Cap
from sovrun.sandbox.exchange import LIBRARY
from sovrun.sandbox.image import WARM_MODULES, image_of
from sovrun.sandbox.network import AllowedEndpoint, trusted_folders

SEARCH_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
SOVRUN: Final = "/sovrun"
ENVIRONMENT: Final = f"{SOVRUN}/env"
"""Where a virtual environment lies inside, whatever its place on the host."""

_ETC: Final = {
    "passwd": "step:x:1000:1000::/work:/bin/sh\n",
    "group": "step:x:1000:\n",
    "hosts": "127.0.0.1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """Set by the operator.

    Args:
        uid_first, uid_count: as root, the range of host user ids that steps run as, one for each step that is
            running on this machine; none of them may belong to anybody. An ordinary user's steps run as that user.
        uid_folder: where it is kept which of them are taken; the same for all that share the range, for root alone.
        handshake_us: how long a sandbox may take from its start to `ready`, in microseconds.
        bwrap: path of bubblewrap; None means the first one in the system's directories.
        endpoints: what steps may reach outside when they declare it.
        caps: what a step gets at most, whatever it asks for.
        control_groups: use those that this machine gives; without them memory is limited for each process, and looked
            at ten times a second for all together.
        warm: start `python` steps as clones of a template that has imported what steps need, see `warm`.
        warm_modules: what it imports beside the standard library, by name.
        warm_steps, warm_us: how many steps, and for how many microseconds, one template serves.
    """

    uid_first: int = 1_879_048_192
    uid_count: int = 65_536
    uid_folder: str = "/run/sovrun-uids"  # no service's RuntimeDirectory, which goes with that service
    handshake_us: int = 60 * SECOND_US
    bwrap: Path | None = None
    caps: tuple[Cap, ...] = ()
    control_groups: bool = True
    endpoints: tuple[AllowedEndpoint, ...] = ()
    warm: bool = False
    warm_modules: tuple[str, ...] = ()
    warm_steps: int = 1_000
    warm_us: int = 600 * SECOND_US

    @property
    def uids(self) -> range:
        """The host user ids for steps."""
        return range(self.uid_first, self.uid_first + self.uid_count)

    def bubblewrap(self) -> Path | None:
        """Return where bubblewrap is, or None. The caller's PATH is not asked: it may hold anything."""
        if self.bwrap is not None:
            return self.bwrap if self.bwrap.is_file() else None
        found = shutil.which("bwrap", path=SEARCH_PATH)
        return Path(found) if found else None


def from_environment(variables: Mapping[str, str]) -> SandboxSettings:
    """Return what the operator's environment says about the sandbox. Raises: InvalidSetting."""
    warm, modules = parse_warm(variables)
    uids = parse_uids(variables.get(UIDS, ""))
    return SandboxSettings(
        uid_first=uids.start,
        uid_count=len(uids),
        uid_folder=str(Path(variables.get(UIDS_FOLDER, "") or SandboxSettings().uid_folder).absolute()),
        warm=warm,
        warm_modules=modules,
    )


UIDS: Final = "SOVRUN_UIDS"
UIDS_FOLDER: Final = "SOVRUN_UIDS_FOLDER"
_UID_LAST: Final = (1 << 32) - 2
"""The number above it means "no change" to the kernel."""


def parse_uids(text: str) -> range:
    """Return the host user ids of `FIRST:COUNT`, the usual ones for an empty text. Raises: InvalidSetting."""
    if not text:
        return SandboxSettings().uids
    first, _, count = text.partition(":")
    if not (first.isascii() and first.isdigit() and count.isascii() and count.isdigit()):
        raise InvalidSetting(f"{UIDS}: {text!r} is not FIRST:COUNT", hint=f"for example {UIDS}=2000000:1000")
    if len(text) > 21 or int(first) < 1 or int(count) < 1 or int(first) + int(count) - 1 > _UID_LAST:
        raise InvalidSetting(
            f"{UIDS}: {text!r} is no range of user ids",
            hint=f"choose at least one id, the first above 0, the last at most {_UID_LAST}",
        )
    return range(int(first), int(first) + int(count))


WARM: Final = "SOVRUN_WARM"
WARM_MODULES_NAMED: Final = "SOVRUN_WARM_MODULES"


def parse_warm(variables: Mapping[str, str]) -> tuple[bool, tuple[str, ...]]:
    """Return whether the operator asks for warm mode, and what a template imports then.

    Raises: InvalidSetting for another word than `0` or `1`, for what is no name of a module, and for modules without warm mode.
    """
    word = variables.get(WARM, "") or "0"
    modules = tuple(variables.get(WARM_MODULES_NAMED, "").split())
    if word not in ("0", "1"):
        raise InvalidSetting(f"{WARM}: {word!r} is neither 0 nor 1", hint="1 switches warm mode on")
    for name in modules:
        if not all(part.isidentifier() for part in name.split(".")):
            raise InvalidSetting(
                f"{WARM_MODULES_NAMED}: {name!r} is no module",
                hint="name modules as in `import`, between spaces",
            )
    if modules and word == "0":
        raise InvalidSetting(f"{WARM_MODULES_NAMED} is set without {WARM}", hint=f"set {WARM}=1, too")
    return word == "1", modules


@dataclass(frozen=True, slots=True)
class Frame:
    """What every sandbox of this process has in common.

    Args:
        binds: read-only (host path, path inside), a directory or a file each.
        links: (target, path inside).
        command: what a sandbox executes: the interpreter, its options, the image.
        site: where the interpreter finds the installed distributions, see `runner`.
    """

    binds: tuple[tuple[str, str], ...]
    links: tuple[tuple[str, str], ...]
    command: tuple[str, ...]
    site: Mapping[str, Any]

    def wire(self) -> dict[str, Any]:
        """Return the frame as it goes to the supervisor."""
        return {"binds": self.binds, "links": self.links, "command": self.command, "site": self.site}


def make_frame(folder: Path, *, warm: bool = False) -> Frame:
    """Write the files that sandboxes share below `folder`, and return the frame that uses them.

    The interpreter inside is the one that runs this process, with the same installed distributions.
    """
    etc = folder / "etc"
    etc.mkdir(parents=True)
    for name, text in _ETC.items():
        (etc / name).write_text(text)
    binds, links = _system(etc)
    base = Path(os.path.realpath(sys._base_executable))  # type: ignore[attr-defined]  # noqa: SLF001 -- as venv does
    for prefix in {os.path.realpath(sys.base_prefix), os.path.realpath(sys.base_exec_prefix)}:
        if not _below(prefix, ("/usr",)):
            binds.append((prefix, prefix))
    if not _below(str(base), ("/usr", os.path.realpath(sys.base_prefix))):
        binds.append((str(base), str(base)))
    python = str(base)
    own = folder / "sovrun"
    (own / "lib" / "sovrun").mkdir(parents=True)
    (own / "run.pyc").write_bytes(image_of(LIBRARY))
    if warm:
        (own / "template.pyc").write_bytes(image_of(LIBRARY, WARM_MODULES))
    binds.append((str(own), SOVRUN))
    binds.append((str(Path(sovrun.__file__).resolve().parent), f"{LIBRARY}/sovrun"))
    if sys.prefix == sys.base_prefix:
        site = site_of([(path, path) for path in getsitepackages() if Path(path).is_dir()], sys.prefix)
    else:
        packages = _environment(own / "env", base)
        binds += packages
        python = f"{ENVIRONMENT}/bin/python"
        site = site_of(packages, ENVIRONMENT)
        site["run"] = site["run"] or _sees_system_packages()
    _open_to_all(folder)  # a strict umask must not hide it from the users that steps run as
    # -S: what `site` would do is known, and done by the runner, who does not pay for finding it out.
    return Frame(tuple(binds), tuple(links), (python, "-s", "-P", "-B", "-S", f"{SOVRUN}/run.pyc"), site)


_HARMLESS: Final = ("distutils-precedence.pth", "_virtualenv.pth")
"""Code that packaging tools want to run at each start; it concerns the installing of packages alone."""


def site_of(packages: Sequence[tuple[str, str]], prefix: str) -> dict[str, Any]:
    """Return what the interpreter's `site` would add to the import path, and whether `site` itself has to run.

    Args:
        packages: directories of installed distributions, each with its place inside.
        prefix: of the interpreter's environment, inside.
    """
    paths, run = [], False
    for folder, inside in packages:
        paths.append(inside)
        for file in sorted(Path(folder).glob("*.pth")):
            lines = file.read_text(errors="replace").splitlines()
            wanted = [line.rstrip() for line in lines if line.strip() and not line.startswith("#")]
            code = [line for line in wanted if line.startswith(("import ", "import\t"))]
            run = run or (bool(code) and file.name not in _HARMLESS)
            # An absolute path, as of an editable installation, is a place on the host that is not mounted.
            paths += [
                f"{inside}/{line}"
                for line in wanted
                if line not in code and Path(folder, line).is_dir() and not line.startswith("/")
            ]
        run = run or Path(folder, "sitecustomize.py").is_file()
    return {"paths": paths, "prefix": prefix, "run": run}


def _open_to_all(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)


def _below(path: str, roots: Sequence[str]) -> bool:
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)


def _system(etc: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return binds and links for the system's programs and libraries, and a synthetic /etc."""
    binds, links = [("/usr", "/usr")], []
    for name in ("bin", "lib", "lib32", "lib64", "sbin"):
        path = Path("/", name)
        if path.is_symlink():
            links.append((str(path.readlink()).lstrip("/"), str(path)))
        elif path.is_dir():
            binds.append((str(path), str(path)))
    binds.append((str(etc), "/etc"))
    if Path("/etc/ld.so.cache").is_file():
        shutil.copyfile("/etc/ld.so.cache", etc / "ld.so.cache")
    for trusted in trusted_folders():  # where they are mounted for steps with a network
        (etc / Path(trusted).relative_to("/etc")).mkdir(parents=True)
    if Path("/etc/alternatives").is_dir():  # Debian's /usr/bin points there
        (etc / "alternatives").mkdir()  # to copy its 400 links would take longer than hundreds of mounts
        binds.append(("/etc/alternatives", "/etc/alternatives"))
    return binds, links


def _environment(folder: Path, base: Path) -> list[tuple[str, str]]:
    """Make our own skeleton of a virtual environment; return binds for the host's installed distributions in it.

    The host's skeleton would not do: its links may lead through places that are not mounted.
    """
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(base)
    system = "true" if _sees_system_packages() else "false"
    (folder / "pyvenv.cfg").write_text(
        f"home = {base.parent}\ninclude-system-site-packages = {system}\nversion = {sys.version.split()[0]}\n"
    )
    binds = []
    for kind in ("purelib", "platlib"):
        packages = Path(sysconfig.get_path(kind))
        inside = packages.relative_to(sys.prefix)
        if packages.is_dir() and not (folder / inside).exists():
            (folder / inside).mkdir(parents=True)
            binds.append((str(packages), f"{ENVIRONMENT}/{inside}"))
    return binds


def _sees_system_packages() -> bool:
    try:
        lines = Path(sys.prefix, "pyvenv.cfg").read_text().splitlines()
    except OSError:
        return False
    return any(
        key.strip().lower() == "include-system-site-packages" and value.strip().lower() == "true"
        for key, _, value in (line.partition("=") for line in lines)
    )
