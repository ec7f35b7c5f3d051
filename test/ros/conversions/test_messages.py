"""Results -> messages, pixel by pixel and field by field, and requests -> vocabularies."""

from __future__ import annotations

import tracemalloc
from array import array
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from fake_segmenter import FakeSegmenter
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import RegionOfInterest
from std_msgs.msg import ColorRGBA, Header

from fcclip_core.errors import VocabularyError
from fcclip_core.results import Label, PanopticResult, Segment
from fcclip_core.settings import InferenceSettings
from fcclip_core.vocabulary.classes import Vocabulary, VocabularyClass
from fcclip_ros import msg, srv
from fcclip_ros.conversions import messages
from fcclip_ros.conversions.frame import LabeledFrame

HEADER = Header(stamp=Time(sec=12, nanosec=34), frame_id="camera_optical")


def make_result(class_ids: tuple[int, int] = (7, 300)) -> PanopticResult:
    """A 2 x 3 frame: segment 1 left, segment 2 in the middle, nothing right."""
    segments = [
        Segment(1, class_ids[0], "cup", 0.5, True, 2, (0, 0, 1, 2), np.zeros(1)),
        Segment(2, class_ids[1], "floor", 1.0, False, 2, (1, 0, 2, 2), np.zeros(1)),
    ]
    segment_map = np.array([[1, 2, 0], [1, 2, 0]], np.int32)
    return PanopticResult(segment_map, segments, 4, {})


def pixels(image: Any, dtype: type) -> list:
    assert (image.height, image.width, image.header) == (2, 3, HEADER)
    assert image.step == 3 * np.dtype(dtype).itemsize and not image.is_bigendian
    return np.frombuffer(image.data, dtype).reshape(2, 3).tolist()


def test_panoptic_holds_segment_ids_in_sixteen_bits() -> None:
    message = messages.panoptic_message(make_result(), HEADER)
    assert message.encoding == "16UC1"
    assert pixels(message, np.uint16) == [[1, 2, 0]] * 2


@pytest.mark.parametrize(
    ("vocabulary_ids", "encoding", "dtype"),
    [((7, 255), "mono8", np.uint8), ((7, 256), "mono16", np.uint16), ((7, 30, 300), "mono16", np.uint16)],
)
def test_semantic_is_eight_bits_wide_while_the_vocabulary_allows(
    vocabulary_ids: tuple[int, ...], encoding: str, dtype: type
) -> None:
    message = messages.semantic_message(make_result((7, vocabulary_ids[1])), vocabulary_ids, HEADER)
    assert message.encoding == encoding
    assert pixels(message, dtype) == [[7, vocabulary_ids[1], 0]] * 2


def test_confidence_is_the_score_times_255_rounded() -> None:
    message = messages.confidence_message(make_result(), HEADER)
    assert message.encoding == "mono8"
    assert pixels(message, np.uint8) == [[128, 255, 0]] * 2


def test_image_data_is_an_array_and_rows_of_color_are_three_bytes_a_pixel() -> None:
    rgb = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    message = messages.image_message(rgb[:, :3], "rgb8", HEADER)
    assert isinstance(message.data, array)
    assert (message.step, bytes(message.data)) == (9, rgb[:, :3].tobytes())


def test_pixels_are_copied_once_into_a_message() -> None:
    """What a second copy of the picture would need was never allocated."""
    result = make_result()
    large = PanopticResult(np.kron(result.segment_map, np.ones((200, 200), np.int32)), result.segments, 1, {})
    picture = np.zeros((400, 600, 3), np.uint8)
    for make in (
        lambda: messages.image_message(picture, "rgb8", HEADER),
        lambda: messages.image_message(picture[:, ::2], "rgb8", HEADER),
        lambda: messages.panoptic_message(large, HEADER),
    ):
        make()
        tracemalloc.start()
        size = len(make().data)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert size <= peak < 1.2 * size


