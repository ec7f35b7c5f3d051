"""What the memory node reads, published by a peer in the place of the perception node, a camera and a robot."""

from __future__ import annotations

import itertools
from array import array
from types import ModuleType

import numpy as np
from broadcaster import MOUNTED
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion, Vector3
from ros_harness import RELIABLE, Peer
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest
from std_msgs.msg import Header

from fcclip_ros import msg, srv
from fcclip_ros.conversions.camera_info import camera_info_message
from fcclip_ros.conversions.messages import image_message
from fcclip_ros.qos import LATCHED, OUTPUT, image_profile

WIDTH, HEIGHT, FOCAL = 64, 48, 50.0
INTRINSICS = np.array([[FOCAL, 0, WIDTH / 2 - 0.5], [0, FOCAL, HEIGHT / 2 - 0.5], [0, 0, 1]])
WORDS = ("mug", "plate", "lamp", "red mug")
SIDE = 0.1


def row_of(word: str) -> np.ndarray:
    """The embedding of a word: one axis each, and "red mug" is nearly a mug."""
    row = np.zeros(8, np.float32)
    if word == "red mug":
        row[0], row[4] = 0.96, 0.28
        return row
    row[WORDS.index(word) if word in WORDS else 7] = 1.0
    return row


def stamp_of(seconds: float) -> Time:
    whole = int(seconds // 1)
    return Time(sec=whole, nanosec=round((seconds - whole) * 1e9))


def camera_pose(x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """A camera that looks along the map's x axis, 0.3 m above the floor."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat(MOUNTED[1]).as_matrix()
    pose[:3, 3] = x, y, 0.3
    return pose


def pose_message(matrix: np.ndarray) -> Pose:
    place, turn = matrix[:3, 3].tolist(), Rotation.from_matrix(matrix[:3, :3]).as_quat().tolist()
    return Pose(
        position=Point(**dict(zip("xyz", place, strict=True))),
        orientation=Quaternion(**dict(zip("xyzw", turn, strict=True))),
    )


def segment(
    number: int, name: str, place: np.ndarray, pose: np.ndarray, *, embedding: bool = True, frame: str = "camera"
) -> msg.Segment:
    """A cube's front at a place in the map, as the perception node describes it in the camera's frame or the map's."""
    center = np.linalg.inv(pose)[:3] @ np.append(place, 1.0)
    pixel = (INTRINSICS @ (center / center[2]))[:2]
    half = FOCAL * SIDE / 2 / center[2]
    sides = np.array([SIDE, SIDE, 0.01])
    turn = np.eye(4)
    if frame != "camera":
        center, sides, turn = place, np.abs(pose[:3, :3]) @ sides, pose
    point = Point(**dict(zip("xyz", center.tolist(), strict=True)))
    message = msg.Segment(
        id=number,
        class_id=number,
        name=name,
        score=0.9,
        is_thing=True,
        area=max(int((2 * half) ** 2), 100),
        box=RegionOfInterest(
            x_offset=int(max(pixel[0] - half, 0)),
            y_offset=int(max(pixel[1] - half, 0)),
            width=int(2 * half),
            height=int(2 * half),
        ),
        geometry=msg.SegmentGeometry(
            valid=True,
            frame_id=frame,
            centroid=point,
            distance=float(np.linalg.norm(center)),
            center=point,
            extents=Vector3(**dict(zip("xyz", sides.tolist(), strict=True))),
            oriented_center=Pose(position=point, orientation=pose_message(turn).orientation),
            oriented_extents=Vector3(x=SIDE, y=SIDE, z=0.01),
            points=100,
        ),
    )
    if embedding:
        message.embedding_type = "float16"
        message.embedding.frombytes(row_of(name).astype("<f2").tobytes())
    return message


class Robot:
    """Publishes frames of a camera and of the perception node; each is one step of `STEP` seconds later."""

    STEP = 0.1

    def __init__(self, peer: Peer, camera: str = "", start: float = 1_000.0) -> None:
        self._prefix = f"/{camera}/" if camera else "/"
        outputs = f"/fcclip{self._prefix}"
        self._peer = peer
        self._segments = peer.node.create_publisher(msg.SegmentArray, f"{outputs}segments", OUTPUT)
        self._vocabulary = peer.node.create_publisher(msg.Vocabulary, f"{outputs}vocabulary", LATCHED)
        profile = image_profile(RELIABLE)
        self._info = peer.node.create_publisher(CameraInfo, f"{self._prefix}camera_info", profile)
        self._depth = peer.node.create_publisher(Image, f"{self._prefix}depth", profile)
        self._image = peer.node.create_publisher(Image, f"{self._prefix}image", profile)
        self._pose = peer.node.create_publisher(PoseStamped, f"{self._prefix}pose", 10)
        self._times = itertools.count()
        self.start = start
        self.vocabulary("mug", "plate")

    def vocabulary(self, *names: str, version: int = 1) -> None:
        classes = [
            msg.VocabularyClass(synonyms=[name], is_thing=True, id=number) for number, name in enumerate(names, 1)
        ]
        self._vocabulary.publish(msg.Vocabulary(version=version, classes=classes))

    def see(
        self,
        things: dict[str, tuple[float, float, float]],
        *,
        pose: np.ndarray | None = None,
        stamp: float | None = None,
        embedding: bool = True,
        frame: str = "camera",
        publish_pose: bool = True,
        pose_frame: str = "map",
        wall: float = 3.0,
    ) -> float:
        """One frame in which things, by name, are at places of the map; `wall` meters ahead is what is behind them."""
        pose = camera_pose() if pose is None else pose
        seconds = self.start + self.STEP * next(self._times) if stamp is None else stamp
        header = Header(frame_id="camera", stamp=stamp_of(seconds))
        if publish_pose:
            posed = Header(frame_id=pose_frame, stamp=header.stamp)
            self._pose.publish(PoseStamped(header=posed, pose=pose_message(pose)))
        depth = np.full((HEIGHT, WIDTH), wall, np.float32)
        segments = []
        for number, (name, place) in enumerate(things.items(), 1):
            item = segment(number, name, np.array(place), pose, embedding=embedding, frame=frame)
            box, ahead = item.box, (np.linalg.inv(pose) @ np.append(place, 1.0))[2]
            depth[box.y_offset : box.y_offset + box.height, box.x_offset : box.x_offset + box.width] = ahead
            segments.append(item)
        self._info.publish(camera_info_message(header, WIDTH, HEIGHT, INTRINSICS))
        self._depth.publish(image_message(depth, "32FC1", header))
        picture = np.full((HEIGHT, WIDTH, 3), (200, 30, 30), np.uint8)
        self._image.publish(image_message(picture, "rgb8", header))
        self._segments.publish(
            msg.SegmentArray(header=header, vocabulary_version=1, height=HEIGHT, width=WIDTH, segments=segments)
        )
        return seconds


def serve_words(peer: Peer) -> list[list[str]]:
    """Offers the perception node's services; returns the words that are asked for, request by request."""
    asked: list[list[str]] = []

    def embed(request: srv.EmbedText.Request, response: srv.EmbedText.Response) -> srv.EmbedText.Response:
        asked.append(list(request.names))
        rows = np.stack([row_of(name) for name in request.names])
        response.success, response.dimension = True, rows.shape[1]
        response.embeddings = array("f", rows.tobytes())
        response.logit_scale, response.model = 50.0, "fake"
        return response

    def vocabulary(
        request: srv.GetVocabulary.Request, response: srv.GetVocabulary.Response
    ) -> srv.GetVocabulary.Response:
        response.distractors = [msg.VocabularyClass(synonyms=["lamp"], is_thing=True)]
        return response

    peer.node.create_service(srv.EmbedText, "/fcclip/embed_text", embed)
    peer.node.create_service(srv.GetVocabulary, "/fcclip/get_vocabulary", vocabulary)
    return asked


def path_message(navigation: ModuleType, poses: dict[float, np.ndarray], frame: str = "map") -> object:
    """A nav_msgs/Path: poses by their times."""
    path = navigation.Path(header=Header(frame_id=frame))
    for seconds, pose in poses.items():
        header = Header(frame_id=frame, stamp=stamp_of(seconds))
        path.poses.append(PoseStamped(header=header, pose=pose_message(pose)))
    return path
