"""One training step of the authors' code (test/reference/tiny_train.*): losses, matched pairs and gradients."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from fcclip_core.training.config import LossConfig
from fcclip_core.training.losses import Criterion, Losses
from fcclip_core.training.matching import LayerPrediction, Targets, match
from fcclip_core.training.network import TrainingNetwork
from fcclip_core.training.optimization import trained_parameters
from fcclip_core.weights.checkpoints import load_checkpoint, load_model
from fcclip_core.weights.published_names import published_name
from oracle.goldens import REFERENCE

# Our order is that of the decoder; the authors call the earlier depths auxiliary.
LAYERS = ("aux0", "aux1", "aux2", "final")
CONFIG = LossConfig(num_points=256)


class StoredPoints:
    """The points that the authors' run drew."""

    def matching_points(self, layer: int, image: int) -> Tensor:
        return array(f"{LAYERS[layer]}.match_points.{image}")[0]

    def loss_points(self, layer: int, mask_logits: Tensor, counts: Sequence[int]) -> Tensor:
        return array(f"{LAYERS[layer]}.loss_points")


@dataclass(frozen=True)
class Step:
    predictions: list[LayerPrediction]
    losses: Losses
    gradients: dict[str, Tensor]


ARRAYS = dict(np.load(REFERENCE / "tiny_train.npz"))
INFO = json.loads((REFERENCE / "tiny_train.json").read_text())


def array(name: str) -> Tensor:
    return torch.from_numpy(ARRAYS[name])


def targets() -> Targets:
    maps, labels = [], []
    for image in (0, 1):
        masks = ARRAYS[f"gt_masks.{image}"]
        maps.append((masks * np.arange(1, len(masks) + 1)[:, None, None]).sum(0))
        labels.append(array(f"gt_classes.{image}"))
    return Targets(torch.from_numpy(np.stack(maps)), tuple(labels))


@pytest.fixture(scope="module")
def step() -> Step:
    model = load_model(load_checkpoint("recipe:tiny"))
    parameters = trained_parameters(model, train_backbone=False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    network = TrainingNetwork(model, array("train_text_rows"), tuple(ARRAYS["train_num_synonyms"].tolist()))
    images = torch.from_numpy(np.stack([ARRAYS["image.0"], ARRAYS["image.1"]])).permute(0, 3, 1, 2)
    predictions = network(images)
    losses = Criterion(CONFIG)(predictions, targets(), StoredPoints())
    losses.total.backward()
    return Step(predictions, losses, {published_name(name): item.grad for name, item in parameters.items()})


def test_predictions_of_every_depth(step: Step) -> None:
    for layer, prediction in zip(LAYERS, step.predictions, strict=True):
        torch.testing.assert_close(prediction.mask_logits, array(f"{layer}.pred_masks"), atol=1e-4, rtol=0)
        torch.testing.assert_close(prediction.class_logits, array(f"{layer}.pred_logits"), atol=2e-4, rtol=0)


def test_matched_pairs(step: Step) -> None:
    for layer, found in zip(LAYERS, match(step.predictions, targets(), StoredPoints(), CONFIG), strict=True):
        for image, pairs in enumerate(found):
            assert pairs.queries.tolist() == ARRAYS[f"{layer}.match_query.{image}"].tolist()
            assert pairs.segments.tolist() == ARRAYS[f"{layer}.match_target.{image}"].tolist()


def test_every_loss_term(step: Step) -> None:
    golden = INFO["losses_unweighted"]
    for name, values in (("ce", step.losses.classes), ("mask", step.losses.masks), ("dice", step.losses.dice)):
        expected = [golden[f"loss_{name}_{index}"] for index in range(3)] + [golden[f"loss_{name}"]]
        assert values.tolist() == pytest.approx(expected, rel=1e-5)
    assert step.losses.total.item() == pytest.approx(INFO["total"], rel=1e-5)


def test_every_gradient(step: Step) -> None:
    golden = INFO["grad_l2_and_sum"]
    assert set(step.gradients) == set(golden)
    for name, (length, total) in golden.items():
        gradient = step.gradients[name].double()
        assert gradient.norm().item() == pytest.approx(length, rel=1e-4, abs=1e-4), name
        # A sum of numbers of either sign is as exact as the numbers are long.
        assert gradient.sum().item() == pytest.approx(total, abs=1e-4 * max(length, 1) * gradient.numel() ** 0.5), name


@torch.no_grad()
def test_the_last_depth_is_the_models_answer() -> None:
    model = load_model(load_checkpoint("recipe:tiny"))
    image = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    answer, predictions = model(image), model.predictions(image)
    assert len(predictions) == model.config.mask_decoder.layers + 1
    assert torch.equal(predictions[-1].mask_logits, answer.mask_logits)
    assert torch.equal(predictions[-1].in_vocab_embedding, answer.in_vocab_embedding)
