"""`output_stride`: one network output, labels of the image's size, half of it, or a quarter."""

from __future__ import annotations

import numpy as np
import pytest
import torch.nn.functional as F

from fcclip_core import Segmenter, Vocabulary
from fcclip_core.errors import SettingsError
from fcclip_core.segments.finding import find
from fcclip_core.settings import InferenceSettings
from fcclip_core.vocabulary.query import Query

IMAGE = np.random.default_rng(3).integers(0, 255, (75, 101, 3), np.uint8)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    made = Segmenter.from_checkpoint("recipe:tiny", cache_dir=tmp_path_factory.mktemp("cache"))
    made.set_vocabulary(Vocabulary.from_names(["cup", "floor", "chair", "wall"], stuff=["floor", "wall"]))
    return made


def settings(stride: int) -> InferenceSettings:
    return InferenceSettings(shorter_side=96, output_stride=stride, overlap_threshold=0.0)


@pytest.mark.parametrize(("stride", "size"), [(1, (75, 101)), (2, (38, 51)), (4, (19, 26))])
def test_every_map_has_the_size_of_the_labels(segmenter: Segmenter, stride: int, size: tuple[int, int]) -> None:
    segmenter.settings = settings(stride)
    result = segmenter(IMAGE)
    assert result.segments
    assert result.segment_map.shape == result.semantic_map().shape == result.instances().masks.shape[1:] == size
    for segment in result.segments:
        rows, columns = np.nonzero(result.segment_map == segment.id)
        assert segment.area == len(rows)
        assert segment.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_classes_are_those_of_masks_resized_to_the_labels(segmenter: Segmenter) -> None:
    """The two published resizes by torch, the second one to half the image's size."""
    segmenter.settings = settings(2)
    found = segmenter(IMAGE).semantic_map()
    prediction = segmenter.predict(IMAGE)
    height, width = (4 * side for side in prediction.mask_logits.shape[1:])
    large = F.interpolate(prediction.mask_logits[None].double(), size=(height, width), mode="bilinear")
    resized = segmenter.encode(IMAGE).geometry.resized
    masks = F.interpolate(large[..., : resized[0], : resized[1]], size=(38, 51), mode="bilinear")[0].sigmoid()
    scores = prediction.class_probs[:, :-1].double().T @ masks.flatten(1)
    ids = np.array(segmenter.vocabulary.class_ids)
    assert (ids[scores.argmax(0).view(38, 51).numpy()] == found).mean() > 0.999


def test_words_that_are_looked_for_have_masks_of_the_labels(segmenter: Segmenter) -> None:
    segmenter.settings = settings(4)
    encoded = segmenter.encode(IMAGE)
    result = segmenter.decode(encoded)
    # The setting has changed since the frame was encoded; its labels stay as large as they were.
    segmenter.settings = settings(1)
    found = find(segmenter, Query.of(["a lamp"]), encoded, result, segmenter.vocabulary)
    assert found
    for item in found:
        left, top, right, bottom = item.segment.box
        assert item.mask.shape == (bottom - top, right - left)
        assert right <= 26 and bottom <= 19


def test_other_strides_are_refused() -> None:
    with pytest.raises(SettingsError, match="output_stride is 3; it must be one of 1, 2, 4"):
        settings(3)
