"""The node's parameters: what they mean, their ranges, and which may change while the node works."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node

from fcclip_core.errors import ImageError, SettingsError, VocabularyError
from fcclip_core.export.input_spec import PRECISIONS
from fcclip_core.files.paths import expanded
from fcclip_core.geometry.ignore_mask import IgnoreMask
from fcclip_core.geometry.segments import MAX_EROSION
from fcclip_core.images.camera_size import parse_size
from fcclip_core.images.image_limits import MAX_PIXELS
from fcclip_core.model.config import PUBLISHED, VANISHED_MASKS
from fcclip_core.segments.contours import CONTOUR_TYPES, check_contour_type
from fcclip_core.settings import AUTO, ENSEMBLES, InferenceSettings
from fcclip_core.vocabulary.classes import Vocabulary
from fcclip_ros.conversions.messages import EMBEDDING_TYPES
from fcclip_ros.declarations import Declaration, check_choices
from fcclip_ros.node.image_input import TRANSPORTS
from fcclip_ros.node.mask_output import mask_topics
from fcclip_ros.qos import RELIABILITIES

_DEFAULTS = InferenceSettings(shorter_side=0)
_VALID_MASK_ONLY = {"auto": None, "true": True, "false": False}


def _setting(name: str, description: str, **more: Any) -> Declaration:
    return Declaration(name, getattr(_DEFAULTS, name), description, live=True, **more)


PARAMETERS: tuple[Declaration, ...] = (
    Declaration(
        "checkpoint",
        AUTO,
        "Weights: a file, a bundled name, or recipe:NAME (seeded; its labels mean nothing); auto: the best published "
        "model that was imported on this machine, else demo.",
    ),
    Declaration(
        "train_vocabulary",
        "",
        "What the model was trained on, for seen and unseen classes: a bundled vocabulary or a file; empty: as the "
        "checkpoint says.",
    ),
    Declaration(
        "vocabulary",
        AUTO,
        "The classes: a bundled vocabulary, a .yaml or .txt file, or names (a list, or one text with semicolons); "
        "commas separate synonyms; auto: those that the checkpoint was trained on.",
        live=True,
        any_type=True,
    ),
    Declaration(
        "stuff",
        [""],
        "Names of classes that are stuff, not countable things, besides those that a vocabulary file marks.",
        live=True,
        any_type=True,
    ),
    Declaration(
        "background",
        AUTO,
        "What competes with the classes, unseen, as far as it does not overlap with them: a bundled vocabulary, a "
        "file, or names; auto: what suits the checkpoint; none: nothing.",
        any_type=True,
    ),
    Declaration(
        "publish_only",
        [""],
        "Names of the only classes that are published; the others compete and are published as unlabeled; empty: all.",
        live=True,
        any_type=True,
    ),
    Declaration("device", "auto", "Where the model runs: auto, cpu, cuda or cuda:N."),
    Declaration("backend", "auto", "What runs the model: auto, or one that `fcclip doctor` lists."),
    Declaration("precision", "auto", "What the backend computes in; auto: its fastest.", choices=("auto", *PRECISIONS)),
    Declaration(
        "vanished_masks",
        PUBLISHED,
        "What masks that vanish at stride 32 are pooled over: nothing (published), or the one cell where they come "
        "closest to being there (best_cell).",
        choices=VANISHED_MASKS,
    ),
    Declaration(
        "camera_size",
        "",
        "WIDTHxHEIGHT of the cameras' frames, for example 640x480: what single ones need is built while the node is "
        "configured, what batches of them need beside the stream; empty: nothing is built beforehand.",
    ),
    Declaration(
        "cameras",
        [""],
        "Names of several cameras: each reads `NAME/image` and writes `~/NAME/...`; empty: one, `image` and `~/...`.",
        any_type=True,
        read_only=True,
    ),
    Declaration(
        "max_batch",
        8,
        "Frames of different cameras that go through the network together at most, if they wait together.",
        limits=(1, 64),
    ),
    Declaration(
        "image_transport", "raw", "raw reads `image`, compressed reads `image/compressed`.", choices=TRANSPORTS
    ),
    Declaration(
        "image_reliability",
        "auto",
        "Reliability of the image subscription; auto: reliable if every publisher is, else best effort.",
        choices=RELIABILITIES,
    ),
    Declaration(
        "max_image_pixels",
        MAX_PIXELS,
        "Pixels that an image may have, from a camera or in a request; larger ones are refused, not decoded.",
        limits=(1, 1_000_000_000),
        live=True,
    ),
    Declaration(
        "ignore_mask",
        "",
        "A PNG of the camera's aspect ratio; pixels that are not black in it are never labeled; of several cameras a "
        "list of files in their order, empty for those without.",
        any_type=True,
    ),
    Declaration("use_depth", False, "Subscribe to `depth` and `camera_info`, and say where segments are."),
    Declaration(
        "depth_tolerance",
        0.02,
        "Seconds between the stamps of an image and its depth at most.",
        limits=(0.0, 10.0),
        live=True,
    ),
    Declaration(
        "depth_wait",
        0.03,
        "Seconds after its arrival that a labeled frame may wait for its depth.",
        limits=(0.0, 1.0),
        live=True,
    ),
    Declaration(
        "image_rectified",
        True,
        "Whether image and depth are rectified, so that camera_info's P describes them; otherwise K and D do.",
    ),
    Declaration(
        "depth_erosion",
        0,
        "Pixels of each segment's rim whose depth is not used, where depth bleeds over edges; small ones give up less.",
        limits=(0, MAX_EROSION),
        live=True,
    ),
    Declaration("autostart", True, "Configure and activate at start; otherwise a lifecycle manager does."),
    Declaration(
        "publish_overlay_rate",
        5.0,
        "Overlays per second at most, while somebody subscribes; 0 for none.",
        limits=(0.0, 120.0),
        live=True,
    ),
    Declaration(
        "publish_embeddings",
        "",
        "CLIP embedding of each segment in ~/segments: float16, float32, or empty for none.",
        choices=tuple(EMBEDDING_TYPES),
        live=True,
    ),
    Declaration(
        "publish_contours",
        "",
        "Pixels of each segment in ~/segments, as COCO has them: polygons, rle (needs pycocotools), or empty for none.",
        choices=CONTOUR_TYPES,
        live=True,
    ),
    Declaration(
        "publish_masks",
        [""],
        "Names of classes of which there is a binary image each, ~/mask/NAME; a class goes by its first synonym.",
        any_type=True,
    ),
    Declaration("track", False, "Keep the segment ids of things from frame to frame."),
    Declaration(
        "track_lost_frames",
        30,
        "Frames after which a thing that is out of sight is forgotten; a thing that comes back later gets a new id.",
        limits=(0, 10_000),
    ),
    Declaration(
        "track_votes",
        True,
        "With track: name a thing by all its frames, so that its class does not flicker; false: by each frame alone.",
    ),
    _setting(
        "shorter_side", "Pixels to which the shorter image side is resized; 0: the model's own size.", limits=(0, 4096)
    ),
    _setting("max_size", "Pixels that the longer side has at most after resizing.", limits=(32, 8192)),
    _setting("alpha", "Weight of the out-of-vocabulary classifier for seen classes.", limits=(0.0, 1.0)),
    _setting("beta", "Weight of the out-of-vocabulary classifier for unseen classes.", limits=(0.0, 1.0)),
    _setting("ensemble", "How the two classifiers are joined.", choices=ENSEMBLES),
    _setting("object_mask_threshold", "Masks whose best class scores this or less are dropped.", limits=(0.0, 1.0)),
    _setting(
        "overlap_threshold", "Share of its own pixels that a mask must win to become a segment.", limits=(0.0, 1.0)
    ),
    Declaration(
        "valid_mask_only",
        "auto",
        "Join the classifiers only for masks that survive at stride 32: true, false, or auto (as the model's preset; "
        "false with vanished_masks best_cell).",
        choices=tuple(_VALID_MASK_ONLY),
        live=True,
        any_type=True,
    ),
    _setting("top_k_instances", "Instances kept per frame.", limits=(1, 10_000)),
    _setting("num_threads", "CPU threads of torch; 0 leaves its own choice.", limits=(0, 1024)),
)

_BY_NAME = {parameter.name: parameter for parameter in PARAMETERS}


@dataclass(frozen=True)
class NodeParameters:
    """A consistent set of parameters.

    Attributes:
        checkpoint: Weights; auto for the best that there are.
        train_vocabulary: Source of the training vocabulary; empty for the checkpoint's own.
        vocabulary: A bundled vocabulary or a file alone, or the names of the classes; auto alone: the checkpoint's.
        stuff: Names that are stuff.
        background: What competes; see `fcclip_core.vocabulary.background`.
        publish_only: Names of the only classes that are published; empty for all.
        device: Where the model runs.
        backend: What runs it.
        precision: What the backend computes in.
        vanished_masks: What masks that vanish at stride 32 are pooled over.
        camera_size: Width and height to make ready for; None for none.
        cameras: Names of the cameras; one empty name for a node with one camera.
        max_batch: Frames that go through the network together at most.
        image_transport: raw or compressed.
        image_reliability: auto, reliable or best_effort.
        max_image_pixels: Pixels that an image may have.
        ignore_masks: File of the pixels that are never labeled, of each camera; empty for none.
        use_depth: Whether depth is used.
        depth_tolerance: Seconds between the stamps of an image and its depth at most.
        depth_wait: Seconds after its arrival that a frame may wait for its depth.
        image_rectified: Whether image and depth are rectified.
        depth_erosion: Pixels of each segment's rim whose depth is not used.
        autostart: Whether to configure and activate at start.
        publish_overlay_rate: Overlays per second at most.
        publish_embeddings: What ~/segments holds of the embeddings: nothing, float16 or float32.
        publish_contours: What ~/segments holds of the segments' pixels: nothing, polygons or rle.
        publish_masks: Classes that have a binary image each.
        track: Whether things keep their segment ids.
        track_lost_frames: Frames after which a thing out of sight is forgotten.
        track_votes: Whether tracked things are named by all their frames.
        settings: The inference settings.
    """

    checkpoint: str
    train_vocabulary: str
    vocabulary: tuple[str, ...]
    stuff: tuple[str, ...]
    background: tuple[str, ...]
    publish_only: tuple[str, ...]
    device: str
    backend: str
    precision: str
    vanished_masks: str
    camera_size: tuple[int, int] | None
    cameras: tuple[str, ...]
    max_batch: int
    image_transport: str
    image_reliability: str
    max_image_pixels: int
    ignore_masks: tuple[str, ...]
    use_depth: bool
    depth_tolerance: float
    depth_wait: float
    image_rectified: bool
    depth_erosion: int
    autostart: bool
    publish_overlay_rate: float
    publish_embeddings: str
    publish_contours: str
    publish_masks: tuple[str, ...]
    track: bool
    track_lost_frames: int
    track_votes: bool
    settings: InferenceSettings

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> NodeParameters:
        """Checks values of all parameters, alone and together.

        Raises:
            SettingsError: Naming the parameter, its value and what was expected.
        """
        values = {**values, "valid_mask_only": str(values["valid_mask_only"]).lower()}
        check_choices(PARAMETERS, values)
        check_contour_type(values["publish_contours"])
        settings = {name: values[name] for name in InferenceSettings.names()}
        settings["valid_mask_only"] = _VALID_MASK_ONLY[values["valid_mask_only"]]
        cameras = camera_names(values["cameras"])
        return cls(
            checkpoint=values["checkpoint"],
            train_vocabulary=values["train_vocabulary"],
            vocabulary=_names("vocabulary", values["vocabulary"]),
            stuff=_names("stuff", values["stuff"]),
            background=_names("background", values["background"]),
            publish_only=_names("publish_only", values["publish_only"]),
            device=values["device"],
            backend=values["backend"],
            precision=values["precision"],
            vanished_masks=values["vanished_masks"],
            camera_size=parse_size(values["camera_size"]) if values["camera_size"].strip() else None,
            cameras=cameras,
            max_batch=values["max_batch"],
            image_transport=values["image_transport"],
            image_reliability=values["image_reliability"],
            max_image_pixels=values["max_image_pixels"],
            ignore_masks=_ignore_masks(values["ignore_mask"], cameras),
            use_depth=values["use_depth"],
            depth_tolerance=values["depth_tolerance"],
            depth_wait=values["depth_wait"],
            image_rectified=values["image_rectified"],
            depth_erosion=values["depth_erosion"],
            autostart=values["autostart"],
            publish_overlay_rate=values["publish_overlay_rate"],
            publish_embeddings=values["publish_embeddings"],
            publish_contours=values["publish_contours"],
            publish_masks=tuple(mask_topics(_names("publish_masks", values["publish_masks"]))),
            track=values["track"],
            track_lost_frames=values["track_lost_frames"],
            track_votes=values["track_votes"],
            settings=InferenceSettings(**settings),
        )

    def load_ignore_masks(self) -> tuple[IgnoreMask | None, ...]:
        """Reads the cameras' ignore masks, in the order of the cameras; None for a camera without.

        Raises:
            ImageError: One cannot be read, ignores everything, or has another aspect ratio than camera_size.
        """
        masks = tuple(IgnoreMask(expanded(file, ImageError)) if file else None for file in self.ignore_masks)
        if self.camera_size is not None:
            width, height = self.camera_size
            for mask in filter(None, masks):
                mask.at(height, width)
        return masks

    @property
    def has_own_words(self) -> bool:
        """Whether the parameters name classes, and not those that the checkpoint was trained on."""
        return self.vocabulary != (AUTO,)

    def load_vocabulary(self, trained_on: Vocabulary | None = None) -> Vocabulary:
        """The vocabulary that the parameters name, with what stuff says of it; arguments and errors as `load_words`."""
        return self.load_words(trained_on).with_stuff(self.stuff)

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


def camera_names(value: Any) -> tuple[str, ...]:
    """Reads the parameter cameras.

    Returns:
        The cameras' names; one empty name where there are none.

    Raises:
        SettingsError: A name cannot be part of a topic's, or comes twice.
    """
    names = _names("cameras", value)
    for name in names:
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            raise SettingsError(
                f"cameras has {name!r}; a camera's name becomes part of topics (NAME/image), so it must consist of "
                "letters, digits and underscores and not begin with a digit"
            )
        if names.count(name) > 1:
            raise SettingsError(f"cameras has {name!r} twice; each camera needs a name of its own")
    return names or ("",)


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


def _ignore_masks(value: Any, cameras: Sequence[str]) -> tuple[str, ...]:
    """Reads the parameter ignore_mask: a file for each camera, empty for none.

    Raises:
        SettingsError: It is neither a text nor a list of texts, or there are not as many as cameras.
    """
    files = [value] if isinstance(value, str) else value if value is not None else []
    if not isinstance(files, Sequence) or not all(isinstance(file, str) for file in files):
        raise SettingsError(f"ignore_mask is {value!r}; it must be a text or a list of texts")
    files = tuple(file.strip() for file in files)
    if not any(files):
        return ("",) * len(cameras)
    if len(files) != len(cameras):
        raise SettingsError(
            f"ignore_mask has {len(files)} files for {len(cameras)} cameras; give a list with one for each, in their "
            'order, "" for a camera without'
        )
    return files


def _names(name: str, value: Any) -> tuple[str, ...]:
    """The texts that are not blank in a list, or in one text with semicolons between them; None is the empty list."""
    if value is None:
        return ()
    texts = value.split(";") if isinstance(value, str) else value
    if not isinstance(texts, Iterable) or not all(isinstance(text, str) for text in texts):
        raise SettingsError(f"{name} is {value!r}; it must be a text or a list of texts")
    return tuple(text.strip() for text in texts if text.strip())
