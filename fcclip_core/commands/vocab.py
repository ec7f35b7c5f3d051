"""`fcclip vocab`: lists, shows, checks and converts vocabularies."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fcclip_core.commands.printing import print_table, say
from fcclip_core.errors import FcclipError, VocabularyError
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.files.paths import expanded, refuse_overwriting
from fcclip_core.weights.model_zoo import TRAINED_ON

if TYPE_CHECKING:
    from fcclip_core.segmenter import Segmenter
    from fcclip_core.vocabulary.classes import Vocabulary, VocabularyClass


def add_parser(subparsers: Any) -> None:
    """Registers the command and its four actions."""
    parser = subparsers.add_parser("vocab", help="list, show, check and convert vocabularies")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_action(actions, "list", list_bundled, "list the bundled vocabularies")

    show = _add_action(actions, "show", show_classes, "print the classes of a vocabulary")
    show.add_argument("vocabulary", metavar="NAME|FILE", help="a bundled name, or a .yaml or .txt file")
    show.add_argument(
        "--train", default=TRAINED_ON, metavar="NAME|FILE", help="training vocabulary for seen/unseen (default: COCO's)"
    )
    show.add_argument(
        "--background",
        default="none",
        metavar="auto|none|WORDS",
        help="also list the hidden competitors, and those dropped because they overlap; auto: as suits --checkpoint",
    )
    show.add_argument(
        "--checkpoint",
        metavar="NAME|FILE",
        help="weights whose text tower measures the cosine of each competitor to its nearest word (default with "
        "--background auto: auto)",
    )

    check = _add_action(
        actions, "check", check_file, "report errors and warnings of a vocabulary; exit code 1 on an error"
    )
    check.add_argument("vocabulary", metavar="NAME|FILE", help="a bundled name, or a .yaml or .txt file")

    check.add_argument("--stuff", default="", help='names of further stuff classes: "floor; wall"')

    convert = _add_action(actions, "convert", convert_list, "turn one of the paper's `id:name,synonym` lists into YAML")
    convert.add_argument("source", metavar="FILE.txt")
    convert.add_argument("target", metavar="OUT.yaml", type=expanded)
    convert.add_argument(
        "--like", metavar="NAME|FILE", help="vocabulary of the same classes from which to take what is stuff"
    )
    convert.add_argument("--force", action="store_true", help="replace OUT.yaml if it exists")


def list_bundled(args: argparse.Namespace) -> int:
    """Prints one line for each bundled vocabulary."""
    from fcclip_core.vocabulary.classes import Vocabulary
    from fcclip_core.vocabulary.sources import bundled_vocabularies

    found = [(name, Vocabulary.load(name)) for name in bundled_vocabularies()]
    print_table(
        ("name", "classes", "things", "stuff", "synonyms", "description"),
        (
            (
                name,
                len(words),
                sum(words.things),
                len(words) - sum(words.things),
                len(words.synonyms),
                words.description,
            )
            for name, words in found
        ),
    )
    return 0


def show_classes(args: argparse.Namespace) -> int:
    """Prints one line for each class: the id it gets in a new segmenter, names, kind, and whether it counts as seen."""
    from fcclip_core.vocabulary.class_ids import ClassIds
    from fcclip_core.vocabulary.classes import Vocabulary

    vocabulary = Vocabulary.load(args.vocabulary)
    seen = vocabulary.seen_mask(frozenset(Vocabulary.load(args.train).synonyms))
    print_table(
        ("id", "name", "synonyms", "kind", f"{args.train}"),
        (
            (
                number,
                item.name,
                ", ".join(item.synonyms[1:] if item.label is None else item.synonyms),
                "thing" if item.is_thing else "stuff",
                ("seen" if is_seen else "unseen") + (" (forced)" if item.seen is not None else ""),
            )
            for number, item, is_seen in zip(ClassIds().resolve(vocabulary), vocabulary.classes, seen, strict=True)
        ),
    )
    if args.background != "none":
        _show_background(vocabulary, args)
    return 0


def _show_background(vocabulary: Vocabulary, args: argparse.Namespace) -> None:
    """Prints the competitors, the nearest first, and the classes that were dropped."""
    from fcclip_core.commands.inference_arguments import split_classes
    from fcclip_core.segmenter import Segmenter
    from fcclip_core.vocabulary.background import background_from

    words, segmenter = split_classes(args.background), None
    if args.checkpoint or words == ["auto"]:
        segmenter = Segmenter.from_checkpoint(args.checkpoint or "auto", backend="eager")
    others = background_from(words, segmenter.default_background if segmenter else None)
    if others is None:
        say("no competitors: the weights are seeded, their text embeddings mean nothing")
        return
    background = vocabulary.background(others)
    near = nearest_words(segmenter, vocabulary, background.competing) if segmenter else {}
    say(f"{len(background.competing)} hidden competitors:")
    print_table(
        ("name", "synonyms", "nearest word", "cosine"),
        (
            (item.name, ", ".join(item.synonyms[1:]), *near.get(item.name, ("", "")))
            for item in sorted(background.competing, key=lambda item: near.get(item.name, ("", ""))[1], reverse=True)
        ),
    )
    say(f"{len(background.fallen)} classes dropped because they overlap:")
    print_table(("name", "for the word"), ((item.name, word) for item, word in background.fallen))


def nearest_words(
    segmenter: Segmenter, vocabulary: Vocabulary, competing: Sequence[VocabularyClass]
) -> dict[str, tuple[str, str]]:
    """For each class that competes: the vocabulary's word that is nearest to one of its synonyms, and the cosine."""
    if not competing:
        return {}
    own = segmenter.embed_text(vocabulary.synonyms).rows
    found = {}
    for item in competing:
        cosines = segmenter.embed_text(item.synonyms).rows @ own.T
        best = int(cosines.max(0).argmax())
        found[item.name] = (vocabulary.synonyms[best], f"{cosines.max():.2f}")
    return found


