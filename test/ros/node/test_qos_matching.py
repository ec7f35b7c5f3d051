"""Subscriptions: the topic that the rules say, what its publishers offer, and a word where nothing fits."""

from __future__ import annotations

import queue
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_harness import Peer, drain, flat_image, publish_until, rgb_message, wait_until
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from fcclip_ros.conversions.frame_ids import compare_frames
from fcclip_ros.node.depth_input import DepthInput
from fcclip_ros.node.image_input import ImageInput
from fcclip_ros.node.info_input import InfoInput
from fcclip_ros.node.qos_matching import QosMatchingSubscription, type_name
from fcclip_ros.qos import LATCHED, OUTPUT, choose_durability

LOCAL, VOLATILE = DurabilityPolicy.TRANSIENT_LOCAL, DurabilityPolicy.VOLATILE


@pytest.fixture
def start() -> Iterator[Callable[..., Peer]]:
    """Starts a node that subscribes, with remapping rules."""
    hosts: list[Peer] = []

    def start(*rules: str, **options: Any) -> Peer:
        args = ["--ros-args", *(part for rule in rules for part in ("-r", rule))]
        hosts.append(Peer(lambda **context: Node("reader", **context, **options), args))
        return hosts[-1]

    yield start
    for host in hosts:
        host.close()


def read(host: Peer, name: str, transport: str = "raw") -> tuple[ImageInput, queue.Queue]:
    heard: queue.Queue = queue.Queue()
    subscription = ImageInput(host.node, name, heard.put)
    subscription.start(transport, "auto")
    wait_until(lambda: subscription.describe() != "not subscribed")
    return subscription, heard


CROSSED = ("left/image:=/right/image", "right/image:=/left/image")


@pytest.mark.parametrize(
    ("rules", "name", "topic"),
    [
        (CROSSED, "left/image", "/right/image"),
        (CROSSED, "right/image", "/left/image"),
        (("image:=/a", "/a:=/b"), "image", "/a"),
        (("image:=/a", "a:=/b", "b:=/c"), "image", "/a"),
        (("__ns:=/robot", "image:=front"), "image", "/robot/front"),
        (("__ns:=/robot", "image:=~/front"), "image", "/robot/reader/front"),
        (("rostopic://image:=/front",), "image", "/front"),
        (("other:image:=/front",), "image", "/image"),
        (("reader:image:=/front",), "image", "/front"),
    ],
)
def test_a_name_is_remapped_once(start: Callable[..., Peer], rules: tuple[str, ...], name: str, topic: str) -> None:
    host = start(*rules)
    subscription, _ = read(host, name)
    assert subscription.describe() == f"{topic}, best_effort, 0 publishers"
    assert [
        name
        for name, _ in host.node.get_subscriber_names_and_types_by_node(host.node.get_name(), host.node.get_namespace())
    ] == [topic]


@pytest.mark.parametrize(
    ("rules", "topic"),
    [
        (CROSSED, "/right/image/compressed"),
        ((*CROSSED, "left/image/compressed:=/x/compressed"), "/x/compressed"),
        (
            (
                *CROSSED,
                "left/image/compressed:=/right/image/compressed",
                "right/image/compressed:=/left/image/compressed",
            ),
            "/right/image/compressed",
        ),
        ((), "/left/image/compressed"),
        (("left/image:=/a", "/a/compressed:=/b"), "/b"),
    ],
)
def test_compressed_images_move_with_the_raw_ones_once(
    start: Callable[..., Peer], rules: tuple[str, ...], topic: str
) -> None:
    subscription, _ = read(start(*rules), "left/image", "compressed")
    assert subscription.describe() == f"{topic}, best_effort, 0 publishers"


def test_two_cameras_given_crosswise_hear_each_their_own(start: Callable[..., Peer], peer: Peer) -> None:
    host = start(*CROSSED)
    heard = {name: read(host, f"{name}/image")[1] for name in ("left", "right")}
    for topic, camera in (("/right/image", "left"), ("/left/image", "right")):
        publisher = peer.node.create_publisher(Image, topic, OUTPUT)
        message = rgb_message(flat_image(), frame_id=topic)
        publish_until(publisher, message, lambda camera=camera: not heard[camera].empty())
    assert heard["left"].get().header.frame_id == "/right/image"
    assert heard["right"].get().header.frame_id == "/left/image"


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ((), VOLATILE),
        ((LOCAL,), LOCAL),
        ((LOCAL, LOCAL), LOCAL),
        ((LOCAL, VOLATILE), VOLATILE),
        ((VOLATILE,), VOLATILE),
    ],
)
def test_durability_follows_the_publishers(offered: tuple, chosen: DurabilityPolicy) -> None:
    assert choose_durability(offered) == chosen


@pytest.mark.parametrize("kind", [CameraInfo, Image])
@pytest.mark.parametrize("first", ["publisher", "subscriber"])
def test_a_latched_message_is_heard(start: Callable[..., Peer], peer: Peer, kind: type, first: str) -> None:
    host, heard = start(), queue.Queue()
    following = QosMatchingSubscription(host.node, heard.put, "messages")
    if first == "subscriber":
        following.start(kind, "latched", "auto")
        wait_until(lambda: following.describe() == "/latched, best_effort, 0 publishers")
    peer.node.create_publisher(kind, "/latched", LATCHED).publish(kind())
    if first == "publisher":
        following.start(kind, "latched", "auto")
    heard.get(timeout=20)
    wait_until(lambda: following.describe() == "/latched, reliable, transient_local, 1 publisher")


