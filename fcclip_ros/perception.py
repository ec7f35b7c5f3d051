"""The node `fcclip`: open-vocabulary panoptic segmentation of camera topics."""

from __future__ import annotations

import functools
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, NoReturn

from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool

import fcclip_ros.msg as msg
import fcclip_ros.srv as srv
from fcclip_core.devices import free_memory
from fcclip_core.errors import DeviceLostError, FcclipError, SettingsError
from fcclip_core.images.camera_size import described_size
from fcclip_core.quoting import printable
from fcclip_core.segmenter import Segmenter
from fcclip_core.vocabulary.background import background_from
from fcclip_core.vocabulary.checks import find_warnings, summary
from fcclip_core.vocabulary.classes import Vocabulary
from fcclip_core.vocabulary.resolved_class import ResolvedClass
from fcclip_core.vocabulary.snapshot import VocabularySnapshot
from fcclip_ros.compat import destroy_state_machine, given_parameters, result_of
from fcclip_ros.conversions.frame import LabeledFrame
from fcclip_ros.conversions.images import cv_bridge
from fcclip_ros.conversions.messages import (
    class_messages,
    fill_segment_image,
    vocabulary_from_message,
    vocabulary_message,
)
from fcclip_ros.declarations import camera_names, declare, unknown_parameters
from fcclip_ros.node import parameters
from fcclip_ros.node.camera import Camera
from fcclip_ros.node.deadlines import Deadlines
from fcclip_ros.node.diagnostics import DiagnosticsPublisher, NodeState, make_status
from fcclip_ros.node.find import Access, FindServices
from fcclip_ros.node.managed import ManagedNode
from fcclip_ros.node.parameters import NodeParameters
from fcclip_ros.node.pipeline import Pipeline, VocabularyOptions
from fcclip_ros.node.remembered import MemoryClient
from fcclip_ros.node.teach import TeachService
from fcclip_ros.node.transforms import Transforms
from fcclip_ros.node.wait_for import WaitForAction
from fcclip_ros.node.word_queue import Superseded
from fcclip_ros.process.guarded import describe, guarded_transition
from fcclip_ros.process.runner import run_process
from fcclip_ros.qos import IMAGE_REQUESTS, REQUESTS

_SHUTDOWN_PATIENCE = 1.0
"""Seconds that a shutdown waits for the model."""

_CLEANUP_PATIENCE = 60.0
"""Seconds that a cleanup waits for the model."""

_NOT_CONFIGURED = (
    "the node is not configured; check its log or /diagnostics, then run: ros2 lifecycle set NODE configure"
)


