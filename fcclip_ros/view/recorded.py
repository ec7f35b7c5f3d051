"""Shows the messages of bags."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from pathlib import Path

from fcclip_core.errors import DepthError, ImageError
from fcclip_ros.bags.bag_segmentation import first_messages, read_messages, topics_in
from fcclip_ros.bags.input_topics import encoding_of
from fcclip_ros.view.scene import Scene
from fcclip_ros.view.topics import SEGMENTS, Wanted, find_parts, may_be_input


def show(
    paths: Sequence[Path], scene: Scene, wanted: Wanted, say: Callable[[str], None], advance: Callable[[int], None]
) -> None:
    """Shows the messages of bags; several bags are parts of one recording.

    Args:
        paths: The bags.
        scene: The scene that shows the messages.
        wanted: The user's selection.
        say: Called with warnings.
        advance: Called with the number of messages that have been read.

    Raises:
        ImageError: A bag cannot be read, there are no labels of the node, or the images are ambiguous.
    """
    names = ", ".join(map(str, paths))
    # A bag is opened several times, and warns each time.
    said: set[str] = set()

    def say_once(text: str) -> None:
        if text not in said:
            said.add(text)
            say(text)

    topics: dict[str, str] = {}
    encodings: dict[str, str] = {}
    for path in paths:
        found = topics_in(path, say_once)
        images = [topic for topic, kind in found.items() if may_be_input(topic, kind, wanted)]
        first = first_messages(path, images, say_once)
        encodings |= {topic: encoding_of(message) for topic, message in first.items()}
        topics |= found
    try:
        parts = find_parts(topics, wanted, encodings, say=lambda text: say_once(f"{names}: {text}"))
    except ImageError as error:
        advice = "" if SEGMENTS in topics.values() else "; create a bag with labels with fcclip segment BAG"
        raise ImageError(f"{names}: {error}{advice}") from error
    if not any(part.role == "image" for part in parts.values()):
        say(f"{names}: no images; add the bag that contains them")
    if not any(part.role in ("depth", "points") for part in parts.values()):
        say(f"{names}: no usable depth, so no point clouds")
    scene.arrange(parts.values(), compute_geometry=True)
    unshown: dict[str, list[str]] = {topic: [] for topic in parts}
    # A reader per bag, since each has its own message definitions.
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
    """The first error of each topic with messages that could not be shown."""
    return [
        f"{topic}: {len(errors)} messages cannot be shown: {errors[0]}" for topic, errors in unshown.items() if errors
    ]
