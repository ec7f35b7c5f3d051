"""The node `fcclip`: camera topics in, panoptic labels out. Wiring only."""

from __future__ import annotations

import functools
import threading
import time
import traceback
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, NoReturn

from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
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
from fcclip_core.vocabulary.classes import Vocabulary
from fcclip_core.vocabulary.doubts import doubts, summary
from fcclip_core.vocabulary.snapshot import ResolvedClass, VocabularySnapshot
from fcclip_ros.compat import RCLError, destroy_state_machine, given_parameters, result_of, run_transitions_in
from fcclip_ros.conversions.frame import LabeledFrame
from fcclip_ros.conversions.images import cv_bridge
from fcclip_ros.conversions.messages import (
    class_messages,
    fill_segment_image,
    vocabulary_from_message,
    vocabulary_message,
)
from fcclip_ros.declarations import declare, unknown_parameters
from fcclip_ros.node import parameters
from fcclip_ros.node.camera import Camera
from fcclip_ros.node.deadlines import Deadlines
from fcclip_ros.node.diagnostics import DiagnosticsPublisher, NodeState
from fcclip_ros.node.find import Access, FindServices
from fcclip_ros.node.frame_statistics import Report
from fcclip_ros.node.parameters import NodeParameters
from fcclip_ros.node.pipeline import Pipeline, WordOptions
from fcclip_ros.node.wait_for import WaitForAction
from fcclip_ros.node.word_queue import Superseded
from fcclip_ros.node.worker import Worker
from fcclip_ros.process.guarded import GuardedNode, describe, guarded_transition
from fcclip_ros.process.runner import run_process
from fcclip_ros.qos import IMAGE_REQUESTS, REQUESTS

_SHUTDOWN_PATIENCE = 1.0
"""Seconds that the end of the process waits for the model."""

_CLEANUP_PATIENCE = 60.0
"""Seconds that cleaning up waits for the model."""

_NOT_CONFIGURED = "the node is not configured; see its log or /diagnostics, then: ros2 lifecycle set NODE configure"


