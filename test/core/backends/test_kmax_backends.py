"""Models with a k-means mask decoder give eager's answer on every backend."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fcclip_core import Segmenter
from fcclip_core.settings import InferenceSettings

FAST = (("onednn", "tiny_kmax"), ("onednn", "tiny_kmax_deformable"), ("onnxruntime", "tiny_kmax"))
SLOW = (
    ("onnxruntime", "tiny_kmax_deformable"),
    *itertools.product(("compiled", "openvino"), ("tiny_kmax", "tiny_kmax_deformable")),
)


def output(preset: str, backend: str) -> dict[str, np.ndarray]:
    image = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    segmenter = Segmenter.from_checkpoint(
        f"recipe:{preset}", backend=backend, precision="fp32", settings=InferenceSettings(shorter_side=96)
    )
    assert not segmenter.backend_warning
    return {name: tensor.float().numpy() for name, tensor in vars(segmenter.encode(image).output).items()}


@pytest.mark.parametrize("backend, preset", [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)])
def test_every_backend_gives_eagers_masks_and_embeddings(backend: str, preset: str) -> None:
    eager, other = output(preset, "eager"), output(preset, backend)
    for name in ("mask_logits", "in_vocab_embedding", "out_vocab_embedding"):
        assert np.abs(other[name] - eager[name]).max() < 1e-3 * eager[name].std(), name
