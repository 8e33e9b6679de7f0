"""Every error raised on purpose, each with its stable public code.

Owns: the one hierarchy. A code is public: never renamed, never reused; `docs/reference/errors.md` lists them.
Must not touch: HTTP statuses and exit codes, which belong to the faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class SovrunError(Exception):
    """Base of every error raised on purpose.

    `detail` says what was wrong and where, `facts` are the values a program may want, `hint` what to do about it.
    """

    code: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, detail: str, *, hint: str | None = None, **facts: str | int) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint
        self.facts = facts


# --- values and documents -------------------------------------------------------------------------------------------


class InvalidValue(SovrunError):
    """A value cannot be put into the canonical form, or a text is not strict JSON."""

    code, title = "invalid_value", "The value has no canonical form"


class InvalidInputs(SovrunError):
    """The inputs of a run do not fit the DAG's input schema."""

    code, title = "invalid_inputs", "The inputs do not fit the DAG"


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong in a document, and where.

    Args:
        code: stable public code of the kind of mistake.
        message: what is wrong, for a person.
        path: field path from the root of the document; list positions are integers.
        line, column: 1-based place in the text, 0 when the text as a whole is meant.
        hint: what to do, when that is known.
    """

    code: str
    message: str
    path: tuple[str | int, ...] = ()
    line: int = 0
    column: int = 0
    hint: str | None = None


class InvalidSpec(SovrunError):
    """A DAG document has mistakes; `mistakes` holds all of them in the order of the text."""

    code, title = "invalid_spec", "The DAG document has mistakes"

    def __init__(self, name: str, mistakes: Sequence[Mistake]) -> None:
        count = len(mistakes)
        super().__init__(f"{name}: {count} mistake{'s' if count != 1 else ''}", document=name, mistakes=count)
        self.name = name
        self.mistakes = tuple(mistakes)


class InvalidIdentifier(SovrunError):
    """A tenant, DAG, step or key name is not of the allowed form."""

    code, title = "invalid_identifier", "The name is not of the allowed form"


class CodeUnavailable(SovrunError):
    """The code directory of a DAG cannot be read, is too large, or is not what was registered."""

    code, title = "code_unavailable", "The code of the DAG is not available"


class FileUnavailable(SovrunError):
    """A file or directory that the caller named cannot be read or written, or is no longer what was taken in."""

    code, title = "file_unavailable", "A file is not available"


class PayloadTooLarge(SovrunError):
    """A value or file is larger than the limit named in the message."""

    code, title = "payload_too_large", "The payload is too large"


# --- lifecycle ------------------------------------------------------------------------------------------------------


class IllegalTransition(SovrunError):
    """The lifecycle table has no such move."""

    code, title = "illegal_transition", "The lifecycle does not allow this move now"


class ConfirmationChanged(SovrunError):
    """What a person decides on is not what the step shows now."""

    code, title = "confirmation_changed", "The decision is for something else than what is shown"


class NotAllowed(SovrunError):
    """The actor may not do this."""

    code, title = "not_allowed", "The actor is not allowed to do this"


class LeaseLost(SovrunError):
    """A worker reports on a step whose lease it no longer holds."""

    code, title = "lease_lost", "The lease was lost"


class IdempotencyKeyConflict(SovrunError):
    """The key was used before with another request."""

    code, title = "idempotency_key_conflict", "The idempotency key belongs to another request"


class NotFound(SovrunError):
    """No such thing within the tenant."""

    code, title = "not_found", "There is no such thing"


class StepKindUnavailable(SovrunError):
    """The DAG uses a kind of step that this installation cannot run."""

    code, title = "step_kind_unavailable", "This kind of step cannot run here"


# --- commands -------------------------------------------------------------------------------------------------------


class InvalidCommand(SovrunError):
    """A command's payload does not fit its kind, or its adapter does not take such commands."""

    code, title = "invalid_command", "The command is not well-formed"


class UnknownSymbol(SovrunError):
    """The adapter does not trade the symbol of an order."""

    code, title = "unknown_symbol", "There is no such symbol"


class IdempotencyKeyRequired(SovrunError):
    """A command that may create something was sent without a key, so that a repeat could not be told from a second one."""

    code, title = "idempotency_key_required", "This command needs an idempotency key"


class IdempotencyKeyInFlight(SovrunError):
    """The command with this key has no outcome yet."""

    code, title = "idempotency_key_in_flight", "The command with this key is still under way"


class CommandMoved(SovrunError):
    """The command's journal has gone on since it was read."""

    code, title = "command_moved", "The command is no longer where it was"


class EffectWouldRepeat(SovrunError):
    """A re-run would do something outside again that its parent did or may have done."""

    code, title = "effect_would_repeat", "The re-run would repeat an effect"


class AdapterUnavailable(SovrunError):
    """No adapter of that name is configured for the tenant, or its configuration cannot be used."""

    code, title = "adapter_unavailable", "There is no such adapter"


class ProviderUnavailable(SovrunError):
    """The provider behind an adapter does not answer a read, or its answer makes no sense."""

    code, title = "provider_unavailable", "The provider does not answer"


# --- stores ---------------------------------------------------------------------------------------------------------


class CorruptHistory(SovrunError):
    """What is recorded contradicts the rules: someone else wrote it, or Sovrun has a bug."""

    code, title = "corrupt_history", "The recorded history is not consistent"


class StoreUnavailable(SovrunError):
    """The store cannot be reached or written; the outcome of the last write is unknown until read."""

    code, title = "store_unavailable", "The store is not available"


class StoreOwned(SovrunError):
    """Another process owns the store's file for writing."""

    code, title = "store_owned", "Another process owns the store"


class StoreVersion(SovrunError):
    """The store's schema is newer than this program, or it is not a Sovrun store."""

    code, title = "store_version", "The store is of another version"


# --- the machine ----------------------------------------------------------------------------------------------------


class IsolationUnavailable(SovrunError):
    """This machine lacks what the sandbox needs; no sandbox, no run."""

    code, title = "isolation_unavailable", "Steps cannot be isolated on this machine"


class SystemRefused(SovrunError):
    """The operating system refused what a command needed: a disk, a file, a process, memory."""

    code, title = "system_refused", "The operating system refused an operation"


class InvalidSetting(SovrunError):
    """A setting, option or address is malformed."""

    code, title = "invalid_setting", "The setting is not usable"
