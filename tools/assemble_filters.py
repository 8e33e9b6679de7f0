"""Write the system call filters that ship with Sovrun, one program of classic BPF per architecture and variant.

Run it after a change of the tables below; a test compares what it makes with the shipped bytes. Nothing of this is
needed where Sovrun runs: bubblewrap is handed the bytes (`--seccomp`).

The filter denies by list. A call of another architecture's table (i386, x32) kills the process: its numbers mean other
calls. What is denied gets EPERM, except clone3: its flags lie in memory that a filter cannot read, and ENOSYS makes the C
library fall back to clone, whose flags are looked at.

Numbers: `asm/unistd_64.h` for x86_64, `asm-generic/unistd.h` for aarch64; from 424 on all architectures share theirs.
"""

from __future__ import annotations

import errno
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

PLACE: Final = Path(__file__).parents[1] / "src" / "sovrun" / "sandbox" / "bpf"

ARCHITECTURES: Final[Mapping[str, int]] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH_* of `linux/audit.h`."""

X32_BIT: Final = 0x40000000
"""Set in the numbers of x32 calls, which share the architecture word of x86_64."""

# --- what is denied ---------------------------------------------------------------------------------------------------

# name: (x86_64, aarch64); None where the architecture has no such call.
DENIED: Final[Mapping[str, tuple[int | None, int | None]]] = {
    # other processes, and what they hold
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "kcmp": (312, 272), "pidfd_getfd": (438, 438),
    # keyrings pass through every namespace
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # new namespaces, and the building of file systems
    "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442), "statmount": (457, 457),
    "listmount": (458, 458), "open_tree_attr": (467, 467), "listns": (470, 470), "open_by_handle_at": (304, 265),
    # parts of the kernel that are large, young and not needed by programs that compute
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "userfaultfd": (323, 282), "bpf": (321, 280), "perf_event_open": (298, 241), "fanotify_init": (300, 262),
    "lookup_dcookie": (212, 18), "lsm_set_self_attr": (460, 460), "memfd_secret": (447, 447),
    "migrate_pages": (256, 238), "move_pages": (279, 239), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    # the machine as a whole
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89),
    "syslog": (103, 116), "vhangup": (153, 58), "sethostname": (170, 161), "setdomainname": (171, 162),
    "nfsservctl": (180, 42),
    # the clock
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    # of x86 only
    "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None), "uselib": (134, None), "ustat": (136, None),
    "sysfs": (139, None), "_sysctl": (156, None), "create_module": (174, None), "get_kernel_syms": (177, None),
    "query_module": (178, None),
}  # fmt: skip

UNCOUNTED_MEMORY: Final[Mapping[str, tuple[int, int]]] = {
    "memfd_create": (319, 279), "shmget": (29, 194), "msgget": (68, 186),
}  # fmt: skip
"""Memory that belongs to no process, so that no limit of a process covers it; a control group does."""

TEMPLATES_OWN: Final = ("mount", "move_mount")
"""What a template may do that no step may, beside the making of namespaces."""

EXAMINED: Final[Mapping[str, tuple[int, int]]] = {
    "clone": (56, 220), "clone3": (435, 435), "unshare": (272, 97), "personality": (135, 92), "socket": (41, 198),
    "socketpair": (53, 199), "ioctl": (16, 29), "fcntl": (72, 25),
}  # fmt: skip

NAMESPACES: Final = 0x7E020000
"""CLONE_NEW* as clone knows them; in clone, CLONE_NEWTIME is part of the signal's number."""

CLONE_NEWTIME: Final = 0x80
FAMILIES: Final = (1, 2, 10)
"""AF_UNIX, AF_INET, AF_INET6. Not AF_VSOCK: a network namespace does not confine it."""

PERSONALITIES: Final = (0, 0xFFFFFFFF)
"""PER_LINUX, and the question which one it is."""

TERMINAL_INJECTION: Final = (0x5412, 0x541C)
"""TIOCSTI, TIOCLINUX."""

WATCHES_OF_FILES: Final = (1024, 1026)
"""F_SETLEASE, F_NOTIFY: they tell of, and hold up, what others do with files that a step may only read."""

# --- the assembler ----------------------------------------------------------------------------------------------------

_LOAD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_JUMP_NOT_LESS: Final = 0x35
_JUMP_ANY_BIT: Final = 0x45
_RETURN: Final = 0x06

