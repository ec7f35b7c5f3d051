"""Vocabularies under which the simulated world is driven through before other words are asked."""

from __future__ import annotations

from fcclip_core import Vocabulary
from fcclip_core.simulation.names import SHAPES, world_vocabulary

_SURFACES = (
    "floor, wooden floor, tiled floor, carpet, rug",
    "wall, white wall, brick wall, wallpaper, stone wall",
    "sky",
)
_STUFF = ("floor", "wall", "sky")
STREAMS = {
    "world": world_vocabulary(),
    "shapes": Vocabulary.from_names([*SHAPES, "table", *_SURFACES], stuff=_STUFF),
    "few": Vocabulary.from_names(["ball", *_SURFACES], stuff=_STUFF),
}
"""The world's own names; shapes without their looks; and few words that are foreign to most of it."""
