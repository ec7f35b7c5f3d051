"""A client that is killed before it hears the answers to its goals and searches, which nobody owns then.

For soak.py, which starts it in the node's ROS domain and kills it.
"""

from __future__ import annotations

import time

from rclpy.action import ActionClient

from demo.peer import Peer
from fcclip_ros import srv
from fcclip_ros.action import WaitFor

GOALS = 4


def main() -> None:
    """Sends goals that never end and searches that wait for an image, until killed."""
    with Peer("careless") as peer:
        waits = ActionClient(peer.node, WaitFor, "fcclip/wait_for")
        finds = peer.node.create_client(srv.Find, "fcclip/find")
        waits.wait_for_server()
        finds.wait_for_service()
        for number in range(GOALS):
            waits.send_goal_async(WaitFor.Goal(words=[f"never seen {number}"], minimum_score=1.0))
        while True:
            finds.call_async(srv.Find.Request(words=["cup"], fresh=True, timeout=3600.0))
            time.sleep(0.5)


if __name__ == "__main__":
    main()
