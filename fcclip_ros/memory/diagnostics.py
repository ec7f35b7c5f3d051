"""The state of the memory and of its cameras on /diagnostics."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from fcclip_ros.memory.camera import MemoryCamera
from fcclip_ros.node.diagnostics import process_memory


@dataclass(frozen=True)
class MemoryState:
    """State of the node.

    Attributes:
        lifecycle: Label of the lifecycle state.
        problem: Why the node could not be configured; empty if it was.
        file: Where objects are kept; empty for nowhere.
        file_problem: Why the newest changes are not in the file; empty if they are.
        objects: Number of confirmed objects.
        tentative: Number of objects that are not confirmed yet.
        gone: Number of objects that are no longer there.
        map_jumps: Jumps of the map that were noticed.
        clock_jumps: Jumps back of the clock that were noticed.
        reanchored: Objects that followed corrected keyframes.
        path_problem: Why keyframes cannot be used; empty if they can, or are not used.
    """

    lifecycle: str
    problem: str
    file: str
    file_problem: str
    objects: int
    tentative: int
    gone: int
    map_jumps: int
    clock_jumps: int
    reanchored: int
    path_problem: str


def memory_status(state: MemoryState) -> DiagnosticStatus:
    """The status of the memory: ERROR if it could not be configured, WARN if it is not saved, else OK."""
    level, message = DiagnosticStatus.OK, f"{state.objects} objects"
    if state.problem:
        level, message = DiagnosticStatus.ERROR, f"{state.lifecycle}: {state.problem}"
    elif state.file_problem:
        level, message = DiagnosticStatus.WARN, f"the memory is not saved: {state.file_problem}"
    elif state.path_problem:
        level, message = DiagnosticStatus.WARN, state.path_problem
    elif state.lifecycle != "active":
        message = state.lifecycle
    values = {
        "state": state.lifecycle,
        "objects": str(state.objects),
        "objects tentative": str(state.tentative),
        "objects gone": str(state.gone),
        "file": state.file,
        "file problem": state.file_problem,
        "map jumps": str(state.map_jumps),
        "clock jumps": str(state.clock_jumps),
        "objects moved with keyframes": str(state.reanchored),
        "keyframes problem": state.path_problem,
        **process_memory(),
    }
    return _status("memory", level, message, values)


def camera_status(camera: MemoryCamera, lifecycle: str) -> DiagnosticStatus:
    """The status of a camera: WARN if its frames are missing or cannot be remembered, else OK."""
    report = camera.statistics.report()
    depth = camera.depth.state(report.input_rate)
    level, message = DiagnosticStatus.OK, f"{report.output_rate:.1f} frames/s of {report.input_rate:.1f}"
    problem = camera.problem or camera.input_problem
    if lifecycle != "active":
        message = lifecycle
    elif problem:
        level, message = DiagnosticStatus.WARN, problem
    elif report.input_rate == 0:
        level, message = DiagnosticStatus.WARN, f"no segments: {camera.input}"
    elif depth is not None and depth.problem:
        level, message = DiagnosticStatus.WARN, f"absent objects are not noticed without depth: {depth.problem}"
    values = {
        "frames received": str(report.counts.received),
        "frames remembered": str(report.counts.labeled),
        "frames dropped": str(report.counts.dropped),
        "frames not remembered": str(report.counts.bad + report.counts.failed),
        "input rate (Hz)": f"{report.input_rate:.2f}",
        "output rate (Hz)": f"{report.output_rate:.2f}",
        **{
            f"latency {stage} (ms)": f"{1e3 * mean:.1f} (max {1e3 * maximum:.1f})"
            for stage, (mean, maximum) in report.latencies.items()
        },
        "segments input": camera.input,
        "poses": camera.poses.describe(),
        "problem": problem,
    }
    if depth is not None:
        values |= {
            "depth input": depth.depth_input,
            "frames with depth": str(depth.matched),
            "frames without depth": str(depth.missed),
            "depth problem": depth.problem,
        }
    return _status(f"camera {camera.name}" if camera.name else "camera", level, message, values)


def _status(name: str, level: bytes, message: str, values: dict[str, str]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
    return DiagnosticStatus(level=level, name=name, message=message, hardware_id=socket.gethostname(), values=pairs)
