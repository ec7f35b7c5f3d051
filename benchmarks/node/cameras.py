#!/usr/bin/env python3
"""What each of several cameras gets from one node: rates, ages, share of frames that went through in batches.

Every camera is a `sim_camera` in a process of its own that plays a recorded drive; the perception node is another
process, and this one listens. Exit status 1: the slowest camera got less than 80 % of the fastest one's rate.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import CameraInfo, Image

from benchmarks.lib.arguments import make_parser
from benchmarks.lib.report import Report, arguments_of, print_table, say
from demo.children import Children, ros_arguments, ros_environment
from demo.peer import Peer
from fcclip_core.simulation.bundled_drive import bundled_drive
from fcclip_ros import msg
from fcclip_ros.conversions.stamps import nanoseconds
from fcclip_ros.qos import DIAGNOSTICS, OUTPUT

LEAST_RATIO = 0.8
"""Rate of the slowest camera over that of the fastest, below which one starves."""

_START_PATIENCE = 300.0
_COUNTS = ("received", "labeled", "batched", "dropped", "bad", "failed")


def main() -> int:
    """Measures and prints; see the module."""
    parser = make_parser(__doc__, "checkpoint", "shorter_side", "device", "backend", rate=10.0, seconds=60.0)
    parser.add_argument("--cameras", type=int, default=2, metavar="N", help="number of cameras")
    parser.add_argument("--rates", type=float, nargs="+", metavar="HZ", help="one for each camera, instead of --rate")
    parser.add_argument("--recording", type=Path, default=bundled_drive(), help="a recorded drive")
    parser.add_argument("--warm-up", type=float, default=10.0, metavar="SECONDS", help="before the measurement")
    parser.add_argument("--max-batch", type=int, default=8, help="the node's parameter max_batch")
    args = parser.parse_args()
    report = Report("cameras")
    with mock.patch.dict(os.environ, ros_environment()), tempfile.TemporaryDirectory() as logs:
        found = measure(args, Path(logs))
    rows = []
    for name, camera in found["cameras"].items():
        counts, age = camera["node_counts"], camera["age_ms"]
        batched = counts["batched"] / counts["labeled"] if counts["labeled"] else None
        dropped = f"{counts['dropped']} of {counts['received']}"
        rows.append((name, camera["sent_hz"], camera["labeled_hz"], age["median"], age["p95"], dropped, batched))
    columns = {"camera": "", "sent Hz": "", "labeled Hz": "", "age ms, median": "", "95 %": "", "dropped": ""}
    title = f"{args.cameras} cameras, checkpoint {args.checkpoint}, {args.seconds:g} s, max_batch {args.max_batch}"
    print_table(columns | {"batched": ".0%"}, rows, title)
    say(f"slowest over fastest: {found['ratio']:.2f} (at least {LEAST_RATIO}); batched: {found['batch_share']:.0%}")
    report.write(args.json, arguments=arguments_of(args), **found)
    return 0 if found["ratio"] >= LEAST_RATIO else 1


def measure(args: argparse.Namespace, logs: Path) -> dict[str, Any]:
    """Starts everything, waits until every camera is labeled, and counts for a while."""
    names = [f"camera_{number}" for number in range(args.cameras)]
    settings = ("checkpoint", "max_batch", "backend", "device", "shorter_side")
    parameters = {"cameras": names} | {name: getattr(args, name) for name in settings}
    with Children(logs) as children:
        for name, rate in zip(names, args.rates or [args.rate] * args.cameras, strict=True):
            played = {"recording": str(args.recording), "rate": rate}
            children.start(name, "-m", "fcclip_ros.sim_camera", *ros_arguments(played, name))
        children.start("perception", "-m", "fcclip_ros.perception", *ros_arguments(parameters))
        with Peer("cameras_benchmark", children.check) as peer:
            listener = Listener(peer, names)
            peer.wait_for(listener.heard_all, _START_PATIENCE, "not all cameras are labeled")
            peer.watch(args.warm_up)
            listener.begin()
            peer.watch(args.seconds)
            return listener.result(args.seconds)


class Listener:
    """Notes what the cameras send, what the node answers to each, and what it counts."""

    def __init__(self, peer: Peer, names: list[str]) -> None:
        """Subscribes."""
        self._names = names
        self._lock = peer.changed
        self._sent: Counter[str] = Counter()
        self._ages: dict[str, list[float]] = defaultdict(list)
        self._counts: dict[str, dict[str, int]] = {}
        self._stages: dict[str, dict[str, str]] = {}
        self._first_counts: dict[str, dict[str, int]] = {}
        subscribe = peer.node.create_subscription
        for name in names:
            subscribe(CameraInfo, f"/{name}/camera_info", functools.partial(self._on_sent, name), 10)
            subscribe(msg.SegmentArray, f"/fcclip/{name}/segments", functools.partial(self._on_segments, name), OUTPUT)
            # As a mapper would: without a subscriber it is not published.
            subscribe(Image, f"/fcclip/{name}/panoptic", lambda _: None, OUTPUT)
        subscribe(DiagnosticArray, "/diagnostics", self._on_diagnostics, DIAGNOSTICS)

    def heard_all(self) -> bool:
        """Whether every camera was labeled at least once."""
        with self._lock:
            return len(self._ages) == len(self._counts) == len(self._names)

    def begin(self) -> None:
        """Starts to count."""
        with self._lock:
            self._sent.clear()
            self._ages.clear()
            self._first_counts = self._counts

    def result(self, seconds: float) -> dict[str, Any]:
        """What was counted since `begin`, `seconds` ago; ages in milliseconds, from stamp to arrival here."""
        with self._lock:
            cameras = {name: self._camera(name, seconds) for name in self._names}
        rates = [camera["labeled_hz"] for camera in cameras.values()]
        counted = [camera["node_counts"] for camera in cameras.values()]
        labeled = sum(counts["labeled"] for counts in counted)
        return {
            "cameras": cameras,
            "ratio": round(min(rates) / max(rates), 3) if max(rates) else 0.0,
            "batch_share": round(sum(counts["batched"] for counts in counted) / labeled, 3) if labeled else 0.0,
        }

    def _camera(self, name: str, seconds: float) -> dict[str, Any]:
        ages = self._ages[name]
        first, last = self._first_counts[name], self._counts[name]
        return {
            "sent_hz": round(self._sent[name] / seconds, 2),
            "labeled_hz": round(len(ages) / seconds, 2),
            "age_ms": {
                name: round(1e3 * float(np.quantile(ages, share)), 1) if ages else None
                for name, share in (("median", 0.5), ("p95", 0.95))
            },
            "node_counts": {key: last[key] - first[key] for key in _COUNTS},
            "stages": self._stages[name],
        }

    def _on_sent(self, name: str, _: CameraInfo) -> None:
        with self._lock:
            self._sent[name] += 1

    def _on_segments(self, name: str, message: msg.SegmentArray) -> None:
        age = (time.time_ns() - nanoseconds(message.header.stamp)) / 1e9
        with self._lock:
            self._ages[name].append(age)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        counts, stages = {}, {}
        for status in message.status:
            values = {item.key: item.value for item in status.values}
            name = status.name.rpartition(" ")[2]
            counts[name] = {key: int(values[f"frames {key}"]) for key in _COUNTS}
            stages[name] = {key.split()[1]: value for key, value in values.items() if key.startswith("latency ")}
        with self._lock:
            self._counts, self._stages = counts, stages


if __name__ == "__main__":
    sys.exit(main())
