"""Asks the node object_memory, and judges its answers by where things truly stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped

import fcclip_ros.msg as msg
import fcclip_ros.srv as srv
from demo.frames import Frame
from demo.peer import Peer
from demo.questions import Asked
from demo.vocabularies import CATCH_ALL
from fcclip_core.errors import FcclipError
from fcclip_ros.qos import LATCHED, OUTPUT

MEMORY_NODE = "/object_memory"

NEAR = 0.3
"""Meters from the center of a thing within which an answer names its place."""

SURE = 0.3
"""Less probable objects are no answers; things of one color and nearly one shape are confused below."""

ENOUGH_FRAMES = 3
"""Frames in which a thing was segmented, from which the memory must know it: it counts an object after three looks."""

MAY_BE_WRONG = 1
"""Answers about things that are there; the rooms of another seed may have one that the model does not know."""

_MIN_PIXELS, _MIN_IOU = 40, 0.5
"""Of a thing in a frame, and of a segment with it, so that it counts as segmented."""


@dataclass(frozen=True)
class Remembered:
    """An object of the memory; `name` is what frames were surest of; place, box center and box sides in meters."""

    id: int
    name: str
    place: np.ndarray
    center: np.ndarray
    sides: np.ndarray


@dataclass(frozen=True)
class Recalled:
    """The answer to a question.

    Attributes:
        asked: The question.
        sentence: The answer in the node's words.
        best: The best answer; None if nothing is probable enough.
        age: Seconds since it was last seen.
        probability: Of the best object, also if it is too small for an answer.
        crop: The best answer's picture as JPEG; empty for none.
        shown_in: Labeled frames in which the thing was segmented, whatever it was called.
    """

    asked: Asked
    sentence: str
    best: Remembered | None
    age: float
    probability: float
    crop: bytes = field(repr=False)
    shown_in: int

    @property
    def distance(self) -> float | None:
        """Meters from the answer to the thing; None without one of them."""
        if self.best is None or self.asked.thing is None:
            return None
        return float(np.linalg.norm(self.best.place - self.asked.thing.position))

    @property
    def is_right(self) -> bool:
        """Whether the answer is where the thing is, or there is none for what is not there."""
        if self.asked.thing is None:
            return self.best is None
        return self.distance is not None and self.distance <= NEAR


class MemoryWatcher:
    """Hears what the memory says during the drive, and asks it afterwards.

    Attributes:
        path: Positions of the camera in the world, meters.
        objects: What is remembered, as of the node's latest message.
        shown: Labeled frames in which things were segmented, by their true names.
    """

    def __init__(self, peer: Peer) -> None:
        """Subscribes with the node of `peer`."""
        self._peer = peer
        self.path: list[np.ndarray] = []
        self.objects: list[Remembered] = []
        self.shown: Counter[str] = Counter()
        peer.node.create_subscription(PoseStamped, "pose", self._on_pose, OUTPUT)
        peer.node.create_subscription(msg.RememberedObjectArray, f"{MEMORY_NODE}/objects", self._on_objects, LATCHED)
        self._recall = peer.node.create_client(srv.Recall, f"{MEMORY_NODE}/recall")

    def note(self, frame: Frame) -> None:
        """Counts the things that a labeled frame has segments of, by its truth."""
        truth, panoptic = frame.truth_map, frame.labels["panoptic"]
        assert frame.truth is not None and truth is not None and isinstance(panoptic, np.ndarray)
        areas = np.bincount(panoptic.ravel())
        for row in frame.truth:
            mask = truth == row.id
            pixels, overlaps = int(mask.sum()), np.bincount(panoptic[mask], minlength=len(areas))
            overlaps[0] = 0
            best = int(overlaps.argmax())
            if pixels > _MIN_PIXELS and overlaps[best] > _MIN_IOU * (pixels + areas[best] - overlaps[best]):
                self.shown[row.name] += 1

    def ask(self, questions: Sequence[Asked], patience: float) -> list[Recalled]:
        """Asks one question after the other.

        Raises:
            FcclipError: The node rejected one.
            TimeoutError: It did not answer within `patience` seconds.
        """
        return [self._ask(asked, patience) for asked in questions]

    def _ask(self, asked: Asked, patience: float) -> Recalled:
        request = srv.Recall.Request(words=[asked.words], minimum_probability=SURE, timeout=patience)
        response, _ = self._peer.call(self._recall, request, patience)
        if not response.success:
            raise FcclipError(f"{MEMORY_NODE}/recall rejected {asked.words!r}: {response.message}")
        best = response.answers[0] if response.answers else None
        return Recalled(
            asked,
            response.message,
            None if best is None else _remembered(best.object),
            0.0 if best is None else best.age,
            response.best_probability,
            b"" if best is None else bytes(best.crop.data),
            self.shown[asked.words],
        )

    def _on_pose(self, message: PoseStamped) -> None:
        with self._peer.changed:
            self.path.append(_xyz(message.pose.position))

    def _on_objects(self, message: Any) -> None:
        objects = [_remembered(item) for item in message.objects if item.is_thing]
        with self._peer.changed:
            self.objects = objects


def problems_of(answers: Sequence[Recalled]) -> list[str]:
    """What is wrong with answers, for people.

    One wrong answer about a thing is no problem: the model knows nine names of ten. What was segmented in hardly any
    frame need not be known, and is not counted.
    """
    wrong = [answer for answer in answers if not answer.is_right]
    there = [answer for answer in wrong if answer.asked.thing is not None and answer.shown_in >= ENOUGH_FRAMES]
    counted = [answer for answer in wrong if answer.asked.thing is None] + (there if len(there) > MAY_BE_WRONG else [])
    return [f"the memory answers {answer.sentence}; {_expected(answer)}" for answer in counted]


def _expected(answer: Recalled) -> str:
    if (thing := answer.asked.thing) is None:
        return "nothing of that name is there"
    x, y, z = thing.position
    return f"it is at ({x:.2f}, {y:.2f}, {z:.2f}) m, and was segmented in {answer.shown_in} frames"


def _remembered(item: Any) -> Remembered:
    name = next((name for name in item.names if name != CATCH_ALL), item.name)
    return Remembered(item.id, name, _xyz(item.pose.pose.position), _xyz(item.box_center), _xyz(item.extents))


def _xyz(message: Any) -> np.ndarray:
    return np.array([message.x, message.y, message.z])
