"""Steps use their secrets, whatever runs them, and nothing that comes back from them holds one."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sovrun.core.ids import Tenant
from sovrun.ports import Succeeded, Task
from sovrun.sandbox.careful import CarefulExecutor
from sovrun.sandbox.secrets import SecretSources, parse_source
from support.tasks import failure_of, task, value_of

CANARY = "canary/7f3a91+ü"
OTHER = "another-canary-55"

STEPS = f"""
import base64, json, os, sys
from pathlib import Path
from urllib.parse import quote
from sovrun import step

def size():
    return [len(step.secret("TOKEN")), step.secret_bytes("TOKEN") == {CANARY.encode()!r}]

def undeclared():
    try:
        step.secret("ELSE")
    except LookupError as error:
        return str(error)

def show():
    value = step.secret("TOKEN")
    print(value, json.dumps(value), quote(value, safe=""), base64.b64encode(b"u:" + value.encode()).decode())
    for character in value:
        sys.stderr.write(character)
        sys.stderr.flush()
    os.write(1, value.encode()[:5]); os.write(1, value.encode()[5:])

def fail():
    raise ValueError("no entry with " + step.secret("TOKEN"))

def name():
    raise type(step.secret("TOKEN"), (Exception,), {{}})

def cut():
    raise ValueError("x" * (4096 - 18) + step.secret("TOKEN"))

def give():
    return {{"token": "Bearer " + step.secret("TOKEN")}}

def give_encoded():
    return base64.b64encode(("a" + step.secret("TOKEN")).encode()).decode()

def give_key():
    return {{step.secret("TOKEN"): 1}}

def give_file():
    path = step.work_dir() / "page"
    path.write_text("x" * (1 << 20) + step.secret("TOKEN"))
    path.with_name("rest").write_text("nothing")
    return [step.keep_file(path), step.keep_file(path.with_name("rest"))]

def surroundings():
    return [dict(os.environ), sys.argv, Path("/proc/self/environ").read_text(), Path("/proc/self/cmdline").read_text()]
"""
PROGRAM = """
#!/bin/sh
wc -c < secrets/TOKEN > outputs/size.json
cat secrets/TOKEN; cat secrets/TOKEN >&2
tr '\\0' '\\n' < /proc/$$/environ | wc -l > outputs/variables.json
"""
COPYING = """
#!/bin/sh
cp secrets/TOKEN outputs/kept
"""


@pytest.fixture
async def careful(executor, tmp_path: Path) -> CarefulExecutor:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "token").write_text(CANARY + "\n")
    (tmp_path / "secrets" / "second").write_text(OTHER)
    return CarefulExecutor(executor, SecretSources([parse_source(f"dir:{tmp_path}/secrets", Tenant("acme"))]))


@pytest.fixture
def wanting(code: Callable[..., Path], tmp_path: Path) -> Callable[..., Task]:
    folder = code(work=STEPS)

    def make(entry: str | tuple[str, ...], *, folder: Path = folder, **more: Any) -> Task:
        log = str(tmp_path / "logs" / "1.ndjson")
        names = (("SECOND", "second"), ("TOKEN", "token"))
        return replace(task(entry, code=folder, **more), secrets=names, log=log)

    return make


def forms() -> list[str]:
    plain = CANARY.encode()
    encoded = [base64.b64encode(b"x" * offset + plain).decode()[2:-4] for offset in range(3)]
    return [CANARY, OTHER, json.dumps(CANARY)[1:-1], plain.hex(), *encoded]


def assert_nothing_of_it(*texts: str) -> None:
    for text in texts:
        assert [form for form in forms() if form in text] == []


async def test_a_function_gets_its_secrets_by_its_own_names(careful, wanting) -> None:
    assert value_of(await careful.execute(wanting("work:size"))) == [len(CANARY), True]
    told = value_of(await careful.execute(wanting("work:undeclared")))
    assert "'ELSE'" in told
    assert "secrets" in told


async def test_what_is_printed_holds_no_value_in_any_form(careful, wanting, tmp_path) -> None:
    outcome = await careful.execute(wanting("work:show"))
    assert isinstance(outcome, Succeeded), outcome
    kept = (tmp_path / "logs" / "1.ndjson").read_text()
    assert_nothing_of_it(outcome.log.decode(), kept, json.loads(kept.splitlines()[0])["text"])
    assert outcome.log.count(b"***") >= 5


@pytest.mark.parametrize("entry", ["work:fail", "work:name", "work:cut"])
async def test_how_it_failed_is_told_without_the_value(careful, wanting, entry) -> None:
    failed = failure_of(await careful.execute(wanting(entry)))
    assert failed.reason == "step_raised"
    told = f"{failed.message}{failed.error}{failed.traceback}"
    assert_nothing_of_it(told)
    assert "canary" not in failed.message, "not even its beginning, where the message was cut"
    assert "***" in failed.message


@pytest.mark.parametrize("entry", ["work:give", "work:give_encoded", "work:give_key", "work:give_file"])
async def test_an_output_that_holds_a_value_is_refused_and_not_kept(
    careful, wanting, tmp_path, entry
) -> None:
    failed = failure_of(await careful.execute(wanting(entry)))
    assert (failed.reason, failed.circumstance, failed.retryable) == ("secret_in_output", False, False)
    assert "'TOKEN'" in failed.message
    assert_nothing_of_it(failed.message)
    left = [
        path
        for path in (tmp_path / "spool").rglob("*")
        if path.is_file() and CANARY.encode() in path.read_bytes()
    ]
    assert left == []


async def test_no_environment_and_no_argument_holds_a_value(careful, wanting) -> None:
    assert_nothing_of_it(
        json.dumps(value_of(await careful.execute(wanting("work:surroundings"))), ensure_ascii=False)
    )


async def test_a_program_finds_its_secrets_as_files(careful, wanting, code, tmp_path) -> None:
    outcome = await careful.execute(wanting(("work",), folder=code(work=PROGRAM)))
    assert value_of(outcome)["size"] == len(CANARY.encode())
    assert outcome.log == b"******"
    assert_nothing_of_it((tmp_path / "logs" / "1.ndjson").read_text())


async def test_a_program_may_not_hand_a_secret_over_as_a_file(careful, wanting, code, tmp_path) -> None:
    failed = failure_of(await careful.execute(wanting(("work",), folder=code(work=COPYING))))
    assert failed.reason == "secret_in_output"
    assert not any(
        CANARY.encode() in path.read_bytes() for path in tmp_path.glob("spool/**/*") if path.is_file()
    )


async def test_a_secret_that_is_not_there_keeps_the_step_from_starting(careful, wanting, tmp_path) -> None:
    wanted = replace(wanting("work:show"), secrets=(("TOKEN", "absent"),))
    failed = failure_of(await careful.execute(wanted))
    assert (failed.reason, failed.log) == ("secret_not_found", b"")
    assert not (tmp_path / "logs").exists()
    other = replace(wanting("work:show"), tenant=Tenant("other"))
    assert failure_of(await careful.execute(other)).reason == "secret_not_found"


async def test_a_step_without_secrets_reaches_none(careful, wanting) -> None:
    wanted = replace(wanting("work:give"), secrets=())
    failed = failure_of(await careful.execute(wanted))
    assert failed.error == "LookupError"


async def test_the_text_form_of_a_task_shows_no_value(wanting) -> None:
    assert "canary" not in repr(replace(wanting("work:show"), secret_values={"TOKEN": CANARY.encode()}))
