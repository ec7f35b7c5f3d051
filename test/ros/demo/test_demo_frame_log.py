"""The demo's checks find what is wrong between outputs; hand-made frames, no ROS traffic."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from demo.frame_log import FrameLog, disagreements
from demo.frames import Frame, PublishedClass, SegmentList, SegmentRow

CLASSES = (PublishedClass(7, ("cup",), True, True, (1, 2, 3)), PublishedClass(300, ("table",), True, True, (4, 5, 6)))


def labels() -> dict:
    """A 4 x 6 frame: segment 1 (cup, 2 x 3 at the top left), segment 2 (table, the lowest row), the rest nothing."""
    panoptic = np.zeros((4, 6), np.uint16)
    panoptic[:2, :3], panoptic[3] = 1, 2
    semantic = np.zeros((4, 6), np.uint16)
    semantic[:2, :3], semantic[3] = 7, 300
    confidence = np.zeros((4, 6), np.uint8)
    confidence[:2, :3], confidence[3] = 128, 204
    rows = (SegmentRow(1, 7, "cup", 0.5, 6, (0, 0, 3, 2)), SegmentRow(2, 300, "table", 0.8, 6, (0, 3, 6, 1)))
    return {
        "panoptic": panoptic,
        "semantic": semantic,
        "confidence": confidence,
        "segments": SegmentList(1, 4, 6, rows),
    }


def with_row(found: SegmentList, index: int, **changes: object) -> SegmentList:
    rows = list(found.rows)
    rows[index] = dataclasses.replace(rows[index], **changes)
    return dataclasses.replace(found, rows=tuple(rows))


def send(log: FrameLog, stamp: int, version: int = 1, **changes: object) -> None:
    for output, value in (labels() | changes).items():
        if isinstance(value, SegmentList):
            value = dataclasses.replace(value, version=version)
        log.label(stamp, output, value, latency=0.5 if output == "segments" else 0.1)


def test_agreeing_outputs_pass() -> None:
    assert disagreements(Frame(image=np.zeros((4, 6, 3), np.uint8), labels=labels())) == []
    empty = {name: np.zeros((4, 6), np.uint8) for name in ("panoptic", "semantic", "confidence")}
    assert disagreements(Frame(labels=empty | {"segments": SegmentList(1, 4, 6, ())})) == []


def other_pixel(image: np.ndarray, value: int) -> np.ndarray:
    image = image.copy()
    image[0, 0] = value
    return image


@pytest.mark.parametrize(
    ("output", "change", "complaint"),
    [
        ("panoptic", lambda image: other_pixel(image, 3), r"panoptic has the ids \[1, 2, 3\], segments lists \[1, 2\]"),
        ("panoptic", lambda image: np.where(image == 2, 0, image), r"ids \[1\], segments lists \[1, 2\]"),
        ("panoptic", lambda image: other_pixel(image, 2), "segment 1 says 6 pixels and has 5"),
        ("panoptic", lambda image: image[:, :5], r"panoptic is \(4, 5\), the camera's image \(4, 6\)"),
        ("semantic", lambda image: other_pixel(image, 9), "semantic does not hold"),
        ("semantic", lambda image: (image % 256).astype(np.uint8), "semantic does not hold"),
        ("confidence", lambda image: other_pixel(image, 131), "confidence does not hold"),
        ("segments", lambda found: dataclasses.replace(found, height=5), r"segments is \(5, 6\)"),
        ("segments", lambda found: with_row(found, 0, box=(0, 0, 3, 3)), "segment 1 says box"),
        ("segments", lambda found: with_row(found, 1, class_id=7), "semantic does not hold"),
        ("segments", lambda found: with_row(found, 1, id=1), r"segments lists \[1, 1\]"),
    ],
)
def test_disagreement_is_found(output: str, change: object, complaint: str) -> None:
    changed = labels()
    changed[output] = change(changed[output])
    found = disagreements(Frame(image=np.zeros((4, 6, 3), np.uint8), labels=changed))
    assert len(found) >= 1
    assert any(re.search(complaint, text) for text in found), found


def test_frames_are_counted_when_their_last_output_arrives() -> None:
    log = FrameLog()
    log.vocabulary(1, CLASSES)
    log.image(10, np.zeros((4, 6, 3), np.uint8))
    log.image(20, np.zeros((4, 6, 3), np.uint8))
    parts = labels()
    for output in ("segments", "panoptic", "confidence"):
        log.label(10, output, parts[output], 0.5)
    assert log.labeled == 0
    log.label(10, "semantic", parts["semantic"], 0.6)
    assert (log.images, log.labeled, log.segments, log.frames_of) == (2, 1, 2, {1: 1})
    assert log.latency() == (0.5, 0.5)
    assert log.problems == []


def test_rates_are_taken_from_the_stamps() -> None:
    log = FrameLog()
    assert log.rates() == (0.0, 0.0)
    log.vocabulary(1, CLASSES)
    for index in range(11):
        log.image(5_000_000_000 + index * 100_000_000, np.zeros((4, 6, 3), np.uint8))
    for index in (0, 5, 10):
        send(log, 5_000_000_000 + index * 100_000_000)
    assert log.rates() == pytest.approx((10.0, 2.0))


def test_outputs_with_different_stamps_are_not_mixed() -> None:
    log = FrameLog()
    for stamp, output in enumerate(labels()):
        log.label(stamp, output, labels()[output], 0.1)
    assert log.labeled == 0


def test_class_that_the_version_does_not_have_is_a_problem() -> None:
    log = FrameLog()
    log.vocabulary(1, CLASSES)
    log.vocabulary(2, CLASSES[:1])
    send(log, 10, version=1)
    assert log.problems == []
    send(log, 20, version=2)
    assert len(log.problems) == 1
    assert "class 300 'table', which vocabulary version 2 calls None" in log.problems[0]


def test_frame_may_overtake_its_vocabulary_but_not_do_without() -> None:
    log = FrameLog()
    send(log, 10, version=1)
    log.vocabulary(1, CLASSES)
    send(log, 20, version=2)
    assert log.problems == []
    log.finish()
    assert log.problems == ["frame 20: its vocabulary version 2 was never published"]


def test_older_version_after_a_newer_one_is_a_problem() -> None:
    log = FrameLog()
    log.vocabulary(1, CLASSES)
    log.vocabulary(2, CLASSES)
    for stamp, version in ((10, 1), (20, 2), (30, 1)):
        send(log, stamp, version=version)
    assert log.problems == ["frame 30: version 1 came after 2"]


def test_reused_class_id_is_a_problem() -> None:
    log = FrameLog()
    log.vocabulary(1, CLASSES)
    log.vocabulary(2, (PublishedClass(7, ("plate",), True, True, (0, 0, 0)),))
    assert log.problems == ["class id 7 was 'cup' and became 'plate'"]
    log.vocabulary(2, CLASSES)
    assert "published twice" in log.problems[1]


def test_memory_of_frames_is_bounded() -> None:
    log = FrameLog()
    for stamp in range(1000):
        log.image(stamp, np.zeros((1, 1, 3), np.uint8))
    assert len(log._frames) <= 100
