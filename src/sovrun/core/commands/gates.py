"""The gates: what an operator lets out, decided after the key was looked up and before anything is sent.

Owns: `Switch`, `AdapterLimits`, `AdapterLimitsChange`, `GateFacts`, the ordered chain `pass_gates`. A refusal names its gate.
Must not touch: journals; what was sent before arrives as counts. Commands that only end obligations (cancel, stop) pass
every gate: whoever pulls the switch wants to get out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from decimal import Context, Decimal
from typing import Any, Final, NamedTuple

from sovrun.core.commands.journal import Intention
from sovrun.core.errors import InvalidSetting
from sovrun.core.ids import Actor, Digest, Tenant

DAY_US: Final = 86_400 * 1_000_000
RATE_WINDOW_MAX_US: Final = DAY_US
_FIELDS: Final = {
    "dayNotional": "day_notional",
    "modes": "modes",
    "orderNotional": "order_notional",
    "perDay": "per_day",
    "rate": "rate",
    "symbols": "symbols",
}
"""The members of `AdapterLimits` by their names in its JSON form."""
_RATIONALE_SHOWN: Final = 400
"""How many characters of a rationale a refusal repeats; all of it is in the record of the switch."""
EXACT: Final = Context(prec=120)
"""For values: a product of two decimals of a payload has 72 digits, and no sum of a day's reaches 120."""


def total(notionals: Iterable[str | None]) -> Decimal:
    """Return the sum of the values of commands, to the last digit; None counts nothing."""
    spent = Decimal(0)
    for notional in notionals:
        if notional is not None:
            spent = EXACT.add(spent, Decimal(notional))
    return spent


@dataclass(frozen=True, slots=True)
class Switch:
    """The kill switch of one tenant, or with tenant None of all.

    Args:
        rationale: digest of why it was last moved.
    """

    tenant: Tenant | None
    tripped: bool
    actor: Actor
    rationale: Digest
    time_us: int


@dataclass(frozen=True, slots=True)
class AdapterLimits:
    """What one tenant may do through one adapter; None means no bound. Windows slide.

    Args:
        modes, symbols: the only ones allowed.
        rate: commands within so many microseconds.
        per_day: commands within 24 hours.
        order_notional: largest value of one command; day_notional: of all within 24 hours.
    """

    modes: frozenset[str] | None = None
    symbols: frozenset[str] | None = None
    rate: tuple[int, int] | None = None
    per_day: int | None = None
    order_notional: Decimal | None = None
    day_notional: Decimal | None = None

    @property
    def watches_notional(self) -> bool:
        """Whether a command needs a value to pass."""
        return self.order_notional is not None or self.day_notional is not None

    def json(self) -> dict[str, Any]:
        """Return the limits as they are kept and shown."""
        return {
            "dayNotional": None if self.day_notional is None else str(self.day_notional),
            "modes": None if self.modes is None else sorted(self.modes),
            "orderNotional": None if self.order_notional is None else str(self.order_notional),
            "perDay": self.per_day,
            "rate": None
            if self.rate is None
            else {"commands": self.rate[0], "seconds": self.rate[1] // 1_000_000},
            "symbols": None if self.symbols is None else sorted(self.symbols),
        }

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> AdapterLimits:
        """Return limits from their JSON form. Raises: InvalidSetting."""
        unknown = sorted(set(value) - set(_FIELDS))
        if unknown:
            raise InvalidSetting(f"limits have no member {unknown[0]!r}")
        try:
            limits = cls(
                modes=_names(value.get("modes")),
                symbols=_names(value.get("symbols")),
                rate=_rate_of(value.get("rate")),
                per_day=_count_of(value.get("perDay")),
                order_notional=_amount(value.get("orderNotional"), "orderNotional"),
                day_notional=_amount(value.get("dayNotional"), "dayNotional"),
            )
        except (TypeError, ValueError, ArithmeticError) as error:
            raise InvalidSetting(f"{error!s:.200}") from None
        if limits.rate is not None and not 0 < limits.rate[1] <= RATE_WINDOW_MAX_US:
            raise InvalidSetting("a rate counts commands within 1 to 86400 seconds")
        return limits


_MEMBERS: Final = frozenset(field.name for field in fields(AdapterLimits))


@dataclass(frozen=True, slots=True)
class AdapterLimitsChange:
    """What is to be otherwise in `AdapterLimits`; what is not among `members` stays as it is, whoever changes it meanwhile.

    Args:
        limits: as they are to be; members: which of its members count.
    """

    limits: AdapterLimits
    members: frozenset[str]

    def __post_init__(self) -> None:
        if not self.members <= _MEMBERS:
            raise ValueError(f"limits have no member {min(self.members - _MEMBERS)!r:.80}")

    @classmethod
    def to(cls, limits: AdapterLimits) -> AdapterLimitsChange:
        """Return the change after which exactly `limits` hold, whatever held before."""
        return cls(limits, _MEMBERS)

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> AdapterLimitsChange:
        """Return the change to what is named in the JSON form of limits. Raises: InvalidSetting."""
        return cls(AdapterLimits.of(value), frozenset(_FIELDS[name] for name in value))

    def applied(self, before: AdapterLimits) -> AdapterLimits:
        """Return what holds after the change where `before` held."""
        return replace(before, **{member: getattr(self.limits, member) for member in self.members})


def _names(value: Any) -> frozenset[str] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"symbols and modes are lists of names, and {value!r:.80} is none")
    return frozenset(value)


