"""Observations for the object memory from a bag: each labeled image with its depth, its camera and where that was."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fcclip_core.errors import DepthError, ImageError, ObservationError
from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.geometry.depth import depth_in_meters
from fcclip_core.geometry.transform_tree import TransformTree
from fcclip_core.memory.observation import Observation, observation_of
from fcclip_core.results import PanopticResult
from fcclip_ros.bags.bag_segmentation import (
    BagImage,
    BagImages,
    BagMessage,
    first_messages,
    opened,
    read_messages,
    topics_in,
)
from fcclip_ros.bags.bag_topics import Say
from fcclip_ros.bags.bag_transforms import MOVING, STATIC, TRANSFORMS, add_transforms
from fcclip_ros.bags.depth_matching import MissingDepth, matched
from fcclip_ros.bags.input_topics import (
    CAMERA_INFO,
    COMPRESSED,
    IMAGE,
    encoding_of,
    is_depth,
    listed,
    namespace_of,
    raw_name,
)
from fcclip_ros.conversions.camera_info import camera_from_info
from fcclip_ros.conversions.images import to_depth
from fcclip_ros.conversions.stamps import nanoseconds, nearest

_AROUND = 2_000_000_000
"""Nanoseconds before and after an image within which its depth was recorded: as long as the node keeps depth."""


class BagObservations:
    """Makes observations of the images of a bag, in the order of recording."""

    def __init__(self, images: BagImages, depth_topic: str, map_frame: str) -> None:
        """Reads the transforms and the calibration of the whole bag; depth is read along with the images.

        Args:
            images: The images.
            depth_topic: Topic of depth registered to the images; empty for the only one, or the only one beside them.
            map_frame: The frame that positions are given in.

        Raises:
            ImageError: The bag cannot be read, or lacks depth, camera_info, transforms or the map frame.
        """
        self._path, self._map_frame = images.path, map_frame
        self._image_topic = images.chosen_topic()
        topics = topics_in(self._path, images.leave_out)
        depth = _depth_topic(self._path, topics, self._image_topic, depth_topic, images.leave_out)
        info = _info_topic(self._path, topics, self._image_topic, depth)
        self._tree = _transforms(self._path, topics, map_frame, images.leave_out)
        self._cameras = _calibrations(read_messages(self._path, [info], images.leave_out))
        self._depth = _DepthStream(read_messages(self._path, [depth], images.leave_out))
        self._missing, self._seen, self._images = MissingDepth(), 0, 0

    def observation(self, frame: BagImage, result: PanopticResult, words: Sequence[str]) -> Observation | None:
        """The observation of a frame; None if it has no depth or no pose, which `report` explains."""
        self._images += 1
        try:
            depth = self._depth.nearest(frame)
            found, camera = matched(
                (frame.nanoseconds, frame.frame_id), depth, nearest(frame.nanoseconds, self._cameras)
            )
            size = result.segment_map.shape[1], result.segment_map.shape[0]
            observation = observation_of(
                result,
                depth_in_meters(to_depth(found), size),
                camera.resized(*size),
                self._tree.find(self._map_frame, frame.frame_id, frame.nanoseconds),
                stamp=frame.nanoseconds,
                camera_name=frame.frame_id,
                words=words,
                image=_of_size(frame.image, size),
            )
        except (DepthError, ImageError, ObservationError) as error:
            self._missing.add(error)
            return None
        self._seen += 1
        return observation

    def report(self) -> str:
        """How many frames were no observations, and why; empty if all were.

        Raises:
            ImageError: None was.
        """
        if not self._missing.count:
            return ""
        reasons = "; ".join(self._missing.reasons(self._images))
        if not self._seen:
            raise ImageError(f"the memory has seen none of the {self._images} frames: {reasons}")
        return f"the memory has seen {self._seen} of {self._images} frames; the others have no depth or pose: {reasons}"


def recording_key(images: BagImages) -> str:
    """Tells a recording from all others, also when it was moved or copied: a hash of when its images were recorded.

    Raises:
        ImageError: The bag cannot be read, or has no such topic.
    """
    topic = images.chosen_topic()
    key = hashlib.sha256(topic.encode("utf-8", "backslashreplace"))
    with opened(images.path, images.leave_out) as bag:
        for _, recorded, _ in bag.messages([topic]):
            key.update(recorded.to_bytes(8, "little", signed=True))
    return key.hexdigest()[:32]


class _DepthStream:
    """The depth images of a bag that were recorded around the image in work."""

    def __init__(self, messages: Iterator[BagMessage]) -> None:
        self._messages = messages
        self._kept: deque[tuple[int, Any]] = deque()  # time of recording, message
        self._next: BagMessage | None = next(messages, None)

    def nearest(self, frame: BagImage) -> tuple[int, str, Any] | None:
        """Stamp, frame_id and message of the depth with the nearest stamp; None if there is none."""
        while self._next is not None and self._next.recorded <= frame.recorded + _AROUND:
            if not isinstance(self._next.message, ImageError):
                self._kept.append((self._next.recorded, self._next.message))
            self._next = next(self._messages, None)
        while len(self._kept) > 1 and self._kept[0][0] < frame.recorded - _AROUND:
            self._kept.popleft()
        found = nearest(frame.nanoseconds, ((nanoseconds(message.header.stamp), message) for _, message in self._kept))
        return None if found is None else (nanoseconds(found.header.stamp), found.header.frame_id, found)


def _calibrations(messages: Iterator[BagMessage]) -> list[tuple[int, tuple[str, PinholeCamera]]]:
    """Stamp, frame_id and camera of the camera_info; of equal ones in a row, which most are, the first and last."""
    found: list[tuple[int, tuple[str, PinholeCamera]]] = []
    for item in messages:
        try:
            if isinstance(item.message, ImageError):
                continue
            camera = camera_from_info(item.message, rectified=True)
        except DepthError:
            continue
        header = item.message.header
        row = nanoseconds(header.stamp), (header.frame_id, camera)
        if len(found) > 1 and found[-1][1] == found[-2][1] == row[1]:
            found.pop()
        found.append(row)
    return found


def _transforms(path: Path, topics: dict[str, str], map_frame: str, say: Say) -> TransformTree:
    recorded = [name for name in (MOVING, STATIC) if topics.get(name) == TRANSFORMS]
    if not recorded:
        raise ImageError(
            f"{path} has no transforms; a memory needs to know where the camera was: record /tf and /tf_static"
        )
    tree = TransformTree()
    add_transforms(tree, read_messages(path, recorded, say), say)
    try:
        tree.require(map_frame)
    except DepthError as error:
        raise ImageError(f"{path}: {error}; choose one of them with --map-frame") from error
    return tree


def _depth_topic(path: Path, topics: dict[str, str], image: str, wanted: str, say: Say) -> str:
    pictures = [name for name, kind in topics.items() if kind in (IMAGE, COMPRESSED) and name != image]
    encodings = {name: encoding_of(message) for name, message in first_messages(path, pictures, say).items()}
    found = {name for name, encoding in encodings.items() if is_depth(topics[name], encoding)}
    if wanted:
        if wanted not in found:
            raise ImageError(f"{path} has no depth on {wanted}; its depth topics: {listed(found)}")
        return wanted
    # The raw topic takes precedence over the compressed one.
    found = {name for name in found if name == raw_name(name) or raw_name(name) not in found}
    beside = {name for name in found if namespace_of(name) == namespace_of(image)}
    for candidates in (found, beside):
        if len(candidates) == 1:
            return next(iter(candidates))
    if not found:
        raise ImageError(
            f"{path} has no depth, which a memory needs for places; record it (16UC1, 32FC1, compressedDepth)"
        )
    raise ImageError(f"{path} has depth on {listed(found)}; choose one with --depth")


def _info_topic(path: Path, topics: dict[str, str], image: str, depth: str) -> str:
    names = [f"{namespace_of(topic)}/camera_info" for topic in (image, depth)]
    for name in names:
        if topics.get(name) == CAMERA_INFO:
            return name
    raise ImageError(f"{path} has no {names[0]}, which a memory needs for places; record it beside the images")


def _of_size(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image in the size of the labels, which `output_stride` makes smaller."""
    if image.shape[1::-1] == size:
        return image
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
