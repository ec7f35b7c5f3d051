"""Peers to talk to nodes with, and node processes."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from checkout import ROOT
from fcclip_ros.compat import destroy_state_machine
from fcclip_ros.qos import image_profile


def wait_until(condition: Callable[[], Any], timeout: float = 30.0) -> Any:
    """Polls until `condition` returns something true, and returns that."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {timeout} s in vain"
        time.sleep(0.005)
    return value


class Peer:
    """A node of the test's own, with its own context, spinning in a thread."""

    def __init__(self, make_node: Callable[..., Node] | None = None, args: list[str] | None = None) -> None:
        self.context = rclpy.Context()
        rclpy.init(args=args, context=self.context, signal_handler_options=SignalHandlerOptions.NO)
        make_node = make_node or (lambda **options: Node("peer", **options))
        self.node = make_node(context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._clients: dict[str, Any] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        try:
            while self.context.ok() and not self._ending.is_set():
                self._executor.spin_once()
        except ExternalShutdownException:
            pass

    def listen(self, kind: type, topic: str, qos: Any = 10) -> queue.Queue:
        """Subscribes; messages arrive in the queue as (monotonic time, message)."""
        messages: queue.Queue = queue.Queue()
        self.node.create_subscription(kind, topic, lambda m: messages.put((time.monotonic(), m)), qos)
        return messages

    def call(self, kind: type, name: str, request: Any | None = None, timeout: float = 20.0) -> Any:
        """Calls a service and waits for its answer."""
        return self.call_async(kind, name, request)(timeout)

    def call_async(self, kind: type, name: str, request: Any | None = None) -> Callable[[float], Any]:
        """Calls a service; the returned function waits for the answer and returns it."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name)
        client, answered = self._clients[name], threading.Event()
        assert client.wait_for_service(timeout_sec=20.0), f"no service {name}"
        futures: list[Any] = []

        def send() -> None:
            futures.append(client.call_async(kind.Request() if request is None else request))
            futures[-1].add_done_callback(lambda _: answered.set())

        def result(timeout: float = 20.0) -> Any:
            if not answered.wait(timeout / 2):
                # On a busy machine DDS may lose what is sent while client and server are being introduced.
                send()
            assert answered.wait(timeout / 2), f"{name} did not answer within {timeout} s"
            return next(future.result() for future in futures if future.done())

        send()
        return result

    def close(self) -> None:
        # As a task: merely woken, an executor goes on waiting for a callback.
        self._executor.create_task(self._ending.set)
        self._thread.join(timeout=5.0)
        # Before the node: a wait that has not ended holds the node's handles, and others would go on finding the node.
        self._executor.shutdown(timeout_sec=5.0)
        for waitable in tuple(self.node.waitables):
            if isinstance(waitable, ActionClient):  # Left by destroy_node.
                waitable.destroy()
        self.node.destroy_node()
        if isinstance(self.node, LifecycleNode):
            destroy_state_machine(self.node)
        rclpy.shutdown(context=self.context, uninstall_handlers=False)


TRANSITIONS = {
    "configure": Transition(id=Transition.TRANSITION_CONFIGURE),
    "activate": Transition(id=Transition.TRANSITION_ACTIVATE),
    "deactivate": Transition(id=Transition.TRANSITION_DEACTIVATE),
    "cleanup": Transition(id=Transition.TRANSITION_CLEANUP),
}

WORDS = ("-p", "vocabulary:=['cup', 'plate', 'floor']")
FAKE_NODE = str(Path(__file__).with_name("fake_node.py"))
RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT


class Process:
    """A node in a process of its own; its output is shown if the test fails."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
            self._process = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=environment
            )

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for(self, text: str, timeout: float = 60.0) -> None:
        """Waits for a line of output."""
        wait_until(lambda: text in self.output or self._process.poll() is not None, timeout)
        assert text in self.output, self.output

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def end(self, number: int = signal.SIGINT, timeout: float = 60.0) -> int:
        """Sends a signal and returns the exit status."""
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._process.wait(timeout)

    def wait(self, timeout: float = 60.0) -> int:
        """Waits for the process to end by itself and returns its exit status."""
        return self._process.wait(timeout)

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Makes sure that it has ended; gently, since a killed node stays in the ROS graph for 20 s."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.end(timeout=5.0)
        self.kill()


@contextlib.contextmanager
def running(command: Sequence[str], log: Path, *texts: str) -> Iterator[Process]:
    """A process that has said `texts`; it does not outlive the block, or its own failure to say them."""
    process = Process(list(command), log)
    try:
        for text in texts:
            process.wait_for(text)
        yield process
    finally:
        process.close()
        print(process.output)


