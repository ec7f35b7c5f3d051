"""Merging as kMaX does it, against the authors' maps (test/reference/kmax_merge.*) and pictures worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from checkout import REFERENCE
from fcclip_core.inference.classification import TextClassifier, Words
from fcclip_core.inference.decoder import EagerDecoder, UndecodedFrame
from fcclip_core.inference.kmax_merging import kmax_segments, kmax_semantic_classes
from fcclip_core.inference.mask_resize import MaskResizer
from fcclip_core.inference.postprocess import HostMerger, PanopticSegments
from fcclip_core.inference.preprocess import FrameGeometry
from fcclip_core.inference.stage_clock import StageClock
from fcclip_core.model.fcclip import ModelOutput
from fcclip_core.settings import InferenceSettings

CPU = torch.device("cpu")
ARRAYS = dict(np.load(REFERENCE / "kmax_merge.npz"))
INFO = json.loads((REFERENCE / "kmax_merge.json").read_text())
OWN_NAMES = {
    "pixel_confidence_threshold": "pixel_confidence",
    "class_threshold_thing": "thing_threshold",
    "class_threshold_stuff": "stuff_threshold",
    "overlap_threshold": "overlap_threshold",
    "reorder_class_weight": "class_exponent",
    "reorder_mask_weight": "mask_exponent",
}


def shares_of(decoder_logits: torch.Tensor) -> torch.Tensor:
    """Logits whose sigmoid is the softmax over queries, which is what the model puts out."""
    return decoder_logits.double().softmax(0).logit().float()


def golden_logits(case: str) -> torch.Tensor:
    if f"{case}.mask_logits" in ARRAYS:
        return torch.from_numpy(ARRAYS[f"{case}.mask_logits"])
    return torch.from_numpy(ARRAYS[f"{case}.mask_logits_x64"]).float() / 64


def golden_probabilities(case: str) -> torch.Tensor:
    return torch.from_numpy(ARRAYS[f"{case}.class_logits"]).softmax(-1)


def things_of(case: str, classes: int) -> torch.Tensor:
    return torch.isin(torch.arange(classes), torch.tensor(INFO[f"{case}.things"]))


def settings_of(name: str) -> InferenceSettings:
    return InferenceSettings(**{OWN_NAMES[key]: value for key, value in INFO["settings"][name].items()})


def same_size(height: int, width: int) -> MaskResizer:
    size = (height, width)
    return MaskResizer(FrameGeometry(size, size, size), size, CPU)


def merge(mask_logits: torch.Tensor, class_probs: torch.Tensor, things: torch.Tensor, settings: InferenceSettings):
    return kmax_segments(mask_logits, class_probs, things, same_size(*mask_logits.shape[1:]), settings)


def check(merged: PanopticSegments, things: torch.Tensor, case: str, settings: str) -> None:
    np.testing.assert_array_equal(merged.segment_map, ARRAYS[f"{case}.panoptic.{settings}"])
    expected = INFO[f"{case}.{settings}"]["segments_info"]
    assert merged.class_indices.tolist() == [segment["category_id"] for segment in expected]
    assert things[merged.class_indices].tolist() == [segment["isthing"] for segment in expected]


@pytest.mark.parametrize("settings", ["coco", "ade20k", "cityscapes"])
@pytest.mark.parametrize("case", ["crafted", "drawn"])
def test_the_authors_maps(case: str, settings: str) -> None:
    probabilities = golden_probabilities(case)
    things = things_of(case, probabilities.shape[1] - 1)
    check(merge(shares_of(golden_logits(case)), probabilities, things, settings_of(settings)), things, case, settings)


def test_the_authors_map_of_another_size() -> None:
    """Their resize, which aligns corners for this odd width; ours pads to even sizes, where nothing is aligned."""
    info, probabilities = INFO["resized"] | INFO["resized.coco"], golden_probabilities("resized")
    things = things_of("resized", info["num_classes"])
    logits = golden_logits("resized")[None]
    for size, kept in ((info["input_shape"], info["image_hw"]), (info["output_hw"], info["output_hw"])):
        logits = F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=True)
        logits = logits[..., : kept[0], : kept[1]]
    check(merge(shares_of(logits[0]), probabilities, things, settings_of("coco")), things, "resized", "coco")


@pytest.mark.parametrize("case", ["crafted", "drawn"])
def test_the_authors_semantic_maps(case: str) -> None:
    logits = shares_of(golden_logits(case))
    found = kmax_semantic_classes(logits, golden_probabilities(case), same_size(*logits.shape[1:]))
    np.testing.assert_array_equal(found, ARRAYS[f"{case}.semantic_argmax"])


def test_a_resize_of_shares_is_a_resize_of_the_decoders_own_logits() -> None:
    """In bands and blocks of columns, too, and with padding that is cut."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 6, 4, 5, generator=generator) * 5
    logits = F.interpolate(coarse, size=(16, 24), mode="bilinear")[0]
    probabilities = torch.full((6, 7), 0.01)
    probabilities[torch.arange(6), torch.arange(6)] = torch.linspace(0.75, 0.94, 6)
    things, settings = torch.ones(6, dtype=torch.bool), InferenceSettings(overlap_threshold=0.0)
    geometry = FrameGeometry((50, 130), (60, 90), (64, 96))
    large = F.interpolate(logits[None], size=(64, 96), mode="bilinear")[..., :60, :90]
    large = F.interpolate(large, size=(50, 130), mode="bilinear")[0]
    expected = merge(shares_of(large), probabilities, things, settings)
    found = kmax_segments(shares_of(logits), probabilities, things, MaskResizer(geometry, (16, 24), CPU), settings)
    assert len(expected.queries) > 2
    np.testing.assert_array_equal(found.queries, expected.queries)
    np.testing.assert_array_equal(found.segment_map, expected.segment_map)


