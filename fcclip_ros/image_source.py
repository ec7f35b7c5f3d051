"""The node `image_source`: publishes images, a video, a webcam or a bag as a camera topic."""

from __future__ import annotations

import io
import itertools
import math
import threading
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
import PIL.Image
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, CompressedImage
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from fcclip_core.errors import ImageError, SettingsError
from fcclip_ros.conversions.camera_info import camera_info_message
from fcclip_ros.conversions.messages import image_message
from fcclip_ros.declarations import Declaration, declare_checked, refuse_fixed
from fcclip_ros.process.guarded import GuardedNode
from fcclip_ros.process.runner import run_process
from fcclip_ros.qos import RELIABILITIES, choose_reliability, image_profile
from fcclip_ros.sources import fit, move, open_source

PARAMETERS: tuple[Declaration, ...] = (
    Declaration(
        "source", "", "A folder of images, an image, a video, a bag, or the number of a webcam.", any_type=True
    ),
    Declaration("bag_topic", "", "Image topic to read from a bag; empty: its only image topic."),
    Declaration("rate", 10.0, "Frames per second.", limits=(0.01, 1000.0), live=True),
    Declaration("loop", True, "Restart at the end; otherwise the node exits.", live=True),
    Declaration(
        "hold_frames", 1, "Number of frames for which each image is published.", limits=(1, 1_000_000), live=True
    ),
    Declaration(
        "motion",
        0.0,
        "Pan and zoom over each image; largest share of it outside of the view.",
        limits=(0.0, 0.5),
        live=True,
    ),
    Declaration("width", 0, "Width of the frames in pixels; 0, with height 0: size of the images.", limits=(0, 16_384)),
    Declaration(
        "height", 0, "Height of the frames in pixels; 0, with width 0: size of the images.", limits=(0, 16_384)
    ),
    Declaration("frame_id", "camera", "frame_id of all messages."),
    Declaration("horizontal_fov", 60.0, "Horizontal field of view in camera_info, in degrees.", limits=(1.0, 179.0)),
    Declaration("compressed", False, "Also publish JPEG images on `image/compressed`."),
    Declaration("jpeg_quality", 90, "JPEG quality.", limits=(1, 100), live=True),
    Declaration("reliability", "reliable", "Reliability of the publishers.", choices=RELIABILITIES[1:]),
)


class ImageSource(GuardedNode):
    """Publishes images at a fixed rate, with matching camera_info; exit status 1 if the source fails."""

    def __init__(self, stop: threading.Event, **options: Any) -> None:
        """Opens the source.

        Args:
            stop: Set at the end of the source.
            **options: Options of rclpy's Node.

        Raises:
            ImageError: The source cannot be read.
            SettingsError: Parameters are inconsistent.
        """
        super().__init__("image_source", **options)
        self._stop = stop
        declare_checked(self, PARAMETERS)
        if (self._value("width") == 0) != (self._value("height") == 0):
            raise SettingsError("set both width and height, or neither")
        source = self._value("source")
        self._source = open_source("" if source is None else str(source), self._value("bag_topic"))
        self._frames = self._play()
        self._current = next(self._frames)
        self._repeated = 0
        self._published = 0

        profile = image_profile(choose_reliability(self._value("reliability"), ()))
        self._image = self.create_publisher(ImageMessage, "image", profile)
        self._camera_info = self.create_publisher(CameraInfo, "camera_info", profile)
        self._compressed = None
        if self._value("compressed"):
            self._compressed = self.create_publisher(CompressedImage, "image/compressed", profile)
        self._start_timer(self._value("rate"))
        self.add_on_set_parameters_callback(self._on_parameters)
        height, width = self._frame().shape[:2]
        self.get_logger().info(f"publishing {self._source.description}: {width} x {height} at {self._value('rate')} Hz")

    def finish(self) -> bool:
        """Stops publishing."""
        self._timer.cancel()
        return True

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _start_timer(self, rate: float) -> None:
        # Steady time: a camera does not pause with simulated time.
        self._timer = self.create_timer(1.0 / rate, self._publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        answer = refuse_fixed(self, PARAMETERS, changes, "cannot change while the source is playing; restart the node")
        for change in changes:
            if change.name == "rate" and answer.successful and change.value != self._value("rate"):
                self.destroy_timer(self._timer)
                self._start_timer(change.value)
        return answer

    def _play(self) -> Iterator[np.ndarray]:
        """Images, repeated if `loop` is set; unreadable ones are skipped.

        Raises:
            ImageError: The source, or all of its images, cannot be read.
        """
        for round_ in itertools.count():
            if round_ and not self._value("loop"):
                return
            empty = True
            for image in self._source.frames():
                if isinstance(image, ImageError):
                    self.get_logger().warning(f"skipped: {image}", throttle_duration_sec=5.0)
                    continue
                empty = False
                yield image
            if empty:
                raise ImageError(f"no image of {self._source.description} can be read")

    def _publish(self) -> None:
        if self._stop.is_set():
            return
        try:
            if self._repeated >= self._value("hold_frames"):
                self._current, self._repeated = next(self._frames), 0
        except StopIteration:
            self.get_logger().info(f"the source has ended after {self._published} frames")
            self._stop.set()
            return
        except ImageError as error:
            self.get_logger().error(str(error))
            self.exit_status = 1
            self._stop.set()
            return
        frame = self._frame()
        self._repeated += 1
        self._published += 1
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=self._value("frame_id"))
        self._image.publish(image_message(frame, "rgb8", header))
        self._camera_info.publish(camera_info(header, frame.shape[1], frame.shape[0], self._value("horizontal_fov")))
        if self._compressed is not None:
            self._compressed.publish(jpeg_message(frame, self._value("jpeg_quality"), header))

    def _frame(self) -> np.ndarray:
        frame = self._current
        if self._value("width"):
            frame = fit(frame, self._value("width"), self._value("height"))
        return move(frame, self._value("motion"), self._published)


def camera_info(header: Header, width: int, height: int, horizontal_fov: float) -> CameraInfo:
    """The camera_info of a pinhole camera without distortion.

    Args:
        header: Header of the image.
        width: Width in pixels.
        height: Height in pixels.
        horizontal_fov: Field of view in degrees.
    """
    focal = width / 2 / math.tan(math.radians(horizontal_fov) / 2)
    matrix = np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    return camera_info_message(header, width, height, matrix)


def jpeg_message(frame: np.ndarray, quality: int, header: Header) -> CompressedImage:
    """A frame as JPEG, with the format string of image_transport.

    Args:
        frame: uint8 RGB `(H, W, 3)`.
        quality: 1 to 100.
        header: Header of the image.
    """
    buffer = io.BytesIO()
    PIL.Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
    return CompressedImage(header=header, format="rgb8; jpeg compressed bgr8", data=array("B", buffer.getvalue()))


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs the node until SIGINT, SIGTERM or the end of its source."""
    run_process(ImageSource, args)


if __name__ == "__main__":
    main()