def check_file(args: argparse.Namespace) -> int:
    """Prints errors and warnings.

    Returns:
        0 for a usable vocabulary, 1 otherwise.
    """
    from fcclip_core.vocabulary.checks import find_warnings
    from fcclip_core.vocabulary.classes import Vocabulary

    try:
        vocabulary = Vocabulary.load(args.vocabulary)
    except VocabularyError as error:
        say(f"error: {error}")
        return 1
    for warning in find_warnings(vocabulary, [part.strip() for part in args.stuff.split(";") if part.strip()]):
        say(f"warning: {warning}")
    things = sum(vocabulary.things)
    say(
        f"usable: {len(vocabulary)} classes ({things} things, {len(vocabulary) - things} stuff), "
        f"{len(vocabulary.synonyms)} names"
    )
    return 0


def convert_list(args: argparse.Namespace) -> int:
    """Writes a vocabulary as YAML.

    Raises:
        FcclipError: The source is no vocabulary, or the target exists or cannot be written.
    """
    from fcclip_core.vocabulary.class_matching import match_in_order
    from fcclip_core.vocabulary.classes import Vocabulary

    target = args.target
    if target.suffix.lower() not in (".yaml", ".yml"):
        raise FcclipError(f"{target} is not the name of a .yaml file")
    if target.exists() and not args.force:
        raise FcclipError(f"{target} exists; add --force to replace it")
    refuse_overwriting("the result", [target], map(expanded, filter(None, [args.source, args.like])))
    vocabulary = Vocabulary.load(args.source)
    matched = ""
    if args.like:
        matching = match_in_order(vocabulary.names, Vocabulary.load(args.like), args.source)
        paired = zip(vocabulary.classes, matching.classes, strict=True)
        vocabulary = replace(vocabulary, classes=tuple(replace(own, is_thing=like.is_thing) for own, like in paired))
        matched = f"; things and stuff as in {args.like}, {matching.how}"
    try:
        with atomic_write(target) as part:
            part.write_text(vocabulary.to_yaml(), encoding="utf-8")
    except OSError as error:
        raise FcclipError(f"cannot write {target}: {error.strerror or error}") from error
    say(f"{len(vocabulary)} classes written to {target}{matched}")
    return 0


def _add_action(
    actions: Any, name: str, run: Callable[[argparse.Namespace], int], help_text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=help_text, description=help_text)
    parser.set_defaults(run=run)
    return parser
