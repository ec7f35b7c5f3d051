"""Metrics against hand-worked cases, torchmetrics and pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchmetrics.detection import PanopticQuality as TorchmetricsPQ

from fcclip_core.datasets.records import IGNORE, PanopticSample, TruthSegment
from fcclip_core.evaluation.averages import class_groups
from fcclip_core.evaluation.instances import InstanceAP
from fcclip_core.evaluation.overlaps import segment_overlaps
from fcclip_core.evaluation.panoptic import PanopticQuality
from fcclip_core.evaluation.recall import MaskRecall
from fcclip_core.evaluation.semantic import SemanticIoU

# Classes: 0 thing seen, 1 thing unseen, 2 stuff seen, 3 stuff unseen.
THINGS, SEEN = (True, True, False, False), (True, False, True, False)
GROUPS = class_groups(THINGS, SEEN)


def sample(segment_map: object, *segments: tuple[int, int] | tuple[int, int, bool]) -> PanopticSample:
    segment_map = np.atleast_2d(np.array(segment_map, np.int32))
    image = np.zeros((*segment_map.shape, 3), np.uint8)
    return PanopticSample("toy", image, segment_map, tuple(TruthSegment(*segment) for segment in segments))


def quality(truth: PanopticSample, predicted: object, classes: list[int]) -> PanopticQuality:
    counted = PanopticQuality(4)
    counted.update(truth, np.atleast_2d(np.array(predicted, np.int32)), classes)
    return counted


def counts(counted: PanopticQuality) -> list[tuple[float, int, int, int]]:
    columns = (counted.iou, counted.matched, counted.invented, counted.missed)
    return [tuple(round(float(value), 6) for value in row) for row in zip(*columns, strict=True)]


def test_hand_worked_panoptic_quality() -> None:
    """Ten pixels. Class 0: IoU 3/4 matched. Class 1: missed, and one invented. Class 2: IoU 4/5."""
    truth = sample([1, 1, 1, 1, 2, 3, 3, 3, 3, 3], (1, 0), (2, 1), (3, 2))
    counted = quality(truth, [1, 1, 1, 0, 0, 2, 2, 2, 2, 3], [0, 2, 1])
    assert counts(counted) == [(0.75, 1, 0, 0), (0, 0, 1, 1), (0.8, 1, 0, 0), (0, 0, 0, 0)]
    scores = counted.scores(GROUPS)
    assert scores["pq.all"] == pytest.approx(100 * (0.75 + 0 + 0.8) / 3)
    assert scores["pq.things"] == pytest.approx(37.5) and scores["pq.stuff"] == pytest.approx(80)
    assert scores["pq.seen"] == pytest.approx(77.5) and scores["pq.unseen"] == pytest.approx(0)
    assert scores["sq.seen"] == pytest.approx(77.5) and scores["rq.seen"] == pytest.approx(100)


def test_no_match_at_exactly_one_half() -> None:
    assert counts(quality(sample([1, 1], (1, 0)), [1, 0], [0]))[0] == (0, 0, 1, 1)


def test_pixels_without_truth_leave_the_union_and_forgive_inventions() -> None:
    """The first prediction lies over 3 of truth and 2 without; the second has 2 of 3 pixels without truth."""
    truth = sample([1, 1, 1, 0, 0, 0, 0, 2], (1, 0), (2, 2))
    counted = quality(truth, [1, 1, 1, 1, 1, 2, 2, 2], [0, 1])
    assert counts(counted) == [(1.0, 1, 0, 0), (0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 0, 0)]


def test_half_without_truth_is_still_an_invention() -> None:
    assert counts(quality(sample([0, 1], (1, 0)), [1, 1], [1]))[1] == (0, 0, 1, 0)


@pytest.mark.parametrize(("label", "invented"), [(0, 0), (1, 1)])
def test_crowds_are_not_missed_and_forgive_their_own_class_alone(label: int, invented: int) -> None:
    counted = quality(sample([1, 1, 1, 1], (1, 0, True)), [1, 1, 1, 0], [label])
    assert (counted.matched.sum(), counted.missed.sum(), counted.invented.sum()) == (0, 0, invented)


def test_of_two_crowds_of_a_class_the_last_alone_forgives() -> None:
    """As panopticapi: it keeps one crowd a class, the last in the JSON; a crowd of another class changes nothing."""
    truth = sample([1, 1, 1, 2, 2, 2, 3, 3], (1, 0, True), (2, 0, True), (3, 1, True))
    counted = quality(truth, [1, 1, 1, 2, 2, 2, 0, 0], [0, 0])
    assert (counted.invented.tolist()[0], counted.missed.sum(), counted.matched.sum()) == (1, 0, 0)


def test_unpredicted_pixels_count_as_missed_area() -> None:
    """Here torchmetrics would say IoU 1: it takes what nobody predicted out of the union."""
    assert counts(quality(sample([1, 1, 1, 1], (1, 0)), [1, 1, 1, 0], [0]))[0] == (0.75, 1, 0, 0)


def random_segments(generator: np.random.Generator, size: int, void: bool) -> tuple[np.ndarray, list[int]]:
    """Blocks of pixels as segments; stuff occurs once."""
    blocks = generator.integers(0 if void else 1, 7, (size // 4, size // 4)).repeat(4, 0).repeat(4, 1)
    numbers = np.unique(blocks[blocks > 0])
    classes = [int(value) for value in generator.permutation([0, 0, 0, 1, 1, 2, 3])[: len(numbers)]]
    lookup = np.zeros(7, np.int32)
    lookup[numbers] = np.arange(1, len(numbers) + 1)
    return lookup[blocks].astype(np.int32), classes


def test_panoptic_quality_equals_torchmetrics_over_images() -> None:
    generator = np.random.default_rng(5)
    reference = TorchmetricsPQ({0, 1}, {2, 3}, return_per_class=True, return_sq_and_rq=True)
    ours = PanopticQuality(4)

    def colors(segment_map: np.ndarray, classes: list[int], void: int) -> torch.Tensor:
        category = np.array([void, *classes])[segment_map]
        instance = np.where(np.isin(category, (0, 1)), segment_map, 0)
        return torch.from_numpy(np.stack([category, instance], -1))[None]

    for _ in range(30):
        truth_map, truth_classes = random_segments(generator, 24, void=True)
        noise = generator.random(truth_map.shape) < 0.35
        predicted = np.where(truth_map == 0, 1, truth_map)
        predicted = np.where(noise, generator.integers(1, len(truth_classes) + 1, truth_map.shape), predicted)
        classes = list(truth_classes)
        classes[0] = 3 if 3 not in classes else 0  # one segment is given another name
        truth = sample(truth_map, *((number, label) for number, label in enumerate(truth_classes, 1)))
        ours.update(truth, predicted.astype(np.int32), classes)
        reference.update(colors(predicted, classes, 99), colors(truth_map, truth_classes, 99))
    expected = 100 * reference.compute().numpy()
    assert ours.matched.sum() > 20 and ours.invented.sum() > 20
    np.testing.assert_allclose(np.stack(ours.per_class(), 1), expected, rtol=1e-6)


def test_panoptic_quality_merges_over_processes() -> None:
    truth = sample([1, 1, 2, 2], (1, 0), (2, 2))
    parts = [quality(truth, [1, 1, 2, 2], [0, 2]), quality(truth, [1, 1, 1, 1], [1])]
    whole = PanopticQuality(4)
    whole.update(truth, np.array([[1, 1, 2, 2]]), [0, 2])
    whole.update(truth, np.array([[1, 1, 1, 1]]), [1])
    parts[0].merge(parts[1])
    assert counts(parts[0]) == counts(whole)


def test_empty_groups_have_no_score() -> None:
    scores = quality(sample([1, 1], (1, 0)), [1, 1], [0]).scores(GROUPS)
    assert scores["pq.unseen"] is None and scores["pq.all"] == 100


def test_hand_worked_mean_iou() -> None:
    """Class 0: 2 right of 3 and 1 wrong, 2/4. Class 1: 1/2... class 2 only predicted: not in the mean."""
    counted = SemanticIoU(4)
    counted.update(np.array([[0, 0, 0, 1, 1, IGNORE]]), np.array([[0, 0, 2, 0, 1, 3]]))
    assert counted.per_class()[:2] == pytest.approx([50, 50]) and np.isnan(counted.per_class()[2:]).all()
    scores = counted.scores(GROUPS)
    assert scores["miou.all"] == pytest.approx(50) and scores["miou.stuff"] is None
    other = SemanticIoU(4)
    other.update(np.array([[2]]), np.array([[2]]))
    counted.merge(other)
    assert counted.per_class()[2] == pytest.approx(50), "one right, one falsely predicted before"


def test_recall_asks_for_place_not_for_name() -> None:
    truth = sample([1, 1, 1, 2, 2, 2, 3, 3], (1, 1), (2, 3), (3, 1, True))
    predicted = np.array([[1, 1, 0, 2, 0, 0, 0, 0]])
    counted = MaskRecall(4)
    counted.update(truth, segment_overlaps(truth, predicted, 2))
    scores = counted.scores("recall", GROUPS)
    assert scores == {
        "recall.all": 0.5,
        "recall.things": 1.0,
        "recall.stuff": 0.0,
        "recall.seen": None,
        "recall.unseen": 0.5,
    }


def rectangle(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((20, 20), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_ap_equals_pycocotools_on_a_toy_set() -> None:
    """Two images, two thing classes, a crowd, stuff that must not count, hits, near misses and false alarms."""
    truths, found = [], []
    first = np.zeros((20, 20), np.int32)
    first[rectangle(0, 0, 10, 10)], first[rectangle(10, 10, 20, 20)], first[rectangle(0, 12, 6, 20)] = 1, 2, 3
    truths.append(sample(first, (1, 0), (2, 1), (3, 2)))
    found.append(
        [
            (rectangle(0, 0, 10, 9), 0, 0.9),
            (rectangle(10, 12, 20, 20), 1, 0.8),
            (rectangle(0, 0, 4, 4), 1, 0.7),
            (rectangle(0, 12, 6, 20), 0, 0.3),
        ]
    )
    second = np.zeros((20, 20), np.int32)
    second[rectangle(0, 0, 6, 6)], second[rectangle(8, 0, 20, 20)] = 1, 2
    truths.append(sample(second, (1, 0), (2, 0, True)))
    found.append(
        [(rectangle(0, 0, 6, 5), 0, 0.6), (rectangle(9, 0, 20, 18), 0, 0.5), (rectangle(0, 10, 5, 20), 0, 0.95)]
    )

    ours = [InstanceAP(THINGS), InstanceAP(THINGS)]
    for index, (truth, rows) in enumerate(zip(truths, found, strict=True)):
        masks, classes, scores = (np.array(column) for column in zip(*rows, strict=True))
        ours[index].update(index, truth, masks, classes, scores)
    ours[0].merge(ours[1])
    result = ours[0].scores(GROUPS)

    def encoded(mask: np.ndarray) -> dict:
        return run_lengths.encode(np.asfortranarray(mask.astype(np.uint8)))

    annotations = [
        {
            "id": 10 * image + segment.id,
            "image_id": image,
            "category_id": segment.class_index + 1,
            "segmentation": encoded(truth.segment_map == segment.id),
            "area": int((truth.segment_map == segment.id).sum()),
            "iscrowd": int(segment.is_crowd),
        }
        for image, truth in enumerate(truths)
        for segment in truth.segments
        if segment.class_index < 2
    ]
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": 0, "height": 20, "width": 20}, {"id": 1, "height": 20, "width": 20}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    coco.createIndex()
    detections = [
        {"image_id": image, "category_id": label + 1, "segmentation": encoded(mask), "score": score}
        for image, rows in enumerate(found)
        for mask, label, score in rows
    ]
    reference = COCOeval(coco, coco.loadRes(detections), "segm")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    assert 5 < 100 * reference.stats[0] < 95
    assert result["ap.all"] == pytest.approx(100 * reference.stats[0])
    per_class = ours[0].per_class()
    assert result["ap.seen"] == pytest.approx(per_class[0]) and result["ap.unseen"] == pytest.approx(per_class[1])
    assert np.isnan(per_class[2:]).all(), "stuff has no AP"


def test_ap_without_detections_is_zero_and_without_truth_unknown() -> None:
    nothing = np.zeros((0, 1, 2), bool), np.zeros(0, int), np.zeros(0)
    missed, empty = InstanceAP(THINGS), InstanceAP(THINGS)
    missed.update(0, sample([1, 2], (1, 0), (2, 2)), *nothing)
    empty.update(0, sample([1, 1], (1, 2)), *nothing)
    assert missed.scores(GROUPS) == {"ap.all": 0.0, "ap.seen": 0.0, "ap.unseen": None}
    assert empty.scores(GROUPS)["ap.all"] is None
