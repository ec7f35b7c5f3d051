"""The real node in a process of its own, with a clock at each frame, and a camera that shows it pictures.

As a program it is that process: node_process.py RECORD KEEP [ROS arguments]. At its end it writes to RECORD what the
node itself counted and, if KEEP is "frames", what it noted of every frame that it labeled.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest import mock

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Header

import fcclip_ros.msg as msg
import fcclip_ros.srv as srv
from benchmarks import ROOT
from demo.children import Children, unused_domain_id
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.vocabulary.classes import Vocabulary
from fcclip_ros import perception
from fcclip_ros.node import pipeline
from fcclip_ros.node.frame_statistics import Statistics
from fcclip_ros.node.outputs import Outputs
from fcclip_ros.process.runner import run
from fcclip_ros.qos import OUTPUT, image_profile

CORE_STAGES = ("preprocess", "model", "classify", "merge")
"""Stages that `Segmenter` times itself; every other one is the node's."""

OUTPUTS = {"panoptic": Image, "semantic": Image, "confidence": Image, "segments": msg.SegmentArray, "overlay": Image}
"""Outputs that can be listened to, and their types."""

_NAME = "fcclip"
_START_PATIENCE = 600.0
_FRAME_PATIENCE = 60.0
_ATTEMPTS = 3
_LAST_PATIENCE = 30.0


@dataclass(frozen=True)
class NodeRecord:
    """What the node noted.

    Attributes:
        counts: Frames received, labeled, dropped, bad and failed, from the node's own statistics.
        frames: Stamp in ns -> seconds by stage, as the node counts them, for each frame it labeled. `take` comes
            before them: rclpy makes a message of what arrived and calls the node. It is missing where rclpy does not
            show when it begins. Stages that end in "cpu" are seconds of the processor, not of the clock.
    """

    counts: Mapping[str, int]
    frames: Mapping[int, Mapping[str, float]]


