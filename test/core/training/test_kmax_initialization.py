"""Initial weights of kMaX's decoders: the deviations that kMaX-DeepLab's code has."""

from __future__ import annotations

import functools

import pytest
import torch

from fcclip_core.model.config import TINY_KMAX, TINY_KMAX_DEFORMABLE
from fcclip_core.model.fcclip import FCCLIP
from fcclip_core.training.initialization import fresh_weights
from fcclip_core.weights.published_layout import layout_of

PIXELS, LAYERS = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor._kmax_transformer_layers."
CUT = 0.8796  # of a normal distribution cut at two deviations, by hand


@functools.cache
def weights() -> dict[str, torch.Tensor]:
    return fresh_weights(TINY_KMAX, 0)


@pytest.mark.parametrize("config", [TINY_KMAX, TINY_KMAX_DEFORMABLE])
def test_every_tensor_of_a_checkpoint_but_clip_gets_a_weight(config: object) -> None:
    assert set(fresh_weights(config, 0)) == set(layout_of(config).trained)


@pytest.mark.parametrize(
    ("key", "nominal"),
    [
        (PIXELS + "_stages.0._blocks.0._conv1_bn_act.conv.weight", (2 / 256) ** 0.5),
        (PIXELS + "_stages.2._blocks.0._conv2_bn_act.conv.weight", (2 / 16) ** 0.5),  # the area of 9 does not count
        (PIXELS + "_stages.0._blocks.0._attention._width_axis.qkv_transform.conv.weight", 64**-0.5),
        (PIXELS + "_stages.0._blocks.0._attention._height_axis._key_rpe._embeddings.weight", 1.0),
        ("sem_seg_head.predictor._cluster_centers.weight", 1.0),
        (LAYERS + "1._query_qkv_conv_bn.conv.weight", 64**-0.5),
        (LAYERS + "1._pixel_v_conv_bn.conv.weight", 64**-0.5),
        (LAYERS + "1._predcitor._pixel_space_head_last_convbn.conv.weight", 0.01),
        (LAYERS + "1._predcitor._transformer_mask_head.conv.weight", (2 / 64) ** 0.5),
    ],
)
def test_deviation_is_the_nominal_one_cut_at_two(key: str, nominal: float) -> None:
    tensor = weights()[key]
    assert tensor.std().item() == pytest.approx(CUT * nominal, rel=0.06)
    assert tensor.abs().max() <= 2 * nominal


def test_branches_start_at_zero_and_masks_nearly_equal() -> None:
    for name in ("_kmeans_query_conv3_bn", "_query_conv3_bn", "_query_ffn_conv2_bn"):
        assert not weights()[f"{LAYERS}0.{name}.norm.weight"].any()
    assert not weights()[PIXELS + "_stages.1._blocks.0._conv3_bn.norm.weight"].any()
    assert weights()[PIXELS + "_stages.1._blocks.0._shortcut.norm.weight"].eq(1).all()
    assert weights()[LAYERS + "2._predcitor._pixel_space_mask_batch_norm.weight"].item() == pytest.approx(0.1)


def test_a_training_step_reaches_every_trained_parameter() -> None:
    torch.manual_seed(0)
    model = FCCLIP(TINY_KMAX)
    model.backbone.requires_grad_(False)
    predictions = model.predictions(torch.randn(2, 3, 64, 96))
    assert len(predictions) == 4 and {item.mask_logits.shape for item in predictions} == {(2, 20, 16, 24)}
    assert predictions[-1].pixel_features.norm(dim=1).sub(1).abs().max() < 1e-5
    total = sum((item.mask_logits**2).mean() + (item.in_vocab_embedding**2).mean() for item in predictions)
    (total + sum(item.pixel_features.sum() for item in predictions)).backward()
    decoders = {**dict(model.pixel_decoder.named_parameters()), **dict(model.mask_decoder.named_parameters())}
    assert {name for name, parameter in decoders.items() if parameter.grad is None} == {"logit_scale"}
