"""Kinds of commands that adapters declare: held to their schema and their target like ours, before anything is sent."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sovrun.core.commands.gates import AdapterLimits, AdapterLimitsChange, Switch
from sovrun.core.commands.kinds import undeclared
from sovrun.core.commands.model import KINDS, CommandKind
from sovrun.core.errors import (
    AdapterUnavailable,
    IdempotencyKeyConflict,
    InvalidCommand,
    InvalidSetting,
    NotFound,
)
from sovrun.core.ids import Digest, Tenant
from sovrun.execution.adapter_set import PAPER_ALONE, AdapterSet
from sovrun.execution.kinds import kind_named, kinds_of
from sovrun.execution.layer import CommandLayer, CommandRequest
from sovrun.execution.port import Capabilities
from sovrun.store.memory import MemoryStore
from support.clock import SetClock
from support.requests import ACTOR, TENANT
from support.scripted_provider import ScriptedProvider
from support.served import SetIdentity

OTHER = Tenant("other")
NOTES = Path(__file__).parents[2] / "examples" / "adapters" / "notes"
CREATE = CommandRequest(TENANT, "deployment.create", "paper", {"name": "m", "artifact": "a"}, ACTOR, key="c")
NOTE = CommandRequest(TENANT, "note.write", "book", {"text": "sold", "budget": "2.50"}, ACTOR, key="n")


@dataclass
class Desk:
    """A store, and the layer that performs its commands."""

    store: MemoryStore
    layer: CommandLayer

    async def ask(self, request: CommandRequest, **more: Any) -> dict[str, Any]:
        answered = await self.layer.execute(replace(request, **more), patience_us=20_000_000)
        told: dict[str, Any] = json.loads(answered.body)
        return told

    async def journalled(self) -> int:
        return sum([len(await self.store.commands(whose, limit=1_000)) for whose in (TENANT, OTHER)])


@asynccontextmanager
async def desk(settings: Mapping[str, Any], store: MemoryStore | None = None) -> AsyncIterator[Desk]:
    clock = SetClock()
    kept = store or MemoryStore(clock)
    adapters = AdapterSet.open(settings, ledger=kept, clock=clock)
    layer = CommandLayer(kept, adapters, clock, SetIdentity())
    work = asyncio.create_task(layer.run())
    try:
        yield Desk(kept, layer)
    finally:
        await layer.stop()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await adapters.close()


@pytest.fixture
async def paper() -> AsyncIterator[Desk]:
    async with desk(PAPER_ALONE) as opened:
        yield opened


async def of_deployment(paper: Desk, verb: str, key: str) -> CommandRequest:
    made = (await paper.ask(CREATE))["resource"]["id"]
    return replace(CREATE, kind=f"deployment.{verb}", payload={"deploymentId": made}, key=key)


# --- before anything is sent ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({}, "lacks the member `deploymentId`"),
        ({"deploymentId": 7}, "it is a number"),
        ({"deploymentId": "d", "force": True}, "unknown member 'force'"),
        ([], "must be a map"),
    ],
)
async def test_what_does_not_fit_the_declared_schema_is_refused_and_not_journalled(
    paper: Desk, payload: Any, said: str
) -> None:
    with pytest.raises(InvalidCommand, match=said):
        await paper.ask(CREATE, kind="deployment.pause", payload=payload)
    assert await paper.journalled() == 0


async def test_another_tenants_deployment_is_not_found_and_nothing_is_journalled(paper: Desk) -> None:
    pause = await of_deployment(paper, "pause", "p")
    before = await paper.journalled()
    for kind in ("deployment.pause", "deployment.resume"):
        with pytest.raises(NotFound):
            await paper.ask(pause, kind=kind, tenant=OTHER)
    assert await paper.journalled() == before


async def test_a_pause_passes_a_tripped_switch_and_a_spent_rate_and_a_resumption_does_not(
    paper: Desk,
) -> None:
    pause = await of_deployment(paper, "pause", "p")
    once = AdapterLimitsChange.to(AdapterLimits(rate=(1, 60_000_000)))
    await paper.store.set_adapter_limits(TENANT, "paper", once, actor=ACTOR)
    assert (await paper.ask(pause))["resource"]["status"] == "paused"
    resumed = await paper.ask(pause, kind="deployment.resume", key="r1")
    assert (resumed["status"], resumed["gate"]) == ("refused", "rate")
    await paper.store.move_switch(
        Switch(TENANT, tripped=True, actor=ACTOR, rationale=Digest("0" * 64), time_us=0)
    )
    assert (await paper.ask(pause, key="p2"))["status"] == "confirmed"
    assert (await paper.ask(pause, kind="deployment.resume", key="r2"))["gate"] == "kill_switch"


async def test_a_kind_that_the_adapter_does_not_declare_is_refused(paper: Desk) -> None:
    with pytest.raises(InvalidCommand, match=r"does not take 'deployment\.sell'") as refused:
        await paper.ask(CREATE, kind="deployment.sell")
    assert "deployment.pause" in str(refused.value.hint)


# --- declared by an installed distribution ----------------------------------------------------------------------------


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory whose distributions count as installed."""
    installed = tmp_path / "installed"
    installed.mkdir()
    monkeypatch.syspath_prepend(str(installed))
    yield installed
    for name in ("sovrun_notes", "bent"):
        sys.modules.pop(name, None)