class Perception(ManagedNode):
    """Labels the frames of one or several cameras; vocabularies may change at any time.

    `configure` loads the model, `activate` subscribes. The executor receives messages and serves requests; transitions,
    text encoding and inference run on threads of their own, so that nothing blocks it.
    """

    def __init__(
        self,
        load_segmenter: Callable[..., Segmenter] = Segmenter.from_checkpoint,
        stop: threading.Event | None = None,
        **options: Any,
    ) -> None:
        """Declares parameters and creates publishers and services; loads nothing.

        Args:
            load_segmenter: Creates the segmenter, with the signature of `Segmenter.from_checkpoint`.
            stop: Set by the node to end the process with `exit_status`.
            **options: Options of rclpy's LifecycleNode.

        Raises:
            SettingsError: A camera name is invalid.
        """
        super().__init__("fcclip", **options)
        self._stop = stop or threading.Event()
        self._load_segmenter = load_segmenter
        self._pipeline: Pipeline | None = None
        self._vocabulary: msg.Vocabulary | None = None
        self._distractors: tuple[ResolvedClass, ...] = ()
        self._active = False
        self._requested_vocabulary: Vocabulary | None = None
        """The vocabulary of the parameter that was requested last; None if it was rejected."""

        declare(self, parameters.PARAMETERS)
        given = given_parameters(self)
        for warning in unknown_parameters(given, self.has_parameter, parameters.PARAMETERS):
            self.get_logger().warning(warning)
        self.add_on_set_parameters_callback(self._on_parameters)

        names = camera_names(self.get_parameter("cameras").value)
        self._transforms = Transforms(self)
        self._cameras = tuple(Camera(self, name, self._on_image, self._transforms) for name in names)
        self._diagnostics = DiagnosticsPublisher(self, self._describe)
        # Reentrant: the callbacks await other threads without blocking the executor.
        group = ReentrantCallbackGroup()
        self.create_service(
            srv.SegmentImage,
            "~/segment_image",
            self._on_segment_image,
            qos_profile=IMAGE_REQUESTS,
            callback_group=group,
        )
        # For all cameras (None), and for each named camera.
        for camera in (None, *(camera for camera in self._cameras if camera.name)):
            for service, name, callback in (
                (srv.SetVocabulary, "set_vocabulary", self._on_set_vocabulary),
                (srv.GetVocabulary, "get_vocabulary", self._on_get_vocabulary),
                (SetBool, "enable", self._on_enable),
            ):
                name = camera.private_name(name) if camera else f"~/{name}"
                self.create_service(
                    service, name, functools.partial(callback, camera), qos_profile=REQUESTS, callback_group=group
                )
        self._deadlines = Deadlines()
        access = Access(
            self._configured, self._camera_by_name, self._reject, lambda: self._embedding_type, self._deadlines
        )
        self._find = FindServices(self, access)
        self._teach = TeachService(self, access)
        self._wait_for = WaitForAction(self, access, MemoryClient(self, self.get_parameter("memory_node").value))
        self._serve_transitions()

    def finish(self, patience: float = _SHUTDOWN_PATIENCE + 0.5) -> bool:
        """Shuts down from any lifecycle state.

        Args:
            patience: Seconds to wait.

        Returns:
            False if a thread is still running.
        """
        if self._lifecycle == "configuring":  # Loading the model may take long and cannot be interrupted.
            return False
        return self._ended(patience) and self._transitions.stop(patience / 10) and self._pipeline is None

    def destroy_node(self) -> None:
        """As rclpy's, and destroys the action server and state machine, which would keep the node in the ROS graph."""
        self._deadlines.close()
        self._wait_for.destroy()
        self._transforms.destroy()
        super().destroy_node()
        destroy_state_machine(self)

    def callback_failed(self, what: str, error: Exception) -> None:
        """Logs and counts an error."""
        super().callback_failed(what, error)
        for camera in self._cameras:
            camera.statistics.error(f"{what} failed: {describe(error)}")
        self._end_if_lost(error)

    # Lifecycle, on the transitions thread

    @guarded_transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn | None:
        """Loads the model and the vocabulary; on failure the node stays unconfigured and logs the reason."""
        self._lifecycle, self._problem = "configuring", ""
        try:
            self._configuration = NodeParameters.from_values(parameters.values_of(self))
            self._load(self._configuration)
        except Exception as error:
            self._note_unconfigured(error)
            self._unload(_CLEANUP_PATIENCE)
            for camera in self._cameras:
                camera.statistics.error(self._problem)
            failure = self._log_unconfigured(error)
            self._end_if_lost(error)
            return failure
        self._lifecycle = "inactive"
        return None

    @guarded_transition
    def on_activate(self, state: LifecycleState) -> None:
        """Subscribes to the cameras."""
        super().on_activate(state)
        self._active, self._lifecycle = True, "active"
        assert self._pipeline is not None  # Only a configured node is activated.
        for camera in self._cameras:
            camera.start(self._configuration, self._pipeline.segmenter)
        self._update_transforms()

    @guarded_transition
    def on_deactivate(self, state: LifecycleState) -> None:
        """Unsubscribes; the model and the vocabulary stay loaded."""
        self._stop_stream()
        super().on_deactivate(state)
        self._lifecycle = "inactive"

    @guarded_transition
    def on_cleanup(self, state: LifecycleState) -> None:
        """Unloads the model."""
        self._unload(_CLEANUP_PATIENCE)
        self._lifecycle = "unconfigured"

    @guarded_transition
    def on_shutdown(self, state: LifecycleState) -> None:
        """Unsubscribes and unloads the model."""
        self._stop_stream()
        super().on_shutdown(state)
        self._unload(_SHUTDOWN_PATIENCE)
        self._lifecycle = "finalized"

    @guarded_transition
    def on_error(self, state: LifecycleState) -> None:
        """Returns to unconfigured after a transition that raised."""
        self._stop_stream()
        super().on_deactivate(state)
        self._unload(_CLEANUP_PATIENCE)
        self._lifecycle = "unconfigured"

    def _load(self, configuration: NodeParameters) -> None:
        # Before the model, so that errors are reported early.
        vocabulary = configuration.load_words() if configuration.has_own_words else None
        ignore_masks = configuration.load_ignore_masks()
        if not configuration.checkpoint:
            raise SettingsError(
                "the parameter checkpoint is empty; set it to auto, a checkpoint file, a bundled name or recipe:NAME "
                "(see `fcclip weights list`)"
            )
        self._settings = configuration.settings
        source = configuration.train_vocabulary
        began = time.monotonic()
        segmenter = self._load_segmenter(
            configuration.checkpoint,
            device=configuration.device,
            backend=configuration.backend,
            precision=configuration.precision,
            vanished_masks=configuration.vanished_masks,
            settings=configuration.settings,
            train_vocabulary=Vocabulary.load(source) if source else None,
        )
        if configuration.camera_size:
            width, height = configuration.camera_size
            self.get_logger().info(f"preparing for {described_size(width, height)}")
            segmenter.prepare(height, width)
        for camera, ignore_mask in zip(self._cameras, ignore_masks, strict=True):
            camera.configure(configuration, ignore_mask)
        self._pipeline = Pipeline(
            segmenter,
            self._cameras,
            announce=self._announce,
            lost=self._end_if_lost,
            max_batch=configuration.max_batch,
        )
        self._pipeline.max_image_pixels = configuration.max_image_pixels
        self._pipeline.gray_range = configuration.gray16_range
        self.get_logger().info(
            printable(
                f"loaded {configuration.checkpoint} in {time.monotonic() - began:.1f} s: "
                f"{segmenter.backend_description}"
            )
        )
        # Loaded here, because it takes too long for the first frame to wait for it.
        self.get_logger().info(f"images are converted by {'cv_bridge' if cv_bridge() else 'OpenCV, without cv_bridge'}")
        if vocabulary is None:
            vocabulary = configuration.load_words(segmenter.train_vocabulary)
        self._log_warnings(find_warnings(vocabulary, configuration.stuff))
        background = background_from(configuration.background, segmenter.default_background)
        self._pipeline.vocabulary_options = VocabularyOptions(
            configuration.stuff, configuration.publish_only, background
        )
        self._pipeline.set_vocabulary(vocabulary).result()
        self._requested_vocabulary = vocabulary
        if configuration.camera_size:
            segmenter.prepare_in_background(height, width, min(configuration.max_batch, len(self._cameras)))

    def _update_transforms(self) -> None:
        """Receives transforms as long as 3D outputs need them."""
        # The same frame for all cameras.
        target = self._cameras[0].target_frame.name
        self._transforms.need(self._active and self._configuration.use_depth and bool(target))

    def _stop_stream(self) -> None:
        self._active = False
        self._transforms.need(False)
        for camera in self._cameras:
            camera.stop()
            if self._pipeline is not None:
                self._pipeline.discard_frame(camera)

    def _unload(self, patience: float) -> None:
        pipeline, self._vocabulary, self._requested_vocabulary, self._distractors = self._pipeline, None, None, ()
        for camera in self._cameras:
            camera.vocabulary, camera.distractors = None, ()
        if pipeline is None:
            return
        if pipeline.close(patience):
            device = pipeline.segmenter.device
            self._pipeline = pipeline = None
            # Threads and callbacks form reference cycles, which would keep the model in memory for a while.
            free_memory(device)
        else:
            self.get_logger().warning(f"the model is still processing a frame or a vocabulary after {patience:.0f} s")

    # Frames and services, in the executor

    def _on_image(self, camera: Camera, message: Any) -> None:
        pipeline = self._pipeline
        if pipeline is not None and self._active and camera.enabled:
            pipeline.enqueue_frame(camera, message)

    async def _on_set_vocabulary(
        self, camera: Camera | None, request: srv.SetVocabulary.Request, response: srv.SetVocabulary.Response
    ) -> srv.SetVocabulary.Response:
        try:
            vocabulary = vocabulary_from_message(request.classes)
            snapshot = await result_of(self._configured().set_vocabulary(vocabulary, camera), self.executor)
        except Exception as error:
            response.message = self._reject("set_vocabulary: request rejected", error, camera)
            active = self._vocabulary_of(camera)
            response.version = active.version if active else 0
            return response
        response.success = True
        response.message = self._log_warnings(find_warnings(vocabulary))
        response.version = snapshot.version
        response.ids = array("H", snapshot.class_ids[: len(vocabulary)])
        return response

    def _on_get_vocabulary(
        self, camera: Camera | None, request: srv.GetVocabulary.Request, response: srv.GetVocabulary.Response
    ) -> srv.GetVocabulary.Response:
        response.vocabulary = self._vocabulary_of(camera) or msg.Vocabulary()
        response.distractors = class_messages(camera.distractors if camera else self._distractors)
        return response

    async def _on_segment_image(
        self, request: srv.SegmentImage.Request, response: srv.SegmentImage.Response
    ) -> srv.SegmentImage.Response:
        def fill(frame: LabeledFrame) -> None:
            stamp = self.get_clock().now().to_msg()
            vocabulary = self._vocabulary if frame.snapshot.version else None
            contour_type = self._cameras[0].outputs.contour_type
            fill_segment_image(response, frame, vocabulary, stamp, self._embedding_type, contour_type)

        try:
            vocabulary = vocabulary_from_message(request.classes) if request.classes else None
            await result_of(self._configured().segment(request.image, vocabulary, fill), self.executor)
        except Exception as error:
            response.message = self._reject("segment_image: request rejected", error)
            return response
        response.success = True
        response.message = summary(find_warnings(vocabulary)) if vocabulary else ""
        return response

    def _on_enable(
        self, camera: Camera | None, request: SetBool.Request, response: SetBool.Response
    ) -> SetBool.Response:
        for changed in (camera,) if camera else self._cameras:
            changed.enabled = request.data
            if not request.data and self._pipeline is not None:
                self._pipeline.discard_frame(changed)
        response.success = True
        response.message = "inference is enabled" if request.data else "inference is disabled; frames are ignored"
        return response

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        values, before = {change.name: change.value for change in changes}, parameters.values_of(self)
        try:
            changed = parameters.check_change(before, values, self._lifecycle)
            trained_on = self._pipeline.segmenter.train_vocabulary if self._pipeline else None
            readable = changed.has_own_words or trained_on is not None
            vocabulary = changed.load_words(trained_on) if "vocabulary" in values and readable else None
            background = self._pipeline.vocabulary_options.background if self._pipeline else None
            options = VocabularyOptions(changed.stuff, changed.publish_only, background)
            if vocabulary is not None:
                options.apply(vocabulary)
        except FcclipError as error:
            return SetParametersResult(successful=False, reason=printable(error))
        for camera in self._cameras:
            camera.apply_parameters(changed)
        self._update_transforms()
        pipeline, reason = self._pipeline, ""
        if pipeline is not None:
            pipeline.max_image_pixels = changed.max_image_pixels
            pipeline.gray_range = changed.gray16_range
            if changed.settings != self._settings:
                pipeline.segmenter.settings = self._settings = changed.settings
            reason = self._change_vocabulary(pipeline, vocabulary, options)
        if reason:  # rclpy drops the reason of a successful change if another callback follows.
            self.get_logger().info(reason)
        return SetParametersResult(successful=True, reason=reason)

    def _change_vocabulary(self, pipeline: Pipeline, vocabulary: Vocabulary | None, options: VocabularyOptions) -> str:
        """Applies changed vocabulary parameters; returns a message for the user.

        Args:
            pipeline: The pipeline.
            vocabulary: The new value of the parameter vocabulary; None if it was not set.
            options: The values of the other parameters.
        """
        if vocabulary is not None and vocabulary != self._requested_vocabulary:
            self._requested_vocabulary = vocabulary
            pipeline.vocabulary_options = options
            pipeline.set_vocabulary(vocabulary).add_done_callback(self._check_vocabulary)
            warnings = self._log_warnings(find_warnings(vocabulary, options.stuff))
            text = f"{len(vocabulary)} classes are being encoded; see ~/vocabulary or the log for their activation"
            return f"{text}; {warnings}" if warnings else text
        warnings = ""
        if options != pipeline.vocabulary_options:
            pipeline.change_options(options).add_done_callback(self._check_options)
            current = pipeline.requested_vocabulary
            warnings = self._log_warnings(find_warnings(current, options.stuff)) if current else ""
        if vocabulary is None:
            return warnings
        active = self._vocabulary
        return (
            f"vocabulary is unchanged; the active vocabulary (version {active.version if active else 0}) stays, "
            "whether it was set by parameter or by service; use ~/set_vocabulary to replace it"
        )

    def _configured(self) -> Pipeline:
        if self._pipeline is None or self._lifecycle not in ("inactive", "active"):
            raise FcclipError(_NOT_CONFIGURED)
        return self._pipeline

    def _camera_by_name(self, name: str) -> Camera:
        """The camera of that name, the first one for an empty name; FcclipError for an unknown name."""
        for camera in self._cameras:
            if name in ("", camera.name):
                return camera
        names = ", ".join(camera.name for camera in self._cameras)
        expected = f"one of the parameter cameras: {names}" if names else "an empty name: the node has one camera"
        raise FcclipError(f"there is no camera {name!r}; expected {expected}")

    @property
    def _embedding_type(self) -> str:
        # The same for all cameras.
        return self._cameras[0].outputs.embedding_type

    def _vocabulary_of(self, camera: Camera | None) -> msg.Vocabulary | None:
        """The active vocabulary of a camera; None: the latest one for all cameras."""
        return camera.vocabulary if camera else self._vocabulary

    def _log_warnings(self, found: Sequence[str]) -> str:
        """Logs warnings about a vocabulary, and returns them for the response."""
        if found:
            self.get_logger().warning(printable(f"vocabulary: {summary(found)}"))
        return summary(found)

    def _reject(self, what: str, error: BaseException, camera: Camera | None = None) -> str:
        """Counts and logs a rejected request, and returns the reason for the response."""
        if isinstance(error, CancelledError):
            reason = "the node is being shut down or cleaned up"
        else:
            reason = printable(describe(error))
        if isinstance(error, Superseded):
            # Neither the node nor the request is at fault: not counted as a rejected request.
            self.get_logger().info(f"{what}: {reason}")
            return reason
        for affected in (camera,) if camera else self._cameras:
            affected.statistics.refused(f"{what}: {reason}")
        self.get_logger().warning(f"{what}: {reason}")
        self._end_if_lost(error)
        return reason

    def _describe(self) -> list[DiagnosticStatus]:
        reports = [(camera, camera.statistics.report()) for camera in self._cameras]
        return [
            make_status(camera.title, self._state_of(camera, report.input_rate), report) for camera, report in reports
        ]

    def _state_of(self, camera: Camera, image_rate: float) -> NodeState:
        pipeline, vocabulary = self._pipeline, camera.vocabulary
        segmenter = pipeline.segmenter if pipeline else None
        return NodeState(
            lifecycle=self._lifecycle,
            enabled=camera.enabled,
            checkpoint=self.get_parameter("checkpoint").value,
            device=str(segmenter.device) if segmenter else "",
            backend=segmenter.backend_description if segmenter else "",
            backend_requested=self.get_parameter("backend").value,
            backend_warning=segmenter.backend_warning if segmenter else "",
            image_input=camera.input.describe(),
            image_problem=camera.input.problem,
            depth=camera.depth.state(image_rate),
            transform=camera.target_frame.state(),
            vocabulary_version=vocabulary.version if vocabulary else 0,
            vocabulary_classes=len(vocabulary.classes) if vocabulary else 0,
            distractors=len(camera.distractors),
            encoding_classes=pipeline.encoding_classes if pipeline else 0,
            problem=self._problem,
            mask_problem=camera.mask_problem,
        )

    # On any thread

    def _end_if_lost(self, error: BaseException) -> None:
        """Ends the process if its device is lost, so that a respawned node works again."""
        if not isinstance(error, DeviceLostError) or self.exit_status:
            return
        self.exit_status = 1
        self._problem = str(error)
        self.get_logger().fatal(f"shutting down: {error}")
        self._stop.set()
        self._diagnostics.publish()

    # On the pipeline's threads

    def _announce(self, snapshot: VocabularySnapshot) -> None:
        # Reuses the message of a camera that has this vocabulary, if there is one.
        messages = (camera.vocabulary for camera in self._cameras)
        same = (message for message in messages if message and message.version == snapshot.version)
        self._vocabulary = next(same, None) or vocabulary_message(snapshot, self.get_clock().now().to_msg())
        self._distractors = snapshot.distractors
        more = f", with {len(snapshot.distractors)} distractors" if snapshot.distractors else ""
        self.get_logger().info(f"{len(snapshot.published)} classes are active, version {snapshot.version}{more}")

    def _check_vocabulary(self, change: Future[VocabularySnapshot]) -> None:
        if change.cancelled() or (error := change.exception()) is None:
            return
        if not isinstance(error, Superseded):
            self._requested_vocabulary = None  # Setting the parameter to the same value retries.
        self._reject("vocabulary not changed to the value of the parameter", error)

    def _check_options(self, change: Future[list[VocabularySnapshot]]) -> None:
        if change.cancelled():
            return
        if (error := change.exception()) is not None:
            self._reject("parameters stuff and publish_only not applied", error)
        elif not change.result():
            self.get_logger().info("the parameters stuff and publish_only change no active class")


def main(args: Sequence[str] | None = None, load_segmenter: Callable[..., Segmenter] | None = None) -> NoReturn:
    """Runs the node until SIGINT or SIGTERM, or until its device is lost, with exit status 1."""
    run_process(lambda stop: Perception(load_segmenter or Segmenter.from_checkpoint, stop), args)


if __name__ == "__main__":
    main()