class NodeProcess:
    """The node, running and subscribed to the camera for the length of a `with` block."""

    def __init__(
        self,
        parameters: Mapping[str, Any],
        *,
        keep_frames: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            parameters: The node's.
            keep_frames: Whether to note every frame; the notes take memory in the node's process.
            environment: More variables for it.
        """
        self._parameters = parameters
        self._environment = dict(environment or {})
        self._keep = "frames" if keep_frames else "counts"
        self._stack = ExitStack()

    def __enter__(self) -> NodeProcess:
        """Starts the node, in a ROS domain of its own, and waits until it has subscribed to the camera."""
        environment = self._environment | {
            "ROS_DOMAIN_ID": str(unused_domain_id()),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "FASTRTPS_DEFAULT_PROFILES_FILE": str(ROOT / "config" / "fastdds.xml"),
            "FASTDDS_DEFAULT_PROFILES_FILE": str(ROOT / "config" / "fastdds.xml"),
        }
        try:
            self._stack.enter_context(mock.patch.dict(os.environ, environment))
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
            self._record = folder / "record.json"
            self._children = self._stack.enter_context(Children(folder))
            arguments = [part for name, value in self._parameters.items() for part in ("-p", f"{name}:={_yaml(value)}")]
            self._children.start(
                "node", "-m", "benchmarks.lib.node_process", str(self._record), self._keep, "--ros-args", *arguments
            )
            self.camera = Camera(self._children.check)
            self._stack.callback(self.camera.close)
            self.camera.wait_for(self.camera.is_watched, _START_PATIENCE, "the node did not begin to read images")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the node, if `finish` has not, and the camera."""
        self._stack.close()

    @property
    def pid(self) -> int:
        """The node's process."""
        return self._children.pid("node")

    def finish(self) -> NodeRecord:
        """Ends the node and reads what it noted."""
        status = self._children.stop("node")["node"]
        if status != 0 or not self._record.exists():
            raise RuntimeError(f"the node ended with exit status {status} and left no record")
        record = json.loads(self._record.read_text())
        return NodeRecord(record["counts"], {int(stamp): stages for stamp, stages in record["frames"].items()})


class Camera:
    """Publishes pictures and notes when which output of each comes back, in a process without the node.

    Attributes:
        node: What else talks to the node in this process may use it.
        lost: Pictures that were waited for in vain.
    """

    def __init__(self, check: Callable[[], None] = lambda: None) -> None:
        """Joins ROS.

        Args:
            check: Called while waiting; raises if there is nothing left to wait for.
        """
        self.lost = 0
        self._check = check
        self._changed = threading.Condition()
        self._arrived: dict[str, dict[int, float]] = {}
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node("benchmark", context=self._context)
        self._publisher = self.node.create_publisher(Image, "image", image_profile(ReliabilityPolicy.RELIABLE))
        self._words = self.node.create_client(srv.SetVocabulary, f"{_NAME}/set_vocabulary")
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, name="camera", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Leaves ROS."""
        rclpy.shutdown(context=self._context, uninstall_handlers=False)
        self._thread.join(timeout=5.0)
        self.node.destroy_node()

    def listen(self, outputs: Iterable[str]) -> None:
        """Subscribes to some of `OUTPUTS`."""
        for output in outputs:
            self._arrived[output] = {}
            self.node.create_subscription(OUTPUTS[output], f"{_NAME}/{output}", self._note(output), OUTPUT)

    def is_watched(self) -> bool:
        """Whether somebody subscribes to the pictures."""
        return self._publisher.get_subscription_count() > 0

    def show(self, message: Image) -> int:
        """Publishes a picture with the present time as its stamp, and returns that in ns."""
        stamp = time.time_ns()
        message.header.stamp = Time(sec=stamp // 10**9, nanosec=stamp % 10**9)
        self._publisher.publish(message)
        return stamp

    def show_and_wait(self, message: Image) -> int:
        """Publishes a picture and waits until all outputs of it have come; returns its stamp.

        A picture that does not come back is counted in `lost`, and shown again.

        Raises:
            TimeoutError: It does not come back again and again.
        """
        for _ in range(_ATTEMPTS):
            stamp = self.show(message)
            try:
                self.wait_for(functools.partial(self._is_back, stamp), _FRAME_PATIENCE, "a frame did not come back")
                return stamp
            except TimeoutError:
                self.lost += 1
        raise TimeoutError(f"a frame did not come back {_ATTEMPTS} times, {_FRAME_PATIENCE:g} s each")

    def warm_up(self, message: Image) -> None:
        """Publishes a picture, again and again, until all outputs of one have come: the first may take minutes."""
        end = time.monotonic() + _START_PATIENCE
        while True:
            stamp = self.show(message)
            try:
                self.wait_for(functools.partial(self._is_back, stamp), 10.0, "no frame came back labeled")
                return
            except TimeoutError:
                if time.monotonic() > end:
                    raise

    def arrivals(self, output: str) -> dict[int, float]:
        """Stamp -> seconds from the stamp to the output's arrival here, so far."""
        with self._changed:
            return dict(self._arrived[output])

    def forget(self) -> None:
        """Forgets what arrived so far."""
        with self._changed:
            for arrived in self._arrived.values():
                arrived.clear()

    def set_vocabulary(self, vocabulary: Vocabulary) -> Future:
        """Asks the node for other words; the future gets the seconds until its answer."""
        self.wait_for(self._words.service_is_ready, _START_PATIENCE, "the node does not offer set_vocabulary")
        classes = [
            msg.VocabularyClass(synonyms=list(item.synonyms), is_thing=item.is_thing) for item in vocabulary.classes
        ]
        answer: Future = Future()
        began = time.perf_counter()

        def tell(done: Any) -> None:
            response = done.result()
            if response.success:
                answer.set_result(time.perf_counter() - began)
            else:
                answer.set_exception(RuntimeError(f"the node refused the words: {response.message}"))

        self._words.call_async(srv.SetVocabulary.Request(classes=classes)).add_done_callback(tell)
        return answer

    def wait_for(self, condition: Callable[[], bool], seconds: float, complaint: str) -> None:
        """Waits until `condition` holds.

        Raises:
            TimeoutError: The time is up; the text is `complaint`.
        """
        end = time.monotonic() + seconds
        with self._changed:
            while not condition():
                self._check()
                if time.monotonic() > end:
                    raise TimeoutError(f"{complaint} within {seconds:g} s")
                self._changed.wait(0.1)

    def _is_back(self, stamp: int) -> bool:
        # The node may leave out the overlay of a frame.
        return all(stamp in arrived for output, arrived in self._arrived.items() if output != "overlay")

    def _note(self, output: str) -> Callable[[Any], None]:
        def note(message: Any) -> None:
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            age = (time.time_ns() - stamp) / 1e9
            with self._changed:
                self._arrived[output][stamp] = age
                self._changed.notify_all()

        return note

    def _spin(self) -> None:
        try:
            while self._context.ok():
                self._executor.spin_once()
        except ExternalShutdownException:
            pass


class Stream:
    """Shows pictures at a rate, in a thread, for the length of a `with` block.

    Attributes:
        stamps: Of the pictures shown, in ns.
    """

    def __init__(self, camera: Camera, rate: float, next_message: Callable[[], Image]) -> None:
        """Shows nothing yet."""
        self.stamps: list[int] = []
        self._camera, self._period, self._next_message = camera, 1.0 / rate, next_message
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)

    def __enter__(self) -> Stream:
        """Begins."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends."""
        self._stop.set()
        self._thread.join()

    def await_last(self, output: str) -> None:
        """Waits until an output of the last picture has come, or for a while if it never does."""
        end = time.monotonic() + _LAST_PATIENCE
        while self.stamps[-1] not in self._camera.arrivals(output) and time.monotonic() < end:
            time.sleep(0.05)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            self.stamps.append(self._camera.show(self._next_message()))
            due += self._period
            self._stop.wait(max(due - time.monotonic(), 0.0))


