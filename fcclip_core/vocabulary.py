"""Vocabularies: the classes that a frame is labelled with, their synonyms, things and stuff.

A vocabulary is data, fixed once made. The network never sees it; it meets the masks as text rows (paper, section 3.1),
one row a synonym, and a class scores what its best synonym scores.
"""

from __future__ import annotations

import difflib
import itertools
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import yaml

from fcclip_core.errors import VocabularyError, first_line
from fcclip_core.palette import Color, palette_colors
from fcclip_core.paths import expanded
from fcclip_core.resources import config_path

MAX_CLASSES = 65_535
"""Class ids are 16-bit in label images, and 0 means unlabelled."""

MAX_NAME_LENGTH = 1_000
"""Characters of one synonym; CLIP reads 77 tokens, which is far less."""

INVALID_CLASS = "invalid_class_id"
"""The name of the rows that the paper's list files keep for ids without a class."""

_DEEPEST = 10
_SUFFIXES = (".yaml", ".yml", ".txt")
_CLASS_KEYS = ("name", "synonyms", "stuff", "id", "color", "seen", "label")
_FILE_KEYS = ("description", "source", "licence", "classes")


@dataclass(frozen=True)
class VocabularyClass:
    """One class.

    Attributes:
        synonyms: At least one name; the first is what the class goes by, the best-matching one counts.
        is_thing: True for countable objects, False for stuff.
        id: Class id asked for, 1..65535; None takes whatever `ClassIds` gives.
        color: `(r, g, b)`, 0..255 each, for drawing; None takes the name's own colour.
        seen: Whether the ensemble treats the class as seen in training (section 3.2); None compares its synonyms with
            the training vocabulary's.
        label: What the class goes by instead of its first synonym. Only needed where two classes begin alike, as in
            the paper's ADE20K-847 list.
    """

    synonyms: tuple[str, ...]
    is_thing: bool = True
    id: int | None = None
    color: Color | None = None
    seen: bool | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            VocabularyError: Naming the class, the field and what was expected.
        """
        if isinstance(self.synonyms, str) or not isinstance(self.synonyms, Iterable):
            raise VocabularyError(f"synonyms is {self.synonyms!r}; expected a list of names")
        object.__setattr__(self, "synonyms", tuple(self.synonyms))
        if not self.synonyms:
            raise VocabularyError("a class has no name; expected at least one synonym")
        for text in self.synonyms if self.label is None else (*self.synonyms, self.label):
            _check_name(text)
        for flag in ("is_thing", "seen"):
            value = getattr(self, flag)
            if not isinstance(value, bool) and not (flag == "seen" and value is None):
                raise VocabularyError(f"class {short(self.name)}: {flag} is {value!r}; expected true or false")
        if self.id is not None and not _is_integer(self.id, 1, MAX_CLASSES):
            raise VocabularyError(
                f"class {short(self.name)}: id is {self.id!r}; expected a whole number between 1 and {MAX_CLASSES} "
                "(0 means unlabelled)"
            )
        if self.color is not None:
            object.__setattr__(self, "color", _checked_color(self.name, self.color))

    @property
    def name(self) -> str:
        """What the class goes by: its label if it has one, else its first synonym."""
        return self.synonyms[0] if self.label is None else self.label


@dataclass(frozen=True)
class Vocabulary:
    """An ordered list of classes with different names. One synonym may stand in several classes; they then tie.

    Attributes:
        classes: The classes, at least one.
        description: What the vocabulary is for.
        source: Where its names come from.
        licence: Under which terms the file may be used.
    """

    classes: tuple[VocabularyClass, ...]
    description: str = field(default="", compare=False)
    source: str = field(default="", compare=False)
    licence: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Checks what a single class cannot know.

        Raises:
            VocabularyError: No class, too many, or two with the same name or id.
        """
        object.__setattr__(self, "classes", tuple(self.classes))
        if not self.classes:
            raise VocabularyError("the vocabulary is empty; it needs at least one class")
        if len(self.classes) > MAX_CLASSES:
            raise VocabularyError(f"the vocabulary has {len(self.classes)} classes; at most {MAX_CLASSES} have an id")
        for index, item in enumerate(self.classes, 1):
            if not isinstance(item, VocabularyClass):
                raise VocabularyError(
                    f"class {index} is {item!r}; expected a VocabularyClass (Vocabulary.from_names takes plain names)"
                )
        _refuse_repeated("the name", [item.name for item in self.classes], "merge them or rename one")
        _refuse_repeated("id", [item.id for item in self.classes], "give each its own, or leave one out")

    @classmethod
    def from_names(
        cls,
        names: Iterable[str],
        *,
        stuff: Iterable[str] = (),
        seen: Iterable[str] | None = None,
        ids: Mapping[str, int] | None = None,
        colors: Mapping[str, Color] | None = None,
    ) -> Vocabulary:
        """Makes a vocabulary from words.

        Args:
            names: One string a class; commas separate synonyms ("pallet, wooden pallet"), outer blanks do not count.
            stuff: Classes that are stuff; all others are things. A class goes by its first synonym, here and below.
            seen: Classes to treat as seen in training, all others as unseen; None compares synonyms (`seen_mask`).
            ids: Ids asked for.
            colors: Colours asked for, `(r, g, b)`, 0..255 each.

        Raises:
            VocabularyError: Empty, repeated or overlong names, or an option that names no class.
        """
        ids, colors = dict(ids or {}), dict(colors or {})
        rows = [_split(index, text) for index, text in enumerate(_list_of_names("names", names), 1)]
        known = {row[0] for row in rows}
        stuff = _known_names("stuff", stuff, known)
        seen = None if seen is None else _known_names("seen", seen, known)
        _known_names("ids", ids, known)
        _known_names("colors", colors, known)
        return cls(
            tuple(
                VocabularyClass(
                    synonyms=row,
                    is_thing=row[0] not in stuff,
                    id=ids.get(row[0]),
                    color=colors.get(row[0]),
                    seen=None if seen is None else row[0] in seen,
                )
                for row in rows
            )
        )

    @classmethod
    def load(cls, source: str | Path, *, things: Sequence[bool] | None = None) -> Vocabulary:
        """Reads a bundled vocabulary or a file.

        Args:
            source: A bundled name (`bundled_vocabularies`), a .yaml or .yml file, or a .txt file in the paper's form:
                one `id:name,synonym` a line. Such a list is read as the published code reads it: ", " counts as ",",
                nothing else is stripped, classes are numbered by position, `invalid_class_id` lines are left out. A
                list does not say what is stuff: without `things` every class is a thing.
            things: One flag a class, in order, instead of what the file says.

        Raises:
            VocabularyError: Naming the file, the class and what to do.
        """
        path = _find(source)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise VocabularyError(f"cannot read vocabulary {path}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise VocabularyError(f"{path} is not a vocabulary: it is not UTF-8 text") from error
        vocabulary = _from_list(text, path) if path.suffix.lower() == ".txt" else cls.from_yaml(text, str(path))
        return vocabulary if things is None else _with_things(vocabulary, things, path)

    @classmethod
    def from_yaml(cls, text: str, where: str = "vocabulary") -> Vocabulary:
        """Reads the YAML form, the inverse of `to_yaml`; docs/vocabularies.md describes it.

        Args:
            text: The YAML text.
            where: What to call the text in errors, for example its file name.

        Raises:
            VocabularyError: Naming `where`, the class and what was expected.
        """
        try:
            document = yaml.load(text, _PlainLoader)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise VocabularyError(f"{where} is not valid YAML: {first_line(error)}") from error
        if not isinstance(document, dict) or not isinstance(document.get("classes"), list):
            raise VocabularyError(f"{where}: expected a mapping with a list under 'classes' (see docs/vocabularies.md)")
        try:
            _refuse_unknown_keys(document, _FILE_KEYS)
            classes = [_class_from_yaml(index, entry) for index, entry in enumerate(document["classes"], 1)]
            return cls(tuple(classes), **{key: str(document.get(key) or "") for key in _FILE_KEYS[:-1]})
        except VocabularyError as error:
            raise VocabularyError(f"{where}: {error}") from error

    def to_yaml(self) -> str:
        """The vocabulary as YAML text, which `from_yaml` reads back."""
        about = {key: getattr(self, key) for key in _FILE_KEYS[:-1] if getattr(self, key)}
        document = {**about, "classes": [_class_to_yaml(item) for item in self.classes]}
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)

    def __len__(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """What each class goes by."""
        return tuple(item.name for item in self.classes)

    @property
    def synonyms(self) -> tuple[str, ...]:
        """All synonyms, class by class: the order of the text rows."""
        return tuple(itertools.chain.from_iterable(item.synonyms for item in self.classes))

    @property
    def synonym_counts(self) -> tuple[int, ...]:
        """Synonyms of each class."""
        return tuple(len(item.synonyms) for item in self.classes)

    @property
    def things(self) -> tuple[bool, ...]:
        """Whether each class is a thing."""
        return tuple(item.is_thing for item in self.classes)

    @property
    def colors(self) -> tuple[Color, ...]:
        """A colour for each class: the user's own, or one of 64 well separated ones, each given once.

        A name asks for its `class_color`; where an earlier class has it, it takes the next free one. Classes for which
        none is left get colours between those, which differ less.
        """
        return palette_colors(self.names, [item.color for item in self.classes])

    def with_stuff(self, names: Iterable[str]) -> Vocabulary:
        """The same classes; those that go by one of `names` are stuff, besides those that are already."""
        stuff = set(names)
        classes = (replace(item, is_thing=item.is_thing and item.name not in stuff) for item in self.classes)
        return replace(self, classes=tuple(classes))

    def seen_mask(self, train_synonyms: frozenset[str]) -> np.ndarray:
        """Tells which classes the model was trained on (section 3.2).

        Args:
            train_synonyms: Every synonym of the training vocabulary.

        Returns:
            bool `(C,)`: the class's own `seen` flag if it has one, else whether one of its synonyms equals, letter for
            letter, one of the training vocabulary's.
        """
        return np.array(
            [
                any(text in train_synonyms for text in item.synonyms) if item.seen is None else item.seen
                for item in self.classes
            ],
            dtype=bool,
        )


def bundled_vocabularies() -> tuple[str, ...]:
    """Names of the vocabularies that come with the package, in alphabetical order."""
    return tuple(sorted(path.stem for path in config_path("vocabularies").glob("*.yaml")))


class _PlainLoader(yaml.SafeLoader):
    """Reads YAML that costs no more than its bytes: no aliases, which multiply them, and no brackets without end."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name), which a vocabulary may not; write the value out")
        self.depth += 1
        if self.depth > _DEEPEST:
            raise yaml.YAMLError(f"it is nested more than {_DEEPEST} deep")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _check_name(text: object) -> None:
    if not isinstance(text, str):
        raise VocabularyError(f"a class name is {text!r} ({type(text).__name__}); expected text (in YAML, quote it)")
    if not text.strip():
        raise VocabularyError("a class name is empty; give it at least one letter, or remove the stray comma")
    if len(text) > MAX_NAME_LENGTH:
        raise VocabularyError(
            f"the class name {short(text)} has {len(text)} characters; at most {MAX_NAME_LENGTH} are accepted"
        )
    unprintable = next((sign for sign in text if unicodedata.category(sign) in ("Cc", "Cs")), None)
    if unprintable is not None:
        raise VocabularyError(
            f"the class name {short(text)} contains the control character U+{ord(unprintable):04X}; remove it"
        )


def _checked_color(name: str, color: object) -> Color:
    channels = tuple(color) if isinstance(color, Iterable) else ()
    if len(channels) != 3 or not all(_is_integer(channel, 0, 255) for channel in channels):
        raise VocabularyError(
            f"class {short(name)}: colour is {color!r}; expected three whole numbers (red, green, blue), 0 to 255 each"
        )
    return channels


def _is_integer(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def short(text: str) -> str:
    """A name as an error shows it: quoted, and cut where it goes on for long."""
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def _refuse_repeated(what: str, values: Sequence[str | int | None], advice: str) -> None:
    first: dict[str | int, int] = {}
    for index, value in enumerate(values, 1):
        if value is None:
            continue
        if value in first:
            shown = short(value) if isinstance(value, str) else value
            raise VocabularyError(f"classes {first[value]} and {index} both have {what} {shown}; {advice}")
        first[value] = index


def _list_of_names(what: str, names: Iterable[str]) -> list[str]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise VocabularyError(f"{what} is {names!r}; expected a list of names, for example ['cup, mug', 'floor']")
    return list(names)


def _split(index: int, text: str) -> tuple[str, ...]:
    synonyms = tuple(part.strip() for part in text.split(",")) if isinstance(text, str) else (text,)
    try:
        for synonym in synonyms:
            _check_name(synonym)
    except VocabularyError as error:
        raise VocabularyError(f"class {index}: {error}") from error
    return synonyms


def _known_names(what: str, names: Iterable[str], known: set[str]) -> set[str]:
    names = _list_of_names(what, names)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {short(close[0])}?" if close else "a class goes by its first synonym"
            raise VocabularyError(f"{what} names {short(str(name))}, which is no class of this vocabulary; {hint}")
    return set(names)


def _find(source: str | Path) -> Path:
    if str(source) in bundled_vocabularies():
        return config_path("vocabularies", f"{source}.yaml")
    path = expanded(source, VocabularyError)
    if path.suffix.lower() not in _SUFFIXES:
        raise VocabularyError(
            f"there is no vocabulary {short(str(source))}; expected a .yaml or .txt file or one of "
            f"{', '.join(bundled_vocabularies())}"
        )
    return path


def _from_list(text: str, path: Path) -> Vocabulary:
    classes: list[VocabularyClass] = []
    taken: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        index, colon, names = line.partition(":")
        if not line.strip() or names == INVALID_CLASS:
            continue
        if not colon or not index.strip().isdecimal():
            raise VocabularyError(f"{path}, line {number}: {short(line)} is not of the form 'id:name,synonym'")
        try:
            item = VocabularyClass(tuple(names.replace(", ", ",").split(",")))
        except VocabularyError as error:
            raise VocabularyError(f"{path}, line {number}: {error}") from error
        if item.name in taken:
            item = replace(item, label=_free_label(item.name, taken))
        taken.add(item.name)
        classes.append(item)
    if not classes:
        raise VocabularyError(f"{path} holds no class; expected lines of the form 'id:name,synonym'")
    return Vocabulary(tuple(classes), source=path.name)


def _free_label(name: str, taken: set[str]) -> str:
    return next(label for n in itertools.count(2) if (label := f"{name} ({n})") not in taken)


def _with_things(vocabulary: Vocabulary, things: Sequence[bool], path: Path) -> Vocabulary:
    if len(things) != len(vocabulary):
        raise VocabularyError(f"{path} has {len(vocabulary)} classes but {len(things)} thing flags were given")
    classes = (replace(item, is_thing=bool(flag)) for item, flag in zip(vocabulary.classes, things, strict=True))
    return replace(vocabulary, classes=tuple(classes))


def _class_from_yaml(index: int, entry: object) -> VocabularyClass:
    try:
        if not isinstance(entry, dict) or "name" not in entry:
            raise VocabularyError(f"{short(str(entry))} is not a mapping with a 'name'")
        _refuse_unknown_keys(entry, _CLASS_KEYS)
        more, stuff = entry.get("synonyms", []), entry.get("stuff", False)
        if not isinstance(more, list) or not isinstance(stuff, bool):
            raise VocabularyError("'synonyms' must be a list and 'stuff' true or false")
        rest = {key: entry.get(key) for key in ("id", "color", "seen", "label")}
        return VocabularyClass((entry["name"], *more), is_thing=not stuff, **rest)
    except VocabularyError as error:
        raise VocabularyError(f"class {index}: {error}") from error


def _class_to_yaml(item: VocabularyClass) -> dict:
    entry: dict = {"name": item.synonyms[0]}
    if len(item.synonyms) > 1:
        entry["synonyms"] = list(item.synonyms[1:])
    if not item.is_thing:
        entry["stuff"] = True
    if item.color is not None:
        entry["color"] = list(item.color)
    return entry | {key: value for key in ("id", "seen", "label") if (value := getattr(item, key)) is not None}


def _refuse_unknown_keys(mapping: dict, known: Sequence[str]) -> None:
    unknown = [str(key) for key in mapping if key not in known]
    if unknown:
        raise VocabularyError(f"unknown key {short(unknown[0])}; known are {', '.join(known)}")
