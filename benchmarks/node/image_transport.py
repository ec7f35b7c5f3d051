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
from array import array
from pathlib import Path

import numpy as np
import rclpy
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import Image

from benchmarks import ROOT
from benchmarks.lib import machine
from fcclip_ros.qos import image_profile

PROFILE = ROOT / "config" / "fastdds.xml"
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
TOPIC = "benchmark/image"
_DISCOVERY_PATIENCE = 20.0
_LAST_FRAMES_PATIENCE = 1.0


def main() -> int:
    """Runs one role, or all cases one after the other."""
    args = _parser().parse_args()
    if args.role == "send":
        send(args)
    elif args.role == "receive":
        print(json.dumps(receive(args)))
    else:
        compare(args)
    return 0


def compare(args: argparse.Namespace) -> None:
    """Prints the table."""
    print(machine.headline(machine.describe()))
    print(f"{args.width} x {args.height} rgb8 at {args.rate:g} Hz for {args.seconds:g} s, one sender, one receiver\n")
    print("| Fast DDS | reliability | received | median ms | 99th percentile ms |\n| --- | --- | --- | --- | --- |")
    for profile in (None, PROFILE):
        for reliability in ("BEST_EFFORT", "RELIABLE"):
            ages = _run_case(args, profile, reliability)
            sent = round(args.rate * args.seconds)
            late = [f"{1e3 * np.quantile(ages, share):.1f}" if ages else "-" for share in (0.5, 0.99)]
            name = profile.name if profile else "default"
            print(f"| {name} | {reliability} | {len(ages)} of {sent} | {late[0]} | {late[1]} |")


def send(args: argparse.Namespace) -> None:
    """Publishes stamped frames once somebody listens."""
    rclpy.init()
    node = rclpy.create_node("sender")
    publisher = node.create_publisher(Image, TOPIC, image_profile(ReliabilityPolicy[args.reliability]))
    data = array("B", np.random.default_rng(0).integers(0, 256, 3 * args.width * args.height, np.uint8).tobytes())
    message = Image(height=args.height, width=args.width, step=3 * args.width, encoding="rgb8", data=data)
    patience = time.monotonic() + _DISCOVERY_PATIENCE
    while publisher.get_subscription_count() == 0 and time.monotonic() < patience:
        time.sleep(0.05)
    time.sleep(0.5)
    due = time.monotonic()
    for _ in range(round(args.rate * args.seconds)):
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
        due += 1.0 / args.rate
        time.sleep(max(due - time.monotonic(), 0.0))
    time.sleep(_LAST_FRAMES_PATIENCE)
    rclpy.shutdown()


def receive(args: argparse.Namespace) -> list[float]:
    """Ages of the frames in seconds, from stamp to callback, until none comes any more."""
    rclpy.init()
    node = rclpy.create_node("receiver")
    ages: list[float] = []

    def take(message: Image) -> None:
        ages.append(time.time() - message.header.stamp.sec - 1e-9 * message.header.stamp.nanosec)

    node.create_subscription(Image, TOPIC, take, image_profile(ReliabilityPolicy[args.reliability]))
    patience = time.monotonic() + _DISCOVERY_PATIENCE
    while node.count_publishers(TOPIC) == 0 and time.monotonic() < patience:
        rclpy.spin_once(node, timeout_sec=0.05)
    while node.count_publishers(TOPIC) > 0:
        rclpy.spin_once(node, timeout_sec=0.05)
    rclpy.shutdown()
    return ages


def _run_case(args: argparse.Namespace, profile: Path | None, reliability: str) -> list[float]:
    environment = {key: value for key, value in os.environ.items() if key not in PROFILE_VARIABLES}
    if profile is not None:
        environment |= dict.fromkeys(PROFILE_VARIABLES, str(profile))
    sizes = [f"--{name}={getattr(args, name)}" for name in ("width", "height", "rate", "seconds")]
    command = [sys.executable, "-m", "benchmarks.node.image_transport", *sizes, f"--reliability={reliability}"]
    receiver = subprocess.Popen([*command, "receive"], env=environment, stdout=subprocess.PIPE, text=True)
    subprocess.run([*command, "send"], env=environment, check=True)
    output, _ = receiver.communicate(timeout=60)
    return json.loads(output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="?", choices=("send", "receive"), help="used by the program itself")
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--rate", type=float, default=30.0, help="frames per second")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--reliability", choices=("BEST_EFFORT", "RELIABLE"), default="RELIABLE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
