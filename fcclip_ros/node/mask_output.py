"""Binary masks of single classes, for consumers that do not read class ids, such as mask filters and scripts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image

from fcclip_core.errors import SettingsError
from fcclip_core.quoting import printable, short
from fcclip_ros.conversions.messages import mask_message
from fcclip_ros.qos import OUTPUT

if TYPE_CHECKING:
    from fcclip_core.vocabulary.snapshot import VocabularySnapshot
    from fcclip_ros.conversions.frame import LabeledFrame

_LONGEST = 128
"""Characters of the last part of a topic; a whole topic name may have 255."""


def mask_topics(names: Sequence[str]) -> dict[str, str]:
    """The last part of each class's topic: its name, reduced to a-z, A-Z and digits.

    Every run of other characters becomes one underscore, none at the ends. A name that does not begin with a letter is
    prefixed with `class_`: topics must not begin with a digit, and `ros2 topic list` hides those with an underscore.

    Args:
        names: Class names.

    Raises:
        SettingsError: Two classes would share a topic, a name is repeated, or a name is not a valid class name.
    """
    topics: dict[str, str] = {}
    for name in names:
        if "," in name:
            raise SettingsError(
                f"publish_masks has {short(name)}; expected the first synonym of a class, without commas"
            )
        topic = re.sub("[^A-Za-z0-9]+", "_", name).strip("_")
        topic = topic if topic[:1].isalpha() else f"class_{topic}".rstrip("_")
        if len(topic) > _LONGEST:
            raise SettingsError(
                f"publish_masks has {short(name)}, which is too long for a topic name; expected at most "
                f"{_LONGEST} characters"
            )
        if topic in topics.values():
            other = next(known for known, taken in topics.items() if taken == topic)
            raise SettingsError(
                f"publish_masks has {short(other)} and {short(name)}, which would both be published on mask/{topic}; "
                "remove one, or put another synonym first in the vocabulary"
            )
        topics[name] = topic
    return topics


class MaskOutput:
    """Publishes a mask for each class of the parameter publish_masks."""

    def __init__(self, node: LifecycleNode, prefix: str) -> None:
        """Creates no publisher yet.

        Args:
            node: The node.
            prefix: Prefix of the topics, up to the last slash.
        """
        self._node = node
        self._prefix = prefix
        self._publishers: dict[str, Any] = {}
        self._missing: set[str] = set()

    def configure(self, names: Sequence[str]) -> None:
        """Replaces the publishers by those of the given classes."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = {
            name: self._node.create_lifecycle_publisher(Image, f"{self._prefix}mask/{topic}", OUTPUT)
            for name, topic in mask_topics(names).items()
        }
        self._missing = set()

    def set_vocabulary(self, snapshot: VocabularySnapshot) -> None:
        """Warns about masks whose class is not in the vocabulary; once per class, until it is in a vocabulary again."""
        missing = self._publishers.keys() - set(snapshot.vocabulary.names)
        for name in sorted(missing - self._missing):
            text = (
                f"{self._publishers[name].topic_name} is empty: the vocabulary has no class {short(name)}"
                f"{_hint(name, snapshot.vocabulary.classes)}"
            )
            self._node.get_logger().warning(printable(text))
        self._missing = missing

    def send(self, frame: LabeledFrame) -> None:
        """Publishes the masks that have subscriptions, with the header of the image."""
        for name, publisher in self._publishers.items():
            if publisher.is_activated and publisher.get_subscription_count() > 0:
                publisher.publish(mask_message(frame.result, name, frame.header))


def _hint(name: str, classes: Iterable[Any]) -> str:
    of = next((item.name for item in classes if name in item.synonyms), None)
    return "" if of is None else f"; it is a synonym of {short(of)}, use that"
