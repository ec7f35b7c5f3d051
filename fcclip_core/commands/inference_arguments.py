"""The arguments that every command shares which runs the model on images: checkpoint, words, settings."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from fcclip_core.errors import VocabularyError
from fcclip_core.model.config import PUBLISHED, VANISHED_MASKS
from fcclip_core.settings import ENSEMBLES, InferenceSettings

if TYPE_CHECKING:
    from fcclip_core.segmenter import Segmenter
    from fcclip_core.vocabulary.classes import Vocabulary

_SETTING_HELP: dict[str, str] = {
    "shorter_side": "pixels to which the shorter image side is resized (default: as the model's preset says)",
    "max_size": "limit in pixels of the longer side after resizing",
    "alpha": "weight of the out-of-vocabulary classifier for classes seen in training, 0 to 1",
    "beta": "weight of the out-of-vocabulary classifier for unseen classes, 0 to 1",
    "ensemble": "how the two classifiers are joined",
    "object_mask_threshold": "masks whose best class scores this or less are dropped, 0 to 1",
    "overlap_threshold": "share of its own pixels that a mask must win to become a segment, 0 to 1",
    "valid_mask_only": "ensemble only masks that survive at stride 32 (default: as the model's preset says; all masks "
    "with --vanished-masks best_cell)",
    "top_k_instances": "instances kept per image",
    "num_threads": "CPU threads; 0 leaves torch's own choice",
}


def add_model_arguments(parser: argparse.ArgumentParser, *, backend: str = "auto") -> None:
    """Adds --checkpoint, --device, --backend (by default `backend`), --precision and how masks become segments."""
    parser.add_argument(
        "--checkpoint",
        default="auto",
        help="weights: a file, a bundled name, recipe:NAME (seeded, labels mean nothing), or auto (default): the best "
        "published model that was imported here, else demo",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument(
        "--backend", default=backend, help="auto, or one that `fcclip doctor` lists (default: %(default)s)"
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "fp16", "bf16"),
        default="auto",
        help="what the backend computes in (default: auto, the fastest of it that keeps the answer)",
    )
    add_vanished_masks_argument(parser)
    group = parser.add_argument_group("inference settings (defaults are the published ones)")
    defaults = InferenceSettings()
    for name in InferenceSettings.names():
        default, option = getattr(defaults, name), f"--{name.replace('_', '-')}"
        if name == "valid_mask_only":
            group.add_argument(option, action=argparse.BooleanOptionalAction, default=None, help=_SETTING_HELP[name])
            continue
        if name == "shorter_side":
            group.add_argument(option, type=int, metavar="N", help=_SETTING_HELP[name])
            continue
        group.add_argument(
            option,
            type=type(default),
            choices=ENSEMBLES if name == "ensemble" else None,
            metavar=None if name == "ensemble" else "N",
            help=f"{_SETTING_HELP[name]} (default: {default})",
        )


def add_vanished_masks_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --vanished-masks."""
    parser.add_argument(
        "--vanished-masks",
        choices=VANISHED_MASKS,
        default=PUBLISHED,
        help="what masks that vanish at stride 32 are pooled over: nothing, or the cell where they come closest to "
        "being there (default: %(default)s)",
    )


def add_vocabulary_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --vocab, --stuff and --background."""
    parser.add_argument(
        "--vocab",
        required=True,
        help='words, ";" between classes and "," between synonyms: "person; pallet, wooden pallet"; '
        "or a .yaml or .txt file; or the name of a bundled vocabulary",
    )
    parser.add_argument("--stuff", default="", help='classes that are stuff, not countable things: "floor; wall"')
    parser.add_argument(
        "--background",
        default="auto",
        metavar="auto|none|WORDS",
        help="what competes with the words, unseen, as far as it does not overlap with them: as for --vocab; auto "
        "(default): what suits the checkpoint; none: nothing",
    )


def settings_from(args: argparse.Namespace) -> InferenceSettings:
    """The published settings, at the size of the model's preset, with the given options put in.

    Raises:
        SettingsError: A value is out of range.
    """
    given = {name: getattr(args, name) for name in InferenceSettings.names() if getattr(args, name) is not None}
    if "shorter_side" in given and "max_size" not in given:
        # Asking for large images alone must not fail on a limit that was not mentioned.
        given["max_size"] = max(InferenceSettings().max_size, given["shorter_side"])
    return InferenceSettings(**{"shorter_side": 0, **given})


def vocabulary_from(text: str, stuff: str = "") -> Vocabulary:
    """Reads `--vocab` and `--stuff`.

    Args:
        text: Inline words, a file name ending in .yaml, .yml or .txt, or a bundled name.
        stuff: Names of classes to make stuff, separated by semicolons.

    Raises:
        VocabularyError: No words, an unreadable file, or a stuff name that is no class.
    """
    from fcclip_core.vocabulary.classes import Vocabulary

    if not text.strip(" ;,"):
        raise VocabularyError('--vocab names no class; write for example --vocab "person; pallet, wooden pallet"')
    vocabulary, stuff_names = Vocabulary.from_words(split_classes(text)), split_classes(stuff)
    vocabulary.require_classes("--stuff", stuff_names)
    return vocabulary.with_stuff(stuff_names)


def with_background(vocabulary: Vocabulary, text: str, segmenter: Segmenter) -> Vocabulary:
    """Adds what `--background` says.

    Args:
        vocabulary: The user's words.
        text: "auto", "none", or as `vocabulary_from`.
        segmenter: Knows what suits its checkpoint.

    Raises:
        VocabularyError: No words, or an unreadable file.
    """
    from fcclip_core.vocabulary.background import background_from

    return vocabulary.with_background(background_from(split_classes(text), segmenter.default_background))


def split_classes(text: str) -> list[str]:
    """The classes of a text with semicolons between them."""
    return [part.strip() for part in text.split(";") if part.strip()]
