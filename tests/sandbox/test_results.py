"""What a step returns and how it fails is the same, however it is isolated."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from sovrun.core.ids import Digest
from sovrun.ports import Succeeded
from sovrun.step import tree_manifest
from support.tasks import failure_of, task, value_of

ECHO = "def run(**given):\n    return given\n"


async def test_a_function_is_called_with_its_arguments_and_its_value_comes_back(executor, code) -> None:
    folder = code(work="def run(a, b):\n    return {'sum': a + b, 'text': 'é'}\n")
    assert value_of(await executor.execute(task("work:run", code=folder, a=1, b=2))) == {
        "sum": 3,
        "text": "é",
    }


async def test_a_double_that_looks_like_an_integer_is_still_a_double_inside(executor, code) -> None:
    folder = code(work="def run(x, y):\n    return [type(x).__name__, type(y).__name__, x + 1.5]\n")
    outcome = await executor.execute(task("work:run", code=folder, x=1e20, y=3))
    assert value_of(outcome) == ["float", "int", 1e20]


async def test_what_a_step_prints_is_its_log(executor, code) -> None:
    folder = code(work="def run():\n    print('hello')\n")
    outcome = await executor.execute(task("work:run", code=folder))
    assert isinstance(outcome, Succeeded)
    assert outcome.log == b"hello\n"


async def test_a_step_without_code_can_call_an_installed_function(executor) -> None:
    assert value_of(await executor.execute(task("builtins:dict", a=1))) == {"a": 1}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("nowhere:run", "no module 'nowhere'"),
        ("work:absent", "no function 'absent'"),
        ("work:CONSTANT", "no function 'CONSTANT'"),
        ("work", "not of the form module:function"),
    ],
)
async def test_an_entry_point_that_does_not_exist_is_named_and_not_retried(
    executor, code, entry, said
) -> None:
    folder = code(work="CONSTANT = 1\n")
    failed = failure_of(await executor.execute(task(entry, code=folder)))
    assert (failed.reason, failed.retryable, failed.circumstance) == ("step_not_found", False, False)
    assert said in failed.message


async def test_a_module_that_the_steps_module_lacks_is_the_steps_own_failure(executor, code) -> None:
    failed = failure_of(await executor.execute(task("work:run", code=code(work="import nowhere_at_all\n"))))
    assert (failed.reason, failed.error) == ("step_raised", "ModuleNotFoundError")


async def test_an_exception_keeps_its_name_bases_message_and_only_the_steps_frames(executor, code) -> None:
    folder = code(
        work="""
        class Flaky(ConnectionError): pass
        def run():
            inner()
        def inner():
            raise Flaky("no answer")
        """
    )
    failed = failure_of(await executor.execute(task("work:run", code=folder)))
    assert (failed.reason, failed.error, failed.message) == ("step_raised", "Flaky", "Flaky: no answer")
    assert failed.lineage[:3] == ("Flaky", "ConnectionError", "OSError")
    assert (failed.retryable, failed.circumstance) == (True, False)
    assert failed.traceback is not None
    assert 'File "work.py", line 3, in run' in failed.traceback
    assert "sovrun" not in failed.traceback


async def test_do_not_retry_is_obeyed(executor, code) -> None:
    folder = code(work="from sovrun.step import DoNotRetry\ndef run():\n    raise DoNotRetry('bad day')\n")
    failed = failure_of(await executor.execute(task("work:run", code=folder)))
    assert (failed.reason, failed.retryable, failed.circumstance) == ("do_not_retry", False, False)


async def test_leaving_by_sys_exit_is_a_failure_of_the_step(executor, code) -> None:
    failed = failure_of(await executor.execute(task("sys:exit", code=code(work=""))))
    assert (failed.reason, failed.error) == ("step_raised", "SystemExit")


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("{'a': [1, {2, 3}]}", "$.a[1]: a value of type set"),
        ("{'a': {1: 2}}", "a key"),
        ("float('nan')", "NaN"),
        ("2 ** 53", "beyond 2^53-1"),
        ("'\\ud800'", "lone surrogate"),
        ("__import__('functools').reduce(lambda x, _: [x], range(70), [])", "nested deeper than 64"),
    ],
)
async def test_a_value_without_a_json_form_is_refused_with_its_place(executor, code, returned, said) -> None:
    folder = code(work=f"def run():\n    return {returned}\n")
    failed = failure_of(await executor.execute(task("work:run", code=folder)))
    assert (failed.reason, failed.retryable) == ("output_not_json", False)
    assert said in failed.message


async def test_a_value_that_is_too_large_is_refused_with_the_limit(executor, code) -> None:
    folder = code(work="def run():\n    return 'x' * 2000\n")
    failed = failure_of(await executor.execute(task("work:run", code=folder, output=1000)))
    assert (failed.reason, failed.circumstance) == ("output_too_large", True)
    assert "1000" in failed.message


async def test_endless_printing_ends_at_the_cap_and_keeps_what_came_before(executor, code) -> None:
    folder = code(work="def run():\n    while True:\n        print('x' * 1_000_000)\n")
    failed = failure_of(await executor.execute(task("work:run", code=folder, log=100_000)))
    assert (failed.reason, failed.circumstance, failed.retryable) == ("log_limit", True, True)
    assert len(failed.log) == 100_000


async def test_a_step_that_never_ends_is_ended_by_the_wall_clock(executor, code) -> None:
    folder = code(work="def run():\n    while True:\n        pass\n")
    failed = failure_of(await executor.execute(task("work:run", code=folder, wall_us=200_000)))
    assert (failed.reason, failed.circumstance, failed.retryable) == ("wall_limit", True, True)


async def test_a_given_file_is_read_by_its_digest(executor, code, tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("content")
    digest = Digest(sha256(b"content").hexdigest())
    folder = code(work="from sovrun.step import path_of\ndef run(f):\n    return path_of(f).read_text()\n")
    given = task(
        "work:run", code=folder, f={"$file": digest, "size": 7}, input_files={digest: tmp_path / "blob"}
    )
    assert value_of(await executor.execute(given)) == "content"


async def test_kept_files_and_trees_come_out_verified_by_digest(executor, code) -> None:
    folder = code(
        work="""
        from sovrun.step import keep_file, keep_tree, work_dir
        def run():
            root = work_dir() / "tree"
            (root / "sub").mkdir(parents=True)
            (root / "sub" / "a.txt").write_text("a")
            (root / "b.txt").write_text("b")
            return {"one": keep_file(root / "b.txt"), "all": keep_tree(root)}
        """
    )
    outcome = await executor.execute(task("work:run", code=folder))
    digests = {text: sha256(text.encode()).hexdigest() for text in "ab"}
    manifest = tree_manifest([("b.txt", False, digests["b"], 1), ("sub/a.txt", False, digests["a"], 1)])
    tree = sha256(manifest).hexdigest()
    assert value_of(outcome) == {"one": {"$file": digests["b"], "size": 1}, "all": {"$tree": tree}}
    assert isinstance(outcome, Succeeded)
    assert {made.digest: made.path.read_bytes() for made in outcome.made} == {
        digests["a"]: b"a",
        digests["b"]: b"b",
        tree: manifest,
    }
    assert all(made.size == made.path.stat().st_size for made in outcome.made)


async def test_naming_a_file_that_was_not_kept_is_refused(executor, code) -> None:
    folder = code(work="def run():\n    return {'$file': 'a' * 64, 'size': 1}\n")
    failed = failure_of(await executor.execute(task("work:run", code=folder)))
    assert failed.reason == "bad_output_file"
    assert "keep_file" in failed.message


async def test_a_kept_file_that_was_changed_afterwards_is_refused(executor, code, tmp_path: Path) -> None:
    folder = code(
        work="""
        from sovrun.step import keep_file, work_dir
        def run():
            path = work_dir() / "a"
            path.write_text("before")
            kept = keep_file(path)
            (work_dir() / ".sovrun" / "made" / kept["$file"]).write_text("after")
            return kept
        """
    )
    failed = failure_of(await executor.execute(task("work:run", code=folder)))
    assert failed.reason == "bad_output_file"
    assert "changed" in failed.message
    assert [path for path in (tmp_path / "spool").rglob("*") if "part" in path.name] == []


PROGRAM = """
#!/bin/sh
set -e
read value < inputs/count.json
cp inputs/doc outputs/copy.bin
mkdir outputs/dir
echo deep > outputs/dir/file
echo "{\\"count\\": $value, \\"where\\": \\"$SOURCE_DATE_EPOCH $TZ\\"}" > outputs/result.json
echo "$1"
"""


async def test_a_program_reads_files_and_leaves_files(executor, code, tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("content")
    digest = Digest(sha256(b"content").hexdigest())
    given = task(
        ("prog", "said"),
        code=code(prog=PROGRAM),
        count=3,
        doc={"$file": digest, "size": 7},
        input_files={digest: tmp_path / "blob"},
    )
    outcome = await executor.execute(given)
    assert value_of(outcome)["result"] == {"count": 3, "where": "315532800 UTC"}
    assert value_of(outcome)["copy.bin"] == {"$file": digest, "size": 7}
    assert set(value_of(outcome)) == {"copy.bin", "dir", "result"}
    assert isinstance(outcome, Succeeded)
    assert outcome.log == b"said\n"
    assert b"deep\n" in [made.path.read_bytes() for made in outcome.made]


async def test_a_program_that_fails_shows_its_last_words(executor, code) -> None:
    folder = code(prog="#!/bin/sh\necho it broke >&2\nexit 3\n")
    failed = failure_of(await executor.execute(task(("prog",), code=folder)))
    assert (failed.reason, failed.circumstance, failed.retryable) == ("exit_nonzero", False, True)
    assert failed.message == "exit status 3. it broke"


async def test_a_program_killed_by_a_signal_says_which(executor, code) -> None:
    failed = failure_of(await executor.execute(task(("prog",), code=code(prog="#!/bin/sh\nkill -SEGV $$\n"))))
    assert failed.reason == "killed_by_signal"
    assert "SIGSEGV" in failed.message


@pytest.mark.parametrize("program", ["absent", "../prog", "/nowhere/at/all", "data"])
async def test_a_program_that_cannot_be_started_is_not_retried(executor, code, program) -> None:
    folder = code(prog="#!/bin/sh\n")
    (folder / "data").write_text("no program")
    failed = failure_of(await executor.execute(task((program,), code=folder)))
    assert (failed.reason, failed.retryable) == ("step_not_found", False)


@pytest.mark.parametrize(
    ("made", "reason", "said"),
    [
        ("ln -s /etc/passwd outputs/x", "bad_output_file", "symbolic link"),
        ("mkdir outputs/d; ln -s /etc outputs/d/x", "bad_output_file", "symbolic link"),
        ("mkfifo outputs/x", "bad_output_file", "named pipe"),
        ("echo 1 > a; ln a outputs/x", "bad_output_file", "hard link"),
        ("echo '{' > outputs/x.json", "output_not_json", "x.json"),
        ("echo NaN > outputs/x.json", "output_not_json", "NaN"),
        ("echo 1 > outputs/x.json; echo 1 > outputs/x", "bad_output_file", "both"),
        ("rmdir outputs; ln -s /etc outputs", "bad_output_file", "outputs"),
        ("for i in 1 2 3 4 5; do echo $i > outputs/$i; done", "disk_limit", "resources.files"),
    ],
)
async def test_what_is_not_a_plain_file_never_leaves_the_work_directory(
    executor, code, made, reason, said
) -> None:
    folder = code(prog=f"#!/bin/sh\n{made}\n")
    failed = failure_of(await executor.execute(task(("prog",), code=folder, files=4)))
    assert failed.reason == reason, failed
    assert said in failed.message


async def test_a_programs_wall_clock_and_log_are_limited_too(executor, code) -> None:
    folder = code(slow="#!/bin/sh\nsleep 100\n", loud="#!/bin/sh\nwhile true; do echo xxxxxxxxxx; done\n")
    slow = failure_of(await executor.execute(task(("slow",), code=folder, wall_us=200_000)))
    loud = failure_of(await executor.execute(task(("loud",), code=folder, log=1000)))
    assert (slow.reason, loud.reason, len(loud.log)) == ("wall_limit", "log_limit", 1000)


async def test_an_executor_names_the_environment_it_runs_in(executor) -> None:
    assert len(executor.environment) == 64


CLOSING = """
    import os

    def close():
        os.close(3)

    def cover():
        os.dup2(os.open("/dev/null", os.O_WRONLY), 3)

    def garble():
        os.write(3, b"\\0" * 7 + b"\\1" + b"{")
"""


async def test_a_step_that_closes_or_garbles_the_sandboxes_own_descriptor_is_told_so(sandbox, code) -> None:
    folder = code(work=CLOSING)
    for entry in ("close", "cover"):
        failed = failure_of(await sandbox.execute(task(f"work:{entry}", code=folder)))
        assert failed.reason == "exit_nonzero"
        assert failed.message == "exit status 1. the step closed the sandbox's own descriptor 3"
    failed = failure_of(await sandbox.execute(task("work:garble", code=folder)))
    assert failed.reason == "output_not_json"
    assert failed.message.startswith("the step wrote to the sandbox's own descriptor 3: ")
