"""Every code that the program can give out is explained, once, and with what the program makes of it."""

from __future__ import annotations

import re

import sovrun.cli.main  # noqa: F401 -- loads every module, so that every class of error is known
from sovrun.cli.output import exit_of
from sovrun.core.errors import SovrunError
from sovrun.core.lifecycle import Cause, Reason
from sovrun.sandbox.reasons import REASONS
from support.codes import errors_raised, failure_codes, mistake_codes, stop_reasons
from support.markdown import DOCS, rows, section

PAGE = (DOCS / "reference" / "errors.md").read_text()


def table(heading: str) -> dict[str, list[str]]:
    """Return the rows of a section by code; a row may name several codes."""
    found: dict[str, list[str]] = {}
    for first, *rest in rows(section(PAGE, heading)):
        for code in re.findall(r"[a-z0-9_]+", first):
            assert code not in found, f"{code} stands twice"
            found[code] = rest
    return found


def bare(kind: type[SovrunError]) -> SovrunError:
    return kind.__new__(kind)


def test_every_error_is_explained_with_its_title_and_exit_code() -> None:
    told = table("What a command refuses")
    kinds = errors_raised()
    assert len(kinds) >= 18
    assert {kind.code: (kind.title, str(int(exit_of(bare(kind))))) for kind in kinds} == {
        kind.code: tuple(told.get(kind.code, ("", ""))[:2]) for kind in kinds
    }


def test_no_code_repeats() -> None:
    codes = [kind.code for kind in errors_raised()]
    assert len(codes) == len(set(codes))


def test_every_mistake_in_a_document_is_explained() -> None:
    codes = mistake_codes()
    assert len(codes) >= 45
    assert codes <= set(table("Mistakes in a document"))


def test_every_failure_of_an_attempt_is_explained_with_whose_it_is_and_whether_it_is_retried() -> None:
    told = table("How an attempt of a step fails")
    assert failure_codes() | {"file_unavailable", "code_unavailable"} <= set(told)
    assert {
        code: ("circumstance" if meaning.circumstance else "work", "yes" if meaning.retryable else "no")
        for code, meaning in REASONS.items()
    } == {code: tuple(told[code][:2]) for code in REASONS}


def test_every_reason_and_cause_is_explained() -> None:
    assert set(map(str, Reason)) | stop_reasons() <= set(table("Reasons"))
    assert set(map(str, Cause)) == set(table("Causes"))
