"""Which topics belong to the cameras of a node, found among those that there are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fcclip_core.errors import ImageError

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
SEGMENTS = "fcclip_ros/msg/SegmentArray"

OUTPUTS = {
    "vocabulary": "fcclip_ros/msg/Vocabulary",
    "semantic": IMAGE,
    "panoptic": IMAGE,
    "segments": SEGMENTS,
    "points": "sensor_msgs/msg/PointCloud2",
}
"""What is shown of what the node publishes for a camera, by its name there -> type of the messages."""

_PICTURES = {"image": (IMAGE, COMPRESSED), "depth": (IMAGE,)}

_DEPTH_ENCODINGS = {"16UC1", "32FC1"}
"""Of depth in sensor_msgs/Image; mono16 is what infrared cameras send, and counts as a picture."""


@dataclass(frozen=True)
class Wanted:
    """What the user asked to see.

    Attributes:
        node: Full name of the node that labels, such as /fcclip.
        cameras: Names of some of its cameras; none for all.
        images: Topics of the cameras' images, in their order; none to find them.
        depths: Likewise their depth.
    """

    node: str = "/fcclip"
    cameras: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    depths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks what can be known without topics.

        Raises:
            ImageError: The node's name is not a full one.
        """
        if not self.node.startswith("/") or self.node.endswith("/"):
            raise ImageError(f"--node {self.node!r} is no full name of a node; expected one such as /fcclip")


@dataclass(frozen=True)
class Part:
    """What a topic holds.

    Attributes:
        camera: The camera's name; empty for a node's only one.
        role: A name in `OUTPUTS`, or image, depth, camera_info.
        kind: Type of the messages.
    """

    camera: str
    role: str
    kind: str


def encoding_of(message: Any) -> str:
    """What a message of a topic with pictures or depth holds: its encoding, or a compressed one's format."""
    return str(message.format if hasattr(message, "format") else message.encoding)


def may_be_input(topic: str, kind: str, wanted: Wanted) -> bool:
    """Whether a topic may be what the node reads, so that its encoding must be known."""
    return kind in _PICTURES["image"] and not topic.startswith(f"{wanted.node}/")


def find_parts(
    available: Mapping[str, str],
    wanted: Wanted,
    encodings: Mapping[str, str],
    inputs: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Part]:
    """Finds the topics of a node's cameras.

    Args:
        available: All topics and their types.
        wanted: What to look for.
        encodings: See `encoding_of`, of the topics for which `may_be_input`; where one is missing nothing came yet, and
            the topic is passed over. Names of topics say nothing about depth.
        inputs: The topics that the node reads, to find the images among; None where that is not known.
        say: Gets what the user might want to choose.

    Returns:
        Topic -> what it holds; cameras without images have labels alone.

    Raises:
        ImageError: The node has no labels there, or it takes the user to say which images are whose.
    """
    parts = {topic: part for topic, kind in available.items() if (part := _output(topic, kind, wanted)) is not None}
    cameras = wanted.cameras or sorted({part.camera for part in parts.values()})
    missing = [name for name in cameras if name not in {part.camera for part in parts.values()}]
    if not parts or missing:
        raise ImageError(_nothing_there(available, wanted, missing))
    read = available if inputs is None else inputs
    known = {topic: encodings[topic] for topic, kind in read.items() if topic in encodings}
    known = {topic: encoding for topic, encoding in known.items() if may_be_input(topic, read[topic], wanted)}
    depth = {topic for topic, encoding in known.items() if encoding in _DEPTH_ENCODINGS and read[topic] == IMAGE}
    packed = {topic for topic, encoding in known.items() if read[topic] == COMPRESSED and _is_packed_depth(encoding)}
    for role, given, candidates in (
        ("image", wanted.images, set(known) - depth - packed),
        ("depth", wanted.depths, depth),
    ):
        chosen = _given(role, given, cameras, available) if given else _found(role, candidates, cameras, wanted.node)
        for camera, topic in chosen.items():
            parts[topic] = Part(camera, role, available.get(topic, IMAGE))
            info = f"{_beside(topic)}/camera_info"
            if role == "image" and available.get(info) == CAMERA_INFO:
                parts[info] = Part(camera, "camera_info", CAMERA_INFO)
        if role == "depth" and candidates and not chosen:
            say(f"depth on {_listed(candidates)}: which is whose? Nothing is worked out from it; choose with --depth")
        if role == "depth" and packed and not chosen and not candidates:
            say(f"depth on {_listed(packed)} is compressed, which is not read; record it raw, or republish it as raw")
    return parts


def _is_packed_depth(encoding: str) -> bool:
    """Whether a compressed image's format is that of image_transport's compressed depth: 16UC1; compressedDepth png."""
    return "compressedDepth" in encoding or encoding.partition(";")[0].strip() in _DEPTH_ENCODINGS


def _output(topic: str, kind: str, wanted: Wanted) -> Part | None:
    """What a topic of the node holds; None for others."""
    if not topic.startswith(f"{wanted.node}/"):
        return None
    camera, _, role = topic.removeprefix(f"{wanted.node}/").rpartition("/")
    if OUTPUTS.get(role) != kind or (wanted.cameras and camera not in wanted.cameras):
        return None
    return Part(camera, role, kind)


def _given(role: str, topics: Sequence[str], cameras: Sequence[str], available: Mapping[str, str]) -> dict[str, str]:
    if len(topics) != len(cameras):
        raise ImageError(
            f"--{role} is given {len(topics)} times for {len(cameras)} cameras; give one for each, in order"
        )
    for topic in topics:
        if available.get(topic) not in _PICTURES[role]:
            found = _listed(name for name, kind in available.items() if kind in _PICTURES[role])
            raise ImageError(f"there are no images on --{role} {topic}; there are on {found}")
    return dict(zip(cameras, topics, strict=True))


def _found(role: str, candidates: Collection[str], cameras: Sequence[str], node: str) -> dict[str, str]:
    """The topics named as the node names them by default; for a single camera, the only one there is."""
    namespace = node.rpartition("/")[0]
    # Of one picture raw and compressed, the raw one.
    bases = {topic.removesuffix("/compressed"): topic for topic in sorted(candidates, reverse=True)}
    by_name = {camera: "/".join(filter(None, (namespace, camera, role))) for camera in cameras}
    found = {camera: bases[_full(name)] for camera, name in by_name.items() if _full(name) in bases}
    if not found and len(cameras) == 1 and len(bases) == 1:
        return {cameras[0]: next(iter(bases.values()))}
    if role == "image" and bases and len(found) < len(cameras):
        whose = node if len(cameras) == 1 else f"the cameras {', '.join(cameras)}"
        advice = "--image" if len(cameras) == 1 else "--image, once for each camera in this order"
        raise ImageError(f"which images belong to {whose}? There are some on {_listed(bases)}; choose with {advice}")
    return found


def _full(name: str) -> str:
    return name if name.startswith("/") else f"/{name}"


def _beside(topic: str) -> str:
    return topic.removesuffix("/compressed").rpartition("/")[0]


def _nothing_there(available: Mapping[str, str], wanted: Wanted, missing: Sequence[str]) -> str:
    whose = f"cameras {_listed(missing)} of {wanted.node}" if missing else wanted.node
    labels = [topic for topic, kind in available.items() if kind == SEGMENTS]
    if labels:
        return f"there are no labels of {whose}, but on {_listed(labels)}; choose with --node and --camera"
    return f"there are no labels of {whose}, nor of another node; topics: {_listed(available)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
