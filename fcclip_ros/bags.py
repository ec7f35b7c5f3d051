"""ROS 2 bags: messages and images out of them, labels as the node would publish them into new ones. No running ROS."""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from fcclip_core.encoded_images import MAX_PIXELS
from fcclip_core.errors import ImageError
from fcclip_ros.compat import optional_module
from fcclip_ros.images import to_rgb

if TYPE_CHECKING:
    from rclpy.qos import QoSProfile

    from fcclip_core.results import PanopticResult
    from fcclip_core.segmenter import VocabularySnapshot

BAG_SUFFIXES = (".mcap", ".db3")
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")

_MISSING = "bags need rosbags: pip install rosbags"
_NODE = "/fcclip"


def is_bag(path: Path) -> bool:
    """Whether a path is that of a ROS 2 bag: a folder with metadata.yaml, or one of its files."""
    return path.suffix.lower() in BAG_SUFFIXES or (path.is_dir() and (path / "metadata.yaml").is_file())


def topics_in(path: Path) -> dict[str, str]:
    """The topics of a bag and the types of their messages, such as sensor_msgs/msg/Image.

    Raises:
        ImageError: The bag cannot be read.
    """
    with _opened(path) as reader:
        return {connection.topic: connection.msgtype for connection in reader.connections}


@dataclass(frozen=True)
class BagMessage:
    """One message of a bag.

    Attributes:
        topic: Its topic.
        message: With the fields of the ROS message, whatever types this machine has installed.
        recorded: When it was recorded, in nanoseconds.
    """

    topic: str
    message: Any
    recorded: int


def read_messages(path: Path, topics: Collection[str]) -> Iterator[BagMessage]:
    """Goes through the messages of some topics, in the order they were recorded.

    Raises:
        ImageError: The bag cannot be read.
    """
    with _opened(path) as reader:
        chosen = [connection for connection in reader.connections if connection.topic in topics]
        # Asked for no connection, the reader would give all.
        for connection, recorded, data in reader.messages(chosen) if chosen else ():
            yield BagMessage(connection.topic, reader.deserialize(data, connection.msgtype), recorded)


@dataclass(frozen=True)
class BagImage:
    """One image of a bag.

    Attributes:
        image: uint8 RGB `(H, W, 3)`.
        stamp: (seconds, nanoseconds) of its header.
        frame_id: Of its header.
        recorded: When it was recorded, in nanoseconds.
    """

    image: np.ndarray
    stamp: tuple[int, int]
    frame_id: str
    recorded: int


@dataclass(frozen=True)
class BagImages:
    """The images of one topic of a bag, in the order they were recorded.

    Attributes:
        path: The bag: a folder, or one of its files.
        topic: The topic; empty for the only one with images.
        option: What the user chooses the topic with, for the complaint that there are several.
        max_pixels: Pixels that an image may have.
    """

    path: Path
    topic: str = ""
    option: str = "bag_topic"
    max_pixels: int = MAX_PIXELS

    def frames(self) -> Iterator[BagImage | ImageError]:
        """Goes through the images once; in the place of one that cannot be read comes the reason.

        Raises:
            ImageError: The bag cannot be read, or has no such topic.
        """
        for item in read_messages(self.path, [self._choose()]):
            try:
                image = to_rgb(item.message, self.max_pixels)
            except ImageError as error:
                yield error
                continue
            header = item.message.header
            yield BagImage(image, (header.stamp.sec, header.stamp.nanosec), header.frame_id, item.recorded)

    def count_and_rate(self) -> tuple[int, float]:
        """How many images there are, and how many a second were recorded (0 for fewer than two).

        Raises:
            ImageError: As for `frames`.
        """
        topic = self._choose()
        with _opened(self.path) as reader:
            times = [time for _, time, _ in reader.messages([c for c in reader.connections if c.topic == topic])]
        seconds = 1e-9 * (times[-1] - times[0]) if times else 0.0
        return len(times), (len(times) - 1) / seconds if seconds else 0.0

    def _choose(self) -> str:
        """The topic to read, of those that hold images."""
        found = {topic for topic, kind in topics_in(self.path).items() if kind in IMAGE_TYPES}
        names = ", ".join(sorted(found)) or "none"
        if self.topic and self.topic not in found:
            raise ImageError(f"{self.path} has no images on {self.topic}; its image topics: {names}")
        if not self.topic and len(found) != 1:
            raise ImageError(f"{self.path} has {len(found)} image topics ({names}); choose one with {self.option}")
        return self.topic or next(iter(found))


