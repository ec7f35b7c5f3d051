"""Results -> messages, and conversion of vocabularies in both directions; outputs have the header that is passed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image, RegionOfInterest
from std_msgs.msg import ColorRGBA, Header

import fcclip_ros.action as action
import fcclip_ros.msg as msg
import fcclip_ros.srv as srv
from fcclip_core.errors import VocabularyError
from fcclip_core.results import PanopticResult, Segment
from fcclip_core.segments.contours import polygons, run_lengths
from fcclip_core.vocabulary.classes import Vocabulary, VocabularyClass
from fcclip_core.vocabulary.palette import Color
from fcclip_ros.conversions.message_data import blank_data

if TYPE_CHECKING:
    from fcclip_core.segments.finding import Found
    from fcclip_core.vocabulary.resolved_class import ResolvedClass
    from fcclip_core.vocabulary.snapshot import VocabularySnapshot
    from fcclip_ros.conversions.frame import LabeledFrame

MAX_MONO8_ID = 255

EMBEDDING_TYPES = {"": "", "float16": "<f2", "float32": "<f4"}
"""Values of the parameter publish_embeddings -> NumPy type of the embedding in the message."""


def image_message(pixels: np.ndarray, encoding: str, header: Header) -> Image:
    """Copies an array into a sensor_msgs/Image.

    Args:
        pixels: uint8, uint16 or float32, `(H, W)` or `(H, W, C)`, according to `encoding`.
        encoding: Name of the ROS encoding.
        header: Header of the message.
    """
    message, target = _blank_image(pixels.shape, pixels.dtype, encoding, header)
    target[...] = pixels
    return message


def panoptic_message(result: PanopticResult, header: Header) -> Image:
    """Segment ids as 16UC1; 0 for no segment."""
    message, pixels = _blank_image(result.segment_map.shape, np.uint16, "16UC1", header)
    pixels[...] = result.compact_map
    return message


def semantic_encoding(class_ids: Sequence[int]) -> str:
    """Encoding of the class image for a vocabulary, the same for all its frames: mono8 if all class ids fit."""
    return "mono8" if max(class_ids, default=0) <= MAX_MONO8_ID else "mono16"


def semantic_message(result: PanopticResult, class_ids: Sequence[int], header: Header) -> Image:
    """Class id of each pixel's segment as mono8 or mono16 (see `semantic_encoding`); 0 for no segment."""
    encoding = semantic_encoding(class_ids)
    dtype = np.uint8 if encoding == "mono8" else np.uint16
    message, pixels = _blank_image(result.segment_map.shape, dtype, encoding, header)
    result.fill_segments(pixels, [segment.class_id for segment in result.segments])
    return message


def confidence_message(result: PanopticResult, header: Header) -> Image:
    """Score of each pixel's segment times 255, rounded, as mono8; 0 for no segment."""
    message, pixels = _blank_image(result.segment_map.shape, np.uint8, "mono8", header)
    result.fill_segments(pixels, [round(255 * segment.score) for segment in result.segments])
    return message


def mask_message(result: PanopticResult, name: str, header: Header) -> Image:
    """Mask of a class as mono8: 255 in segments of that name, 0 elsewhere."""
    message, pixels = _blank_image(result.segment_map.shape, np.uint8, "mono8", header)
    values = [255 if segment.name == name else 0 for segment in result.segments]
    if any(values):
        result.fill_segments(pixels, values)
    return message


def segments_message(
    result: PanopticResult,
    header: Header,
    embedding_type: str = "",
    geometry: Mapping[int, msg.SegmentGeometry] | None = None,
    contour_type: str = "",
) -> msg.SegmentArray:
    """The segments of a frame, ordered by id.

    Args:
        result: Result of the frame.
        header: Header of the message.
        embedding_type: One of `EMBEDDING_TYPES`.
        geometry: 3D geometry by segment id, see `messages_3d.geometry_messages`; None without depth.
        contour_type: One of `contours.CONTOUR_TYPES`.
    """
    height, width = result.segment_map.shape
    segments = [segment_message(item, embedding_type, (geometry or {}).get(item.id)) for item in result.segments]
    if contour_type:
        _add_contours(segments, result, contour_type)
    return msg.SegmentArray(
        header=header,
        vocabulary_version=result.vocabulary_version,
        height=height,
        width=width,
        segments=segments,
    )


