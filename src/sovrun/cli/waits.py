"""What waits for people and tools, and their word: waiting, answer, approve, reject.

Each command has two parts: what is asked of a desk, and how it is shown. The desk may stand on a store that this process
owns or on the server that owns it; nothing here knows which.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer
from rich.markup import escape

from sovrun.cli.commands import resolving
from sovrun.cli.holds import held_lines, print_how_to_go_on
from sovrun.cli.options import (
    AsJson,
    RunId,
    StepId,
    StoreUrl,
    TenantName,
    note_of,
    same_store,
    tenant_of,
)
from sovrun.cli.output import STYLE, Exit, complete, err, out, print_json, visible
from sovrun.cli.runs import find_run, is_there
from sovrun.core import ids
from sovrun.core.canonical import decode, parse, sha256_hex
from sovrun.core.errors import IllegalTransition, InvalidSetting, NotFound, PayloadTooLarge
from sovrun.core.lifecycle import TERMINAL, State
from sovrun.core.spec.model import Kind
from sovrun.core.times import time_text
from sovrun.engine.command_views import parked_json
from sovrun.engine.desk import Asked, Desk, Lookout, ParkedView, WaitView
from sovrun.engine.views import wait_json
from sovrun.store.protocol import Acted, Reads, RunRecord
from sovrun.wiring import (
    DOCUMENT_BYTES_MAX,
    StoreAddress,
    local_actor,
    open_desk,
    open_reader,
    read_bounded,
)

_SHOWN_MAX: Final = 300
"""Characters of what is shown in a list."""
PARKED: Final = {
    "absent": "the provider does not have it, and forgets what is over",
    "contradictory": "the provider has something else under its client id",
    "sends_exhausted": "it was sent as often as allowed, and nothing of it was found",
    "unreachable": "the provider has not answered for a long time",
    "unreadable": "the provider answers, and what it says has no meaning here",
}
"""Why a person is asked, by the command's reason."""

Shown = Annotated[
    str | None,
    typer.Option(
        "--shown", metavar="DIGEST", help="The digest of what was looked at, from `sovrun waiting`."
    ),
]
Rationale = Annotated[
    str | None, typer.Option("--rationale", metavar="TEXT", help="Why; kept with the history.")
]
Roles = Annotated[
    list[str] | None, typer.Option("--role", metavar="R", help="A role in which you decide. Repeatable.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Decide on what is shown now, without being asked.")]


# --- what waits -----------------------------------------------------------------------------------------------------


def waiting(*, store: StoreUrl = None, tenant: TenantName = "default", as_json: AsJson = False) -> None:
    """List what waits for whom, since when and until when, and how to answer it."""
    whose = tenant_of(tenant)
    address = StoreAddress.parse(store)

    async def job() -> tuple[list[WaitView], list[ParkedView]]:
        if not is_there(address):
            return [], []
        async with open_reader(address) as (reader, files):
            lookout = Lookout(reader, files)
            return await lookout.waiting(whose), await lookout.parked(whose)

    views, parked = complete(job())
    if as_json:
        commands = [parked_json(one) for one in parked]
        print_json({"waits": [wait_json(view) for view in views], "commands": commands})
        return
    if not views and not parked:
        out.print(f"nothing of tenant {tenant} waits for a tool or a person")
    for view in views:
        print_wait(view, address)
    for one in parked:
        print_parked(one, address)


def print_wait(view: WaitView, address: StoreAddress) -> None:
    """Show a wait and the command that ends it, to who may give it."""
    wait = view.wait
    out.print(
        f"[yellow]{escape(view.step)}[/] of {escape(wait.dag)} {wait.run} waits for [bold]{escape(view.whom)}[/]"
    )
    out.print(f"  since {time_text(wait.since_us)}, {_end_of(view)}")
    if view.barred is not None:
        out.print(f"  {view.barred} asked for the run and may not decide", markup=False)
    out.print(f"  shown {wait.shown}", markup=False)
    out.print(f"        {shortened(view.shown)}", markup=False)
    if view.kind is not Kind.COMMAND:
        who = "" if view.is_for(local_actor()) else "somebody else than you has to "
        out.print(f"  {who}end the wait with: {command_of(view, address)}", markup=False)


def _end_of(view: WaitView) -> str:
    """Return until when something waits, and what becomes of it then."""
    if view.wait.until_us is None:
        return "without end"
    then = "is rejected" if view.on_expiry == "reject" else "fails"
    return f"until {time_text(view.wait.until_us)}, when it {then}"