class LabelBag:
    """A new bag with what the node `fcclip` would have published; complete or not there at all.

    Its messages are those of the node, made by the same functions, under the node's default names and with the headers
    of the images; they are recorded at the times at which the images were.
    """

    def __init__(self, path: Path) -> None:
        """Prepares; nothing is written before the `with` block.

        Args:
            path: The folder that the bag is going to be.

        Raises:
            ImageError: It exists already, or rosbags is missing.
        """
        if path.exists():
            raise ImageError(f"{path} exists already; remove it, or choose another folder with --out")
        self._path = path
        self._connections: dict[str, Any] = {}
        self._announced = -1

    def __enter__(self) -> LabelBag:
        """Begins the bag in a folder beside its place."""
        try:
            from rosbags.rosbag2 import StoragePlugin, Writer
        except ImportError as error:
            raise ImageError(_MISSING) from error
        self._part = Path(tempfile.mkdtemp(prefix=f".{self._path.name}.", dir=self._path.parent))
        # The bag's files are named after its folder.
        self._writer = Writer(self._part / self._path.name, version=8, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Moves the bag to its place, or removes it if something went wrong."""
        try:
            self._writer.close()
            if error is None:
                (self._part / self._path.name).rename(self._path)
        finally:
            shutil.rmtree(self._part, ignore_errors=True)

    def write(self, source: BagImage, result: PanopticResult, snapshot: VocabularySnapshot) -> None:
        """Adds what belongs to one image, and the vocabulary before the first image that was labelled with it.

        Args:
            source: The image.
            result: Its labels.
            snapshot: The vocabulary of the labels.
        """
        from builtin_interfaces.msg import Time
        from std_msgs.msg import Header

        from fcclip_ros import messages
        from fcclip_ros.qos import LATCHED, OUTPUT

        stamp = Time(sec=source.stamp[0], nanosec=source.stamp[1])
        header = Header(stamp=stamp, frame_id=source.frame_id)
        vision = optional_module("vision_msgs.msg")
        if snapshot.version != self._announced:
            self._announced = snapshot.version
            self._put("vocabulary", messages.vocabulary_message(snapshot, stamp), LATCHED, source.recorded)
            if vision is not None:
                message = messages.label_info_message(snapshot, stamp, vision)
                self._put("label_info", message, LATCHED, source.recorded)
        outputs = {
            "panoptic": messages.panoptic_message(result, header),
            "semantic": messages.semantic_message(result, snapshot.class_ids, header),
            "confidence": messages.confidence_message(result, header),
            "segments": messages.segments_message(result, header),
        }
        if vision is not None:
            outputs["detections"] = messages.detections_message(result, header, vision)
        for name, message in outputs.items():
            self._put(name, message, OUTPUT, source.recorded)

    def copy(self, bag: Path) -> None:
        """Adds what another bag holds, byte by byte, but for topics that this one has already.

        Raises:
            ImageError: It cannot be read.
        """
        with _opened(bag) as reader:
            own = {f"{_NODE}/{name}" for name in self._connections}
            chosen = [connection for connection in reader.connections if connection.topic not in own]
            copies = {}
            for connection in chosen:
                # Bags from before Iron do not carry definitions.
                carried = bool(connection.msgdef.data and connection.digest)
                copies[connection.id] = self._writer.add_connection(
                    connection.topic,
                    connection.msgtype,
                    msgdef=connection.msgdef.data if carried else None,
                    rihs01=connection.digest if carried else None,
                    typestore=reader.typestore,
                    offered_qos_profiles=connection.ext.offered_qos_profiles,
                )
            for connection, recorded, data in reader.messages(chosen) if chosen else ():
                self._writer.write(copies[connection.id], recorded, data)

    def _put(self, name: str, message: Any, profile: QoSProfile, recorded: int) -> None:
        from rclpy.serialization import serialize_message

        if name not in self._connections:
            kind = type(message)
            self._connections[name] = self._writer.add_connection(
                f"{_NODE}/{name}",
                f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}",
                typestore=_message_definitions(),
                offered_qos_profiles=[_recorded_qos(profile)],
            )
        self._writer.write(self._connections[name], recorded, serialize_message(message))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A reader of a bag.

    Raises:
        ImageError: There is no readable bag, which may also turn out inside the block.
    """
    try:
        from rosbags.highlevel import AnyReader, AnyReaderError
    except ImportError as error:
        raise ImageError(_MISSING) from error
    try:
        with AnyReader([path], default_typestore=_message_definitions("humble")) as reader:
            yield reader
    except (AnyReaderError, FileNotFoundError) as error:
        raise ImageError(f"{path} is no readable ROS 2 bag: {error}") from error
    except OSError:
        raise  # a full disk, say
    except Exception as error:  # What rosbags is built on raises many types for damaged files.
        raise ImageError(f"{path} is no readable ROS 2 bag: {type(error).__name__}: {error}") from error


@functools.cache
def _message_definitions(distribution: str = "jazzy") -> Any:
    """Definitions of a distribution's common messages, and those of what the node publishes as they are installed.

    Bags from before Iron do not carry their own: they are read with those of "humble".
    """
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores[f"ROS2_{distribution.upper()}"])
    for package in ("fcclip_ros", "vision_msgs"):
        found: dict[str, Any] = {}
        for path in _definition_files(package):
            found |= get_types_from_msg(path.read_text(encoding="utf-8"), f"{package}/msg/{path.stem}")
        store.register({name: fields for name, fields in found.items() if name not in store.fielddefs})
    return store


def _definition_files(package: str) -> list[Path]:
    """The .msg files that belong to a package's generated Python modules; none if it is not installed."""
    module = optional_module(f"{package}.msg")
    if module is None or module.__file__ is None:
        return []
    shares = (prefix / "share" / package / "msg" for prefix in Path(module.__file__).absolute().parents)
    return next((sorted(share.glob("*.msg")) for share in shares if share.is_dir()), [])


def _recorded_qos(profile: QoSProfile) -> Any:
    """A profile as bags hold it, so that what is latched is latched when the bag is played."""
    from rosbags import interfaces

    unlimited = interfaces.QosTime(2147483647, 4294967295)
    return interfaces.Qos(
        history=interfaces.QosHistory.KEEP_LAST,
        depth=profile.depth,
        reliability=interfaces.QosReliability[profile.reliability.name],
        durability=interfaces.QosDurability[profile.durability.name],
        deadline=unlimited,
        lifespan=unlimited,
        liveliness=interfaces.QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=unlimited,
        avoid_ros_namespace_conventions=False,
    )
