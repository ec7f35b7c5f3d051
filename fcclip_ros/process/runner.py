"""Runs one node in a process until a signal ends it, cleanly for SIGINT and SIGTERM alike."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol, cast

import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from fcclip_core.errors import FcclipError
from fcclip_core.quoting import printable

_PATIENCE = 2.5
"""Seconds that a process takes to end at most, whatever its threads are doing; `ros2 launch` kills after five."""

_SPINNER_PATIENCE = 0.5
"""Seconds that the executor may go on with the callback that it is in."""


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

    def callback_failed(self, what: str, error: Exception) -> None:
        """Is told what the executor met outside of a callback, such as a message that cannot be read."""


def run_process(make_node: Callable[[threading.Event], RunnableNode], args: Sequence[str] | None = None) -> NoReturn:
    """`run`, and the end of the process with its status.

    What Python does at its end is left out but for what was registered to be done then: with torch loaded it takes
    seconds on a busy machine, and crashes where a thread is inside a long native call, such as an engine's build.
    """
    status = run(make_node, args)
    stop = threading.Event()
    ended = _end_in_time(stop, lambda: status)
    stop.set()
    atexit._run_exitfuncs()  # temporary folders, logs; there is no public name for it
    ended.set()
    _leave(status)


def run(make_node: Callable[[threading.Event], RunnableNode], args: Sequence[str] | None = None) -> int:
    """Runs a node: an executor in a thread, the main thread waiting for a signal.

    rclpy's own signal handlers invalidate the context first, so that a node could not even say that it ends. Here the
    context lives until the node has finished. The process ends in time whatever its threads do, so further signals,
    which `ros2 launch` and a terminal send for one Ctrl-C, change nothing.

    Args:
        make_node: Makes the node from an event that the node may set to end itself.
        args: Command line, including ROS arguments; None takes the process's.

    Returns:
        The exit status: the node's own, or 1 if it could not be made.
    """
    stop = threading.Event()
    made: list[RunnableNode] = []
    ended = _end_in_time(stop, lambda: made[0].exit_status if made else 0)
    _stop_on_signals(stop)
    rclpy.init(args=_with_usable_logs(args), signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = make_node(stop)
    except (FcclipError, InvalidParameterTypeException, InvalidParameterValueException) as error:
        rclpy.logging.get_logger("fcclip_ros").fatal(printable(f"cannot start: {error}"))
        rclpy.try_shutdown()
        ended.set()
        return 1
    made.append(node)
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
    spinner.join(_SPINNER_PATIENCE)
    if finished and not spinner.is_alive():
        executor.shutdown()
        node.destroy_node()
    # Says goodbye to the other participants, who would look for this one for 20 s, also while a thread still works.
    rclpy.try_shutdown()
    ended.set()
    if not finished or spinner.is_alive():
        _leave(node.exit_status)
    return node.exit_status


def _with_usable_logs(args: Sequence[str] | None) -> list[str]:
    """The command line; without log files, which ROS does not start without, where there is no folder for them."""
    given = list(sys.argv if args is None else args)
    if any(os.environ.get(name) for name in ("ROS_LOG_DIR", "ROS_HOME")):
        return given
    home = os.environ.get("HOME", "")
    try:
        folder = Path(home or "/nonexistent") / ".ros" / "log"
        folder.mkdir(parents=True, exist_ok=True)
        usable = bool(home) and os.access(folder, os.W_OK)
    except OSError:
        usable = False
    if usable:
        return given
    where = f"{home} cannot be written" if home else "HOME is not set"
    print(f"no log files are kept: {where}; set ROS_LOG_DIR to a folder for them", file=sys.stderr)
    return [*given, "--ros-args", "--disable-external-lib-logs"]


def _end_in_time(stop: threading.Event, status: Callable[[], int]) -> threading.Event:
    """Ends the process some seconds after `stop`, unless the event that is returned is set by then."""
    ended = threading.Event()

    def watch() -> None:
        stop.wait()
        if not ended.wait(_PATIENCE):
            _leave(status())

    threading.Thread(target=watch, name="end", daemon=True).start()
    return ended


def _leave(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _stop_on_signals(stop: threading.Event) -> None:
    # Python's handlers run in the main thread alone, and nothing wakes it there if the kernel gives signals to another
    # thread, as it may with signals that follow each other closely. What Python's handler in C writes wakes a reader
    # wherever it ran. (Nor may a handler set the event: the main thread may hold the event's lock.)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def forward() -> None:
        os.read(reading, 1)
        stop.set()

    threading.Thread(target=forward, name="signals", daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)


def _spin(executor: SingleThreadedExecutor, node: RunnableNode, stop: threading.Event, ending: threading.Event) -> None:
    """Spins until `ending`; an error outside of a callback is told to the node and does not end the others."""
    while executor.context.ok() and not ending.is_set():
        try:
            executor.spin_once()
        except ExternalShutdownException:
            break
        except Exception as error:
            node.callback_failed("the executor", error)
    stop.set()
