"""Bags as a recorder would write them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer

from fcclip_ros.bags import bag_reader


def save(
    path: Path, recorded: Iterable[tuple[str, object]], plugin: StoragePlugin = StoragePlugin.MCAP, period: int = 10**8
) -> Path:
    """A bag with (topic, message) pairs, `period` nanoseconds apart."""
    connections = {}
    with Writer(path, version=8, storage_plugin=plugin) as writer:
        for number, (topic, message) in enumerate(recorded):
            if topic not in connections:
                kind = f"{type(message).__module__.split('.')[0]}/msg/{type(message).__name__}"
                connections[topic] = writer.add_connection(topic, kind, typestore=bag_reader.message_definitions())
            writer.write(connections[topic], 10**18 + number * period, serialize_message(message))
    return path
