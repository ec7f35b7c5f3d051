"""What the world is made of, by name, and which of it FC-CLIP's training may see.

A thing is a look and a shape ("red ball", "striped mug"); stuff is named by its kind ("wooden floor"). The train split
leaves out two whole shapes, fifteen further pairs and three kinds of stuff. CLIP's own contrastive training, which
stands for the web-scale training of the real one, sees everything.
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
"""What hangs on an indoor wall."""
STUFF = (
    *INDOOR_FLOORS,
    "rug",
    *INDOOR_WALLS,
    "stone wall",
    "ceiling",
    *FIXTURES,
    "table",
    *OUTDOOR_GROUNDS,
    "water",
    "sky",
)

HELD_OUT_SHAPES = ("star", "mug")
HELD_OUT_PAIRS = (
    ("red", "cone"),
    ("red", "ring"),
    ("orange", "box"),
    ("orange", "capsule"),
    ("yellow", "cylinder"),
    ("yellow", "pyramid"),
    ("green", "ball"),
    ("green", "traffic cone"),
    ("blue", "capsule"),
    ("blue", "cone"),
    ("purple", "ball"),
    ("white", "pyramid"),
    ("black", "box"),
    ("striped", "cylinder"),
    ("checkered", "ring"),
)
HELD_OUT_STUFF = ("brick wall", "curtain", "sand")


def thing_name(look: str, shape: str) -> str:
    """The class of an object."""
    return f"{look} {shape}"


def pairs(split: Split) -> tuple[tuple[str, str], ...]:
    """Every `(look, shape)` that may appear in a split.

    Raises:
        SettingsError: There is no such split.
    """
    check_split(split)
    return tuple(
        (look, shape) for shape in SHAPES for look in LOOKS if split == "all" or not is_held_out_pair(look, shape)
    )


def is_held_out_pair(look: str, shape: str) -> bool:
    """Whether training must not see this object."""
    return shape in HELD_OUT_SHAPES or (look, shape) in HELD_OUT_PAIRS


def stuff_in(split: Split, kinds: tuple[str, ...] = STUFF) -> tuple[str, ...]:
    """Those of `kinds` that may appear in a split.

    Raises:
        SettingsError: There is no such split.
    """
    check_split(split)
    return tuple(kind for kind in kinds if split == "all" or kind not in HELD_OUT_STUFF)


def class_names(split: Split) -> tuple[str, ...]:
    """All class names of a split: things, then stuff."""
    return tuple(thing_name(*pair) for pair in pairs(split)) + stuff_in(split)


def world_vocabulary() -> Vocabulary:
    """Every class of the world: 100 things, then 18 kinds of stuff."""
    return _vocabulary("all", "the simulated world")


def train_vocabulary() -> Vocabulary:
    """What FC-CLIP's training may see. A class of `world_vocabulary` is seen if its name stands here."""
    return _vocabulary("train", "the part of the simulated world that training sees")


def check_split(split: str) -> None:
    """Refuses what is no split.

    Raises:
        SettingsError: Naming the splits.
    """
    if split not in SPLITS:
        raise SettingsError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")


def _vocabulary(split: Split, description: str) -> Vocabulary:
    words = Vocabulary.from_names(class_names(split), stuff=stuff_in(split))
    return Vocabulary(words.classes, description=description)
