"""The node `object_memory`: remembers the objects of the perception node's segments, and where they are."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, NoReturn

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import Header

from fcclip_core.errors import FcclipError, MemoryFileError, ObservationError, SettingsError
from fcclip_core.files.paths import expanded
from fcclip_core.memory.object_memory import ObjectMemory
from fcclip_core.memory.objects import State
from fcclip_core.quoting import printable
from fcclip_ros.compat import destroy_state_machine, given_parameters
from fcclip_ros.conversions.stamps import nanoseconds
from fcclip_ros.declarations import camera_names, declare, unknown_parameters
from fcclip_ros.memory.access import Access
from fcclip_ros.memory.camera import Arrival, MemoryCamera
from fcclip_ros.memory.changes import ChangeServices
from fcclip_ros.memory.diagnostics import MemoryState, camera_status, memory_status
from fcclip_ros.memory.keyframes import Keyframes, keyframes_of
from fcclip_ros.memory.map_watch import MapWatch
from fcclip_ros.memory.parameters import PARAMETERS, TF, MemoryParameters, check_change
from fcclip_ros.memory.poses import PoseSource, TopicPoses, TransformPoses, chosen_source
from fcclip_ros.memory.publisher import ObjectPublisher
from fcclip_ros.memory.recall import RecallService
from fcclip_ros.memory.words import PerceptionClient
from fcclip_ros.node.deadlines import Deadlines
from fcclip_ros.node.diagnostics import DiagnosticsPublisher
from fcclip_ros.node.managed import ManagedNode
from fcclip_ros.node.transforms import Transforms
from fcclip_ros.node.worker import Worker
from fcclip_ros.process.core_log import CoreLog
from fcclip_ros.process.guarded import describe, guarded_transition
from fcclip_ros.process.runner import run_process

_PATIENCE = 1.0
"""Seconds that a shutdown waits for the file; what is written later than that is lost."""

_NOT_CONFIGURED = (
    "the memory is not configured; check its log or /diagnostics, then run: ros2 lifecycle set NODE configure"
)


class ObjectMemoryNode(ManagedNode):
    """Remembers what one or several cameras see.

    `configure` opens the file, `activate` subscribes. The executor receives messages and serves requests; observations,
    questions and the disk have a thread each, so that none waits for another.
    """

    def __init__(self, stop: threading.Event, **options: Any) -> None:
        """Declares parameters and creates publishers and services; opens nothing.

        Args:
            stop: Set to end the process.
            **options: Options of rclpy's LifecycleNode.

        Raises:
            SettingsError: A camera name is invalid, or transforms are requested and cannot be received here.
        """
        super().__init__("object_memory", **options)
        self._stop = stop
        self._memory: ObjectMemory | None = None
        self._path_problem = self._file = ""
        self._clock_jumps = self._reanchored = 0
        self._core_log = CoreLog(self.get_logger())
        # Frames are functions: a frame of a camera, or the newest path of keyframes.
        self._observations: Worker[Any] = Worker("observations", lambda works: works[0](), failed=self._work_failed)
        self._requests: Worker[None] = Worker("requests")
        self._files: Worker[None] = Worker("files")

        declare(self, PARAMETERS)
        for warning in unknown_parameters(given_parameters(self), self.has_parameter, PARAMETERS):
            self.get_logger().warning(warning)
        self._configuration = MemoryParameters.defaults()
        self.add_on_set_parameters_callback(self._on_parameters)

        names = camera_names(self.get_parameter("cameras").value)
        perception = self.get_parameter("perception_node").value
        self._source, said = chosen_source(self.get_parameter("pose_source").value)
        if said:
            self.get_logger().info(said)
        self._transforms = Transforms(self, "map_frame", "pose_wait")
        self._map_watch = MapWatch(self._transforms)
        self._cameras = tuple(
            MemoryCamera(self, name, perception, self._poses_of(name), self._on_frame) for name in names
        )
        self._keyframes = Keyframes(self, self._on_path)
        self._deadlines = Deadlines()
        access = Access(
            self._configured,
            lambda: self._configuration,
            self._header,
            self._base_from_camera,
            lambda: self._publisher.changed(),
            self._refuse,
            self._requests,
        )
        self._publisher = ObjectPublisher(self, access)
        self._recall = RecallService(self, access, PerceptionClient(self, perception, self._deadlines))
        self._changes = ChangeServices(self, access, self._files, self._load)
        self._diagnostics = DiagnosticsPublisher(self, self._describe)
        self._serve_transitions()

    def finish(self) -> bool:
        """Shuts down from any lifecycle state, saving what is remembered; False if a thread is still running."""
        if not self._ended(_PATIENCE + 0.5):
            return False
        workers = (self._transitions, self._observations, self._requests, self._files)
        return all([worker.stop(_PATIENCE / 4) for worker in workers])

    def destroy_node(self) -> None:
        """As rclpy's, and destroys the state machine, which would keep the node in the ROS graph."""
        self._deadlines.close()
        self._transforms.destroy()
        self._core_log.close()
        super().destroy_node()
        destroy_state_machine(self)

    # Lifecycle, on the transitions thread

    @guarded_transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn | None:
        """Opens the file; on failure the node stays unconfigured and logs the reason."""
        self._lifecycle, self._problem = "configuring", ""
        try:
            self._configuration = MemoryParameters.from_values(self._values())
            self._memory = self._opened(self._configuration.file)
        except Exception as error:
            self._note_unconfigured(error)
            return self._log_unconfigured(error)
        self._publisher.changed()
        self._lifecycle = "inactive"
        return None

    @guarded_transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn | None:
        """Subscribes; on failure the node stays inactive and logs the reason."""
        try:
            for number, camera in enumerate(self._cameras):
                camera.start(self._configuration, self._configuration.offset_of(number))
            self._keyframes.start(self._configuration)
        except SettingsError as error:
            self._stop_stream()
            self._lifecycle, self._problem = "inactive", printable(f"cannot activate: {error}")
            self.get_logger().error(self._problem)
            return TransitionCallbackReturn.FAILURE
        super().on_activate(state)
        self._transforms.need(self._source == TF)
        self._publisher.start(self._configuration.publish_rate)
        self._lifecycle, self._problem = "active", ""
        return None

    @guarded_transition
    def on_deactivate(self, state: LifecycleState) -> None:
        """Unsubscribes; what is remembered can still be asked for."""
        self._stop_stream()
        super().on_deactivate(state)
        self._lifecycle = "inactive"

    @guarded_transition
    def on_cleanup(self, state: LifecycleState) -> None:
        """Saves and closes the file."""
        self._close(30.0)
        self._lifecycle = "unconfigured"

    @guarded_transition
    def on_shutdown(self, state: LifecycleState) -> None:
        """Unsubscribes, saves and closes the file."""
        self._stop_stream()
        super().on_shutdown(state)
        self._close(_PATIENCE)
        self._lifecycle = "finalized"

    @guarded_transition
    def on_error(self, state: LifecycleState) -> None:
        """Returns to unconfigured after a transition that raised."""
        self._stop_stream()
        super().on_deactivate(state)
        self._close(_PATIENCE)
        self._lifecycle = "unconfigured"

    def _stop_stream(self) -> None:
        self._lifecycle = "deactivating"
        self._transforms.need(False)
        self._keyframes.stop()
        self._publisher.stop()
        for camera in self._cameras:
            camera.stop()
            self._observations.discard(camera)
        # What is being observed still belongs to the memory.
        with contextlib.suppress(TimeoutError, FutureTimeoutError):  # a frame may wait longer for its pose
            self._observations.submit(lambda: None).result(_PATIENCE)

    def _opened(self, file: str) -> ObjectMemory:
        """A memory with the file of that name, without one for an empty name."""
        settings, self._file = self._configuration.settings, file
        if not file:
            self.get_logger().info("the parameter file is empty: what is remembered is forgotten at the end")
            return ObjectMemory(settings)
        path = expanded(file)
        memory = ObjectMemory(settings, path)
        self.get_logger().info(printable(f"{len(memory)} objects are remembered in {path}"))
        return memory

    def _close(self, patience: float) -> None:
        memory, self._memory = self._memory, None
        if memory is None:
            return
        try:
            memory.close(patience)
        except MemoryFileError as error:
            self.get_logger().error(printable(f"objects are lost: {error}"))

    # In the executor

    def _poses_of(self, camera: str) -> PoseSource:
        if self._source == TF:
            return TransformPoses(self._transforms)
        return TopicPoses(self, f"{camera}/pose" if camera else "pose")

    def _on_frame(self, camera: MemoryCamera, arrival: Arrival) -> None:
        if self._lifecycle != "active":
            return
        if self._observations.replace(camera, functools.partial(self._observe, camera, arrival)) is not None:
            camera.statistics.dropped()

    def _on_path(self, message: Any) -> None:
        if self._lifecycle == "active":
            self._observations.replace(self._keyframes, functools.partial(self._follow, message))

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        try:
            given = {change.name: change.value for change in changes}
            parameters = check_change(self._values(), given, self._lifecycle)
        except FcclipError as error:
            return SetParametersResult(successful=False, reason=printable(error))
        self._configuration = parameters
        for camera in self._cameras:
            camera.apply(parameters)
        if self._lifecycle == "active":
            self._publisher.start(parameters.publish_rate)
        self._publisher.changed()
        return SetParametersResult(successful=True)

    def _values(self) -> dict[str, Any]:
        return {declaration.name: self.get_parameter(declaration.name).value for declaration in PARAMETERS}

    def _describe(self) -> list[DiagnosticStatus]:
        memory = self._memory
        counts = memory.counts() if memory is not None else dict.fromkeys(State, 0)
        state = MemoryState(
            lifecycle=self._lifecycle,
            problem=self._problem,
            file=self._file,
            file_problem=memory.problem if memory is not None else "",
            objects=counts[State.CONFIRMED],
            tentative=counts[State.TENTATIVE],
            gone=counts[State.GONE],
            map_jumps=self._map_watch.jumps,
            clock_jumps=self._clock_jumps,
            reanchored=self._reanchored,
            path_problem=self._path_problem,
        )
        return [memory_status(state), *(camera_status(camera, self._lifecycle) for camera in self._cameras)]

    # On the thread of observations

    def _observe(self, camera: MemoryCamera, arrival: Arrival) -> None:
        memory = self._memory
        if memory is None:
            return
        began, stamp = time.monotonic(), nanoseconds(arrival.message.header.stamp)
        if camera.jumped_back(stamp):
            self._clock_jumps += 1
            self._map_watch.restart()
            camera.forget_past()
            self.get_logger().warning("the stamps of the segments jumped back; earlier poses are forgotten")
        observation = camera.observe(arrival)
        if observation is None:
            return
        ready = time.monotonic()
        if self._source == TF:
            self._look_at_map(stamp, observation.map_from_camera[:3, 3])
        try:
            memory.observe(observation)
        except ObservationError as error:
            camera.reject(str(error))
            return
        ended = time.monotonic()
        self._publisher.changed()
        camera.statistics.labeled(
            {"waiting": began - arrival.time, "preparing": ready - began, "remembering": ended - ready}
        )

    def _look_at_map(self, stamp: int, place: np.ndarray) -> None:
        jump = self._map_watch.look(self._configuration, stamp, place)
        if not jump:
            return
        follows = (
            "objects follow the keyframes"
            if self._keyframes.is_used
            else "objects keep their places in the map, and those seen shortly before are off by as much until they "
            "are seen again; set path_topic if your SLAM publishes keyframes"
        )
        self.get_logger().warning(f"the map jumped by {jump} against odometry: {follows}")

    def _follow(self, message: Any) -> None:
        """Moves the objects with the keyframes."""
        memory = self._memory
        if memory is None:
            return
        try:
            stamps, poses = keyframes_of(message, self._configuration.map_frame)
            moved = memory.reanchor(stamps, poses) if len(stamps) else 0
        except ObservationError as error:
            if str(error) != self._path_problem:
                self.get_logger().warning(printable(str(error)))
            self._path_problem = str(error)
            return
        self._path_problem = ""
        if moved:
            self._reanchored += moved
            self._publisher.changed()

    def _work_failed(self, works: list[Any], error: Exception) -> None:
        self.callback_failed("an observation", error)
        for work in works:
            if work.args and isinstance(work.args[0], MemoryCamera):
                work.args[0].statistics.failed(describe(error))

    # On any thread

    def _configured(self) -> ObjectMemory:
        if self._memory is None:
            raise FcclipError(_NOT_CONFIGURED)
        return self._memory

    def _load(self, file: str, add: bool) -> int:
        """Opens another file, or adds the objects of one; returns the number of objects then."""
        if not file:
            raise SettingsError("file is empty; expected the path of a memory file on the node's machine")
        before = self._configured()
        if add:
            with ObjectMemory(self._configuration.settings, expanded(file), read_only=True) as other:
                before.merge(other)
            return len(before)
        if self._file and expanded(file).resolve() == expanded(self._file).resolve():
            raise MemoryFileError(f"{file} is the file that is open already; its objects are those that are here")
        kept = self._file
        try:
            opened = self._opened(file)
        except FcclipError:
            self._file = kept
            raise
        self._memory = opened
        try:
            before.close()
        except MemoryFileError as error:
            self.get_logger().error(printable(f"objects are lost: {error}"))
        return len(opened)

    def _header(self) -> Header:
        return Header(stamp=self.get_clock().now().to_msg(), frame_id=self._configuration.map_frame)

    def _base_from_camera(self, name: str) -> np.ndarray | None:
        return next((camera.base_from_camera for camera in self._cameras if camera.name == name), None)

    def _refuse(self, what: str, error: BaseException) -> str:
        """Counts and logs a rejected request, and returns the reason for the response."""
        is_ending = isinstance(error, CancelledError)
        reason = "the node is being shut down or cleaned up" if is_ending else printable(describe(error))
        self._cameras[0].statistics.refused(f"{what}: {reason}")
        self.get_logger().warning(f"{what}: {reason}")
        return reason


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs the node until SIGINT or SIGTERM."""
    run_process(ObjectMemoryNode, args)


if __name__ == "__main__":
    main()
