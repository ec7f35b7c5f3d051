"""A client that asks for much and is killed before it hears the answers: goals and searches that nobody owns any more.

For soak.py, which starts it in the node's ROS domain and kills it.
"""

from __future__ import annotations

import time

import rclpy
from rclpy.action import ActionClient

from fcclip_ros import srv
from fcclip_ros.action import WaitFor

GOALS = 4


def main() -> None:
    """Sends goals that never end and searches that wait for a picture, until killed."""
    rclpy.init()
    node = rclpy.create_node("careless")
    waits, finds = ActionClient(node, WaitFor, "fcclip/wait_for"), node.create_client(srv.Find, "fcclip/find")
    waits.wait_for_server()
    finds.wait_for_service()
    for number in range(GOALS):
        waits.send_goal_async(WaitFor.Goal(words=[f"never seen {number}"], minimum_score=1.0))
    print("asking", flush=True)
    while True:
        finds.call_async(srv.Find.Request(words=["cup"], fresh=True, timeout=3600.0))
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            rclpy.spin_once(node, timeout_sec=0.1)


if __name__ == "__main__":
    main()
