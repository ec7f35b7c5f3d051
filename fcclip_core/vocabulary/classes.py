"""Vocabularies: the classes that a frame is labeled with, their synonyms, things and stuff.

A vocabulary is data, fixed once made. The network never sees it; it meets the masks as text rows (paper, section 3.1),
one row a synonym, and a class scores what its best synonym scores.
"""

from __future__ import annotations

import functools
import itertools
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fcclip_core.errors import VocabularyError, YamlError
from fcclip_core.files.regular_files import read_regular_file
from fcclip_core.files.yaml_text import read_yaml
from fcclip_core.quoting import short, short_name
from fcclip_core.vocabulary.example_files import SUFFIX, read_examples
from fcclip_core.vocabulary.examples import Examples
from fcclip_core.vocabulary.palette import Color, palette_colors
from fcclip_core.vocabulary.sources import (
    closest,
    find_vocabulary,
    missing_file_hint,
    names_a_source,
    refuse_sources,
)
from fcclip_core.vocabulary.word_overlap import WordIndex

MAX_CLASSES = 65_535
"""Class ids are 16-bit in label images, and 0 means unlabeled."""

MAX_NAME_LENGTH = 1_000
"""Characters of one synonym; CLIP reads 77 tokens, which is far less."""

MAX_SYNONYMS = 100_000
"""Names of all classes together: each is a text row of 3 kB or so."""

MAX_CHARACTERS = 2_000_000
"""Characters of all names together."""

MAX_TEXT_LENGTH = 10_000
"""Characters of a description, a source or a license."""

MAX_FILE_SIZE = 16 << 20
"""Bytes of a file; the largest vocabulary fits."""

INVALID_CLASS = "invalid_class_id"
"""The name of the rows that the paper's list files keep for ids without a class."""

_SHOWN = 5
"""Names that a message lists."""

_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They turn the direction of what follows, in messages too."""

MAX_BACKGROUND = 5_000
"""Classes of a background vocabulary; each is compared with every name."""

BACKGROUND_MARGIN = 1.5
"""Logits that the classes of a background stand behind; chosen by measurement (docs/reference/results.md)."""

MAX_MARGIN = 100.0
"""Logits; no cosine times CLIP's temperature is larger."""

_CLASS_KEYS = (
    *("name", "synonyms", "stuff", "id", "color", "seen", "label", "distractor", "margin", "minimum_score"),
    "wordless",
)
_ABOUT_KEYS = ("description", "source", "license")
_FILE_KEYS = (*_ABOUT_KEYS, "examples", "classes")


