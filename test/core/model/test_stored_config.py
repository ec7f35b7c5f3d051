"""Configurations that checkpoints store: their parts, and the form of version 0.1."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from fcclip_core.model.config import CONVNEXT_LARGE_KMAX, PRESETS, TINY, TINY_KMAX, TINY_KMAX_DEFORMABLE, ModelConfig
from fcclip_core.model.stored_config import config_from_dict, layer_counts
from fcclip_core.weights.checkpoints import load_checkpoint

FLAT_DECODERS = {
    "hidden_dim": 64,
    "num_heads": 4,
    "encoder_layers": 2,
    "encoder_points": 4,
    "encoder_ffn_dim": 1024,
    "decoder_layers": 3,
    "decoder_ffn_dim": 128,
    "num_queries": 20,
}
"""How version 0.1 wrote the decoders of the preset tiny."""


def stored(config: ModelConfig) -> dict:
    return json.loads(json.dumps(asdict(config)))


def flat() -> dict:
    fields = stored(TINY)
    del fields["pixel_decoder"], fields["mask_decoder"]
    return fields | FLAT_DECODERS


@pytest.mark.parametrize("config", [*PRESETS.values(), CONVNEXT_LARGE_KMAX, TINY_KMAX, TINY_KMAX_DEFORMABLE])
def test_a_configuration_is_read_back_with_the_same_kinds_of_decoders(config: ModelConfig) -> None:
    assert config_from_dict(stored(config)) == config


def test_a_configuration_of_version_0_1_gets_its_decoder_parts() -> None:
    assert config_from_dict(flat()) == TINY


def test_the_bundled_checkpoint_was_written_with_the_flat_fields_and_loads() -> None:
    assert load_checkpoint("demo").config == PRESETS["convnext_small"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_queries": -3}, "mask_decoder.queries is -3"),
        ({"num_heads": 7}, "not divisible by its number of heads, 7"),
        ({"pixel_decoder": stored(TINY)["pixel_decoder"]}, "mask_decoder is None"),
    ],
)
def test_a_bad_flat_configuration_is_refused(change: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config_from_dict(flat() | change)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"pixel_decoder": {"widths": [32, 16, 16], "blocks": [1, 1, 1, 1]}},
            r"pixel_decoder.widths is \[32, 16, 16\]",
        ),
        ({"pixel_decoder": {"widths": [32, 20, 16, 8], "blocks": [1, 1, 1, 1]}}, "width is 20, which is not divisible"),
        ({"pixel_decoder": {"blocks": [1, 1, 1, 1], "points": 4}}, "pixel_decoder has an unknown field 'points'"),
        ({"mask_decoder": {"feature_dim": 0}}, "mask_decoder.feature_dim is 0"),
        ({"mask_decoder": stored(TINY)["mask_decoder"]}, "needs as many at each"),
    ],
)
def test_hostile_parts_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config_from_dict(stored(TINY_KMAX) | changes)


def test_layers_of_every_stride_and_blocks_of_every_stage_count() -> None:
    many = replace(TINY_KMAX.mask_decoder, layers=1000)
    counts = layer_counts(replace(TINY_KMAX, mask_decoder=many))
    assert counts["mask_decoder.layers"] == 3000 and counts["pixel decoder blocks"] == 4
