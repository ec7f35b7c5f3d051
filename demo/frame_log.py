"""What the demo saw: outputs joined frame by frame, checked, and counted. No ROS here."""

from __future__ import annotations

import statistics
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from demo.frames import LABEL_OUTPUTS, Frame, PublishedClass, SegmentList, SegmentRow, TruthRow
from demo.quality import LiveQuality

_REMEMBERED_FRAMES = 100


@dataclass
class FrameLog:
    """Counts and checks.

    Attributes:
        images: Camera frames that this process received.
        labeled: Frames whose outputs have all arrived.
        image_times: Stamps in seconds of the first and the last camera frame.
        labeled_times: Stamps in seconds of the first and the last labeled frame.
        frames_of: Labeled frames by vocabulary version.
        segments: Segments in all labeled frames.
        vocabularies: Every vocabulary that was published, by version.
        quality: Panoptic quality of the frames labeled with each version.
        latencies: Seconds from stamp to segments, one per labeled frame.
        problems: Human-readable mismatches; empty if every check passed.
    """

    images: int = 0
    labeled: int = 0
    image_times: tuple[float, float] = (0.0, 0.0)
    labeled_times: tuple[float, float] = (0.0, 0.0)
    frames_of: dict[int, int] = field(default_factory=dict)
    segments: int = 0
    vocabularies: dict[int, tuple[PublishedClass, ...]] = field(default_factory=dict)
    quality: dict[int, LiveQuality] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _frames: OrderedDict[int, Frame] = field(default_factory=OrderedDict)
    _waiting: list[tuple[int, Frame]] = field(default_factory=list)
    _newest_version: int = 0
    _name_of: dict[int, str] = field(default_factory=dict)

    def image(self, stamp: int, image: np.ndarray) -> Frame:
        """Notes a camera frame by its stamp (ns)."""
        self.images += 1
        self.image_times = _extended(self.image_times, stamp)
        frame = self._frame(stamp)
        frame.image = image
        return frame

    def truth_map(self, stamp: int, segment_map: np.ndarray) -> Frame:
        """Notes the truth's label image."""
        frame = self._frame(stamp)
        frame.truth_map = segment_map
        self._score(frame)
        return frame

    def truth(self, stamp: int, rows: tuple[TruthRow, ...]) -> Frame:
        """Notes the truth's segments."""
        frame = self._frame(stamp)
        frame.truth = rows
        self._score(frame)
        return frame

    def label(self, stamp: int, output: str, value: np.ndarray | SegmentList, latency: float) -> Frame:
        """Notes one of `LABEL_OUTPUTS`; with the last one of a frame, the frame is checked, counted and scored."""
        frame = self._frame(stamp)
        frame.labels[output] = value
        frame.latency[output] = latency
        if frame.complete:
            self._count(stamp, frame)
            self._score(frame)
        return frame

    def overlay(self, stamp: int, image: np.ndarray) -> Frame:
        """Notes an overlay picture."""
        frame = self._frame(stamp)
        frame.overlay = image
        return frame

    def vocabulary(self, version: int, classes: tuple[PublishedClass, ...]) -> None:
        """Notes a published vocabulary; an id that ever named something else is a problem."""
        if self.vocabularies.setdefault(version, classes) != classes:
            self.problems.append(f"vocabulary version {version} was published twice with different classes")
        for item in classes:
            if self._name_of.setdefault(item.id, item.name) != item.name:
                self.problems.append(f"class id {item.id} was {self._name_of[item.id]!r} and became {item.name!r}")
        self.quality.setdefault(version, LiveQuality(classes))
        waiting, self._waiting = self._waiting, []
        for stamp, frame in waiting:
            self._check_classes(stamp, frame)
            self._score(frame)

    def finish(self) -> None:
        """Records what can no longer arrive."""
        for stamp, frame in self._waiting:
            assert frame.segments is not None
            self.problems.append(f"frame {stamp}: its vocabulary version {frame.segments.version} was never published")
        self._waiting = []

    def latency(self) -> tuple[float, float]:
        """Median and largest seconds from stamp to segments; zeros before the first frame."""
        return (statistics.median(self.latencies), max(self.latencies)) if self.latencies else (0.0, 0.0)

    def rates(self) -> tuple[float, float]:
        """Camera frames and labeled frames per second, each between its first and last; 0 before there are two."""
        return _rate(self.images, self.image_times), _rate(self.labeled, self.labeled_times)

    def _frame(self, stamp: int) -> Frame:
        frame = self._frames.setdefault(stamp, Frame())
        while len(self._frames) > _REMEMBERED_FRAMES:
            self._frames.popitem(last=False)
        return frame

    def _count(self, stamp: int, frame: Frame) -> None:
        found = frame.segments
        assert found is not None
        self.labeled += 1
        self.labeled_times = _extended(self.labeled_times, stamp)
        self.frames_of[found.version] = self.frames_of.get(found.version, 0) + 1
        self.segments += len(found.rows)
        self.latencies.append(frame.latency["segments"])
        self.problems += [f"frame {stamp}: {problem}" for problem in disagreements(frame)]
        if found.version < self._newest_version:
            self.problems.append(f"frame {stamp}: version {found.version} came after {self._newest_version}")
        self._newest_version = max(self._newest_version, found.version)
        self._check_classes(stamp, frame)

    def _score(self, frame: Frame) -> None:
        """Compares a frame with its truth once both are whole and its vocabulary is known."""
        if frame.complete and frame.has_truth and frame.segments is not None:
            quality = self.quality.get(frame.segments.version)
            if quality is not None:
                quality.add(frame)

    def _check_classes(self, stamp: int, frame: Frame) -> None:
        found = frame.segments
        assert found is not None
        classes = self.vocabularies.get(found.version)
        if classes is None:
            # The latched vocabulary travels apart from the frames and may be overtaken by one.
            self._waiting.append((stamp, frame))
            return
        known = {item.id: item.name for item in classes}
        for row in found.rows:
            if known.get(row.class_id) != row.name:
                self.problems.append(
                    f"frame {stamp}: segment {row.id} is class {row.class_id} {row.name!r}, which vocabulary "
                    f"version {found.version} calls {known.get(row.class_id)!r}"
                )


