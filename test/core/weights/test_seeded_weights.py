"""Seeded weights: the recipe, value for value, against numbers that its inventors wrote down."""

from __future__ import annotations

import json
import zlib

import pytest
import torch
from key_lists import REFERENCE, entries

from fcclip_core.weights.seeded_weights import seeded_state, seeded_tensor

CHECKS = json.loads((REFERENCE / "spec.json").read_text())["weights"]["check_values"]


@pytest.mark.parametrize("name", CHECKS)
def test_value_equals_the_recipes_check_value(name: str) -> None:
    expected = CHECKS[name]
    tensor = seeded_tensor(name, tuple(entries("convnext_large")[name][0]))
    assert tensor.dtype == torch.float32
    assert list(tensor.shape) == entries("convnext_large")[name][0]
    assert zlib.crc32(name.encode()) == expected["crc32"]
    assert tensor.flatten()[:4].tolist() == expected["first"]  # to the bit
    assert tensor.double().sum().item() == pytest.approx(expected["sum"], rel=1e-9, abs=1e-9)
    assert tensor.double().norm().item() == pytest.approx(expected["l2"], rel=1e-9)


@pytest.mark.parametrize(
    ("name", "shape", "mean", "deviation"),
    [
        # Rules that the check values leave out: statistics of batch normalization, biases, the ResNet's gain.
        pytest.param("backbone.clip_model.visual.bn1.running_var", (20_000,), 1 + 0.1 * 0.7979, 0.0603, id="variance"),
        pytest.param("backbone.clip_model.visual.bn1.running_mean", (20_000,), 0.0, 0.02, id="mean"),
        pytest.param("backbone.clip_model.visual.bn1.bias", (20_000,), 0.0, 0.02, id="bias"),
        pytest.param("backbone.clip_model.visual.layer1.0.conv1.weight", (64, 400), 0.0, 1.5 / 20, id="gain 1.5"),
        pytest.param("backbone.clip_model.visual.attnpool.q_proj.weight", (64, 400), 0.0, 1 / 20, id="gain 1"),
        pytest.param("backbone.clip_model.visual.attnpool.positional_embedding", (50, 400), 0.0, 1.0, id="position"),
    ],
)
def test_rule_gives_mean_and_deviation(name: str, shape: tuple[int, ...], mean: float, deviation: float) -> None:
    tensor = seeded_tensor(name, shape)
    assert tensor.mean().item() == pytest.approx(mean, abs=0.03 * max(deviation, 0.02))
    assert tensor.std().item() == pytest.approx(deviation, rel=0.03)


def test_counter_stays_what_it_is() -> None:
    counter = seeded_tensor("backbone.clip_model.visual.bn1.num_batches_tracked", ())
    assert counter.dtype == torch.int64
    assert counter.item() == 0


def test_state_is_the_tensors_in_order_however_many_threads_drew_them() -> None:
    shapes = {"void_embedding.weight": (1, 8), "sem_seg_head.predictor.query_feat.weight": (50, 8), "a.bias": (3,)}
    state = seeded_state(shapes)
    assert list(state) == list(shapes)
    assert all(torch.equal(state[name], seeded_tensor(name, shape)) for name, shape in shapes.items())


def test_progress_counts_numbers_up_to_all_of_them() -> None:
    seen: list[tuple[int, int]] = []
    seeded_state({"a.weight": (4, 5), "b.bias": (10,)}, lambda done, total: seen.append((done, total)))
    assert [total for _, total in seen] == [30, 30]
    assert seen[-1] == (30, 30)
