"""The one place where an exception becomes the reason of a failure.

Owns: `failure`, `failure_of`, `FROM_INSIDE`. Standard library only: this is also imported inside the sandbox.
"""

from __future__ import annotations

import errno

from sovrun.step import DoNotRetry

TYPE_CHECKING = False  # importing what follows would slow the start of every step
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

MESSAGE_MAX: Final = 4 << 10
TRACEBACK_MAX: Final = 16 << 10


FROM_INSIDE: Final = frozenset(
    {
        "step_not_found",
        "step_raised",
        "do_not_retry",
        "output_not_json",
        "output_too_large",
        "memory_limit",
        "disk_limit",
        "process_limit",
        "open_files_limit",
    }
)
"""The reasons that the inside of a sandbox may give; whatever else it says is not believed."""

DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers by which the kernel says that there is no more room."""


class StepNotFound(Exception):
    """The module or the function of an entry point, or the program of an `argv` step, does not exist."""


def failure(reason: str, message: str, **more: Any) -> dict[str, Any]:
    """Return a failure as it goes over the wire."""
    return {"reason": reason, "message": cut(message, MESSAGE_MAX), **more}


def _nothing() -> bool:
    return False


def _is_refused_process(error: BaseException) -> bool:
    # What fork and the start of a thread raise when the kernel answers EAGAIN; both are raised for other reasons, too.
    return isinstance(error, BlockingIOError) or (
        isinstance(error, RuntimeError) and str(error) == "can't start new thread"
    )


def failure_of(
    error: BaseException, code: str, out_of_processes: Callable[[], bool] = _nothing
) -> dict[str, Any]:
    """Return what became of a step whose function raised.

    Args:
        code: path of the code directory; only frames below it are shown, by their path within it. Empty for a
            plain callable: then all frames but the caller's are.
        out_of_processes: says whether the step has as many processes as it may.
    """
    name = type(error).__name__
    if isinstance(error, StepNotFound):
        return failure("step_not_found", str(error))
    if isinstance(error, MemoryError):
        return failure("memory_limit", "the step ran out of memory (resources.memory)", error=name)
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return failure("disk_limit", "the step ran out of disk space (resources.disk)", error=name)
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return failure(
            "open_files_limit", "the step had too many files open (resources.openFiles)", error=name
        )
    if _is_refused_process(error) and out_of_processes():
        return failure(
            "process_limit",
            "the step asked for too many processes or threads (resources.processes)",
            error=name,
        )
    reason = "do_not_retry" if isinstance(error, DoNotRetry) else "step_raised"
    text = _message(error)
    return failure(
        reason,
        f"{name}: {text}" if text else name,
        error=cut(name, 256),
        lineage=[cut(base.__name__, 256) for base in type(error).__mro__ if base is not object][:32],
        traceback=_traceback(error, code),
    )


def _message(error: BaseException) -> str:
    try:
        return cut(str(error), MESSAGE_MAX)
    except Exception:  # noqa: BLE001 -- the step's own __str__ may do anything; its failure must not hide the first
        return "(its message cannot be shown: __str__ raised)"


def _traceback(error: BaseException, code: str) -> str:
    import traceback  # noqa: PLC0415 -- it costs every good step milliseconds otherwise

    frames = traceback.extract_tb(error.__traceback__)
    root = code.rstrip("/") + "/" if code else ""
    own = [frame for frame in frames if frame.filename.startswith(root)] if code else frames[1:]
    for frame in own:
        frame.filename = frame.filename.removeprefix(root)
    return cut("".join(traceback.format_list(own)), TRACEBACK_MAX)


def cut(text: str, limit: int) -> str:
    """Return `text` with at most about `limit` bytes, saying so when something was left out."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return data.decode()
    return data[:limit].decode("utf-8", "ignore") + " ... (cut)"