def install(folder: Path, entry: str, source: str, distribution: str = "some-adapters") -> None:
    (folder / f"{entry.partition('= ')[2].partition(':')[0]}.py").write_text(source)
    about = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[sovrun.adapters]\n{entry}\n")


def install_notes(folder: Path) -> None:
    """Install the example as its `pyproject.toml` says."""
    (entry,) = [
        line.replace('"', "")
        for line in (NOTES / "pyproject.toml").read_text().splitlines()
        if line.startswith("notes = ")
    ]
    install(folder, entry, (NOTES / "sovrun_notes.py").read_text())


def notes(tmp_path: Path) -> dict[str, Any]:
    return {"book": {"kind": "notes", "directory": str(tmp_path / "notes")}}


async def test_an_installed_distribution_declares_an_adapter_and_its_kinds(
    plugins: Path, tmp_path: Path
) -> None:
    install_notes(plugins)
    async with desk(notes(tmp_path)) as opened:
        told = await opened.ask(NOTE)
        assert told["resource"] == {
            "id": told["commandId"], "type": "note", "text": "sold", "budget": "2.5"
        }  # fmt: skip
        assert (
            await opened.ask(NOTE)
            == told
            == await opened.ask(NOTE, payload={"text": "sold", "budget": "2.5"})
        )
        with pytest.raises(IdempotencyKeyConflict):
            await opened.ask(NOTE, payload={"text": "bought"})
        with pytest.raises(InvalidCommand, match="`budget` must be a decimal in a text"):
            await opened.ask(NOTE, key="other", payload={"text": "sold", "budget": "much"})
        assert await opened.journalled() == 1
    assert [place.stem for place in (tmp_path / "notes" / TENANT).iterdir()] == [told["commandId"]]


async def test_an_answer_outlives_the_adapter_and_the_version_that_made_it(
    plugins: Path, tmp_path: Path
) -> None:
    install_notes(plugins)
    async with desk(notes(tmp_path)) as opened:
        told = await opened.ask(NOTE, payload={"text": "sold"})
    async with desk(PAPER_ALONE, opened.store) as without:
        assert await without.ask(NOTE, payload={"text": "sold"}) == told
        with pytest.raises(IdempotencyKeyConflict):
            await without.ask(NOTE, payload={"text": "bought"})
        with pytest.raises(AdapterUnavailable):
            await without.ask(NOTE, key="fresh")
    module = plugins / "sovrun_notes.py"
    module.write_text(
        module.read_text().replace("version=1,", "version=2,").replace('["text"]', '["budget"]')
    )
    sys.modules.pop("sovrun_notes")
    async with desk(notes(tmp_path), opened.store) as later:
        assert later.layer.adapters.reads(TENANT, "book").capabilities.kinds["note.write"].version == 2
        assert await later.ask(NOTE, payload={"text": "sold"}) == told


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def open(name, settings): ...", "cannot open it: TypeError"),
        ("open = 7", "cannot open it: TypeError"),
        ("def shut(): ...", "cannot open it: AttributeError"),
        ("import no_such_module", "cannot open it: ModuleNotFoundError"),
        ("def open(name, settings, *, ledger, clock): return object()", "it lacks .*find_order.*place_order"),
    ],
)
def test_a_distribution_that_declares_no_adapter_is_refused_by_name(
    plugins: Path, source: str, said: str
) -> None:
    install(plugins, "bent = bent:open", source)
    with pytest.raises(InvalidSetting, match=said) as refused:
        opened({"x": {"kind": "bent"}})
    assert "bent:open" in refused.value.detail


