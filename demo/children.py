"""The demo's other processes: started with a log each, watched, and ended in any case."""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from fcclip_core.errors import FcclipError
from fcclip_core.files.resources import config_path

_PR_SET_PDEATHSIG = 1
_PATIENCE = ((signal.SIGINT, 15.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
"""Signals in order, each with the seconds that a process has before the next one comes."""


class Children:
    """Processes that live as long as a `with` block.

    Each runs in a session of its own, so that Ctrl-C in the terminal reaches this process alone, which then ends them
    in order. They also get SIGINT if this process is killed.
    """

    def __init__(self, log_folder: Path) -> None:
        """Keeps one log per child in `log_folder`."""
        self._log_folder = log_folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stopped: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str) -> None:
        """Starts a Python process, `python COMMAND...`; its output goes to NAME.log."""
        with self._log_of(name).open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    def pid(self, name: str) -> int:
        """Process number of a child that has not been stopped."""
        return self._processes[name].pid

    def check(self) -> None:
        """Makes sure that all are alive that have not been stopped.

        Raises:
            FcclipError: One has ended; the message holds the end of its log.
        """
        for name, process in self._processes.items():
            if process.poll() is not None:
                tail = "\n".join(self._log_of(name).read_text(errors="replace").splitlines()[-15:])
                raise FcclipError(f"{name} ended with exit status {process.returncode}; its log ends:\n{tail}")

    def stop(self, *names: str) -> Mapping[str, int]:
        """Ends processes, politely first.

        Args:
            names: Which; all if none is named.

        Returns:
            Exit statuses of all that have been ended so far; minus the signal's number where it took one.
        """
        self._stopped |= {name: self._processes.pop(name) for name in names or tuple(self._processes)}
        for number, seconds in _PATIENCE:
            running = [process for process in self._stopped.values() if process.poll() is None]
            for process in running:
                process.send_signal(number)
            _wait(running, seconds)
        return {name: process.wait() for name, process in self._stopped.items()}

    def __enter__(self) -> Children:
        """Returns the object itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends all processes."""
        self.stop()

    def _log_of(self, name: str) -> Path:
        return self._log_folder / f"{name}.log"


def ros_environment() -> dict[str, str]:
    """Variables for processes that talk to each other on this host and to nobody else."""
    profiles = str(config_path("fastdds.xml"))
    return {
        "ROS_DOMAIN_ID": str(unused_domain_id()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        # Fast DDS 3 renamed the variable.
        "FASTRTPS_DEFAULT_PROFILES_FILE": profiles,
        "FASTDDS_DEFAULT_PROFILES_FILE": profiles,
    }


def ros_arguments(parameters: Mapping[str, Any], namespace: str = "") -> list[str]:
    """Command-line arguments that give a node its parameters, and a namespace if it is not empty."""
    # JSON is YAML, and its quotes keep a text a text.
    given = [part for name, value in parameters.items() for part in ("-p", f"{name}:={json.dumps(value)}")]
    return ["--ros-args", *(["-r", f"__ns:=/{namespace}"] if namespace else []), *given]


def unused_domain_id(taken_ports: set[int] | None = None) -> int:
    """Picks a ROS domain that nobody on this host uses, so that a demo next to a running robot disturbs nothing.

    Args:
        taken_ports: UDP ports in use; None looks them up.

    Returns:
        A domain id from 1 to 100; all its ports lie below Linux's ephemeral ones.
    """
    taken = _udp_ports() if taken_ports is None else taken_ports
    candidates = random.sample(range(1, 101), 100)
    # DDS-RTPS 9.6.1.1: the ports of domain d are those from 7400 + 250 d on.
    free = (d for d in candidates if not any(7400 + 250 * d <= port < 7650 + 250 * d for port in taken))
    return next(free, candidates[0])


def _udp_ports() -> set[int]:
    ports = set()
    for table in ("/proc/net/udp", "/proc/net/udp6"):
        if os.path.exists(table):
            for line in Path(table).read_text().splitlines()[1:]:
                ports.add(int(line.split()[1].rpartition(":")[2], 16))
    return ports


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _wait(processes: list[subprocess.Popen[bytes]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            continue
