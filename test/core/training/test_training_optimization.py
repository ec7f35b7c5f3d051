"""What is trained, what decays, and how fast: the published recipe's numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fcclip_core.errors import SettingsError
from fcclip_core.model.config import CONVNEXT_LARGE, RN50, TINY, ModelConfig
from fcclip_core.model.fcclip import FCCLIP
from fcclip_core.training.config import AugmentationConfig, LossConfig, TrainingConfig
from fcclip_core.training.initialization import fresh_weights
from fcclip_core.training.optimization import learning_rate, parameter_groups, trained_parameters
from fcclip_core.weights.published_layout import layout_of


def build(config: ModelConfig) -> FCCLIP:
    with torch.device("meta"):
        return FCCLIP(config)


def test_the_published_groups() -> None:
    model = build(CONVNEXT_LARGE)
    groups = parameter_groups(model, TrainingConfig())
    assert {group["weight_decay"]: len(group["params"]) for group in groups} == {0.05: 206, 0.0: 96}
    assert sum(item.numel() for item in trained_parameters(model, False).values()) == 20_721_601
    exempt = {id(item) for group in groups if not group["weight_decay"] for item in group["params"]}
    decays = {name: id(item) not in exempt for name, item in trained_parameters(model, False).items()}
    assert decays["pixel_decoder.level_embed"] and decays["mask_decoder.logit_scale"]
    assert decays["mask_decoder.layers.0.linear1.bias"]
    assert not decays["mask_decoder.level_embed.weight"] and not decays["void_embedding.weight"]
    assert not decays["mask_decoder.layers.0.cross_attention_norm.weight"] and not decays["mask_decoder.norm.bias"]


@pytest.mark.parametrize("config", [TINY, RN50], ids=lambda config: config.name)
def test_a_trained_backbone_has_a_tenth_of_the_rate(config: ModelConfig) -> None:
    model = build(config)
    names = trained_parameters(model, True)
    assert any(name.startswith("backbone.") for name in names)
    assert not any("attnpool" in name or ".head." in name or name == "clip_logit_scale" for name in names)
    groups = parameter_groups(model, TrainingConfig(train_backbone=True))
    shares = {id(item): group["share"] for group in groups for item in group["params"]}
    assert all(shares[id(item)] == (0.1 if name.startswith("backbone.") else 1) for name, item in names.items())


def test_the_rate_falls_at_the_milestones() -> None:
    config = TrainingConfig()
    steps = (0, 327_777, 327_778, 355_091, 355_092, 368_749)
    assert [learning_rate(step, config) for step in steps] == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6])


def test_fresh_weights_are_complete_and_follow_the_seed() -> None:
    weights, again, other = fresh_weights(TINY, 1), fresh_weights(TINY, 1), fresh_weights(TINY, 2)
    trained = layout_of(TINY).trained
    assert {key: tuple(item.shape) for key, item in weights.items()} == {key: e.shape for key, e in trained.items()}
    assert all(torch.equal(item, again[key]) for key, item in weights.items())
    assert not torch.equal(weights["void_embedding.weight"], other["void_embedding.weight"])


def test_fresh_heads_look_around() -> None:
    attention = "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.self_attn."
    weights = fresh_weights(replace(TINY, pixel_decoder=replace(TINY.pixel_decoder, heads=8)), 0)
    assert not weights[attention + "sampling_offsets.weight"].any()
    assert not weights[attention + "attention_weights.weight"].any()
    offsets = weights[attention + "sampling_offsets.bias"].view(8, 3, TINY.pixel_decoder.points, 2)
    # Eight heads look right, right and down, down, ...; the third point lies three pixels away, on every level.
    expected = torch.tensor([[3.0, 0], [3, 3], [0, 3], [-3, 3], [-3, 0], [-3, -3], [0, -3], [3, -3]])
    torch.testing.assert_close(offsets[:, 1, 2], expected, atol=1e-5, rtol=0)


def test_fresh_projections_are_xavier() -> None:
    weights = fresh_weights(CONVNEXT_LARGE, 0)
    linear = weights["sem_seg_head.predictor.transformer_ffn_layers.0.linear1.weight"]
    bound = (6 / (256 + 2048)) ** 0.5
    assert 0.99 * bound < linear.abs().max() <= bound
    assert not weights["sem_seg_head.predictor.transformer_self_attention_layers.3.self_attn.out_proj.bias"].any()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TrainingConfig(steps=0), "steps is 0; it must be at least 1"),
        (lambda: TrainingConfig(milestones=(5, 3)), "ascending order"),
        (lambda: TrainingConfig(precision="float16"), "one of auto, float32, bfloat16"),
        (lambda: TrainingConfig(gradient_clip=0), "above 0"),
        (lambda: LossConfig(importance_ratio=1.5), "between 0 and 1"),
        (lambda: AugmentationConfig(crop=100), "multiple of 32"),
        (lambda: AugmentationConfig(min_scale=3.0), "at most max_scale"),
    ],
)
def test_settings_out_of_range_are_refused(make: object, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        make()  # type: ignore[operator]