class Published:
    """Takes a publisher's place and keeps what is published."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def publish(self, message: Any) -> None:
        self.messages.append(message)


class Background:
    """Publishes in a thread until the block ends."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        """Publishes until `_stop` is set."""
        raise NotImplementedError


class Camera(Background):
    """Publishes one image at a rate, each with the time at which it is sent."""

    def __init__(self, peer: Peer, rate: float, pixels: np.ndarray) -> None:
        super().__init__()
        self._publisher = peer.node.create_publisher(Image, "/image", image_profile(RELIABLE))
        self._clock = peer.node.get_clock()
        self._message = rgb_message(pixels)
        self._period = 1.0 / rate

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            self._message.header.stamp = self._clock.now().to_msg()
            self._publisher.publish(self._message)
            due += self._period
            time.sleep(max(due - time.monotonic(), 0.0))


def camera(peer: Peer, topic: str = "/image", reliability: ReliabilityPolicy = RELIABLE, kind: type = Image) -> Any:
    return peer.node.create_publisher(kind, topic, image_profile(reliability))


def chosen_reliabilities(peer: Peer, topic: str) -> set[ReliabilityPolicy]:
    """What a topic's subscribers chose; while one follows a publisher that is new, frames are lost."""
    return {info.qos_profile.reliability for info in peer.node.get_subscriptions_info_by_topic(topic)}


def fake_node(seconds: float, *ros_arguments: str, encoding: float = 0.0) -> tuple[str, ...]:
    """Command line of a node whose model takes `seconds` for a frame, and `encoding` for a new word."""
    return (FAKE_NODE, str(seconds), str(encoding), "--ros-args", "-p", "checkpoint:=fake", *WORDS, *ros_arguments)


def publish_until(
    publisher: Any, message: Any, arrived: Callable[[], Any], timeout: float = 20.0, rate: float = 20.0
) -> Any:
    """Publishes a message again and again until `arrived` returns something true, and returns that."""
    end = time.monotonic() + timeout
    while not (value := arrived()):
        assert time.monotonic() < end, f"published for {timeout} s in vain"
        publisher.publish(message)
        time.sleep(1.0 / rate)
    return value


def drain(messages: queue.Queue) -> list:
    """Takes everything out of a queue."""
    items = []
    while not messages.empty():
        items.append(messages.get())
    return items


def rgb_message(pixels: np.ndarray, frame_id: str = "camera", stamp: Time | None = None) -> Image:
    """An uint8 RGB array as sensor_msgs/Image."""
    return Image(
        header=Header(frame_id=frame_id, stamp=stamp or Time(sec=5, nanosec=6)),
        height=pixels.shape[0],
        width=pixels.shape[1],
        step=3 * pixels.shape[1],
        encoding="rgb8",
        data=array("B", pixels.tobytes()),
    )


def pixels_of(message: Image, dtype: Any = np.uint8) -> np.ndarray:
    """The pixels of an image of one channel, `(H, W)`."""
    return np.frombuffer(message.data, dtype).reshape(message.height, message.width)


def flat_image(height: int = 12, width: int = 24, value: tuple[int, int, int] = (90, 80, 70)) -> np.ndarray:
    """One color, uint8 RGB."""
    return np.full((height, width, 3), value, np.uint8)


def transition(peer: Peer, label: str, node: str = "/fcclip", timeout: float = 30.0) -> bool:
    """Asks a node for a lifecycle transition; returns whether it happened."""
    request = ChangeState.Request(transition=TRANSITIONS[label])
    return peer.call(ChangeState, f"{node}/change_state", request, timeout).success


def state(peer: Peer, node: str = "/fcclip") -> str:
    """Label of a node's lifecycle state."""
    return peer.call(GetState, f"{node}/get_state").current_state.label


def set_parameters(peer: Peer, node: str = "/fcclip", **values: Any) -> list[SetParametersResult]:
    """Sets parameters one by one, as `ros2 param set` does; returns their results."""
    parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
    return peer.call(SetParameters, f"{node}/set_parameters", SetParameters.Request(parameters=parameters)).results


def status_of(messages: queue.Queue, accept: Callable[[DiagnosticStatus, dict], bool], timeout: float = 10.0) -> dict:
    """Waits for a diagnostic status that is accepted, and returns its values."""
    end = time.monotonic() + timeout
    while True:
        _, message = messages.get(timeout=max(end - time.monotonic(), 0.01))
        (status,) = message.status
        values = {item.key: item.value for item in status.values}
        if accept(status, values):
            return values
