"""Warnings about a vocabulary that is legal but probably not meant so, for `fcclip vocab check`, node and services."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from fcclip_core.quoting import short
from fcclip_core.vocabulary.classes import Vocabulary, normal_form
from fcclip_core.vocabulary.sources import closest, looks_like_a_file
from fcclip_core.vocabulary.text_embeddings import is_cut

_SHOWN = 5
_MOST_TOKENIZED = 200
_MOST_HINTS = 10
_JOINERS = "\u200c\u200d"
"""Invisible, but Persian, Indic scripts and emoji are written with them."""
_SURELY_READ = 50
"""Bytes of a name that CLIP reads whole in every template: it makes no more tokens than bytes."""

# What looks like a Latin letter, after case is folded: Cyrillic, Greek, Armenian and other letters, and digits.
_LOOKS = {
    "a": "\u0430\u03b1\u0251",
    "b": "\u0432\u044c\u03b2",
    "c": "\u0441\u03f2",
    "d": "\u0501",
    "e": "\u0435\u03b5",
    "g": "\u0261\u0581",
    "h": "\u043d\u04bb\u0570",
    "i": "\u0456\u03b9\u0131",
    "j": "\u0458\u03f3",
    "k": "\u043a\u03ba",
    "l": "\u04cf1|",
    "m": "\u043c",
    "n": "\u043f\u03b7\u0578",
    "o": "\u043e\u03bf\u03c3\u05850",
    "p": "\u0440\u03c1",
    "q": "\u051b",
    "s": "\u0455",
    "t": "\u0442\u03c4",
    "u": "\u057d\u03bc",
    "v": "\u03bd\u0475",
    "w": "\u051d\u03c9",
    "x": "\u0445\u03c7",
    "y": "\u0443\u03c5\u03b3",
    "z": "\u03b6",
}
_LIKE_LATIN = str.maketrans({sign: letter for letter, signs in _LOOKS.items() for sign in signs})


def find_warnings(vocabulary: Vocabulary, stuff: Iterable[str] = ()) -> list[str]:
    """Warns of probable mistakes.

    Args:
        vocabulary: The classes.
        stuff: Names of further stuff classes.

    Returns:
        One sentence each: stuff that matches no class; names that several classes share, that CLIP reads alike or that
        look alike; class names that look like files; names that CLIP cuts.
    """
    return [
        *_unmatched(vocabulary, stuff),
        *(
            f"{short(name)} came twice, with an accent typed in two ways; it is one class"
            for name in vocabulary.written_twice
        ),
        *_alike(vocabulary),
        *_invisible(vocabulary),
        *(
            f"the class {short(name)} is called as a file is; a file can only stand alone"
            for name in vocabulary.names
            if looks_like_a_file(name)
        ),
        *(f"{short(text)} is longer than CLIP reads; its end does not count" for text in _cut(vocabulary)),
    ]


def summary(found: Sequence[str], most: int = _SHOWN) -> str:
    """Warnings as one text: the first ones, and how many more there are."""
    further = [f"and {len(found) - most} more warnings (`fcclip vocab check`)"] if len(found) > most else []
    return "; ".join([*found[:most], *further])


def _unmatched(vocabulary: Vocabulary, stuff: Iterable[str]) -> Iterable[str]:
    known = dict.fromkeys(vocabulary.names)
    owners = {text: item.name for item in vocabulary.classes for text in item.synonyms}
    unknown = [text for text in dict.fromkeys(normal_form(text).strip() for text in stuff) if text not in known]
    for count, text in enumerate(unknown):
        meant = owners.get(text) or (closest(text, known) if count < _MOST_HINTS else None)
        hint = f"did you mean {short(meant)}?" if meant else "a class goes by its first synonym"
        yield f"stuff names {short(text)}, which is no class of this vocabulary and changes nothing; {hint}"


def _alike(vocabulary: Vocabulary) -> Iterable[str]:
    """Groups of names that are one to CLIP, and of those that are one to the eye."""
    written: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(vocabulary.classes):
        for text in item.synonyms:
            written[text].append(index)
    names = vocabulary.names
    read = _grouped(written, read_alike)
    for texts in read.values():
        owners = [names[index] for text in texts for index in written[text]]
        if len(owners) == 1:
            continue
        shown = ", ".join(short(text) for text in texts[:_SHOWN])
        if len(texts) > 1:
            shown += " are read alike and stand"
        else:
            shown += " stands"
        yield f"{shown} in {len(owners)} places ({_listed(owners)}): " + (
            "it is needed once" if len(set(owners)) == 1 else "these classes can tie"
        )
    for keys in _grouped(read, look_alike).values():
        if len(keys) > 1:
            texts = [read[key][0] for key in keys]
            owners = [names[index] for text in texts for index in written[text]]
            shown = ", ".join(f"{short(text)} ({_signs(text)})" for text in texts[:_SHOWN])
            yield (
                f"{shown} look alike but are different words to CLIP (in {_listed(owners)}): was one typed in another "
                "script, or with a character that is not seen?"
            )


def _invisible(vocabulary: Vocabulary) -> Iterable[str]:
    for text in dict.fromkeys(vocabulary.synonyms):
        sign = next((sign for sign in text if unicodedata.category(sign) == "Cf" and sign not in _JOINERS), None)
        if sign is not None:
            yield f"{short(text)} contains the invisible character U+{ord(sign):04X}, which CLIP reads as part of it"


def read_alike(text: str) -> str:
    """A name as CLIP reads it: without its capitals, and with one blank for several."""
    return " ".join(text.lower().split())


def look_alike(text: str) -> str:
    """A name as it looks: compatible forms, invisible characters and look-alike letters of other scripts become one."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    seen = "".join(sign for sign in plain if not _is_invisible(sign))
    return " ".join(unicodedata.normalize("NFC", seen.translate(_LIKE_LATIN)).split())


def _is_invisible(sign: str) -> bool:
    return (
        unicodedata.category(sign) == "Cf"
        or sign in "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"
        or ("\ufe00" <= sign <= "\ufe0f" or "\U000e0100" <= sign <= "\U000e01ef")
    )


def _signs(text: str) -> str:
    """The first character outside ASCII, by its number: quoted text shows no difference."""
    return next((f"with U+{ord(sign):04X}" for sign in text if ord(sign) > 127), "ASCII")


def _grouped(texts: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for text in texts:
        groups[key(text)].append(text)
    return groups


def _listed(names: Iterable[str]) -> str:
    different = list(dict.fromkeys(names))
    further = f" and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
    return ", ".join(short(name) for name in different[:_SHOWN]) + further


def _cut(vocabulary: Vocabulary) -> Iterable[str]:
    long = [text for text in dict.fromkeys(vocabulary.synonyms) if len(text.encode()) > _SURELY_READ]
    if len(long) > _MOST_TOKENIZED:  # each takes milliseconds
        long = sorted(long, key=len, reverse=True)[:_MOST_TOKENIZED]
    return filter(is_cut, long)
