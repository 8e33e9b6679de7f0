"""The shipped filters: that they are what the tables make, and what they answer, on both architectures."""

from __future__ import annotations

import importlib.util
import struct
from errno import ENOSYS, EPERM
from pathlib import Path
from types import ModuleType

import pytest

from sovrun.sandbox.filters import FOLDER, filter_of, template_filter_of

KILL, ALLOW = 0x80000000, 0x7FFF0000
DENY, ABSENT = 0x50000 | EPERM, 0x50000 | ENOSYS
I386 = 0x40000003


def load_tool() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "assemble_filters.py"
    spec = importlib.util.spec_from_file_location("assemble_filters", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOL = load_tool()
CALLS = {**TOOL.DENIED, **TOOL.UNCOUNTED_MEMORY, **TOOL.EXAMINED}


def answer(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """Carry a filter out on one call, as the kernel does."""
    values = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, architecture, 0, *values)
    lines = list(struct.iter_unpack("<HBBI", program))
    at = word = 0
    while True:
        code, when_true, when_false, operand = lines[at]
        at += 1
        if code == 0x20:
            (word,) = struct.unpack_from("<I", data, operand)
        elif code == 0x06:
            return int(operand)
        else:
            holds = {0x15: word == operand, 0x35: word >= operand, 0x45: bool(word & operand)}[code]
            at += when_true if holds else when_false


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def judge(machine: str, name: str, *arguments: int, counted: bool = True) -> int:
    found = filter_of(machine, memory_is_counted=counted)
    assert found is not None
    number = CALLS[name][list(TOOL.ARCHITECTURES).index(machine)]
    return answer(found.path.read_bytes(), TOOL.ARCHITECTURES[machine], number, *arguments)


def test_the_shipped_bytes_are_what_the_script_makes() -> None:
    assert {path.name: path.read_bytes() for path in FOLDER.glob("*.bpf")} == TOOL.all_filters()


def test_every_call_of_the_list_is_denied(machine) -> None:
    column = list(TOOL.ARCHITECTURES).index(machine)
    known = [name for name, numbers in TOOL.DENIED.items() if numbers[column] is not None]
    assert len(known) > 50
    assert {name: judge(machine, name) for name in known} == dict.fromkeys(known, DENY)


def test_calls_of_another_architecture_kill(machine) -> None:
    found = filter_of(machine, memory_is_counted=True)
    assert found is not None
    program = found.path.read_bytes()
    assert answer(program, I386, 1) == KILL
    if machine == "x86_64":
        assert answer(program, TOOL.ARCHITECTURES[machine], 0x40000000) == KILL
        assert answer(program, TOOL.ARCHITECTURES[machine], 0x40000000 | 101) == KILL


def test_reading_is_allowed(machine) -> None:
    found = filter_of(machine, memory_is_counted=False)
    assert found is not None
    read = {"x86_64": 0, "aarch64": 63}[machine]
    assert answer(found.path.read_bytes(), TOOL.ARCHITECTURES[machine], read) == ALLOW


def test_only_three_families_of_sockets_exist(machine) -> None:
    allowed = [family for family in range(64) if judge(machine, "socket", family) == ALLOW]
    assert allowed == [1, 2, 10]
    assert [family for family in range(64) if judge(machine, "socketpair", family) == ALLOW] == allowed
    assert judge(machine, "socket", 40 | 1 << 32) == DENY


@pytest.mark.parametrize("shift", [17, *range(25, 31)])
def test_no_clone_and_no_unshare_makes_a_namespace(machine, shift) -> None:
    assert judge(machine, "clone", 1 << shift | 17) == DENY
    assert judge(machine, "unshare", 1 << shift) == DENY


def test_plain_processes_and_threads_can_be_made_and_clone3_falls_back(machine) -> None:
    threads = 0x3D0F00
    assert judge(machine, "clone", 17) == ALLOW
    assert judge(machine, "clone", threads) == ALLOW
    assert judge(machine, "clone3") == ABSENT
    assert judge(machine, "unshare", 0x80) == DENY
    assert judge(machine, "unshare", 0x400) == ALLOW


def test_a_personality_can_be_asked_for_and_not_changed(machine) -> None:
    assert [judge(machine, "personality", value) for value in (0xFFFFFFFF, 0)] == [ALLOW, ALLOW]
    assert [judge(machine, "personality", value) for value in (0x40000, 8, 0x400000)] == [DENY, DENY, DENY]


def test_nothing_is_typed_into_a_terminal(machine) -> None:
    assert [judge(machine, "ioctl", 1, request) for request in (0x5412, 0x541C)] == [DENY, DENY]
    assert judge(machine, "ioctl", 1, 0x5401) == ALLOW


def test_files_are_neither_leased_nor_watched(machine) -> None:
    assert [judge(machine, "fcntl", 1, command) for command in (1024, 1026)] == [DENY, DENY]
    assert [judge(machine, "fcntl", 1, command) for command in (0, 1030)] == [ALLOW, ALLOW]


def test_memory_that_belongs_to_no_process_is_denied_where_nothing_counts_it(machine) -> None:
    for name in TOOL.UNCOUNTED_MEMORY:
        assert judge(machine, name) == ALLOW
        assert judge(machine, name, counted=False) == DENY


def test_a_template_may_make_namespaces_and_mounts_and_nothing_else_that_a_step_may_not(machine) -> None:
    found = template_filter_of(machine)
    assert found is not None
    column, program = list(TOOL.ARCHITECTURES).index(machine), found.path.read_bytes()

    def ask(name: str, *arguments: int) -> int:
        return answer(program, TOOL.ARCHITECTURES[machine], CALLS[name][column], *arguments)

    known = [name for name, numbers in TOOL.DENIED.items() if numbers[column] is not None]
    assert {name for name in known if ask(name) == ALLOW} == {"mount", "move_mount"}
    assert [ask("clone", 1 << shift | 17) for shift in (17, *range(25, 31))] == [ALLOW] * 7
    assert (ask("unshare", 1 << 25), ask("unshare", 0x80), ask("clone3")) == (ALLOW, DENY, ABSENT)
    assert [family for family in range(64) if ask("socket", family) == ALLOW] == [1, 2, 10]
    assert answer(program, I386, 1) == KILL


def test_there_is_no_filter_for_an_architecture_that_nobody_looked_at() -> None:
    assert filter_of("riscv64", memory_is_counted=True) is None
