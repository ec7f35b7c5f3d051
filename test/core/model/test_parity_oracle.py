"""Our pipeline against the published order of operations, on images, sizes and vocabularies without goldens."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from fcclip_core import InferenceSettings, Segmenter
from fcclip_core.inference.classification import TextClassifier, classify
from fcclip_core.inference.preprocess import preprocess
from fcclip_core.model.fcclip import ModelOutput
from fcclip_core.weights.checkpoints import Checkpoint, load_checkpoint, load_model
from oracle.classification import class_logits, ensemble
from oracle.goldens import PIXEL_SHARE, injected_rows
from oracle.observe import class_indices, vocabulary_of
from oracle.pipeline import Published, Words, segment
from oracle.trace import Trace


@dataclass(frozen=True)
class Loaded:
    checkpoint: Checkpoint
    segmenter: Segmenter


def load(preset: str) -> Loaded:
    checkpoint = load_checkpoint(f"recipe:{preset}")
    return Loaded(checkpoint, Segmenter(checkpoint, device="cpu", backend="eager"))


@pytest.fixture(scope="module")
def tiny() -> Loaded:
    return load("tiny")


def smooth_image(height: int, width: int, seed: int) -> np.ndarray:
    """Blobs and edges rather than white noise, so that masks have shapes."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(np.cumsum(rng.normal(0, 3, (height, width, 3)), 0), 1)
    return np.clip(walk + 128, 0, 255).astype(np.uint8)


def random_words(classes: int, dim: int, seed: int, things: float = 0.5, seen: float = 0.5) -> Words:
    """A vocabulary of `classes` classes with one to four synonyms each; shares of things and of seen classes."""
    rng = np.random.default_rng(seed)
    counts = [int(count) for count in rng.integers(1, 5, classes)]
    rows = injected_rows([f"word {seed} {index}" for index in range(sum(counts))], dim)
    return Words(
        torch.from_numpy(rows),
        tuple(counts),
        tuple(bool(flag) for flag in rng.random(classes) < things),
        tuple(bool(flag) for flag in rng.random(classes) < seen),
    )


def compare(loaded: Loaded, image: np.ndarray, words: Words, settings: InferenceSettings) -> Published:
    """Runs both and compares every output.

    Raises:
        AssertionError: An output differs by more than rounding explains.
    """
    published = segment(loaded.checkpoint.state, loaded.checkpoint.config, image, words, settings)
    names = [[f"class {c} name {s}" for s in range(count)] for c, count in enumerate(words.synonym_counts)]
    segmenter = loaded.segmenter
    segmenter.settings = settings
    segmenter.set_vocabulary(vocabulary_of(words, names), text_embeddings=words.rows)

    prediction = segmenter.predict(image)
    assert prediction.mask_logits.shape == published.mask_logits.shape
    assert float((prediction.mask_logits - published.mask_logits).abs().mean()) < 2e-3
    assert float((prediction.class_probs - published.class_probs).abs().mean()) < 2e-4
    torch.testing.assert_close(prediction.class_probs.sum(-1), torch.ones(len(prediction.class_probs)))

    result = segmenter(image)
    slack = max(PIXEL_SHARE * result.segment_map.size, 2)
    categories = class_indices(segmenter, np.array([s.class_id for s in result.segments], np.int64))
    assert categories.tolist() == [record.category for record in published.segments]
    assert [s.is_thing for s in result.segments] == [record.is_thing for record in published.segments]
    assert result.segment_map.shape == image.shape[:2]
    assert (result.segment_map != published.segment_map.numpy()).sum() <= slack
    semantic = class_indices(segmenter, result.semantic_map())
    assert (semantic != published.semantic.argmax(0).numpy()).sum() <= slack

    instances, table = result.instances(), published.instances
    order = table.scores.argsort(descending=True)
    assert len(instances) == len(order)
    np.testing.assert_allclose(instances.scores, table.scores[order].numpy(), atol=2e-3)
    ours = np.bincount(class_indices(segmenter, instances.class_ids), minlength=len(words.is_thing))
    np.testing.assert_array_equal(ours, torch.bincount(table.categories, minlength=len(words.is_thing)).numpy())
    areas = np.abs(np.sort(instances.masks.sum((1, 2))) - np.sort(table.masks.flatten(1).sum(1).numpy()))
    assert (areas > slack).sum() <= len(areas) // 20
    return published


SIZES = [(1, 1), (2, 3), (1, 300), (300, 1), (31, 33), (64, 64), (97, 211), (480, 37), (37, 480), (120, 181)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_any_image_size(tiny: Loaded, height: int, width: int) -> None:
    settings = InferenceSettings(shorter_side=64, max_size=160)
    compare(tiny, smooth_image(height, width, height + width), random_words(13, 64, 1), settings)


@pytest.mark.parametrize(("shorter_side", "max_size"), [(32, 32), (33, 1333), (96, 96), (150, 200), (200, 1333)])
def test_any_test_time_size(tiny: Loaded, shorter_side: int, max_size: int) -> None:
    settings = InferenceSettings(shorter_side=shorter_side, max_size=max_size)
    compare(tiny, smooth_image(75, 101, 5), random_words(13, 64, 2), settings)


@pytest.mark.parametrize(
    ("classes", "things", "seen"),
    [(1, 1.0, 0.0), (1, 0.0, 1.0), (2, 0.5, 0.5), (20, 0.0, 0.5), (20, 1.0, 0.5), (20, 0.5, 1.0), (300, 0.5, 0.3)],
)
def test_any_vocabulary(tiny: Loaded, classes: int, things: float, seen: float) -> None:
    settings = InferenceSettings(shorter_side=96)
    words = random_words(classes, 64, classes, things, seen)
    compare(tiny, smooth_image(90, 120, classes), words, settings)


@pytest.mark.parametrize(
    ("object_mask_threshold", "overlap_threshold"), [(0.0, 0.0), (0.4, 0.1), (0.5, 0.2), (0.0, 1.0), (1.0, 0.8)]
)
def test_any_thresholds(tiny: Loaded, object_mask_threshold: float, overlap_threshold: float) -> None:
    settings = InferenceSettings(
        shorter_side=96, object_mask_threshold=object_mask_threshold, overlap_threshold=overlap_threshold
    )
    published = compare(tiny, smooth_image(120, 150, 9), random_words(13, 64, 9), settings)
    assert bool(published.segments) == (object_mask_threshold < 1.0 and overlap_threshold < 1.0)


@pytest.mark.parametrize("valid_mask_only", [True, False])
@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.4, 0.8)])
def test_any_ensemble(tiny: Loaded, alpha: float, beta: float, valid_mask_only: bool) -> None:
    settings = InferenceSettings(shorter_side=64, alpha=alpha, beta=beta, valid_mask_only=valid_mask_only)
    compare(tiny, smooth_image(64, 90, 3), random_words(13, 64, 3), settings)


