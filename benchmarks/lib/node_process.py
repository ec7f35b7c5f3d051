"""The real node in a process of its own, with a clock at each frame, and a camera that publishes images to it.

As a program it is that process: node_process.py RECORD [ROS arguments]. To RECORD it appends a line of JSON for each
frame that it labeled, and when it ends one with the node's own counts.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO
from unittest import mock

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.executors import Executor
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header

import fcclip_ros.msg as msg
from benchmarks.lib.memory import resident_bytes
from benchmarks.lib.rates import timed
from demo.children import Children, ros_arguments, ros_environment
from demo.peer import NODE, Peer
from fcclip_core import Segmenter
from fcclip_ros import perception
from fcclip_ros.conversions.images import to_rgb
from fcclip_ros.conversions.stamps import nanoseconds
from fcclip_ros.node import pipeline
from fcclip_ros.node.frame_statistics import Statistics
from fcclip_ros.node.outputs import Outputs
from fcclip_ros.process.runner import run
from fcclip_ros.qos import OUTPUT, image_profile

CORE_STAGES = ("preprocess", "model", "classify", "merge")
"""Stages that `Segmenter` times itself; every other one is the node's."""

OUTPUTS: dict[str, Any] = {
    **dict.fromkeys(("panoptic", "semantic", "confidence", "overlay"), Image),
    "segments": msg.SegmentArray,
    "points": PointCloud2,
}
"""Outputs that can be listened to, and their types."""

_START_PATIENCE = 600.0
_LAST_PATIENCE = 30.0


@dataclass(frozen=True)
class FrameRecord:
    """What the node noted of one frame.

    Attributes:
        stages: Seconds by stage, as the node counts them. `take` comes before them: rclpy makes a message of what
            arrived and calls the node; it is missing where rclpy does not show when it begins. Stages that end in "cpu"
            are seconds of the processor, not of the clock.
        cpu: Seconds of the processor that the process had used by then.
        resident: Memory of the process that was in RAM then, bytes.
    """

    stages: dict[str, float]
    cpu: float
    resident: int


@dataclass(frozen=True)
class NodeRecord:
    """What the node noted.

    Attributes:
        counts: Frames received, labeled, dropped, bad and failed, from the node's own statistics.
        frames: Stamp in ns -> each frame that it labeled, in order.
    """

    counts: dict[str, int]
    frames: dict[int, FrameRecord]


@dataclass(frozen=True)
class RunningNode:
    """The node while it runs.

    Attributes:
        camera: Publishes images to it.
    """

    camera: Camera
    _children: Children
    _record: Path

    @property
    def pid(self) -> int:
        """The node's process."""
        return self._children.pid("node")

    def finish(self) -> NodeRecord:
        """Ends the node and reads what it noted."""
        status = self._children.stop("node")["node"]
        lines = [json.loads(line) for line in self._record.read_text().splitlines()] if self._record.exists() else []
        if status != 0 or not lines:
            raise RuntimeError(f"the node ended with exit status {status} and left no record")
        frames = {stamp: FrameRecord(*values) for stamp, *values in (line for line in lines if isinstance(line, list))}
        return NodeRecord([line for line in lines if isinstance(line, dict)][-1], frames)


@contextlib.contextmanager
def node_process(
    parameters: Mapping[str, Any],
    *,
    program: str = "benchmarks.lib.node_process",
    environment: Mapping[str, str] | None = None,
) -> Iterator[RunningNode]:
    """Starts the node, in a ROS domain of its own, and waits until it has subscribed to the camera.

    Args:
        parameters: The node's.
        program: Module that calls `main` with the node's model.
        environment: More variables for it.
    """
    variables = ros_environment() | dict(environment or {})
    with (
        mock.patch.dict(os.environ, variables),
        tempfile.TemporaryDirectory() as name,
        Children(Path(name)) as children,
    ):
        record = Path(name) / "record.jsonl"
        children.start("node", "-m", program, str(record), *ros_arguments(parameters))
        with Camera(children.check) as camera:
            camera.wait_for(camera.is_watched, _START_PATIENCE, "the node did not begin to read images")
            yield RunningNode(camera, children, record)


