"""The node `sim_camera`: a robot's camera that drives through the simulated world, with the truth of each frame."""

from __future__ import annotations

import functools
import itertools
import math
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, NoReturn

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion, Transform, TransformStamped, Vector3
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.parameter import Parameter
from scipy.ndimage import find_objects
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest
from std_msgs.msg import Header

import fcclip_ros.msg as msg
from fcclip_core.datasets.drive_recording import Recording
from fcclip_core.files.paths import expanded
from fcclip_core.simulation.bundled_drive import bundled_drive, rendering_problem
from fcclip_core.simulation.frames import Frame
from fcclip_core.simulation.names import SPLITS, train_vocabulary, world_vocabulary
from fcclip_core.vocabulary.snapshot import ResolvedClass
from fcclip_ros.compat import optional_module
from fcclip_ros.conversions.messages import camera_info_message, class_messages, image_message
from fcclip_ros.declarations import Declaration, declare_checked, refuse_fixed
from fcclip_ros.node.worker import Worker
from fcclip_ros.process.guarded import GuardedNode
from fcclip_ros.process.runner import run_process
from fcclip_ros.qos import LATCHED, OUTPUT, RELIABILITIES, TRANSFORMS, choose_reliability, image_profile

WORLD_FRAME = "world"
MAX_SCENES = 1000
VOCABULARY_VERSION = 1

_PATIENCE = 1.0
"""Seconds that the end of the process waits for the frame that is being rendered."""

PARAMETERS: tuple[Declaration, ...] = (
    Declaration("rate", 10.0, "Frames per second, if the machine renders as many.", limits=(0.1, 120.0)),
    Declaration("width", 320, "Width of the frames in pixels.", limits=(16, 4096)),
    Declaration("height", 240, "Height of the frames in pixels.", limits=(16, 4096)),
    Declaration("seed", 0, "Another seed gives other scenes and other ways.", limits=(0, 1_000_000)),
    Declaration("split", "all", "What the scenes may hold: all classes, or those of training.", choices=SPLITS),
    Declaration("kind", "room", "Where the robot drives.", choices=("room", "table", "yard")),
    Declaration("speed", 0.4, "Meters per second of frames at the full rate.", limits=(0.01, 10.0)),
    Declaration("scenes", 1, "Scenes to drive through, one after the other.", limits=(1, MAX_SCENES)),
    Declaration("frames_per_scene", 0, "Frames in each scene; 0: one round.", limits=(0, 1_000_000)),
    Declaration(
        "recording",
        "",
        "A folder that `fcclip world drive` wrote, to play instead of rendering; auto: the one that comes with the "
        "package, where nothing can be rendered.",
    ),
    Declaration("loop", True, "Begin again after the last scene; otherwise the node ends."),
    Declaration("frame_id", "camera_optical_frame", "Frame id of the images and of the pose's camera."),
    Declaration("reliability", "reliable", "Reliability of image, depth and camera_info.", choices=RELIABILITIES[1:]),
)


