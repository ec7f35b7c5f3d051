"""Transforms on /tf: subscriptions, and look-ups at the stamps of images, which may wait for a transform."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time

from fcclip_core.errors import DepthError, SettingsError
from fcclip_core.geometry.transform import RigidTransform
from fcclip_ros.compat import optional_module
from fcclip_ros.conversions.messages_3d import transform_from_message
from fcclip_ros.conversions.stamps import nanoseconds

_BACKWARD = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True)
"""Jumps of simulated time after which earlier transforms are invalid, for example when a bag starts again."""

_NOT_RECEIVED = "no transform has been received yet on /tf and /tf_static"


def check_tf2() -> None:
    """Checks that transforms can be received.

    Raises:
        SettingsError: tf2_ros cannot be imported.
    """
    if optional_module("tf2_ros") is None:
        raise SettingsError(
            "target_frame needs tf2_ros, which is not installed; install ros-$ROS_DISTRO-tf2-ros-py (there is no wheel "
            "of it), or leave target_frame empty: then 3D outputs are in the frame of the images"
        )


class MissingTransform(Exception):
    """Why there is no transform, in tf2's words, and what to do."""


@dataclass(frozen=True)
class Lookup:
    """A look-up of a transform.

    Attributes:
        target: The frame to transform to.
        source: The frame to transform from.
        stamp: Time of the transform, nanoseconds.
        deadline: Monotonic time until which it may be waited for, seconds.
    """

    target: str
    source: str
    stamp: int
    deadline: float


def frame_of(header: Any) -> str:
    """The frame of an image as tf2 takes it.

    Raises:
        MissingTransform: The header has no frame, or no stamp, so that no transform can be looked up.
    """
    # Drivers from the time before tf2 begin it with a slash, which tf2 refuses.
    frame: str = header.frame_id.lstrip("/")
    if not frame:
        raise MissingTransform("the image has an empty frame_id; set it in the driver")
    if nanoseconds(header.stamp) == 0:  # For tf2 it means the latest transform.
        raise MissingTransform("the image has the stamp 0; set it in the driver")
    return frame


