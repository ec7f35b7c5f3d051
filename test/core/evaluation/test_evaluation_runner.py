"""The evaluation loop with a network that knows the truth: what is lost, is lost by the code under test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from fcclip_core.datasets.records import IGNORE, ClassList, PanopticSample, SemanticSample, TruthSegment
from fcclip_core.errors import DatasetError, VocabularyError
from fcclip_core.evaluation import runner
from fcclip_core.evaluation.clip_masks import masks_on_grid, name_masks
from fcclip_core.evaluation.clip_proposals import logits_on_grid, name_proposals, renamed
from fcclip_core.evaluation.clips import Clip
from fcclip_core.evaluation.timing import TABLE_4, TIME_RULES
from fcclip_core.inference.preprocess import FrameGeometry
from fcclip_core.model.fcclip import ModelOutput
from fcclip_core.segmenter import Segmenter
from fcclip_core.settings import InferenceSettings
from fcclip_core.vocabulary.classes import Vocabulary, VocabularyClass
from fcclip_core.vocabulary.snapshot import VocabularySnapshot
from fcclip_core.vocabulary.text_embeddings import TextEncoder
from fcclip_core.weights.checkpoints import load_checkpoint

SIDE, CELL, DIM = 64, 16, 64
SETTINGS = InferenceSettings(shorter_side=SIDE, alpha=0.4, beta=0.8)
# Classes 0..4; the first three are things, 1 and 4 were not trained on.
VOCABULARY = Vocabulary(
    tuple(
        VocabularyClass((name,), is_thing=thing, seen=seen)
        for name, thing, seen in (
            ("cup", True, True),
            ("star", True, False),
            ("box", True, True),
            ("floor", False, True),
            ("sand", False, False),
        )
    )
)


class Samples:
    """A dataset in memory."""

    name = "toy"
    classes = ClassList(VOCABULARY.names, VOCABULARY.things)

    def __init__(self, samples: Sequence[PanopticSample | SemanticSample]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> PanopticSample | SemanticSample:
        return self._samples[index]


def picture(number: int, *strips: tuple[int, int]) -> PanopticSample:
    """Floor with upright strips: (column, class). The first pixel says which picture it is.

    Strips have no corners, which the resize of masks rounds off.
    """
    segment_map = np.ones((SIDE, SIDE), np.int32)
    segments = [TruthSegment(1, 3)]
    for column, label in strips:
        segments.append(TruthSegment(len(segments) + 1, label))
        segment_map[:, column * CELL : (column + 1) * CELL] = len(segments)
    image = np.full((SIDE, SIDE, 3), 100, np.uint8)
    image[0, 0] = number
    return PanopticSample(f"picture {number}", image, segment_map, tuple(segments))


PICTURES = [
    picture(0, (1, 0), (3, 1)),
    picture(1, (0, 4), (2, 2)),
    picture(2, (0, 2), (2, 2), (3, 1)),
]
Namer = Callable[[int], int]


class KnowingBackend:
    """Gives the truth's masks, and for each the text row of the class that `names_in` and `names_out` make of it."""

    description, device = "oracle", torch.device("cpu")

    def __init__(self, rows: torch.Tensor, names_in: Namer, names_out: Namer) -> None:
        self.rows, self.names_in, self.names_out, self.calls = rows, names_in, names_out, 0

    def __call__(self, image: torch.Tensor) -> ModelOutput:
        assert image.shape == (1, 3, SIDE, SIDE)
        self.calls += 1
        deviation, mean = 68.5005327, 122.7709383
        sample = PICTURES[round(image[0, 0, 0, 0].item() * deviation + mean)]
        quarter = torch.from_numpy(sample.segment_map[::4, ::4])
        masks = torch.stack([torch.where(quarter == segment.id, 20.0, -20.0) for segment in sample.segments])
        labels = [segment.class_index for segment in sample.segments]
        inside, outside = (
            torch.stack([self.rows[name(label)] for label in labels])[None] for name in (self.names_in, self.names_out)
        )
        return ModelOutput(masks[None], inside, outside, torch.ones(1, len(labels), dtype=torch.bool))


@pytest.fixture(scope="module")
def tiny() -> Segmenter:
    return Segmenter.from_checkpoint("recipe:tiny", device="cpu", settings=SETTINGS)


def prepared(
    tiny: Segmenter, names_in: Namer = lambda label: label, names_out: Namer = lambda label: label
) -> tuple[Segmenter, VocabularySnapshot, KnowingBackend]:
    rows = torch.eye(DIM)[: len(VOCABULARY)]
    backend = KnowingBackend(rows, names_in, names_out)
    tiny._backend = backend
    return tiny, tiny.prepare_vocabulary(VOCABULARY, rows), backend


