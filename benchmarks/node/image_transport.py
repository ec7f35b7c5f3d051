#!/usr/bin/env python3
"""How many of a camera's frames reach another process, and how late, with and without config/fastdds.xml.

One process publishes rgb8 frames at a rate, another receives them; nothing else happens in either. Rows: Fast DDS as it
comes, and with the profile that the launch file and the demo set.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import Image

from benchmarks.lib.arguments import make_parser
from benchmarks.lib.node_process import image_message, stream
from benchmarks.lib.report import Report, print_table
from demo.children import ros_environment
from demo.peer import Peer
from fcclip_ros.conversions.stamps import nanoseconds
from fcclip_ros.qos import image_profile

TOPIC = "benchmark/image"
_DISCOVERY_PATIENCE = 20.0
_LAST_FRAMES_PATIENCE = 1.0


def main() -> int:
    """Runs one role, or all cases one after the other."""
    parser = make_parser(__doc__, "size", rate=30.0, seconds=8.0)
    parser.add_argument("--role", choices=("send", "receive"), help="used by the program itself")
    parser.add_argument("--reliability", choices=("BEST_EFFORT", "RELIABLE"), default="RELIABLE", help="of a role")
    args = parser.parse_args()
    if args.role:
        print(json.dumps({"send": send, "receive": receive}[args.role](args)))
    else:
        compare(args)
    return 0


def compare(args: argparse.Namespace) -> None:
    """Prints and records all cases."""
    report = Report("image_transport")
    private = ros_environment()
    default = {name: value for name, value in private.items() if not name.endswith("PROFILES_FILE")}
    rows = []
    for name, environment in (("default", default), ("fastdds.xml", private)):
        for reliability in ("BEST_EFFORT", "RELIABLE"):
            sent, ages = run_case(args, environment, reliability)
            late = [1e3 * float(np.quantile(ages, share)) if ages else None for share in (0.5, 0.99)]
            rows.append((name, reliability, len(ages), sent, *late))
    columns = {"Fast DDS": "", "reliability": "", "received": "", "of": "", "median ms": ".1f", "99 % ms": ".1f"}
    print_table(columns, rows, "{}x{} rgb8 at {:g} Hz for {:g} s".format(*args.size, args.rate, args.seconds))
    report.write(args.json, cases=[dict(zip(columns, row, strict=True)) for row in rows])


def run_case(args: argparse.Namespace, environment: dict[str, str], reliability: str) -> tuple[int, list[float]]:
    """Frames sent, and ages in seconds of those that arrived, with one sender and one receiver."""
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("PROFILES_FILE")}
    command = [sys.executable, "-m", "benchmarks.node.image_transport", f"--reliability={reliability}"]
    command += ["--size={}x{}".format(*args.size), f"--rate={args.rate}", f"--seconds={args.seconds}"]
    environment = inherited | environment
    roles = [
        subprocess.Popen([*command, f"--role={role}"], env=environment, stdout=subprocess.PIPE, text=True)
        for role in ("send", "receive")
    ]
    sent, ages = (json.loads(role.communicate(timeout=args.seconds + 120)[0]) for role in roles)
    return sent, ages


def send(args: argparse.Namespace) -> int:
    """Publishes stamped frames once somebody listens, and returns how many."""
    with Peer("sender") as peer:
        publisher = peer.node.create_publisher(Image, TOPIC, image_profile(ReliabilityPolicy[args.reliability]))
        message = image_message(np.random.default_rng(0).integers(0, 256, (*args.size[::-1], 3), np.uint8))

        def show() -> None:
            message.header.stamp = peer.node.get_clock().now().to_msg()
            publisher.publish(message)

        peer.wait_for(lambda: publisher.get_subscription_count() > 0, _DISCOVERY_PATIENCE, "nobody listened")
        time.sleep(0.5)
        with stream(args.rate, show) as shown:
            time.sleep(args.seconds)
        time.sleep(_LAST_FRAMES_PATIENCE)
    return len(shown)


def receive(args: argparse.Namespace) -> list[float]:
    """Ages of the frames in seconds, from stamp to callback, until the sender is gone."""
    ages: list[float] = []

    def take(message: Image) -> None:
        ages.append((time.time_ns() - nanoseconds(message.header.stamp)) / 1e9)

    with Peer("receiver") as peer:
        peer.node.create_subscription(Image, TOPIC, take, image_profile(ReliabilityPolicy[args.reliability]))
        peer.wait_for(lambda: peer.node.count_publishers(TOPIC) > 0, _DISCOVERY_PATIENCE, "no sender was there")
        patience = args.seconds + _DISCOVERY_PATIENCE
        peer.wait_for(lambda: peer.node.count_publishers(TOPIC) == 0, patience, "the sender did not leave")
    return ages


if __name__ == "__main__":
    sys.exit(main())
