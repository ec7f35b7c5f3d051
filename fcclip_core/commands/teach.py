"""`fcclip teach`: adds examples from images to a class of a vocabulary file, lists and forgets them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcclip_core.commands.inference_arguments import add_model_arguments, settings_from
from fcclip_core.commands.printing import say
from fcclip_core.errors import FcclipError, VocabularyError
from fcclip_core.files.paths import expanded

if TYPE_CHECKING:
    import numpy as np

    from fcclip_core.segmenter import EncodedImage, Segmenter
    from fcclip_core.vocabulary.classes import Vocabulary

Box = tuple[int, int, int, int]


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    about = "teach a class by showing: examples from images become part of a vocabulary file"
    parser = subparsers.add_parser("teach", help=about, description=about)
    parser.add_argument(
        "name", nargs="?", default="", metavar="NAME", help='the class, with commas between synonyms ("mug, cup")'
    )
    parser.add_argument(
        "--vocab",
        required=True,
        type=expanded,
        metavar="FILE.yaml",
        help="the vocabulary; made if it is not there. Examples go to FILE.examples.safetensors beside it",
    )
    parser.add_argument(
        "--image", dest="images", action="append", default=[], type=expanded, metavar="FILE", help="shows an example"
    )
    parser.add_argument(
        "--box",
        dest="regions",
        action="append",
        default=[],
        type=_box,
        metavar="X,Y,X,Y",
        help="where it is in the last --image: left, top, right, bottom in pixels, the latter two exclusive",
    )
    parser.add_argument(
        "--mask", dest="regions", action="append", type=expanded, metavar="FILE", help="or its mask, not black there"
    )
    parser.add_argument(
        "--seen",
        nargs="+",
        default=[],
        type=expanded,
        metavar="FILE",
        help="further images of the place; the more segments are seen, the better examples compare with words",
    )
    parser.add_argument(
        "--wordless",
        action="store_true",
        help='the name means nothing to the model ("part 4711"): examples alone count',
    )
    parser.add_argument("--stuff", action="store_true", help="a new class is stuff, not a countable thing")
    parser.add_argument("--forget", action="store_true", help="remove the examples of the class")
    parser.add_argument("--list", action="store_true", help="print which classes have examples")
    add_model_arguments(parser, backend="eager")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Teaches, forgets or lists.

    Raises:
        FcclipError: The arguments contradict each other, or a file cannot be used.
    """
    from fcclip_core.vocabulary.classes import Vocabulary

    vocabulary = Vocabulary.load(args.vocab) if args.vocab.exists() else None
    if args.list:
        return _list(vocabulary, args.vocab)
    name = args.name.partition(",")[0].strip()
    if not name:
        raise VocabularyError(
            'there is no name; write for example: fcclip teach "red mug" --vocab mine.yaml --image ...'
        )
    if args.forget:
        return _forget(vocabulary, name, args.vocab)
    return _teach(vocabulary, name, args)


def _teach(vocabulary: Vocabulary | None, name: str, args: argparse.Namespace) -> int:
    import numpy as np

    from fcclip_core.images.image_files import read_image
    from fcclip_core.segmenter import Segmenter
    from fcclip_core.segments.teaching import Lesson, calibration, doubts, segment_embeddings, taught
    from fcclip_core.vocabulary.saving import save_vocabulary

    if not args.images or len(args.images) != len(args.regions):
        raise FcclipError(
            f"there are {len(args.images)} images and {len(args.regions)} boxes or masks; give --box or --mask after "
            "each --image"
        )
    options = {key: getattr(args, key) for key in ("device", "backend", "precision", "vanished_masks")}
    segmenter = Segmenter.from_checkpoint(args.checkpoint, settings=settings_from(args), **options)
    rows, seen = [], []
    for image, region in zip(args.images, args.regions, strict=True):
        encoded = segmenter.encode(read_image(image))
        rows.append(_shown(encoded, image, region))
        seen.append(segment_embeddings(segmenter, encoded))
    seen += [segment_embeddings(segmenter, segmenter.encode(read_image(image))) for image in args.seen]
    measured = calibration(segmenter, np.concatenate(seen))
    synonyms = tuple(part.strip() for part in args.name.split(","))
    lesson = Lesson(synonyms, np.stack(rows), args.wordless, is_thing=not args.stuff)
    result = taught(vocabulary, lesson, measured, _model_of(segmenter))
    save_vocabulary(result, args.vocab)
    count = next(item.example_count for item in result.classes if item.name == name)
    for warning in doubts(segmenter, result, name, measured):
        say(f"warning: {warning}")
    say(f"{name} has {count} examples in {args.vocab}; compared with words by {measured.segments} segments")
    return 0


def _shown(encoded: EncodedImage, image: Path, region: Box | Path) -> np.ndarray:
    """The embedding of the region of an image."""
    from fcclip_core.images.image_files import read_mask
    from fcclip_core.segments.teaching import embed_region

    try:
        if isinstance(region, tuple):
            return embed_region(encoded, box=region).embedding
        return embed_region(encoded, mask=read_mask(region)).embedding
    except FcclipError as error:
        raise FcclipError(f"{image}: {error}") from error


def _forget(vocabulary: Vocabulary | None, name: str, path: Path) -> int:
    from fcclip_core.segments.teaching import forgotten
    from fcclip_core.vocabulary.saving import save_vocabulary

    if vocabulary is None:
        raise VocabularyError(f"there is no vocabulary {path}, so there is nothing to forget")
    left = forgotten(vocabulary, name)
    if left is None:
        raise VocabularyError(
            f"{name} is the only class of {path} and has no words; delete the file, or teach another class first"
        )
    save_vocabulary(left, path)
    say(f"the examples of {name} are forgotten in {path}")
    return 0


def _list(vocabulary: Vocabulary | None, path: Path) -> int:
    """Prints a line for each class with examples."""
    if vocabulary is None:
        raise VocabularyError(f"there is no vocabulary {path}; teach a class to make it")
    for item in vocabulary.classes:
        if item.examples is not None:
            words = "examples alone" if item.wordless else f"beside the words {', '.join(item.synonyms)}"
            say(f"{item.name}: {item.example_count} examples, {words}")
    say(f"{sum(map(bool, vocabulary.example_counts))} of {len(vocabulary)} classes of {path} have examples")
    return 0


def _model_of(segmenter: Segmenter) -> str:
    return segmenter.embed_text(segmenter.train_vocabulary.synonyms[:1]).model


def _box(text: str) -> Box:
    try:
        x_min, y_min, x_max, y_max = map(int, text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no box; expected left,top,right,bottom in whole pixels, for example 120,80,260,210"
        ) from error
    return x_min, y_min, x_max, y_max
