"""Finds vocabularies by a bundled name or a file, and suggests the nearest name for one that does not exist."""

from __future__ import annotations

import difflib
import itertools
import os
from collections.abc import Iterable
from pathlib import Path

from fcclip_core.errors import VocabularyError
from fcclip_core.files.paths import expanded
from fcclip_core.files.resources import config_path
from fcclip_core.quoting import short, short_name

FILE_SUFFIXES = (".yaml", ".yml", ".txt")
"""How the names of vocabulary files end."""

_OTHER_SUFFIXES = (".json", ".toml", ".csv", ".tsv", ".xml", ".names", ".labels", ".pbtxt", ".md", ".pt")
_MOST_COMPARED = 2_000
_LONGEST_COMPARED = 60
_MOST_FILES = 1_000


def bundled_vocabularies() -> tuple[str, ...]:
    """Names of the vocabularies that come with the package, in alphabetical order."""
    return tuple(sorted(path.stem for path in config_path("vocabularies").glob("*.yaml")))


def find_vocabulary(source: str | Path) -> Path:
    """The file of a bundled name, or the file that is named.

    Raises:
        VocabularyError: It is neither; what may have been meant is said.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise VocabularyError(f"the vocabulary is {short(source)}; expected a bundled name or a file's name")
    if str(source) in bundled_vocabularies():
        return config_path("vocabularies", f"{source}.yaml")
    path = expanded(source, VocabularyError)
    if path.suffix.lower() not in FILE_SUFFIXES:
        expected = f"expected a .yaml or .txt file or one of {', '.join(bundled_vocabularies())}"
        if path.suffix.lower() == ".json":
            expected = "expected a .yaml or .txt file (YAML reads JSON too: rename it)"
        raise VocabularyError(f"there is no vocabulary {short(str(source))}; {expected}{_or_meant(str(source))}")
    return path


def missing_file_hint(path: Path) -> str:
    """What may have been meant by a vocabulary file that is not there: `; did you mean ...?`, or nothing."""
    if path.stem in bundled_vocabularies():
        return f"; did you mean the bundled vocabulary {path.stem}?"
    try:
        with os.scandir(path.parent) as entries:
            beside = [entry.name for entry in itertools.islice(entries, _MOST_FILES)]
    except OSError:
        return ""
    close = closest(path.name, (name for name in beside if Path(name).suffix.lower() in FILE_SUFFIXES))
    return f"; did you mean {short_name(path.with_name(close))}?" if close else ""


def names_a_source(text: str) -> bool:
    """Whether a text that stands alone names a file or a bundled vocabulary, and not a class."""
    return text in bundled_vocabularies() or ("," not in text and Path(text).suffix.lower() in FILE_SUFFIXES)


def looks_like_a_file(text: str) -> bool:
    """Whether a class's name is rather a file's."""
    if "," in text:
        return False
    suffix = Path(text).suffix.lower()
    return suffix in FILE_SUFFIXES or suffix in _OTHER_SUFFIXES or text.startswith(("/", "./", "../", "~/"))


def refuse_sources(names: Iterable[str]) -> None:
    """Refuses class names with which a file or a bundled vocabulary was meant.

    Raises:
        VocabularyError: Naming it, and what to write instead.
    """
    names = list(names)
    for text in names:
        if "," in text:
            continue
        file = looks_like_a_file(text) or (len(names) == 1 and "/" in text)
        meant = _bundled_like(text) if len(names) == 1 else _bundled_alone(text)
        if file and len(names) > 1:
            problem = f"{short_name(text)} looks like a file among class names, but a file can only stand alone"
        elif file:
            problem = f"{short_name(text)} is no vocabulary file; expected a .yaml or .txt file{_rename(text)}"
        elif meant and len(names) > 1:
            problem = (
                f"{meant} is a bundled vocabulary among class names, but it can only stand alone; to add "
                f"classes to it, copy its file ({config_path('vocabularies', f'{meant}.yaml')}) and name the copy"
            )
        elif meant:
            problem = f"there is no vocabulary {short(text)}; did you mean {meant}?"
        else:
            continue
        gap = " If" if problem.endswith("?") else "; if"
        raise VocabularyError(f'{problem}{gap} a class of that name is meant, give it a synonym: "{text[:40]}, ..."')


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most like another one, if any is. Long words and lists are compared in part."""
    short_ones = {text[:_LONGEST_COMPARED].casefold(): text for text in itertools.islice(known, _MOST_COMPARED)}
    found = difflib.get_close_matches(word[:_LONGEST_COMPARED].casefold(), short_ones, n=1)
    return short_ones[found[0]] if found else None


def _or_meant(text: str) -> str:
    meant = _bundled_like(Path(text).stem)
    return f"; did you mean {meant}?" if meant else ""


def _bundled_like(text: str) -> str | None:
    """The bundled name that a word begins or nearly is: "coco", "Cityscape", "indoor robot"."""
    plain = "_".join(text[:_LONGEST_COMPARED].casefold().replace("-", " ").replace("_", " ").split())
    if len(plain) < 3:
        return None
    for name in bundled_vocabularies():
        if name.startswith(plain) or f"_{plain}_" in f"_{name}_" and plain in ("voc", "context", "panoptic"):
            return name
    found = difflib.get_close_matches(plain, bundled_vocabularies(), n=1, cutoff=0.8)
    return found[0] if found else None


def _bundled_alone(text: str) -> str | None:
    """A bundled name that is no word of any language, so that no class can be meant."""
    plain = text.casefold()
    return plain if "_" in plain and plain in bundled_vocabularies() else None


def _rename(text: str) -> str:
    return " (YAML reads JSON too: rename it)" if Path(text).suffix.lower() == ".json" else ""
