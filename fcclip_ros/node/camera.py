"""One camera of the node: its inputs, outputs, vocabulary and statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rclpy.lifecycle import LifecycleNode

import fcclip_ros.msg as msg
from fcclip_core.errors import ImageError
from fcclip_core.geometry.ignore_mask import IgnoreMask
from fcclip_core.quoting import printable
from fcclip_core.results import PanopticResult
from fcclip_core.segmenter import Segmenter
from fcclip_core.segments.tracking import Tracker
from fcclip_core.vocabulary.resolved_class import ResolvedClass
from fcclip_core.vocabulary.snapshot import VocabularySnapshot
from fcclip_ros.conversions.frame import LabeledFrame
from fcclip_ros.node.depth_input import DepthInput
from fcclip_ros.node.frame_statistics import Statistics
from fcclip_ros.node.image_input import ImageInput
from fcclip_ros.node.info_input import InfoInput
from fcclip_ros.node.outputs import Outputs
from fcclip_ros.node.parameters import NodeParameters
from fcclip_ros.node.rate_limit import RateLimit
from fcclip_ros.node.search import Search
from fcclip_ros.node.target_frame import TargetFrame
from fcclip_ros.node.transforms import Transforms

_WARNING_PERIOD = 5.0
"""Seconds between warnings about frames of a camera that could not be labeled."""


class Camera:
    """Topics and state of a camera; a `Stream` of the pipeline.

    Attributes:
        name: Its name, the prefix of its topics; empty for the only camera of a node.
        statistics: Statistics of its frames.
        enabled: Whether its frames are labeled.
        vocabulary: Its active vocabulary, as published; None while there is none.
        distractors: Classes of the vocabulary that compete and are never published.
        input: Its image subscription.
        info: Its calibration.
        depth: Its depth input, if depth is used.
        target_frame: The frame of its 3D outputs.
        outputs: Its publishers.
        search: Queries on its frames.
        mask_problem: Why the latest frame was labeled without the ignore mask; empty if there was no problem.
    """

    def __init__(
        self, node: LifecycleNode, name: str, on_image: Callable[[Camera, Any], None], transforms: Transforms
    ) -> None:
        """Creates the publishers; does not subscribe yet.

        Args:
            node: The node.
            name: With a name, images are read from `NAME/image` and labels are published on `~/NAME/...`; without, from
                `image` and on `~/...`. Depth and camera_info are read from the namespace of the images.
            on_image: Called with each Image or CompressedImage, in the executor or on the thread of a video.
            transforms: The transforms of the node.
        """
        self.name = name
        self.statistics = Statistics()
        self.enabled = True
        self.vocabulary: msg.Vocabulary | None = None
        self.distractors: tuple[ResolvedClass, ...] = ()
        self.search = Search()
        self._tracker: Tracker | None = None
        self._ignore_mask: IgnoreMask | None = None
        self.mask_problem = ""
        self._mask_problem_logged = False
        self._depth_erosion = 0
        self._max_rate = 0.0
        self._frame_limit = RateLimit()
        # A logger per camera: throttled warnings of one camera must not suppress those of another.
        self._logger = node.get_logger().get_child(name) if name else node.get_logger()
        namespace = f"{name}/" if name else ""
        self._on_image = on_image
        self.input = ImageInput(node, f"{namespace}image", self._on_message, self._on_bad)
        self.info = InfoInput(node, f"{namespace}camera_info")
        self.outputs = Outputs(node, self.private_name(""), self.info)
        self.depth = DepthInput(node, f"{namespace}depth", self.info, self._logger)
        self.target_frame = TargetFrame(transforms, self._logger)

    def configure(self, configuration: NodeParameters, ignore_mask: IgnoreMask | None) -> None:
        """Applies the parameters; resets tracking and the names of earlier class ids."""
        self.outputs.forget_names()
        self.search.seen.clear()  # another model may have been loaded
        self.outputs.masks.configure(configuration.publish_masks)
        self._ignore_mask, self.mask_problem, self._mask_problem_logged = ignore_mask, "", False
        if ignore_mask is not None:
            text = f"{100 * ignore_mask.share:.1f} % of the pixels are never labeled (ignore_mask {ignore_mask.path})"
            self._logger.info(printable(text))
        lost_frames, votes = configuration.track_lost_frames, configuration.track_votes
        self._tracker = Tracker(lost_frames, votes=votes) if configuration.track else None
        self.outputs.show_ids = configuration.track
        self.apply_parameters(configuration)

    def apply_parameters(self, configuration: NodeParameters) -> None:
        """Applies the parameters that may change at any time."""
        self.outputs.overlay_rate = configuration.publish_overlay_rate
        self.outputs.embedding_type = configuration.publish_embeddings
        self.outputs.contour_type = configuration.publish_contours
        self._depth_erosion = configuration.depth_erosion
        self._max_rate = configuration.max_rate
        self.depth.tolerance, self.depth.patience = configuration.depth_tolerance, configuration.depth_wait
        self.depth.max_pixels = configuration.max_image_pixels
        self.target_frame.name = configuration.target_frame
        self.target_frame.patience = configuration.transform_wait
        self.input.set_max_pixels(configuration.max_image_pixels)

    def start(self, configuration: NodeParameters, segmenter: Segmenter) -> None:
        """Subscribes to images, camera_info, and depth if it is used; `segmenter` is the one that labels the frames."""
        self.statistics.restarted()
        self.search.start(segmenter)
        reliability = configuration.image_reliability
        self.info.start(reliability)
        self.target_frame.start()
        if configuration.use_depth:
            self.depth.start(configuration.depth_transport, reliability, rectified=configuration.image_rectified)
            self.outputs.points.start()
        self.input.start(configuration.image_transport, reliability, configuration.max_image_pixels)

    def stop(self) -> None:
        """Unsubscribes and drops the latest frame."""
        self.input.stop()
        self.info.stop()
        self.depth.stop()
        self.outputs.points.stop()
        self.search.stop("the node is no longer active, so no frames are received")

    def private_name(self, name: str) -> str:
        """The name of a topic or service of this camera in the node's private namespace."""
        return f"~/{self.name}/{name}" if self.name else f"~/{name}"

    @property
    def title(self) -> str:
        """Title of its status in /diagnostics."""
        return f"segmentation of {self.name}" if self.name else "segmentation"

    def _on_message(self, message: Any) -> None:
        """Takes an image, unless it is beyond the parameter max_rate; in the executor, or on the thread of a video.

        Depth is matched to it from now on, however long it is queued.
        """
        if self.enabled and self._max_rate > 0:
            if not self._frame_limit.is_due(self._max_rate):
                self.statistics.left_out()
                return
            self._frame_limit.spend(self._max_rate)
        self.depth.arrive(message.header)
        self._on_image(self, message)

    def _on_bad(self, reason: str) -> None:
        """Counts a video packet that gave no image."""
        if self.enabled:
            self.statistics.received()
            self.statistics.bad(reason)
            self.warn(f"frame not labeled: {reason}")

    def prefetch_depth(self, header: Any) -> None:
        """Keeps matching depth to a frame that the model is about to process; see `DepthInput.prefetch_depth`."""
        self.depth.prefetch_depth(header)

    def deliver(self, frame: LabeledFrame) -> None:
        """Publishes the outputs of a frame; with depth and its transform in 3D; with tracking, with voted classes."""
        height, width = frame.result.segment_map.shape
        # First: everything else uses the labels.
        result = self._without_ignored(frame.result) if self._ignore_mask else frame.result
        result = self._tracker.update(result) if self._tracker else result
        depth = self.depth.take(frame.header, (width, height), frame.arrival_time)
        if depth is not None:
            depth = self.target_frame.place(depth, frame.header, frame.arrival_time)
        complete = replace(frame, result=result, depth=depth, depth_erosion=self._depth_erosion)
        self.outputs.send(complete)
        self.search.process(complete)

    def _without_ignored(self, result: PanopticResult) -> PanopticResult:
        """The result without the ignored pixels; unchanged, with one warning, if the mask does not fit the image."""
        assert self._ignore_mask is not None
        height, width = result.segment_map.shape
        try:
            masked = result.without_pixels(self._ignore_mask.at(height, width))
        except ImageError as error:
            self.mask_problem = f"frames are labeled without the parameter ignore_mask: {error}"
            if not self._mask_problem_logged:
                self._logger.warning(printable(self.mask_problem))
                self._mask_problem_logged = True
            return result
        self.mask_problem = ""
        return masked

    def set_vocabulary(self, snapshot: VocabularySnapshot) -> None:
        """Publishes a vocabulary that is being activated."""
        self.vocabulary, self.distractors = self.outputs.send_vocabulary(snapshot), snapshot.distractors

    def warn(self, text: str) -> None:
        """Logs why a frame could not be labeled, throttled."""
        self._logger.warning(printable(text), throttle_duration_sec=_WARNING_PERIOD)
