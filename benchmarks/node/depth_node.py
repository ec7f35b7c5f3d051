#!/usr/bin/env python3
"""What depth costs the node: time outside the model in each frame, and memory over many frames.

The node runs with a model that answers at once (the tests' fake one). Counted is what its stages leave: reading
messages, matching depth, places, cloud, messages, publishing. Another process publishes image, depth and camera_info
and listens to segments and points.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import ROOT
from benchmarks.lib import machine

WORDS = [f"word {number}" for number in range(11)]
"""A segment each; a frame of the simulated world has as many."""

CASES = {
    "2-D, segments": ("use_depth:=false", ("segments",)),
    "depth, segments": ("use_depth:=true", ("segments",)),
    "depth, segments and points": ("use_depth:=true", ("segments", "points")),
}


def main() -> int:
    """Runs the node's role, or all cases one after the other."""
    if "--ros-args" in sys.argv:
        return run_node(Path(sys.argv[1]))
    options = parse_arguments()
    found: dict[str, Any] = {"machine": machine.describe(), "frames": options.frames, "size": [640, 480], "cases": {}}
    print(f"{'case':30}{'median':>10}{'99th':>10}{'CPU':>10}{'memory after a fifth':>22}{'at the end':>12}")
    for name, (setting, topics) in CASES.items():
        row = found["cases"][name] = measure(setting, topics, options.frames, options.rate)
        print(
            f"{name:30}{row['median_ms']:7.2f} ms{row['p99_ms']:7.2f} ms{row['cpu_ms']:7.2f} ms"
            f"{row['memory_early_mb']:19.0f} MB{row['memory_end_mb']:9.0f} MB",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=15.0, help="frames a second")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def run_node(log: Path) -> int:
    """The node, with a line in `log` for each frame: seconds outside the model, CPU seconds so far, resident bytes."""
    from benchmarks.lib.node_process import CORE_STAGES
    from fcclip_ros import perception
    from fcclip_ros.node import camera
    from fcclip_ros.node.frame_statistics import Statistics

    page = os.sysconf("SC_PAGE_SIZE")
    with log.open("w", buffering=1) as lines:

        class Recording(Statistics):
            def labeled(self, latencies: Mapping[str, float], batched: bool = False) -> None:
                super().labeled(latencies, batched)
                resident = int(Path("/proc/self/statm").read_text().split()[1]) * page
                outside = latencies["total"] - sum(latencies[stage] for stage in CORE_STAGES)
                lines.write(json.dumps([outside, time.process_time(), resident]) + "\n")

        setattr(camera, "Statistics", Recording)  # noqa: B010
        return perception.main(sys.argv, import_module("fake_segmenter").fake_loader())


def measure(setting: str, topics: tuple[str, ...], frames: int, rate: float) -> dict[str, float]:
    """Runs a node and a camera until so many frames are labeled."""
    os.environ["ROS_DOMAIN_ID"] = "93"
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        os.environ[name] = str(ROOT / "config" / "fastdds.xml")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "frames.jsonl"
        parameters = ["checkpoint:=fake", f"vocabulary:={WORDS}", setting]
        given = [argument for parameter in parameters for argument in ("-p", parameter)]
        with (Path(folder) / "node.log").open("w") as output:
            node = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.node.depth_node", str(log), "--ros-args", *given],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            drive(topics, frames, rate, log, node)
        finally:
            node.terminate()
            node.wait(20)
        rows = np.array([json.loads(line) for line in log.read_text().splitlines()[:frames]])
    warm = rows[len(rows) // 5 :]
    return {
        "median_ms": 1e3 * median(warm[:, 0]),
        "p99_ms": 1e3 * float(np.percentile(warm[:, 0], 99)),
        "cpu_ms": 1e3 * float((warm[-1, 1] - warm[0, 1]) / (len(warm) - 1)),
        "memory_early_mb": float(warm[0, 2] / 1e6),
        "memory_end_mb": float(warm[-1, 2] / 1e6),
    }


def drive(topics: tuple[str, ...], frames: int, rate: float, log: Path, node: subprocess.Popen) -> None:
    """Publishes frames until the node has labeled enough of them.

    Raises:
        RuntimeError: The node ended, or labels nothing.
    """
    from sensor_msgs.msg import PointCloud2

    from fcclip_ros import msg
    from fcclip_ros.qos import OUTPUT

    kinds = {"segments": msg.SegmentArray, "points": PointCloud2}
    heard = dict.fromkeys(topics, 0)
    lock = threading.Lock()

    def hear(topic: str) -> None:
        with lock:
            heard[topic] += 1

    make_peer = import_module("ros_harness").Peer
    peer, listener = make_peer(), make_peer()
    try:
        for topic in topics:
            listener.node.create_subscription(
                kinds[topic], f"/fcclip/{topic}", lambda _, topic=topic: hear(topic), OUTPUT
            )
        camera = import_module("depth_camera").DepthCamera(peer)
        dice = np.random.default_rng(0)
        pixels = dice.integers(1, 255, (480, 640, 3), dtype=np.uint8)
        meters = dice.uniform(1.5, 1.6, (480, 640))
        matrix = np.array([[460.0, 0, 319.5], [0, 460, 239.5], [0, 0, 1]])
        end = time.monotonic() + 300 + 5 * frames / rate
        due = time.monotonic()
        while not log.exists() or log.read_bytes().count(b"\n") < frames:
            if node.poll() is not None or time.monotonic() > end:
                raise RuntimeError(
                    f"the node labeled too few frames; it said:\n{(log.parent / 'node.log').read_text()}"
                )
            camera.publish(pixels=pixels, meters=meters, matrix=matrix)
            due = max(due + 1 / rate, time.monotonic() - 1)
            time.sleep(max(due - time.monotonic(), 0))
    finally:
        peer.close()
        listener.close()
    if not all(heard.values()):
        raise RuntimeError(f"messages heard: {heard}")


if __name__ == "__main__":
    sys.exit(main())
