"""Our kMaX decoders against numbers made by kMaX-DeepLab's own code, stage by stage.

Other cases are compared by `FCCLIP_KMAX_REFERENCE=FOLDER FCCLIP_KMAX_CASES=name,name pytest test/core/model/
test_kmax_goldens.py`.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from oracle.goldens import slice_like
from oracle.kmax import Case, Reference

FAST = ("kmax_tiny_65", "kmax_tiny_97x161")
SLOW = ("kmax_pixel_large_352x672", "kmax_pixel_large_1281", "kmax_decoder_1025", "kmax_star_768x1024")
NAMES = [name for name in os.environ.get("FCCLIP_KMAX_CASES", "").split(",") if name]
NORMS = "pix.in_norm."
LIMIT, NORM_LIMIT = 1e-4, 5e-6
"""Largest difference as a share of a tensor's standard deviation."""


@pytest.fixture(scope="module", params=NAMES or [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def reference(request: pytest.FixtureRequest) -> Reference:
    found = Reference(Case(request.param))
    found.run()
    return found


def differences(reference: Reference) -> dict[str, float]:
    """Stage -> largest difference, in standard deviations of the full tensor; integers are compared elsewhere."""
    deviations = {name: values[1] for name, values in reference.case.info["stats"].items()}
    found = {}
    for name, golden in reference.case.arrays.items():
        if not np.issubdtype(golden.dtype, np.integer):
            ours = slice_like(reference.stages[name].double().numpy(), golden)
            found[name] = float(np.abs(ours - golden).max()) / (deviations.get(name) or float(golden.std()))
    return found


def test_every_stage_matches(reference: Reference) -> None:
    found = differences(reference)
    too_far = {name: by for name, by in found.items() if by > (NORM_LIMIT if name.startswith(NORMS) else LIMIT)}
    assert found and not too_far, f"{reference.case.name}: {too_far}"


def test_every_pixel_has_the_same_owner(reference: Reference) -> None:
    for name, golden in reference.case.arrays.items():
        if np.issubdtype(golden.dtype, np.integer):
            ours = slice_like(reference.stages[name].numpy(), golden)
            assert np.array_equal(ours, golden), f"{reference.case.name} {name}: {(ours != golden).sum()} differ"


def test_shapes_are_those_of_the_reference(reference: Reference) -> None:
    for name, described in reference.case.info["arrays"].items():
        assert list(reference.stages[name].shape) == described["full"], name


def test_nothing_of_a_case_is_left_out(reference: Reference) -> None:
    assert set(reference.case.info["arrays"]) == set(reference.case.arrays) <= set(reference.stages)


def test_decoders_without_a_gradient_are_the_ones_in_inference(reference: Reference) -> None:
    """`forward`, which gives shares, agrees with the raw logits that were compared."""
    if reference.mask_decoder is None:
        pytest.skip("a case of the pixel decoder alone has no masks")
    with torch.no_grad():
        prediction = reference.mask_decoder(reference._pixels())
    shares = reference.stages["dec.final.mask_logits"].double().softmax(1)
    assert (prediction.mask_logits.double().sigmoid() - shares).abs().max() < 1e-5
