"""Errors as RFC 9457 problems: the only place that knows HTTP statuses."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from sovrun.core import errors
from sovrun.core.errors import InvalidSpec, SovrunError
from sovrun.engine.views import mistakes_json

ERROR_PAGES: Final = "https://sovrun.invalid/errors"

STATUS: Final[Mapping[type[SovrunError], int]] = MappingProxyType(
    {
        errors.InvalidValue: 400,
        errors.InvalidInputs: 422,
        errors.InvalidSpec: 422,
        errors.InvalidIdentifier: 400,
        errors.CodeUnavailable: 422,
        errors.FileUnavailable: 422,
        errors.PayloadTooLarge: 413,
        errors.ConfirmationChanged: 409,
        errors.NotAllowed: 403,
        errors.IllegalTransition: 409,
        errors.LeaseLost: 409,
        errors.IdempotencyKeyConflict: 422,
        errors.NotFound: 404,
        errors.StepKindUnavailable: 422,
        errors.ProviderUnavailable: 502,
        errors.CorruptHistory: 500,
        errors.StoreUnavailable: 503,
        errors.StoreOwned: 503,
        errors.StoreVersion: 500,
        errors.IsolationUnavailable: 503,
        errors.SystemRefused: 503,
        errors.InvalidSetting: 400,
        errors.InvalidCommand: 422,
        errors.IdempotencyKeyRequired: 400,
        errors.IdempotencyKeyInFlight: 409,
        errors.UnknownSymbol: 422,
        errors.AdapterUnavailable: 422,
        errors.CommandMoved: 409,
        errors.EffectWouldRepeat: 409,
    }
)


def problem_of(error: SovrunError, instance: str) -> dict[str, object]:
    """Return the `application/problem+json` body; one of 500 shows neither detail nor facts."""
    status = STATUS[type(error)]
    problem: dict[str, object] = {
        "type": f"{ERROR_PAGES}/{error.code}",
        "title": error.title,
        "status": status,
        "instance": instance,
        "code": error.code,
    }
    if status == 500:
        return problem
    problem |= {"detail": error.detail, "hint": error.hint, "facts": error.facts}
    return problem | ({"mistakes": mistakes_json(error)} if isinstance(error, InvalidSpec) else {})
