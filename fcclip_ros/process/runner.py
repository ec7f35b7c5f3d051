"""Runs a node in a process until SIGINT or SIGTERM, with a clean shutdown for both."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from fcclip_core.errors import FcclipError
from fcclip_core.quoting import printable
from fcclip_ros.process.guarded import GuardedNode

_PATIENCE = 2.5
"""Maximum duration of a shutdown in seconds; `ros2 launch` sends SIGTERM after five."""

_SPINNER_PATIENCE = 0.5
"""Seconds that a shutdown waits for the current callback of the executor."""


def run_process(make_node: Callable[[threading.Event], GuardedNode], args: Sequence[str] | None = None) -> NoReturn:
    """Runs a node as `run`, then exits the process with its status.

    Of Python's finalization only the atexit functions are run: with torch loaded, finalization takes seconds on a busy
    machine, and crashes if a thread is in a long native call such as an engine build.
    """
    status = run(make_node, args)
    stop = threading.Event()
    ended = _end_in_time(stop, lambda: status)
    stop.set()
    atexit._run_exitfuncs()  # temporary folders, logs; there is no public name for it
    ended.set()
    _leave(status)


def run(make_node: Callable[[threading.Event], GuardedNode], args: Sequence[str] | None = None) -> int:
    """Runs a node: the executor in a thread, the main thread waiting for a signal.

    rclpy's own signal handlers shut the context down first, so that a node cannot even log that it is shutting down.
    Here the context stays valid until the node has finished. The process exits in time whatever its threads do, so
    further signals, which `ros2 launch` and a terminal send for one Ctrl-C, have no effect.

    Args:
        make_node: Creates the node, with an event that the node may set to end the process.
        args: Command line including ROS arguments; None for that of the process.

    Returns:
        The exit status: that of the node, or 1 if it could not be created.
    """
    stop = threading.Event()
    made: list[GuardedNode] = []
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
    executor.add_node(node)
    ending = threading.Event()
    spinner = threading.Thread(target=_spin, args=(executor, node, stop, ending), name="executor", daemon=True)
    spinner.start()
    node.begin()
    stop.wait()
    finished = node.finish()
    # As a task: an executor that is only woken continues to wait for a callback.
    executor.create_task(ending.set)
    spinner.join(_SPINNER_PATIENCE)
    if finished and not spinner.is_alive():
        executor.shutdown()
        node.destroy_node()
    # Even while a thread is running: otherwise other DDS participants keep this one for 20 s.
    rclpy.try_shutdown()
    ended.set()
    if not finished or spinner.is_alive():
        _leave(node.exit_status)
    return node.exit_status


def _with_usable_logs(args: Sequence[str] | None) -> list[str]:
    """The command line, with log files disabled if there is no writable folder for them, without which rclpy fails."""
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
    where = f"{home} is not writable" if home else "HOME is not set"
    print(f"log files are disabled: {where}; set ROS_LOG_DIR to a writable folder", file=sys.stderr)
    return [*given, "--ros-args", "--disable-external-lib-logs"]


def _end_in_time(stop: threading.Event, status: Callable[[], int]) -> threading.Event:
    """Exits the process some seconds after `stop`, unless the returned event is set by then."""
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


def _spin(executor: SingleThreadedExecutor, node: GuardedNode, stop: threading.Event, ending: threading.Event) -> None:
    """Spins until `ending`; errors outside of callbacks are passed to the node and do not stop the executor."""
    while executor.context.ok() and not ending.is_set():
        try:
            executor.spin_once()
        except ExternalShutdownException:
            break
        except Exception as error:
            node.callback_failed("the executor", error)
    stop.set()
