"""When a frame waits for its transform, and what is said without one: frames by hand, on tf2's buffer."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from broadcaster import MOUNTED, transform_message
from depth_camera import stamp_of
from std_msgs.msg import Header

from fcclip_core.errors import SettingsError
from fcclip_core.geometry.camera import PinholeCamera
from fcclip_ros.conversions.frame import FrameDepth
from fcclip_ros.node import parameters, target_frame, transforms
from fcclip_ros.node.parameters import PARAMETERS, NodeParameters
from fcclip_ros.node.target_frame import TargetFrame
from fcclip_ros.node.transforms import Lookup, MissingTransform, Transforms

DEPTH = FrameDepth(np.ones((4, 6), np.float32), PinholeCamera(6, 4, 5.0, 5.0, 2.5, 1.5))
FOREVER = 60.0


class Node:
    """As much of a node as transforms need; tests are the executor."""

    def __init__(self) -> None:
        self.subscribed: dict[str, Callable[[Any], None]] = {}
        self.jumps: list[Callable[[Any], None]] = []

    def create_guard_condition(self, callback: Callable[[], None]) -> Any:
        return SimpleNamespace(trigger=callback)

    def get_clock(self) -> Any:
        def on_jump(threshold: Any, *, post_callback: Callable[[Any], None]) -> Any:
            self.jumps.append(post_callback)
            return SimpleNamespace(unregister=lambda: self.jumps.remove(post_callback))

        return SimpleNamespace(create_jump_callback=on_jump)

    def create_subscription(self, kind: type, topic: str, callback: Callable[[Any], None], *_: Any, **__: Any) -> str:
        self.subscribed[topic] = callback
        return topic

    def destroy_subscription(self, topic: str) -> bool:
        return self.subscribed.pop(topic, None) is not None


class Robot:
    """A TargetFrame odom, on transforms that tests broadcast, and the warnings."""

    def __init__(self, tf2_msgs: ModuleType) -> None:
        self._messages = tf2_msgs
        self.node = Node()
        self.transforms = Transforms(self.node)  # type: ignore[arg-type]
        self.transforms.need(True)
        self.said: list[str] = []
        logger = SimpleNamespace(warning=lambda text, **_: self.said.append(text))
        self.frame = TargetFrame(self.transforms, logger)
        self.frame.name, self.frame.patience = "odom", FOREVER

    def drives_to(self, x: float, stamp: float, child: str = "camera") -> None:
        message = transform_message("odom", child, ((x, 0, 0), (0, 0, 0, 1)), stamp_of(stamp))
        self.node.subscribed["/tf"](self._messages.TFMessage(transforms=[message]))

    def place(self, stamp: float, arrived: float | None = None, frame_id: str = "camera") -> FrameDepth | None:
        arrived = target_frame.time.monotonic() if arrived is None else arrived
        return self.frame.place(DEPTH, Header(frame_id=frame_id, stamp=stamp_of(stamp)), arrived)

    def x(self, depth: FrameDepth | None) -> float:
        assert depth is not None and depth.transform is not None and depth.frame_id == "odom"
        return float(depth.transform.translation[0])

    @property
    def problem(self) -> str:
        state = self.frame.state()
        assert state is not None
        return state.problem


@pytest.fixture
def robot(tf2_ros: ModuleType, tf2_msgs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Robot:
    monkeypatch.setattr(target_frame, "_DISCOVERY_TIME", 0.0)
    return Robot(tf2_msgs)


def test_between_two_transforms_a_third_is_interpolated(robot: Robot) -> None:
    robot.drives_to(1.0, 10.0), robot.drives_to(3.0, 10.2)
    assert robot.x(robot.place(10.1)) == pytest.approx(2.0)
    assert robot.x(robot.place(10.05)) == pytest.approx(1.5)
    assert robot.x(robot.place(10.2)) == pytest.approx(3.0)
    assert (robot.frame.state().found, robot.frame.state().missed, robot.said) == (3, 0, [])


def test_a_frame_waits_until_its_transform_arrives(robot: Robot) -> None:
    robot.drives_to(1.0, 10.0)
    driver = threading.Timer(0.05, robot.drives_to, (3.0, 10.2))
    driver.start()
    assert robot.x(robot.place(10.1)) == pytest.approx(2.0)
    driver.join()


def test_a_frame_that_took_long_waits_no_more(robot: Robot) -> None:
    """`FOREVER` after its arrival is over: a wait would not end."""
    robot.drives_to(1.0, 10.0)
    assert robot.place(10.1, arrived=target_frame.time.monotonic() - FOREVER) is None
    assert "extrapolation" in robot.problem and "raise transform_wait" in robot.problem
    assert (robot.frame.state().found, robot.frame.state().missed, len(robot.said)) == (0, 1, 1)


def test_after_a_wait_in_vain_none_waits_until_waiting_would_have_helped(robot: Robot) -> None:
    robot.drives_to(1.0, 10.0)
    robot.frame.patience = 0.01
    assert robot.place(10.1) is None
    robot.frame.patience = FOREVER
    assert robot.place(10.2) is None, "and at once"
    robot.drives_to(3.0, 10.25)
    driver = threading.Timer(0.05, robot.drives_to, (5.0, 10.5))
    driver.start()
    assert robot.x(robot.place(10.5)) == pytest.approx(5.0)
    driver.join()


def test_a_transform_that_comes_too_late_for_its_frame_is_no_reason_to_wait(robot: Robot) -> None:
    robot.drives_to(1.0, 10.0)
    robot.frame.patience = 0.01
    assert robot.place(10.1) is None
    assert robot.place(10.2) is None
    threading.Event().wait(0.02)
    robot.drives_to(3.0, 10.3)
    robot.frame.patience = FOREVER
    assert robot.place(10.4) is None, "and at once"


@pytest.mark.parametrize(
    ("frame_id", "stamp", "reason"),
    [
        ("kitchen", 10.0, "check target_frame and the broadcasters"),
        ("", 10.0, "the image has an empty frame_id; set it in the driver"),
        ("camera", 0.0, "the image has the stamp 0; set it in the driver"),
        ("camera", 9.0, "xtrapolation"),
    ],
)
def test_without_a_transform_the_reason_is_told(robot: Robot, frame_id: str, stamp: float, reason: str) -> None:
    robot.drives_to(1.0, 10.0), robot.drives_to(3.0, 10.2)
    assert robot.place(stamp, arrived=-FOREVER, frame_id=frame_id) is None
    assert f"there is no transform from {frame_id!r} to 'odom': " in robot.problem and reason in robot.problem
    assert robot.said == [f"3D outputs of a frame are left out: {robot.problem}"]


def test_the_first_seconds_are_not_warned_about(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the broadcasters are discovered, each start would."""
    monkeypatch.setattr(target_frame, "_DISCOVERY_TIME", math.inf)
    robot.frame.start()
    assert robot.place(10.0, arrived=-FOREVER) is None
    assert (robot.said, robot.frame.state().missed) == ([], 1)


