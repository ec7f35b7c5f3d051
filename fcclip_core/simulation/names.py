"""The classes of the simulated world, and the split that FC-CLIP's training may see.

A thing class is a look and a shape ("red ball", "striped mug"); a stuff class is a kind ("wooden floor"). The train
split excludes two shapes, fifteen more pairs and three kinds of stuff. The small CLIP's contrastive training, which
replaces the web-scale training of the real CLIP, sees all classes.
"""

from __future__ import annotations

from typing import Literal

from fcclip_core.errors import SettingsError
from fcclip_core.vocabulary.classes import Vocabulary

Split = Literal["train", "all"]
SPLITS: tuple[Split, ...] = ("train", "all")

LOOKS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black", "striped", "checkered")
SHAPES = ("ball", "box", "cylinder", "cone", "pyramid", "capsule", "ring", "star", "mug", "traffic cone")

INDOOR_FLOORS = ("wooden floor", "tiled floor", "carpet")
OUTDOOR_GROUNDS = ("grass", "sand", "road")
INDOOR_WALLS = ("white wall", "brick wall", "wallpaper")
OUTDOOR_WALLS = ("stone wall", "brick wall")
FIXTURES = ("door", "window", "curtain")
"""Stuff on indoor walls."""
_INDOORS = (*INDOOR_FLOORS, "rug", *INDOOR_WALLS, "stone wall", "ceiling", *FIXTURES, "table")
STUFF = (*_INDOORS, *OUTDOOR_GROUNDS, "water", "sky")

HELD_OUT_SHAPES = ("star", "mug")
HELD_OUT_LOOKS = {
    "ball": ("green", "purple"),
    "box": ("orange", "black"),
    "cylinder": ("yellow", "striped"),
    "cone": ("red", "blue"),
    "pyramid": ("yellow", "white"),
    "capsule": ("orange", "blue"),
    "ring": ("red", "checkered"),
    "traffic cone": ("green",),
}
"""Shape -> looks with which training must not see it."""
HELD_OUT_STUFF = ("brick wall", "curtain", "sand")


def thing_name(look: str, shape: str) -> str:
    """The class of an object."""
    return f"{look} {shape}"


def pairs(split: Split) -> tuple[tuple[str, str], ...]:
    """All `(look, shape)` pairs of a split.

    Raises:
        SettingsError: Invalid split.
    """
    check_split(split)
    return tuple(
        (look, shape) for shape in SHAPES for look in LOOKS if split == "all" or not is_held_out_pair(look, shape)
    )


def is_held_out_pair(look: str, shape: str) -> bool:
    """Whether this object is excluded from training."""
    return shape in HELD_OUT_SHAPES or look in HELD_OUT_LOOKS.get(shape, ())


def stuff_in(split: Split, kinds: tuple[str, ...] = STUFF) -> tuple[str, ...]:
    """The `kinds` that may appear in a split.

    Raises:
        SettingsError: Invalid split.
    """
    check_split(split)
    return tuple(kind for kind in kinds if split == "all" or kind not in HELD_OUT_STUFF)


def class_names(split: Split) -> tuple[str, ...]:
    """All class names of a split: things, then stuff."""
    return tuple(thing_name(*pair) for pair in pairs(split)) + stuff_in(split)


def world_vocabulary() -> Vocabulary:
    """All classes of the world: 100 things, then 18 kinds of stuff."""
    return _vocabulary("all", "the simulated world")


def train_vocabulary() -> Vocabulary:
    """The classes of FC-CLIP's training. A class of `world_vocabulary` is seen if it is in this vocabulary."""
    return _vocabulary("train", "the part of the simulated world that training sees")


def check_split(split: str) -> None:
    """Checks the name of a split.

    Raises:
        SettingsError: Invalid split.
    """
    if split not in SPLITS:
        raise SettingsError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")


def _vocabulary(split: Split, description: str) -> Vocabulary:
    words = Vocabulary.from_names(class_names(split), stuff=stuff_in(split))
    return Vocabulary(words.classes, description=description)