def _extended(times: tuple[float, float], stamp: int) -> tuple[float, float]:
    return (times[0] or stamp / 1e9, stamp / 1e9)


def _rate(count: int, times: tuple[float, float]) -> float:
    return (count - 1) / (times[1] - times[0]) if count > 1 and times[1] > times[0] else 0.0


def disagreements(frame: Frame) -> list[str]:
    """Compares the outputs of one labeled frame with each other, pixel by pixel.

    Returns:
        Human-readable mismatches.
    """
    found = frame.segments
    assert found is not None
    images = {name: np.asarray(frame.labels[name]) for name in LABEL_OUTPUTS if name != "segments"}
    shapes = {"segments": (found.height, found.width)} | {name: image.shape for name, image in images.items()}
    shape = shapes["segments"] if frame.image is None else frame.image.shape[:2]
    wrong = [f"{name} is {size}, the camera's image {shape}" for name, size in shapes.items() if size != shape]
    return wrong or _id_problems(found, images["panoptic"]) or _pixel_problems(found, images)


def _id_problems(found: SegmentList, panoptic: np.ndarray) -> list[str]:
    painted, listed = (np.unique(panoptic[panoptic > 0])).tolist(), [row.id for row in found.rows]
    return [] if painted == sorted(listed) else [f"panoptic has the ids {painted}, segments lists {listed}"]


def _pixel_problems(found: SegmentList, images: Mapping[str, np.ndarray]) -> list[str]:
    panoptic = images["panoptic"]
    problems = [problem for row in found.rows for problem in _row_problems(row, panoptic)]
    class_of = np.zeros(int(panoptic.max(initial=0)) + 1, np.int64)
    score_of = np.zeros(len(class_of))
    for row in found.rows:
        class_of[row.id], score_of[row.id] = row.class_id, row.score
    if not np.array_equal(class_of[panoptic], images["semantic"]):
        problems.append("semantic does not hold the class ids of panoptic's segments")
    if np.abs(255 * score_of[panoptic] - images["confidence"]).max(initial=0.0) > 1.0:
        problems.append("confidence does not hold the scores of panoptic's segments")
    return problems


def _row_problems(row: SegmentRow, panoptic: np.ndarray) -> list[str]:
    ys, xs = np.nonzero(panoptic == row.id)
    tight = (int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1)
    problems = []
    if row.area != len(ys):
        problems.append(f"segment {row.id} says {row.area} pixels and has {len(ys)}")
    if row.box != tight:
        problems.append(f"segment {row.id} says box {row.box} and lies in {tight}")
    return problems