def segment_message(
    segment: Segment, embedding_type: str = "", geometry: msg.SegmentGeometry | None = None
) -> msg.Segment:
    """A segment, with its embedding as one of `EMBEDDING_TYPES` and its 3D geometry, if known."""
    message = msg.Segment(
        id=segment.id,
        class_id=segment.class_id,
        name=segment.name,
        score=segment.score,
        is_thing=segment.is_thing,
        area=segment.area,
        box=region_of_interest(segment.box),
        embedding_type=embedding_type,
        geometry=geometry or msg.SegmentGeometry(),
        frame_class_id=segment.frame_class_id,
        frame_score=segment.frame_score,
    )
    if embedding_type:
        # float16 preserves the length of a unit vector to 0.1 %.
        message.embedding.frombytes(segment.embedding.astype(EMBEDDING_TYPES[embedding_type]).tobytes())
    return message


def _add_contours(segments: Sequence[msg.Segment], result: PanopticResult, contour_type: str) -> None:
    if contour_type == "rle":
        counts = run_lengths(result)
        for message in segments:
            message.rle = counts[message.id]
        return
    outlines = polygons(result)
    for message in segments:
        for corners in outlines[message.id]:
            message.polygons.append(msg.PixelPolygon())
            message.polygons[-1].corners.frombytes(corners.astype("<u4").tobytes())


def fill_found(
    response: srv.Find.Response | action.WaitFor.Result,
    frame: LabeledFrame,
    found: Sequence[Found],
    embedding_type: str = "",
) -> None:
    """Fills the matches into the response of ~/find or the result of ~/wait_for.

    Args:
        response: The response; its best_score is set by the caller.
        frame: The frame.
        found: The matches, best first.
        embedding_type: One of `EMBEDDING_TYPES`.
    """
    response.header = frame.header
    response.height, response.width = frame.result.segment_map.shape
    response.found = [
        msg.FoundSegment(
            segment=segment_message(item.segment, embedding_type),
            score=item.score,
            mask=image_message(np.where(item.mask, np.uint8(255), np.uint8(0)), "mono8", frame.header),
        )
        for item in found
    ]


def vocabulary_message(snapshot: VocabularySnapshot, stamp: Time) -> msg.Vocabulary:
    """The published classes of a vocabulary, with resolved ids, colors and seen flags.

    Args:
        snapshot: The vocabulary.
        stamp: Time of its activation.
    """
    return msg.Vocabulary(
        header=Header(stamp=stamp), version=snapshot.version, classes=class_messages(snapshot.published)
    )


def class_messages(classes: Iterable[ResolvedClass]) -> list[msg.VocabularyClass]:
    """Classes with their resolved ids, colors and seen flags."""
    return [
        msg.VocabularyClass(
            synonyms=list(item.synonyms if item.label is None else (item.label, *item.synonyms)),
            is_thing=item.is_thing,
            id=row.id,
            seen=msg.VocabularyClass.SEEN if row.seen else msg.VocabularyClass.UNSEEN,
            color=ColorRGBA(r=row.color[0] / 255, g=row.color[1] / 255, b=row.color[2] / 255, a=1.0),
            distractor=item.distractor,
            minimum_score=item.minimum_score,
            examples=item.example_count,
            wordless=item.wordless,
        )
        for row in classes
        for item in (row.item,)
    ]


def vocabulary_from_message(classes: Sequence[msg.VocabularyClass]) -> Vocabulary:
    """Converts the classes of a request.

    A comma in a synonym separates synonyms, as in files and parameters.

    Raises:
        VocabularyError: A class is invalid.
    """
    return Vocabulary(tuple(_class_from_message(number, item) for number, item in enumerate(classes, 1)))


def fill_segment_image(
    response: srv.SegmentImage.Response,
    frame: LabeledFrame,
    vocabulary: msg.Vocabulary | None,
    stamp: Time,
    embedding_type: str = "",
    contour_type: str = "",
) -> None:
    """Fills a labeled image into the response of ~/segment_image.

    Args:
        response: The response.
        frame: The labeled image.
        vocabulary: Message of the vocabulary that labeled it; None to create one.
        stamp: Stamp of a new message.
        embedding_type: One of `EMBEDDING_TYPES`.
        contour_type: One of `contours.CONTOUR_TYPES`.
    """
    response.panoptic = panoptic_message(frame.result, frame.header)
    response.semantic = semantic_message(frame.result, frame.snapshot.class_ids, frame.header)
    response.confidence = confidence_message(frame.result, frame.header)
    response.segments = segments_message(frame.result, frame.header, embedding_type, contour_type=contour_type)
    response.vocabulary = vocabulary or vocabulary_message(frame.snapshot, stamp)


