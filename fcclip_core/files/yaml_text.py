"""Reads untrusted YAML, with a cost proportional to its size.

Plain data only: no aliases (which can expand to gigabytes), no tags (which create objects), no merge keys. A duplicate
key is an error, because one of its values would be lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from fcclip_core.errors import YamlError
from fcclip_core.quoting import short

MAX_DEPTH = 20
"""Largest nesting depth of lists and mappings."""

MAX_VALUES = 1_500_000
"""Largest number of keys, values, lists and mappings: each takes up to 70 bytes of memory for two bytes of text."""

_MAX_NUMBER = 100
_PREFIX = "tag:yaml.org,2002:"
_MERGE, _TEXT = f"{_PREFIX}merge", f"{_PREFIX}str"
# libyaml, if PyYAML has it, is ten times as fast.
_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER = yaml.resolver.Resolver()
_CONSTRUCTOR = yaml.constructor.SafeConstructor()
_READ = {
    f"{_PREFIX}null": _CONSTRUCTOR.construct_yaml_null,
    f"{_PREFIX}bool": _CONSTRUCTOR.construct_yaml_bool,
    f"{_PREFIX}int": _CONSTRUCTOR.construct_yaml_int,
    f"{_PREFIX}float": _CONSTRUCTOR.construct_yaml_float,
}


def read_yaml(text: str) -> Any:
    """Reads one YAML document.

    Args:
        text: The document. Plain scalars are resolved as in YAML 1.1 to null, booleans and numbers, else to strings;
            dates stay strings.

    Returns:
        Mappings, lists, strings, numbers, booleans and None; None for an empty document.

    Raises:
        YamlError: The document is invalid; names the line.
    """
    try:
        return _document(yaml.parse(text, Loader=_PARSER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise YamlError(f"{where}{str(error.problem or error.context)[:200]}") from error
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split())[:200]) from error
    except UnicodeEncodeError as error:
        raise YamlError(f"it contains U+{ord(error.object[error.start]):04X}, which is not a character") from error


@dataclass
class _Open:
    """A list or mapping that is being read."""

    value: list[Any] | dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict)
    """The line of each key."""
    key: str | None = None
    """The key whose value comes next."""

    def add(self, value: Any, event: yaml.Event) -> None:
        if isinstance(self.value, list):
            self.value.append(value)
        elif self.key is None:
            self._take_key(value, event)
        else:
            self.value[self.key] = value
            self.key = None

    def _take_key(self, key: Any, event: yaml.Event) -> None:
        # Numbers are not allowed either: keys with equal hashes could be constructed to make lookups slow.
        if not isinstance(key, str):
            raise YamlError(f"line {_line(event)}: a key is {short(key)}; expected a string, quoted if necessary")
        if key in self.lines:
            raise YamlError(
                f"line {_line(event)}: duplicate key {short(key)}, first in line {self.lines[key]}; merge the two or "
                "remove one"
            )
        self.lines[key] = _line(event)
        self.key = key


def _document(events: Iterator[yaml.Event]) -> Any:
    documents: list[Any] = []
    within = [_Open(documents)]
    count = 0
    for event in events:
        count += isinstance(event, yaml.NodeEvent)
        if count > MAX_VALUES:
            raise YamlError(f"line {_line(event)}: more than {MAX_VALUES:,} values")
        if isinstance(event, yaml.DocumentStartEvent) and documents:
            raise YamlError(f"line {_line(event)}: a second document begins; expected one")
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            raise YamlError(
                f"line {_line(event)}: anchors and aliases (& and *) are not supported; write the value out"
            )
        if isinstance(event, yaml.ScalarEvent):
            within[-1].add(_scalar(event, within[-1]), event)
        elif isinstance(event, yaml.CollectionStartEvent):
            _refuse_tag(event)
            if len(within) > MAX_DEPTH:
                raise YamlError(f"line {_line(event)}: lists and mappings are nested more than {MAX_DEPTH} levels deep")
            value: list[Any] | dict[str, Any] = [] if isinstance(event, yaml.SequenceStartEvent) else {}
            within[-1].add(value, event)
            within.append(_Open(value))
        elif isinstance(event, yaml.CollectionEndEvent):
            within.pop()
    return documents[0] if documents else None


def _scalar(event: yaml.ScalarEvent, parent: _Open) -> Any:
    if event.tag not in (None, "!", _TEXT):
        _refuse_tag(event)
    if event.tag is not None or not event.implicit[0]:
        return event.value
    tag = _RESOLVER.resolve(yaml.ScalarNode, event.value, event.implicit)
    if tag == _MERGE and isinstance(parent.value, dict) and parent.key is None:
        raise YamlError(f"line {_line(event)}: merge keys (<<) are not supported; write the entries out")
    if tag not in _READ:
        return event.value
    if len(event.value) > _MAX_NUMBER:
        raise YamlError(f"line {_line(event)}: a number has {len(event.value)} digits; the limit is {_MAX_NUMBER}")
    try:
        return _READ[tag](yaml.ScalarNode(tag, event.value))
    except (ValueError, OverflowError) as error:
        raise YamlError(f"line {_line(event)}: {short(event.value)} looks like a number, but is not valid") from error


def _refuse_tag(event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
    if event.tag is not None and event.tag != "!":
        raise YamlError(f"line {_line(event)}: the tag {short(event.tag)} is not supported; remove it")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1
