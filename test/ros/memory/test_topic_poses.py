"""Poses from a topic: of a base with a camera's offset, with a covariance, as odometry."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
from geometry_msgs.msg import PoseWithCovariance, PoseWithCovarianceStamped
from memory_world import camera_pose, pose_message, stamp_of
from ros_harness import Peer, wait_until
from scipy.spatial.transform import Rotation
from std_msgs.msg import Header

from fcclip_core.errors import SettingsError
from fcclip_core.memory.observation import pose_covariance
from fcclip_ros.memory import poses as module
from fcclip_ros.memory.parameters import PARAMETERS, TF, MemoryParameters
from fcclip_ros.memory.pose_history import MissingPose
from fcclip_ros.memory.poses import TopicPoses, chosen_source, pose_message_type

DEFAULTS = {declaration.name: declaration.default for declaration in PARAMETERS}
VARIANCES = [0.01, 0.02, 0.0, 0.0, 0.0, 0.04]


@pytest.fixture
def listener() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


def base(x: float, yaw: float) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3], pose[0, 3] = Rotation.from_euler("z", yaw).as_matrix(), x
    return pose


def with_covariance(pose: np.ndarray) -> PoseWithCovariance:
    return PoseWithCovariance(pose=pose_message(pose), covariance=np.diag(VARIANCES).ravel())


def started(listener: Peer, **given: object) -> TopicPoses:
    parameters = MemoryParameters.from_values({**DEFAULTS, **given})
    source = TopicPoses(listener.node, "pose")
    source.start(parameters, parameters.offset_of(0))
    return source


def found(source: TopicPoses, seconds: float) -> module.CameraPose:
    def attempt() -> module.CameraPose | None:
        try:
            return source.find(Header(stamp=stamp_of(seconds), frame_id="camera"), time.monotonic())
        except MissingPose:
            return None

    return wait_until(attempt)


def test_a_camera_ahead_of_its_base_has_the_pose_and_the_uncertainty_at_its_end(listener: Peer, peer: Peer) -> None:
    source = started(
        listener, pose_type="PoseWithCovarianceStamped", camera_offset="0.5 0 0.3 -1.5707963268 0 -1.5707963268"
    )
    publisher = peer.node.create_publisher(PoseWithCovarianceStamped, "pose", 10)
    wait_until(lambda: peer.node.count_subscribers("pose"))
    header = Header(stamp=stamp_of(10.0), frame_id="map")
    message = PoseWithCovarianceStamped(header=header, pose=with_covariance(base(2.0, 0.0)))

    def sent() -> bool:
        publisher.publish(message)
        time.sleep(0.02)
        return len(source._history) > 0

    wait_until(sent)
    pose = found(source, 10.0)
    expected = camera_pose(2.5)
    np.testing.assert_allclose(pose.matrix, expected, atol=1e-9)
    # Half a meter ahead, 0.04 rad^2 about z is 0.25 * 0.04 m^2 sideways, and correlated with the turn.
    np.testing.assert_allclose(np.diag(pose.covariance), [0.01, 0.02 + 0.01, 0, 0, 0, 0.04], atol=1e-12)
    assert pose.covariance[1, 5] == pytest.approx(0.5 * 0.04)
    np.testing.assert_allclose(pose.base_from_camera @ [0, 0, 1, 1], [1.5, 0, 0.3, 1], atol=1e-9)
    source.apply(MemoryParameters.from_values({**DEFAULTS, "use_pose_covariance": False}))
    lever = found(source, 10.0).covariance
    assert lever[0, 0] == pytest.approx(pose_covariance()[0, 0] + 0.3**2 * pose_covariance()[4, 4])


def test_odometry_is_read_where_its_messages_are_installed(listener: Peer, peer: Peer, nav_msgs: ModuleType) -> None:
    source = started(listener, pose_type="Odometry", map_frame="odom")
    publisher = peer.node.create_publisher(nav_msgs.Odometry, "pose", 10)
    for seconds, x in ((10.0, 0.0), (10.2, 1.0)):
        header = Header(stamp=stamp_of(seconds), frame_id="odom")
        message = nav_msgs.Odometry(header=header, pose=with_covariance(base(x, 0.0)))

        def sent(stamp: int = round(seconds * 1e9), message: object = message) -> bool:
            publisher.publish(message)
            time.sleep(0.02)
            return source._history.newest == stamp

        wait_until(sent)
    pose = found(source, 10.1)
    assert pose.matrix[0, 3] == pytest.approx(0.5) and pose.base_from_camera is None
    np.testing.assert_allclose(np.diag(pose.covariance), VARIANCES)


def test_what_is_not_installed_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "optional_module", lambda name: None)
    with pytest.raises(SettingsError, match="pose_type is Odometry, but nav_msgs is not installed; install"):
        pose_message_type("Odometry")
    with pytest.raises(SettingsError, match="pose_source is tf, but tf2_ros is not installed"):
        chosen_source(TF)
    assert chosen_source("auto") == (
        "topic",
        "tf2_ros is not installed: the cameras' poses are read from the topic pose",
    )
