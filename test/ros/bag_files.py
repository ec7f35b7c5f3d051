"""Bags as a recorder would write them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from fcclip_ros.bags import bag_reader


def save(
    path: Path, recorded: Iterable[tuple[str, object]], plugin: StoragePlugin = StoragePlugin.MCAP, period: int = 10**8
) -> Path:
    """A bag with (topic, message) pairs, `period` nanoseconds apart; messages of ROS, or of `bag_types`."""
    connections = {}
    with Writer(path, version=8, storage_plugin=plugin) as writer:
        for number, (topic, message) in enumerate(recorded):
            if topic not in connections:
                kind = kind_of(message)
                connections[topic] = writer.add_connection(
                    topic, kind, typestore=bag_types() if is_plain(message) else bag_reader.message_definitions()
                )
            data = bag_types().serialize_cdr(message, kind_of(message)) if is_plain(message) else None
            writer.write(connections[topic], 10**18 + number * period, data or serialize_message(message))
    return path


@functools.cache
def bag_types() -> Typestore:
    """Message types that need no package to be installed."""
    return get_typestore(Stores.ROS2_HUMBLE)


def is_plain(message: object) -> bool:
    """Whether it is a message of `bag_types`."""
    return hasattr(message, "__msgtype__")


def kind_of(message: Any) -> str:
    if is_plain(message):
        return str(message.__msgtype__)
    return f"{type(message).__module__.split('.')[0]}/msg/{type(message).__name__}"


def transforms(*moves: tuple[str, str, int, Sequence[float], Sequence[float]]) -> Any:
    """A tf2_msgs/TFMessage: parent, child, stamp in nanoseconds, translation, quaternion of each transform."""
    types = {name.rpartition("/")[2]: kind for name, kind in bag_types().types.items()}
    made = []
    for parent, child, stamp, move, turn in moves:
        time = types["Time"](*divmod(stamp, 10**9))
        moved = types["Transform"](types["Vector3"](*map(float, move)), types["Quaternion"](*map(float, turn)))
        made.append(types["TransformStamped"](types["Header"](time, parent), child, moved))
    return types["TFMessage"](made)
