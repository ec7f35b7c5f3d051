"""The node `fcclip`: a camera topic in, panoptic labels out. Wiring only."""

from __future__ import annotations

import gc
import sys
import time
import traceback
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from typing import Any

import torch
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool

import fcclip_ros.msg as msg
import fcclip_ros.srv as srv
from fcclip_core.errors import FcclipError, SettingsError
from fcclip_core.segmenter import Segmenter, VocabularySnapshot
from fcclip_core.tracking import Tracker
from fcclip_core.vocabulary import Vocabulary
from fcclip_ros import parameters
from fcclip_ros.compat import RCLError, given_parameters, result_of, run_transitions_in
from fcclip_ros.diagnostics import DiagnosticsPublisher, NodeState
from fcclip_ros.find import Access, FindServices
from fcclip_ros.frame_statistics import Statistics
from fcclip_ros.image_input import ImageInput
from fcclip_ros.images import cv_bridge
from fcclip_ros.messages import fill_segment_image, vocabulary_from_message
from fcclip_ros.outputs import Outputs
from fcclip_ros.parameters import NodeParameters
from fcclip_ros.pipeline import LabelledFrame, Pipeline
from fcclip_ros.runner import run
from fcclip_ros.search import Search
from fcclip_ros.wait_for import WaitForAction
from fcclip_ros.worker import Worker

_SHUTDOWN_PATIENCE = 2.0
"""Seconds that the end of the process waits for the model; `ros2 launch` kills after five."""

_CLEANUP_PATIENCE = 60.0
"""Seconds that cleaning up waits for the model."""

_WARNING_PERIOD = 5.0
"""Seconds between two log lines about frames that could not be labelled."""

_NOT_CONFIGURED = "the node is not configured; see its log or /diagnostics, then: ros2 lifecycle set NODE configure"


