"""The node's parameters: what they mean, their ranges, and which may change while the node works."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
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
from fcclip_ros.declarations import Declaration, check_choices
from fcclip_ros.node.depth_input import DEPTH_TRANSPORTS
from fcclip_ros.node.image_input import RAW, TRANSPORTS, VIDEO
from fcclip_ros.node.mask_output import mask_topics
from fcclip_ros.node.transforms import check_tf2
from fcclip_ros.qos import RELIABILITIES

_VALID_MASK_ONLY = {AUTO: None, "true": True, "false": False}


def _declared(default: Any, help: str, *, read: Callable[[str, Any], Any] | None = None, **declared: Any) -> Any:
    """A field of `NodeParameters` that is a parameter.

    Args:
        default: What it is declared with.
        help: A sentence without its full stop.
        read: Makes the field's value of the parameter's name and value; may raise `SettingsError`.
        **declared: Further attributes of its `Declaration`.
    """
    return field(metadata={"declared": (default, f"{help}.", declared), "read": read or (lambda _, value: value)})


def _shared(kind: type, name: str, *, help: str = "", **more: Any) -> Any:
    """Likewise, a setting that commands have too."""
    item, about = settings_of(kind)[name]
    return _declared(item.default, f"{about.sentence}{help}", choices=about.choices, **more)


def _names(name: str, value: Any) -> tuple[str, ...]:
    """The texts that are not blank in a list, or in one text with semicolons between them; None is the empty list."""
    return tuple(filter(None, _texts(name, value.split(";") if isinstance(value, str) else value)))


def _files(name: str, value: Any) -> tuple[str, ...]:
    """A file or a list of files, blank ones too."""
    return _texts(name, [value] if isinstance(value, str) else value)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    """A list of texts without blanks around them; None is the empty list."""
    texts = [] if value is None else value
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise SettingsError(f"{name} is {value!r}; it must be a text or a list of texts")
    return tuple(text.strip() for text in texts)


def _size(_: str, value: str) -> tuple[int, int] | None:
    return parse_size(value) if value.strip() else None


def camera_names(value: Any) -> tuple[str, ...]:
    """Reads the parameter cameras.

    Returns:
        The cameras' names; one empty name where there are none.

    Raises:
        SettingsError: A name cannot be part of a topic's, or comes twice.
    """
    names = _names("cameras", value)
    for camera in names:
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", camera):
            raise SettingsError(
                f"cameras has {camera!r}; a camera's name becomes part of topics (NAME/image), so it must consist of "
                "letters, digits and underscores and not begin with a digit"
            )
        if names.count(camera) > 1:
            raise SettingsError(f"cameras has {camera!r} twice; each camera needs a name of its own")
    return names or ("",)


@dataclass(frozen=True)
class NodeParameters:
    """A consistent set of parameters: each field says what it is declared with.

    Lists of names accept one text with semicolons, too; sizes are (width, height).

    Attributes:
        settings: The inference settings, each of which is a parameter of its own.
    """

    checkpoint: str = _shared(ModelSettings, "checkpoint")
    train_vocabulary: str = _declared(
        "",
        "Training vocabulary, which decides the seen classes: a bundled vocabulary or a file; empty: the "
        "checkpoint's own",
    )
    vocabulary: tuple[str, ...] = _shared(
        WordSettings,
        "vocabulary",
        help=", or a list of names; auto: the classes that the checkpoint was trained on",
        read=_names,
        live=True,
        any_type=True,
    )
    stuff: tuple[str, ...] = _declared(
        [""], settings_of(WordSettings)["stuff"][1].sentence, read=_names, live=True, any_type=True
    )
    background: tuple[str, ...] = _shared(WordSettings, "background", read=_names, any_type=True)
    publish_only: tuple[str, ...] = _declared(
        [""],
        "Names of the only classes that are published; the others compete and are published as unlabeled; empty: all",
        read=_names,
        live=True,
        any_type=True,
    )
    device: str = _shared(ModelSettings, "device")
    backend: str = _shared(ModelSettings, "backend")
    precision: str = _shared(ModelSettings, "precision")
    vanished_masks: str = _shared(ModelSettings, "vanished_masks")
    camera_size: tuple[int, int] | None = _declared(
        "",
        "WIDTHxHEIGHT of the cameras' frames, for example 640x480: what single frames need is built while the node is "
        "configured, what batches need in the background; empty: nothing is built beforehand",
        read=_size,
    )
    cameras: tuple[str, ...] = _declared(
        [""],
        "Names of several cameras: each reads `NAME/image` and writes `~/NAME/...`; empty: one camera, `image` and "
        "`~/...`",
        read=lambda _, value: camera_names(value),
        any_type=True,
        read_only=True,
    )
    max_batch: int = _declared(
        8, "Most frames of different cameras that go through the network together", limits=(1, 64)
    )
    image_transport: str = _declared(
        RAW,
        "raw reads `image`, compressed reads `image/compressed` (JPEG or PNG), ffmpeg reads `image/ffmpeg` (H.264 or "
        "H.265; needs PyAV and ffmpeg_image_transport_msgs)",
        choices=TRANSPORTS,
    )
    image_reliability: str = _declared(
        AUTO,
        "Reliability of the image subscription; auto: reliable if every publisher is, else best effort",
        choices=RELIABILITIES,
    )
    max_rate: float = _declared(
        0.0,
        "Most frames of each camera that are labeled per second, which leaves the processor to others; 0: all that the "
        "model has time for",
        limits=(0.0, 1000.0),
        live=True,
    )
    max_image_pixels: int = _declared(
        MAX_PIXELS,
        "Most pixels of an image, from a camera or in a request; larger images are rejected, not decoded",
        limits=(1, 1_000_000_000),
        live=True,
    )
    gray16_range: GrayRange = _declared(
        "full",
        "Which values of 16-bit gray images (mono16; with a range also 16UC1) become black and white, for thermal "
        'cameras: two values ("28000 32000"), two percentiles of each image ("1% 99%"), or full: 0 and 65535',
        read=GrayRange.parse,
        live=True,
    )
    ignore_mask: tuple[str, ...] = _declared(
        "",
        "A PNG of the camera's aspect ratio; pixels that are not black in it are never labeled; for several cameras a "
        "list of files in their order, empty for those without",
        read=_files,
        any_type=True,
    )
    use_depth: bool = _declared(False, "Subscribe to `depth` and `camera_info`, and publish 3D positions of segments")
    depth_transport: str = _declared(
        "raw",
        "raw reads `depth`, compressedDepth reads `depth/compressedDepth` (PNG or RVL)",
        choices=DEPTH_TRANSPORTS,
    )
    depth_tolerance: float = _declared(
        0.02,
        "Largest difference between the stamps of an image and its depth, in seconds",
        limits=(0.0, 10.0),
        live=True,
    )
    depth_wait: float = _declared(
        0.03, "Longest time that a labeled frame waits for its depth, in seconds", limits=(0.0, 1.0), live=True
    )
    image_rectified: bool = _declared(
        True, "Whether image and depth are rectified, so that camera_info's P describes them; otherwise K and D do"
    )
    depth_erosion: int = _declared(
        0,
        "Pixels of each segment's rim whose depth is not used, where depth bleeds over edges; small ones lose fewer",
        limits=(0, MAX_EROSION),
        live=True,
    )
    target_frame: str = _declared(
        "",
        "Frame of the 3D outputs, such as map, odom or base_link, by the transform on /tf at the stamp of the image "
        "(needs tf2_ros); empty: the optical frame of the camera",
        read=check_frame_id,
        live=True,
    )
    transform_wait: float = _declared(
        0.1,
        "Longest time after its arrival that a labeled frame waits for the transform to target_frame, in seconds",
        limits=(0.0, 1.0),
        live=True,
    )
    autostart: bool = _declared(True, "Configure and activate at start; otherwise a lifecycle manager does")
    publish_overlay_rate: float = _declared(
        5.0, "Most overlays per second, while somebody subscribes; 0: none", limits=(0.0, 120.0), live=True
    )
    publish_embeddings: str = _declared(
        "",
        "CLIP embedding of each segment in ~/segments: float16, float32, or empty for none",
        choices=tuple(EMBEDDING_TYPES),
        live=True,
    )
    publish_contours: str = _declared(
        "",
        "Pixels of each segment in ~/segments, in COCO's formats: polygons, rle (needs pycocotools), or empty for none",
        choices=CONTOUR_TYPES,
        live=True,
    )
    publish_masks: tuple[str, ...] = _declared(
        [""],
        "Names of classes that get a binary image each, ~/mask/NAME; a class goes by its first synonym",
        read=lambda name, value: tuple(mask_topics(_names(name, value))),
        any_type=True,
    )
    track: bool = _declared(False, "Keep the segment ids of things from frame to frame")
    track_lost_frames: int = _declared(
        30,
        "Frames after which a thing that is out of sight is forgotten; one that comes back later gets a new id",
        limits=(0, 10_000),
    )
    track_votes: bool = _declared(
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
        declared = [item for item in fields(cls) if "read" in item.metadata]
        return cls(
            **{item.name: item.metadata["read"](item.name, values[item.name]) for item in declared},
            settings=InferenceSettings(**settings),
        )

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
    *(
        Declaration(item.name, default, text, **more)
        for item in fields(NodeParameters)
        if "declared" in item.metadata
        for default, text, more in (item.metadata["declared"],)
    ),
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
    fixed = [name for name, value in changes.items() if not _BY_NAME[name].live and value != values[name]]
    if changes and lifecycle == "configuring":
        raise SettingsError("the node is being configured; change parameters before or after")
    if fixed and lifecycle != "unconfigured":
        raise SettingsError(
            f"{', '.join(fixed)} cannot change while the node is configured; clean it up first, change, and configure "
            "again (ros2 lifecycle set NODE deactivate, cleanup, configure, activate)"
        )
    return NodeParameters.from_values({**values, **changes})
