"""Bags -> a scene."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from pathlib import Path

from fcclip_core.errors import DepthError, ImageError
from fcclip_ros.bags.bag_segmentation import first_messages, read_messages, topics_in
from fcclip_ros.view.scene import Scene
from fcclip_ros.view.topics import SEGMENTS, Wanted, encoding_of, find_parts, may_be_input


def show(
    paths: Sequence[Path], scene: Scene, wanted: Wanted, say: Callable[[str], None], advance: Callable[[int], None]
) -> None:
    """Shows what bags hold; several are taken for parts of one recording.

    Args:
        paths: The bags.
        scene: Where to.
        wanted: Whose labels.
        say: Gets what the user should know.
        advance: Called with the number of messages that were read.

    Raises:
        ImageError: A bag cannot be read, they hold no labels of the node, or images that cannot be told apart.
    """
    names = ", ".join(map(str, paths))
    # A bag is opened several times, and complains each time.
    heard: set[str] = set()

    def say_once(text: str) -> None:
        if text not in heard:
            heard.add(text)
            say(text)

    topics: dict[str, str] = {}
    encodings: dict[str, str] = {}
    for path in paths:
        found = topics_in(path, say_once)
        pictures = [topic for topic, kind in found.items() if may_be_input(topic, kind, wanted)]
        first = first_messages(path, pictures, say_once)
        encodings |= {topic: encoding_of(message) for topic, message in first.items()}
        topics |= found
    try:
        parts = find_parts(topics, wanted, encodings, say=lambda text: say_once(f"{names}: {text}"))
    except ImageError as error:
        advice = "" if SEGMENTS in topics.values() else "; fcclip segment BAG makes a bag with labels"
        raise ImageError(f"{names}: {error}{advice}") from error
    if not any(part.role == "image" for part in parts.values()):
        say(f"{names}: no images; name the bag that holds them, too")
    if not any(part.role in ("depth", "points") for part in parts.values()):
        say(f"{names}: no depth that can be used, so no clouds")
    scene.arrange(parts.values(), work_out_places=True)
    unshown: dict[str, list[str]] = {topic: [] for topic in parts}
    # Each bag has definitions of its own, so each is read by a reader of its own.
    readers = (read_messages(path, parts, say_once) for path in paths)
    merged = heapq.merge(*readers, key=lambda item: item.recorded)
    count = 0
    for count, item in enumerate(merged, 1):
        try:
            if isinstance(item.message, ImageError):
                raise item.message
            scene.show(parts[item.topic], item.message)
        except (ImageError, DepthError) as error:
            unshown[item.topic].append(str(error))
        advance(count)
    if count == sum(map(len, unshown.values())):
        raise ImageError(f"{names}: none of {count} messages can be shown" + "".join(f"; {e}" for e in _first(unshown)))
    for complaint in [*_first(unshown), *scene.finish()]:
        say(complaint)


def _first(unshown: dict[str, list[str]]) -> list[str]:
    """A line for each topic with messages that could not be shown."""
    return [f"{topic}: {len(said)} messages cannot be shown: {said[0]}" for topic, said in unshown.items() if said]
