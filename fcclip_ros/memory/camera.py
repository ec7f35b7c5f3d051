"""One camera of the memory: its subscriptions, and the observation that a frame of segments becomes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.node import Node

import fcclip_ros.msg as msg
from fcclip_core.errors import DepthError, ObservationError
from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.memory.observation import Observation, SeenSegment
from fcclip_ros.conversions.camera_info import camera_from_info
from fcclip_ros.conversions.seen_segments import seen_segments
from fcclip_ros.conversions.stamps import nanoseconds
from fcclip_ros.memory.image_buffer import ImageBuffer
from fcclip_ros.memory.parameters import MemoryParameters
from fcclip_ros.memory.pose_history import MissingPose
from fcclip_ros.memory.poses import PoseSource
from fcclip_ros.node.depth_input import DepthInput
from fcclip_ros.node.frame_statistics import Statistics
from fcclip_ros.node.image_input import ImageInput
from fcclip_ros.node.info_input import InfoInput
from fcclip_ros.node.qos_matching import QosMatchingSubscription

_BACKWARD = 1_000_000_000
"""Nanoseconds that stamps must fall back for a jump of the clock."""

_DEPTH_SECONDS = 10.0
"""Seconds that depth waits for its segments: some models take long for a frame."""

_QUEUE = 5
"""Frames that wait for the executor; none should be lost, since each is a look."""

_VOCABULARIES = 16
"""Vocabularies that are known by their version."""

_WARNING_PERIOD = 10.0
"""Seconds between warnings."""


@dataclass(frozen=True)
class Arrival:
    """A frame's segments, and the monotonic time in seconds at which they arrived."""

    message: msg.SegmentArray
    time: float


