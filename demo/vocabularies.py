"""The vocabularies of the demo, chapter by chapter."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from fcclip_core.simulation.names import HELD_OUT_STUFF, LOOKS, SHAPES, pairs, stuff_in, thing_name, world_vocabulary
from fcclip_core.vocabulary.classes import Vocabulary

CATCH_ALL = "known object"
"""Class of the last chapter for all things that it does not name."""


@dataclass(frozen=True)
class Chapter:
    """A vocabulary and its title."""

    title: str
    vocabulary: Vocabulary


_SEEN_THINGS = tuple(thing_name(*pair) for pair in pairs("train"))
_SEEN_STUFF = stuff_in("train")
_NEW_THINGS = tuple(name for name in (thing_name(*pair) for pair in pairs("all")) if name not in _SEEN_THINGS)


def chapters(kept_out: Collection[str] = ()) -> tuple[Chapter, ...]:
    """The chapters in their order.

    Args:
        kept_out: Names of things that no chapter may use, because they are asked for when the drive is over.
    """
    seen = tuple(name for name in _SEEN_THINGS if name not in kept_out)
    new = tuple(name for name in _NEW_THINGS if name not in kept_out)
    return (
        Chapter("all the words of the world", _all_words(kept_out)),
        Chapter("shapes and surfaces, by synonyms", _by_shape(seen)),
        Chapter("words that FC-CLIP was never trained on", _new_words(seen, new)),
    )


def _all_words(kept_out: Collection[str]) -> Vocabulary:
    return Vocabulary(tuple(item for item in world_vocabulary().classes if item.name not in kept_out))


def _by_shape(things: Sequence[str]) -> Vocabulary:
    """One class a shape, whatever its look, and one for each sort of surface."""
    by_shape = {
        shape: [name for name in things if name in {thing_name(look, shape) for look in LOOKS}] for shape in SHAPES
    }
    shapes = [", ".join([shape, *names]) for shape, names in by_shape.items() if names]
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
    return Vocabulary.from_names([*shapes, *surfaces], stuff=[name.partition(",")[0] for name in surfaces])


def _new_words(seen: Sequence[str], new: Sequence[str]) -> Vocabulary:
    """What training never showed to the mask generator; everything else is one thing and one stuff class."""
    known_things, known_stuff = ", ".join((CATCH_ALL, *seen)), ", ".join(("known surface", *_SEEN_STUFF))
    return Vocabulary.from_names(
        [*new, *HELD_OUT_STUFF, known_things, known_stuff], stuff=[*HELD_OUT_STUFF, "known surface"]
    )
