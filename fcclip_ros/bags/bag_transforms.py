"""The transforms of a bag."""

from __future__ import annotations

from collections.abc import Iterable

from fcclip_core.errors import DepthError, ImageError
from fcclip_core.geometry.transform_tree import TransformTree
from fcclip_ros.bags.bag_segmentation import BagMessage
from fcclip_ros.bags.bag_topics import Say
from fcclip_ros.conversions.stamps import nanoseconds

TRANSFORMS = "tf2_msgs/msg/TFMessage"

MOVING, STATIC = "/tf", "/tf_static"


def add_transforms(tree: TransformTree, messages: Iterable[BagMessage], say: Say) -> None:
    """Adds the transforms of messages on /tf and /tf_static.

    Args:
        tree: Gets them.
        messages: The messages.
        say: Called about transforms that are left out.
    """
    for item in messages:
        if isinstance(item.message, ImageError):
            say(f"{item.topic}: {item.message}")
            continue
        for found in item.message.transforms:
            moved, turned = found.transform.translation, found.transform.rotation
            try:
                tree.add(
                    found.header.frame_id,
                    found.child_frame_id,
                    nanoseconds(found.header.stamp),
                    (moved.x, moved.y, moved.z),
                    (turned.x, turned.y, turned.z, turned.w),
                    static=item.topic == STATIC,
                )
            except DepthError as error:
                say(f"{item.topic}: {error}")