def test_a_distributions_own_refusal_of_settings_is_handed_on(plugins: Path) -> None:
    install_notes(plugins)
    with pytest.raises(InvalidSetting, match="it has the one setting `directory`"):
        opened({"book": {"kind": "notes", "folder": "x"}})
    with pytest.raises(InvalidSetting, match="there is no kind 'note'") as refused:
        opened({"book": {"kind": "note"}})
    assert refused.value.hint == "did you mean 'notes'?"


def test_one_kind_of_two_distributions_is_refused(plugins: Path) -> None:
    install(plugins, "bent = bent:open", "")
    install(plugins, "bent = crooked:open", "", "more-adapters")
    with pytest.raises(InvalidSetting, match="bent:open of some-adapters, crooked:open of more-adapters"):
        opened({"x": {"kind": "bent"}})


def test_a_distribution_cannot_take_the_place_of_an_adapter_of_ours(plugins: Path) -> None:
    install(plugins, "paper = bent:open", "raise RuntimeError('loaded')")
    assert "deployment.pause" in opened(PAPER_ALONE).reads(TENANT, "paper").capabilities.kinds


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ("{'a.b': undeclared('a.c', 1)}", "it is declared as 'a.b'"),
        ("{'order.place': undeclared('order.place', 1)}", "is no further kind"),
        ("{'order.plac': undeclared('order.plac', 1)}", "would be taken for 'order.place'"),
        ("frozenset({'a.b'})", "is no map of kinds by name"),
        ("{'a.b': 'a.b'}", "is no map of kinds by name"),
    ],
)
def test_a_kind_that_nobody_could_ask_for_is_refused_when_the_adapter_is_opened(
    plugins: Path, tmp_path: Path, kinds: str, said: str
) -> None:
    source = (NOTES / "sovrun_notes.py").read_text().replace("{WRITE.name: WRITE}", kinds)
    source = source.replace(
        "from sovrun.ports", "from sovrun.core.commands.kinds import undeclared\nfrom sovrun.ports"
    )
    install(plugins, "notes = sovrun_notes:open_adapter", source)
    with pytest.raises(InvalidSetting, match=said):
        opened(notes(tmp_path))


def opened(settings: Mapping[str, Any]) -> AdapterSet:
    clock = SetClock()
    return AdapterSet.open(settings, ledger=MemoryStore(clock), clock=clock)


# --- which there are --------------------------------------------------------------------------------------------------


class Closing(ScriptedProvider):
    """A provider of another kind under the same name."""

    kind: CommandKind = undeclared("account.close", 2)

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, kinds={self.kind.name: self.kind})


def test_kinds_are_listed_with_who_takes_them_and_told_apart_where_two_mean_something_else() -> None:
    clock = SetClock()
    same = AdapterSet({"a": ScriptedProvider(clock), "b": ScriptedProvider(clock)})
    told = {one.kind.name: one.adapters for one in kinds_of(same, TENANT)}
    assert told == dict.fromkeys((*KINDS, "account.close"), ("a", "b"))
    assert kind_named(same, TENANT, "account.close") == undeclared("account.close", 1)
    two = AdapterSet({"a": ScriptedProvider(clock), "b": Closing(clock)})
    assert [
        (one.kind.version, one.adapters) for one in kinds_of(two, TENANT) if one.kind.name == "account.close"
    ] == [
        (1, ("a",)),
        (2, ("b",)),
    ]
    assert [kind_named(two, TENANT, "account.close", name).version for name in "ab"] == [1, 2]
    with pytest.raises(InvalidCommand, match="a, b"):
        kind_named(two, TENANT, "account.close")
    with pytest.raises(NotFound, match=r"'account\.open'"):
        kind_named(two, TENANT, "account.open")
    with pytest.raises(AdapterUnavailable):
        kind_named(two, TENANT, "account.close", "c")