class Perception(GuardedNode, LifecycleNode):
    """Labels the frames of one camera or several with vocabularies that may change at any time.

    Configuring loads the weights, activating subscribes. The executor's thread takes messages and answers services;
    transitions, words and frames each have a thread of their own, so that nothing keeps it waiting.
    """

    def __init__(
        self,
        load_segmenter: Callable[..., Segmenter] = Segmenter.from_checkpoint,
        stop: threading.Event | None = None,
        **options: Any,
    ) -> None:
        """Declares parameters and makes publishers and services; loads nothing.

        Args:
            load_segmenter: Makes the segmenter, called as `Segmenter.from_checkpoint`.
            stop: Is set when the process should end by itself, with `exit_status`.
            **options: For rclpy's LifecycleNode.

        Raises:
            SettingsError: The cameras' names do not do.
        """
        super().__init__("fcclip", **options)
        self.exit_status = 0
        self._stop = stop or threading.Event()
        self._load_segmenter = load_segmenter
        self._pipeline: Pipeline | None = None
        self._vocabulary: msg.Vocabulary | None = None
        self._distractors: tuple[ResolvedClass, ...] = ()
        self._lifecycle = "unconfigured"
        self._active = False
        self._problem = ""
        self._given: Vocabulary | None = None
        """The words that the parameter vocabulary gave last, as far as they came into force."""
        self._transitions: Worker[None] = Worker("transitions")

        declare(self, parameters.PARAMETERS)
        given = given_parameters(self)
        for complaint in unknown_parameters(given, self.has_parameter, parameters.PARAMETERS):
            self.get_logger().warning(complaint)
        self.add_on_set_parameters_callback(self._on_parameters)

        names = parameters.camera_names(self.get_parameter("cameras").value)
        self._cameras = tuple(Camera(self, name, self._on_image) for name in names)
        self._diagnostics = DiagnosticsPublisher(self, self._describe)
        # Reentrant, because these callbacks wait for other threads without holding up the executor.
        group = ReentrantCallbackGroup()
        self.create_service(
            srv.SegmentImage,
            "~/segment_image",
            self._on_segment_image,
            qos_profile=IMAGE_REQUESTS,
            callback_group=group,
        )
        # For all cameras, and for each one that has a name.
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
            self._configured, self._camera_called, self._refusal, lambda: self._embedding_type, self._deadlines
        )
        self._find = FindServices(self, access)
        self._wait_for = WaitForAction(self, access)
        run_transitions_in(self, self._transitions.submit, lambda reason: self.get_logger().error(reason))

    def begin(self) -> None:
        """Starts by itself, if the parameter autostart says so."""
        if self.get_parameter("autostart").value:
            self._transitions.submit(self._autostart)

    def finish(self, patience: float = _SHUTDOWN_PATIENCE + 0.5) -> bool:
        """Shuts down from whatever state the node is in.

        Args:
            patience: Seconds to wait for it.

        Returns:
            False if a thread still works.
        """
        if self._lifecycle == "configuring":  # Nobody waits for weights that nobody will use.
            return False
        try:
            self._transitions.submit(self._shut_down).result(patience)
        except (TimeoutError, FutureTimeoutError):
            return False
        except Exception as error:
            self.callback_failed("shutting down", error)
            return False
        return self._transitions.stop(patience / 10) and self._pipeline is None

    def destroy_node(self) -> None:
        """As rclpy's, which leaves action servers and state machines; what is left keeps the node in the ROS graph."""
        self._deadlines.close()
        self._wait_for.destroy()
        super().destroy_node()
        destroy_state_machine(self)

    def callback_failed(self, what: str, error: Exception) -> None:
        """Counts it, besides saying it."""
        super().callback_failed(what, error)
        for camera in self._cameras:
            camera.statistics.error(f"{what} failed: {describe(error)}")
        self._end_if_lost(error)

    # Lifecycle, on the transitions' thread

    @guarded_transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the weights and the vocabulary; on failure the node stays unconfigured and says why."""
        self._lifecycle, self._problem = "configuring", ""
        try:
            self._configuration = NodeParameters.from_values(parameters.values_of(self))
            self._load(self._configuration)
        except Exception as error:
            self._lifecycle, self._problem = "unconfigured", printable(f"cannot configure: {describe(error)}")
            self._unload(_CLEANUP_PATIENCE)
            for camera in self._cameras:
                camera.statistics.error(self._problem)
            name = self.get_fully_qualified_name()
            self.get_logger().error(f"{self._problem}; put that right, then: ros2 lifecycle set {name} configure")
            if not isinstance(error, FcclipError):
                self.get_logger().error(printable(traceback.format_exc()))
            self._end_if_lost(error)
            return TransitionCallbackReturn.FAILURE
        self._lifecycle = "inactive"
        return TransitionCallbackReturn.SUCCESS

    @guarded_transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribes to the cameras."""
        super().on_activate(state)
        self._active, self._lifecycle = True, "active"
        assert self._pipeline is not None  # Only a configured node is activated.
        for camera in self._cameras:
            camera.start(self._configuration, self._pipeline.segmenter)
        return TransitionCallbackReturn.SUCCESS

    @guarded_transition
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribes; the weights and the vocabulary stay."""
        self._stop_stream()
        super().on_deactivate(state)
        self._lifecycle = "inactive"
        return TransitionCallbackReturn.SUCCESS

    @guarded_transition
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lets go of the weights."""
        self._unload(_CLEANUP_PATIENCE)
        self._lifecycle = "unconfigured"
        return TransitionCallbackReturn.SUCCESS

    @guarded_transition
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops for good."""
        self._stop_stream()
        super().on_shutdown(state)
        self._unload(_SHUTDOWN_PATIENCE)
        self._lifecycle = "finalized"
        return TransitionCallbackReturn.SUCCESS

    @guarded_transition
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
        except Exception as error:  # Nobody waits for this function's outcome.
            self.callback_failed("starting", error)

    def _shut_down(self) -> None:
        if self._lifecycle != "finalized":
            self.trigger_shutdown()

    def _load(self, configuration: NodeParameters) -> None:
        # Before the model, which takes longer to load.
        vocabulary = configuration.load_words() if configuration.has_own_words else None
        ignore_masks = configuration.load_ignore_masks()
        if not configuration.checkpoint:
            raise SettingsError(
                "the parameter checkpoint is empty; set it to auto, a weights file, a bundled name or recipe:NAME "
                "(`fcclip weights list` shows what there is)"
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
            self.get_logger().info(f"making ready for {described_size(width, height)}")
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
        self.get_logger().info(
            printable(
                f"loaded {configuration.checkpoint} in {time.monotonic() - began:.1f} s: {self._pipeline.backend}"
            )
        )
        # Looked for here, because the search takes too long for a frame to wait for it.
        self.get_logger().info(f"colors are converted by {'cv_bridge' if cv_bridge() else 'OpenCV, without cv_bridge'}")
        if vocabulary is None:
            vocabulary = configuration.load_words(segmenter.train_vocabulary)
        self._say_doubts(doubts(vocabulary, configuration.stuff))
        background = background_from(configuration.background, segmenter.default_background)
        self._pipeline.word_options = WordOptions(configuration.stuff, configuration.publish_only, background)
        self._pipeline.set_vocabulary(vocabulary).result()
        self._given = vocabulary
        if configuration.camera_size:
            most_together = min(configuration.max_batch, len(self._cameras))
            segmenter.prepare_beside(height, width, most_together)

    def _stop_stream(self) -> None:
        self._active = False
        for camera in self._cameras:
            camera.stop()
            if self._pipeline is not None:
                self._pipeline.discard_frame(camera)

    def _unload(self, patience: float) -> None:
        pipeline, self._vocabulary, self._given, self._distractors = self._pipeline, None, None, ()
        for camera in self._cameras:
            camera.vocabulary, camera.distractors = None, ()
        if pipeline is None:
            return
        if pipeline.close(patience):
            device = pipeline.segmenter.device
            self._pipeline = pipeline = None
            # Threads and callbacks refer to each other; without this the weights would stay for a while.
            free_memory(device)
        else:
            self.get_logger().warning(f"the model still works on a frame or a vocabulary after {patience:.0f} s")

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
            response.message = self._refusal("vocabulary not changed", error, camera)
            in_force = self._vocabulary_of(camera)
            response.version = in_force.version if in_force else 0
            return response
        response.success = True
        response.message = self._say_doubts(doubts(vocabulary))
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
            response.message = self._refusal("image not segmented", error)
            return response
        response.success = True
        response.message = summary(doubts(vocabulary)) if vocabulary else ""
        return response

    def _on_enable(
        self, camera: Camera | None, request: SetBool.Request, response: SetBool.Response
    ) -> SetBool.Response:
        for changed in (camera,) if camera else self._cameras:
            changed.enabled = request.data
            if not request.data and self._pipeline is not None:
                self._pipeline.discard_frame(changed)
        response.success = True
        response.message = "inference runs" if request.data else "inference is stopped; frames are ignored"
        return response

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        values, before = {change.name: change.value for change in changes}, parameters.values_of(self)
        try:
            changed = parameters.check_change(before, values, self._lifecycle)
            trained_on = None if self._pipeline is None else self._pipeline.segmenter.train_vocabulary
            readable = changed.has_own_words or trained_on is not None
            vocabulary = changed.load_words(trained_on) if "vocabulary" in values and readable else None
            background = None if self._pipeline is None else self._pipeline.word_options.background
            options = WordOptions(changed.stuff, changed.publish_only, background)
            if vocabulary is not None:
                options.apply(vocabulary)
        except FcclipError as error:
            return SetParametersResult(successful=False, reason=printable(error))
        for camera in self._cameras:
            camera.apply_parameters(changed)
        pipeline, reason = self._pipeline, ""
        if pipeline is not None:
            pipeline.max_image_pixels = changed.max_image_pixels
            if changed.settings != self._settings:
                pipeline.settings = self._settings = changed.settings
            reason = self._change_words(pipeline, vocabulary, options)
        if reason:  # rclpy drops the reason of a change that is made where another callback follows.
            self.get_logger().info(reason)
        return SetParametersResult(successful=True, reason=reason)

    def _change_words(self, pipeline: Pipeline, vocabulary: Vocabulary | None, options: WordOptions) -> str:
        """Applies what differs of the parameters about words; returns what there is to say about it.

        Args:
            pipeline: The threads.
            vocabulary: What the parameter gives; None if it was not set.
            options: What the other parameters hold now.
        """
        differ = options != pipeline.word_options
        if vocabulary is not None and vocabulary != self._given:
            self._given = vocabulary
            pipeline.word_options = options
            pipeline.set_vocabulary(vocabulary).add_done_callback(self._check_vocabulary)
            said = self._say_doubts(doubts(vocabulary, options.stuff))
            ready = f"{len(vocabulary)} classes are made ready; ~/vocabulary and the log say when they are active"
            return f"{ready}; {said}" if said else ready
        said = ""
        if differ:
            pipeline.change_options(options).add_done_callback(self._check_options)
            current = pipeline.given_words
            said = self._say_doubts(doubts(current, options.stuff)) if current else ""
        if vocabulary is None:
            return said
        active = self._vocabulary
        return (
            f"vocabulary is what it was, so the active words (version {active.version if active else 0}) stay, whoever "
            "gave them; ~/set_vocabulary replaces them"
        )

    def _configured(self) -> Pipeline:
        if self._pipeline is None or self._lifecycle not in ("inactive", "active"):
            raise FcclipError(_NOT_CONFIGURED)
        return self._pipeline

    def _camera_called(self, name: str) -> Camera:
        """The camera of that name; the first one for an empty name."""
        for camera in self._cameras:
            if name in ("", camera.name):
                return camera
        names = ", ".join(camera.name for camera in self._cameras)
        advice = (
            f"the parameter cameras has {names}" if names else "the node has one, without a name: leave camera empty"
        )
        raise FcclipError(f"there is no camera {name!r}; {advice}")

    @property
    def _embedding_type(self) -> str:
        # One for all cameras.
        return self._cameras[0].outputs.embedding_type

    def _vocabulary_of(self, camera: Camera | None) -> msg.Vocabulary | None:
        """What is in force for a camera; None asks for what was last given to all."""
        return camera.vocabulary if camera else self._vocabulary

    def _say_doubts(self, found: Sequence[str]) -> str:
        """Logs what is doubtful in a vocabulary, and returns it for an answer."""
        if found:
            self.get_logger().warning(printable(f"vocabulary: {summary(found)}"))
        return summary(found)

    def _refusal(self, what: str, error: BaseException, camera: Camera | None = None) -> str:
        """Counts and logs a request that cannot be served, and returns what to answer."""
        if isinstance(error, CancelledError):
            reason = "the node is being shut down or cleaned up"
        else:
            reason = printable(describe(error))
        if isinstance(error, Superseded):
            # Neither the node's fault nor the request's: not counted as refused.
            self.get_logger().info(f"{what}: {reason}")
            return reason
        for concerned in (camera,) if camera else self._cameras:
            concerned.statistics.refused(f"{what}: {reason}")
        self.get_logger().warning(f"{what}: {reason}")
        self._end_if_lost(error)
        return reason

    def _describe(self) -> dict[str, tuple[NodeState, Report]]:
        reports = [(camera, camera.statistics.report()) for camera in self._cameras]
        return {camera.title: (self._state_of(camera, report.input_rate), report) for camera, report in reports}

    def _state_of(self, camera: Camera, image_rate: float) -> NodeState:
        pipeline, vocabulary = self._pipeline, camera.vocabulary
        return NodeState(
            lifecycle=self._lifecycle,
            enabled=camera.enabled,
            checkpoint=self.get_parameter("checkpoint").value,
            device=pipeline.device if pipeline else "",
            backend=pipeline.backend if pipeline else "",
            backend_requested=self.get_parameter("backend").value,
            backend_warning=pipeline.backend_warning if pipeline else "",
            image_input=camera.input.describe(),
            image_problem=camera.input.problem,
            depth=camera.depth.state(image_rate),
            vocabulary_version=vocabulary.version if vocabulary else 0,
            vocabulary_classes=len(vocabulary.classes) if vocabulary else 0,
            distractors=len(camera.distractors),
            encoding_classes=pipeline.encoding_classes if pipeline else 0,
            problem=self._problem,
            mask_problem=camera.mask_problem,
        )

    # On any thread

    def _end_if_lost(self, error: BaseException) -> None:
        """Ends the process if the device is lost to it: whoever starts it again has a node that works."""
        if not isinstance(error, DeviceLostError) or self.exit_status:
            return
        self.exit_status = 1
        self._problem = str(error)
        self.get_logger().fatal(f"the node ends: {error}")
        self._stop.set()
        self._diagnostics.publish()

    # On the pipeline's threads

    def _announce(self, snapshot: VocabularySnapshot) -> None:
        # The message of a camera that has no words of its own, where there is one.
        given = (camera.vocabulary for camera in self._cameras)
        same = (message for message in given if message and message.version == snapshot.version)
        self._vocabulary = next(same, None) or vocabulary_message(snapshot, self.get_clock().now().to_msg())
        self._distractors = snapshot.distractors
        beside = f", beside {len(snapshot.distractors)} distractors" if snapshot.distractors else ""
        self.get_logger().info(f"{len(snapshot.published)} classes are active, version {snapshot.version}{beside}")

    def _check_vocabulary(self, change: Future[VocabularySnapshot]) -> None:
        if change.cancelled() or (error := change.exception()) is None:
            return
        if not isinstance(error, Superseded):
            self._given = None  # Setting the parameter again tries again.
        self._refusal("vocabulary not changed, although the parameter says so", error)

    def _check_options(self, change: Future[list[VocabularySnapshot]]) -> None:
        if change.cancelled():
            return
        if (error := change.exception()) is not None:
            self._refusal("stuff and publish_only not applied, although the parameters say so", error)
        elif not change.result():
            self.get_logger().info("the parameters stuff and publish_only change no active class")


def main(args: Sequence[str] | None = None, load_segmenter: Callable[..., Segmenter] | None = None) -> NoReturn:
    """Runs the node until SIGINT or SIGTERM, or until its device is lost; then the exit status is 1."""
    run_process(lambda stop: Perception(load_segmenter or Segmenter.from_checkpoint, stop), args)


if __name__ == "__main__":
    main()