def test_perfect_answers_get_full_marks(tiny: Segmenter) -> None:
    segmenter, snapshot, _ = prepared(tiny)
    result = runner.evaluate(Samples(PICTURES), segmenter, snapshot, VOCABULARY.things)
    scores = result.scores()
    assert result.images == 3 and result.times.timed == 2, "the first image warms up"
    for measure in ("pq", "sq", "rq", "miou"):
        for group in ("all", "things", "stuff", "seen", "unseen"):
            assert scores[f"{measure}.{group}"] == pytest.approx(100), (measure, group)
    assert scores["ap.all"] == pytest.approx(100) and scores["ap.unseen"] == pytest.approx(100)
    assert scores["grounding.pq"] == pytest.approx(100) and scores["grounding.miou"] == pytest.approx(100)
    for group in ("all", "seen", "unseen"):
        assert scores[f"recall.{group}"] == scores[f"segment_recall.{group}"] == 1.0
    assert scores["fps"] > 0


def test_as_in_table_4_five_images_warm_up(tiny: Segmenter) -> None:
    segmenter, snapshot, _ = prepared(tiny)
    pictures, rule = [PICTURES[0]] * 7, TIME_RULES[TABLE_4]
    result = runner.evaluate(Samples(pictures), segmenter, snapshot, VOCABULARY.things, rule=rule)
    assert result.images == 7 and result.times.timed == 2 and result.times.rule == rule


def test_wrong_names_cost_quality_but_not_recall(tiny: Segmenter) -> None:
    """Every star is called a box by both classifiers."""

    def misnamed(label: int) -> int:
        return 2 if label == 1 else label

    segmenter, snapshot, _ = prepared(tiny, misnamed, misnamed)
    evaluation = runner.evaluate(Samples(PICTURES), segmenter, snapshot, VOCABULARY.things)
    scores, per_class = evaluation.scores(), evaluation.main.per_class()
    assert per_class["pq"][1] == 0 and per_class["pq"][0] == pytest.approx(100)
    # Three boxes found and two stars called boxes.
    assert per_class["rq"][2] == pytest.approx(100 * 3 / (3 + 0.5 * 2))
    assert scores["pq.unseen"] == pytest.approx(50), "sand is right"
    assert scores["recall.unseen"] == 1.0
    # Of the two pictures with a star, one has no box: there the star's true name is the only thing in the vocabulary.
    assert scores["grounding.pq"] > scores["pq.all"]


def test_forms_reuse_one_pass_through_the_network(tiny: Segmenter) -> None:
    """In-vocabulary is blind to what it was not trained on; CLIP alone confuses cups and boxes."""
    segmenter, snapshot, backend = prepared(
        tiny, lambda label: 0 if label == 1 else label, lambda label: 2 if label == 0 else label
    )
    forms = {
        name: replace(SETTINGS, ensemble=name)
        for name in ("geometric", "arithmetic", "in_vocabulary", "out_of_vocabulary")
    }
    evaluation = runner.evaluate(Samples(PICTURES), segmenter, snapshot, VOCABULARY.things, forms=forms)
    assert backend.calls == 3
    found = {name: board.scores() for name, board in evaluation.forms.items()}
    assert found["in_vocabulary"]["pq.unseen"] == pytest.approx(50)
    assert found["out_of_vocabulary"]["pq.unseen"] == pytest.approx(100)
    assert found["out_of_vocabulary"]["pq.seen"] < found["in_vocabulary"]["pq.seen"] < 100
    assert found["geometric"] == {name: value for name, value in evaluation.main.scores().items() if name[:2] != "ap"}