class SimCamera(GuardedNode):
    """Publishes a drive at a rate. The same parameters give the same frames, on a slow machine only later.

    A thread of its own renders ahead by one frame and publishes, so parameters and services are answered meanwhile.

    Attributes:
        exit_status: 1 if a frame failed, for the end of the process.
    """

    def __init__(self, stop: threading.Event, **options: Any) -> None:
        """Makes the first scene and renders the first frame, or opens the recording.

        Args:
            stop: Set when the drive has come to its end.
            **options: For rclpy's Node.

        Raises:
            SettingsError: A parameter is none of its choices.
            SimulationError: Nothing can be rendered here; says what to install.
            DatasetError: The recording cannot be read.
        """
        super().__init__("sim_camera", **options)
        self.exit_status = 0
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
        self._words = self.create_publisher(msg.Vocabulary, "truth/vocabulary", LATCHED)

        self._frames = self._drive()
        # All GL happens on this thread: a context belongs to the thread that made it.
        self._worker: Worker[bool] = Worker("camera", self._publish)
        self._next: Frame = self._worker.submit(next, self._frames).result()
        self._announce()
        self._timer = self.create_timer(
            1.0 / self._settings["rate"], self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        about = "recording {recording} at {rate} Hz"
        if not self._settings["recording"]:
            about = "{width} x {height} at {rate} Hz, seed {seed}, {scenes} of kind {kind}"
        self.get_logger().info(f"driving through the simulated world: {about.format(**self._settings)}")

    def begin(self) -> None:
        """Nothing is left to start."""

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
        return refuse_fixed(self, PARAMETERS, changes, "cannot change while the camera drives; start the node anew")

    def _tick(self) -> None:
        self._worker.replace("camera", True)

    def _drive(self) -> Generator[Frame, None, None]:
        """Frames, scene after scene.

        Raises:
            SimulationError: Nothing can be rendered here, or a seed leaves no way to drive.
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
        seeds = range(settings["seed"] * MAX_SCENES, settings["seed"] * MAX_SCENES + settings["scenes"])
        prepare = functools.lru_cache(maxsize=1)(make_drive)  # a single scene that loops goes on without a pause
        with Renderer() as renderer:
            for seed in itertools.cycle(seeds) if settings["loop"] else seeds:
                drive = prepare(seed, settings["split"], settings["kind"], settings["speed"])
                for index in range(count or math.ceil(drive.duration * settings["rate"])):
                    yield renderer.render(drive.scene, drive.camera(index / settings["rate"]), size)

    def _recording_if_needed(self) -> str:
        """Folder of the drive that comes with the package; empty where the world can be rendered."""
        obstacle = rendering_problem()
        if not obstacle:
            return ""
        self.get_logger().warning(f"the world cannot be rendered here, a recorded drive is played: {obstacle}")
        return str(bundled_drive())

    def _publish(self, _: list[bool]) -> None:
        """Publishes the frame that is ready and renders the one after it."""
        if self._stop.is_set():
            return
        self._send(self._next)
        self._published += 1
        try:
            self._next = next(self._frames)
        except StopIteration:
            self.get_logger().info(f"the drive has ended after {self._published} frames")
            self._stop.set()
        except Exception as error:  # GL bindings raise their own kinds, and the thread must not die in silence
            self.get_logger().error(f"the next frame failed: {error}")
            self.exit_status = 1
            self._stop.set()

    def _send(self, frame: Frame) -> None:
        stamp = self.get_clock().now().to_msg()
        header = Header(stamp=stamp, frame_id=self._settings["frame_id"])
        height, width = frame.segment_map.shape
        # First, so that whoever gets the image knows where it was taken.
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
        place = Vector3(x=pose.position.x, y=pose.position.y, z=pose.position.z)
        transform = TransformStamped(
            header=header,
            child_frame_id=self._settings["frame_id"],
            transform=Transform(translation=place, rotation=pose.orientation),
        )
        self._tf.publish(self._tf_messages.TFMessage(transforms=[transform]))

    def _announce(self) -> None:
        seen = self._vocabulary.seen_mask(frozenset(train_vocabulary().synonyms))
        columns = (self._vocabulary.classes, self._class_ids.values(), self._vocabulary.colors, seen)
        self._words.publish(
            msg.Vocabulary(
                header=Header(stamp=self.get_clock().now().to_msg()),
                version=VOCABULARY_VERSION,
                classes=class_messages(map(ResolvedClass, *columns)),
            )
        )


def truth_message(frame: Frame, class_ids: dict[str, int], header: Header) -> msg.SegmentArray:
    """What is in a frame, in the order of the segments' ids; every score is 1.

    Args:
        frame: The frame.
        class_ids: Id of each class of the world.
        header: The header to carry.
    """
    height, width = frame.segment_map.shape
    areas, places = np.bincount(frame.segment_map.ravel()), find_objects(frame.segment_map)
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
                box=_region(*places[segment.id - 1]),
            )
            for segment in frame.segments
        ],
    )


def pose_message(pose: np.ndarray) -> Pose:
    """A rigid transform `(4, 4)` as a place and a quaternion."""
    place = (float(value) for value in pose[:3, 3])
    turn = (float(value) for value in Rotation.from_matrix(pose[:3, :3]).as_quat())
    return Pose(
        position=Point(**dict(zip("xyz", place, strict=True))),
        orientation=Quaternion(**dict(zip("xyzw", turn, strict=True))),
    )


def _region(rows: slice, columns: slice) -> RegionOfInterest:
    return RegionOfInterest(
        x_offset=columns.start, y_offset=rows.start, width=columns.stop - columns.start, height=rows.stop - rows.start
    )


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs the node until SIGINT, SIGTERM or the end of its drive."""
    run_process(SimCamera, args)


if __name__ == "__main__":
    main()