def print_parked(parked: ParkedView, address: StoreAddress) -> None:
    """Show what is known of a command that nobody knows the outcome of, and how a person says what became of it."""
    command = parked.command
    wanted = command.intention
    out.print(
        f"[yellow]{escape(wanted.kind)}[/] at {escape(wanted.adapter)} waits for [bold]a person's verdict[/]: "
        f"{PARKED[command.reason or '']}"
    )
    out.print(f"  asks for {shortened(parked.asked)} in mode {wanted.mode}", markup=False)
    if parked.heard is not None:
        out.print(f"  last heard: {visible(parked.heard)}", markup=False)
    sent = "never" if command.sent_us is None else time_text(command.sent_us)
    since = "" if command.unknown_us is None else f", unknown since {time_text(command.unknown_us)}"
    out.print(f"  sent {command.sends} times, last {sent}{since}; looked for {command.looks} times")
    out.print(f"  client id {command.id}, key {visible(wanted.key)}", markup=False)
    if wanted.run is not None:
        out.print(f"  for step {wanted.step} of run {wanted.run}", markup=False)
    out.print(f"  look at the provider, then: {resolving(command, address)}", markup=False)


def command_of(view: WaitView, address: StoreAddress) -> str:
    """Return the command that ends a wait."""
    name = f"{view.wait.run} {view.step}"
    where = same_store(address, view.wait.tenant)
    if view.kind is Kind.TOOL:
        return f"sovrun answer {name} --output JSON{where}"
    role = "" if view.asks is None or view.asks.role is None else f" --role {view.asks.role}"
    return f"sovrun approve {name} --shown {view.wait.shown}{role}{where}"


def shortened(value: Any) -> str:
    """Return a value as one line of visible characters."""
    text = visible(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}... ({len(text):,} characters)"


# --- the word of a tool ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Word:
    """What becomes of a step by somebody's word, and of its run."""

    run: ids.RunId
    step: ids.StepId
    acted: Acted

    def json(self) -> dict[str, Any]:
        """Return the object that programs see."""
        return {
            "runId": self.run,
            "stepId": self.step,
            "changed": self.acted.changed,
            "status": str(self.acted.state),
        }


class AnswerGiven(NamedTuple):
    """A tool's answer: an output, or why there is none."""

    output: Any
    failure: str | None


async def give_answer(
    desk: Desk, reads: Reads, tenant: ids.Tenant, run: str, step: str, given: AnswerGiven
) -> Word:
    """Answer a `tool` step. Raises: see `Desk.answer`."""
    found, name = await find_run(reads, tenant, run), ids.StepId(step)
    acted = await desk.answer(tenant, found, name, local_actor(), output=given.output, failure=given.failure)
    return Word(found, name, acted)


def answer(
    run: RunId,
    step: StepId,
    *,
    output: Annotated[
        str | None, typer.Option("--output", metavar="JSON", help="What the tool found.")
    ] = None,
    output_file: Annotated[
        Path | None,
        typer.Option("--output-file", metavar="FILE", help="The same from a file; `-` reads it from stdin."),
    ] = None,
    failure: Annotated[
        str | None, typer.Option("--failure", metavar="TEXT", help="Why the tool has no answer.")
    ] = None,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    as_json: AsJson = False,
) -> None:
    """Answer a step that waits for a tool, with its output or with why there is none."""
    whose = tenant_of(tenant)
    address = StoreAddress.parse(store)
    given = _answer_of(output, output_file, failure)

    async def job() -> Word:
        async with open_desk(address) as opened:
            return await give_answer(opened.desk, opened.store, whose, run, step, given)

    _print_word("answered" if failure is None else "failed", complete(job()), address, as_json=as_json)


def _answer_of(output: str | None, file: Path | None, failure: str | None) -> AnswerGiven:
    """Return the one answer among the options. Raises: InvalidSetting, InvalidValue, FileUnavailable, PayloadTooLarge."""
    if sum(option is not None for option in (output, file, failure)) != 1:
        raise InvalidSetting("an answer is one of --output, --output-file and --failure")
    if failure is not None:
        return AnswerGiven(None, note_of(failure))
    if file is None:
        return AnswerGiven(parse((output or "").encode("utf-8", "surrogateescape")), None)
    piped = str(file) == "-"
    body = sys.stdin.buffer.read(DOCUMENT_BYTES_MAX + 1) if piped else read_bounded(file, DOCUMENT_BYTES_MAX)
    if len(body) > DOCUMENT_BYTES_MAX:
        raise PayloadTooLarge(f"{file}: an answer has at most {DOCUMENT_BYTES_MAX:,} bytes")
    return AnswerGiven(parse(body), None)


# --- the word of a person -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person decides, in which roles; `shown` None means on whatever is shown at that moment."""

    approve: bool
    shown: ids.Digest | None
    rationale: str | None
    roles: frozenset[str]


async def give_decision(
    desk: Desk, reads: Reads, tenant: ids.Tenant, run: str, step: str, decision: Decision
) -> Word:
    """Decide on a `confirm` step. Raises: see `Desk.decide`."""
    found, name = await find_run(reads, tenant, run), ids.StepId(step)
    shown = decision.shown or _digest_shown(await desk.asked(tenant, found, name))
    acted = await desk.decide(
        *(tenant, found, name, local_actor()),
        roles=decision.roles,
        approve=decision.approve,
        shown=shown,
        rationale=decision.rationale,
    )
    return Word(found, name, acted)


def _digest_shown(asked: Asked) -> ids.Digest:
    if asked.shown is None:
        raise IllegalTransition(
            f"step {asked.id} is {asked.step.state}; it shows nothing to decide on", state=asked.step.state
        )
    return asked.shown