def test_processes_together_count_what_one_counts(tiny: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter, snapshot, _ = prepared(tiny, lambda label: 2 if label == 1 else label)
    whole = runner.evaluate(Samples(PICTURES), segmenter, snapshot, VOCABULARY.things, forms={"again": SETTINGS})
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(runner, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(runner, "world_size", lambda: 2)
        monkeypatch.setattr(runner, "_gathered", lambda part: part)
        steps: list[None] = []
        parts.append(
            runner.evaluate(
                Samples(PICTURES),
                segmenter,
                snapshot,
                VOCABULARY.things,
                forms={"again": SETTINGS},
                advance=lambda steps=steps: steps.append(None),
            )
        )
        assert len(steps) == parts[-1].images == (2, 1)[rank]
    parts[0].merge(parts[1])
    ours, theirs = parts[0].scores(), whole.scores()
    assert ours.pop("fps") and theirs.pop("fps")
    assert ours == pytest.approx(theirs) and theirs["pq.all"] not in (0, 100)
    assert parts[0].forms["again"].scores() == pytest.approx(whole.forms["again"].scores())


def test_semantic_truth_gives_iou_alone(tiny: Segmenter) -> None:
    segmenter, snapshot, _ = prepared(tiny)
    samples = [SemanticSample(picture.name, picture.image, picture.class_map()) for picture in PICTURES]
    samples[0].labels[:CELL] = IGNORE
    scores = runner.evaluate(Samples(samples), segmenter, snapshot, VOCABULARY.things, limit=2).scores()
    assert scores["miou.all"] == pytest.approx(100) and scores["grounding.miou"] == pytest.approx(100)
    assert not any(name.startswith(("pq", "ap", "recall", "grounding.pq")) for name in scores)


def test_restricted_vocabulary_keeps_ids_and_rows(tiny: Segmenter) -> None:
    rows = torch.eye(DIM)[:6]
    vocabulary = Vocabulary.from_names(["a, aa", "b", "c, cc, ccc"], seen=["c"])
    snapshot = tiny.prepare_vocabulary(vocabulary, rows)
    kept = snapshot.only([0, 2])
    assert kept.vocabulary.names == ("a", "c") and kept.seen == (False, True)
    assert kept.class_ids == (snapshot.class_ids[0], snapshot.class_ids[2])
    assert torch.equal(kept.classifier.rows, rows[[0, 1, 3, 4, 5]])
    assert kept.classifier.class_of_row.tolist() == [0, 0, 1, 1, 1]


class KnowingTower:
    """Knows from the first pixel which picture it sees; masks, which must lie on its own grid, get the true row."""

    def __init__(self, wrong: int, stride: int = 32) -> None:
        self.wrong, self.stride = wrong, stride

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        self.size = image.shape[-1]
        self.sample = PICTURES[round(image[0, 0, 0, 0].item() * 68.5005327 + 122.7709383)]
        self.res5 = torch.zeros(1, 1, self.size // self.stride, self.size // self.stride)
        return self

    def embed_masks(self, res5: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        assert masks.shape == (1, len(self.sample.segments), *self.res5.shape[-2:])
        labels = [segment.class_index for segment in self.sample.segments]
        if self.size == 64:
            labels = [0 if label == self.wrong else label for label in labels]
        return torch.eye(DIM)[labels][None]


def test_clip_names_the_masks_of_the_truth_at_each_size(tiny: Segmenter) -> None:
    """At size 64 stars are called cups; there are 10 segments, 2 of them stars."""
    _, snapshot, _ = prepared(tiny)
    named = name_masks(Samples(PICTURES), KnowingTower(wrong=1), snapshot, [64, 128])
    small, large = (named[size].scores(VOCABULARY.things, snapshot.seen) for size in (64, 128))
    assert large["accuracy.all"] == pytest.approx(100) and large["pq.all"] == pytest.approx(100)
    assert small["accuracy.all"] == pytest.approx(80)
    assert small["accuracy.unseen"] == pytest.approx(100 / 3), "one sand right, two stars wrong"
    assert small["pq.all"] < 100


def test_clip_names_masks_on_the_towers_own_grid(tiny: Segmenter) -> None:
    _, snapshot, _ = prepared(tiny)
    named = name_masks(Samples(PICTURES), KnowingTower(wrong=1, stride=16), snapshot, [128])
    assert named[128].right.sum() == named[128].total.sum() == 10


def test_clip_names_masks_of_panoptic_truth_only(tiny: Segmenter) -> None:
    _, snapshot, _ = prepared(tiny)
    samples = Samples([SemanticSample("a", PICTURES[0].image, PICTURES[0].class_map())])
    with pytest.raises(DatasetError, match="no segments"):
        name_masks(samples, KnowingTower(0), snapshot, [64])


def named_by(tiny: Segmenter, *towers: KnowingTower) -> tuple[Segmenter, dict[str, VocabularySnapshot], list[Clip]]:
    """A generator of the true masks, that names them all cup itself, and CLIPs of these towers."""
    segmenter, snapshot, _ = prepared(tiny, lambda label: 0, lambda label: 0)
    encoder, cpu = TextEncoder(lambda: None), torch.device("cpu")  # type: ignore[arg-type]
    clips = [Clip(f"clip {number}", tower, abs, encoder, 100.0, False, cpu) for number, tower in enumerate(towers)]
    return segmenter, {clip.name: snapshot for clip in clips}, clips


def test_each_clip_names_the_same_predicted_masks(tiny: Segmenter) -> None:
    """As on the truth's masks, which the generator finds: one CLIP calls stars cups at size 64, the other does not."""
    segmenter, snapshots, clips = named_by(tiny, KnowingTower(wrong=1), KnowingTower(wrong=-1, stride=16))
    boards = name_proposals(Samples(PICTURES), segmenter, snapshots, clips, [64, 128])
    assert boards is not None
    scores = {(name, size): board.scores() for name, by_size in boards.items() for size, board in by_size.items()}
    for right in (("clip 0", 128), ("clip 1", 64), ("clip 1", 128)):
        assert scores[right]["pq.all"] == pytest.approx(100) == scores[right]["miou.all"]
    assert scores["clip 0", 64]["pq.unseen"] == pytest.approx(50), "sand is right"
    # One cup found, and two stars called cups.
    assert boards["clip 0"][64].per_class()["pq"][0] == pytest.approx(100 / (1 + 0.5 * 2))


def test_clip_at_the_generators_own_size_is_the_out_of_vocabulary_classifier() -> None:
    segmenter = Segmenter.from_checkpoint("recipe:tiny", device="cpu", backend="eager", settings=SETTINGS)
    clip = Clip.of_checkpoint(load_checkpoint("recipe:tiny"), torch.device("cpu"))
    image = np.random.default_rng(0).integers(0, 255, (70, 100, 3), np.uint8)
    sample = PanopticSample("noise", image, np.ones((70, 100), np.int32), (TruthSegment(1, 3),))
    encoded = segmenter.encode(image)
    again = renamed(encoded, sample, clip, SIDE, segmenter.vanished_masks)
    assert encoded.geometry.padded != encoded.geometry.resized and clip.name == "tiny"
    torch.testing.assert_close(
        again.output.out_vocab_embedding, encoded.output.out_vocab_embedding, rtol=1e-4, atol=1e-5
    )
    assert torch.equal(again.output.mask_survives, encoded.output.mask_survives)
    other = renamed(encoded, sample, clip, 2 * SIDE, segmenter.vanished_masks)
    assert not torch.allclose(other.output.out_vocab_embedding, encoded.output.out_vocab_embedding, atol=1e-2)


def test_masks_are_where_they_were_on_a_grid_of_another_size_and_stride() -> None:
    """A mask over the left third of a 60 x 90 image: the generator saw 64 x 96, the tower 112 x 168 in cells of 14."""
    made_at = FrameGeometry.of(60, 90, InferenceSettings(shorter_side=64))
    seen_at = FrameGeometry.of(60, 90, InferenceSettings(shorter_side=112))
    logits = torch.full((1, 1, 16, 24), -1.0)
    logits[..., :8] = 1.0
    cells = logits_on_grid(logits, made_at, seen_at, 14, (10, 14))
    inside = (cells > 0)[0, 0]
    assert inside[:, :4].all() and not inside[:, 4:].any(), "cells 0 to 3 of 12 across the image"


def test_predicted_masks_are_named_of_panoptic_truth_only(tiny: Segmenter) -> None:
    segmenter, snapshots, clips = named_by(tiny, KnowingTower(0))
    samples = Samples([SemanticSample("a", PICTURES[0].image, PICTURES[0].class_map())])
    with pytest.raises(DatasetError, match="no segments"):
        name_proposals(samples, segmenter, snapshots, clips, [64])


def test_masks_on_the_grid_keep_small_objects() -> None:
    """64 x 48 pixels become 128 x 96 and are padded to no more; one cell is 16 source pixels."""
    geometry = FrameGeometry.of(48, 64, InferenceSettings(shorter_side=96))
    segment_map = np.zeros((48, 64), np.int32)
    segment_map[:16, :20] = 1  # one cell and a quarter of the next
    segment_map[40:44, 50:54] = 2  # a sixteenth of a cell
    masks = masks_on_grid(segment_map, 2, geometry)
    assert masks.shape == (2, 3, 4)
    assert masks[0].nonzero().tolist() == [[0, 0]] and masks[1].nonzero().tolist() == [[2, 3]]
    # A cell of 16 is 8 source pixels: two rows of two and a half, where a half is not enough.
    fine = masks_on_grid(segment_map, 2, geometry, stride=16)
    assert fine.shape == (2, 6, 8)
    assert fine[0].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]] and fine[1].nonzero().tolist() == [[5, 6]]


def test_a_dataset_without_some_of_its_classes_is_refused(tiny: Segmenter) -> None:
    snapshot = tiny.prepare_vocabulary(Vocabulary.from_names(["cup", "floor"], distractors=["floor"]))
    with pytest.raises(VocabularyError, match="'floor' is a distractor"):
        runner.evaluate([], tiny, snapshot, (True, True))  # type: ignore[arg-type]
    _, _, clips = named_by(tiny, KnowingTower(0))
    with pytest.raises(VocabularyError, match="'floor' is a distractor"):
        name_proposals([], tiny, {"clip 0": snapshot}, clips, [64])  # type: ignore[arg-type]
