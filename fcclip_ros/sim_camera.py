"""The node `sim_camera`: the camera of a robot that drives through a simulated world, with ground truth."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, NoReturn

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, PoseStamped, Transform, TransformStamped, Vector3
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.parameter import Parameter
from scipy.ndimage import find_objects
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

import fcclip_ros.msg as msg
from fcclip_core.datasets.drive_recording import Recording
from fcclip_core.files.paths import expanded
from fcclip_core.simulation.bundled_drive import bundled_drive, rendering_problem
from fcclip_core.simulation.frames import Frame
from fcclip_core.simulation.names import SPLITS, train_vocabulary, world_vocabulary
from fcclip_core.simulation.tour import MAX_SCENES, in_tour, scene_seeds
from fcclip_core.vocabulary.resolved_class import ResolvedClass
from fcclip_ros.compat import optional_module
from fcclip_ros.conversions.camera_info import camera_info_message
from fcclip_ros.conversions.messages import class_messages, image_message, region_of_interest
from fcclip_ros.conversions.messages_3d import make_pose
from fcclip_ros.declarations import Declaration, declare_checked, refuse_fixed
from fcclip_ros.node.worker import Worker
from fcclip_ros.process.guarded import GuardedNode
from fcclip_ros.process.runner import run_process
from fcclip_ros.qos import LATCHED, OUTPUT, RELIABILITIES, TRANSFORMS, choose_reliability, image_profile

WORLD_FRAME = "world"
VOCABULARY_VERSION = 1

_PATIENCE = 1.0
"""Seconds that a shutdown waits for the frame that is being rendered."""

PARAMETERS: tuple[Declaration, ...] = (
    Declaration("rate", 10.0, "Frames per second, if rendering is fast enough.", limits=(0.1, 120.0)),
    Declaration("width", 320, "Width of the frames in pixels.", limits=(16, 4096)),
    Declaration("height", 240, "Height of the frames in pixels.", limits=(16, 4096)),
    Declaration("seed", 0, "Seed of the scenes and trajectories.", limits=(0, 1_000_000)),
    Declaration("split", "all", "Classes that the scenes may contain: all, or those of training.", choices=SPLITS),
    Declaration("kind", "room", "Type of the scenes.", choices=("room", "table", "yard")),
    Declaration("speed", 0.4, "Speed in meters per second, at the full rate.", limits=(0.01, 10.0)),
    Declaration("scenes", 1, "Number of scenes, 30 m apart along the x axis of `world`.", limits=(1, MAX_SCENES)),
    Declaration("frames_per_scene", 0, "Frames per scene; 0: the whole trajectory.", limits=(0, 1_000_000)),
    Declaration(
        "recording",
        "",
        "A recording of `fcclip world drive` to play instead of rendering; auto: the bundled one, if rendering is not "
        "possible.",
    ),
    Declaration("loop", True, "Restart after the last scene; otherwise the node exits."),
    Declaration("frame_id", "camera_optical_frame", "frame_id of the images and of the camera's pose."),
    Declaration("reliability", "reliable", "Reliability of image, depth and camera_info.", choices=RELIABILITIES[1:]),
)


class SimCamera(GuardedNode):
    """Publishes a drive at a fixed rate. Frames are determined by the parameters; a slow machine only delays them.

    A thread of its own renders one frame ahead and publishes, so the executor stays responsive. If a frame cannot be
    rendered, the process ends with exit status 1.
    """

    def __init__(self, stop: threading.Event, **options: Any) -> None:
        """Creates the first scene and renders the first frame, or opens the recording.

        Args:
            stop: Set at the end of the drive.
            **options: Options of rclpy's Node.

        Raises:
            SettingsError: The value of a parameter is not one of its choices.
            SimulationError: Rendering is not possible; the message says what to install.
            DatasetError: The recording cannot be read.
        """
        super().__init__("sim_camera", **options)
        self._stop = stop
        self._settings = declare_checked(self, PARAMETERS)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._published = 0
        self._vocabulary = world_vocabulary()
        self._class_ids = {name: number for number, name in enumerate(self._vocabulary.names, 1)}

        profile = image_profile(choose_reliability(self._settings["reliability"], ()))
        self._image = self.create_publisher(Image, "image", profile)
        self._depth = self.create_publisher(Image, "depth", profile)
        self._camera_info = self.create_publisher(CameraInfo, "camera_info", profile)
        self._pose = self.create_publisher(PoseStamped, "pose", OUTPUT)
        self._tf_messages = optional_module("tf2_msgs.msg")
        if self._tf_messages is None:
            self.get_logger().info(f"tf2_msgs is not installed: no transform from {WORLD_FRAME} on /tf, only `pose`")
        else:
            self._tf = self.create_publisher(self._tf_messages.TFMessage, "/tf", TRANSFORMS)
        self._panoptic = self.create_publisher(Image, "truth/panoptic", OUTPUT)
        self._segments = self.create_publisher(msg.SegmentArray, "truth/segments", OUTPUT)
        self._vocabulary_publisher = self.create_publisher(msg.Vocabulary, "truth/vocabulary", LATCHED)

        self._frames = self._drive()
        # All GL calls are made on this thread: a context belongs to the thread that created it.
        self._worker: Worker[bool] = Worker("camera", self._publish)
        self._next: Frame = self._worker.submit(next, self._frames).result()
        self._publish_vocabulary()
        self._timer = self.create_timer(
            1.0 / self._settings["rate"], self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        about = "recording {recording} at {rate} Hz"
        if not self._settings["recording"]:
            about = "{width} x {height} at {rate} Hz, seed {seed}, {scenes} of kind {kind}"
        self.get_logger().info(f"driving through the simulated world: {about.format(**self._settings)}")

    def finish(self) -> bool:
        """Stops publishing and frees the GL context."""
        self._stop.set()
        self._timer.cancel()
        closing = self._worker.submit(self._frames.close)
        try:
            closing.result(timeout=_PATIENCE)
        except FutureTimeoutError:  # the built-in one only from Python 3.11 on
            return False
        return self._worker.stop(_PATIENCE)

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        return refuse_fixed(self, PARAMETERS, changes, "cannot change while the camera is driving; restart the node")

    def _tick(self) -> None:
        self._worker.replace("camera", True)

    def _drive(self) -> Generator[Frame, None, None]:
        """Frames of all scenes.

        Raises:
            SimulationError: Rendering is not possible, or a seed gives no trajectory.
            DatasetError: The recording cannot be read.
        """
        settings = self._settings
        if settings["recording"] == "auto":
            settings["recording"] = self._recording_if_needed()
        if settings["recording"]:
            recording = Recording(expanded(settings["recording"]))
            indices = range(len(recording))
            yield from map(recording.__getitem__, itertools.cycle(indices) if settings["loop"] else indices)
            return

        from fcclip_core.simulation.drive import make_drive
        from fcclip_core.simulation.render import Renderer

        size, count = (settings["width"], settings["height"]), settings["frames_per_scene"]
        scenes = tuple(enumerate(scene_seeds(settings["seed"], settings["scenes"])))
        prepare = functools.lru_cache(maxsize=1)(make_drive)  # a single scene loops without a pause
        with Renderer() as renderer:
            for number, seed in itertools.cycle(scenes) if settings["loop"] else scenes:
                drive = prepare(seed, settings["split"], settings["kind"], settings["speed"])
                for index in range(count or math.ceil(drive.duration * settings["rate"])):
                    frame = renderer.render(drive.scene, drive.camera(index / settings["rate"]), size)
                    yield dataclasses.replace(frame, pose=in_tour(frame.pose, number))

    def _recording_if_needed(self) -> str:
        """Folder of the bundled drive; empty if the world can be rendered."""
        problem = rendering_problem()
        if not problem:
            return ""
        self.get_logger().warning(f"rendering is not possible, playing the bundled drive: {problem}")
        return str(bundled_drive())

    def _publish(self, _: list[bool]) -> None:
        """Publishes the rendered frame and renders the next one."""
        if self._stop.is_set():
            return
        self._send(self._next)
        self._published += 1
        try:
            self._next = next(self._frames)
        except StopIteration:
            self.get_logger().info(f"the drive has ended after {self._published} frames")
            self._stop.set()
        except Exception as error:  # GL bindings raise errors of their own, and the thread must not end silently
            self.get_logger().error(f"the next frame cannot be rendered: {error}")
            self.exit_status = 1
            self._stop.set()

    def _send(self, frame: Frame) -> None:
        stamp = self.get_clock().now().to_msg()
        header = Header(stamp=stamp, frame_id=self._settings["frame_id"])
        height, width = frame.segment_map.shape
        # First, so that subscribers have the pose when they receive the image.
        self._send_pose(stamp, pose_message(frame.pose))
        self._image.publish(image_message(frame.image, "rgb8", header))
        self._depth.publish(image_message(frame.depth, "32FC1", header))
        self._camera_info.publish(camera_info_message(header, width, height, frame.intrinsics))
        self._panoptic.publish(image_message(frame.segment_map.astype(np.uint16), "16UC1", header))
        self._segments.publish(truth_message(frame, self._class_ids, header))

    def _send_pose(self, stamp: Time, pose: Pose) -> None:
        header = Header(stamp=stamp, frame_id=WORLD_FRAME)
        self._pose.publish(PoseStamped(header=header, pose=pose))
        if self._tf_messages is None:
            return
        translation = Vector3(x=pose.position.x, y=pose.position.y, z=pose.position.z)
        transform = TransformStamped(
            header=header,
            child_frame_id=self._settings["frame_id"],
            transform=Transform(translation=translation, rotation=pose.orientation),
        )
        self._tf.publish(self._tf_messages.TFMessage(transforms=[transform]))

    def _publish_vocabulary(self) -> None:
        seen = self._vocabulary.seen_mask(frozenset(train_vocabulary().synonyms))
        columns = (self._vocabulary.classes, self._class_ids.values(), self._vocabulary.colors, seen)
        self._vocabulary_publisher.publish(
            msg.Vocabulary(
                header=Header(stamp=self.get_clock().now().to_msg()),
                version=VOCABULARY_VERSION,
                classes=class_messages(map(ResolvedClass, *columns)),
            )
        )


def truth_message(frame: Frame, class_ids: dict[str, int], header: Header) -> msg.SegmentArray:
    """The ground truth segments of a frame, ordered by id; every score is 1.

    Args:
        frame: The frame.
        class_ids: Class ids by name.
        header: Header of the message.
    """
    height, width = frame.segment_map.shape
    areas, boxes = np.bincount(frame.segment_map.ravel()), find_objects(frame.segment_map)
    return msg.SegmentArray(
        header=header,
        vocabulary_version=VOCABULARY_VERSION,
        height=height,
        width=width,
        segments=[
            msg.Segment(
                id=segment.id,
                class_id=class_ids[segment.name],
                name=segment.name,
                score=1.0,
                is_thing=segment.is_thing,
                area=int(areas[segment.id]),
                box=region_of_interest((columns.start, rows.start, columns.stop, rows.stop)),
            )
            for segment in frame.segments
            for rows, columns in (boxes[segment.id - 1],)
        ],
    )


def pose_message(pose: np.ndarray) -> Pose:
    """A rigid transform `(4, 4)` as geometry_msgs/Pose."""
    return make_pose(pose[:3, 3], Rotation.from_matrix(pose[:3, :3]).as_quat())


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs the node until SIGINT, SIGTERM or the end of its drive."""
    run_process(SimCamera, args)


if __name__ == "__main__":
    main()
