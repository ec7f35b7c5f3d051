"""Messages -> Rerun entities: for each camera its image, labels, point cloud and boxes, at the stamps of the images.

Messages may be ROS messages of a running node or those of a bag reader, which have the same fields.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import cv2
import numpy as np
import rerun as rr
import rerun.blueprint as rrb
from numpy.lib.recfunctions import structured_to_unstructured

from fcclip_core.errors import DepthError, ImageError
from fcclip_core.geometry.camera import PinholeCamera, same_aspect
from fcclip_core.geometry.cloud import POINT
from fcclip_core.vocabulary.palette import Color, class_color
from fcclip_ros.conversions.camera_info import camera_from_info
from fcclip_ros.conversions.images import size_of, to_labels, to_rgb
from fcclip_ros.conversions.messages import color_of
from fcclip_ros.conversions.stamps import nanoseconds
from fcclip_ros.view.places import DepthJoin
from fcclip_ros.view.topics import Part

TIMELINE = "stamp"
"""Rerun timeline of the image stamps."""

_NO_LIMIT = sys.maxsize
"""Pixels: the size of raw images is checked against their data, and compressed ones are not decoded here."""

_OPACITY = 0.5
_UNLABELED = (0, "unlabeled", (96, 96, 96))


class Scene:
    """Shows messages in a Rerun recording."""

    def __init__(self, recording: rr.RecordingStream, point_step: int = 1) -> None:
        """Shows nothing yet.

        Args:
            recording: The Rerun recording.
            point_step: Row and column step of the points of clouds that are shown.
        """
        self._recording = recording
        self._point_step = point_step
        self._cameras: dict[str, _CameraScene] = {}

    def arrange(self, parts: Iterable[Part], *, compute_geometry: bool = False) -> None:
        """Arranges the views of the cameras of `parts`.

        Args:
            parts: The topics that will be shown.
            compute_geometry: Compute point clouds and boxes from depth for cameras without point clouds.
        """
        roles: dict[str, set[str]] = {}
        for part in parts:
            roles.setdefault(part.camera, set()).add(part.role)
        for name in sorted(set(roles) - set(self._cameras)):
            compute = compute_geometry and "depth" in roles[name] and "points" not in roles[name]
            self._cameras[name] = _CameraScene(self._recording, name or "camera", self._point_step, compute)
        self._recording.send_blueprint(
            rrb.Blueprint(
                rrb.Vertical(*[camera.views() for _, camera in sorted(self._cameras.items())]), collapse_panels=True
            )
        )

    def show(self, part: Part, message: Any) -> None:
        """Shows a message.

        Args:
            part: The topic, of a camera that was arranged.
            message: The message.

        Raises:
            ImageError: The image, labels or points are invalid.
            DepthError: The depth or camera_info is invalid.
        """
        self._cameras[part.camera].show[part.role](message)

    def finish(self) -> list[str]:
        """Shows geometry that is computed from all messages; returns warnings."""
        return [text for camera in self._cameras.values() for text in camera.finish()]


class _CameraScene:
    """The entities of a camera below its name: view (a pinhole camera) with image and labels, points, boxes."""

    def __init__(self, recording: rr.RecordingStream, root: str, point_step: int, compute_geometry: bool) -> None:
        self._recording = recording
        self._root = root
        self._step = point_step
        self._camera: PinholeCamera | None = None
        self._image_size: tuple[int, int] | None = None
        self._frame_id = ""
        self._classes: dict[int, tuple[str, Color]] = {}
        self._join = DepthJoin() if compute_geometry else None
        self.show: dict[str, Callable[[Any], None]] = {
            "vocabulary": self._vocabulary,
            "image": self._image,
            "camera_info": self._camera_info,
            "depth": self._depth,
            "semantic": self._semantic,
            "panoptic": self._panoptic,
            "segments": self._segments,
            "points": self._points,
        }
        # An optical frame: x right, y down, z forward.
        recording.log(root, rr.ViewCoordinates.RDF, static=True)

    def views(self) -> rrb.Horizontal:
        """The image, the image with labels, and the 3D view."""
        view = f"{self._root}/view"
        flat = rrb.Vertical(
            rrb.Spatial2DView(origin=view, contents=[f"{view}/image"], name=f"{self._root}: image"),
            rrb.Spatial2DView(origin=view, name=f"{self._root}: labels"),
        )
        return rrb.Horizontal(flat, rrb.Spatial3DView(origin=self._root, name=f"{self._root}: 3D"))

    # One method per topic

    def _vocabulary(self, message: Any) -> None:
        self._add_classes(
            {item.id: (item.synonyms[0], color_of(item.color)) for item in message.classes if item.synonyms}
        )

    def _image(self, message: Any) -> None:
        self._frame_id = message.header.frame_id
        compressed = hasattr(message, "format")
        shown = _encoded(message) if compressed else rr.Image(to_rgb(message, _NO_LIMIT))
        self._image_size = size_of(message, _NO_LIMIT)
        self._log("view/image", shown, message)

    def _camera_info(self, message: Any) -> None:
        camera = camera_from_info(message, rectified=True)
        if self._join is not None:
            self._join.add_camera(message, camera)
        if camera == self._camera:
            return
        self._camera = camera
        matrix = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])
        self._log("view", rr.Pinhole(image_from_camera=matrix, resolution=[camera.width, camera.height]), message)

    def _depth(self, message: Any) -> None:
        if self._join is not None:
            self._join.add_depth(message)

    def _semantic(self, message: Any) -> None:
        labels = _enlarged(to_labels(message), self._image_size)
        self._log("view/labels", rr.SegmentationImage(labels, opacity=_OPACITY), message)

    def _panoptic(self, message: Any) -> None:
        if self._join is not None:
            self._join.add_labels("panoptic", message)

    def _segments(self, message: Any) -> None:
        self._frame_id = message.header.frame_id
        # Names and colors, in case the vocabulary was not recorded.
        self._add_classes(
            {
                item.class_id: (item.name, class_color(item.name))
                for item in message.segments
                if item.class_id not in self._classes
            }
        )
        geometry = _geometry(message)
        if geometry or self._join is None:
            self._show_boxes(message, geometry)
        if self._join is not None:
            self._join.add_labels("segments", message)
        elif not geometry:
            for item in message.segments:
                if item.geometry.valid:
                    self._check_frame("boxes are", item.geometry.frame_id)

    def _points(self, message: Any) -> None:
        self._check_frame("the cloud is", message.header.frame_id)
        names = tuple(field.name for field in message.fields)
        if names != POINT.names or message.point_step != POINT.itemsize:
            raise ImageError(f"the cloud has the fields {', '.join(names)}; expected {', '.join(POINT.names or ())}")
        if len(message.data) != POINT.itemsize * message.height * message.width:
            raise ImageError(f"the cloud has {len(message.data)} bytes for {message.height} x {message.width} points")
        points = np.frombuffer(message.data, POINT).reshape(message.height, message.width)
        self._show_cloud(message, structured_to_unstructured(points[["x", "y", "z"]]), points["semantic_id"])

    def _check_frame(self, what: str, frame_id: str) -> None:
        """Checks that 3D data are in the frame of the images.

        Raises:
            ImageError: They are in another one.
        """
        if self._frame_id and not _is_same_frame(frame_id, self._frame_id):
            raise ImageError(
                f"{what} in the frame {frame_id!r}, the image in {self._frame_id!r}; without transforms only the frame "
                "of the image can be shown: leave the node's target_frame empty, or use RViz"
            )

    # Entities

    def finish(self) -> list[str]:
        """Shows geometry that is computed from all messages; returns warnings."""
        if self._join is None:
            return []
        warnings: Counter[str] = Counter()
        for segments, frame in self._join.join():
            geometry: Mapping[int, Any] = {}
            if frame is not None:
                try:
                    geometry = frame.geometry()
                    self._show_cloud(segments, frame.points(), frame.class_ids())
                except (ImageError, DepthError) as error:
                    warnings[f"{self._root}: no point cloud and boxes: {error}"] += 1
            if not _geometry(segments):
                # Also without geometry, so that the boxes of the previous frame disappear.
                self._show_boxes(segments, geometry)
        report = self._join.report()
        return [f"{text} ({times} frames)" for text, times in warnings.items()] + [f"{self._root}: {report}"] * bool(
            report
        )

    def _show_cloud(self, message: Any, points: np.ndarray, class_ids: np.ndarray) -> None:
        """Shows points `(H, W, 3)`, NaN where unknown, in the colors of their classes `(H, W)`."""
        grid = slice(None, None, self._step), slice(None, None, self._step)
        known = np.isfinite(points[grid][..., 2])
        self._log("points", rr.Points3D(points[grid][known], class_ids=class_ids[grid][known]), message)

    def _show_boxes(self, message: Any, geometry: Mapping[int, Any]) -> None:
        """Shows the oriented boxes of things with 3D geometry."""
        things = [(item, geometry[item.id]) for item in message.segments if item.is_thing and item.id in geometry]
        boxes = rr.Boxes3D(
            centers=[_vector(box.oriented_center.position) for _, box in things],
            sizes=[_vector(box.oriented_extents) for _, box in things],
            quaternions=[_quaternion(box.oriented_center.orientation) for _, box in things],
            labels=[f"{item.name} {item.score:.2f}" for item, _ in things],
            class_ids=[item.class_id for item, _ in things],
        )
        self._log("boxes", boxes, message)

    def _add_classes(self, classes: dict[int, tuple[str, Color]]) -> None:
        """Adds names and colors of class ids; static, since a class id never changes its name."""
        if classes.items() <= self._classes.items():
            return
        self._classes |= classes
        known = [(number, name, color) for number, (name, color) in sorted(self._classes.items())]
        self._recording.log(self._root, rr.AnnotationContext([_UNLABELED, *known]), static=True)

    def _log(self, entity: str, what: rr.AsComponents, message: Any) -> None:
        """Logs an entity at the stamp of a message."""
        stamp = nanoseconds(message.header.stamp)
        self._recording.set_time(TIMELINE, timestamp=np.datetime64(stamp, "ns"))
        self._recording.log(f"{self._root}/{entity}", what)


def _geometry(message: Any) -> dict[int, Any]:
    """The 3D geometry in a SegmentArray by segment id, in the frame of the image; empty from a node without depth."""
    own = message.header.frame_id
    # Earlier recordings do not say the frame.
    frames = {item.id: getattr(item.geometry, "frame_id", own) for item in message.segments if item.geometry.valid}
    return {item.id: item.geometry for item in message.segments if _is_same_frame(frames.get(item.id), own)}


def _is_same_frame(one: str | None, other: str) -> bool:
    return one is not None and one.lstrip("/") == other.lstrip("/")


def _encoded(message: Any) -> rr.EncodedImage:
    """A CompressedImage, which the viewer decodes."""
    if size_of(message, _NO_LIMIT) is None:
        raise ImageError(f"the compressed image (format {message.format[:40]!r}) is neither JPEG nor PNG")
    contents = bytes(message.data)
    is_png = contents.startswith(b"\x89PNG")
    return rr.EncodedImage(contents=contents, media_type=rr.MediaType.PNG if is_png else rr.MediaType.JPEG)


def _enlarged(labels: np.ndarray, image: tuple[int, int] | None) -> np.ndarray:
    """Labels at the size of the image, from which `output_stride` made them smaller."""
    if image is None or labels.shape == image or not same_aspect(labels.shape[::-1], image[::-1]):
        return labels
    return cv2.resize(labels, image[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def _vector(value: Any) -> tuple[float, float, float]:
    return value.x, value.y, value.z


def _quaternion(value: Any) -> tuple[float, float, float, float]:
    return value.x, value.y, value.z, value.w
