"""Peers to talk to nodes with, and node processes."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions


def wait_until(condition: Callable[[], Any], timeout: float = 10.0) -> Any:
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
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        try:
            while self.context.ok():
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
        future = client.call_async(kind.Request() if request is None else request)
        future.add_done_callback(lambda _: answered.set())

        def result(timeout: float = 20.0) -> Any:
            assert answered.wait(timeout), f"{name} did not answer within {timeout} s"
            return future.result()

        return result

    def close(self) -> None:
        rclpy.shutdown(context=self.context, uninstall_handlers=False)
        self._thread.join(timeout=5.0)
        self.node.destroy_node()


ROOT = Path(__file__).resolve().parents[2]


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

    def end(self, number: int = signal.SIGINT, timeout: float = 15.0) -> int:
        """Sends a signal and returns the exit status."""
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._process.wait(timeout)

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