def test_segments_carry_everything_about_them() -> None:
    message = messages.segments_message(make_result(), HEADER)
    assert (message.header, message.vocabulary_version, message.height, message.width) == (HEADER, 4, 2, 3)
    cup, floor = message.segments
    assert (cup.id, cup.class_id, cup.name, cup.score, cup.is_thing, cup.area) == (1, 7, "cup", 0.5, True, 2)
    assert floor.box == RegionOfInterest(x_offset=1, y_offset=0, width=1, height=2)
    assert not floor.is_thing
    assert (floor.frame_class_id, floor.frame_score) == (300, 1.0)


def test_a_voted_segment_says_what_its_frame_says_too() -> None:
    cup = make_result().segments[0].voted(Label(9, "mug", 0.75))
    message = messages.segment_message(cup)
    assert (message.class_id, message.name, message.score) == (9, "mug", 0.75)
    assert (message.frame_class_id, message.frame_score) == (7, 0.5)


def snapshot_of(*classes: VocabularyClass) -> Any:
    return FakeSegmenter(InferenceSettings()).set_vocabulary(Vocabulary(classes))


def test_a_vocabulary_message_says_what_is_in_force() -> None:
    snapshot = snapshot_of(
        VocabularyClass(("cup", "mug"), id=9, color=(255, 0, 51)),
        VocabularyClass(("floor",), is_thing=False, seen=False),
    )
    message = messages.vocabulary_message(snapshot, HEADER.stamp)
    assert (message.version, message.header.stamp) == (1, HEADER.stamp)
    cup, floor = message.classes
    assert (list(cup.synonyms), cup.is_thing, cup.id, cup.seen) == (["cup", "mug"], True, 9, msg.VocabularyClass.SEEN)
    assert (cup.color.r, cup.color.g, cup.color.a) == (1.0, 0.0, 1.0)
    assert cup.color.b == pytest.approx(0.2)
    assert (list(floor.synonyms), floor.is_thing, floor.seen) == (["floor"], False, msg.VocabularyClass.UNSEEN)
    assert floor.id == 1


def test_a_vocabulary_can_be_sent_back_as_it_was_announced() -> None:
    snapshot = snapshot_of(
        VocabularyClass(("cup", "mug"), color=(1, 2, 3), seen=True), VocabularyClass(("floor",), is_thing=False)
    )
    announced = messages.vocabulary_message(snapshot, HEADER.stamp)
    wire = deserialize_message(serialize_message(announced), msg.Vocabulary)
    again = messages.vocabulary_from_message(wire.classes)
    assert again.names == ("cup", "floor")
    assert again.things == (True, False)
    assert [item.color for item in again.classes] == list(snapshot.colors)
    assert [item.id for item in again.classes] == list(snapshot.class_ids)


def test_a_class_with_a_label_goes_by_it() -> None:
    message = messages.vocabulary_message(snapshot_of(VocabularyClass(("door",), label="door (2)")), HEADER.stamp)
    assert message.classes[0].synonyms[0] == "door (2)"


def test_commas_in_a_request_separate_synonyms_and_zeros_mean_nothing_asked() -> None:
    request = [
        msg.VocabularyClass(synonyms=["pallet, wooden pallet", "skid"], is_thing=True),
        msg.VocabularyClass(
            synonyms=["floor"], is_thing=False, id=5, seen=2, color=ColorRGBA(r=0.2, g=0.0, b=1.0, a=1.0)
        ),
    ]
    pallet, floor = messages.vocabulary_from_message(request).classes
    assert pallet == VocabularyClass(("pallet", "wooden pallet", "skid"))
    assert floor == VocabularyClass(("floor",), is_thing=False, id=5, color=(51, 0, 255), seen=False)


def test_a_class_in_a_request_is_a_thing_unless_it_says_otherwise() -> None:
    assert messages.vocabulary_from_message([msg.VocabularyClass(synonyms=["cup"])]).classes[0].is_thing