@dataclass(frozen=True)
class VocabularyClass:
    """One class.

    Attributes:
        synonyms: At least one name; the first is what the class goes by, the best-matching one counts. Names are kept
            in Unicode's form NFC, so that a letter with an accent is one letter however it was typed.
        is_thing: True for countable objects, False for stuff.
        id: Class id asked for, 1..65535; None takes whatever `ClassIds` gives.
        color: `(r, g, b)`, 0..255 each, for drawing; None takes the name's own color.
        seen: Whether the ensemble treats the class as seen in training (section 3.2); None compares its synonyms with
            the training vocabulary's.
        label: What the class goes by instead of its first synonym. Only needed where two classes begin alike, as in
            the paper's ADE20K-847 list.
        distractor: True for a class that only competes: its pixels are published as unlabeled, and it has no class id.
        margin: Logits that are taken from the class in both classifiers before it competes, 0..100.
        minimum_score: Segments of the class with a lower score are published as unlabeled, 0..1.
        examples: Embeddings of segments of the class, which count beside its words; None: there are none.
        wordless: Whether the examples count alone, because the name means nothing to CLIP ("part 4711").
    """

    synonyms: tuple[str, ...]
    is_thing: bool = True
    id: int | None = None
    color: Color | None = None
    seen: bool | None = None
    label: str | None = None
    distractor: bool = False
    margin: float = 0.0
    minimum_score: float = 0.0
    examples: Examples | None = None
    wordless: bool = False
    written: str = field(default="", init=False, compare=False, repr=False)
    """The name as it was given, before it was brought to the form NFC."""

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            VocabularyError: Naming the class, the field and what was expected.
        """
        given = _list_of_names("synonyms", self.synonyms)
        object.__setattr__(self, "synonyms", tuple(map(_checked_name, given)))
        if not self.synonyms:
            raise VocabularyError("a class has no name; expected at least one synonym")
        object.__setattr__(self, "written", given[0] if self.label is None else self.label)
        if self.label is not None:
            object.__setattr__(self, "label", _checked_name(self.label))
        for flag in ("is_thing", "seen", "distractor", "wordless"):
            value = getattr(self, flag)
            if not isinstance(value, bool) and not (flag == "seen" and value is None):
                raise VocabularyError(f"class {short(self.name)}: {flag} is {short(value)}; expected true or false")
        if self.id is not None and not _is_integer(self.id, 1, MAX_CLASSES):
            raise VocabularyError(
                f"class {short(self.name)}: id is {short(self.id)}; expected a whole number between 1 and "
                f"{MAX_CLASSES} (0 means unlabeled)"
            )
        if self.color is not None:
            object.__setattr__(self, "color", _checked_color(self.name, self.color))
        for number, largest in (("margin", MAX_MARGIN), ("minimum_score", 1.0)):
            value = getattr(self, number)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= largest:
                raise VocabularyError(
                    f"class {short(self.name)}: {number} is {short(value)}; expected a number between 0 and {largest:g}"
                )
            object.__setattr__(self, number, float(value))
        if self.examples is not None and not isinstance(self.examples, Examples):
            raise VocabularyError(f"class {short(self.name)}: examples is {short(self.examples)}; expected Examples")
        if self.wordless and self.examples is None:
            raise VocabularyError(
                f"class {short(self.name)} is wordless and has no examples; teach it, or let its words count"
            )

    @property
    def example_count(self) -> int:
        """Number of its examples."""
        return len(self.examples) if self.examples is not None else 0

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
        license: Under which terms the file may be used.
        written_twice: Names that came as two classes, with an accent typed in two ways. They are one word, and became
            one class with the names of both; all else is the first one's.
    """

    classes: tuple[VocabularyClass, ...]
    description: str = field(default="", compare=False)
    source: str = field(default="", compare=False)
    license: str = field(default="", compare=False)
    written_twice: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        """Checks what a single class cannot know.

        Raises:
            VocabularyError: No class, too many classes or names, or two with the same name or id.
        """
        if isinstance(self.classes, (str, bytes, Mapping)) or not isinstance(self.classes, Iterable):
            raise VocabularyError(f"classes is {short(self.classes)}; expected a list of VocabularyClass")
        object.__setattr__(self, "classes", tuple(itertools.islice(self.classes, MAX_CLASSES + MAX_BACKGROUND + 1)))
        if not self.classes:
            raise VocabularyError("the vocabulary is empty; it needs at least one class")
        for index, item in enumerate(self.classes, 1):
            if not isinstance(item, VocabularyClass):
                raise VocabularyError(
                    f"class {index} is {short(item)}; expected a VocabularyClass "
                    "(Vocabulary.from_names takes plain names)"
                )
        if len(self.classes) - sum(item.distractor for item in self.classes) > MAX_CLASSES:
            raise VocabularyError(f"the vocabulary has more than {MAX_CLASSES} classes; at most so many have an id")
        if all(item.distractor for item in self.classes):
            raise VocabularyError("all classes are distractors, so nothing would be published; add a class that is not")
        self._check_size()
        self._join_spellings()
        _refuse_repeated("the name", [item.name for item in self.classes], "merge them or rename one")
        _refuse_repeated("id", [item.id for item in self.classes], "give each its own, or leave one out")

    def _join_spellings(self) -> None:
        """Makes one class of two that bear the same word, typed in two ways."""
        classes: dict[str, VocabularyClass] = {}
        twice = []
        for item in self.classes:
            first = classes.get(item.name)
            if first is None:
                classes[item.name] = item
            elif first.written == item.written:
                return  # the same twice is a mistake, and refused
            else:
                twice.append(item.name)
                synonyms = tuple(dict.fromkeys((*first.synonyms, *item.synonyms)))
                classes[item.name] = replace(first, synonyms=synonyms, id=first.id or item.id)
        if twice:
            object.__setattr__(self, "classes", tuple(classes.values()))
            object.__setattr__(self, "written_twice", (*self.written_twice, *twice))

    def _check_size(self) -> None:
        for about in _ABOUT_KEYS:
            text = getattr(self, about)
            if not isinstance(text, str) or len(text) > MAX_TEXT_LENGTH:
                raise VocabularyError(f"{about} is {short(text)}; expected text, at most {MAX_TEXT_LENGTH} characters")
        names = sum(self.synonym_counts)
        if names > MAX_SYNONYMS:
            raise VocabularyError(f"the vocabulary has {names} names; at most {MAX_SYNONYMS} are accepted")
        letters = sum(len(text) for item in self.classes for text in (*item.synonyms, item.label or ""))
        if letters > MAX_CHARACTERS:
            raise VocabularyError(
                f"the names of the vocabulary have {letters} characters together; at most {MAX_CHARACTERS} are accepted"
            )

    @classmethod
    def from_names(
        cls,
        names: Iterable[str],
        *,
        stuff: Iterable[str] = (),
        distractors: Iterable[str] = (),
        seen: Iterable[str] | None = None,
        ids: Mapping[str, int] | None = None,
        colors: Mapping[str, Color] | None = None,
    ) -> Vocabulary:
        """Makes a vocabulary from words.

        Args:
            names: One string a class; commas separate synonyms ("pallet, wooden pallet"), outer blanks do not count.
            stuff: Classes that are stuff; all others are things. A class goes by its first synonym, here and below.
            distractors: Classes that only compete; their pixels are published as unlabeled.
            seen: Classes to treat as seen in training, all others as unseen; None compares synonyms (`seen_mask`).
            ids: Ids asked for.
            colors: Colors asked for, `(r, g, b)`, 0..255 each.

        Raises:
            VocabularyError: Empty, repeated or overlong names, or an option that names no class.
        """
        if isinstance(names, (set, frozenset)):
            raise VocabularyError("names is a set; expected a list: without an order, ids would differ from run to run")
        ids, colors = _options("ids", ids), _options("colors", colors)
        rows = [_split(index, text) for index, text in enumerate(_list_of_names("names", names), 1)]
        keys = [normal_form(row[0]) for row in rows]
        known = dict.fromkeys(keys)
        stuff = _known_names("stuff", stuff, known)
        distractors = _known_names("distractors", distractors, known)
        seen = None if seen is None else _known_names("seen", seen, known)
        _known_names("ids", list(ids), known)
        _known_names("colors", list(colors), known)
        return cls(
            tuple(
                VocabularyClass(
                    synonyms=row,
                    is_thing=key not in stuff,
                    id=ids.get(key),
                    color=colors.get(key),
                    seen=None if seen is None else key in seen,
                    distractor=key in distractors,
                )
                for row, key in zip(rows, keys, strict=True)
            )
        )

    @classmethod
    def from_words(cls, words: Sequence[str]) -> Vocabulary:
        """Reads what a user wrote where both sources and class names are accepted.

        Args:
            words: One bundled name or file alone, or class names as `from_names` takes them.

        Raises:
            VocabularyError: See `load` and `from_names`; or a file or bundled name was meant, with what to write.
        """
        words = _list_of_names("words", words)
        texts = [text for text in words if isinstance(text, str)]
        if len(words) == 1 and texts and names_a_source(texts[0]):
            return cls.load(texts[0])
        refuse_sources(texts)
        return cls.from_names(words)

    @classmethod
    def load(cls, source: str | Path, *, things: Sequence[bool] | None = None) -> Vocabulary:
        """Reads a bundled vocabulary or a file.

        Args:
            source: A bundled name (`bundled_vocabularies`), a .yaml or .yml file, or a .txt file in the paper's form:
                one `id:name,synonym` a line. Such a list is read as the published code reads it: ", " counts as ",",
                nothing else is stripped, classes are numbered by position, `invalid_class_id` lines are skipped. A
                list does not say what is stuff: without `things` every class is a thing.
            things: One flag a class, in order, instead of what the file says.

        Raises:
            VocabularyError: Naming the file, the class and what to do.
        """
        path = find_vocabulary(source)
        text = _read(path)
        if path.suffix.lower() == ".txt":
            vocabulary = _from_list(text, path)
        else:
            vocabulary = cls.from_yaml(text, short_name(path), path.parent)
        return vocabulary if things is None else _with_things(vocabulary, things, path)

    @classmethod
    def from_yaml(cls, text: str, where: str = "vocabulary", folder: Path | None = None) -> Vocabulary:
        """Reads the YAML form, the inverse of `to_yaml`; docs/reference/vocabularies.md describes it.

        Args:
            text: The YAML text.
            where: What to call the text in errors, for example its file name.
            folder: Where the file with the examples is that the text may name; None refuses such a text.

        Raises:
            VocabularyError: Naming `where`, the class and what was expected.
        """
        if not isinstance(text, str):
            raise VocabularyError(f"{where} is {short(text)}; expected YAML text")
        if len(text) > MAX_FILE_SIZE:
            raise VocabularyError(f"{where} has {len(text)} characters; at most {MAX_FILE_SIZE} are read")
        try:
            document = read_yaml(text)
        except YamlError as error:
            raise VocabularyError(f"{where} is not valid YAML: {error}") from error
        if not isinstance(document, dict) or not isinstance(document.get("classes"), list):
            raise VocabularyError(
                f"{where}: expected a mapping with a list under 'classes' (see docs/reference/vocabularies.md)"
            )
        if "licence" in document:  # as 0.1 wrote it, also into checkpoints
            document.setdefault("license", document.pop("licence"))
        try:
            _refuse_unknown_keys(document, _FILE_KEYS)
            examples = _examples_of(document, folder)
            classes = (_class_from_yaml(index, entry, examples) for index, entry in enumerate(document["classes"], 1))
            description, source, license = (_text_of(document, key) for key in _ABOUT_KEYS)
            return cls(tuple(classes), description, source, license)
        except VocabularyError as error:
            raise VocabularyError(f"{where}: {error}") from error

    def to_yaml(self, examples_file: str = "") -> str:
        """The vocabulary as YAML text, which `from_yaml` reads back.

        Args:
            examples_file: Name of the file with the examples (`saving.save_vocabulary` writes both).

        Raises:
            VocabularyError: There are examples, and no name for their file.
        """
        if not examples_file and any(self.example_counts):
            raise VocabularyError(
                "the vocabulary has examples, which YAML cannot hold; save it with save_vocabulary, which writes a "
                "second file for them"
            )
        about = {key: getattr(self, key) for key in _ABOUT_KEYS if getattr(self, key)}
        about |= {"examples": examples_file} if examples_file else {}
        document = {**about, "classes": [_class_to_yaml(item) for item in self.classes]}
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)

    def require_classes(self, what: str, names: Iterable[str]) -> None:
        """Checks that each name is a class's.

        Raises:
            VocabularyError: Naming the first one that is none, and what may have been meant.
        """
        _known_names(what, names, dict.fromkeys(self.names))

    def with_stuff(self, names: Iterable[str]) -> Vocabulary:
        """The same classes, these marked as stuff; names that match no class change nothing (see `find_warnings`)."""
        stuff = {normal_form(name).strip() for name in names}
        classes = (replace(item, is_thing=item.is_thing and item.name not in stuff) for item in self.classes)
        return replace(self, classes=tuple(classes))

    def joined(self, others: Vocabulary) -> Vocabulary:
        """These classes, and those of another vocabulary that share no synonym and no name with them."""
        taken = {*self.names, *self.synonyms}
        further = (item for item in others.classes if taken.isdisjoint((item.name, *item.synonyms)))
        return replace(self, classes=(*self.classes, *further))

    def publishing(self, names: Iterable[str]) -> Vocabulary:
        """The same classes, of which only these are published; the others compete as distractors.

        Args:
            names: At least one class that is no distractor must be among them; names of no class change nothing.

        Raises:
            VocabularyError: Nothing would be published.
        """
        kept = {normal_form(name).strip() for name in names}
        if not any(item.name in kept and not item.distractor for item in self.classes):
            raise VocabularyError(
                f"only {', '.join(map(short, sorted(kept)[:_SHOWN]))} would be published, and none of these is a class "
                f"of the vocabulary, which has {', '.join(map(short, self.names[:_SHOWN]))}; nothing would be published"
            )
        classes = (replace(item, distractor=item.distractor or item.name not in kept) for item in self.classes)
        return replace(self, classes=tuple(classes))

    def background(self, others: Vocabulary) -> Background:
        """Decides which classes of another vocabulary may compete with these; `with_background` lets them.

        A class falls away if one of its synonyms is, contains, or is contained in a synonym of a class of this
        vocabulary, word by word, in singular or plural: it would take what the user's word is meant for.

        Args:
            others: At most `MAX_BACKGROUND` classes.

        Raises:
            VocabularyError: `others` is no vocabulary, or too large.
        """
        require_vocabulary("the background", others)
        if len(others) > MAX_BACKGROUND:
            raise VocabularyError(f"the background has {len(others)} classes; at most {MAX_BACKGROUND} are accepted")
        index = _background_index(others)
        fallen: dict[int, str] = {}
        for item in self.classes:
            for text in item.synonyms:
                for number in index.overlapping(text):
                    fallen.setdefault(number, text)
        # Names are compared as text, too: signs alone have no words.
        taken = {*self.names, *self.synonyms}
        for number, item in enumerate(others.classes):
            same = next((text for text in (item.name, *item.synonyms) if text in taken), None)
            if same is not None:
                fallen.setdefault(number, same)
        return Background(
            competing=tuple(item for number, item in enumerate(others.classes) if number not in fallen),
            fallen=tuple((item, fallen[number]) for number, item in enumerate(others.classes) if number in fallen),
        )

    def with_background(self, others: Vocabulary | None, margin: float = BACKGROUND_MARGIN) -> Vocabulary:
        """The same classes, and those of another vocabulary that do not coincide with them as distractors.

        A short list of words names most of what a camera sees wrongly, because something has to win; what competes
        beside it takes these pixels. The user's classes keep their order, ids and colors.

        Args:
            others: What competes, as far as `background` lets it; None for nothing.
            margin: Logits that these stand behind the user's classes, 0..100.

        Raises:
            VocabularyError: See `background`; or both together have too many names.
        """
        if others is None:
            return self
        classes = (
            replace(item, distractor=True, margin=margin, minimum_score=0.0, id=None)
            for item in self.background(others).competing
        )
        return replace(self, classes=(*self.classes, *classes))

    def __len__(self) -> int:
        """Number of classes, distractors among them."""
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
    def example_counts(self) -> tuple[int, ...]:
        """Examples of each class."""
        return tuple(item.example_count for item in self.classes)

    @property
    def things(self) -> tuple[bool, ...]:
        """Whether each class is a thing."""
        return tuple(item.is_thing for item in self.classes)

    @property
    def distractors(self) -> tuple[bool, ...]:
        """Whether each class only competes."""
        return tuple(item.distractor for item in self.classes)

    @property
    def colors(self) -> tuple[Color, ...]:
        """A color for each class: the user's own, or one of 64 well separated ones, each given once.

        A name asks for its `class_color`; where an earlier class has it, it takes the next free one. Classes for which
        none is left get colors between those, which differ less. Distractors, which are never shown, are black.
        """
        shown = [item for item in self.classes if not item.distractor]
        colors = iter(palette_colors([item.name for item in shown], [item.color for item in shown]))
        return tuple((0, 0, 0) if item.distractor else next(colors) for item in self.classes)

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


