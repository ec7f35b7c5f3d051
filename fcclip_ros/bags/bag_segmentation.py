"""ROS 2 bags: messages and images out of them, labels as the node would publish them into new ones. No running ROS."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from fcclip_core.errors import ImageError
from fcclip_core.files.atomic_write import atomic_folder
from fcclip_core.files.bag_paths import is_bag
from fcclip_core.images.image_limits import MAX_PIXELS
from fcclip_ros.bags.bag_reader import BagReader, message_definitions, typestore_of
from fcclip_ros.bags.bag_topics import Say, Topic, unpacked
from fcclip_ros.compat import optional_module
from fcclip_ros.conversions.images import to_rgb

if TYPE_CHECKING:
    from rclpy.qos import QoSProfile

    from fcclip_core.results import PanopticResult
    from fcclip_core.vocabulary.snapshot import VocabularySnapshot

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")

_NODE = "/fcclip"


def opened(path: Path, say: Say) -> BagReader:
    """A reader of a bag, for a `with` block.

    Args:
        path: A folder, or one of its files.
        say: Gets what is left out, while the bag is read, too.

    Raises:
        ImageError: rosbags is missing, or, at the beginning of the block, nothing can be read.
    """
    try:
        importlib.import_module("rosbags.typesys")
    except ImportError as error:
        raise ImageError("bags need rosbags: pip install rosbags") from error
    return BagReader(path, say)


def topics_in(path: Path, say: Say) -> dict[str, str]:
    """The topics of a bag and the types of their messages, such as sensor_msgs/msg/Image.

    Raises:
        ImageError: The bag cannot be read.
    """
    with opened(path, say) as bag:
        return {topic.name: topic.kind for topic in bag.topics.values()}


@dataclass(frozen=True)
class BagMessage:
    """One message of a bag.

    Attributes:
        topic: Its topic.
        message: With the fields of the ROS message, whatever types this machine has installed; or why it cannot be
            read.
        recorded: When it was recorded, in nanoseconds.
    """

    topic: str
    message: Any | ImageError
    recorded: int


def read_messages(path: Path, topics: Collection[str], say: Say) -> Iterator[BagMessage]:
    """Goes through the messages of some topics, in the order they were recorded.

    Raises:
        ImageError: The bag cannot be read.
    """
    with opened(path, say) as bag:
        for topic, recorded, data in bag.messages(topics):
            message: Any
            try:
                message = bag.decode(topic, data)
            except ImageError as error:
                message = error
            yield BagMessage(topic.name, message, recorded)


def first_messages(path: Path, topics: Collection[str], say: Say) -> dict[str, Any]:
    """The first readable message of each of some topics, by topic; topics without any are left out.

    Raises:
        ImageError: The bag cannot be read.
    """
    found: dict[str, Any] = {}
    with opened(path, say) as bag:
        for name in topics:
            for topic, _, data in bag.messages([name]):
                with contextlib.suppress(ImageError):
                    found[name] = bag.decode(topic, data)
                    break
    return found


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

    @property
    def nanoseconds(self) -> int:
        """Its stamp."""
        return self.stamp[0] * 1_000_000_000 + self.stamp[1]


@dataclass(frozen=True)
class BagImages:
    """The images of one topic of a bag, in the order they were recorded.

    Attributes:
        path: The bag: a folder, or one of its files.
        topic: The topic; empty for the only one with images.
        option: What the user chooses the topic with, for the complaint that there are several.
        max_pixels: Pixels that an image may have.
        left_out: What could not be read of the bag, as a whole; grows while it is read.
    """

    path: Path
    topic: str = ""
    option: str = "bag_topic"
    max_pixels: int = MAX_PIXELS
    left_out: list[str] = field(default_factory=list, compare=False)

    def frames(self) -> Iterator[BagImage | ImageError]:
        """Goes through the images once; in the place of one that cannot be read comes the reason.

        Raises:
            ImageError: The bag cannot be read, or has no such topic.
        """
        for item in read_messages(self.path, [self._choose()], self.leave_out):
            if isinstance(item.message, ImageError):
                yield item.message
                continue
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
        with opened(self.path, self.leave_out) as bag:
            times = [time for _, time, _ in bag.messages([topic])]
        seconds = 1e-9 * (times[-1] - times[0]) if times else 0.0
        return len(times), (len(times) - 1) / seconds if seconds else 0.0

    def _choose(self) -> str:
        """The topic to read, of those that hold images."""
        found = {topic for topic, kind in topics_in(self.path, self.leave_out).items() if kind in IMAGE_TYPES}
        names = ", ".join(sorted(found)) or "none"
        if self.topic and self.topic not in found:
            raise ImageError(f"{self.path} has no images on {self.topic}; its image topics: {names}")
        if not self.topic and len(found) != 1:
            raise ImageError(f"{self.path} has {len(found)} image topics ({names}); choose one with {self.option}")
        return self.topic or next(iter(found))

    def leave_out(self, text: str) -> None:
        """Remembers what could not be read of the bag."""
        if text not in self.left_out:
            self.left_out.append(text)


class LabelBag:
    """A bag with what the node `fcclip` would have published; complete or not there at all.

    Its messages are those of the node, made by the same functions, under the node's default names and with the headers
    of the images; they are recorded at the times at which the images were. A bag that was there before stays until
    the new one is complete, which then takes its place.
    """

    def __init__(self, path: Path) -> None:
        """Prepares; nothing is written before the `with` block.

        Args:
            path: The folder that the bag is going to be.

        Raises:
            ImageError: There is something else than a bag in its place.
        """
        if path.exists() and not (path.is_dir() and is_bag(path)):
            raise ImageError(f"{path} exists already and is no bag; remove it, or choose another folder with --out")
        self._path = path
        self._folder = atomic_folder(path)
        self._connections: dict[str, Any] = {}
        self._announced = -1
        self._finished = False

    def __enter__(self) -> LabelBag:
        """Begins the bag in a folder beside its place."""
        from rosbags.rosbag2 import StoragePlugin, Writer

        part = self._folder.__enter__()
        # The bag's files are named after its folder, which the writer makes.
        part.rmdir()
        self._writer = Writer(part, version=8, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Moves the bag to its place, or removes it if something went wrong."""
        try:
            self.finish()
        except BaseException as failed:
            self._folder.__exit__(type(failed), failed, failed.__traceback__)
            raise
        self._folder.__exit__(kind, error, trace)

    def finish(self) -> None:
        """Writes what closes the bag; nothing can be added any more, and all that is left to do is to move it."""
        if not self._finished:
            self._finished = True
            self._writer.close()

    def write(
        self, source: BagImage, result: PanopticResult, snapshot: VocabularySnapshot, contour_type: str = ""
    ) -> None:
        """Adds what belongs to one image, and the vocabulary before the first image that was labeled with it.

        Args:
            source: The image.
            result: Its labels.
            snapshot: The vocabulary of the labels.
            contour_type: What the segments' message holds of their pixels; one of `contours.CONTOUR_TYPES`.
        """
        from builtin_interfaces.msg import Time
        from std_msgs.msg import Header

        from fcclip_ros.conversions import messages
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
            "segments": messages.segments_message(result, header, contour_type=contour_type),
        }
        if vision is not None:
            outputs["detections"] = messages.detections_message(result, header, vision)
        for name, message in outputs.items():
            self._put(name, message, OUTPUT, source.recorded)

    def copy(self, path: Path, say: Say) -> None:
        """Adds what another bag holds, byte by byte, but for topics that this one has already.

        Args:
            path: The other bag.
            say: Gets the topics that cannot be written here, and what cannot be read there.

        Raises:
            ImageError: It cannot be read.
        """
        own = {f"{_NODE}/{name}" for name in self._connections}
        with opened(path, say) as bag:
            copies = {}
            for topic in bag.topics.values():
                if topic.name in own:
                    continue
                definition = _definition_to_write(topic)
                if isinstance(definition, str):
                    say(f"{path}: {topic.name} is not copied: {definition}")
                    continue
                copies[topic.name] = self._writer.add_connection(
                    topic.name, topic.kind, offered_qos_profiles=_offered_qos(topic), **definition
                )
            for topic, recorded, data in bag.messages(copies):
                with contextlib.suppress(ValueError):  # one that cannot be decompressed holds nothing
                    data = unpacked(data)
                self._writer.write(copies[topic.name], recorded, data)

    def _put(self, name: str, message: Any, profile: QoSProfile, recorded: int) -> None:
        from rclpy.serialization import serialize_message

        if name not in self._connections:
            kind = type(message)
            self._connections[name] = self._writer.add_connection(
                f"{_NODE}/{name}",
                f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}",
                typestore=message_definitions(),
                offered_qos_profiles=[_recorded_qos(profile)],
            )
        self._writer.write(self._connections[name], recorded, serialize_message(message))


def _definition_to_write(topic: Topic) -> dict[str, Any] | str:
    """What a writer wants to know of a topic's type, or why that is not known."""
    if topic.encoding != "cdr":
        return f"its messages are in the encoding {topic.encoding[:40]!r}, not in ROS 2's"
    # As it was recorded: services and actions have definitions that only ROS itself understands.
    if topic.definition and topic.digest:
        return {"msgdef": topic.definition, "rihs01": topic.digest}
    store, problem = typestore_of(topic.kind, topic.definition, topic.language)
    return problem if store is None else {"typestore": store}


def _offered_qos(topic: Topic) -> list[Any]:
    """The qualities of service that a bag holds for a topic; none if they are damaged."""
    from rosbags.rosbag2.metadata import parse_qos

    with contextlib.suppress(Exception):  # The parser raises many types.
        return parse_qos(topic.qos)
    return []


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