_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Offsets within `struct seccomp_data`; the low halves of the arguments, both architectures being little-endian."""

_RESULTS: Final[Mapping[str, int]] = {
    "kill": 0x80000000,
    "deny": 0x00050000 | errno.EPERM,
    "absent": 0x00050000 | errno.ENOSYS,
    "allow": 0x7FFF0000,
}

Line = tuple[int, int, str | None, str | None]
"""Code, operand, and the labels to go to when true and when false; None is the next line."""


class Program:
    """Lines with labels, which become instructions once all are known."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._labels: dict[str, int] = {}

    def label(self, name: str) -> None:
        """Name the next line."""
        self._labels[name] = len(self._lines)

    def load(self, offset: int) -> None:
        """Take the word at `offset` of the call's description."""
        self._lines.append((_LOAD, offset, None, None))

    def when(self, code: int, operand: int, then: str | None, otherwise: str | None = None) -> None:
        """Go on at a label when the word compares with `operand`."""
        self._lines.append((code, operand, then, otherwise))

    def answer(self, result: str) -> None:
        """End with one of the results."""
        self._lines.append((_RETURN, _RESULTS[result], None, None))

    def assemble(self) -> bytes:
        """Return the instructions. Raises: ValueError when a jump is too far."""
        return b"".join(
            struct.pack("<HBBI", code, self._jump(at, then), self._jump(at, otherwise), operand)
            for at, (code, operand, then, otherwise) in enumerate(self._lines)
        )

    def _jump(self, at: int, label: str | None) -> int:
        distance = 0 if label is None else self._labels[label] - at - 1
        if not 0 <= distance <= 255:
            raise ValueError(f"line {at}: {label} is {distance} lines away")
        return distance


def assemble(architecture: str, *, memory_is_counted: bool, for_template: bool = False) -> bytes:
    """Return one filter.

    Args:
        architecture: a key of `ARCHITECTURES`.
        for_template: allow what a template needs to make a step's namespaces and mounts; the step has the filter
            without it on top.
        memory_is_counted: a control group counts all memory, so that memory outside of processes may be allowed.
    """
    column = list(ARCHITECTURES).index(architecture)
    program = Program()
    program.load(_ARCHITECTURE)
    program.when(_JUMP_EQUAL, ARCHITECTURES[architecture], None, "kill")
    program.load(_NUMBER)
    if architecture == "x86_64":
        program.when(_JUMP_NOT_LESS, X32_BIT, "kill")
    for name, numbers in EXAMINED.items():
        program.when(_JUMP_EQUAL, numbers[column], "absent" if name == "clone3" else name)
    tables: list[Mapping[str, Sequence[int | None]]] = (
        [DENIED] if memory_is_counted else [DENIED, UNCOUNTED_MEMORY]
    )
    denied = sorted(
        row[column]
        for table in tables
        for name, row in table.items()
        if row[column] is not None and not (for_template and name in TEMPLATES_OWN)
    )
    for position, number in enumerate(denied):
        program.when(_JUMP_EQUAL, number, "deny", "allow" if position == len(denied) - 1 else None)
    _examine(program, 0 if for_template else NAMESPACES)
    for result in _RESULTS:
        program.label(result)
        program.answer(result)
    return program.assemble()


def _examine(program: Program, namespaces: int) -> None:
    """Add what looks at arguments. Args: namespaces: those that may not be made, as flags."""
    for name, mask in (("clone", namespaces), ("unshare", namespaces | CLONE_NEWTIME)):
        program.label(name)
        program.load(_ARGUMENTS)
        program.when(_JUMP_ANY_BIT, mask, "deny", "allow")
    for name, position, wanted in (("personality", 0, PERSONALITIES), ("socket", 0, FAMILIES)):
        program.label(name)
        if name == "socket":
            program.label("socketpair")
        program.load(_ARGUMENTS + 8 * position)
        _one_of(program, wanted, "allow", "deny")
    for name, position, refused in (("ioctl", 1, TERMINAL_INJECTION), ("fcntl", 1, WATCHES_OF_FILES)):
        program.label(name)
        program.load(_ARGUMENTS + 8 * position)
        _one_of(program, refused, "deny", "allow")


def _one_of(program: Program, values: Sequence[int], then: str, otherwise: str) -> None:
    for value in values:
        program.when(_JUMP_EQUAL, value, then, otherwise if value == values[-1] else None)


def all_filters() -> dict[str, bytes]:
    """Return every shipped file by its name."""
    return {
        f"{architecture}-{variant}.bpf": assemble(
            architecture, memory_is_counted=variant != "uncounted", for_template=variant == "template"
        )
        for architecture in ARCHITECTURES
        for variant in ("counted", "uncounted", "template")
    }


if __name__ == "__main__":
    PLACE.mkdir(exist_ok=True)
    for name, program in all_filters().items():
        (PLACE / name).write_bytes(program)
        sys.stdout.write(f"{name}: {len(program) // 8} instructions\n")
