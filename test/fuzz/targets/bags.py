"""Bags: a folder's files one after the other, any of them damaged, of both storage plugins."""

from __future__ import annotations

import functools
import struct
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from mutations import mutated
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from fcclip_ros.bags.bag_segmentation import BagImages, read_messages, topics_in

_TOPIC = "/camera/image"


@functools.cache
def _bags() -> tuple[dict[str, bytes], ...]:
    """Files of a bag with three images, by name, for each plugin."""
    store = get_typestore(Stores.ROS2_JAZZY)
    kinds = store.types
    stamp = kinds["builtin_interfaces/msg/Time"](sec=1, nanosec=2)
    image = kinds["sensor_msgs/msg/Image"](
        header=kinds["std_msgs/msg/Header"](stamp=stamp, frame_id="camera"),
        height=4,
        width=6,
        encoding="rgb8",
        is_bigendian=0,
        step=18,
        data=np.zeros(72, np.uint8),
    )
    found = []
    for plugin in (StoragePlugin.MCAP, StoragePlugin.SQLITE3):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "bag"
            with Writer(path, version=9, storage_plugin=plugin) as writer:
                connection = writer.add_connection(_TOPIC, "sensor_msgs/msg/Image", typestore=store)
                for number in range(3):
                    writer.write(connection, number, store.serialize_cdr(image, "sensor_msgs/msg/Image"))
            found.append({file.name: file.read_bytes() for file in sorted(path.iterdir())})
    return tuple(found)


def inputs() -> st.SearchStrategy[bytes]:
    """A plugin and its files, each with its length before it; one of them is edited, or left out."""

    @st.composite
    def damaged(draw: st.DrawFn) -> bytes:
        plugin = draw(st.integers(0, 1))
        files = dict(_bags()[plugin])
        name = draw(st.sampled_from(sorted(files)))
        files[name] = draw(mutated([files[name]])) if draw(st.integers(0, 9)) else b""
        return bytes([plugin]) + b"".join(struct.pack("<I", len(files[key])) + files[key] for key in sorted(files))

    return damaged()


def read(data: bytes, folder: Path) -> None:
    """Lists it, then reads what it holds; a file of no bytes is not there."""
    bag, at = folder / "bag", 1
    bag.mkdir()
    for name in sorted(_bags()[data[0] % 2]):
        (length,) = struct.unpack("<I", data[at : at + 4])
        if length:
            (bag / name).write_bytes(data[at + 4 : at + 4 + length])
        at += 4 + length
    topics = topics_in(bag, _say)
    for _ in read_messages(bag, topics, _say):
        pass
    for _ in BagImages(bag, "").frames():
        pass


def _say(text: str) -> None:
    """What could not be read of a bag, in words."""
    assert text and len(text) < 2_000