def _count_of(value: Any) -> int | None:
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r:.80} is not a number of commands")
    return int(value)


def _rate_of(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or set(value) != {"commands", "seconds"}:
        raise TypeError("a rate has the members `commands` and `seconds`")
    commands, seconds = _count_of(value["commands"]), _count_of(value["seconds"])
    if commands is None or seconds is None:
        raise TypeError("a rate has a number of commands and of seconds")
    return commands, seconds * 1_000_000


def _amount(value: Any, name: str) -> Decimal | None:
    if value is None:
        return None
    try:
        amount = Decimal("NaN" if isinstance(value, bool) else str(value))
    except ArithmeticError:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"{name} is a decimal of at least 0, and {value!r:.80} is none")
    return amount


@dataclass(frozen=True, slots=True)
class GateFacts:
    """What the gates look at: the journal's counts of commands that were sent before and opened something.

    Args:
        switches: those that are tripped and concern the command, the global one first.
        rationale: why the first of them was tripped, None where nobody knows.
        in_window: within the limits' rate window; in_day, notional_in_day: within 24 hours.
    """

    switches: tuple[Switch, ...]
    limits: AdapterLimits
    in_window: int = 0
    in_day: int = 0
    notional_in_day: Decimal = Decimal(0)
    rationale: str | None = None


class GateRefusal(NamedTuple):
    """A gate that stays shut, and why."""

    gate: str
    message: str


def _switch(_: Intention, facts: GateFacts) -> str | None:
    if not facts.switches:
        return None
    switch = facts.switches[0]
    whose = "for everybody" if switch.tenant is None else f"of tenant {switch.tenant}"
    why = "" if facts.rationale is None else f": {facts.rationale:.{_RATIONALE_SHOWN}}"
    return f"the kill switch {whose} was tripped by {switch.actor}{why}"


def _mode(wanted: Intention, facts: GateFacts) -> str | None:
    allowed = facts.limits.modes
    if allowed is None or wanted.mode in allowed:
        return None
    return f"mode {wanted.mode} is not among {', '.join(sorted(allowed)) or 'none'}"


def _symbol(wanted: Intention, facts: GateFacts) -> str | None:
    allowed = facts.limits.symbols
    if allowed is None or wanted.symbol is None or wanted.symbol in allowed:
        return None
    return f"symbol {wanted.symbol} is not among those allowed"


def _rate(_: Intention, facts: GateFacts) -> str | None:
    rate = facts.limits.rate
    if rate is None or facts.in_window < rate[0]:
        return None
    return f"{facts.in_window} commands were sent within {rate[1] // 1_000_000} s; {rate[0]} are allowed"


def _count(_: Intention, facts: GateFacts) -> str | None:
    most = facts.limits.per_day
    if most is None or facts.in_day < most:
        return None
    return f"{facts.in_day} commands were sent within 24 hours; {most} are allowed"


def _notional(wanted: Intention, facts: GateFacts) -> str | None:
    limits = facts.limits
    if not limits.watches_notional:
        return None
    if wanted.notional is None:
        return "the value of the command cannot be determined, and there is a limit on it"
    value = Decimal(wanted.notional)
    if limits.order_notional is not None and value > limits.order_notional:
        return f"its value {value} is above {limits.order_notional}, the most for one command"
    after = EXACT.add(facts.notional_in_day, value)
    if limits.day_notional is not None and after > limits.day_notional:
        return f"the value sent within 24 hours would be {after}, above {limits.day_notional}"
    return None


GATES: Final[tuple[tuple[str, Callable[[Intention, GateFacts], str | None]], ...]] = (
    ("kill_switch", _switch),
    ("mode", _mode),
    ("symbol", _symbol),
    ("rate", _rate),
    ("count", _count),
    ("notional", _notional),
)
"""The chain, in its order."""


def pass_gates(intention: Intention, facts: GateFacts) -> GateRefusal | None:
    """Return the first gate that stays shut, None when all open."""
    if not intention.opens:
        return None
    for gate, decide in GATES:
        message = decide(intention, facts)
        if message is not None:
            return GateRefusal(gate, message)
    return None
