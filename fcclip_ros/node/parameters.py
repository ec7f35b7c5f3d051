"""The node's parameters: what they mean, their ranges, and which may change while the node works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rclpy.node import Node

from fcclip_core.errors import ImageError, SettingsError, VocabularyError
from fcclip_core.files.paths import expanded
from fcclip_core.geometry.ignore_mask import IgnoreMask
from fcclip_core.geometry.segments import MAX_EROSION
from fcclip_core.images.camera_size import parse_size
from fcclip_core.images.image_limits import MAX_PIXELS
from fcclip_core.segments.contours import CONTOUR_TYPES, check_contour_type
from fcclip_core.settings import AUTO, InferenceSettings, ModelSettings, WordSettings, settings_of
from fcclip_core.vocabulary.classes import Vocabulary
from fcclip_ros.conversions.frame_ids import check_frame_id
from fcclip_ros.conversions.gray_range import GrayRange
from fcclip_ros.conversions.messages import EMBEDDING_TYPES
from fcclip_ros.conversions.video import check_video_support
from fcclip_ros.declarations import (
    Declaration,
    camera_names,
    check_choices,
    declarations_of,
    declared,
    read_declared,
    read_names,
    read_texts,
    require_changeable,
)
from fcclip_ros.node import depth_parameters
from fcclip_ros.node.image_input import RAW, TRANSPORTS, VIDEO
from fcclip_ros.node.mask_output import mask_topics
from fcclip_ros.node.transforms import check_tf2
from fcclip_ros.qos import RELIABILITIES

_VALID_MASK_ONLY = {AUTO: None, "true": True, "false": False}


def _shared(kind: type, name: str, *, help: str = "", **more: Any) -> Any:
    """Likewise, a setting that commands have too."""
    item, about = settings_of(kind)[name]
    return declared(item.default, f"{about.sentence}{help}", choices=about.choices, **more)


def _size(_: str, value: str) -> tuple[int, int] | None:
    return parse_size(value) if value.strip() else None


@dataclass(frozen=True)
class NodeParameters:
    """A consistent set of parameters: each field says what it is declared with.

    Lists of names accept one text with semicolons, too; sizes are (width, height).

    Attributes:
        settings: The inference settings, each of which is a parameter of its own.
    """

    checkpoint: str = _shared(ModelSettings, "checkpoint")
    train_vocabulary: str = declared(
        "",
        "Training vocabulary, which decides the seen classes: a bundled vocabulary or a file; empty: the "
        "checkpoint's own",
    )
    vocabulary: tuple[str, ...] = _shared(
        WordSettings,
        "vocabulary",
        help=", or a list of names; auto: the classes that the checkpoint was trained on",
        read=read_names,
        live=True,
        any_type=True,
    )
    stuff: tuple[str, ...] = declared(
        [""], settings_of(WordSettings)["stuff"][1].sentence, read=read_names, live=True, any_type=True
    )
    background: tuple[str, ...] = _shared(WordSettings, "background", read=read_names, any_type=True)
    publish_only: tuple[str, ...] = declared(
        [""],
        "Names of the only classes that are published; the others compete and are published as unlabeled; empty: all",
        read=read_names,
        live=True,
        any_type=True,
    )
    device: str = _shared(ModelSettings, "device")
    backend: str = _shared(ModelSettings, "backend")
    precision: str = _shared(ModelSettings, "precision")
    vanished_masks: str = _shared(ModelSettings, "vanished_masks")
    camera_size: tuple[int, int] | None = declared(
        "",
        "WIDTHxHEIGHT of the cameras' frames, for example 640x480: what single frames need is built while the node is "
        "configured, what batches need in the background; empty: nothing is built beforehand",
        read=_size,
    )
    cameras: tuple[str, ...] = declared(
        [""],
        "Names of several cameras: each reads `NAME/image` and writes `~/NAME/...`; empty: one camera, `image` and "
        "`~/...`",
        read=lambda _, value: camera_names(value),
        any_type=True,
        read_only=True,
    )
    memory_node: str = declared(
        "object_memory",
        "Name of the node object_memory, from this node's namespace; asked by goals of `~/wait_for` with `from_memory`",
        read_only=True,
    )
    max_batch: int = declared(
        8, "Most frames of different cameras that go through the network together", limits=(1, 64)
    )
    image_transport: str = declared(
        RAW,
        "raw reads `image`, compressed reads `image/compressed` (JPEG or PNG), ffmpeg reads `image/ffmpeg` (H.264 or "
        "H.265; needs PyAV and ffmpeg_image_transport_msgs)",
        choices=TRANSPORTS,
    )
    image_reliability: str = declared(
        AUTO,
        "Reliability of the image subscription; auto: reliable if every publisher is, else best effort",
        choices=RELIABILITIES,
    )
    max_rate: float = declared(
        0.0,
        "Most frames of each camera that are labeled per second, which leaves the processor to others; 0: all that the "
        "model has time for",
        limits=(0.0, 1000.0),
        live=True,
    )
    max_image_pixels: int = declared(
        MAX_PIXELS,
        "Most pixels of an image, from a camera or in a request; larger images are rejected, not decoded",
        limits=(1, 1_000_000_000),
        live=True,
    )
    gray16_range: GrayRange = declared(
        "full",
        "Which values of 16-bit gray images (mono16; with a range also 16UC1) become black and white, for thermal "
        'cameras: two values ("28000 32000"), two percentiles of each image ("1% 99%"), or full: 0 and 65535',
        read=GrayRange.parse,
        live=True,
    )
    ignore_mask: tuple[str, ...] = declared(
        "",
        "A PNG of the camera's aspect ratio; pixels that are not black in it are never labeled; for several cameras a "
        "list of files in their order, empty for those without",
        read=read_texts,
        any_type=True,
    )
    use_depth: bool = declared(False, "Subscribe to `depth` and `camera_info`, and publish 3D positions of segments")
    depth_transport: str = depth_parameters.depth_transport()
    depth_tolerance: float = depth_parameters.depth_tolerance()
    depth_wait: float = declared(
        0.03, "Longest time that a labeled frame waits for its depth, in seconds", limits=(0.0, 1.0), live=True
    )
    image_rectified: bool = depth_parameters.image_rectified()
    depth_erosion: int = declared(
        0,
        "Pixels of each segment's rim whose depth is not used, where depth bleeds over edges; small ones lose fewer",
        limits=(0, MAX_EROSION),
        live=True,
    )
    target_frame: str = declared(
        "",
        "Frame of the 3D outputs, such as map, odom or base_link, by the transform on /tf at the stamp of the image "
        "(needs tf2_ros); empty: the optical frame of the camera",
        read=check_frame_id,
        live=True,
    )
    transform_wait: float = declared(
        0.1,
        "Longest time after its arrival that a labeled frame waits for the transform to target_frame, in seconds",
        limits=(0.0, 1.0),
        live=True,
    )
    autostart: bool = declared(True, "Configure and activate at start; otherwise a lifecycle manager does")
    publish_overlay_rate: float = declared(
        5.0, "Most overlays per second, while somebody subscribes; 0: none", limits=(0.0, 120.0), live=True
    )
    publish_embeddings: str = declared(
        "",
        "CLIP embedding of each segment in ~/segments: float16, float32, or empty for none",
        choices=tuple(EMBEDDING_TYPES),
        live=True,
    )
    publish_contours: str = declared(
        "",
        "Pixels of each segment in ~/segments, in COCO's formats: polygons, rle (needs pycocotools), or empty for none",
        choices=CONTOUR_TYPES,
        live=True,
    )
    publish_masks: tuple[str, ...] = declared(
        [""],
        "Names of classes that get a binary image each, ~/mask/NAME; a class goes by its first synonym",
        read=lambda name, value: tuple(mask_topics(read_names(name, value))),
        any_type=True,
    )
    track: bool = declared(False, "Keep the segment ids of things from frame to frame")
    track_lost_frames: int = declared(
        30,
        "Frames after which a thing that is out of sight is forgotten; one that comes back later gets a new id",
        limits=(0, 10_000),
    )
    track_votes: bool = declared(
        True,
        "With track: name a thing by all its frames, so that its class does not flicker; false: by each frame alone",
    )
    settings: InferenceSettings = field(default_factory=InferenceSettings)

    def __post_init__(self) -> None:
        """Checks what depends on several parameters.

        Raises:
            SettingsError: There are not as many ignore masks as cameras, or contours cannot be made, video not be
                decoded or transforms not be received here.
        """
        if self.target_frame:
            check_tf2()
        if self.image_transport == VIDEO:
            check_video_support()
        check_contour_type(self.publish_contours)
        if any(self.ignore_mask) and len(self.ignore_mask) != len(self.cameras):
            raise SettingsError(
                f"ignore_mask has {len(self.ignore_mask)} files for {len(self.cameras)} cameras; give a list with one "
                'for each, in their order, "" for a camera without'
            )

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> NodeParameters:
        """Checks values of all parameters, alone and together.

        Raises:
            SettingsError: Naming the parameter, its value and what was expected.
        """
        values = {**values, "valid_mask_only": str(values["valid_mask_only"]).lower()}
        check_choices(PARAMETERS, values)
        settings = {name: values[name] for name in InferenceSettings.names()}
        settings["valid_mask_only"] = _VALID_MASK_ONLY[values["valid_mask_only"]]
        return cls(**read_declared(cls, values), settings=InferenceSettings(**settings))

    def load_ignore_masks(self) -> tuple[IgnoreMask | None, ...]:
        """Reads the cameras' ignore masks, in the order of the cameras; None for a camera without.

        Raises:
            ImageError: One cannot be read, ignores everything, or has another aspect ratio than camera_size.
        """
        files = self.ignore_mask if any(self.ignore_mask) else ("",) * len(self.cameras)
        masks = tuple(IgnoreMask(expanded(file, ImageError)) if file else None for file in files)
        if self.camera_size is not None:
            width, height = self.camera_size
            for mask in filter(None, masks):
                mask.at(height, width)
        return masks

    @property
    def has_own_words(self) -> bool:
        """Whether the parameters name classes, and not those that the checkpoint was trained on."""
        return self.vocabulary != (AUTO,)

    def load_words(self, trained_on: Vocabulary | None = None) -> Vocabulary:
        """Reads what the parameter vocabulary names, without what stuff says of it.

        Args:
            trained_on: The checkpoint's classes; needed unless `has_own_words`.

        Raises:
            VocabularyError: It is empty, cannot be read, or contradicts itself.
        """
        if not self.vocabulary:
            raise VocabularyError(
                f"the parameter vocabulary is empty; set it to {AUTO}, a bundled name, a file or names"
            )
        if not self.has_own_words:
            if trained_on is None:
                raise VocabularyError(f"the parameter vocabulary is {AUTO}, and no checkpoint is loaded yet")
            return trained_on
        return Vocabulary.from_words(self.vocabulary)


def _declaration_of(name: str) -> Declaration:
    """An inference setting as a parameter; its size is the model's own until the user says otherwise."""
    item, about = settings_of(InferenceSettings)[name]
    if item.default is None:
        choices = tuple(_VALID_MASK_ONLY)
        return Declaration(name, AUTO, f"{about.sentence}.", choices=choices, live=True, any_type=True)
    default = 0 if name == "shorter_side" else item.default
    return Declaration(name, default, f"{about.sentence}.", limits=about.span, choices=about.choices, live=True)


PARAMETERS: tuple[Declaration, ...] = (
    *declarations_of(NodeParameters),
    *map(_declaration_of, InferenceSettings.names()),
)

_BY_NAME = {parameter.name: parameter for parameter in PARAMETERS}


def values_of(node: Node) -> dict[str, Any]:
    """The present values of all parameters, unchecked."""
    return {name: node.get_parameter(name).value for name in _BY_NAME}


def check_change(values: Mapping[str, Any], changes: Mapping[str, Any], lifecycle: str) -> NodeParameters:
    """Decides whether parameters may change.

    Args:
        values: Present values of all parameters.
        changes: New values; parameters that are not the node's own are ignored.
        lifecycle: Label of the node's state.

    Returns:
        The parameters after the change.

    Raises:
        SettingsError: A value is wrong, alone or together with the others, or may not change now.
    """
    changes = {name: value for name, value in changes.items() if name in _BY_NAME}
    require_changeable(PARAMETERS, values, changes, lifecycle)
    return NodeParameters.from_values({**values, **changes})
