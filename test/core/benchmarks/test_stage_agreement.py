"""Backends and precisions against eager float32, stage by stage, within the limits of docs/reference/performance.md."""

from __future__ import annotations

import functools

import pytest
import torch

from benchmarks.quality.stages import ALL_CASES, BACKENDS, LIMITS, STAGES, Measurement, complaints, errors
from fcclip_core.errors import BackendError
from fcclip_core.model.fcclip import ModelOutput

SLOW = pytest.mark.slow
FAST = ("onednn:fp32", "onednn:bf16", "onnxruntime:fp16", "openvino:fp32")
"""One of each kind; all of them are slow together."""


@functools.cache
def measurement(case: str) -> Measurement:
    return Measurement(ALL_CASES[case])


@pytest.mark.parametrize("backend", [name if name in FAST else pytest.param(name, marks=SLOW) for name in BACKENDS])
@pytest.mark.parametrize("case", ["tiny_cat_96", pytest.param("demo_coffee_256", marks=SLOW)])
def test_every_stage_is_within_its_limit(case: str, backend: str) -> None:
    if not backend.startswith(("onednn", "compiled")):
        pytest.importorskip("onnx")
    try:
        found = measurement(case).compare(backend)
    except BackendError as error:
        pytest.skip(str(error))
    assert not found["complaints"]
    assert found["equal_pixels"] >= (0.999 if backend.endswith("fp32") else 0.99)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onednn:fp32", "onnxruntime:fp32"])
def test_a_resnet_gives_the_same_segments(backend: str) -> None:
    """Its seeded weights blow up rounding too much for limits by stage."""
    assert measurement("rn50_cat_128").compare(backend)["equal_pixels"] >= 0.999


def test_errors_are_relative_and_judged_by_stage() -> None:
    expected = torch.tensor([3.0, 4.0, 0.0, 0.0])  # root mean square 2.5
    zeros = torch.zeros(4)
    one = ModelOutput(expected, expected, expected, zeros.bool())
    other = ModelOutput(expected + torch.tensor([0, 0, 0.05, 0]), expected, expected.clone().fill_(torch.nan), zeros)
    found = errors(one, other, "answer")
    assert found["mask logits"] == {"max": pytest.approx(0.02), "rms": pytest.approx(0.01)}
    assert found["in-vocabulary embedding"] == {"max": 0.0, "rms": 0.0}

    tensors = {name: {"max": 0.0, "rms": 0.0} for names in STAGES.values() for name in names}
    assert complaints("onednn:bf16", "demo", tensors) == []
    wrong = tensors | {
        "res3": {"max": 1.0, "rms": 2 * LIMITS["bf16"]["backbone"]},
        "out-of-vocabulary embedding": found["out-of-vocabulary embedding"],
    }
    res3, embedding = complaints("onednn:bf16", "demo", wrong)
    assert "res3 is off by 0.04, allowed is 0.02" in res3
    assert "out-of-vocabulary embedding is off by nan" in embedding
    assert complaints("onednn:bf16", "rn50", wrong) == [], "not held"
    assert len(complaints("onednn:fp32", "convnext_large", wrong)) == 2