class Transforms:
    """The transforms of the last ten seconds, received while they are needed; shared by the cameras of a node.

    Subscriptions are created and destroyed in the executor, as those of `QosMatchingSubscription`.
    """

    def __init__(self, node: Node, frame: str = "target_frame", wait: str = "transform_wait") -> None:
        """Does not subscribe yet.

        Args:
            node: The node.
            frame: Its parameter that names the frame to transform to, for the advice in messages.
            wait: Likewise, the parameter that says how long transforms are waited for.
        """
        self._node = node
        self._frame_parameter = frame
        self._wait_parameter = wait
        self._needed = False
        self._tf2: Any = None
        self._buffer: Any = None
        self._listener: Any = None
        self._jumps: Any = None
        self._late: dict[object, tuple[Lookup, Callable[[], None]]] = {}
        self._changed = threading.Condition()
        self._guard = node.create_guard_condition(self._update)

    def need(self, needed: bool) -> None:
        """Subscribes to /tf and /tf_static, or unsubscribes."""
        self._needed = needed
        self._guard.trigger()

    def destroy(self) -> None:
        """Unsubscribes at once; for a node that no executor serves any more."""
        self._needed = False
        self._update()

    def find(self, lookup: Lookup, *, wait: bool) -> RigidTransform:
        """Returns a transform; a wait ends early where transforms are no longer received.

        Args:
            lookup: The look-up.
            wait: Wait for it until the deadline.

        Raises:
            MissingTransform: It is not available.
        """
        with self._changed:
            while True:
                try:
                    return self._find(lookup)
                except MissingTransform:
                    seconds = lookup.deadline - time.monotonic()
                    if not wait or seconds <= 0 or self._buffer is None:
                        raise
                self._changed.wait(seconds)

    def clear(self) -> None:
        """Forgets all moving transforms, after their clock jumped back."""
        with self._changed:
            if self._buffer is not None:
                self._buffer.clear()

    def notify(self, key: object, lookup: Lookup, arrived: Callable[[], None]) -> None:
        """Calls `arrived` in the executor if a missing transform arrives before its deadline.

        Args:
            key: Only the latest request of a key counts.
            lookup: The look-up.
            arrived: Must neither block nor raise.
        """
        with self._changed:
            self._late[key] = lookup, arrived

    # With the lock held

    def _find(self, lookup: Lookup) -> RigidTransform:
        if self._buffer is None:
            raise MissingTransform(f"{_NOT_RECEIVED}; is a broadcaster running?")
        try:
            message = self._buffer.lookup_transform(lookup.target, lookup.source, Time(nanoseconds=lookup.stamp))
            return transform_from_message(message)
        except (self._tf2.TransformException, DepthError) as error:
            reason = str(error).strip().rstrip(".")
            raise MissingTransform(f"{reason or type(error).__name__}; {self._advice(error)}") from None

    def _advice(self, error: Exception) -> str:
        if isinstance(error, self._tf2.ExtrapolationException):
            return (
                f"raise {self._wait_parameter}, or check the rate of the broadcaster and that its clock is that of the "
                "camera"
            )
        if isinstance(error, (self._tf2.LookupException, self._tf2.ConnectivityException)):
            return f"check {self._frame_parameter} and the broadcasters: ros2 run tf2_tools view_frames"
        return f"check {self._frame_parameter} and the frame_id of the images"

    # In the executor

    def _update(self) -> None:
        if self._needed == (self._listener is not None):
            return
        if not self._needed:
            self._listener.unregister()
            self._jumps.unregister()
            with self._changed:
                self._buffer = self._listener = self._jumps = None
                self._late.clear()
                self._changed.notify_all()
            return
        tf2 = optional_module("tf2_ros")
        if tf2 is None:  # Checked when the parameter was set.
            return
        buffer = tf2.Buffer()
        with self._changed:
            self._tf2, self._buffer = tf2, buffer
        # Not Buffer(node=...), which would offer a service of its own.
        self._jumps = self._node.get_clock().create_jump_callback(_BACKWARD, post_callback=lambda _: buffer.clear())
        self._listener = tf2.TransformListener(_Feed(buffer, self._arrived), self._node)

    def _arrived(self) -> None:
        with self._changed:
            self._changed.notify_all()
            now = time.monotonic()
            for key, (lookup, arrived) in list(self._late.items()):
                available = self._buffer is not None and self._buffer.can_transform(
                    lookup.target, lookup.source, Time(nanoseconds=lookup.stamp)
                )
                if available and now <= lookup.deadline:
                    arrived()
                if available or now > lookup.deadline:
                    del self._late[key]


class PatientLookup:
    """Looks up transforms for one stream of images; those that are late are waited for.

    Unless waiting was in vain the last time and would have been since: a stream whose transforms are missing is not
    held up.
    """

    def __init__(self, transforms: Transforms) -> None:
        """Waits the first time."""
        self._transforms = transforms
        self._should_wait = True

    def restart(self) -> None:
        """Waits again."""
        self._should_wait = True

    def find(self, lookup: Lookup) -> RigidTransform:
        """Returns a transform.

        Raises:
            MissingTransform: It is not available.
        """
        wait = self._should_wait
        try:
            return self._transforms.find(lookup, wait=wait)
        except MissingTransform:
            self._should_wait = False
            if not wait:
                self._transforms.notify(self, lookup, self.restart)
            raise


class _Feed:
    """What a `tf2_ros.TransformListener` fills: a buffer, whose waiting readers are woken."""

    def __init__(self, buffer: Any, arrived: Callable[[], None]) -> None:
        self._buffer = buffer
        self._arrived = arrived

    def set_transform(self, transform: Any, authority: str) -> None:
        self._buffer.set_transform(transform, authority)
        self._arrived()

    def set_transform_static(self, transform: Any, authority: str) -> None:
        self._buffer.set_transform_static(transform, authority)
        self._arrived()
