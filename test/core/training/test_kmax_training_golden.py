"""One training step of kMaX-DeepLab's own code (test/reference/kmax_train.*): losses, pairs, gradients, statistics.

The step has no auxiliary semantic head. The authors' code ran with and without it, on the same random numbers
(`auxiliary_semantic_head` in the case): no gradient of any other part and no other loss changed by a bit.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fcclip_core.training.config import KMeansLossConfig, TrainingConfig
from fcclip_core.training.kmeans_losses import KMeansCriterion, KMeansLayerPrediction, KMeansLosses
from fcclip_core.training.kmeans_matching import Assignment, ImageTargets, assign
from fcclip_core.training.optimization import parameter_groups
from fcclip_core.training.recipes import trained_as_kmax
from fcclip_core.weights.kmax_names import CLASS_HEAD
from fcclip_core.weights.published_names import published_name
from oracle.goldens import slice_like
from oracle.kmax import Case, Rules, _mask_decoder, _pixel_decoder, pyramid

TERMS = {"ce": "classes", "mask": "masks", "dice": "dice", "pixel_insdis": "pixels"}


class TrainingCase(Case):
    """Its description leaves out what follows from its keys and sizes."""

    @cached_property
    def info(self) -> dict[str, Any]:
        info = json.loads((self.folder / f"{self.name}.json").read_text())
        found = {
            match.groups() for key in info["grad_l2_and_sum"] if (match := re.search(r"_stages\.(.)\._bl.*?(\d+)", key))
        }
        return info | {"dec_layers": [sum(stage == number for stage, _ in found) for number in "0123"]}

    def size(self, stride: int) -> tuple[int, int]:
        height, width = (side // stride + side % 2 for side in self.info["image_hw"])
        return height, width


CASE = TrainingCase("kmax_train")
LAYERS = (*(f"aux{index}" for index in range(6)), "final")


class StoredNoise:
    def uniform(self, layer: int, pixels: int) -> Tensor:
        return torch.from_numpy(CASE.arrays[f"{LAYERS[layer]}.noise"])


class ClassHead(nn.Module):
    """kMaX's own classifier of one depth, which FC-CLIP's branch replaces; the case was run with it."""

    def __init__(self, key: str, rules: Rules, classes: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(rules.tensor(f"{key}weight", (classes + 1, dim, 1)))
        self.bias = nn.Parameter(rules.tensor(f"{key}bias", (classes + 1,)))
        self.void = math.log(classes * 0.9 / 0.1)

    def forward(self, embedding: Tensor) -> Tensor:
        logits = embedding.transpose(1, 2) @ self.weight.squeeze(-1).T + self.bias
        return torch.cat((logits[..., :-1], logits[..., -1:] + self.void), -1)


@dataclass(frozen=True)
class Step:
    predictions: list[KMeansLayerPrediction]
    losses: KMeansLosses
    assignments: list[Assignment]
    model: nn.ModuleDict

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """By the authors' key; our class branch has none."""
        named = {_key(name): item for name, item in self.model.named_parameters()}
        return {key: item for key, item in named.items() if key in CASE.info["grad_l2_and_sum"]}


def _key(name: str) -> str:
    head, _, rest = name.partition(".")
    if head != "heads":
        return published_name(name)
    depth, _, item = rest.partition(".")
    return f"{head_key(int(depth))}{item}"


def head_key(depth: int) -> str:
    layer = f"._kmax_transformer_layers.{depth}" if depth < len(LAYERS) - 1 else ""
    return f"sem_seg_head.predictor{layer}._predcitor{CLASS_HEAD}conv."


def targets() -> list[ImageTargets]:
    arrays = CASE.arrays
    return [
        ImageTargets(
            torch.from_numpy(arrays[f"target.{image}.masks"]).float(),
            torch.from_numpy(arrays[f"target.{image}.labels"]),
        )
        for image in range(CASE.info["batch"])
    ]


