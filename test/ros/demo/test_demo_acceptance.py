"""What the demo checks, on real processes and a small scale: ids against versions, headers, truth.

test_demo.py runs the program and reads its report; here the watcher's log is read, and the headers are compared.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sensor_msgs.msg import Image

import fcclip_ros.msg as msg
from demo.children import Children, ros_arguments, ros_environment
from demo.vocabularies import chapters
from demo.watcher import Watcher
from fcclip_core.simulation.bundled_drive import bundled_drive
from fcclip_ros.conversions.stamps import nanoseconds
from fcclip_ros.qos import OUTPUT

pytestmark = pytest.mark.slow
CHAPTERS = chapters()
FRAMES = 4
"""Of each vocabulary."""

Header = tuple[int, str]
"""Stamp in ns and frame id."""


class Headers:
    """The headers that arrive on a topic."""

    def __init__(self, watcher: Watcher, kind: type, topic: str, qos: Any) -> None:
        self.arrived: set[Header] = set()
        watcher.node.create_subscription(kind, topic, self._note, qos)

    def _note(self, message: Any) -> None:
        self.arrived.add((nanoseconds(message.header.stamp), message.header.frame_id))


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Children]:
    """A camera that plays the recorded drive, and the node on it with the first chapter's words."""
    for name, value in ros_environment().items():
        monkeypatch.setitem(os.environ, name, value)
    first = CHAPTERS[0].vocabulary
    node = {
        "checkpoint": "recipe:tiny",
        "shorter_side": 64,
        "vocabulary": [", ".join(item.synonyms) for item in first.classes],
        "stuff": [item.name for item in first.classes if not item.is_thing],
    }
    with Children(tmp_path) as started:
        camera = {"recording": str(bundled_drive()), "rate": 5.0}
        started.start("sim_camera", "-m", "fcclip_ros.sim_camera", *ros_arguments(camera))
        started.start("perception", "-m", "fcclip_ros.perception", *ros_arguments(node))
        yield started


def test_ids_belong_to_versions_headers_to_the_camera_and_truth_is_scored(children: Children) -> None:
    with Watcher(children.check) as watcher:
        log = watcher.log
        cameras = Headers(watcher, Image, "image", 100)
        outputs = {name: Headers(watcher, Image, f"/fcclip/{name}", OUTPUT) for name in ("panoptic", "semantic")}
        outputs["segments"] = Headers(watcher, msg.SegmentArray, "/fcclip/segments", OUTPUT)

        watcher.wait_for(lambda: log.frames_of.get(1, 0) >= FRAMES, 120.0, "too few labeled frames")
        version, seconds = watcher.set_vocabulary(CHAPTERS[1].vocabulary, 60.0)
        assert version == 2 and seconds > 0
        watcher.wait_for(lambda: log.frames_of.get(2, 0) >= FRAMES, 60.0, "too few frames of version 2")
        children.stop("sim_camera")
        stopped = time.monotonic()
        watcher.wait_for(
            lambda: watcher.diagnosed_at > stopped + 0.5 and not watcher.frames_in_work(), 30.0, "frames are unfinished"
        )

    log.finish()
    assert log.problems == []
    assert set(log.frames_of) == {1, 2}
    for number, chapter in enumerate(CHAPTERS[:2], 1):
        assert [item.synonyms for item in log.vocabularies[number]] == [c.synonyms for c in chapter.vocabulary.classes]
        quality = log.quality[number]
        assert 0 < quality.frames <= log.frames_of[number], "every frame has its truth, but for the first and last"
        assert quality.percent()["pq.all"] is not None
    # An id never names anything else, in whatever version.
    names = {(item.id, item.name) for classes in log.vocabularies.values() for item in classes}
    assert len({number for number, _ in names}) == len(names)
    for name, headers in outputs.items():
        assert headers.arrived, name
        assert headers.arrived <= cameras.arrived, f"{name}: a stamp or frame id that the camera did not send"
