"""The node's state and frame statistics on /diagnostics, one status per camera, once a second."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from fcclip_ros.node.depth_input import DepthState
from fcclip_ros.node.frame_statistics import Report
from fcclip_ros.node.target_frame import TransformState
from fcclip_ros.qos import DIAGNOSTICS

PERIOD = 1.0
"""Seconds between messages."""


@dataclass(frozen=True)
class NodeState:
    """State of the node and one of its cameras, without the frame statistics.

    Attributes:
        lifecycle: Label of the lifecycle state (unconfigured, inactive, active, finalized) or transition.
        enabled: False while inference is disabled for the camera by ~/enable.
        checkpoint: The requested weights.
        device: Device of the model; empty while unconfigured.
        backend: Description of the backend; empty while unconfigured.
        backend_requested: The requested backend.
        backend_warning: Which backend is no longer used, and why; empty if there is no problem.
        image_input: Description of the image subscription.
        image_problem: Why no image can be received although the topic has publishers; empty if there is no problem.
        vocabulary_version: Version of the camera's active vocabulary; 0 for none.
        vocabulary_classes: Number of its published classes.
        distractors: Number of its classes that compete and are never published.
        encoding_classes: Number of classes of the vocabulary that is being encoded; 0 for none.
        problem: Why the node is not working; empty if it is.
        mask_problem: Why frames are labeled without their ignore mask; empty if there is no problem.
        depth: State of the depth input; None if depth is not used.
        transform: State of the transforms to the target frame; None without target frame.
    """

    lifecycle: str
    enabled: bool
    checkpoint: str
    device: str
    backend: str
    backend_requested: str
    backend_warning: str
    image_input: str
    image_problem: str
    vocabulary_version: int
    vocabulary_classes: int
    distractors: int
    encoding_classes: int
    problem: str
    mask_problem: str
    depth: DepthState | None = None
    transform: TransformState | None = None


class DiagnosticsPublisher:
    """Publishes the diagnostics of a node."""

    def __init__(self, node: Node, describe: Callable[[], Iterable[DiagnosticStatus]]) -> None:
        """Starts publishing.

        Args:
            node: The node.
            describe: Called for each message; the names of its statuses get the name of the node before them.
        """
        self._node = node
        self._describe = describe
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", DIAGNOSTICS)
        self._timer = node.create_timer(PERIOD, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def publish(self) -> None:
        """Publishes the current state."""
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        name = self._node.get_fully_qualified_name().lstrip("/")
        message.status = list(self._describe())
        for status in message.status:
            status.name = f"{name}: {status.name}"
        self._publisher.publish(message)


def make_status(name: str, state: NodeState, report: Report) -> DiagnosticStatus:
    """Converts the state and the statistics of a camera into a status.

    The level is ERROR if the node could not be configured or its model fails on frames; WARN if frames are missing or
    invalid, the image topic has another type, inference is disabled, there was a recent error, or the requested backend
    is not used; else OK.
    """
    level, message = _judge(state, report)
    return DiagnosticStatus(
        level=level, name=name, message=message, hardware_id=socket.gethostname(), values=_values(state, report)
    )


def _judge(state: NodeState, report: Report) -> tuple[bytes, str]:
    error = report.last_error
    if state.problem:
        return DiagnosticStatus.ERROR, f"{state.lifecycle}: {state.problem}"
    if state.lifecycle != "active":
        return DiagnosticStatus.OK, state.lifecycle
    if not state.enabled:
        return DiagnosticStatus.WARN, "inference is disabled (~/enable)"
    if report.failure and report.output_rate == 0:
        # Even at a low input rate: no frame has been labeled since.
        return DiagnosticStatus.ERROR, report.failure
    if error is not None and error.recent:
        return DiagnosticStatus.WARN, error.text
    if state.image_problem:
        return DiagnosticStatus.WARN, state.image_problem
    if report.input_rate == 0:
        return DiagnosticStatus.WARN, f"no images: {state.image_input}"
    if state.backend_warning:
        return DiagnosticStatus.WARN, f"{report.output_rate:.1f} frames/s, but {state.backend_warning}"
    if state.mask_problem:
        return DiagnosticStatus.WARN, state.mask_problem
    if state.depth is not None and state.depth.problem:
        return DiagnosticStatus.WARN, f"frames are published without depth: {state.depth.problem}"
    if state.depth is not None and state.transform is not None and state.transform.problem:
        return DiagnosticStatus.WARN, f"3D outputs are left out: {state.transform.problem}"
    return DiagnosticStatus.OK, f"{report.output_rate:.1f} frames/s of {report.input_rate:.1f}"


def _values(state: NodeState, report: Report) -> list[KeyValue]:
    counts, error = report.counts, report.last_error
    values = {
        "state": state.lifecycle,
        "enabled": str(state.enabled).lower(),
        "frames received": str(counts.received),
        "frames labeled": str(counts.labeled),
        "frames batched": str(counts.batched),
        "frames left out": str(counts.left_out),
        "frames dropped": str(counts.dropped),
        "frames bad": str(counts.bad),
        "frames failed": str(counts.failed),
        "requests refused": str(counts.refused),
        "other errors": str(counts.errors),
        "input rate (Hz)": f"{report.input_rate:.2f}",
        "output rate (Hz)": f"{report.output_rate:.2f}",
        **{
            f"latency {stage} (ms)": f"{1e3 * mean:.1f} (max {1e3 * maximum:.1f})"
            for stage, (mean, maximum) in report.latencies.items()
        },
        "checkpoint": state.checkpoint,
        "device": state.device,
        "backend requested": state.backend_requested,
        "backend": state.backend,
        "image input": state.image_input,
        **(_depth(state.depth) if state.depth is not None else {}),
        **(_transform(state.transform) if state.depth is not None and state.transform is not None else {}),
        "vocabulary version": str(state.vocabulary_version),
        "vocabulary classes": str(state.vocabulary_classes),
        "distractors": str(state.distractors),
        "classes being encoded": str(state.encoding_classes),
        **process_memory(),
        **_gpu_memory(state.device),
        "last error": error.text if error else "",
        "last error age (s)": f"{error.age:.0f}" if error else "",
    }
    return [KeyValue(key=key, value=value) for key, value in values.items()]


def _depth(depth: DepthState) -> dict[str, str]:
    return {
        "depth input": depth.depth_input,
        "camera_info input": depth.info_input,
        "depth rate (Hz)": f"{depth.rate:.2f}",
        "frames with depth": str(depth.matched),
        "frames without depth": str(depth.missed),
        "depth problem": depth.problem,
    }


def _transform(transform: TransformState) -> dict[str, str]:
    return {
        "target frame": transform.target_frame,
        "frames with transform": str(transform.found),
        "frames without transform": str(transform.missed),
        "transform problem": transform.problem,
    }


def process_memory() -> dict[str, str]:
    """Memory of this process in MB; key and value of a status."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # Only Linux has this file.
        return {}
    return {"memory (MB)": f"{pages * os.sysconf('SC_PAGE_SIZE') / 1e6:.0f}"}


def _gpu_memory(device: str) -> dict[str, str]:
    if not device.startswith("cuda"):
        return {}
    import torch  # here, as nodes without a network share this module

    return {
        "GPU memory (MB)": f"{torch.cuda.memory_allocated(device) / 1e6:.0f}",
        "GPU memory peak (MB)": f"{torch.cuda.max_memory_allocated(device) / 1e6:.0f}",
    }
