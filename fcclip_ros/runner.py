"""Runs one node in a process until a signal ends it, cleanly for SIGINT and SIGTERM alike."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Protocol, cast

import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from fcclip_core.errors import FcclipError


class RunnableNode(Protocol):
    """What `run` asks of a node, beyond being an rclpy Node.

    Attributes:
        exit_status: What the process is to end with.
    """

    exit_status: int

    def begin(self) -> None:
        """Called once the executor spins."""

    def finish(self) -> bool:
        """Called before the context is shut down, with the executor still spinning; False if threads still work."""

    def destroy_node(self) -> None:
        """As rclpy's."""

    def get_logger(self) -> Any:
        """As rclpy's."""


def run(make_node: Callable[[threading.Event], RunnableNode], args: Sequence[str] | None = None) -> int:
    """Runs a node: an executor in a thread, the main thread waiting for a signal.

    rclpy's own signal handlers invalidate the context first, so that a node could not even say that it ends. Here the
    context lives until the node has finished. A second signal ends the process at once.

    Args:
        make_node: Makes the node from an event that the node may set to end itself.
        args: Command line, including ROS arguments; None takes the process's.

    Returns:
        The exit status: the node's own, or 1 if it could not be made.
    """
    stop = threading.Event()
    _stop_on_signals(stop)
    rclpy.init(args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = make_node(stop)
    except (FcclipError, InvalidParameterTypeException, InvalidParameterValueException) as error:
        rclpy.logging.get_logger("fcclip_ros").fatal(f"cannot start: {error}")
        rclpy.try_shutdown()
        return 1
    executor = SingleThreadedExecutor()
    executor.add_node(cast(Node, node))
    ending = threading.Event()
    spinner = threading.Thread(target=_spin, args=(executor, node, stop, ending), name="executor", daemon=True)
    spinner.start()
    node.begin()
    stop.wait()
    finished = node.finish()
    # As a task: merely woken, an executor goes on waiting for a callback.
    executor.create_task(ending.set)
    spinner.join(timeout=2.0)
    if not finished or spinner.is_alive():
        # A thread inside a long native call (an engine build, a slow model) would hold up the interpreter's exit, or
        # crash it; nothing is left to save.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(node.exit_status)
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    return node.exit_status


def _stop_on_signals(stop: threading.Event) -> None:
    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)


def _spin(executor: SingleThreadedExecutor, node: RunnableNode, stop: threading.Event, ending: threading.Event) -> None:
    """Spins until `ending`; an error in one callback is logged and does not end the others."""
    while executor.context.ok() and not ending.is_set():
        try:
            executor.spin_once()
        except ExternalShutdownException:
            break
        except Exception:
            node.get_logger().error(f"a callback failed:\n{traceback.format_exc()}")
    stop.set()