def test_classes_with_a_minimum_and_none_at_all() -> None:
    shares = torch.tensor([[[0.8, 0.8, 0.1, 0.1]], [[0.1, 0.1, 0.8, 0.8]], [[0.1, 0.1, 0.1, 0.1]]]).logit()
    probabilities = torch.tensor([[0.9, 0.0, 0.1], [0.0, 0.8, 0.2], [0.9, 0.0, 0.1]])
    things, resizer, settings = torch.tensor([True, False]), same_size(1, 4), InferenceSettings()
    found = kmax_segments(shares, probabilities, things, resizer, settings)
    assert found.segment_map.tolist() == [[1, 1, 2, 2]]
    assert found.queries.tolist() == [0, 1]
    high = kmax_segments(shares, probabilities, things, resizer, settings, torch.tensor([2.0, 0.8]))
    assert high.segment_map.tolist() == [[0, 0, 1, 1]]
    assert high.class_indices.tolist() == [1]
    nothing = kmax_segments(shares, torch.tensor([[0.1, 0.1, 0.8]] * 3), things, resizer, settings)
    assert not nothing.segment_map.any() and len(nothing.queries) == 0


def test_the_setting_chooses_the_merging_of_a_frame() -> None:
    """Each mask has half of the third pixel: neither is inside by FC-CLIP's rule; both claim it by kMaX's."""
    shares = torch.tensor([[[0.9, 0.9, 0.4, 0.1]], [[0.1, 0.1, 0.4, 0.8]]]).logit()[None]
    embedding = torch.eye(2)[None]
    output = ModelOutput(shares, embedding, embedding, torch.ones(1, 2, dtype=torch.bool))
    rows = torch.eye(2)
    classifier = TextClassifier(rows, F.normalize(rows.sum(0, keepdim=True)), torch.arange(2), torch.ones(2) > 0, 9, 9)
    frames = [
        UndecodedFrame(
            output,
            Words(classifier, torch.tensor([True, True])),
            FrameGeometry((1, 4), (1, 4), (1, 4)),
            InferenceSettings(merging=merging, valid_mask_only=False),
        )
        for merging in ("fcclip", "kmax")
    ]
    decode = EagerDecoder(HostMerger(CPU))
    maps = [decode(frame, StageClock(CPU))().merged for frame in frames]
    assert maps[0].segment_map.tolist() == [[1, 1, 0, 2]]
    assert maps[1].segment_map.tolist() == [[1, 1, 1, 0]]  # the second has less than 0.8 of its claim left
    assert maps[1].areas.tolist() == [3]
    assert maps[1].boxes.tolist() == [[0, 0, 3, 1]]
