"""The parameters of the node `object_memory`: what they mean, their ranges, and which may change while it works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from fcclip_core.errors import SettingsError
from fcclip_core.geometry.transform import rigid_matrix
from fcclip_core.memory.settings import MemorySettings
from fcclip_core.quoting import short
from fcclip_core.settings import AUTO, settings_of
from fcclip_ros.conversions.frame_ids import check_frame_id
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
from fcclip_ros.node.image_input import COMPRESSED, RAW
from fcclip_ros.qos import RELIABILITIES

TF, TOPIC = "tf", "topic"

POSE_TYPES = ("PoseStamped", "PoseWithCovarianceStamped", "Odometry")


def _frame(name: str, value: str) -> str:
    if not value:
        raise SettingsError(f"{name} is empty; expected the name of a frame, such as map")
    return check_frame_id(name, value)


def _offsets(name: str, value: Any) -> tuple[np.ndarray, ...]:
    return tuple(_offset(name, text) for text in read_texts(name, value))


def _offset(name: str, text: str) -> np.ndarray:
    """A transform `(4, 4)` from "x y z roll pitch yaw" or "x y z qx qy qz qw"."""
    expected = '"x y z roll pitch yaw" in meters and radians, or "x y z qx qy qz qw"'
    try:
        values = np.array([float(word) for word in text.replace(",", " ").split()])
    except ValueError:
        raise SettingsError(f"{name} is {short(text)}; expected {expected}") from None
    if len(values) not in (6, 7) or not np.isfinite(values).all() or (len(values) == 7 and not values[3:].any()):
        raise SettingsError(f"{name} is {short(text)}; expected {expected}")
    # As tf2 composes roll, pitch and yaw: about the fixed axes x, y, z in this order.
    turn = Rotation.from_euler("xyz", values[3:]) if len(values) == 6 else Rotation.from_quat(values[3:])
    return rigid_matrix(turn.as_matrix(), values[:3])


@dataclass(frozen=True)
class MemoryParameters:
    """A consistent set of parameters: each field says what it is declared with.

    Attributes:
        settings: The memory's settings, each of which is a parameter of its own.
    """

    perception_node: str = declared(
        "fcclip",
        "Name of the perception node, from this node's namespace: segments and vocabularies are read from its topics, "
        "words are embedded by its service",
        read_only=True,
    )
    cameras: tuple[str, ...] = declared(
        [""],
        "Names of several cameras, as the parameter of the perception node: each reads `NAME/depth`, "
        "`NAME/camera_info`, `NAME/image` and `NAME/pose`; empty: one camera, `depth` and so on",
        read=lambda _, value: camera_names(value),
        any_type=True,
        read_only=True,
    )
    file: str = declared(
        "",
        "File in which the objects are kept, one for each map; it is created if it is not there; empty: a restart "
        "forgets all",
    )
    map_frame: str = declared("map", "Frame of the objects' positions, z up", read=_frame)
    pose_source: str = declared(
        AUTO,
        "Where the cameras' poses come from: tf, the topic `pose`, or auto: tf where tf2_ros is installed, else the "
        "topic",
        choices=(AUTO, TF, TOPIC),
    )
    pose_type: str = declared(
        "PoseStamped", "Type of the messages on `pose`; Odometry needs nav_msgs", choices=POSE_TYPES
    )
    camera_offset: tuple[np.ndarray, ...] = declared(
        "0 0 0 0 0 0",
        "With poses from a topic: the camera's optical frame (x right, y down, z forward) in the frame whose pose is "
        'published, as "x y z roll pitch yaw" in meters and radians or "x y z qx qy qz qw"; for several cameras a list',
        read=_offsets,
        any_type=True,
    )
    pose_wait: float = declared(
        0.2,
        "Longest time after its arrival that a frame waits for its pose, in seconds",
        limits=(0.0, 5.0),
        live=True,
    )
    pose_translation_std: float = declared(
        0.02, "Standard deviation of a camera's position in the map, in meters", limits=(0.0, 10.0), live=True
    )
    pose_rotation_std: float = declared(
        0.01, "Standard deviation of a camera's rotation in the map, in radians", limits=(0.0, 3.0), live=True
    )
    use_pose_covariance: bool = declared(
        True, "Use the covariance of pose messages that have one, in place of the standard deviations", live=True
    )
    base_frame: str = declared(
        "base_link",
        "Frame of the robot's base on /tf, to make goals for it of camera poses; empty: goals are camera positions",
        read=check_frame_id,
    )
    odom_frame: str = declared(
        "odom",
        "With tf: frame that does not jump; a jump of the map against it is noticed; empty: not watched",
        read=check_frame_id,
    )
    jump_distance: float = declared(
        0.3,
        "Change of the transform from odom_frame to map_frame between two frames that counts as a jump, in meters",
        limits=(0.001, 100.0),
        live=True,
    )
    jump_angle: float = declared(0.1, "Likewise, in radians; the first of both counts", limits=(0.001, 3.2), live=True)
    path_topic: str = declared(
        "",
        "Topic of the poses of keyframes (nav_msgs/Path, in map_frame, each with its stamp): objects follow them when "
        "they are corrected; empty: objects keep their places in the map",
    )
    use_depth: bool = declared(True, "Subscribe to `depth`, which shows what is no longer there")
    depth_transport: str = depth_parameters.depth_transport()
    depth_tolerance: float = depth_parameters.depth_tolerance()
    depth_wait: float = declared(
        0.1, "Longest time after its arrival that a frame waits for its depth, in seconds", limits=(0.0, 1.0), live=True
    )
    image_rectified: bool = depth_parameters.image_rectified()
    image_transport: str = declared(
        RAW,
        "raw reads `image`, compressed reads `image/compressed`, for the objects' pictures; neither with crop_side 0",
        choices=(RAW, COMPRESSED),
    )
    image_reliability: str = declared(
        AUTO,
        "Reliability of the subscriptions; auto: reliable if every publisher is, else best effort",
        choices=RELIABILITIES,
    )
    background: tuple[str, ...] = declared(
        AUTO,
        "Hidden competitors of a question's words: a bundled vocabulary, a file, or names; auto: those of the "
        "perception node; none: nothing",
        read=read_names,
        any_type=True,
    )
    autostart: bool = declared(True, "Configure and activate at start; otherwise a lifecycle manager does")
    publish_rate: float = declared(
        1.0,
        "Most messages with all objects per second, sent when something has changed",
        limits=(0.01, 30.0),
        live=True,
    )
    publish_limit: int = declared(
        1000, "Most objects in a message, those that were seen last", limits=(1, 100_000), live=True
    )
    publish_embeddings: bool = declared(False, "Whether ~/objects has the objects' CLIP embeddings", live=True)
    settings: MemorySettings = field(default_factory=MemorySettings)

    def __post_init__(self) -> None:
        """Checks what depends on several parameters.

        Raises:
            SettingsError: There is not one offset, nor as many as cameras.
        """
        if len(self.camera_offset) not in (1, len(self.cameras)):
            raise SettingsError(
                f"camera_offset has {len(self.camera_offset)} offsets for {len(self.cameras)} cameras; give one for "
                "each, in their order, or one for all"
            )

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> MemoryParameters:
        """Checks values of all parameters, alone and together.

        Raises:
            SettingsError: Naming the parameter, its value and what was expected.
        """
        check_choices(PARAMETERS, values)
        settings = MemorySettings(**{name: values[name] for name in settings_of(MemorySettings)})
        return cls(**read_declared(cls, values), settings=settings)

    @classmethod
    def defaults(cls) -> MemoryParameters:
        """What the parameters are declared with."""
        return cls.from_values({declaration.name: declaration.default for declaration in PARAMETERS})

    def offset_of(self, camera: int) -> np.ndarray:
        """float64 `(4, 4)`, from the optical frame of a camera, by its number in `cameras`, to that of the poses."""
        return self.camera_offset[camera if len(self.camera_offset) > 1 else 0]


PARAMETERS: tuple[Declaration, ...] = (
    *declarations_of(MemoryParameters),
    *(
        Declaration(name, item.default, f"{about.sentence}.", limits=about.span, choices=about.choices)
        for name, (item, about) in settings_of(MemorySettings).items()
    ),
)


def check_change(values: Mapping[str, Any], changes: Mapping[str, Any], lifecycle: str) -> MemoryParameters:
    """Decides whether parameters may change; arguments as for `require_changeable`.

    Raises:
        SettingsError: A value is wrong, alone or together with the others, or may not change now.
    """
    changes = {name: value for name, value in changes.items() if name in values}
    require_changeable(PARAMETERS, values, changes, lifecycle)
    return MemoryParameters.from_values({**values, **changes})
