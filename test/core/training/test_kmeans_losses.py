"""kMaX's matching and loss against the authors' criterion (test/reference/kmax_loss.*) and cases worked out by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from checkout import REFERENCE
from fcclip_core.training.config import KMeansLossConfig
from fcclip_core.training.kmeans_losses import KMeansCriterion, KMeansLayerPrediction, KMeansLosses
from fcclip_core.training.kmeans_matching import Assignment, ImageTargets, assign
from oracle.goldens import slice_like
from oracle.kmax_draws import draw, feature

ARRAYS = dict(np.load(REFERENCE / "kmax_loss.npz"))
INFO = json.loads((REFERENCE / "kmax_loss.json").read_text())
LAYERS = ("aux0", "final")
"""In the order of the decoder; the authors begin with the last."""
TERMS = {"ce": "classes", "mask": "masks", "dice": "dice", "pixel_insdis": "pixels"}


class StoredNoise:
    """The random numbers of the authors' run."""

    def uniform(self, layer: int, pixels: int) -> Tensor:
        return torch.from_numpy(ARRAYS[f"{LAYERS[layer]}.noise"])


def stored_targets() -> list[ImageTargets]:
    found = []
    for image in range(INFO["batch"]):
        masks = torch.from_numpy(ARRAYS[f"target.{image}.masks"]).float()
        found.append(
            ImageTargets(masks / masks.sum(0).clamp(min=1), torch.from_numpy(ARRAYS[f"target.{image}.labels"]))
        )
    return found


def drawn_prediction(name: str) -> KMeansLayerPrediction:
    """The rule `loss_case` of kmax_spec.json."""
    batch, queries, size = INFO["batch"], INFO["num_queries"], tuple(INFO["mask_hw"])
    tag, grid = f"{INFO['input_tag']}:{name}", tuple(INFO["coarse_grid"])
    classes = 2 * draw(f"{tag}:logits", (batch, queries, INFO["num_classes"] + 1))
    classes[..., -1] += 4
    masks = 2 * feature(f"{tag}:masks", (batch, queries, *size), grid, 0.5).numpy()
    for image in range(batch):
        label_map = np.zeros(size, int)
        for number, mask in enumerate(ARRAYS[f"target.{image}.masks"], 1):
            label_map[mask] = number
        for number, label in enumerate(ARRAYS[f"target.{image}.labels"], 1):
            query = (37 * number + 11 * image) % queries
            classes[image, query, label] += 5
            masks[image, query] += 5 * (label_map == number)
    pixels = feature(f"{tag}:pixels", (batch, 128, *size), grid, 0.5)
    pixels = (pixels / pixels.double().norm(dim=1, keepdim=True)).float()
    made = (torch.from_numpy(masks), torch.from_numpy(classes), pixels)
    return KMeansLayerPrediction(*(item.requires_grad_(True) for item in made))


@dataclass(frozen=True)
class Run:
    predictions: list[KMeansLayerPrediction]
    losses: KMeansLosses
    assignments: list[Assignment]


@pytest.fixture(scope="module")
def run() -> Run:
    predictions = [drawn_prediction(name) for name in LAYERS]
    criterion = KMeansCriterion(KMeansLossConfig())
    losses = criterion.of_images(predictions, stored_targets(), StoredNoise())
    losses.total.backward()
    return Run(predictions, losses, assign(predictions[-1], stored_targets()))


def test_inputs_are_those_of_the_authors_run(run: Run) -> None:
    for name, item in zip(LAYERS, run.predictions, strict=True):
        for key, tensor in (("logits", item.class_logits), ("masks", item.mask_logits)):
            golden = ARRAYS[f"{name}.pred_{key}"]
            np.testing.assert_allclose(slice_like(tensor.detach().numpy(), golden), golden, atol=1e-6)


def test_matched_pairs(run: Run) -> None:
    for image, found in enumerate(run.assignments):
        assert found.match.queries.tolist() == ARRAYS[f"match.{image}.query"].tolist()
        assert found.match.segments.tolist() == ARRAYS[f"match.{image}.target"].tolist()
        np.testing.assert_allclose(found.dice, ARRAYS[f"match.{image}.dice"], rtol=1e-5)
        np.testing.assert_allclose(found.probability, ARRAYS[f"match.{image}.class_prob"], rtol=1e-5)


def test_every_loss_term(run: Run) -> None:
    for golden, own in TERMS.items():
        expected = [INFO["losses_unweighted"][f"loss_{golden}{suffix}"] for suffix in ("_0", "")]
        assert getattr(run.losses, own).tolist() == pytest.approx(expected, rel=1e-5), own


def test_every_gradient(run: Run) -> None:
    fields = {"pred_logits": "class_logits", "pred_masks": "mask_logits", "pixel_feature": "pixel_features"}
    for name, item in zip(LAYERS, run.predictions, strict=True):
        for golden, own in fields.items():
            gradient = getattr(item, own).grad
            length = INFO["gradient_of_weighted_sum_l2_and_sum"][f"{name}.{golden}"]["fp64"][0]
            assert gradient.double().norm().item() == pytest.approx(length, rel=1e-4), (name, golden)


def test_the_pixels_that_are_sampled(run: Run) -> None:
    criterion = KMeansCriterion(KMeansLossConfig())
    for layer, name in enumerate(LAYERS):
        for image, truth in enumerate(stored_targets()):
            random = StoredNoise().uniform(layer, truth.void.numel())[image]
            chosen = criterion.sampled_pixels(truth.masks.flatten(1), random)
            assert set(chosen.tolist()) == set(ARRAYS[f"{name}.sampled_pixels"][image].tolist())
