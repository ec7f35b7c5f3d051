"""The vocabularies of the demo, chapter by chapter."""

from __future__ import annotations

from dataclasses import dataclass

from fcclip_core.simulation.names import HELD_OUT_STUFF, LOOKS, SHAPES, pairs, stuff_in, thing_name, world_vocabulary
from fcclip_core.vocabulary.classes import Vocabulary


@dataclass(frozen=True)
class Chapter:
    """A vocabulary and its title."""

    title: str
    vocabulary: Vocabulary


_SEEN_THINGS = tuple(thing_name(*pair) for pair in pairs("train"))
_SEEN_STUFF = stuff_in("train")
_NEW_THINGS = tuple(name for name in (thing_name(*pair) for pair in pairs("all")) if name not in _SEEN_THINGS)


def _by_shape() -> Vocabulary:
    """One class a shape, whatever its look, and one for each sort of surface."""
    things = [
        ", ".join([shape, *(name for name in _SEEN_THINGS if name in {thing_name(look, shape) for look in LOOKS})])
        for shape in SHAPES
        if any(name.endswith(f" {shape}") for name in _SEEN_THINGS)
    ]
    surfaces = [
        "floor, wooden floor, tiled floor, carpet, rug",
        "wall, white wall, wallpaper, stone wall",
        "ceiling",
        "door",
        "window",
        "table",
        "ground, grass, road",
        "sky",
        "water",
    ]
    return Vocabulary.from_names([*things, *surfaces], stuff=[name.partition(",")[0] for name in surfaces])


def _new_words() -> Vocabulary:
    """What training never showed to the mask generator; everything else is one thing and one stuff class."""
    known_things, known_stuff = ", ".join(("known object", *_SEEN_THINGS)), ", ".join(("known surface", *_SEEN_STUFF))
    return Vocabulary.from_names(
        [*_NEW_THINGS, *HELD_OUT_STUFF, known_things, known_stuff], stuff=[*HELD_OUT_STUFF, "known surface"]
    )


CHAPTERS = (
    Chapter("all the words of the world", world_vocabulary()),
    Chapter("shapes and surfaces, by synonyms", _by_shape()),
    Chapter("words that FC-CLIP was never trained on", _new_words()),
)
