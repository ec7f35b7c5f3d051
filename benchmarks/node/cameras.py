#!/usr/bin/env python3
"""What each of several cameras gets from one node: rates, ages, share of frames that went through in batches.

Every camera is a `sim_camera` in a process of its own that plays a recorded drive; the perception node is a third kind
of process, and this one listens. Exit status 1: the slower camera got less than 80 % of the other's rate.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, Image

from benchmarks import ROOT
from benchmarks.lib import machine
from demo.children import Children, unused_domain_id
from fcclip_core.files.resources import config_path
from fcclip_ros import msg
from fcclip_ros.qos import DIAGNOSTICS, OUTPUT

LEAST_RATIO = 0.8
"""Rate of the slowest camera over that of the fastest, below which one starves."""

_START_PATIENCE = 300.0
_COUNTS = ("received", "labeled", "batched", "dropped", "bad", "failed")


def main() -> int:
    """Measures and prints; see the module."""
    args = _parser().parse_args()
    os.environ.setdefault("ROS_DOMAIN_ID", str(unused_domain_id()))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        os.environ.setdefault(name, str(config_path("fastdds.xml")))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    about = machine.describe()
    print(machine.headline(about))
    with tempfile.TemporaryDirectory() as logs, Children(Path(logs)) as children:
        found = measure(args, children)
    report(args, found)
    if args.json:
        args.json.write_text(json.dumps({"machine": about, "arguments": _plain(args), **found}, indent=1) + "\n")
    return 0 if found["ratio"] >= LEAST_RATIO else 1


def measure(args: argparse.Namespace, children: Children) -> dict[str, Any]:
    """Starts everything, waits until every camera is labeled, and counts for a while."""
    names = [f"camera_{number}" for number in range(args.cameras)]
    for number, name in enumerate(names):
        rate = args.rates[number] if args.rates else args.rate
        children.start(name, *_ros("fcclip_ros.sim_camera", {"recording": str(args.recording), "rate": rate}, name))
    parameters = {
        "checkpoint": args.checkpoint,
        "cameras": names,
        "max_batch": args.max_batch,
        "backend": args.backend,
        "device": args.device,
        "shorter_side": args.shorter_side,
    }
    children.start("perception", *_ros("fcclip_ros.perception", parameters))
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    listener = Listener(names)
    try:
        deadline = time.monotonic() + _START_PATIENCE
        while not listener.heard_all():
            children.check()
            if time.monotonic() > deadline:
                raise SystemExit(f"not all cameras are labeled after {_START_PATIENCE:.0f} s")
            time.sleep(0.1)
        _watch(children, args.warm_up)
        listener.begin()
        _watch(children, args.seconds)
        return listener.result(args.seconds)
    finally:
        listener.close()
        rclpy.shutdown()


class Listener:
    """Notes what the cameras send, what the node answers to each, and what it counts."""

    def __init__(self, names: list[str]) -> None:
        """Subscribes."""
        self._names = names
        self._lock = threading.Lock()
        self._sent = dict.fromkeys(names, 0)
        self._ages: dict[str, list[float]] = {name: [] for name in names}
        self._counts: dict[str, dict[str, int]] = {}
        self._stages: dict[str, dict[str, str]] = {}
        self._first_counts: dict[str, dict[str, int]] = {}
        self._node = rclpy.create_node("cameras_benchmark")
        for name in names:
            self._node.create_subscription(
                CameraInfo, f"/{name}/camera_info", functools.partial(self._on_sent, name), 10
            )
            self._node.create_subscription(
                msg.SegmentArray, f"/fcclip/{name}/segments", functools.partial(self._on_segments, name), OUTPUT
            )
            # What a mapper would take: without a subscriber it is not made.
            self._node.create_subscription(Image, f"/fcclip/{name}/panoptic", lambda _: None, OUTPUT)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, DIAGNOSTICS)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def heard_all(self) -> bool:
        """Whether every camera was labeled at least once."""
        with self._lock:
            return all(self._ages.values()) and len(self._counts) == len(self._names)

    def begin(self) -> None:
        """Counts from now on."""
        with self._lock:
            self._sent = dict.fromkeys(self._names, 0)
            self._ages = {name: [] for name in self._names}
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

    def close(self) -> None:
        """Stops listening."""
        self._executor.shutdown()
        self._thread.join(timeout=5.0)
        self._node.destroy_node()

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
        age = time.time() - message.header.stamp.sec - 1e-9 * message.header.stamp.nanosec
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


def report(args: argparse.Namespace, found: dict[str, Any]) -> None:
    """Prints the table."""
    print(f"{args.cameras} cameras, checkpoint {args.checkpoint}, {args.seconds:g} s, max_batch {args.max_batch}\n")
    print("| camera | sent Hz | labeled Hz | age ms, median | 95 % | dropped | batched |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, camera in found["cameras"].items():
        counts, age = camera["node_counts"], camera["age_ms"]
        batched = f"{counts['batched'] / counts['labeled']:.0%}" if counts["labeled"] else "-"
        print(
            f"| {name} | {camera['sent_hz']} | {camera['labeled_hz']} | {age['median']} | {age['p95']} | "
            f"{counts['dropped']} of {counts['received']} | {batched} |"
        )
    print(f"\nslowest over fastest: {found['ratio']:.2f} (at least {LEAST_RATIO}); batched: {found['batch_share']:.0%}")


def _watch(children: Children, seconds: float) -> None:
    """Lets time pass; fails if a process ends meanwhile."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        children.check()
        time.sleep(min(0.2, max(end - time.monotonic(), 0.0)))


def _ros(module: str, parameters: dict[str, Any], namespace: str = "") -> list[str]:
    arguments = ["-m", module, "--ros-args"]
    if namespace:
        arguments += ["-r", f"__ns:=/{namespace}"]
    for name, value in parameters.items():
        arguments += ["-p", f"{name}:={json.dumps(value)}"]
    return arguments


def _plain(args: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="demo")
    parser.add_argument("--cameras", type=int, default=2, metavar="N", help="how many (default: 2)")
    parser.add_argument("--rate", type=float, default=10.0, help="frames per second of each (default: 10)")
    parser.add_argument("--rates", type=float, nargs="+", metavar="HZ", help="one for each camera, instead of --rate")
    parser.add_argument("--recording", type=Path, default=ROOT / "demo" / "drive", help="a recorded drive")
    parser.add_argument("--seconds", type=float, default=60.0, help="measured after the warm-up (default: 60)")
    parser.add_argument("--warm-up", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--shorter-side", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