@dataclass(frozen=True)
class Background:
    """What becomes of a vocabulary that is to compete with another.

    Attributes:
        competing: Classes that may compete.
        fallen: Classes that may not, each with the name of the other vocabulary that it overlaps with.
    """

    competing: tuple[VocabularyClass, ...]
    fallen: tuple[tuple[VocabularyClass, str], ...]


def checked_names(what: str, names: Iterable[str]) -> tuple[str, ...]:
    """Names in the form in which they are kept and compared: Unicode's NFC.

    NFC makes equal what is one text written in two ways. NFKC would also change what is meant and
    seen ("m\u00b2" to "m2").

    Args:
        what: What to call them in errors.
        names: A list of names.

    Raises:
        VocabularyError: It is no list, or a name is empty, too long, or has control characters.
    """
    return tuple(map(_checked_name, _list_of_names(what, names)))


def require_vocabulary(what: str, value: object) -> None:
    """Refuses what is no Vocabulary.

    Raises:
        VocabularyError: Saying what it is and how one is made.
    """
    if not isinstance(value, Vocabulary):
        raise VocabularyError(
            f"{what} is {short(value)}; expected a Vocabulary: Vocabulary.from_names([...]) or .load(...) makes one"
        )


def normal_form(text: str) -> str:
    """A name as names are compared."""
    return unicodedata.normalize("NFC", text)