class Perception(LifecycleNode):
    """Labels the frames of a camera topic with a vocabulary that may change at any time.

    Configuring loads the weights, activating subscribes. The executor's thread takes messages and answers services;
    transitions, words and frames each have a thread of their own, so that nothing keeps it waiting.
    """

    def __init__(self, load_segmenter: Callable[..., Segmenter] = Segmenter.from_checkpoint, **options: Any) -> None:
        """Declares parameters and makes publishers and services; loads nothing.

        Args:
            load_segmenter: Makes the segmenter, called as `Segmenter.from_checkpoint`.
            **options: For rclpy's LifecycleNode.
        """
        super().__init__("fcclip", **options)
        self.exit_status = 0
        self._load_segmenter = load_segmenter
        self._pipeline: Pipeline | None = None
        self._vocabulary: msg.Vocabulary | None = None
        self._lifecycle = "unconfigured"
        self._active = False
        self._enabled = True
        self._problem = ""
        self._statistics = Statistics()
        self._transitions: Worker[None] = Worker("transitions")

        parameters.declare(self)
        for complaint in parameters.unknown_parameters(given_parameters(self), self.has_parameter):
            self.get_logger().warning(complaint)
        self.add_on_set_parameters_callback(self._on_parameters)

        self._outputs = Outputs(self, self.get_parameter("publish_overlay_rate").value)
        self._input = ImageInput(self, self._on_image)
        self._search = Search()
        self._tracker: Tracker | None = None
        self._diagnostics = DiagnosticsPublisher(self, self._node_state, self._statistics.report)
        # Reentrant, because these callbacks wait for other threads without holding up the executor.
        group = ReentrantCallbackGroup()
        for service, name, callback in (
            (srv.SetVocabulary, "~/set_vocabulary", self._on_set_vocabulary),
            (srv.GetVocabulary, "~/get_vocabulary", self._on_get_vocabulary),
            (srv.SegmentImage, "~/segment_image", self._on_segment_image),
            (SetBool, "~/enable", self._on_enable),
        ):
            self.create_service(service, name, callback, callback_group=group)
        access = Access(
            pipeline=self._configured,
            search=self._search_of,
            refuse=self._refusal,
            embedding_type=lambda: self._outputs.embedding_type,
        )
        self._find = FindServices(self, access)
        self._wait_for = WaitForAction(self, access)
        run_transitions_in(self, self._transitions.submit, lambda reason: self.get_logger().error(reason))

    def begin(self) -> None:
        """Starts by itself, if the parameter autostart says so."""
        if self.get_parameter("autostart").value:
            self._transitions.submit(self._autostart)

    def finish(self) -> bool:
        """Shuts down from whatever state the node is in; False if a thread still works."""
        try:
            self._transitions.submit(self._shut_down).result(_SHUTDOWN_PATIENCE + 1.0)
        except (TimeoutError, FutureTimeoutError):
            return False
        return self._transitions.stop(_SHUTDOWN_PATIENCE) and self._pipeline is None

    # Lifecycle, on the transitions' thread

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the weights and the vocabulary; on failure the node stays unconfigured and says why."""
        self._lifecycle, self._problem = "configuring", ""
        try:
            self._configuration = NodeParameters.from_values(parameters.values_of(self))
            self._load(self._configuration)
        except Exception as error:
            reason = str(error) if isinstance(error, FcclipError) else f"{type(error).__name__}: {error}"
            self._lifecycle, self._problem = "unconfigured", f"cannot configure: {reason}"
            self._unload(_CLEANUP_PATIENCE)
            self._statistics.error(self._problem)
            name = self.get_fully_qualified_name()
            self.get_logger().error(f"{self._problem}; put that right, then: ros2 lifecycle set {name} configure")
            if not isinstance(error, FcclipError):
                self.get_logger().error(traceback.format_exc())
            return TransitionCallbackReturn.FAILURE
        self._lifecycle = "inactive"
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribes to the camera."""
        super().on_activate(state)
        self._active, self._lifecycle = True, "active"
        assert self._pipeline is not None  # Only a configured node is activated.
        self._search.start(self._pipeline.segmenter)
        self._input.start(self._configuration.image_transport, self._configuration.image_reliability)
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribes; the weights and the vocabulary stay."""
        self._stop_stream()
        super().on_deactivate(state)
        self._lifecycle = "inactive"
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lets go of the weights."""
        self._unload(_CLEANUP_PATIENCE)
        self._lifecycle = "unconfigured"
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops for good."""
        self._stop_stream()
        super().on_shutdown(state)
        self._unload(_SHUTDOWN_PATIENCE)
        self._lifecycle = "finalized"
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Goes back to unconfigured after a transition that raised."""
        self._stop_stream()
        super().on_deactivate(state)
        self._unload(_CLEANUP_PATIENCE)
        self._lifecycle = "unconfigured"
        return TransitionCallbackReturn.SUCCESS

    def _autostart(self) -> None:
        try:
            if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
                self.trigger_activate()
        except RCLError as error:
            self.get_logger().error(f"cannot start by itself: {error}")

    def _shut_down(self) -> None:
        if self._lifecycle != "finalized":
            self.trigger_shutdown()

    def _load(self, configuration: NodeParameters) -> None:
        vocabulary = configuration.load_vocabulary()
        if not configuration.checkpoint:
            raise SettingsError(
                "the parameter checkpoint is empty; set it to a weights file, a bundled name or recipe:NAME "
                "(`fcclip weights list` shows what there is)"
            )
        source = configuration.train_vocabulary
        began = time.monotonic()
        segmenter = self._load_segmenter(
            configuration.checkpoint,
            device=configuration.device,
            backend=configuration.backend,
            settings=configuration.settings,
            train_vocabulary=Vocabulary.load(source) if source else None,
        )
        self._pipeline = Pipeline(
            segmenter,
            self._statistics,
            publish=self._publish,
            announce=self._announce,
            warn=self._warn_of_frame,
        )
        self._tracker = Tracker(configuration.track_lost_frames) if configuration.track else None
        self._outputs.embedding_type = configuration.publish_embeddings
        self.get_logger().info(
            f"loaded {configuration.checkpoint} in {time.monotonic() - began:.1f} s: {self._pipeline.backend}"
        )
        # Looked for here, because the search takes too long for a frame to wait for it.
        self.get_logger().info(
            f"colours are converted by {'cv_bridge' if cv_bridge() else 'OpenCV, without cv_bridge'}"
        )
        self._pipeline.set_vocabulary(vocabulary).result()

    def _stop_stream(self) -> None:
        self._active = False
        self._input.stop()
        self._search.stop("the node is no longer active, so it gets no pictures")
        if self._pipeline is not None:
            self._pipeline.discard_frame()

    def _unload(self, patience: float) -> None:
        pipeline, self._vocabulary = self._pipeline, None
        if pipeline is None:
            return
        if pipeline.close(patience):
            self._pipeline = pipeline = None
            # Threads and callbacks refer to each other; without this the weights would stay for a while.
            gc.collect()
            torch.cuda.empty_cache()
        else:
            self.get_logger().warning(f"the model still works on a frame or a vocabulary after {patience:.0f} s")

    # Frames and services, in the executor

    def _on_image(self, message: Any) -> None:
        pipeline = self._pipeline
        if pipeline is not None and self._active and self._enabled:
            pipeline.put(message)

    async def _on_set_vocabulary(
        self, request: srv.SetVocabulary.Request, response: srv.SetVocabulary.Response
    ) -> srv.SetVocabulary.Response:
        try:
            vocabulary = vocabulary_from_message(request.classes)
            snapshot = await result_of(self._configured().set_vocabulary(vocabulary), self.executor)
        except Exception as error:
            response.message = self._refusal("vocabulary not changed", error)
            response.version = self._vocabulary.version if self._vocabulary else 0
            return response
        response.success = True
        response.version = snapshot.version
        response.ids = array("H", snapshot.class_ids)
        return response

    def _on_get_vocabulary(
        self, request: srv.GetVocabulary.Request, response: srv.GetVocabulary.Response
    ) -> srv.GetVocabulary.Response:
        response.vocabulary = self._vocabulary or msg.Vocabulary()
        return response

    async def _on_segment_image(
        self, request: srv.SegmentImage.Request, response: srv.SegmentImage.Response
    ) -> srv.SegmentImage.Response:
        def fill(frame: LabelledFrame) -> None:
            stamp = self.get_clock().now().to_msg()
            vocabulary = self._vocabulary if frame.snapshot.version else None
            fill_segment_image(response, frame, vocabulary, stamp, self._outputs.embedding_type)

        try:
            vocabulary = vocabulary_from_message(request.classes) if request.classes else None
            await result_of(self._configured().segment(request.image, vocabulary, fill), self.executor)
        except Exception as error:
            response.message = self._refusal("image not segmented", error)
            return response
        response.success = True
        return response

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._enabled = request.data
        if not request.data and self._pipeline is not None:
            self._pipeline.discard_frame()
        response.success = True
        response.message = "inference runs" if request.data else "inference is stopped; frames are ignored"
        return response

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        values = {change.name: change.value for change in changes}
        try:
            changed = parameters.check_change(parameters.values_of(self), values, self._lifecycle)
            vocabulary = changed.load_vocabulary() if {"vocabulary", "stuff"} & values.keys() else None
        except FcclipError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._outputs.overlay_rate = changed.publish_overlay_rate
        self._outputs.embedding_type = changed.publish_embeddings
        if self._pipeline is not None:
            self._pipeline.settings = changed.settings
            if vocabulary is not None:
                self._pipeline.set_vocabulary(vocabulary).add_done_callback(self._check_vocabulary)
        return SetParametersResult(successful=True)

    def _configured(self) -> Pipeline:
        if self._pipeline is None or self._lifecycle not in ("inactive", "active"):
            raise FcclipError(_NOT_CONFIGURED)
        return self._pipeline

    def _search_of(self, camera: str) -> Search:
        if camera:
            raise FcclipError(f"there is no camera {camera!r}; the node has one, without a name: leave camera empty")
        return self._search

    def _refusal(self, what: str, error: BaseException) -> str:
        """Counts and logs a request that cannot be served, and returns what to answer."""
        if isinstance(error, CancelledError):
            reason = "the node is being shut down or cleaned up"
        else:
            reason = str(error) if isinstance(error, FcclipError) else f"{type(error).__name__}: {error}"
        self._statistics.refused(f"{what}: {reason}")
        self.get_logger().warning(f"{what}: {reason}")
        return reason

    def _node_state(self) -> NodeState:
        pipeline, vocabulary = self._pipeline, self._vocabulary
        return NodeState(
            lifecycle=self._lifecycle,
            enabled=self._enabled,
            checkpoint=self.get_parameter("checkpoint").value,
            device=pipeline.device if pipeline else "",
            backend=pipeline.backend if pipeline else "",
            image_input=self._input.describe(),
            vocabulary_version=vocabulary.version if vocabulary else 0,
            vocabulary_classes=len(vocabulary.classes) if vocabulary else 0,
            encoding_classes=pipeline.encoding_classes if pipeline else 0,
            problem=self._problem,
        )

    # On the pipeline's threads

    def _publish(self, frame: LabelledFrame) -> None:
        if self._tracker is not None:
            frame = replace(frame, result=self._tracker.update(frame.result))
        self._outputs.publish(frame)
        self._search.see(frame)

    def _announce(self, snapshot: VocabularySnapshot) -> None:
        self._vocabulary = self._outputs.announce(snapshot)

    def _check_vocabulary(self, change: Future[VocabularySnapshot]) -> None:
        if change.cancelled() or (error := change.exception()) is None:
            return
        self._refusal("vocabulary not changed, although the parameter says so", error)

    def _warn_of_frame(self, text: str) -> None:
        self.get_logger().warning(text, throttle_duration_sec=_WARNING_PERIOD)


def main(args: Sequence[str] | None = None, load_segmenter: Callable[..., Segmenter] | None = None) -> int:
    """Runs the node until SIGINT or SIGTERM."""
    options = {} if load_segmenter is None else {"load_segmenter": load_segmenter}
    return run(lambda stop: Perception(**options), args)


if __name__ == "__main__":
    sys.exit(main())
