"""A tracked thing's class is that of all its frames, and every output of a frame says the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from depth_camera import HEIGHT, WIDTH, DepthCamera, same_stamp
from fake_segmenter import FakeSegmenter
from ros_harness import Peer, drain, flat_image, wait_until
from sensor_msgs.msg import Image, PointCloud2

from fcclip_core.geometry.cloud import POINT
from fcclip_core.results import PanopticResult
from fcclip_core.settings import InferenceSettings
from fcclip_ros import msg, srv
from fcclip_ros.perception import Perception
from fcclip_ros.qos import OUTPUT

CUP, PLATE, FLOOR = 1, 2, 3
WORDS = ("vocabulary:=[cup, plate, floor]", "stuff:=[floor]")
CERTAIN, DOUBTFUL = flat_image(HEIGHT, WIDTH), flat_image(HEIGHT, WIDTH)
DOUBTFUL[-1, -1] = 255
"""The model takes the cup in this picture for a plate."""


class DoubtingSegmenter(FakeSegmenter):
    """Is sure of the cup, which is on the left, unless the picture is doubtful.

    Then hardly more speaks for a plate, so that it takes more than 15 such pictures to outvote one that is certain.
    """

    def decode(self, encoded: Any, *arguments: Any, **options: Any) -> PanopticResult:
        result = super().decode(encoded, *arguments, **options)
        sure = bool(encoded.image[-1, -1, 0] != DOUBTFUL[-1, -1, 0])
        cup, *others = result.segments
        name, class_id, score = ("cup", CUP, 0.9) if sure else ("plate", PLATE, 0.5)
        rows = result.evidence.class_probs.clone()
        rows[0, :2] = torch.tensor([0.9, 0.05] if sure else [0.495, 0.5])
        return replace(
            result,
            segments=[replace(cup, name=name, class_id=class_id, score=score), *others],
            evidence=replace(result.evidence, class_probs=rows),
        )


@pytest.fixture
def start(vision_msgs: ModuleType) -> Iterator[Callable[..., Peer]]:
    nodes: list[Peer] = []

    def start(*more: str) -> Peer:
        segmenter = DoubtingSegmenter(InferenceSettings())
        parameters = ("checkpoint:=fake", *WORDS, "use_depth:=true", "publish_overlay_rate:=120.0", *more)
        given = [argument for parameter in parameters for argument in ("-p", parameter)]
        nodes.append(Peer(lambda **options: Perception(lambda *_, **__: segmenter, **options), ["--ros-args", *given]))
        nodes[-1].node.begin()
        wait_until(lambda: nodes[-1].node._lifecycle == "active")
        return nodes[-1]

    yield start
    for node in nodes:
        node.node.finish()
        node.close()


def outputs(peer: Peer, vision_msgs: ModuleType) -> dict[str, Any]:
    kinds = {
        "segments": msg.SegmentArray,
        "panoptic": Image,
        "semantic": Image,
        "confidence": Image,
        "overlay": Image,
        "points": PointCloud2,
        "detections": vision_msgs.Detection2DArray,
        "detections_3d": vision_msgs.Detection3DArray,
    }
    return {name: peer.listen(kind, f"/fcclip/{name}", OUTPUT) for name, kind in kinds.items()}


def of_one_frame(heard: dict[str, Any], eye: DepthCamera, pixels: np.ndarray) -> dict[str, Any]:
    """All outputs of one frame; more frames are published until there is one of which none was lost."""
    for messages in heard.values():
        drain(messages)
    return dict(zip(heard, eye.publish_until(lambda: same_stamp(*heard.values()), pixels=pixels), strict=True))


def must_agree(frame: dict[str, Any]) -> dict[int, msg.Segment]:
    """Whatever an output says of a segment is what ~/segments says of it."""
    segments = {item.id: item for item in frame["segments"].segments}
    ids = np.frombuffer(frame["panoptic"].data, np.uint16)
    semantic, confidence = (np.frombuffer(frame[name].data, np.uint8) for name in ("semantic", "confidence"))
    cloud = np.frombuffer(frame["points"].data, POINT)
    assert set(ids) == set(segments)
    for number, segment in segments.items():
        own = ids == number
        assert set(semantic[own]) == {segment.class_id}
        assert set(confidence[own]) == {round(255 * segment.score)}
        points = cloud[cloud["segment_id"] == number]
        assert set(points["semantic_id"]) == {segment.class_id}
        assert set(points["confidence"]) == {np.float32(segment.score)}
    things = [item for item in segments.values() if item.is_thing]
    expected = [(str(item.id), str(item.class_id), pytest.approx(item.score)) for item in things]
    for name in ("detections", "detections_3d"):
        detections = [(item.id, item.results[0].hypothesis) for item in frame[name].detections]
        assert [(number, said.class_id, said.score) for number, said in detections] == expected, name
    return segments


def color_of_the_cup(frame: dict[str, Any]) -> tuple[int, ...]:
    """In the overlay, away from outlines and text."""
    return tuple(np.frombuffer(frame["overlay"].data, np.uint8).reshape(HEIGHT, WIDTH, 3)[2, 8])


def test_every_output_says_what_was_voted(start: Callable[..., Peer], peer: Peer, vision_msgs: ModuleType) -> None:
    start("track:=true")
    heard, eye = outputs(peer, vision_msgs), DepthCamera(peer)
    before = must_agree(certain := of_one_frame(heard, eye, CERTAIN))
    assert {item.id: item.name for item in before.values()} == {1: "cup", 2: "plate", 3: "floor"}
    frame = of_one_frame(heard, eye, DOUBTFUL)
    cup, plate, floor = must_agree(frame).values()
    assert (cup.class_id, cup.name, cup.frame_class_id) == (CUP, "cup", PLATE)
    assert 0.495 < cup.score < 0.9
    assert cup.frame_score == pytest.approx(0.5)
    assert (plate.class_id, plate.frame_class_id) == (PLATE, PLATE)
    assert (floor.frame_class_id, floor.frame_score) == (floor.class_id, floor.score) == (FLOOR, 0.75)
    assert color_of_the_cup(frame) == color_of_the_cup(certain)

    # What is found is found in one frame, and called what it is there.
    for words in (["cup"], ["cup", "tin"]):
        answer = peer.call(srv.Find, "/fcclip/find", srv.Find.Request(words=words, limit=0))
        found = {item.segment.id: item.segment for item in answer.found}
        assert (found[1].name, found[1].class_id, found[1].frame_class_id) == ("plate", PLATE, PLATE)
        assert found[1].score == found[1].frame_score == pytest.approx(0.5)


def test_without_votes_each_frame_speaks_for_itself(
    start: Callable[..., Peer], peer: Peer, vision_msgs: ModuleType
) -> None:
    start("track:=true", "track_votes:=false")
    heard, eye = outputs(peer, vision_msgs), DepthCamera(peer)
    certain = of_one_frame(heard, eye, CERTAIN)
    frame = of_one_frame(heard, eye, DOUBTFUL)
    cup = must_agree(frame)[1]
    assert (cup.class_id, cup.name, cup.score, cup.frame_class_id, cup.frame_score) == (PLATE, "plate", 0.5, PLATE, 0.5)
    assert color_of_the_cup(frame) != color_of_the_cup(certain)