@pytest.mark.parametrize(
    ("classes", "complaint"),
    [
        ([], "the vocabulary is empty"),
        ([msg.VocabularyClass()], "class 1: a class has no name"),
        (
            [msg.VocabularyClass(synonyms=["cup"]), msg.VocabularyClass(synonyms=["a,,b"])],
            "class 2: a class name is empty",
        ),
        ([msg.VocabularyClass(synonyms=["x" * 10_000])], "class 1: the class name .* has 10000 characters"),
        ([msg.VocabularyClass(synonyms=["cup"])] * 2, "classes 1 and 2 both have the name 'cup'"),
        ([msg.VocabularyClass(synonyms=["cup"], seen=3)], "class 1: seen is 3; expected 0"),
        ([msg.VocabularyClass(synonyms=["cup"], color=ColorRGBA(r=255.0, a=1.0))], "class 1: color is .255.0"),
        ([msg.VocabularyClass(synonyms=["a\nb"])], "class 1: .* control character"),
    ],
)
def test_absurd_requests_name_the_class(classes: list, complaint: str) -> None:
    with pytest.raises(VocabularyError, match=complaint):
        messages.vocabulary_from_message(classes)


def test_a_thousand_classes_in_any_script_are_accepted() -> None:
    classes = [msg.VocabularyClass(synonyms=[f"предмет {number}"]) for number in range(1000)]
    assert len(messages.vocabulary_from_message(classes)) == 1000


def test_the_answer_of_segment_image_is_complete() -> None:
    segmenter = FakeSegmenter(InferenceSettings())
    snapshot = segmenter.prepare_vocabulary(Vocabulary.from_names(["cup", "floor"]))
    image = np.full((2, 3, 3), 9, np.uint8)
    encoded = segmenter.encode(image)
    frame = LabeledFrame(HEADER, image, segmenter.decode(encoded, snapshot), snapshot, encoded, 0.0)
    response = srv.SegmentImage.Response()
    messages.fill_segment_image(response, frame, None, HEADER.stamp)
    assert pixels(response.panoptic, np.uint16) == [[1, 1, 2]] * 2
    assert pixels(response.semantic, np.uint8) == [[1, 1, 2]] * 2
    assert pixels(response.confidence, np.uint8) == [[85, 85, 170]] * 2
    assert [segment.name for segment in response.segments.segments] == ["cup", "floor"]
    assert response.vocabulary.version == 0
    assert [item.id for item in response.vocabulary.classes] == [1, 2]


def test_detections_are_the_things_with_their_segment_ids(vision_msgs: ModuleType) -> None:
    message = messages.detections_message(make_result(), HEADER, vision_msgs)
    (detection,) = message.detections
    assert message.header == detection.header == HEADER
    assert detection.id == "1"
    assert (detection.bbox.center.position.x, detection.bbox.center.position.y) == (0.5, 1.0)
    assert (detection.bbox.size_x, detection.bbox.size_y) == (1.0, 2.0)
    (hypothesis,) = (result.hypothesis for result in detection.results)
    assert (hypothesis.class_id, hypothesis.score) == ("7", 0.5)


def test_label_info_names_every_id_and_zero(vision_msgs: ModuleType) -> None:
    snapshot = snapshot_of(VocabularyClass(("cup",), id=9), VocabularyClass(("floor",)))
    message = messages.label_info_message(snapshot, HEADER.stamp, vision_msgs)
    names = [(item.class_id, item.class_name) for item in message.class_map]
    assert names == [(0, "unlabeled"), (9, "cup"), (1, "floor")]
    assert message.header.stamp == HEADER.stamp


def test_label_info_keeps_the_names_of_ids_that_are_no_longer_in_force(vision_msgs: ModuleType) -> None:
    snapshot = snapshot_of(VocabularyClass(("cup",), id=9), VocabularyClass(("floor",)))
    earlier = {3: "dog", 9: "cup", 2: "cat"}
    message = messages.label_info_message(snapshot, HEADER.stamp, vision_msgs, earlier)
    names = [(item.class_id, item.class_name) for item in message.class_map]
    assert names == [(0, "unlabeled"), (9, "cup"), (1, "floor"), (2, "cat"), (3, "dog")]