def image_message(pixels: np.ndarray, encoding: str = "rgb8") -> Image:
    """A camera's message; `pixels` uint8 RGB `(H, W, 3)`, `encoding` rgb8 or bgr8."""
    if encoding == "bgr8":
        pixels = pixels[:, :, ::-1]
    height, width = pixels.shape[:2]
    message = Image(header=Header(frame_id="camera"), height=height, width=width, step=3 * width, encoding=encoding)
    message.data = array("B", pixels.tobytes())
    return message


def _yaml(value: Any) -> str:
    """A parameter as the command line takes it; JSON is YAML, and quotes keep a text a text."""
    return json.dumps(value)


class _Recorder:
    """Clocks inside the node's process, at places where it has none or keeps averages alone."""

    def __init__(self, keep_frames: bool) -> None:
        self._keep_frames = keep_frames
        self._frames: dict[int, dict[str, float]] = {}
        self._statistics: Statistics | None = None
        self._stamp = 0
        self._began: float | None = None
        self._began_cpu = 0.0
        self._extra: dict[str, float] = {}

    def places(self) -> list[Any]:
        """Patches to have in force while the node runs."""
        patches = [
            mock.patch.object(Statistics, "labeled", self._around_labeled(Statistics.labeled)),
            mock.patch.object(Statistics, "received", self._around_received(Statistics.received)),
            mock.patch.object(pipeline, "to_rgb", self._around_to_rgb(pipeline.to_rgb)),
            mock.patch.object(Outputs, "send", self._around_publish(Outputs.send)),
        ]
        take = getattr(Executor, "_take_subscription", None)
        if take is not None:
            patches.append(mock.patch.object(Executor, "_take_subscription", self._around_take(take)))
        return patches

    def write(self, path: Path) -> None:
        """Writes what a `NodeRecord` holds."""
        counts = asdict(self._statistics.report().counts) if self._statistics else {}
        with atomic_write(path) as part:
            part.write_text(json.dumps({"counts": counts, "frames": self._frames}))

    def _around_take(self, take: Callable[..., Any]) -> Callable[..., Any]:
        def noted(executor: Executor, subscription: Any) -> Any:
            if subscription.msg_type is Image:
                self._began, self._began_cpu = time.perf_counter(), time.thread_time()
            return take(executor, subscription)

        return noted

    def _around_received(self, received: Callable[..., Any]) -> Callable[..., Any]:
        def noted(statistics: Statistics) -> None:
            if self._began is not None:
                self._extra["take"] = time.perf_counter() - self._began
                self._extra["take cpu"] = time.thread_time() - self._began_cpu
            received(statistics)

        return noted

    def _around_to_rgb(self, to_rgb: Callable[..., Any]) -> Callable[..., Any]:
        def noted(message: Any, *limits: int) -> Any:
            began = time.thread_time()
            rgb = to_rgb(message, *limits)
            self._extra["convert cpu"] = time.thread_time() - began
            return rgb

        return noted

    def _around_publish(self, publish: Callable[..., Any]) -> Callable[..., Any]:
        def noted(outputs: Outputs, frame: Any) -> None:
            self._stamp = frame.header.stamp.sec * 10**9 + frame.header.stamp.nanosec
            began = time.thread_time()
            publish(outputs, frame)
            self._extra["publish cpu"] = time.thread_time() - began

        return noted

    def _around_labeled(self, labeled: Callable[..., Any]) -> Callable[..., Any]:
        def noted(statistics: Statistics, latencies: Mapping[str, float], *more: Any) -> None:
            labeled(statistics, latencies, *more)
            self._statistics = statistics
            if self._keep_frames:
                self._frames[self._stamp] = dict(latencies) | self._extra

        return noted


def main() -> int:
    """Runs the node until it is told to end, then writes the record."""
    recorder = _Recorder(sys.argv[2] == "frames")
    with ExitStack() as stack:
        for patch in recorder.places():
            stack.enter_context(patch)
        # Not its main(), which ends the process.
        status = run(lambda stop: perception.Perception(stop=stop), sys.argv)
    recorder.write(Path(sys.argv[1]))
    return status


if __name__ == "__main__":
    sys.exit(main())
