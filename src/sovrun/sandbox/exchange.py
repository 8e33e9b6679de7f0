"""How an `argv` step is handed its arguments as files, and how any entry point is found.

Owns: the fixed paths inside a sandbox, `write_arguments`, `write_secrets`, `program_of`, `split_entry`, `load_function`.
Standard library only: this is also imported inside the sandbox.
"""

# ruff: noqa: PTH102, PTH113, PTH123, PTH211 -- pathlib costs the start of every step 8 ms
from __future__ import annotations

import os
import sys

from sovrun.sandbox import smalljson
from sovrun.sandbox.verdicts import StepNotFound

TYPE_CHECKING = False  # importing what follows would slow the start of every step
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Final

CODE: Final = "/code"
WORK: Final = "/work"
INPUTS: Final = "/inputs"
LIBRARY: Final = "/sovrun/lib"
"""Where Sovrun's own package lies, so that a step can import `sovrun.step`."""

ARGUMENTS_DIR: Final = "inputs"
OUTPUTS_DIR: Final = "outputs"
SECRETS_DIR: Final = "secrets"


def fixed_environment(epoch: int, *, home: str, tmp: str, python_path: str) -> dict[str, str]:
    """Return the environment of every step, the same everywhere.

    Args:
        epoch: SOURCE_DATE_EPOCH in seconds.
        home, tmp: the work directory and the directory for temporary files.
        python_path: where modules are looked for before the installed ones.
    """
    return {
        "HOME": home,
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": python_path,
        "SOURCE_DATE_EPOCH": str(epoch),
        "TMPDIR": tmp,
        "TZ": "UTC",
    }


THREAD_COUNTS: Final = (
    "BLIS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Variables by which libraries are told how many threads to use; the order of a sum depends on it."""


def reproducible_environment(fixed: dict[str, str]) -> dict[str, str]:
    """Return the environment of a step in reproducible mode. Args: fixed: what every step has."""
    return {**fixed, **dict.fromkeys(THREAD_COUNTS, "1")}


def split_entry(entry: str) -> tuple[str, str]:
    """Return module and function of `module:function`. Raises: StepNotFound when it is of another form."""
    module, colon, function = entry.partition(":")
    if not (colon and module and function):
        raise StepNotFound(f"the entry point {entry!r} is not of the form module:function")
    return module, function


def load_function(entry: str) -> Callable[..., Any]:
    """Import the module of an entry point and return its function.

    Raises: StepNotFound when there is no such module or function; whatever the module itself raises on import.
    """
    name, attribute = split_entry(entry)
    try:
        __import__(name)  # as importlib.import_module does, which takes a while to import itself
        found: Any = sys.modules[name]
    except ModuleNotFoundError as error:
        # A module that the step's module fails to import is the step's own failure, and named as such.
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise StepNotFound(f"there is no module {name!r} (entry point {entry!r})") from None
        raise
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise StepNotFound(f"module {name!r} has no function {attribute!r} (entry point {entry!r})")
    return found  # type: ignore[no-any-return]  # any callable will do


def program_of(entry: str, code: str) -> str:
    """Return the path of a program: absolute as it is, relative below the code directory.

    Raises: StepNotFound when a relative path leaves the code directory or there is no such file.
    """
    if entry.startswith("/"):
        path = entry
    elif ".." in entry.split("/") or not entry:
        raise StepNotFound(f"the program {entry!r} does not lie below the DAG's code")
    else:
        path = f"{code}/{entry}"
    if not os.path.isfile(path):
        raise StepNotFound(
            f"there is no program {entry!r}; give a path below the DAG's code or an absolute one"
        )
    if not os.access(path, os.X_OK):
        raise StepNotFound(f"the program {entry!r} is not executable; run chmod +x on it")
    return path


def write_arguments(
    work: str, arguments: Mapping[str, Any], files: Mapping[Any, str | os.PathLike[str]]
) -> None:
    """Lay out the arguments of an `argv` step below its work directory, and make its outputs directory.

    A file or directory becomes the link `inputs/NAME`, any other value the JSON text `inputs/NAME.json`.
    Raises: ValueError when a name cannot be a file's name.
    """
    folder = f"{work}/{ARGUMENTS_DIR}"
    os.mkdir(folder)
    os.mkdir(f"{work}/{OUTPUTS_DIR}")
    for name, value in arguments.items():
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            raise ValueError(f"the argument {name!r} cannot become a file; rename it in `with`")
        digest = _file_digest(value)
        if digest is not None and digest in files:
            os.symlink(files[digest], f"{folder}/{name}")
        else:
            with open(f"{folder}/{name}.json", "w", encoding="utf-8") as target:
                target.write(smalljson.dumps(value) + "\n")


def write_secrets(work: str, secrets: Mapping[str, bytes]) -> None:
    """Lay out the secrets of an `argv` step as `secrets/NAME` below its work directory, which must lie in memory."""
    if secrets:
        os.mkdir(f"{work}/{SECRETS_DIR}", 0o700)
    for name, value in secrets.items():
        descriptor = os.open(f"{work}/{SECRETS_DIR}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        with open(descriptor, "wb") as target:
            target.write(value)


def _file_digest(value: Any) -> str | None:
    if isinstance(value, dict) and set(value) in ({"$file", "size"}, {"$tree"}):
        digest = value.get("$file", value.get("$tree"))
        return digest if isinstance(digest, str) else None
    return None