def test_a_leading_slash_of_an_old_driver_is_forgiven(robot: Robot) -> None:
    robot.drives_to(1.0, 10.0)
    assert robot.x(robot.place(10.0, frame_id="/camera")) == 1.0


def test_the_cameras_own_frame_needs_no_transform(robot: Robot) -> None:
    robot.frame.name = "camera"
    placed = robot.place(10.0)
    assert placed is not None and (placed.frame_id, placed.transform) == ("camera", None)


def test_without_a_target_frame_nothing_changes(robot: Robot) -> None:
    robot.frame.name = ""
    assert robot.place(10.0) is DEPTH
    assert robot.frame.state() is None


def test_static_transforms_hold_at_any_time(robot: Robot, tf2_msgs: ModuleType) -> None:
    robot.drives_to(1.0, 10.0, child="base_link"), robot.drives_to(3.0, 10.2, child="base_link")
    mounted = transform_message("base_link", "camera", MOUNTED)
    robot.node.subscribed["/tf_static"](tf2_msgs.TFMessage(transforms=[mounted]))
    placed = robot.place(10.1)
    assert placed is not None and placed.transform is not None
    # 1 m ahead of the camera, which is 2 m ahead and 0.3 m up.
    np.testing.assert_allclose(placed.transform.apply(np.array([0.0, 0.0, 1.0])), [3.0, 0.0, 0.3], atol=1e-9)


def test_a_jump_back_in_time_forgets_what_moved(robot: Robot) -> None:
    """A bag that starts again has its stamps again."""
    robot.drives_to(1.0, 10.0)
    robot.node.jumps[0](None)
    assert robot.place(10.0, arrived=-FOREVER) is None
    robot.drives_to(7.0, 10.0)
    assert robot.x(robot.place(10.0)) == 7.0


def test_transforms_are_received_only_while_they_are_needed(robot: Robot) -> None:
    assert set(robot.node.subscribed) == {"/tf", "/tf_static"}
    robot.transforms.need(False)
    assert not robot.node.subscribed and not robot.node.jumps
    with pytest.raises(MissingTransform, match="no transform has been received yet"):
        robot.transforms.find(Lookup("odom", "camera", 1, 0.0), wait=True)
    robot.transforms.need(True)
    robot.drives_to(1.0, 10.0)
    assert robot.x(robot.place(10.0)) == 1.0


def test_a_node_that_stops_waits_no_more(robot: Robot) -> None:
    robot.drives_to(1.0, 10.0)
    stop = threading.Timer(0.05, robot.transforms.need, (False,))
    stop.start()
    assert robot.place(10.1) is None
    stop.join()


def test_without_tf2_a_target_frame_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "optional_module", lambda name: None)
    values = {parameter.name: parameter.default for parameter in PARAMETERS}
    assert NodeParameters.from_values(values).target_frame == ""
    for lifecycle in ("unconfigured", "active"):
        with pytest.raises(SettingsError, match=r"^target_frame needs tf2_ros, which is not installed; install ros-"):
            parameters.check_change(values, {"target_frame": "map"}, lifecycle)