@pytest.fixture(scope="module")
def step() -> Step:
    pixels, masks = _pixel_decoder(CASE).train(), _mask_decoder(CASE).train()
    heads = [ClassHead(head_key(depth), CASE.rules, CASE.info["num_classes"], 256) for depth in range(len(LAYERS))]
    embeddings: list[Tensor] = []
    for module in (*(layer.query_projection for layer in masks.kmeans_layers), masks.class_projection):
        module.register_forward_hook(lambda _, __, result: embeddings.append(result))
    found = masks.predictions(pixels(pyramid(CASE)))
    predictions = [
        KMeansLayerPrediction(item.mask_logits, head(embedding), item.pixel_features)
        for item, head, embedding in zip(found, heads, embeddings, strict=True)
    ]
    config = KMeansLossConfig(sampled_pixels=CASE.info["pixel_insdis_sample_k"])
    losses = KMeansCriterion(config).of_images(predictions, targets(), StoredNoise())
    losses.total.backward()
    model = nn.ModuleDict({"pixel_decoder": pixels, "mask_decoder": masks, "heads": nn.ModuleList(heads)})
    return Step(predictions, losses, assign(predictions[-1], targets()), model)


def test_predictions_of_every_depth(step: Step) -> None:
    for name, item in zip(LAYERS, step.predictions, strict=True):
        for key, tensor in (
            ("pred_logits", item.class_logits),
            ("pred_masks", item.mask_logits),
            ("pixel_feature", item.pixel_features),
        ):
            golden = CASE.arrays[f"{name}.{key}"]
            ours = slice_like(tensor.detach().numpy(), golden)
            assert np.abs(ours - golden).max() < 1e-3 * golden.std(), (name, key)


def test_matched_pairs(step: Step) -> None:
    for image, found in enumerate(step.assignments):
        assert found.match.queries.tolist() == CASE.arrays[f"match.{image}.query"].tolist()
        assert found.match.segments.tolist() == CASE.arrays[f"match.{image}.target"].tolist()


def test_every_loss_term(step: Step) -> None:
    golden = CASE.info["losses_unweighted"]
    for theirs, own in TERMS.items():
        expected = [golden[f"loss_{theirs}_{index}"] for index in range(6)] + [golden[f"loss_{theirs}"]]
        assert getattr(step.losses, own).tolist() == pytest.approx(expected, rel=1e-5), own
    assert step.losses.total.item() == pytest.approx(CASE.info["total"], rel=1e-5)


def test_every_gradient(step: Step) -> None:
    golden, zero = CASE.info["grad_l2_and_sum"], set(CASE.info["structurally_zero_gradients"])
    parameters = step.parameters
    assert parameters.keys() == golden.keys()
    for key, (length, _) in golden.items():
        gradient = parameters[key].grad
        assert gradient is not None, key
        norm = gradient.double().norm().item()
        if key in zero:
            assert norm < 1e-4, key
        else:
            assert norm == pytest.approx(length, rel=3e-4), key


def test_running_statistics_after_the_step(step: Step) -> None:
    own = {published_name(name): buffer for name, buffer in step.model.named_buffers()}
    for key, (length, total) in CASE.info["buffers_after_step_l2_and_sum"].items():
        buffer = own[key].double()
        assert buffer.norm().item() == pytest.approx(length, rel=1e-3), key
        assert buffer.sum().item() == pytest.approx(total, abs=1e-3 * length * buffer.numel() ** 0.5), key


def test_what_decays(step: Step) -> None:
    """Weights of convolutions alone."""
    groups = parameter_groups(step.model, trained_as_kmax(TrainingConfig(), KMeansLossConfig()))
    decayed = {id(item) for group in groups if group["weight_decay"] for item in group["params"]}
    found = [id(item) in decayed for item in step.parameters.values()]
    expected = CASE.info["grad_norm_by_optimizer_group"]
    assert found.count(True) == expected["decayed_0.05"]["tensors"]
    assert found.count(False) == expected["not_decayed"]["tensors"]