@functools.lru_cache(4)
def _background_index(vocabulary: Vocabulary) -> WordIndex:
    return WordIndex(item.synonyms for item in vocabulary.classes)


def _checked_name(text: object) -> str:
    if not isinstance(text, str):
        raise VocabularyError(
            f"a class name is {short(text)} ({type(text).__name__}); expected text (in YAML, quote it)"
        )
    if len(text) > MAX_NAME_LENGTH:
        raise VocabularyError(
            f"the class name {short(text)} has {len(text)} characters; at most {MAX_NAME_LENGTH} are accepted"
        )
    name = normal_form(text)
    if all(sign.isspace() or unicodedata.category(sign) == "Cf" for sign in name):
        raise VocabularyError("a class name is empty; give it at least one letter, or remove the stray comma")
    for sign in name:
        if unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") or sign in _TURNING:
            raise VocabularyError(
                f"the class name {short(text)} contains the control character U+{ord(sign):04X}; remove it"
            )
    return name


def _checked_color(name: str, color: object) -> Color:
    channels = tuple(itertools.islice(color, 4)) if isinstance(color, Iterable) else ()
    if len(channels) != 3 or not all(_is_integer(channel, 0, 255) for channel in channels):
        raise VocabularyError(
            f"class {short(name)}: color is {short(color)}; expected three whole numbers (red, green, blue), "
            "0 to 255 each"
        )
    return channels