def detections_message(result: PanopticResult, header: Header, vision: ModuleType) -> object:
    """The thing segments as vision_msgs/Detection2DArray; `id` is the segment id.

    Args:
        result: Result of the frame.
        header: Header of the message.
        vision: The module `vision_msgs.msg`.
    """
    return vision.Detection2DArray(
        header=header,
        detections=[
            vision.Detection2D(
                header=header,
                id=str(segment.id),
                bbox=_bounding_box(segment.box, vision),
                results=[
                    vision.ObjectHypothesisWithPose(
                        hypothesis=vision.ObjectHypothesis(class_id=str(segment.class_id), score=segment.score)
                    )
                ],
            )
            for segment in result.segments
            if segment.is_thing
        ],
    )


def label_info_message(
    snapshot: VocabularySnapshot, stamp: Time, vision: ModuleType, retired: Mapping[int, str] | None = None
) -> object:
    """The names of the class ids as vision_msgs/LabelInfo; 0 is "unlabeled".

    Names of earlier vocabularies follow, since consumers may still have their ids: Nav2's costmap layer immediately
    clears an obstacle if its id has no name.

    Args:
        snapshot: The active vocabulary.
        stamp: Time of its activation.
        vision: The module `vision_msgs.msg`.
        retired: Names of earlier vocabularies by id; may include active ones.
    """
    active = {row.id: row.item.name for row in snapshot.published}
    names = [(0, "unlabeled"), *active.items(), *sorted((retired or {}).items() - active.items())]
    return vision.LabelInfo(
        header=Header(stamp=stamp),
        class_map=[vision.VisionClass(class_id=number, class_name=name) for number, name in names],
        threshold=0.0,
    )


def _blank_image(
    shape: tuple[int, ...], dtype: npt.DTypeLike, encoding: str, header: Header
) -> tuple[Image, np.ndarray]:
    """An image of zeros, and a view of its pixels to write into."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    message = Image(
        header=header, height=shape[0], width=shape[1], encoding=encoding, is_bigendian=0, step=size // shape[0]
    )
    return message, blank_data(message.data, size).view(dtype).reshape(shape)


def region_of_interest(box: tuple[int, int, int, int]) -> RegionOfInterest:
    """A bounding box (x_min, y_min, x_max, y_max) in pixels, the maxima exclusive."""
    x_min, y_min, x_max, y_max = box
    return RegionOfInterest(x_offset=x_min, y_offset=y_min, width=x_max - x_min, height=y_max - y_min)


def box_of(region: Any) -> tuple[int, int, int, int]:
    """The inverse of `region_of_interest`, for a message of ROS or a bag reader."""
    return region.x_offset, region.y_offset, region.x_offset + region.width, region.y_offset + region.height


def _bounding_box(box: tuple[int, int, int, int], vision: ModuleType) -> object:
    x_min, y_min, x_max, y_max = box
    bounds = vision.BoundingBox2D(size_x=float(x_max - x_min), size_y=float(y_max - y_min))
    bounds.center.position.x = (x_min + x_max) / 2
    bounds.center.position.y = (y_min + y_max) / 2
    return bounds


def _class_from_message(number: int, item: msg.VocabularyClass) -> VocabularyClass:
    seen_flags = {
        msg.VocabularyClass.SEEN_AUTO: None,
        msg.VocabularyClass.SEEN: True,
        msg.VocabularyClass.UNSEEN: False,
    }
    try:
        if item.seen not in seen_flags:
            raise VocabularyError(f"seen is {item.seen}; expected 0 (automatic), 1 (seen) or 2 (unseen)")
        return VocabularyClass(
            synonyms=tuple(part.strip() for synonym in item.synonyms for part in synonym.split(",")),
            is_thing=item.is_thing,
            id=item.id or None,
            color=_color_from_message(item.color),
            seen=seen_flags[item.seen],
            distractor=item.distractor,
            minimum_score=item.minimum_score,
        )
    except VocabularyError as error:
        raise VocabularyError(f"class {number}: {error}") from error


def color_of(color: Any) -> Color:
    """The 8-bit color of a std_msgs/ColorRGBA, of ROS or a bag reader, without alpha."""
    return round(255 * color.r), round(255 * color.g), round(255 * color.b)


def _color_from_message(color: ColorRGBA) -> Color | None:
    channels = (color.r, color.g, color.b)
    if color.a == 0:
        return None
    if not all(0.0 <= channel <= 1.0 for channel in channels):
        raise VocabularyError(
            f"color is {channels}; expected three values between 0 and 1, or alpha 0 for an automatic color"
        )
    return color_of(color)
