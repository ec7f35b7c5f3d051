"""Several images through the network at once: the answers must be those of single images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fcclip_core import Segmenter, Vocabulary
from fcclip_core.errors import ImageError
from fcclip_core.model.config import TINY, ResNetConfig
from fcclip_core.model.fcclip import FCCLIP
from fcclip_core.segmenter import EncodedImage
from fcclip_core.settings import InferenceSettings

SETTINGS = InferenceSettings(shorter_side=64)


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """Blocks of random colors, so that there is something to find masks in."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 5 // width
    return blocks[rows[:, None], columns]


# All of them are padded to 64 x 96; the second is resized to another size than the others.
PICTURES = [picture(120, 160, 1), picture(120, 150, 2), picture(120, 160, 3)]


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    cache = tmp_path_factory.mktemp("cache")
    segmenter = Segmenter.from_checkpoint("recipe:tiny", backend="eager", settings=SETTINGS, cache_dir=cache)
    segmenter.set_vocabulary(Vocabulary.from_names(["cup", "plate", "floor"], stuff=["floor"]))
    return segmenter


def tensors(encoded: EncodedImage) -> tuple[torch.Tensor, ...]:
    output = encoded.output
    return output.mask_logits, output.in_vocab_embedding, output.out_vocab_embedding, output.mask_survives


def test_batch_gives_what_single_images_give(segmenter: Segmenter) -> None:
    batch = segmenter.encode_batch(PICTURES)
    assert [encoded.geometry.resized for encoded in batch] == [(64, 85), (64, 80), (64, 85)]
    for encoded, image in zip(batch, PICTURES, strict=True):
        alone = segmenter.encode(image)
        assert encoded.geometry == alone.geometry
        for together, single in zip(tensors(encoded), tensors(alone), strict=True):
            assert together.shape == single.shape
            torch.testing.assert_close(together, single, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(batch[0].output.mask_logits, batch[2].output.mask_logits, atol=1e-2)


@pytest.mark.parametrize("valid_mask_only", [False, True])
def test_labels_of_a_batch_are_those_of_single_images(segmenter: Segmenter, valid_mask_only: bool) -> None:
    """With `valid_mask_only` the ensemble asks each image about its own masks, not about those of the batch."""
    settings = replace(SETTINGS, valid_mask_only=valid_mask_only, overlap_threshold=0.0)
    for encoded, image in zip(segmenter.encode_batch(PICTURES, settings), PICTURES, strict=True):
        together = segmenter.decode(encoded, settings=settings)
        alone = segmenter.decode(segmenter.encode(image, settings), settings=settings)
        assert together.segment_map.shape == image.shape[:2]
        assert [s.class_id for s in together.segments] == [s.class_id for s in alone.segments]
        assert np.mean(together.segment_map != alone.segment_map) < 1e-3
        for one, other in zip(together.segments, alone.segments, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-4)


def test_resnet_towers_keep_the_images_of_a_batch_apart() -> None:
    """Their attention pooling and its empty masks; in double precision, since random weights amplify rounding."""
    torch.manual_seed(0)
    config = replace(TINY, vision=ResNetConfig((1, 1, 1, 1), 8, 64), embed_dim=64, valid_mask_only=True)
    model = FCCLIP(config).double().eval()
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        together = model(images)
        for index, image in enumerate(images.split(1)):
            for name, value in vars(model(image)).items():
                torch.testing.assert_close(getattr(together, name)[index : index + 1], value, rtol=1e-8, atol=1e-8)


def test_an_image_may_be_prepared_in_the_memory_of_the_one_before(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[torch.Tensor] = []
    prepare = segmenter._preprocess

    def in_one_buffer(*arguments: Any) -> tuple:
        tensor, geometry = prepare(*arguments)
        kept.append(tensor) if not kept else kept[0].copy_(tensor)
        return kept[0], geometry

    expected = [encoded.output.mask_logits for encoded in segmenter.encode_batch(PICTURES)]
    monkeypatch.setattr(segmenter, "_preprocess", in_one_buffer)
    for encoded, logits in zip(segmenter.encode_batch(PICTURES), expected, strict=True):
        torch.testing.assert_close(encoded.output.mask_logits, logits)


def test_images_of_different_padded_sizes_are_refused(segmenter: Segmenter) -> None:
    other = picture(120, 240, 4)
    assert segmenter.padded_size(120, 160) == segmenter.padded_size(120, 150) == (64, 96)
    assert segmenter.padded_size(120, 240) == (64, 128)
    with pytest.raises(ImageError, match="one padded size; these have 96 x 64, 128 x 64"):
        segmenter.encode_batch([PICTURES[0], other])


def test_something_else_among_the_images_is_named(segmenter: Segmenter) -> None:
    with pytest.raises(ImageError, match="expected a uint8 RGB array"):
        segmenter.encode_batch([PICTURES[0], PICTURES[1].astype(np.float32)])