class Camera(Peer):
    """Publishes images and notes when each output comes back, in a process without the node.

    Attributes:
        lost: Images whose outputs did not come back in time.
    """

    def __init__(self, check: Callable[[], object] = lambda: None) -> None:
        """Joins ROS; `check` as for `Peer`."""
        super().__init__("camera", check)
        self.lost = 0
        self._arrived: dict[str, dict[int, float]] = {}
        self._publisher = self.node.create_publisher(Image, "image", image_profile(ReliabilityPolicy.RELIABLE))

    def listen(self, outputs: Iterable[str]) -> None:
        """Subscribes to some of `OUTPUTS`."""
        for output in outputs:
            self._arrived[output] = {}
            self.node.create_subscription(OUTPUTS[output], f"{NODE}/{output}", self._note(output), OUTPUT)

    def is_watched(self) -> bool:
        """Whether somebody subscribes to the images."""
        return self._publisher.get_subscription_count() > 0

    def show(self, message: Image) -> int:
        """Publishes an image stamped with the current time, and returns the stamp in ns."""
        stamp = time.time_ns()
        message.header.stamp = Time(sec=stamp // 10**9, nanosec=stamp % 10**9)
        self._publisher.publish(message)
        return stamp

    def show_and_wait(self, message: Image, patience: float = 60.0, attempts: int = 3) -> int:
        """Publishes an image and waits until all outputs of it have come; returns its stamp in ns.

        An image that does not come back within `patience` seconds is counted in `lost`, and published again.

        Raises:
            TimeoutError: It did not come back in any attempt.
        """
        for _ in range(attempts):
            stamp = self.show(message)
            try:
                self.wait_for(functools.partial(self._is_back, stamp), patience, "a frame did not come back")
                return stamp
            except TimeoutError:
                self.lost += 1
        raise TimeoutError(f"a frame did not come back {attempts} times, {patience:g} s each")

    def warm_up(self, message: Image) -> None:
        """Publishes an image until all outputs of one have come, which may take minutes; none counts as lost."""
        self.show_and_wait(message, 10.0, 60)
        self.lost = 0

    def arrivals(self, output: str) -> dict[int, float]:
        """Stamp -> seconds from the stamp to the output's arrival here, so far."""
        with self.changed:
            return dict(self._arrived[output])

    def forget(self) -> None:
        """Forgets what arrived so far."""
        with self.changed:
            for arrived in self._arrived.values():
                arrived.clear()

    def await_output(self, output: str, stamp: int) -> None:
        """Waits until an output of an image has come, or for half a minute if it never does."""
        with contextlib.suppress(TimeoutError):
            self.wait_for(lambda: stamp in self._arrived[output], _LAST_PATIENCE, f"no {output} came")

    def _is_back(self, stamp: int) -> bool:
        # The node may leave out the overlay of a frame.
        return all(stamp in arrived for output, arrived in self._arrived.items() if output != "overlay")

    def _note(self, output: str) -> Callable[[Any], None]:
        def note(message: Any) -> None:
            stamp = nanoseconds(message.header.stamp)
            age = (time.time_ns() - stamp) / 1e9
            with self.changed:
                self._arrived[output][stamp] = age
                self.changed.notify_all()

        return note


@contextlib.contextmanager
def stream(rate: float, show: Callable[[], Any]) -> Iterator[list[Any]]:
    """Calls something in a thread, `rate` times per second from now on; gives the list of what it returned."""
    shown: list[Any] = []
    stop = threading.Event()

    def run() -> None:
        due = time.monotonic()
        while not stop.is_set():
            shown.append(show())
            due += 1.0 / rate
            stop.wait(max(due - time.monotonic(), 0.0))

    thread = threading.Thread(target=run, name="stream", daemon=True)
    thread.start()
    try:
        yield shown
    finally:
        stop.set()
        thread.join()


def image_message(pixels: np.ndarray, encoding: str = "rgb8") -> Image:
    """A camera's message; `pixels` uint8 RGB `(H, W, 3)`, `encoding` rgb8 or bgr8."""
    if encoding == "bgr8":
        pixels = pixels[:, :, ::-1]
    height, width = pixels.shape[:2]
    message = Image(header=Header(frame_id="camera"), height=height, width=width, step=3 * width, encoding=encoding)
    message.data = array("B", pixels.tobytes())
    return message


class _Recorder:
    """Clocks inside the node's process, at places where it has none or keeps only averages."""

    def __init__(self, lines: TextIO) -> None:
        self._lines = lines
        self._statistics: Statistics | None = None
        self._stamp = 0
        self._began: tuple[float, float] | None = None
        self._extra: dict[str, float] = {}

    def patches(self) -> Iterator[Any]:
        """To be active while the node runs."""
        take, received = getattr(Executor, "_take_subscription", None), Statistics.received
        send, labeled = self._with_cpu("publish cpu", Outputs.send), Statistics.labeled
        finish = perception.Perception.finish

        def note_take(executor: Executor, subscription: Any) -> Any:
            if subscription.msg_type is Image:
                self._began = time.perf_counter(), time.thread_time()
            return take(executor, subscription) if take else None

        def note_received(statistics: Statistics) -> None:
            if self._began is not None:
                self._extra["take"] = time.perf_counter() - self._began[0]
                self._extra["take cpu"] = time.thread_time() - self._began[1]
            received(statistics)

        def note_send(outputs: Outputs, frame: Any) -> None:
            self._stamp = nanoseconds(frame.header.stamp)
            send(outputs, frame)

        def note_labeled(statistics: Statistics, latencies: Mapping[str, float], *more: Any) -> None:
            labeled(statistics, latencies, *more)
            self._statistics = statistics
            self._write([self._stamp, dict(latencies) | self._extra, time.process_time(), resident_bytes()])

        def note_finish(node: perception.Perception) -> bool:
            # Before it: a node that takes too long to finish ends with its process.
            self.write_counts()
            return finish(node)

        if take is not None:
            yield mock.patch.object(Executor, "_take_subscription", note_take)
        yield mock.patch.object(Statistics, "received", note_received)
        yield mock.patch.object(pipeline, "to_rgb", self._with_cpu("convert cpu", to_rgb))
        yield mock.patch.object(Outputs, "send", note_send)
        yield mock.patch.object(Statistics, "labeled", note_labeled)
        yield mock.patch.object(perception.Perception, "finish", note_finish)

    def write_counts(self) -> None:
        """Adds the node's own counts to the record."""
        self._write(asdict(self._statistics.report().counts) if self._statistics else {})

    def _write(self, line: Any) -> None:
        self._lines.write(json.dumps(line) + "\n")

    def _with_cpu(self, stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any) -> Any:
            answer, self._extra[stage] = timed(work, *args, clock=time.thread_time)
            return answer

        return noted


def main(load_segmenter: Callable[..., Any] = Segmenter.from_checkpoint) -> int:
    """Runs the node until it is told to end, and writes the record meanwhile."""
    with Path(sys.argv[1]).open("w", buffering=1) as lines, ExitStack() as stack:
        recorder = _Recorder(lines)
        for patch in recorder.patches():
            stack.enter_context(patch)
        # Not its main(), which ends the process.
        status = run(lambda stop: perception.Perception(load_segmenter, stop), sys.argv)
        recorder.write_counts()
    return status


if __name__ == "__main__":
    sys.exit(main())