class MemoryCamera:
    """Reads what one camera sees.

    Attributes:
        name: Its name; empty for the only camera.
        statistics: Statistics of its frames.
        depth: Its depth, for what is not there.
        poses: Where it is.
        base_from_camera: From its optical frame to the robot's base, float64 `(4, 4)`; None if unknown.
        problem: Why the latest frame was not remembered; empty if it was.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        perception: str,
        poses: PoseSource,
        on_frame: Callable[[MemoryCamera, Arrival], None],
    ) -> None:
        """Does not subscribe yet.

        Args:
            node: The node.
            name: With a name topics are `NAME/depth` and so on, and `PERCEPTION/NAME/segments`.
            perception: Name of the perception node.
            poses: Where the camera is.
            on_frame: Called with each frame, in the executor.
        """
        self.name = name
        self.statistics = Statistics()
        self.poses = poses
        self.base_from_camera: np.ndarray | None = None
        self.problem = ""
        namespace = f"{name}/" if name else ""
        self._perception = node.resolve_topic_name(perception)
        self._outputs = f"{perception}/{namespace}"
        self._on_frame = on_frame
        self._logger = node.get_logger().get_child(name) if name else node.get_logger()
        self._segments = QosMatchingSubscription(node, self._on_segments, "segments")
        self._vocabulary = QosMatchingSubscription(node, self._on_vocabulary, "vocabularies")
        self._info = InfoInput(node, f"{namespace}camera_info")
        without = "absent objects are not noticed without depth"
        self.depth = DepthInput(node, f"{namespace}depth", self._info, self._logger, without, _DEPTH_SECONDS)
        self._images = ImageBuffer()
        self._input = ImageInput(node, f"{namespace}image", self._images.put)
        self._words: dict[int, tuple[str, ...]] = {}
        self._parameters = MemoryParameters.defaults()
        self._last_stamp = 0

    def start(self, parameters: MemoryParameters, offset: np.ndarray) -> None:
        """Subscribes; `offset` is `MemoryParameters.offset_of` this camera."""
        self.apply(parameters)
        self.problem, self._last_stamp = "", 0
        self.statistics.restarted()
        reliability = parameters.image_reliability
        self.poses.start(parameters, offset)
        self._info.start(reliability)
        self._vocabulary.start(msg.Vocabulary, f"{self._outputs}vocabulary", reliability)
        if parameters.use_depth:
            self.depth.start(parameters.depth_transport, reliability, rectified=parameters.image_rectified)
        if parameters.settings.crop_side:
            self._input.start(parameters.image_transport, reliability)
        self._segments.start(msg.SegmentArray, f"{self._outputs}segments", reliability, _QUEUE)

    def stop(self) -> None:
        """Unsubscribes."""
        for item in (self._segments, self._vocabulary, self._input, self.depth, self._info, self.poses):
            item.stop()
        self._images.clear()

    def apply(self, parameters: MemoryParameters) -> None:
        """Applies the parameters that may change at any time."""
        self._parameters = parameters
        self.poses.apply(parameters)
        self.depth.tolerance, self.depth.patience = parameters.depth_tolerance, parameters.depth_wait

    @property
    def input(self) -> str:
        """Human-readable description of the segments' subscription."""
        return self._segments.describe()

    @property
    def input_problem(self) -> str:
        """Why no segments can be received although the topic has publishers; empty if there is no problem."""
        return self._segments.problem

    # On the memory's thread

    def observe(self, arrival: Arrival) -> Observation | None:
        """Makes an observation of a frame; None if it cannot be remembered, which is said and counted."""
        header = arrival.message.header
        self.depth.prefetch_depth(header)
        try:
            observation = self._observation(arrival)
        except (MissingPose, ObservationError, DepthError) as error:
            self.reject(str(error))
            return None
        self.problem = ""
        return observation

    def reject(self, reason: str) -> None:
        """Counts and says why a frame is not remembered."""
        self.problem = reason
        self.statistics.bad(reason)
        self._logger.warning(f"a frame is not remembered: {reason}", throttle_duration_sec=_WARNING_PERIOD)

    def jumped_back(self, stamp: int) -> bool:
        """Whether the stamps fell back with this frame, as of a recording that begins again."""
        last, self._last_stamp = self._last_stamp, stamp
        return stamp < last - _BACKWARD

    def forget_past(self) -> None:
        """Forgets what was received before the clock jumped back."""
        self.poses.clear()
        self._images.clear()

    def _observation(self, arrival: Arrival) -> Observation:
        message, parameters = arrival.message, self._parameters
        header, size = message.header, (message.width, message.height)
        pose = self.poses.find(header, arrival.time + parameters.pose_wait)
        if pose.base_from_camera is not None:
            self.base_from_camera = pose.base_from_camera
        segments = seen_segments(
            message, parameters.map_frame, pose.matrix, lambda frame: self.poses.camera_from(frame, header, pose)
        )
        self._check_complete(message, segments)
        depth = self.depth.take(header, size, arrival.time)
        camera = depth.camera if depth is not None else self._camera_at(header, size)
        return Observation(
            camera_name=self.name,
            stamp=nanoseconds(header.stamp),
            map_from_camera=pose.matrix,
            pose_covariance=pose.covariance,
            camera=camera,
            depth=None if depth is None else depth.meters,
            segments=segments,
            words=self._words.get(message.vocabulary_version, ()),
            image=self._image(segments, nanoseconds(header.stamp), size),
        )

    def _check_complete(self, message: msg.SegmentArray, segments: list[SeenSegment]) -> None:
        """Checks that the perception node publishes what the memory needs.

        Raises:
            ObservationError: No segment has an embedding, or none a place.
        """
        if not message.segments:
            return
        if not segments:
            raise ObservationError(
                "its segments have no embeddings; set publish_embeddings of the perception node to float16 (ros2 param "
                f"set {self._perception} publish_embeddings float16)"
            )
        if not any(item.geometry.valid for item in message.segments):
            raise ObservationError(
                "its segments have no place in 3D; start the perception node with use_depth:=true, and check its depth "
                "in /diagnostics"
            )

    def _camera_at(self, header: Any, size: tuple[int, int]) -> PinholeCamera:
        info = self._info.at(header)
        if info is None:
            raise ObservationError(f"there is no camera_info on {self._info.describe()}")
        return camera_from_info(info, rectified=self._parameters.image_rectified).resized(*size)

    def _image(self, segments: list[SeenSegment], stamp: int, size: tuple[int, int]) -> np.ndarray | None:
        settings = self._parameters.settings
        if not any(
            item.geometry is not None
            and item.score >= settings.min_score
            and item.area >= settings.min_area
            and (item.is_thing or settings.remember_stuff)
            for item in segments
        ):
            return None
        return self._images.at(stamp, size)

    # In the executor

    def _on_segments(self, message: msg.SegmentArray) -> None:
        self.statistics.received()
        self.depth.arrive(message.header)
        self._on_frame(self, Arrival(message, time.monotonic()))

    def _on_vocabulary(self, message: msg.Vocabulary) -> None:
        names = tuple(item.synonyms[0] for item in message.classes if item.synonyms)
        # A perception node that was started again counts from 1: its newest words count.
        self._words.pop(message.version, None)
        self._words = dict([*self._words.items(), (message.version, names)][-_VOCABULARIES:])
