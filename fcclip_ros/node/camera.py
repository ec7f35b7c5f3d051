"""One camera of the node: its images in, its labels out, its words and its statistics."""

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
from fcclip_core.vocabulary.snapshot import ResolvedClass, VocabularySnapshot
from fcclip_ros.conversions.frame import LabeledFrame
from fcclip_ros.node.depth_input import DepthInput
from fcclip_ros.node.frame_statistics import Statistics
from fcclip_ros.node.image_input import ImageInput
from fcclip_ros.node.outputs import Outputs
from fcclip_ros.node.parameters import NodeParameters
from fcclip_ros.node.search import Search

_WARNING_PERIOD = 5.0
"""Seconds between two log lines about a camera's frames that could not be labeled."""


class Camera:
    """A camera's topics and what is known of it; a `Stream` of the pipeline.

    Attributes:
        name: Its name, which its topics begin with; empty for a node's only camera.
        statistics: Its frames.
        enabled: Whether its frames are labeled.
        vocabulary: The words in force for it, as they were announced; None while there are none.
        distractors: What competes with them and is never published.
        input: Its subscription to images.
        depth: Its depth, where that is used.
        outputs: Its publishers.
        search: What can be looked for in its frames.
        mask_problem: Why the latest frame was labeled without the ignore mask; empty if it was not.
    """

    def __init__(self, node: LifecycleNode, name: str, on_image: Callable[[Camera, Any], None]) -> None:
        """Makes the publishers; subscribes to nothing yet.

        Args:
            node: The node.
            name: With it, images are read from `NAME/image` and labels go to `~/NAME/...`; without, from `image` and to
                `~/...`. Depth and camera_info lie beside the images.
            on_image: Called in the executor with each Image or CompressedImage.
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
        self._mask_problem_said = False
        self._depth_erosion = 0
        self.outputs = Outputs(node, self.private_name(""))
        # A logger of its own, so that one camera's complaints do not hold back those of another.
        self._logger = node.get_logger().get_child(name) if name else node.get_logger()
        beside = f"{name}/" if name else ""
        self._on_image = on_image
        self.input = ImageInput(node, f"{beside}image", self._arrived)
        self.depth = DepthInput(node, f"{beside}depth", f"{beside}camera_info", self._logger)

    def configure(self, configuration: NodeParameters, ignore_mask: IgnoreMask | None) -> None:
        """Takes over the parameters; forgets the things that were tracked and the names of earlier class ids."""
        self.outputs.forget_names()
        self.outputs.masks.configure(configuration.publish_masks)
        self._ignore_mask, self.mask_problem, self._mask_problem_said = ignore_mask, "", False
        if ignore_mask is not None:
            text = f"{100 * ignore_mask.share:.1f} % of the pixels are never labeled, as {ignore_mask.path} says"
            self._logger.info(printable(text))
        lost_frames, votes = configuration.track_lost_frames, configuration.track_votes
        self._tracker = Tracker(lost_frames, votes=votes) if configuration.track else None
        self.apply_parameters(configuration)

    def apply_parameters(self, configuration: NodeParameters) -> None:
        """Takes over the parameters that may change at any time."""
        self.outputs.overlay_rate = configuration.publish_overlay_rate
        self.outputs.embedding_type = configuration.publish_embeddings
        self.outputs.contour_type = configuration.publish_contours
        self._depth_erosion = configuration.depth_erosion
        self.depth.tolerance, self.depth.patience = configuration.depth_tolerance, configuration.depth_wait

    def start(self, configuration: NodeParameters, segmenter: Segmenter) -> None:
        """Subscribes, to depth only where that is used; `segmenter` is the one that labels the frames."""
        self.statistics.restarted()
        self.search.start(segmenter)
        reliability = configuration.image_reliability
        if configuration.use_depth:
            self.depth.start(reliability, rectified=configuration.image_rectified)
            self.outputs.points.start()
        self.input.start(configuration.image_transport, reliability)

    def stop(self) -> None:
        """Unsubscribes, and lets go of the newest frame."""
        self.input.stop()
        self.depth.stop()
        self.outputs.points.stop()
        self.search.stop("the node is no longer active, so it gets no pictures")

    def private_name(self, name: str) -> str:
        """The name of one of this camera's topics or services below the node's own."""
        return f"~/{self.name}/{name}" if self.name else f"~/{name}"

    @property
    def title(self) -> str:
        """Of its status in /diagnostics."""
        return f"segmentation of {self.name}" if self.name else "segmentation"

    def _arrived(self, message: Any) -> None:
        """Takes a message in the executor; its depth is looked for from here on, however long the frame waits."""
        self.depth.arrive(message.header)
        self._on_image(self, message)

    def prefetch_depth(self, header: Any) -> None:
        """Is told of a frame that the network takes; its depth is looked for until it is published."""
        self.depth.prefetch_depth(header)

    def deliver(self, frame: LabeledFrame) -> None:
        """Publishes a frame's outputs, with lasting ids and voted classes if things are tracked, and with its depth."""
        height, width = frame.image.shape[:2]
        # Before everything that looks at labels.
        result = self._without_ignored(frame.result) if self._ignore_mask else frame.result
        result = self._tracker.update(result) if self._tracker else result
        depth = self.depth.take(frame.header, (width, height), frame.arrival_time)
        complete = replace(frame, result=result, depth=depth, depth_erosion=self._depth_erosion)
        self.outputs.send(complete)
        self.search.process(complete)

    def _without_ignored(self, result: PanopticResult) -> PanopticResult:
        """The result without what the ignore mask says; as it is, which is said once, where the mask does not fit."""
        assert self._ignore_mask is not None
        height, width = result.segment_map.shape
        try:
            masked = result.without_pixels(self._ignore_mask.at(height, width))
        except ImageError as error:
            self.mask_problem = f"frames are labeled without the parameter ignore_mask: {error}"
            if not self._mask_problem_said:
                self._logger.warning(printable(self.mask_problem))
                self._mask_problem_said = True
            return result
        self.mask_problem = ""
        return masked

    def set_vocabulary(self, snapshot: VocabularySnapshot) -> None:
        """Publishes the vocabulary that comes into force."""
        self.vocabulary, self.distractors = self.outputs.send_vocabulary(snapshot), snapshot.distractors

    def warn(self, text: str) -> None:
        """Logs that a frame could not be labeled, from time to time."""
        self._logger.warning(printable(text), throttle_duration_sec=_WARNING_PERIOD)
