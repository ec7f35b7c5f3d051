"""The first moments of a node's program, before there is anything to end. Imports nothing that takes time."""

from __future__ import annotations

import os
import signal
import sys
import threading

_NODES = ("perception", "image_source", "sim_camera")


def is_a_nodes_program() -> bool:
    """Whether this process was started to run a node: as a module, or by an installed command."""
    program = getattr(sys, "argv", [""])[0]
    if program == "-m":  # Python writes the file's name there when it has found the module.
        arguments = sys.orig_argv
        module = arguments[arguments.index("-m") + 1] if "-m" in arguments[:-1] else ""
        return module in {f"fcclip_ros.{name}" for name in _NODES}
    folder, name = os.path.split(program)
    if os.path.basename(folder) == "fcclip_ros":
        return name in _NODES
    return name in {f"fcclip-{node.replace('_', '-')}" for node in _NODES}


def end_at_once_on_signals() -> None:
    """SIGINT and SIGTERM end the process with status 0, without a traceback."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os._exit(0))