def test_valid_mask_rule_changes_the_answer(tiny: Loaded) -> None:
    # Guards the test above: without an empty mask both settings would agree and prove nothing.
    image, words = smooth_image(64, 90, 3), random_words(13, 64, 3)
    answers = []
    for valid_mask_only in (True, False):
        settings = InferenceSettings(shorter_side=64, valid_mask_only=valid_mask_only)
        answers.append(compare(tiny, image, words, settings).class_probs)
    assert float((answers[0] - answers[1]).abs().max()) > 0.01


def test_certain_classifiers_that_disagree_stay_finite() -> None:
    # Two unit rows, opposite: logits differ by 200, float32 probabilities underflow to 0, and 0 * log(0) is no number.
    rows, seen = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([True, False])
    embeddings = {"in_vocab_embedding": rows[None, :1], "out_vocab_embedding": rows[None, 1:]}
    output = ModelOutput(torch.zeros(1, 1, 8, 8), mask_survives=torch.ones(1, 1, dtype=torch.bool), **embeddings)
    void = torch.tensor([[0.0, 1.0]])
    classifier = TextClassifier(rows, void, torch.arange(2), seen, in_vocab_scale=100.0, out_vocab_scale=100.0)
    ours = classify(output, classifier, InferenceSettings(valid_mask_only=False)).ensemble[0, 0]

    logits = {
        name: class_logits(x, torch.cat((rows, void)), torch.tensor(9.0), (1, 1)) for name, x in embeddings.items()
    }
    published = ensemble(logits["in_vocab_embedding"], logits["out_vocab_embedding"], seen.float(), 0.4, 0.8, None)
    assert bool(published["scores"].isnan().any())
    # Seen: 0.6 * 0 + 0.4 * -200 = -80. Unseen: 0.2 * -200 + 0.8 * 0 = -40. Void: logit 0 against 100.
    np.testing.assert_allclose(ours.numpy(), [0.0, 1.0, 0.0], atol=1e-6)


def test_instances_are_cut_before_stuff_is_dropped(tiny: Loaded) -> None:
    words = random_words(13, 64, 4)
    published = compare(tiny, smooth_image(64, 90, 4), words, InferenceSettings(shorter_side=64, top_k_instances=60))
    assert 0 < len(published.instances.scores) < 60


def test_a_convnext_of_another_shape() -> None:
    compare(
        load("convnext_small"), smooth_image(150, 97, 6), random_words(13, 256, 6), InferenceSettings(shorter_side=96)
    )


@pytest.mark.slow
def test_resnet_50() -> None:
    compare(load("rn50"), smooth_image(130, 97, 7), random_words(13, 1024, 7), InferenceSettings(shorter_side=96))


LARGE = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("convnext_base", "rn50", "rn101", "rn50x4", "rn50x16", "rn50x64")
]


@pytest.mark.parametrize("preset", ["tiny", "convnext_small", *LARGE])
def test_networks_in_double_precision(preset: str) -> None:
    # The recipe's weights make deep ResNets amplify rounding ten-thousandfold: float32 runs cannot be compared.
    checkpoint = load_checkpoint(f"recipe:{preset}")
    config, settings = checkpoint.config, InferenceSettings(shorter_side=64)
    image, words = smooth_image(80, 97, 7), random_words(3, config.embed_dim, 7)
    words = replace(words, rows=words.rows.double())
    state = {key: value.double() if value.is_floating_point() else value for key, value in checkpoint.state.items()}
    trace = Trace()
    segment(state, config, image, words, settings, trace)
    del state

    tensor, _ = preprocess(image, settings, torch.device("cpu"))
    with torch.inference_mode():
        output = load_model(checkpoint).double().eval()(tensor.double())
    expected = {
        f"dec.head.{config.mask_decoder.layers}.masks": output.mask_logits,
        "cls.in_embed": output.in_vocab_embedding,
        "cls.out_embed": output.out_vocab_embedding,
    }
    for name, ours in expected.items():
        assert float((ours - trace.tensors[name]).abs().max()) < 1e-4, name
    np.testing.assert_array_equal(output.mask_survives[0].numpy(), trace.tensors["cls.out_mask_area"].numpy() > 0)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (333, 500)])
def test_the_paper_s_model_on_other_images(height: int, width: int) -> None:
    loaded = load("convnext_large")
    compare(loaded, smooth_image(height, width, 8), random_words(150, 768, 8), InferenceSettings(shorter_side=256))
