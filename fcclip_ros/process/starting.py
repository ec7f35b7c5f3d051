"""Signal handling of a node process until the node is created. Imports only fast modules."""

from __future__ import annotations

import os
import signal
import sys
import threading

_NODES = ("perception", "image_source", "sim_camera", "object_memory")


def is_node_process() -> bool:
    """Whether this process runs a node, as a module or by an installed command."""
    program = getattr(sys, "argv", [""])[0]
    if program == "-m":  # Python replaces it by the file name once it has found the module.
        arguments = sys.orig_argv
        module = arguments[arguments.index("-m") + 1] if "-m" in arguments[:-1] else ""
        return module in {f"fcclip_ros.{name}" for name in _NODES}
    folder, name = os.path.split(program)
    if os.path.basename(folder) == "fcclip_ros":
        return name in _NODES
    return name in {f"fcclip-{node.replace('_', '-')}" for node in _NODES}


def exit_on_signals() -> None:
    """SIGINT and SIGTERM exit the process with status 0, without a traceback."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os._exit(0))
