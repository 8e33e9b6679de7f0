"""DAG documents in YAML: the part of YAML 1.2 that has the same meaning as JSON.

Owns: reading a YAML text as a value by the core schema of YAML 1.2, its limits, and where its fields stand. Anchors,
aliases, tags, directives, merge keys, repeated and non-text keys and further documents are refused where they stand.
Must not touch: what the fields mean.

The parser's events are put together here without recursion, so that limits end the work and not the interpreter.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from sovrun.core.canonical import DEPTH_MAX
from sovrun.core.errors import Mistake
from sovrun.core.jsontext import Path, Place, number_fault
from sovrun.core.spec.findings import MISTAKES_MAX, Finding, UnreadableError, kind_of, quoted

YAML_BYTES_MAX: Final = 1 << 20
YAML_NODES_MAX: Final = 200_000
"""Values and keys of a text: more than a MiB of the smallest steps has, and what takes seconds to read all the same."""

_INTEGER: Final = re.compile(r"[-+]?[0-9]+")
_OCTAL: Final = re.compile(r"0o[0-7]{1,24}")
_HEXADECIMAL: Final = re.compile(r"0x[0-9a-fA-F]{1,24}")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: Final[Mapping[str, bool | None]] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@dataclass(slots=True)
class _Node:
    """Where a value stands, and where those within it do."""

    place: Place
    items: list[_Node] = field(default_factory=list)
    fields: dict[str, tuple[Place, _Node]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """A YAML text as a value, and what is wrong with it as a text."""

    value: Any
    findings: tuple[Finding, ...]
    root: _Node

    def places(self, wanted: Collection[Path]) -> Mapping[Path, tuple[Place, Place]]:
        """Return of each path that is there the places of its value and of its key."""
        return {path: found for path in wanted if (found := self._place(path)) is not None}

    def _place(self, path: Path) -> tuple[Place, Place] | None:
        node, key = self.root, self.root.place
        for part in path:
            if isinstance(part, str):
                if part not in node.fields:
                    return None
                key, node = node.fields[part]
            elif part < len(node.items):
                node = node.items[part]
                key = node.place
            else:
                return None
        return node.place, key


def read_yaml(text: str) -> YamlDocument:
    """Return the document that `text` is. Raises: UnreadableError."""
    composer = _Composer()
    last = Place(1, 1)
    try:
        for event in _events(text):
            last = _place_of(event)
            composer.take(event)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark is not None else last
        context = f" ({error.context})" if error.context else ""
        raise UnreadableError(
            *composer.mistakes(), Mistake("bad_yaml", f"not YAML: {error.problem}{context}", (), *place)
        ) from None
    except YAMLError as error:
        message = str(error).partition("\n")[0]
        raise UnreadableError(
            *composer.mistakes(), Mistake("bad_yaml", f"not YAML: {message}", (), *last)
        ) from None
    if not composer.documents:
        raise UnreadableError(Mistake("empty_document", "the document is empty"))
    return YamlDocument(composer.value, tuple(composer.findings), composer.root)


def _events(text: str) -> Iterator[Event]:
    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except (
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        AssertionError,
    ) as error:
        # what the parser lets slip on texts that are not YAML, for example an escape beyond Unicode
        raise YAMLError(f"the parser gave up ({type(error).__name__})") from None


def _place_of(event: Event) -> Place:
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)


@dataclass(slots=True)
class _Open:
    """A list or map that is being read; `ignored` when its value goes nowhere."""

    value: Any
    node: _Node
    ignored: bool
    part: str | int | None = None
    key_place: Place | None = None
    """Of the key whose value comes next; None when a key comes next."""
    skip: bool = False
    """The value that comes next is read and dropped, its key being refused."""
    is_key: bool = False
    """It stands as a key itself, which is refused."""


class _Composer:
    """Puts a value and its places together from the events of a parser."""

    def __init__(self) -> None:
        self.value: Any = None
        self.root = _Node(Place(1, 1))
        self.findings: list[Finding] = []
        self.documents = 0
        self._nodes = 0
        self._stack: list[_Open] = []

    def mistakes(self) -> list[Mistake]:
        """Return what was found so far, with its places."""
        return [found.mistake(found.place or Place(0, 0)) for found in self.findings]

    def take(self, event: Event) -> None:
        """Go on by one event. Raises: UnreadableError where going on makes no sense."""
        if isinstance(event, NodeEvent):
            self._count(event)
        match event:
            case DocumentStartEvent():
                self._begin_document(event)
            case ScalarEvent() | AliasEvent():
                self._refuse_extras(event)
                self._put(self._scalar(event), _place_of(event), event)
            case SequenceStartEvent() | MappingStartEvent():
                self._refuse_extras(event)
                self._open(event)
            case SequenceEndEvent() | MappingEndEvent():
                self._close()

    def _count(self, event: NodeEvent) -> None:
        self._nodes += 1
        if self._nodes > YAML_NODES_MAX:
            message = f"the document has more than {YAML_NODES_MAX:,} values and keys, the most for YAML"
            place, hint = _place_of(event), "write a large DAG as JSON"
            raise UnreadableError(*self.mistakes(), Mistake("too_large", message, (), *place, hint))

    def _begin_document(self, event: DocumentStartEvent) -> None:
        self.documents += 1
        if self.documents > 1:
            self._find("several_documents", "a second document begins here; a file holds one DAG", event)
            raise UnreadableError(*self.mistakes())
        if event.version is not None or event.tags:
            self._find(
                "yaml_directive", "a YAML directive (%) stands before the document; leave it out", event
            )

    def _refuse_extras(self, event: NodeEvent) -> None:
        if isinstance(event, AliasEvent):
            message = f"an alias (*{event.anchor}) is not allowed; write the value itself"
            self._find("yaml_alias", message, event, spoilt=True)
        elif event.anchor is not None:
            self._find("yaml_anchor", f"an anchor (&{event.anchor}) is not allowed; leave it out", event)
        tag = getattr(event, "tag", None)  # an alias has none
        if tag is not None:
            message = f"a tag ({quoted(tag)}) is not allowed; leave it out"
            self._find("yaml_tag", message, event, spoilt=True)

    def _find(self, code: str, message: str, event: Event, *, spoilt: bool = False) -> None:
        within_refused = bool(self._stack) and self._stack[-1].ignored
        if not within_refused or code == "too_deep":
            self.findings.append(Finding(code, message, self._path(), spoilt=spoilt, place=_place_of(event)))
        if len(self.findings) >= MISTAKES_MAX:
            raise UnreadableError(*self.mistakes())

    def _path(self) -> Path:
        """Return the path of the value that comes next, or of the map whose key comes next."""
        return tuple(
            entry.part
            for entry in self._stack
            if entry.part is not None and not (isinstance(entry.value, dict) and entry.key_place is None)
        )

    def _at_key(self) -> bool:
        return (
            bool(self._stack)
            and isinstance(self._stack[-1].value, dict)
            and self._stack[-1].key_place is None
        )

    def _open(self, event: SequenceStartEvent | MappingStartEvent) -> None:
        if len(self._stack) >= DEPTH_MAX:
            self._find("too_deep", f"nested deeper than {DEPTH_MAX} levels", event)
            raise UnreadableError(*self.mistakes())
        value: Any = {} if isinstance(event, MappingStartEvent) else []
        node = _Node(_place_of(event))
        ignored = bool(self._stack) and (self._stack[-1].ignored or self._stack[-1].skip)
        if self._at_key():
            self._find("bad_key", f"{kind_of(value)} stands as a key; keys are texts", event)
            self._stack.append(_Open(value, node, ignored=True, is_key=True))
        else:
            self._attach(value, node)
            self._stack.append(_Open(value, node, ignored, part=0 if isinstance(value, list) else None))

    def _close(self) -> None:
        closed = self._stack.pop()
        if closed.is_key:
            above = self._stack[-1]
            above.part, above.key_place, above.skip = "", closed.node.place, True
        else:
            self._value_done()

    def _put(self, value: Any, place: Place, event: Event) -> None:
        if self._at_key():
            self._take_key(value, place, event)
        else:
            self._attach(value, _Node(place))
            self._value_done()

    def _take_key(self, key: Any, place: Place, event: Event) -> None:
        top = self._stack[-1]
        refused: tuple[str, str] | None = None
        if isinstance(event, AliasEvent):
            refused = "", ""  # has been said
        elif not isinstance(key, str):
            message = f"the key {quoted(getattr(event, 'value', ''))} is {kind_of(key)}; write it in quotes"
            refused = "bad_key", message
        elif key == "<<" and getattr(event, "style", None) is None:
            refused = "yaml_merge", "a merge key (<<) is not allowed; write the fields themselves"
        elif key in top.value:
            refused = "duplicate_key", f"the key {quoted(key)} stands twice in one map"
        if refused is not None and refused[0]:
            self._find(*refused, event)
        top.part = str(key)
        top.key_place, top.skip = place, refused is not None

    def _attach(self, value: Any, node: _Node) -> None:
        if not self._stack:
            self.value, self.root = value, node
            return
        top = self._stack[-1]
        if top.skip or top.ignored:
            return
        if isinstance(top.value, list):
            top.value.append(value)
            top.node.items.append(node)
        elif isinstance(top.part, str) and top.key_place is not None:
            top.value[top.part] = value
            top.node.fields[top.part] = (top.key_place, node)

    def _value_done(self) -> None:
        """The value that was read has an end: the next list item, or the next key, may come."""
        if not self._stack:
            return
        top = self._stack[-1]
        if isinstance(top.value, list):
            if top.part is not None:
                top.part = int(top.part) + 1
        else:
            top.key_place, top.skip = None, False

    def _scalar(self, event: ScalarEvent | AliasEvent) -> Any:
        if isinstance(event, AliasEvent):
            return None
        text = str(event.value)
        if _SURROGATE.search(text):
            self._find("lone_surrogate", "a lone surrogate in a text", event, spoilt=True)
            return ""
        if event.style is not None or event.tag is not None:
            return text
        if text in _WORDS:
            return _WORDS[text]
        return self._number(text, event)

    def _number(self, text: str, event: ScalarEvent) -> Any:
        if _INTEGER.fullmatch(text):
            token = text.removeprefix("+")
        elif _OCTAL.fullmatch(text) or _HEXADECIMAL.fullmatch(text):
            token = str(int(text, 0))
        elif _FLOAT.fullmatch(text):
            return self._finite(text, event)
        elif _NOT_FINITE.fullmatch(text):
            self._find("bad_number", f"{text} has no JSON form", event, spoilt=True)
            return 0
        else:
            return text
        fault = number_fault(token)
        if fault is None:
            return int(token)
        self._find(*fault, event, spoilt=True)
        return 0

    def _finite(self, text: str, event: ScalarEvent) -> float:
        value = float(text)
        if abs(value) != float("inf"):
            return value
        self._find(
            "bad_number", f"the number {quoted(text)} is beyond what a double can hold", event, spoilt=True
        )
        return 0.0
