"""Reads messages and images from bags, and writes labels to new bags as the node would publish them."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from fcclip_core.errors import ImageError
from fcclip_core.files.atomic_write import atomic_folder
from fcclip_core.files.bag_paths import is_bag
from fcclip_core.images.image_limits import MAX_PIXELS
from fcclip_ros.bags.bag_reader import BagReader, message_definitions, typestore_of
from fcclip_ros.bags.bag_topics import Say, Topic, unpacked
from fcclip_ros.compat import optional_module
from fcclip_ros.conversions.compressed_depth import SUFFIX
from fcclip_ros.conversions.gray_range import FULL_RANGE, GrayRange
from fcclip_ros.conversions.images import to_rgb
from fcclip_ros.conversions.video import PACKET_TYPE, VideoDecoder

if TYPE_CHECKING:
    from rclpy.qos import QoSProfile

    from fcclip_core.results import PanopticResult
    from fcclip_core.vocabulary.snapshot import VocabularySnapshot

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", PACKET_TYPE)

_NODE = "/fcclip"


def opened(path: Path, say: Say) -> BagReader:
    """A reader of a bag, for a `with` block.

    Args:
        path: A bag folder, or one of its files.
        say: Called about skipped data, also while the bag is read.

    Raises:
        ImageError: rosbags is missing; at the beginning of the block, if the bag cannot be read.
    """
    try:
        importlib.import_module("rosbags.typesys")
    except ImportError as error:
        raise ImageError("reading bags needs rosbags: pip install rosbags") from error
    return BagReader(path, say)


def topics_in(path: Path, say: Say) -> dict[str, str]:
    """The topics of a bag and their types, such as sensor_msgs/msg/Image.

    Raises:
        ImageError: The bag cannot be read.
    """
    with opened(path, say) as bag:
        return {topic.name: topic.kind for topic in bag.topics.values()}


@dataclass(frozen=True)
class BagMessage:
    """A message of a bag.

    Attributes:
        topic: Name of its topic.
        message: The deserialized message, or the error.
        recorded: Time of recording in nanoseconds.
    """

    topic: str
    message: Any | ImageError
    recorded: int


def read_messages(path: Path, topics: Collection[str], say: Say) -> Iterator[BagMessage]:
    """Iterates over the messages of some topics in the order of recording.

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
    """The first readable message of some topics, by topic; topics without one are omitted.

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
    """An image of a bag.

    Attributes:
        image: uint8 RGB `(H, W, 3)`.
        stamp: (seconds, nanoseconds) of its header.
        frame_id: The frame_id of its header.
        recorded: Time of recording in nanoseconds.
    """

    image: np.ndarray
    stamp: tuple[int, int]
    frame_id: str
    recorded: int

    @property
    def nanoseconds(self) -> int:
        """Its stamp in nanoseconds."""
        return self.stamp[0] * 1_000_000_000 + self.stamp[1]


@dataclass(frozen=True)
class BagImages:
    """The images of a topic of a bag, in the order of recording.

    Attributes:
        path: The bag folder, or one of its files.
        topic: The topic; empty for the only image topic.
        option: Name of the option for the topic, for error messages.
        max_pixels: Maximum number of pixels of an image.
        gray_range: Which values of 16-bit gray images become black and white; see `images.to_rgb`.
        left_out: Messages about skipped data; grows while the bag is read.
    """

    path: Path
    topic: str = ""
    option: str = "bag_topic"
    max_pixels: int = MAX_PIXELS
    gray_range: GrayRange = FULL_RANGE
    left_out: list[str] = field(default_factory=list, compare=False)

    def frames(self) -> Iterator[BagImage | ImageError]:
        """Iterates over the images; yields the error for an image that cannot be read.

        Raises:
            ImageError: The bag cannot be read, or has no such topic.
        """
        topic, kind = self._choose()
        items = read_messages(self.path, [topic], self.leave_out)
        if kind == PACKET_TYPE:
            yield from self._video_frames(items)
            return
        for item in items:
            try:
                yield _bag_image(item, to_rgb(_message_of(item), self.max_pixels, self.gray_range))
            except ImageError as error:
                yield error

    def _video_frames(self, items: Iterable[BagMessage]) -> Iterator[BagImage | ImageError]:
        """Decodes video packets; each that belongs to no image gives an error."""
        if optional_module("av") is None:
            raise ImageError("the images are video, which needs PyAV: pip install av")
        decoder = VideoDecoder(self.max_pixels)
        for item in items:
            try:
                packet = _message_of(item)
                fields = ("encoding", "flags", "data", "height", "width")
                # The decoder returns the header with the image, which may be that of an earlier packet.
                known = SimpleNamespace(header=item, **{name: getattr(packet, name) for name in fields})
                for image in decoder.decode(known):
                    yield _bag_image(image.header, image.pixels)
            except ImageError as error:
                yield error
                continue
            if decoder.waits_for_key_frame:
                yield ImageError("the video packet comes before the first key frame, or after one that is damaged")
        try:
            for image in decoder.rest():
                yield _bag_image(image.header, image.pixels)
        except ImageError as error:
            yield error

    def count_and_rate(self) -> tuple[int, float]:
        """The number of images, and their rate in Hz (0 for fewer than two).

        Raises:
            ImageError: As for `frames`.
        """
        topic, _ = self._choose()
        with opened(self.path, self.leave_out) as bag:
            times = [time for _, time, _ in bag.messages([topic])]
        seconds = 1e-9 * (times[-1] - times[0]) if times else 0.0
        return len(times), (len(times) - 1) / seconds if seconds else 0.0

    def chosen_topic(self) -> str:
        """The topic that is read.

        Raises:
            ImageError: As for `frames`.
        """
        return self._choose()[0]

    def _choose(self) -> tuple[str, str]:
        """The image topic to read, and its type."""
        kinds = {topic: kind for topic, kind in topics_in(self.path, self.leave_out).items() if kind in IMAGE_TYPES}
        found = set(kinds)
        names = ", ".join(sorted(found)) or "none"
        # image_transport gives this name to depth, which is never what is to be labeled.
        pictures = {topic for topic in found if not topic.endswith(SUFFIX)} or found
        # Beside images, a video is most often of the same camera.
        pictures = {topic for topic in pictures if kinds[topic] != PACKET_TYPE} or pictures
        if self.topic and self.topic not in found:
            raise ImageError(f"{self.path} has no images on {self.topic}; its image topics: {names}")
        if not self.topic and len(pictures) != 1:
            raise ImageError(f"{self.path} has {len(found)} image topics ({names}); choose one with {self.option}")
        topic = self.topic or next(iter(pictures))
        return topic, kinds[topic]

    def leave_out(self, text: str) -> None:
        """Collects a message about skipped data."""
        if text not in self.left_out:
            self.left_out.append(text)


def _message_of(item: BagMessage) -> Any:
    """The message; raises ImageError if it is damaged."""
    if isinstance(item.message, ImageError):
        raise item.message
    return item.message


def _bag_image(item: BagMessage, pixels: np.ndarray) -> BagImage:
    header = _message_of(item).header
    return BagImage(pixels, (header.stamp.sec, header.stamp.nanosec), header.frame_id, item.recorded)


class LabelBag:
    """Writes a bag with the outputs of the node `fcclip`, atomically.

    The messages are created by the same functions as in the node, have its default topics and the headers of the
    images, and are recorded at the times of the images. An existing bag is replaced once the new one is complete.
    """

    def __init__(self, path: Path) -> None:
        """Writes nothing before the `with` block.

        Args:
            path: The folder of the bag.

        Raises:
            ImageError: The path exists and is not a bag.
        """
        if path.exists() and not (path.is_dir() and is_bag(path)):
            raise ImageError(f"{path} already exists and is not a bag; remove it, or choose another folder with --out")
        self._path = path
        self._folder = atomic_folder(path)
        self._connections: dict[str, Any] = {}
        self._announced = -1
        self._finished = False

    def __enter__(self) -> LabelBag:
        """Creates the bag in a temporary folder next to its path."""
        from rosbags.rosbag2 import StoragePlugin, Writer

        part = self._folder.__enter__()
        # The files are named after the folder, which the writer creates.
        part.rmdir()
        self._writer = Writer(part, version=8, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Moves the bag to its path, or removes it after an error."""
        try:
            self.finish()
        except BaseException as failed:
            self._folder.__exit__(type(failed), failed, failed.__traceback__)
            raise
        self._folder.__exit__(kind, error, trace)

    def finish(self) -> None:
        """Closes the bag; nothing can be added, and it only has to be moved."""
        if not self._finished:
            self._finished = True
            self._writer.close()

    def write(
        self, source: BagImage, result: PanopticResult, snapshot: VocabularySnapshot, contour_type: str = ""
    ) -> None:
        """Adds the outputs for an image, preceded by the vocabulary if it is new.

        Args:
            source: The image.
            result: Its labels.
            snapshot: The vocabulary of the labels.
            contour_type: Type of the contours in segments; one of `contours.CONTOUR_TYPES`.
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
        """Copies the serialized messages of another bag, except for topics that this one has already.

        Args:
            path: The other bag.
            say: Called about topics that cannot be copied, and about skipped data.

        Raises:
            ImageError: The other bag cannot be read.
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
                with contextlib.suppress(ValueError):  # damaged data is copied unchanged
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
    """The definition of a topic's type as arguments of the writer, or why it is unknown."""
    if topic.encoding != "cdr":
        return f"the serialization format {topic.encoding[:40]!r} is not supported; expected cdr"
    # The recorded definition: rosbags does not support those of services and actions.
    if topic.definition and topic.digest:
        return {"msgdef": topic.definition, "rihs01": topic.digest}
    store, problem = typestore_of(topic.kind, topic.definition, topic.language)
    return problem if store is None else {"typestore": store}


def _offered_qos(topic: Topic) -> list[Any]:
    """The offered QoS profiles that were recorded for a topic; empty if they are invalid."""
    from rosbags.rosbag2.metadata import parse_qos

    with contextlib.suppress(Exception):  # The parser raises many types of errors.
        return parse_qos(topic.qos)
    return []


def _recorded_qos(profile: QoSProfile) -> Any:
    """A profile in the format of bags, so that latched topics are latched when the bag is played."""
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