def _is_integer(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _refuse_repeated(what: str, values: Sequence[str | int | None], advice: str) -> None:
    first: dict[str | int, int] = {}
    for index, value in enumerate(values, 1):
        if value is None:
            continue
        if value in first:
            raise VocabularyError(f"classes {first[value]} and {index} both have {what} {short(value)}; {advice}")
        first[value] = index


def _list_of_names(what: str, names: Iterable[str]) -> list[str]:
    if isinstance(names, (str, bytes, Mapping)) or not isinstance(names, Iterable):
        raise VocabularyError(f"{what} is {short(names)}; expected a list of names, for example ['cup, mug', 'floor']")
    found = list(itertools.islice(names, MAX_SYNONYMS + 1))
    if len(found) > MAX_SYNONYMS:
        raise VocabularyError(f"{what} has more than {MAX_SYNONYMS} names; at most so many are accepted")
    return found


def _options(what: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """An option by class, its names in normal form."""
    if given is not None and not isinstance(given, Mapping):
        raise VocabularyError(f"{what} is {short(given)}; expected a mapping from class names")
    return {normal_form(key).strip() if isinstance(key, str) else key: value for key, value in (given or {}).items()}


def _split(index: int, text: str) -> tuple[str, ...]:
    try:
        if isinstance(text, str) and len(text) > MAX_CHARACTERS:
            raise VocabularyError(f"the names have {len(text)} characters; at most {MAX_CHARACTERS} are accepted")
        parts = [part.strip() for part in text.split(",")] if isinstance(text, str) else [text]
        checked_names("names", parts)
        return tuple(parts)
    except VocabularyError as error:
        raise VocabularyError(f"class {index}: {error}") from error


def _known_names(what: str, names: Iterable[str], known: Mapping[str, None]) -> set[str]:
    names = [normal_form(name).strip() if isinstance(name, str) else name for name in _list_of_names(what, names)]
    for name in names:
        if not isinstance(name, str) or name not in known:
            close = closest(name, known) if isinstance(name, str) else None
            hint = f"did you mean {short(close)}?" if close else "a class goes by its first synonym"
            raise VocabularyError(f"{what} names {short(name)}, which is no class of this vocabulary; {hint}")
    return set(names)


def _read(path: Path) -> str:
    try:
        return read_regular_file(path, MAX_FILE_SIZE).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise VocabularyError(
            f"cannot read vocabulary {short_name(path)}: {error.strerror}{missing_file_hint(path)}"
        ) from error
    except OSError as error:
        raise VocabularyError(f"cannot read vocabulary {short_name(path)}: {error.strerror or error}") from error
    except UnicodeError as error:
        raise VocabularyError(f"{short_name(path)} is not a vocabulary: it is not UTF-8 text") from error


def _from_list(text: str, path: Path) -> Vocabulary:
    classes: list[VocabularyClass] = []
    labels = _Labels()
    for number, line in enumerate(text.splitlines(), 1):
        index, colon, names = line.partition(":")
        if not line.strip() or names == INVALID_CLASS:
            continue
        where = f"{short_name(path)}, line {number}"
        if not colon or not index.strip().isdecimal():
            raise VocabularyError(f"{where}: {short(line)} is not of the form 'id:name,synonym'")
        if len(classes) == MAX_CLASSES:
            raise VocabularyError(f"{where}: more than {MAX_CLASSES} classes; at most so many have an id")
        try:
            item = VocabularyClass(tuple(names.replace(", ", ",").split(",", MAX_SYNONYMS)))
            label = labels.free(item.name)
            classes.append(item if label == item.name else replace(item, label=label))
        except VocabularyError as error:
            raise VocabularyError(f"{where}: {error}") from error
    if not classes:
        raise VocabularyError(f"{short_name(path)} holds no class; expected lines of the form 'id:name,synonym'")
    return Vocabulary(tuple(classes), source=short_name(path.name))


class _Labels:
    """Gives classes that begin alike labels of their own: "bag", "bag (2)", "bag (3)"."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        # Where the search for a name's next number begins, so that many equal names cost no more than many others.
        self._next: dict[str, int] = {}

    def free(self, name: str) -> str:
        label, number = name, self._next.get(name, 2)
        while label in self._taken:
            label, number = f"{name} ({number})", number + 1
        self._next[name] = number
        self._taken.add(label)
        return label


def _with_things(vocabulary: Vocabulary, things: Sequence[bool], path: Path) -> Vocabulary:
    if isinstance(things, (str, bytes)) or not hasattr(things, "__len__"):
        raise VocabularyError(f"things is {short(things)}; expected one flag a class")
    if len(things) != len(vocabulary):
        raise VocabularyError(
            f"{short_name(path)} has {len(vocabulary)} classes but {len(things)} thing flags were given"
        )
    classes = (replace(item, is_thing=bool(flag)) for item, flag in zip(vocabulary.classes, things, strict=True))
    return replace(vocabulary, classes=tuple(classes))


def _examples_of(document: dict[str, Any], folder: Path | None) -> dict[str, Examples]:
    """The examples of all classes, by name; a file's entries that belong to no class do not count."""
    name = document.get("examples")
    if name is None:
        return {}
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(SUFFIX):
        raise VocabularyError(
            f"examples is {short(name)}; expected the name of a {SUFFIX} file in the folder of the vocabulary"
        )
    if folder is None:
        raise VocabularyError(f"the examples are in the file {short(name)}; load the vocabulary from its own file")
    return read_examples(folder / name)


def _class_from_yaml(index: int, entry: object, examples: Mapping[str, Examples]) -> VocabularyClass:
    try:
        if not isinstance(entry, dict) or "name" not in entry:
            raise VocabularyError(f"{short(entry)} is not a mapping with a 'name'")
        _refuse_unknown_keys(entry, _CLASS_KEYS)
        more, stuff = entry.get("synonyms", []), entry.get("stuff", False)
        if not isinstance(more, list) or not isinstance(stuff, bool):
            raise VocabularyError("'synonyms' must be a list and 'stuff' true or false")
        rest = {key: entry[key] for key in _CLASS_KEYS[3:] if entry.get(key) is not None}
        name = rest.get("label", entry["name"])
        shown = examples.get(normal_form(name)) if isinstance(name, str) else None
        return VocabularyClass((entry["name"], *more), is_thing=not stuff, examples=shown, **rest)
    except VocabularyError as error:
        raise VocabularyError(f"class {index}: {error}") from error


def _class_to_yaml(item: VocabularyClass) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": item.synonyms[0]}
    if len(item.synonyms) > 1:
        entry["synonyms"] = list(item.synonyms[1:])
    if not item.is_thing:
        entry["stuff"] = True
    if item.color is not None:
        entry["color"] = list(item.color)
    defaults = {"id": None, "seen": None, "label": None, "distractor": False, "margin": 0.0, "minimum_score": 0.0}
    defaults["wordless"] = False
    return entry | {key: getattr(item, key) for key, default in defaults.items() if getattr(item, key) != default}


def _text_of(document: dict[str, Any], key: str) -> str:
    value = document.get(key)
    if isinstance(value, (list, dict)):
        raise VocabularyError(f"{key} is {short(value)}; expected text")
    return "" if value is None else str(value)


def _refuse_unknown_keys(mapping: dict[str, Any], known: Sequence[str]) -> None:
    unknown = next((key for key in mapping if key not in known), known)
    if unknown is not known:
        raise VocabularyError(f"unknown key {short(unknown)}; known are {', '.join(known)}")
