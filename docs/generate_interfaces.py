"""Write the tables of `architecture/INTERFACES.md` from the code; run it after a port or contract has changed.

A test compares the page with what this makes. Only what lies between `<!-- from MODULE -->` and `<!-- end -->` is
written; a contract whose table changes in another way than by an addition gets the next version in the first table.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from sovrun.core import errors
from sovrun.core.commands.gates import GATES
from sovrun.core.commands.journal import CONCLUDED, UNRESOLVED, CommandState, UnknownReason
from sovrun.core.commands.model import KINDS, CommandKind
from sovrun.execution.adapters.paper_rules import FURTHER
from sovrun.execution.drift import Resolution
from sovrun.execution.port import LIVE, DeploymentStatus, OrderStatus
from sovrun.service.problems import STATUS

PAGE: Final = Path(__file__).parent / "architecture" / "INTERFACES.md"
_PART: Final = re.compile(r"(<!-- from ([a-z_.]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _summary(thing: Any) -> str:
    first = (inspect.getdoc(thing) or "").partition("\n")[0]
    return first.partition(" Raises: ")[0].replace("|", "\\|")


def _raises(thing: Any) -> str:
    found = re.search(r"Raises: ([^\n]*)", inspect.getdoc(thing) or "")
    names = re.findall(r"\b[A-Z][A-Za-z]+(?=[;,. (]|$)", re.sub(r"\([^)]*\)", "", found[1])) if found else []
    return ", ".join(f"`{name}`" for name in names if name[0].isupper() and not name.isupper())


def _signature(name: str, function: Any) -> str:
    signature = inspect.signature(function)
    plain = signature.replace(
        parameters=[parameter for name, parameter in signature.parameters.items() if name != "self"]
    )
    text = f"{name}{plain}".replace("'", "").replace("|", "\\|")
    return f"async {text}" if inspect.iscoroutinefunction(function) else text


def _own(module: ModuleType, kind: Any) -> list[tuple[str, Any]]:
    return [(name, one) for name, one in vars(module).items() if getattr(one, "__module__", "") == module.__name__
            and isinstance(one, kind) and not name.startswith("_")]  # fmt: skip


def _protocol(name: str, protocol: type[Any]) -> list[str]:
    lines = [f"### `{name}`", "", _summary(protocol), "", "| member | meaning | raises |", "|---|---|---|"]
    for member, hint in inspect.get_annotations(protocol).items():
        lines.append(f"| `{member}: {hint}` | {_attribute_text(protocol, member)} | |")
    for member, function in vars(protocol).items():
        if inspect.isfunction(function) and not member.startswith("_"):
            lines.append(f"| `{_signature(member, function)}` | {_summary(function)} | {_raises(function)} |")
    return [*lines, ""]


def _attribute_text(owner: type[Any], name: str) -> str:
    """Return the text below an attribute, which only its source has."""
    source = inspect.getsource(owner)
    found = re.search(rf'^ +{name}: [^\n]*\n +"""(.*?)(?:"""|\n)', source, re.MULTILINE)
    return found[1].replace("|", "\\|") if found else ""


def _escaped(text: object) -> str:
    return str(text).replace("|", "\\|")


def _argument(kind: type[Any], name: str) -> str:
    """Return what the docstring of a type says of a member."""
    found = re.search(rf"\b{name}: ([^;]*?)[.;](?:\s|$)", (inspect.getdoc(kind) or "").partition("Args:")[2])
    return _escaped(" ".join(found[1].split())) if found else ""


def _fields(name: str, kind: type[Any]) -> list[str]:
    """Return a value type by itself: its members with their types, then its properties."""
    lines = [f"### `{name}`", "", _summary(kind), "", "| member | meaning |", "|---|---|"]
    lines += [f"| `{one.name}: {_escaped(one.type)}` | {_argument(kind, one.name)} |" for one in fields(kind)]
    properties = [(n, p) for n, p in vars(kind).items() if isinstance(p, property)]
    return [*lines, *(f"| `{n}` | {_summary(p)} |" for n, p in properties)]


def _value(name: str, kind: type[Any]) -> str:
    if is_dataclass(kind):
        members = ", ".join(
            f"`{one.name}`" if one.default is MISSING and one.default_factory is MISSING else f"`{one.name}`?"
            for one in fields(kind)
        )
    else:
        defaults = kind._field_defaults  # type: ignore[attr-defined]
        members = ", ".join(f"`{one}`{'?' * (one in defaults)}" for one in kind._fields)  # type: ignore[attr-defined]
    return f"| `{name}` | {_summary(kind)} | {members} |"


def tables(module_name: str) -> str:
    """Return the protocols of a module, then its value types; of a module without protocols its functions."""
    module = import_module(module_name)
    kinds = _own(module, type)
    protocols = [(name, kind) for name, kind in kinds if getattr(kind, "_is_protocol", False)]
    if not protocols:
        lines = ["| function | meaning | raises |", "|---|---|---|"]
        public = [
            (n, f)
            for n, f in _own(module, type(tables))
            if n not in ("enter", "enter_process", "leave", "current")
        ]
        lines += [f"| `{_signature(name, one)}` | {_summary(one)} | {_raises(one)} |" for name, one in public]
        raised = [(name, kind) for name, kind in kinds if issubclass(kind, Exception)]
        lines += [f"| `{name}` | {_summary(kind)} | |" for name, kind in raised]
        for name, kind in kinds:
            if not issubclass(kind, Exception):
                lines += ["", *(_fields(name, kind) if is_dataclass(kind) else _protocol(name, kind)[:-1])]
        return "\n".join(lines) + "\n"
    lines = [line for name, kind in protocols for line in _protocol(name, kind)]
    values = [(n, k) for n, k in kinds if is_dataclass(k) or hasattr(k, "_fields")]
    lines += [
        "Value types; `?` marks members with a default:",
        "",
        "| type | meaning | members |",
        "|---|---|---|",
    ]
    lines += [_value(name, kind) for name, kind in values]
    raised = [(name, kind) for name, kind in kinds if issubclass(kind, Exception)]
    lines += [f"| `{name}` | Raised: {_summary(kind)} | |" for name, kind in raised]
    return "\n".join(lines) + "\n"


# --- commands ---------------------------------------------------------------------------------------------------------

ERRORS: Final = (
    errors.InvalidCommand,
    errors.InvalidIdentifier,
    errors.PayloadTooLarge,
    errors.IdempotencyKeyRequired,
    errors.IdempotencyKeyConflict,
    errors.IdempotencyKeyInFlight,
    errors.UnknownSymbol,
    errors.NotFound,
    errors.AdapterUnavailable,
    errors.ProviderUnavailable,
    errors.EffectWouldRepeat,
    errors.IllegalTransition,
    errors.CommandMoved,
    errors.InvalidSetting,
    errors.NotAllowed,
    errors.StoreUnavailable,
    errors.StoreOwned,
)
"""What a caller of the command layer can be told at once; nothing is sent then."""


def _member(name: str, rule: dict[str, Any], required: list[str]) -> str:
    if "enum" in rule:
        wanted = " or ".join(f"`{option}`" for option in rule["enum"])
    else:
        wanted = rule.get("title") or {"object": "a map", "string": "a text"}[rule["type"]]
    default = f"; `{rule['default']}` unless it is given" if "default" in rule else ""
    return f"| `{name}` | {'yes' if name in required else 'no'} | {wanted}{default} |"


def _kind(kind: CommandKind) -> list[str]:
    schema = kind.schema
    whose = f", which `{kind.target}` names and a command of the same tenant has made" if kind.target else ""
    said = [
        f"{schema['title']}.",
        f"It {'needs' if kind.needs_key else 'may do without'} an idempotency key.",
        "Every gate applies." if kind.opens else "It passes every gate.",
        f"It is about {'an' if kind.resource == 'order' else 'a'} {kind.resource}{whose}.",
        "Nothing else may stand beside these members.",
        *(
            f"{schema[rule]['title'][0].upper()}{schema[rule]['title'][1:]}."
            for rule in ("then", "else")
            if rule in schema
        ),
    ]
    members = [_member(name, rule, schema["required"]) for name, rule in schema["properties"].items()]
    heading = f"### `{kind.name}`, version {kind.version}"
    return [
        heading,
        "",
        " ".join(said),
        "",
        "| member | required | what it is |",
        "|---|---|---|",
        *members,
        "",
    ]


def payloads() -> str:
    """Return what the payload of each kind of command is."""
    ours = [line for kind in KINDS.values() for line in _kind(kind)]
    further = [line for kind in FURTHER.values() for line in _kind(kind)]
    return "\n".join([*ours, "The paper provider declares two kinds more:", "", *further])


def statuses() -> str:
    """Return the statuses of deployments, orders and commands, and which of them may still change."""
    live, over = "may still change", "is over"
    lines = ["| of | status | |", "|---|---|---|"]
    lines += [f"| a deployment | `{one}` | {live if one in LIVE else over} |" for one in DeploymentStatus]
    lines += [f"| an order | `{one}` | {live if one in LIVE else over} |" for one in OrderStatus]
    for one in CommandState:
        unresolved = ", and something may have happened that nobody knows of" if one in UNRESOLVED else ""
        lines.append(f"| a command | `{one}` | {over if one in CONCLUDED else live}{unresolved} |")
    return "\n".join(lines) + "\n"


def _explained(page: str, section: str, codes: list[str]) -> list[tuple[str, str]]:
    """Return codes with the last cell of their row in a section of another page, which a test keeps complete."""
    text = (PAGE.parent.parent / page).read_text(encoding="utf-8").partition(f"## {section}\n")[2]
    rows = [
        line.strip("|").split(" | ")
        for line in text.partition("\n## ")[0].splitlines()
        if line.startswith("| `")
    ]
    told = {code: row[-1].strip() for row in rows for code in re.findall(r"`([a-z_]+)`", row[0])}
    return [(code, told[code]) for code in codes]


def outcomes() -> str:
    """Return why an outcome is not known, which gates there are, and what differences are called."""
    guide = "guides/commands.md"
    told = [
        (
            "why the outcome is not known",
            _explained("reference/errors.md", "Commands", [*map(str, UnknownReason)]),
        ),
        ("gate that refuses, in their order", _explained(guide, "Gates", [gate for gate, _ in GATES])),
        ("difference from the provider", _explained(guide, "Drift", [*map(str, Resolution)])),
    ]
    lines: list[str] = []
    for heading, rows in told:
        lines += [f"| {heading} | meaning |", "|---|---|"]
        lines += [f"| `{code}` | {meaning} |" for code, meaning in rows]
        lines.append("")
    return "\n".join(lines)


def refusals() -> str:
    """Return the codes of errors that a caller of the command layer can be told."""
    lines = ["| code | HTTP | meaning |", "|---|---|---|"]
    lines += [f"| `{one.code}` | {STATUS[one]} | {_summary(one)} |" for one in ERRORS]
    return "\n".join(lines) + "\n"


_OF_COMMANDS: Final = {
    "commands.payloads": payloads,
    "commands.statuses": statuses,
    "commands.outcomes": outcomes,
    "commands.refusals": refusals,
}


def page(text: str) -> str:
    """Return the page `text` with its generated parts as the code has them now."""

    def part(found: re.Match[str]) -> str:
        make = _OF_COMMANDS.get(found[2])
        return f"{found[1]}\n{tables(found[2]) if make is None else make()}\n{found[3]}"

    return _PART.sub(part, text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
