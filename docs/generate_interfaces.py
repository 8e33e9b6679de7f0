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
        errors = [(name, kind) for name, kind in kinds if issubclass(kind, Exception)]
        lines += [f"| `{name}` | {_summary(kind)} | |" for name, kind in errors]
        return "\n".join(lines) + "\n"
    lines = [line for name, kind in protocols for line in _protocol(name, kind)]
    values = [(n, k) for n, k in kinds if is_dataclass(k) or hasattr(k, "_fields")]
    lines += [
        "Value types; `?` marks members with a default:",
        "",
        "| type | meaning | members |",
        "|---|---|---|",
    ]
    return "\n".join([*lines, *(_value(name, kind) for name, kind in values)]) + "\n"


def page(text: str) -> str:
    """Return the page `text` with its generated parts as the code has them now."""
    return _PART.sub(lambda part: f"{part[1]}\n{tables(part[2])}\n{part[3]}", text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
