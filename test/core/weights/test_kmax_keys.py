"""kMaX-DeepLab's own key lists load completely into our decoders."""

from __future__ import annotations

import functools
import json

import pytest
import torch

from checkout import REFERENCE
from fcclip_core.model.config import CONVNEXT_LARGE_KMAX, CONVNEXT_LARGE_KMAX_DEFORMABLE, ModelConfig
from fcclip_core.weights.kmax_names import AUXILIARY, CLASS_HEAD
from fcclip_core.weights.published_layout import is_parameter, layout_of

PIXELS, MASKS = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."
ADDED = ("_mask_pooling_proj.", "class_embed.", "logit_scale")
"""FC-CLIP's class branch, which takes the place of kMaX's class heads."""


@functools.cache
def lists() -> dict[str, dict]:
    return json.loads((REFERENCE / "kmax_keys.json").read_text())


def theirs(*parts: str) -> dict[str, tuple[int, ...]]:
    found = {}
    for part in parts:
        entries = lists()[part].get("entries") or lists()[part]["entries_that_differ_from_decoder"]
        found |= {key: tuple(shape) for key, (shape, *_) in entries.items()}
    return found


def ours(config: ModelConfig, prefix: str) -> dict[str, tuple[int, ...]]:
    return {key: entry.shape for key, entry in layout_of(config).trained.items() if key.startswith(prefix)}


def is_added(key: str) -> bool:
    return key.startswith(tuple(MASKS + name for name in ADDED))


def test_the_axial_pixel_decoder_has_every_key_and_no_other() -> None:
    found = ours(CONVNEXT_LARGE_KMAX, PIXELS)
    assert found == theirs("pixel_decoder")
    assert sum(torch.Size(shape).numel() for key, shape in found.items() if is_parameter(key)) == 23_688_640


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (CONVNEXT_LARGE_KMAX, ("decoder",)),
        (CONVNEXT_LARGE_KMAX_DEFORMABLE, ("decoder", "decoder_star")),
    ],
)
def test_the_decoder_has_every_key_but_the_class_heads_and_adds_fc_clips(config: ModelConfig, parts: tuple) -> None:
    found, expected = ours(config, MASKS), theirs(*parts)
    removed = {key for key in expected if CLASS_HEAD in key}
    added = {key for key in found if is_added(key)}
    assert len(removed) == 14 and len(added) == 11
    assert set(found) - added == set(expected) - removed
    assert {key: found[key] for key in set(found) - added} == {key: expected[key] for key in set(expected) - removed}
    # By hand: class heads of 134 x 256 + 134 in seven predictors; without them kMaX has 11,679,982 parameters.
    parameters = sum(torch.Size(found[key]).numel() for key in set(found) - added if is_parameter(key))
    assert parameters == lists()[parts[-1]]["counts"]["parameters"] - 7 * 134 * 257


def test_the_auxiliary_semantic_head_is_known_by_its_name() -> None:
    assert all(AUXILIARY in key for key in theirs("auxiliary_semantic_head"))
    assert not any(AUXILIARY in key for key in layout_of(CONVNEXT_LARGE_KMAX).everything)