def approve(  # noqa: PLR0913 -- one parameter per option of the command
    run: RunId,
    step: StepId,
    *,
    shown: Shown = None,
    rationale: Rationale = None,
    roles: Roles = None,
    yes: Yes = False,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    as_json: AsJson = False,
) -> None:
    """Approve exactly what a step shows; on a terminal, look at it first."""
    decision = _decision_of(shown, rationale, roles, approve=True)
    _decide(run, step, decision, tenant_of(tenant), StoreAddress.parse(store), yes=yes, as_json=as_json)


def reject(  # noqa: PLR0913 -- one parameter per option of the command
    run: RunId,
    step: StepId,
    *,
    shown: Shown = None,
    rationale: Rationale = None,
    roles: Roles = None,
    yes: Yes = False,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    as_json: AsJson = False,
) -> None:
    """Reject exactly what a step shows, which fails the step; on a terminal, look at it first."""
    decision = _decision_of(shown, rationale, roles, approve=False)
    _decide(run, step, decision, tenant_of(tenant), StoreAddress.parse(store), yes=yes, as_json=as_json)


def _decision_of(
    shown: str | None, rationale: str | None, roles: list[str] | None, *, approve: bool
) -> Decision:
    digest = None if shown is None else ids.digest(shown)
    return Decision(approve, digest, note_of(rationale), frozenset(roles or ()))


def _decide(
    run: str,
    step: str,
    decision: Decision,
    tenant: ids.Tenant,
    address: StoreAddress,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    if decision.shown is None and not yes:
        if as_json or not (sys.stdin.isatty() and err.is_terminal):
            raise InvalidSetting(
                "nobody can be asked here, so a decision names what it is about",
                hint="give --shown DIGEST as `sovrun waiting` shows it, or --yes for whatever is shown now",
            )
        decision = _agreed(run, step, decision, tenant, address)

    async def job() -> Word:
        async with open_desk(address) as opened:
            return await give_decision(opened.desk, opened.store, tenant, run, step, decision)

    done = "approved" if decision.approve else "rejected"
    _print_word(done, complete(job()), address, as_json=as_json)


def _agreed(run: str, step: str, decision: Decision, tenant: ids.Tenant, address: StoreAddress) -> Decision:
    """Show a person what a step shows and return the decision on exactly that; the store is not held meanwhile."""

    async def look() -> Asked:
        async with open_reader(address) as (reader, files):
            found, lookout = await find_run(reader, tenant, run), Lookout(reader, files)
            asked = await lookout.asked(tenant, found, ids.StepId(step))
            if asked.step.state is not State.AWAITING_USER_CONFIRMATION:
                late = await lookout.too_late(tenant, found, asked.id)
                raise late or IllegalTransition(
                    f"step {asked.id} is {asked.step.state}; nobody is asked", state=asked.step.state
                )
            return asked

    asked = complete(look())
    shown = _digest_shown(asked)
    err.print(
        f"step {asked.id} of {asked.record.dag} {asked.record.head.id} asks {asked.whom}:", markup=False
    )
    if asked.body is None or sha256_hex(asked.body) != shown:
        raise NotFound(f"what step {asked.id} shows is no longer kept; its digest is {shown}")
    err.print(visible(json.dumps(decode(asked.body), indent=2, ensure_ascii=False)), markup=False)
    err.print(f"shown {shown}", markup=False)
    if not _agrees("Approve this?" if decision.approve else "Reject this?"):
        err.print("nothing was decided")
        raise typer.Exit(Exit.FAILED)
    return Decision(decision.approve, shown, decision.rationale, decision.roles)


def _agrees(question: str) -> bool:
    """Ask a person; one who types the end of the input does not agree. Raises: typer.Exit when interrupted."""
    try:
        return typer.confirm(question, err=True)
    except typer.Abort as error:  # of both, which only its context tells apart
        err.print("")
        if isinstance(error.__context__, KeyboardInterrupt):
            err.print("interrupted; nothing was decided")
            raise typer.Exit(128 + signal.SIGINT) from None
        return False


# --- how it is shown ------------------------------------------------------------------------------------------------


def _print_word(done: str, word: Word, address: StoreAddress, *, as_json: bool) -> None:
    if as_json:
        print_json(word.json())
        return
    already = "" if word.acted.changed else " (already so)"
    state = word.acted.state
    out.print(f"{done} {escape(word.step)}{already}; run {word.run} is [{STYLE[state]}]{state}[/]")
    if state not in TERMINAL:
        print_how_to_go_on(address)


async def print_waits_of(lookout: Lookout, record: RunRecord, address: StoreAddress) -> None:
    """Show what a run waits for and how it goes on."""
    head = record.head
    for view in await lookout.waiting(head.tenant, head.id):
        print_wait(view, address)
    for one in await lookout.parked(head.tenant, head.id):
        print_parked(one, address)
    for line in held_lines((await lookout.holds(head.tenant)).of(record), record, address):
        out.print(line, markup=False)
    print_how_to_go_on(address, record.isolation)
