"""~/teach seen from outside, with the real (tiny) model in a real node."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_harness import Peer, camera, rgb_message, wait_until
from sensor_msgs.msg import Image, RegionOfInterest

from fcclip_core.vocabulary.classes import Vocabulary
from fcclip_ros import msg, srv
from fcclip_ros.perception import Perception
from fcclip_ros.qos import LATCHED, OUTPUT

PHOTO = np.random.default_rng(3).integers(0, 256, (96, 128, 3), np.uint8)
PARAMETERS = {
    "checkpoint": "recipe:tiny",
    "backend": "eager",
    "device": "cpu",
    "shorter_side": "96",
    "overlap_threshold": "0.0",
    "publish_embeddings": "float32",
    "vocabulary": "['cup, mug', 'plate', 'floor']",
}


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    # Seeded masks are noise that fits no box.
    monkeypatch.setattr("fcclip_core.segments.teaching.MIN_OVERLAP", 0.0)
    arguments = [part for name, value in PARAMETERS.items() for part in ("-p", f"{name}:={value}")]
    node = Peer(lambda **options: Perception(**options), ["--ros-args", *arguments])
    node.node.begin()
    wait_until(lambda: node.node._lifecycle == "active", 60.0)
    yield node
    node.node.finish()
    node.close()


def show(peer: Peer) -> msg.SegmentArray:
    """Lets the node label one picture."""
    heard, publisher = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT), camera(peer)
    end = time.monotonic() + 30
    while heard.empty():
        assert time.monotonic() < end
        publisher.publish(rgb_message(PHOTO))
        time.sleep(0.1)
    time.sleep(0.3)  # what was published twice is labeled too
    return heard.get()[1]


def teach(peer: Peer, *synonyms: str, **more: Any) -> srv.Teach.Response:
    return peer.call(srv.Teach, "/fcclip/teach", srv.Teach.Request(synonyms=list(synonyms), **more), timeout=60.0)


def classes(peer: Peer) -> dict[str, tuple[int, bool]]:
    found = peer.call(srv.GetVocabulary, "/fcclip/get_vocabulary").vocabulary.classes
    return {item.synonyms[0]: (item.examples, item.wordless) for item in found}


def test_segments_of_the_stream_teach_a_class_that_is_kept_and_forgotten(
    node: Peer, peer: Peer, tmp_path: Path
) -> None:
    announced = peer.listen(msg.Vocabulary, "/fcclip/vocabulary", LATCHED)
    ids = [item.id for item in show(peer).segments][:2]
    path = tmp_path / "mine.yaml"
    response = teach(peer, "part 4711", segment_ids=ids, wordless=True, save_to=str(path))
    assert response.success, response.message
    assert (response.examples, response.version) == (2, 2)
    assert "different segments were seen" in response.message
    assert classes(peer) == {
        "cup": (0, False), "plate": (0, False), "floor": (0, False), "part 4711": (2, True)
    }  # fmt: skip
    wait_until(lambda: announced.qsize() and announced.get()[1].version == 2)
    assert Vocabulary.load(path).example_counts == (0, 0, 0, 2)

    forgotten = teach(peer, "part 4711", forget=True, save_to=str(path))
    assert forgotten.success, forgotten.message
    assert (forgotten.examples, forgotten.version) == (0, 3)
    assert list(classes(peer)) == ["cup", "plate", "floor"]
    assert Vocabulary.load(path).names == ("cup", "plate", "floor")


def test_regions_of_an_image_and_embeddings_join_the_examples_of_a_word(node: Peer, peer: Peer) -> None:
    shown = show(peer).segments[0]
    mask = Image(height=96, width=128, step=128, encoding="mono8", data=array("B", b"\1" * (96 * 128)))
    boxes = [RegionOfInterest(x_offset=4, y_offset=8, width=60, height=40)]
    response = teach(peer, "mug, beaker", "jug", image=rgb_message(PHOTO), boxes=boxes, mask=mask)
    assert response.success, response.message
    assert response.examples == 2
    assert classes(peer)["mug"] == (2, False)

    row = np.frombuffer(bytes(shown.embedding), "<f4")
    model = peer.call(srv.EmbedText, "/fcclip/embed_text", srv.EmbedText.Request(names=["a"])).model
    numbers = {"dimension": len(row), "embeddings": array("f", row.tobytes())}
    assert teach(peer, "mug", model=model, **numbers).examples == 3
    assert "are of another model" in teach(peer, "mug", model="another", **numbers).message
    assert classes(peer)["mug"] == (3, False)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, "synonyms has 0 names"),
        ({"synonyms": ["mug"]}, "there is no example"),
        ({"synonyms": ["mug"], "segment_ids": [60000]}, "has no segment 60000"),
        ({"synonyms": ["mug"], "image": rgb_message(PHOTO)}, "no boxes and no mask"),
        ({"synonyms": ["mug"], "embeddings": [1.0, 0.0, 0.0], "dimension": 2}, "times as many numbers"),
        ({"synonyms": ["mug"], "embeddings": [1.0, 1.0], "dimension": 2}, "not of unit length"),
        ({"synonyms": ["plate"], "forget": True}, "no examples to forget"),
        ({"synonyms": ["zork"], "forget": True}, "no class of this vocabulary"),
        ({"synonyms": ["mug"], "save_to": "mine.pt"}, "not the name of a .yaml file"),
        ({"synonyms": ["mug"], "camera": "left"}, "there is no camera 'left'"),
    ],
)
def test_requests_that_change_nothing(shown_node: Peer, peer: Peer, request_: dict[str, Any], expected: str) -> None:
    response = peer.call(srv.Teach, "/fcclip/teach", srv.Teach.Request(**request_), timeout=60.0)
    assert not response.success
    assert expected in response.message
    assert not any(count for count, _ in classes(peer).values())


@pytest.fixture(scope="module")
def shown_node() -> Iterator[Peer]:
    """A node that has labeled a picture; no test changes it."""
    arguments = [part for name, value in PARAMETERS.items() for part in ("-p", f"{name}:={value}")]
    node = Peer(lambda **options: Perception(**options), ["--ros-args", *arguments])
    node.node.begin()
    wait_until(lambda: node.node._lifecycle == "active", 60.0)
    helper = Peer()
    show(helper)
    helper.close()
    yield node
    node.node.finish()
    node.close()
