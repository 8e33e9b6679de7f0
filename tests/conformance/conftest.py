"""The store under test: every test of this folder that asks for `store` runs on each back end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sovrun.store.protocol import Store
from support.clock import SetClock
from support.served import remote
from support.stores import BACK_ENDS, BackEnd

BACK_ENDS_AND_REMOTE: dict[str, BackEnd] = {**BACK_ENDS, "remote": remote}


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture(params=list(BACK_ENDS_AND_REMOTE))
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: SetClock) -> AsyncIterator[Store]:
    async with BACK_ENDS_AND_REMOTE[request.param](tmp_path, clock) as opened:
        yield opened


NOT_THROUGH_A_SOCKET = {
    "the socket puts the caller's own name into what it sends": {
        "test_a_run_is_cancelled_whatever_it_does",
        "test_cancelling_twice_is_harmless_and_another_request_is_refused",
        "test_of_two_cancellations_at_once_the_first_counts",
        "test_a_chain_is_recorded_event_by_event",
        "test_a_run_is_kept_as_it_was_asked_for",
        "test_a_word_ends_the_wait_and_the_run_goes_on",
        "test_another_word_after_the_first_is_refused_and_writes_nothing",
        "test_of_many_words_at_once_one_counts",
    },
    "the socket refuses digests that are not of what they are sent with": {
        "test_the_same_request_under_a_callers_key_answers_with_the_first_run",
        "test_payloads_are_kept_byte_for_byte_and_once",
    },
    "thousands of calls through a socket take long; tests/e2e/test_up.py shows it with real processes": {
        "test_a_thousand_waits_hold_no_slot",
    },
    "the order of calls at once is that of their arrival, and recovery does not travel": {
        "test_recovery_beside_a_report_takes_back_only_what_still_runs",
    },
}
"""What the client of a server cannot promise, by reason; `tests/service` shows what it promises instead."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        variant = getattr(item, "callspec", None)
        if variant is not None and variant.params.get("store") == "remote":
            for reason, names in NOT_THROUGH_A_SOCKET.items():
                if getattr(item, "originalname", None) in names:
                    item.add_marker(pytest.mark.skip(reason=reason))
