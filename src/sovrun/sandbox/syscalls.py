"""System calls that the standard library has no name for, without the package `ctypes`.

Owns: `call`. The package costs the start of every step 1.5 ms, a tenth of a bare interpreter; its C part does not.
Standard library only: this is imported inside the sandbox.
"""

from __future__ import annotations

from _ctypes import call_function, dlopen, dlsym  # what `ctypes.CDLL` is made of

TYPE_CHECKING = False  # importing what follows would slow the start of every step
if TYPE_CHECKING:
    from typing import Final

_SYSCALL: Final = dlsym(dlopen(None, 0), "syscall")  # type: ignore[arg-type]  # None is this very process


def call(number: int, *arguments: int | bytes | None) -> int:
    """Return the result of a system call, -1 when it failed; why, nobody keeps.

    Args:
        number: of the call on this architecture.
        arguments: integers of 32 bits, and the addresses of bytes; None is a null pointer.
    """
    return int(call_function(_SYSCALL, (number, *arguments)))
