"""Logs are read piece by piece while they grow, whatever their writers' ends were, and only where they belong."""

from __future__ import annotations

from pathlib import Path

import pytest

from sovrun.core.errors import NotFound
from sovrun.core.ids import RunId, StepId, Tenant
from sovrun.core.lifecycle import State
from sovrun.core.step import Step
from sovrun.engine.logs import PAGE_BYTES, RunLogs
from sovrun.sandbox.capture import STDOUT, Log
from sovrun.stores.files import FileStore

ACME, RUN = Tenant("acme"), RunId("0" * 32)
ORDER = {"b": 0, "a": 1, "c": 2}
EXECUTING = Step(State.EXECUTING, attempts=2)


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path)


def of(files: FileStore, *states: Step, tenant: Tenant = ACME) -> RunLogs:
    return RunLogs(files, tenant, RUN, ORDER, [*states, *[Step()] * (len(ORDER) - len(states))])


def written(files: FileStore, step: str, attempt: int, *texts: str) -> Path:
    path = files.log(ACME, RUN, StepId(step), attempt)
    log = Log(1 << 30, path)
    for text in texts:
        log.take(STDOUT, text.encode())
    log.close()
    return Path(path)


def test_a_log_is_read_on_from_where_it_was_left(files) -> None:
    written(files, "b", 1, "one\n")
    logs = of(files, EXECUTING)
    page = logs.page("b", attempt=1)
    assert [piece.text for piece in page.pieces] == ["one\n"]
    assert logs.page("b", attempt=1, after=page.next).pieces == []
    written(files, "b", 1, "two\n")
    rest = logs.page("b", attempt=1, after=page.next)
    assert [piece.text for piece in rest.pieces] == ["two\n"]
    assert rest.next > page.next


def test_a_long_log_comes_in_pages_that_leave_nothing_out(files) -> None:
    texts = [f"{number} {'x' * 1_000}\n" for number in range(3_000)]
    written(files, "b", 1, *texts)
    read, after, pages = "", 0, 0
    while (page := of(files, EXECUTING).page("b", attempt=1, after=after)).pieces:
        read += "".join(piece.text for piece in page.pieces)
        assert page.next - after <= PAGE_BYTES
        after, pages = page.next, pages + 1
    assert read == "".join(texts)
    assert pages > 2


def test_a_torn_piece_is_waited_for_and_one_that_stays_torn_hides_no_other(files) -> None:
    path = written(files, "b", 1, "whole\n")
    with path.open("ab") as file:
        file.write(b'{"timeUs":1,"stream":"stdout","te')
    page = of(files, EXECUTING).page("b", attempt=1)
    assert [piece.text for piece in page.pieces] == ["whole\n"]
    with path.open("ab") as file:
        file.write(b'\n[1]\n{"timeUs":2,"stream":"stderr","text":"after"}\n')
    rest = of(files, EXECUTING).page("b", attempt=1, after=page.next)
    assert [(piece.time_us, piece.stream, piece.text) for piece in rest.pieces] == [(2, "stderr", "after")]


def test_the_latest_attempt_is_the_one_with_the_highest_number(files) -> None:
    for attempt in (2, 10, 9):
        written(files, "b", attempt, f"attempt {attempt}")
    page = of(files, Step(State.EXECUTING, attempts=11)).page("b")
    assert (page.attempt, page.attempts) == (10, (2, 9, 10))
    assert page.is_over, "the eleventh is executing and has printed nothing yet"
    assert not page.is_last


@pytest.mark.parametrize(
    ("state", "attempt", "is_over", "is_last"),
    [
        (Step(State.EXECUTING, attempts=1), 1, False, False),
        (Step(State.EXECUTING, attempts=2), 1, True, False),
        (Step(State.AWAITING_TOOL, attempts=1), 1, True, False),
        (Step(State.COMPLETED, attempts=1), 1, True, True),
        (Step(State.CANCELLED, attempts=1), 1, True, True),
    ],
)
def test_whether_more_will_be_printed_follows_from_the_step(files, state, attempt, is_over, is_last) -> None:
    written(files, "b", 1, "x")
    page = of(files, state).page("b", attempt=attempt)
    assert (page.is_over, page.is_last) == (is_over, is_last)


def test_a_run_is_over_when_all_its_steps_are(files) -> None:
    done = Step(State.COMPLETED, attempts=1)
    assert not of(files, done, done, EXECUTING).is_over
    assert of(files, done, done, Step(State.CANCELLED)).is_over


def test_the_steps_that_printed_come_in_plan_order(files) -> None:
    for step in ("a", "b"):
        written(files, step, 1, "x")
    assert of(files).steps() == ["b", "a"]
    assert of(files, tenant=Tenant("other")).steps() == []


def test_a_step_that_printed_nothing_has_an_empty_log(files) -> None:
    page = of(files, Step(State.COMPLETED, attempts=1)).page("b")
    assert (page.attempt, page.attempts, list(page.pieces), page.next) == (0, (), [], 0)


@pytest.mark.parametrize(("step", "attempt"), [("d", None), ("../../b", None), ("b", 3), ("c", 1)])
def test_what_the_run_does_not_have_is_refused(files, step, attempt) -> None:
    with pytest.raises(NotFound):
        of(files, EXECUTING).page(step, attempt=attempt)
