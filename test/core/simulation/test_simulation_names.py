from __future__ import annotations

import numpy as np
import pytest

from fcclip_core.errors import SettingsError
from fcclip_core.simulation import names
from fcclip_core.simulation.textures import make_look, make_texture


def test_world_has_a_hundred_things_and_eighteen_kinds_of_stuff() -> None:
    world = names.world_vocabulary()
    assert len(set(world.names)) == len(world) == 118
    assert sum(world.things) == 100
    assert {"red ball", "striped mug", "black traffic cone", "wooden floor", "sky"} <= set(world.names)


def test_training_misses_two_shapes_fifteen_pairs_and_three_kinds_of_stuff() -> None:
    world, train = names.world_vocabulary(), names.train_vocabulary()
    hidden = set(world.names) - set(train.names)
    whole = {name for name in hidden if name.endswith(("star", "mug"))}
    stuff = {item.name for item in world.classes if not item.is_thing and item.name in hidden}
    assert len(whole) == 20
    assert len(stuff) == 3
    assert len(hidden - whole - stuff) == 15
    assert world.seen_mask(frozenset(train.synonyms)).sum() == 80


@pytest.mark.parametrize("look", names.LOOKS)
def test_training_sees_every_look_on_most_shapes(look: str) -> None:
    # An unseen pair tests the combination only if both halves of it are seen elsewhere.
    assert sum(pair[0] == look for pair in names.pairs("train")) >= 5


@pytest.mark.parametrize("shape", [shape for shape in names.SHAPES if shape not in names.HELD_OUT_SHAPES])
def test_training_sees_every_other_shape_in_most_looks(shape: str) -> None:
    assert sum(pair[1] == shape for pair in names.pairs("train")) >= 5


def test_unknown_split_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="'test'.*train, all"):
        names.pairs("test")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", names.STUFF)
def test_textures_repeat_for_a_seed_and_differ_between_seeds(kind: str) -> None:
    first, again, other = (make_texture(kind, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.dtype == np.uint8
    assert first.ndim == 3
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("kind", [*names.INDOOR_FLOORS, *names.OUTDOOR_GROUNDS, *names.INDOOR_WALLS])
def test_repeating_textures_have_no_seam(kind: str) -> None:
    texture = make_texture(kind, np.random.default_rng(0)).astype(float).mean(2)
    for axis in (0, 1):
        inside = np.abs(np.diff(texture, axis=axis)).mean(axis=1 - axis)
        seam = np.abs(np.take(texture, 0, axis) - np.take(texture, -1, axis)).mean()
        assert seam <= inside.max() * 1.2 + 1


@pytest.mark.parametrize(("look", "channel"), [("red", 0), ("green", 1), ("blue", 2)])
def test_plain_looks_have_their_color(look: str, channel: int) -> None:
    for seed in range(20):
        color = np.array(make_look(look, np.random.default_rng(seed)).color)
        assert color.argmax() == channel
        assert color[channel] > 1.8 * np.delete(color, channel).mean()


def test_patterns_have_two_colors_in_equal_parts() -> None:
    for look in ("striped", "checkered"):
        pattern = make_look(look, np.random.default_rng(3)).pattern
        assert pattern is not None
        colors, counts = np.unique(pattern.reshape(-1, 3), axis=0, return_counts=True)
        assert len(colors) == 2
        assert counts[0] == counts[1]
