"""Finds the topics that belong to the cameras of a node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from fcclip_core.errors import ImageError
from fcclip_ros.bags.input_topics import (
    CAMERA_INFO,
    COMPRESSED,
    DEPTH_ENCODINGS,
    IMAGE,
    is_depth,
    listed,
    namespace_of,
    raw_name,
)

SEGMENTS = "fcclip_ros/msg/SegmentArray"

OUTPUTS = {
    "vocabulary": "fcclip_ros/msg/Vocabulary",
    "semantic": IMAGE,
    "panoptic": IMAGE,
    "segments": SEGMENTS,
    "points": "sensor_msgs/msg/PointCloud2",
}
"""Outputs of the node that are shown -> their types."""

_PICTURES = {"image": (IMAGE, COMPRESSED), "depth": (IMAGE, COMPRESSED)}


@dataclass(frozen=True)
class Wanted:
    """The user's selection.

    Attributes:
        node: Fully qualified name of the perception node, such as /fcclip.
        cameras: Names of its cameras to show; empty for all.
        images: Image topics of the cameras, in the same order; empty for automatic selection.
        depths: Depth topics of the cameras, in the same order; empty for automatic selection.
    """

    node: str = "/fcclip"
    cameras: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    depths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks the name of the node.

        Raises:
            ImageError: The name is not fully qualified.
        """
        if not self.node.startswith("/") or self.node.endswith("/"):
            raise ImageError(f"--node {self.node!r} is not a fully qualified node name; expected one such as /fcclip")


@dataclass(frozen=True)
class Part:
    """The role of a topic.

    Attributes:
        camera: Name of the camera; empty for the only camera of a node.
        role: A key of `OUTPUTS`, or image, depth, camera_info.
        kind: Message type.
    """

    camera: str
    role: str
    kind: str


def may_be_input(topic: str, kind: str, wanted: Wanted) -> bool:
    """Whether a topic may be an input of the node, so that its encoding must be known."""
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
        wanted: The user's selection.
        encodings: Encodings (see `input_topics.encoding_of`) of the topics with `may_be_input`; those that are
            missing, because no message has been received yet, are ignored. Names do not tell whether there is depth.
        inputs: The topics that the node subscribes to, with their types; None if unknown.
        say: Called about topics that the user may want to select.

    Returns:
        Topic -> its role; cameras without images have labels only.

    Raises:
        ImageError: The node has no labels, or the user has to select the image topics.
    """
    parts = {topic: part for topic, kind in available.items() if (part := _output(topic, kind, wanted)) is not None}
    cameras = wanted.cameras or sorted({part.camera for part in parts.values()})
    missing = [name for name in cameras if name not in {part.camera for part in parts.values()}]
    if not parts or missing:
        raise ImageError(_no_labels(available, wanted, missing))
    read = available if inputs is None else inputs
    known = {topic: encodings[topic] for topic, kind in read.items() if topic in encodings}
    known = {topic: encoding for topic, encoding in known.items() if may_be_input(topic, read[topic], wanted)}
    depth = {topic for topic, encoding in known.items() if is_depth(read[topic], encoding)}
    # Of the transport "compressed", which fits pictures: its PNG could be read, but a JPEG of depth is none.
    packed = {topic for topic, encoding in known.items() if encoding.partition(";")[0].strip() in DEPTH_ENCODINGS}
    packed -= depth
    for role, given, candidates in (
        ("image", wanted.images, set(known) - depth - packed),
        ("depth", wanted.depths, depth),
    ):
        chosen = _given(role, given, cameras, available) if given else _found(role, candidates, cameras, wanted.node)
        for camera, topic in chosen.items():
            parts[topic] = Part(camera, role, available.get(topic, IMAGE))
            info = f"{namespace_of(topic)}/camera_info"
            if role == "image" and available.get(info) == CAMERA_INFO:
                parts[info] = Part(camera, "camera_info", CAMERA_INFO)
        if role == "depth" and candidates and not chosen:
            say(f"depth on {listed(candidates)} is not used: the camera is ambiguous; select topics with --depth")
        if role == "depth" and packed and not chosen and not candidates:
            say(f"depth on {listed(packed)} is compressed like color; record the raw topic or its /compressedDepth")
    return parts


def _output(topic: str, kind: str, wanted: Wanted) -> Part | None:
    """The role of an output of the node; None for other topics."""
    if not topic.startswith(f"{wanted.node}/"):
        return None
    camera, _, role = topic.removeprefix(f"{wanted.node}/").rpartition("/")
    if OUTPUTS.get(role) != kind or (wanted.cameras and camera not in wanted.cameras):
        return None
    return Part(camera, role, kind)


def _given(role: str, topics: Sequence[str], cameras: Sequence[str], available: Mapping[str, str]) -> dict[str, str]:
    if len(topics) != len(cameras):
        raise ImageError(
            f"--{role} is given {len(topics)} times for {len(cameras)} cameras; give it once per camera, in order"
        )
    for topic in topics:
        if available.get(topic) not in _PICTURES[role]:
            found = listed(name for name, kind in available.items() if kind in _PICTURES[role])
            raise ImageError(f"--{role} {topic} has no images; topics with images: {found}")
    return dict(zip(cameras, topics, strict=True))


def _found(role: str, candidates: Collection[str], cameras: Sequence[str], node: str) -> dict[str, str]:
    """The topics with the default names; for a single camera, also the only topic there is."""
    namespace = node.rpartition("/")[0]
    # The raw topic takes precedence over the compressed one.
    bases = {raw_name(topic): topic for topic in sorted(candidates, reverse=True)}
    by_name = {camera: "/".join(filter(None, (namespace, camera, role))) for camera in cameras}
    found = {camera: bases[_full(name)] for camera, name in by_name.items() if _full(name) in bases}
    if not found and len(cameras) == 1 and len(bases) == 1:
        return {cameras[0]: next(iter(bases.values()))}
    if role == "image" and bases and len(found) < len(cameras):
        whose = node if len(cameras) == 1 else f"the cameras {', '.join(cameras)}"
        advice = "--image" if len(cameras) == 1 else "--image, once for each camera in this order"
        raise ImageError(f"the images of {whose} are ambiguous: {listed(bases)}; select them with {advice}")
    return found


def _full(name: str) -> str:
    return name if name.startswith("/") else f"/{name}"


def _no_labels(available: Mapping[str, str], wanted: Wanted, missing: Sequence[str]) -> str:
    whose = f"cameras {listed(missing)} of {wanted.node}" if missing else wanted.node
    labels = [topic for topic, kind in available.items() if kind == SEGMENTS]
    if labels:
        return (
            f"there are no labels of {whose}, but there are on {listed(labels)}; select them with --node and --camera"
        )
    return f"there are no labels of {whose} or another node; topics: {listed(available)}"
