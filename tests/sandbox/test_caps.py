"""What the operator grants at most."""

from __future__ import annotations

from pathlib import Path

import pytest

from sovrun.core.errors import InvalidSetting
from sovrun.core.ids import Tenant
from sovrun.core.spec.model import Resources
from sovrun.sandbox.caps import STEP_LIMITS, Cap, capped, parse_cap, parse_caps
from sovrun.sandbox.executor import SandboxExecutor
from sovrun.sandbox.settings import SandboxSettings
from sovrun.wiring import open_executor
from support.tasks import failure_of, require_bubblewrap, task, value_of

ACME, OTHER = Tenant("acme"), Tenant("other")


@pytest.mark.parametrize(
    ("text", "cap"),
    [
        ("memory=1Gi", Cap(None, "memory", 1 << 30)),
        ("acme/cpuSeconds=90", Cap(ACME, "cpu_us", 90_000_000)),
        ("wallSeconds=1.5", Cap(None, "wall_us", 1_500_000)),
        ("wallSeconds=2h", Cap(None, "wall_us", 7_200_000_000)),
        ("openFiles=7", Cap(None, "open_files", 7)),
        ("graceSeconds=0", Cap(None, "grace_us", 0)),
        ("acme/graceSeconds=0.5", Cap(ACME, "grace_us", 500_000)),
    ],
)
def test_a_cap_is_written_as_in_a_step(text: str, cap: Cap) -> None:
    assert parse_cap(text) == cap


@pytest.mark.parametrize(
    "text",
    [
        "memory",
        "memory=",
        "memory=much",
        "weight=3",
        "processes=0",
        "processes=1.5",
        "graceSeconds=601",
        "graceSeconds=soon",
        "A B/memory=1",
        "/memory=1",
    ],
)
def test_what_is_no_cap_is_refused_with_its_form(text: str) -> None:
    with pytest.raises(InvalidSetting, match="step limit") as refused:
        parse_cap(text)
    assert "memory=1Gi" in (refused.value.hint or "")


def test_the_least_of_all_caps_that_concern_a_tenant_holds_and_nothing_is_raised() -> None:
    caps = [
        parse_cap(text)
        for text in ("memory=256Mi", "acme/memory=128Mi", "other/memory=1Mi", "processes=1000")
    ]
    assert capped(Resources(), ACME, caps).memory == 128 << 20
    assert capped(Resources(), Tenant("third"), caps).memory == 256 << 20
    assert capped(Resources(memory=5), ACME, caps).memory == 5
    assert capped(Resources(), ACME, caps).processes == Resources().processes


def test_caps_stand_between_spaces() -> None:
    found = parse_caps(" memory=1Gi other/disk=1Mi ")
    assert found == (Cap(None, "memory", 1 << 30), Cap(OTHER, "disk", 1 << 20))
    assert parse_caps("") == ()


async def test_the_operators_caps_come_from_the_environment(tmp_path: Path, code, monkeypatch) -> None:
    require_bubblewrap()
    monkeypatch.setenv(STEP_LIMITS, "openFiles=33")
    folder = code(
        work="""
        import resource
        def limit():
            return resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        """
    )
    executor = await open_executor("sandbox", 1, tmp_path / "spool")
    try:
        assert value_of(await executor.execute(task("work:limit", code=folder))) == 33
    finally:
        await executor.close()
    monkeypatch.setenv(STEP_LIMITS, "openFiles=many")
    with pytest.raises(InvalidSetting, match="openFiles=many"):
        await open_executor("sandbox", 1, tmp_path / "spool")


async def test_a_step_that_asks_for_more_gets_the_cap_and_the_message_says_so(tmp_path: Path, code) -> None:
    require_bubblewrap()
    settings = SandboxSettings(caps=(parse_cap("acme/wallSeconds=0.5"), parse_cap("openFiles=33")))
    executor = await SandboxExecutor.open(tmp_path / "spool", settings)
    folder = code(
        work="""
        import resource, time
        def wait():
            time.sleep(1000)
        def limit():
            return resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        """
    )
    try:
        failed = failure_of(await executor.execute(task("work:wait", code=folder, wall_us=60_000_000)))
        assert (failed.reason, "0.5 s" in failed.message) == ("wall_limit", True)
        assert value_of(await executor.execute(task("work:limit", code=folder))) == 33
    finally:
        await executor.close()
