"""The arguments that every command shares which runs the model on images: checkpoint, words, settings."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import Field
from typing import TYPE_CHECKING, Any

from fcclip_core.errors import VocabularyError
from fcclip_core.settings import About, InferenceSettings, ModelSettings, WordSettings, settings_of, spanned

if TYPE_CHECKING:
    from fcclip_core.segmenter import Segmenter
    from fcclip_core.vocabulary.classes import Vocabulary


def add_model_arguments(
    parser: argparse.ArgumentParser,
    *,
    backend: str = "auto",
    size: tuple[int, int] | None = None,
    without: Collection[str] = (),
) -> None:
    """Adds an option for each of `ModelSettings` and `InferenceSettings`.

    Args:
        parser: Gets the options.
        backend: The default of `--backend`.
        size: What `settings_from` will be given, for the help texts.
        without: Settings that get no option and keep their defaults.
    """
    shown = {"shorter_side": "", "max_size": str(InferenceSettings().max_size)}
    if size is not None:
        shown = dict(zip(shown, map(str, size), strict=True))
    for name, setting in settings_of(ModelSettings).items():
        _add(parser, name, setting, default=backend if name == "backend" else setting[0].default)
    group = parser.add_argument_group("inference settings (defaults are the published ones)")
    for name, (item, about) in settings_of(InferenceSettings).items():
        if name in without:
            continue
        if item.default is None:
            text = f"{about.sentence.replace('auto: ', 'default: ')}"
            group.add_argument(_option(name), action=argparse.BooleanOptionalAction, default=None, help=text)
        else:  # What is not given follows the others, or the model's preset.
            _add(group, name, (item, about), default=None, shown=shown.get(name, str(item.default)))


def add_vanished_masks_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --vanished-masks."""
    setting = settings_of(ModelSettings)["vanished_masks"]
    _add(parser, "vanished_masks", setting, default=setting[0].default)


def add_text_tower_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --checkpoint and --device, for what embeds words alone."""
    for name in ("checkpoint", "device"):
        setting = settings_of(ModelSettings)[name]
        _add(parser, name, setting, default=setting[0].default)


def add_vocabulary_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --vocab, --stuff and --background."""
    words = settings_of(WordSettings)
    parser.add_argument("--vocab", required=True, help=words["vocabulary"][1].sentence)
    for name in ("stuff", "background"):
        _add(parser, name, words[name], default=words[name][0].default)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _add(parser: Any, name: str, setting: tuple[Field[Any], About], default: Any, shown: str = "") -> None:
    """Adds one option; its type is that of the setting's default, its range is checked by the settings themselves."""
    item, about = setting
    span = f", {spanned(about.span)}" if about.span else ""
    shown = f" (default: {shown or default})" if shown or default else ""
    parser.add_argument(
        _option(name),
        type=type(item.default),
        default=default,
        choices=about.choices or None,
        metavar=None if about.choices else "N" if about.limits else name.upper(),
        help=f"{about.sentence}{span}{shown}".replace("%", "%%"),
    )


def settings_from(args: argparse.Namespace, size: tuple[int, int] | None = None) -> InferenceSettings:
    """The published settings with the given options put in.

    Args:
        args: The parsed options.
        size: Shorter side and upper limit of the longer side in pixels where no option says otherwise; None: the
            shorter side of the model's preset and the published limit.

    Raises:
        SettingsError: A value is out of range.
    """
    shorter_side, max_size = size or (0, InferenceSettings().max_size)
    options = {name: getattr(args, name, None) for name in InferenceSettings.names()}
    given = {name: value for name, value in options.items() if value is not None}
    # Asking for one of the two sizes alone must not fail on the other one, which was not mentioned.
    if "shorter_side" in given:
        max_size = max(max_size, given["shorter_side"])
    elif "max_size" in given:
        shorter_side = min(shorter_side, given["max_size"])
    return InferenceSettings(**{"shorter_side": shorter_side, "max_size": max_size, **given})


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
