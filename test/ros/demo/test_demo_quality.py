"""The demo's panoptic quality, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from demo.frame_log import FrameLog
from demo.frames import Frame, PublishedClass, SegmentList, SegmentRow, TruthRow

CLASSES = (
    PublishedClass(30, ("cup", "red mug", "blue mug"), True, True, (1, 1, 1)),
    PublishedClass(7, ("plate",), True, False, (2, 2, 2)),
    PublishedClass(9, ("floor",), False, True, (3, 3, 3)),
)
SHAPE = (10, 10)


def rows(*named: tuple[int, int, str]) -> SegmentList:
    return SegmentList(1, *SHAPE, tuple(SegmentRow(i, c, name, 0.5, 1, (0, 0, 1, 1)) for i, c, name in named))


def send(log: FrameLog, stamp: int, truth: np.ndarray, panoptic: np.ndarray, found: SegmentList) -> Frame:
    """The parts in an order that real topics may have: truth before, between and after the labels."""
    log.truth(stamp, (TruthRow(1, "blue mug"), TruthRow(2, "plate"), TruthRow(3, "unicorn")))
    log.label(stamp, "panoptic", panoptic, 0.1)
    log.label(stamp, "segments", found, 0.1)
    log.label(stamp, "semantic", np.zeros(SHAPE, np.uint8), 0.1)
    frame = log.label(stamp, "confidence", np.zeros(SHAPE, np.uint8), 0.1)
    assert not frame.whole
    return log.truth_map(stamp, truth)


def test_synonyms_match_and_what_no_word_names_is_forgiven() -> None:
    truth, panoptic = np.zeros(SHAPE, np.uint16), np.zeros(SHAPE, np.uint16)
    truth[:4], truth[4:6], truth[6:] = 1, 2, 3
    panoptic[:3] = 12  # three of the mug's four rows: IoU 3/4
    panoptic[4:6] = 5  # the plate's place, called cup: one invented, one missed
    panoptic[6:] = 6  # on what no class asks for: forgiven
    log = FrameLog()
    log.vocabulary(1, CLASSES)
    send(log, 1, truth, panoptic, rows((5, 30, "cup"), (6, 9, "floor"), (12, 30, "cup")))
    scores = log.quality[1].percent()
    cup = 100 * 0.75 / 1.5  # one matched, one invented
    assert scores["pq.seen"] == pytest.approx(cup), "the floor occurs nowhere"
    assert scores["pq.unseen"] == 0.0
    assert scores["pq.all"] == pytest.approx(cup / 2)
    assert log.quality[1].frames == 1


def test_frame_that_overtakes_its_vocabulary_is_scored_once() -> None:
    truth = np.ones(SHAPE, np.uint16)
    log = FrameLog()
    send(log, 1, truth, truth, rows((1, 30, "cup")))
    assert not log.quality
    log.vocabulary(1, CLASSES)
    send(log, 2, truth, truth, rows((1, 30, "cup")))
    assert log.quality[1].frames == 2
    assert log.quality[1].percent()["pq.seen"] == 100.0
    assert log.quality[1].percent()["pq.unseen"] == 0.0, "the plate was listed and has no pixel: missed"
