"""Stands in for tf2_ros where ROS comes from wheels: the same calls and exceptions, and tf2's rules of time.

A transform between two stamps is interpolated, linearly and by slerp. Outside of them, and beside a single one, tf2
refuses; static transforms hold at any time; ten seconds are kept.
"""

from __future__ import annotations

import bisect
from typing import Any

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from scipy.spatial.transform import Rotation, Slerp
from tf2_msgs.msg import TFMessage

_KEPT = 10_000_000_000


class TransformException(Exception):
    pass


class LookupException(TransformException):
    pass


class ConnectivityException(TransformException):
    pass


class ExtrapolationException(TransformException):
    pass


class InvalidArgumentException(TransformException):
    pass


class _Link:
    """Where a frame is in its parent, over time; a matrix `(4, 4)` takes its points to the parent."""

    def __init__(self, parent: str, static: bool) -> None:
        self.parent = parent
        self.static = static
        self._stamps: list[int] = []
        self._moves: list[np.ndarray] = []
        self._turns: list[Rotation] = []

    def add(self, stamp: int, move: np.ndarray, turn: Rotation) -> None:
        if self.static:
            self._stamps, self._moves, self._turns = [], [], []
        place = bisect.bisect(self._stamps, stamp)
        self._stamps.insert(place, stamp)
        self._moves.insert(place, move)
        self._turns.insert(place, turn)
        old = bisect.bisect_left(self._stamps, self._stamps[-1] - _KEPT)
        del self._stamps[:old], self._moves[:old], self._turns[:old]

    def at(self, stamp: int) -> np.ndarray:
        first, last = self._stamps[0], self._stamps[-1]
        if self.static or stamp == first:
            return _matrix(self._moves[0], self._turns[0])
        if first == last:
            raise ExtrapolationException(f"extrapolation at {stamp / 1e9:.6f}, only {first / 1e9:.6f} is known")
        if not first <= stamp <= last:
            into, end = ("future", last) if stamp > last else ("past", first)
            raise ExtrapolationException(
                f"extrapolation into the {into}: {stamp / 1e9:.6f} is asked for, the data end at {end / 1e9:.6f}"
            )
        place = bisect.bisect_left(self._stamps, stamp)
        one, two = self._stamps[place - 1 : place + 1]
        share = (stamp - one) / (two - one)
        move = (1 - share) * self._moves[place - 1] + share * self._moves[place]
        turn = Slerp([0, 1], Rotation.concatenate(self._turns[place - 1 : place + 1]))(share)
        return _matrix(move, turn)


class Buffer:
    def __init__(self) -> None:
        self._links: dict[str, _Link] = {}

    def set_transform(self, transform: TransformStamped, authority: str, static: bool = False) -> None:
        moved, turned = transform.transform.translation, transform.transform.rotation
        child, parent = (name.removeprefix("/") for name in (transform.child_frame_id, transform.header.frame_id))
        link = self._links.get(child)
        if link is None or (link.parent, link.static) != (parent, static):
            link = _Link(parent, static)
        turn = Rotation.from_quat([turned.x, turned.y, turned.z, turned.w])
        link.add(Time.from_msg(transform.header.stamp).nanoseconds, np.array([moved.x, moved.y, moved.z]), turn)
        self._links[child] = link

    def set_transform_static(self, transform: TransformStamped, authority: str) -> None:
        self.set_transform(transform, authority, static=True)

    def clear(self) -> None:
        # As tf2's, which keeps what is static.
        self._links = {child: link for child, link in self._links.items() if link.static}

    def can_transform(self, target_frame: str, source_frame: str, time: Time) -> bool:
        try:
            self.lookup_transform(target_frame, source_frame, time)
        except TransformException:
            return False
        return True

    def lookup_transform(self, target_frame: str, source_frame: str, time: Time) -> TransformStamped:
        links = dict(self._links)
        known = links.keys() | {link.parent for link in links.values()}
        for name in (target_frame, source_frame):
            if not name or name.startswith("/"):
                raise InvalidArgumentException(f"{name!r} is no valid frame")
            if name not in known:
                raise LookupException(f"{name!r} does not exist")
        above = _ancestors(target_frame, links)
        common = next((name for name in _ancestors(source_frame, links) if name in above), None)
        if common is None:
            raise ConnectivityException(f"{target_frame!r} and {source_frame!r} are not part of the same tree")
        # What is above both need not be known at that time.
        target, source = (_up_to(common, name, links, time.nanoseconds) for name in (target_frame, source_frame))
        found = np.linalg.inv(target) @ source
        message = TransformStamped(child_frame_id=source_frame)
        message.header.frame_id, message.header.stamp = target_frame, time.to_msg()
        place, turn = message.transform.translation, message.transform.rotation
        place.x, place.y, place.z = found[:3, 3].tolist()
        turn.x, turn.y, turn.z, turn.w = Rotation.from_matrix(found[:3, :3]).as_quat().tolist()
        return message


class TransformListener:
    def __init__(self, buffer: Any, node: Node) -> None:
        self._node = node
        self._buffer = buffer
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        group = ReentrantCallbackGroup()
        self._subscriptions = [
            node.create_subscription(TFMessage, "/tf", self._moving, 100, callback_group=group),
            node.create_subscription(TFMessage, "/tf_static", self._static, latched, callback_group=group),
        ]

    def unregister(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _moving(self, message: TFMessage) -> None:
        for transform in message.transforms:
            self._buffer.set_transform(transform, "default_authority")

    def _static(self, message: TFMessage) -> None:
        for transform in message.transforms:
            self._buffer.set_transform_static(transform, "default_authority")


def _ancestors(name: str, links: dict[str, _Link]) -> list[str]:
    chain = [name]
    while chain[-1] in links:
        chain.append(links[chain[-1]].parent)
    return chain


def _up_to(ancestor: str, name: str, links: dict[str, _Link], stamp: int) -> np.ndarray:
    matrix = np.eye(4)
    while name != ancestor:
        matrix, name = links[name].at(stamp) @ matrix, links[name].parent
    return matrix


def _matrix(move: np.ndarray, turn: Rotation) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn.as_matrix(), move
    return matrix
