"""Broadcasts transforms as a robot does, on /tf and /tf_static."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from ros_harness import Peer
from std_msgs.msg import Header

from fcclip_ros.qos import LATCHED, TRANSFORMS

MOUNTED = (0.0, 0.0, 0.3), (-0.5, 0.5, -0.5, 0.5)
"""A camera 0.3 m above a robot's origin that looks ahead: translation, and quaternion (x, y, z, w)."""

Place = tuple[Sequence[float], Sequence[float]]


def transform_message(parent: str, child: str, place: Place, stamp: Time | None = None) -> TransformStamped:
    """Where `child` is in `parent`."""
    move, turn = (dict(zip("xyzw", map(float, values), strict=False)) for values in place)
    header = Header(frame_id=parent, stamp=stamp or Time())
    transform = Transform(translation=Vector3(**move), rotation=Quaternion(**turn))
    return TransformStamped(header=header, child_frame_id=child, transform=transform)


class Broadcaster:
    def __init__(self, peer: Peer, tf2_msgs: ModuleType) -> None:
        self._message = tf2_msgs.TFMessage
        self._moving = peer.node.create_publisher(self._message, "/tf", TRANSFORMS)
        self._static = peer.node.create_publisher(self._message, "/tf_static", LATCHED)

    def moving(self, *transforms: TransformStamped) -> None:
        self._moving.publish(self._message(transforms=list(transforms)))

    def static(self, *transforms: TransformStamped) -> None:
        self._static.publish(self._message(transforms=list(transforms)))