def test_a_latched_publisher_beside_a_volatile_one_does_not_silence_it(start: Callable[..., Peer], peer: Peer) -> None:
    host, heard = start(), queue.Queue()
    QosMatchingSubscription(host.node, heard.put, "messages").start(CameraInfo, "info", "auto")
    latched = peer.node.create_publisher(CameraInfo, "/info", LATCHED)
    volatile = peer.node.create_publisher(
        CameraInfo, "/info", QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
    )
    latched.publish(CameraInfo(distortion_model="latched"))
    message = CameraInfo(distortion_model="volatile")
    publish_until(volatile, message, lambda: any(item.distortion_model == "volatile" for item in drain(heard)))


@pytest.mark.parametrize(
    ("transport", "topic", "kind", "says"),
    [
        (
            "raw",
            "/image",
            CompressedImage,
            "/image has the type sensor_msgs/msg/CompressedImage, but images are subscribed as",
        ),
        ("compressed", "/image/compressed", Image, "set image_transport:=raw"),
        (
            "raw",
            "/image",
            CameraInfo,
            "has the type sensor_msgs/msg/CameraInfo, but images are subscribed as sensor_msgs/msg/Image",
        ),
        ("raw", "/image/compressed", CompressedImage, "set image_transport:=compressed"),
    ],
)
def test_a_topic_of_another_type_is_named(
    start: Callable[..., Peer], peer: Peer, transport: str, topic: str, kind: type, says: str
) -> None:
    subscription, _ = read(start(), "image", transport)
    publisher = peer.node.create_publisher(kind, topic, OUTPUT)
    wait_until(lambda: says in subscription.problem)
    peer.node.destroy_publisher(publisher)
    wait_until(lambda: not subscription.problem)


def test_image_remapped_to_the_compressed_topic_with_compressed_transport_is_named(
    start: Callable[..., Peer], peer: Peer
) -> None:
    subscription, _ = read(start("image:=/cam/compressed"), "image", "compressed")
    peer.node.create_publisher(CompressedImage, "/cam/compressed", OUTPUT)
    wait_until(lambda: "remap image to /cam, without /compressed" in subscription.problem)


@pytest.mark.parametrize(
    ("transport", "topic", "kind", "says"),
    [
        (
            "raw",
            "/depth/compressedDepth",
            CompressedImage,
            "/depth/compressedDepth has compressed depth; set depth_transport:=compressedDepth",
        ),
        ("raw", "/depth", CompressedImage, "set depth_transport:=compressedDepth and remap depth to the name without"),
        ("compressedDepth", "/depth/compressedDepth", Image, "set depth_transport:=raw"),
    ],
)
def test_depth_in_another_transport_is_named(
    start: Callable[..., Peer],
    peer: Peer,
    capfd: pytest.CaptureFixture[str],
    transport: str,
    topic: str,
    kind: type,
    says: str,
) -> None:
    host = start()
    info = InfoInput(host.node, "camera_info")
    DepthInput(host.node, "depth", info, host.node.get_logger()).start(transport, "auto", rectified=True)
    peer.node.create_publisher(kind, topic, OUTPUT)
    heard: list[str] = []
    wait_until(lambda: heard.append(capfd.readouterr().err) or says in "".join(heard))


def test_types_have_the_names_of_the_graph() -> None:
    assert type_name(CompressedImage) == "sensor_msgs/msg/CompressedImage"


@pytest.mark.parametrize(
    ("other", "image", "same", "doubt"),
    [
        ("camera", "camera", True, ""),
        ("", "camera", True, "camera_info has an empty frame_id; that of the image, 'camera', is used"),
        ("camera", "", True, "the image has an empty frame_id"),
        ("/camera", "camera", True, "tf2 allows no leading slash"),
        ("camera", "/camera", True, "tf2 allows no leading slash"),
        ("other", "camera", False, ""),
    ],
)
def test_frames_of_careless_drivers(other: str, image: str, same: bool, doubt: str) -> None:
    found, said = compare_frames("camera_info", other, image)
    assert found == same
    assert doubt in said
    assert bool(doubt) == bool(said)


@pytest.mark.parametrize("frame_id", ["", "/camera"])
def test_depth_goes_on_with_a_camera_info_whose_frame_is_careless(
    start: Callable[..., Peer], peer: Peer, frame_id: str, capfd: pytest.CaptureFixture[str]
) -> None:
    host = start()
    calibration = InfoInput(host.node, "camera_info")
    calibration.start("auto")
    depth = DepthInput(host.node, "depth", calibration, host.node.get_logger())
    depth.start("raw", "auto", rectified=True)
    info = CameraInfo(width=4, height=2, k=[4.0, 0, 2, 0, 4, 1, 0, 0, 1], p=[4.0, 0, 2, 0, 0, 4, 1, 0, 0, 0, 1, 0])
    info.header.frame_id = frame_id
    image = Image(width=4, height=2, encoding="32FC1", step=16, data=array("B", bytes(32)))
    image.header.frame_id = "camera"
    infos = peer.node.create_publisher(CameraInfo, "/camera_info", LATCHED)
    infos.publish(info)
    publisher = peer.node.create_publisher(Image, "/depth", OUTPUT)

    def found() -> object:
        depth.prefetch_depth(image.header)
        return depth.take(image.header, (4, 2), 0.0)

    publish_until(publisher, image, found)
    said = capfd.readouterr().err
    assert (
        said.count("camera_info has an empty frame_id" if not frame_id else "camera_info is in the frame '/camera'")
        == 1
    )
    depth.stop()
