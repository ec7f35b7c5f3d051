"""`fcclip segment BAG --memory FILE`: things of a world of boxes end up where they are, from TF, once."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bag_files import save, transforms
from builtin_interfaces.msg import Time
from depth_camera import depth_message
from packed_depth import packed_depth
from ros_harness import ROOT, rgb_message
from scipy.spatial.transform import Rotation
from std_msgs.msg import Header

from fcclip_core.cli import main
from fcclip_core.commands.segment_memory import check_memory_arguments
from fcclip_core.errors import FcclipError, ImageError
from fcclip_core.memory.object_memory import ObjectMemory
from fcclip_core.memory.objects import State
from fcclip_core.results import PanopticResult, Segment
from fcclip_core.vocabulary.embedded_text import TextEmbeddings
from fcclip_ros.bags.bag_observations import recording_key
from fcclip_ros.bags.bag_segmentation import BagImages
from fcclip_ros.conversions.camera_info import camera_info_message

sys.path += [str(ROOT / "test" / "core"), str(ROOT / "test" / "core" / "memory")]
import segment_case  # noqa: E402
from box_world import CAMERA, DIMENSION, Thing, pose_at, rendered  # noqa: E402

NAMES = ("mug", "box")
THINGS = [
    Thing("mug", (2.0, 0.25, 0.1), (0.12, 0.12, 0.2), look=0),
    Thing("box", (2.1, -0.3, 0.15), (0.3, 0.3, 0.3), look=1),
]
SHIFT = np.array((10.0, -4.0, 0.0))
"""Where odom's origin is in the map."""
MOUNT = pose_at((0.0, 0.0, 0.0), (1.0, 0.0, -0.4))[:3, :3]
START = 1_750_000_000_000_000_000
FRAME = 200_000_000
LATER = 3_600_000_000_000


class SeeingSegmenter(segment_case.FakeSegmenter):
    """Reads each pixel's thing from the red channel."""

    model = "tower"

    @classmethod
    def from_checkpoint(cls, source: str, **options: Any) -> SeeingSegmenter:
        return cls(options["settings"])

    def embed_text(self, names: Sequence[str]) -> TextEmbeddings:
        return TextEmbeddings(np.eye(DIMENSION, dtype=np.float32)[: len(names)], 10.0, self.model)

    def __call__(self, image: np.ndarray) -> PanopticResult:
        self.frames += 1
        type(self).on_frame(self.frames)
        labels = image[..., 0].astype(np.int32)
        segments = []
        for number, thing in enumerate(THINGS, 1):
            rows, columns = np.nonzero(labels == number)
            if len(rows):
                box = int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
                class_id = 299 + number
                segments.append(Segment(number, class_id, thing.name, 0.9, True, len(rows), box, thing.embedding))
        evidence: Any = segment_case.FakeEvidence(labels, np.zeros(1, int))
        return PanopticResult(labels, segments, 1, {}, evidence)


@pytest.fixture(autouse=True)
def seeing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcclip_core.segmenter.Segmenter", SeeingSegmenter)
    monkeypatch.setenv("COLUMNS", "400")


def eye_at(time: int) -> np.ndarray:
    """Where the camera is in odom: it moves sideways at 0.2 m/s, again each hour."""
    return np.array((0.9, -0.1 + 0.2 * (time - START - round((time - START) / LATER) * LATER) / 1e9, 0.6))


def moving(time: int) -> Any:
    return transforms(("odom", "base", time, eye_at(time) - (0.1, 0, 0.6), (0, 0, 0, 1)))


def drive(frames: int = 6, missing: str = "", packed: bool = False, start: int = START) -> list[tuple[str, Any]]:
    """A recording: transforms come between the images, so that each pose is interpolated."""
    there = [number for number, thing in enumerate(THINGS, 1) if thing.name != missing]
    mounted = ("base", "optical", 0, (0.1, 0, 0.6), Rotation.from_matrix(MOUNT).as_quat())
    recorded: list[tuple[str, Any]] = [
        ("/tf_static", transforms(mounted, ("map", "odom", 0, SHIFT, (0, 0, 0, 1)))),
        ("/tf", moving(start - FRAME // 2)),
    ]
    for number in range(frames):
        time = start + number * FRAME
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = MOUNT, eye_at(time)
        labels, depth = rendered([THINGS[thing - 1] for thing in there], pose)
        pixels = np.repeat(np.array([0, *there])[labels][..., None], 3, axis=2).astype(np.uint8)
        header = Header(stamp=Time(sec=time // 10**9, nanosec=time % 10**9), frame_id="optical")
        matrix = np.array([[CAMERA.fx, 0, CAMERA.cx], [0, CAMERA.fy, CAMERA.cy], [0, 0, 1]])
        meters = np.nan_to_num(depth, nan=0.0)
        depth_topic = ("/camera/depth", depth_message(meters, header, "32FC1"))
        if packed:
            values = np.where(meters > 0, (1000 * meters).round(), np.inf)
            depth_topic = ("/camera/depth/compressedDepth", packed_depth(values, "16UC1", "png", header))
        recorded += [
            ("/camera/image", rgb_message(pixels, "optical", header.stamp)),
            ("/camera/camera_info", camera_info_message(header, CAMERA.width, CAMERA.height, matrix)),
            depth_topic,
            ("/tf", moving(time + FRAME // 2)),
        ]
    return recorded


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """The exit code, and what was said, in one line."""
    words = ("--vocab", "; ".join(NAMES), "--overlay", "none", "--topic", "/camera/image")
    code = main(["segment", *map(str, arguments), *words])
    return code, " ".join("".join(capsys.readouterr()).split())


def remembered(path: Path) -> ObjectMemory:
    return ObjectMemory(path=path, read_only=True)


@pytest.mark.parametrize("packed", [False, True])
def test_things_are_where_they_are_in_the_map(tmp_path: Path, packed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    bag, path = save(tmp_path / "run", drive(packed=packed)), tmp_path / "lab.memory"
    code, said = run(capsys, bag, "--out", tmp_path / "out", "--memory", path)
    assert code == 0, said
    assert f"{path} remembers 2 objects now" in said
    memory = remembered(path)
    assert memory.model == "tower"
    objects = {item.name: item for item in memory.objects()}
    assert set(objects) == set(NAMES)
    for thing in THINGS:
        item = objects[thing.name]
        assert item.position == pytest.approx(thing.center + SHIFT, abs=0.06)
        assert item.looks == 6
        assert item.last_seen == START + 5 * FRAME
        assert item.crop.startswith(b"\xff\xd8")
    # The best view's pose is that of an image, between two transforms.
    view = objects["mug"].best_view
    assert view.map_from_camera[:3, 3] == pytest.approx(eye_at(view.stamp) + SHIFT, abs=1e-6)
    assert view.map_from_camera[:3, :3] == pytest.approx(MOUNT, abs=1e-6)


def test_a_recording_is_remembered_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, path, out = save(tmp_path / "run", drive()), tmp_path / "lab.memory", tmp_path / "out"
    given = (bag, "--out", out, "--memory", path)
    assert run(capsys, *given)[0] == 0
    before = remembered(path).objects()
    monkeypatch.setattr(SeeingSegmenter, "on_frame", staticmethod(lambda number: pytest.fail("it was labeled again")))
    assert run(capsys, *given)[0] == 0
    monkeypatch.setattr(SeeingSegmenter, "on_frame", staticmethod(lambda number: None))
    # Also when it is labeled anew, and when it is a copy under another name.
    copy = (tmp_path / "copy").resolve()
    bag.rename(copy)
    for arguments in (
        (copy, "--out", out, "--memory", path, "--again"),
        (copy, "--out", tmp_path / "2", "--memory", path),
    ):
        code, said = run(capsys, *arguments)
        assert code == 0
        assert f"{path} has seen this recording already; it was not observed again" in said
    assert remembered(path).objects() == before
    assert len(remembered(path).recordings) == 1


def test_what_was_labeled_without_a_memory_is_labeled_again_for_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, path = save(tmp_path / "run", drive()), tmp_path / "lab.memory"
    assert run(capsys, bag, "--out", tmp_path / "out")[0] == 0
    code, said = run(capsys, bag, "--out", tmp_path / "out", "--memory", path)
    assert code == 0 and "(memory 1)" in said
    assert len(remembered(path).objects()) == 2


def test_a_run_that_fails_leaves_the_memory_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, path = save(tmp_path / "run", drive()), tmp_path / "lab.memory"

    def fails(number: int) -> None:
        if number == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(SeeingSegmenter, "on_frame", staticmethod(fails))
    assert run(capsys, bag, "--out", tmp_path / "out", "--memory", path)[0] == 130
    assert (len(remembered(path)), remembered(path).recordings) == (0, frozenset())
    monkeypatch.setattr(SeeingSegmenter, "on_frame", staticmethod(lambda number: None))
    assert run(capsys, bag, "--out", tmp_path / "out", "--memory", path)[0] == 0
    assert [item.looks for item in remembered(path).objects()] == [6, 6]


def test_a_second_bag_notices_what_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bags = [
        save(tmp_path / "monday", drive()),
        save(tmp_path / "tuesday", drive(8, missing="mug", start=START + LATER), period=10**8 + 1),
    ]
    path = tmp_path / "lab.memory"
    code, said = run(capsys, *bags, "--out", tmp_path / "out", "--memory", path)
    assert code == 0, said
    memory = remembered(path)
    assert len(memory.recordings) == 2
    assert [(item.name, item.looks) for item in memory.objects()] == [("box", 14)]
    assert [item.name for item in memory.objects((State.GONE,))] == ["mug"]


def test_frames_without_depth_or_pose_are_counted_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = drive(frames=8)
    depths = [index for index, (topic, _) in enumerate(recorded) if topic == "/camera/depth"]
    poses = [index for index, (topic, _) in enumerate(recorded) if topic == "/tf"]
    left_out = {depths[2], poses[-1]}
    bag = save(tmp_path / "run", [item for index, item in enumerate(recorded) if index not in left_out])
    path = tmp_path / "lab.memory"
    code, said = run(capsys, bag, "--out", tmp_path / "out", "--memory", path)
    assert code == 0, said
    assert "the memory has seen 6 of 8 frames" in said
    assert "the nearest depth was 200 ms away, more than 20 ms (1 of 8)" in said
    assert "the frame 'base' is known in 'odom' from" in said
    assert [item.looks for item in remembered(path).objects()] == [6, 6]


Change = Callable[[list[tuple[str, Any]]], list[tuple[str, Any]]]


def without(*topics: str) -> Change:
    return lambda recorded: [(topic, message) for topic, message in recorded if topic not in topics]


def doubled(recorded: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    others = [(f"/rear{topic}", message) for topic, message in recorded if topic == "/camera/depth"]
    left = [(f"/left{topic}", message) for topic, message in recorded if topic == "/camera/depth"]
    moved = [(topic.replace("/camera/depth", "/left/depth"), message) for topic, message in recorded]
    return list(itertools.chain(moved, others, left))


@pytest.mark.parametrize(
    ("change", "options", "expected"),
    [
        (without("/tf", "/tf_static"), (), "has no transforms; a memory needs to know where the camera was"),
        (without("/camera/depth"), (), "has no depth, which a memory needs for places"),
        (without("/camera/camera_info"), (), "has no /camera/camera_info, which a memory needs for places"),
        (without(), ("--map-frame", "world"), "no frame 'world'; the frames are: base, map, odom, optical; choose one"),
        (without(), ("--depth", "/none"), "has no depth on /none; its depth topics: /camera/depth"),
        (doubled, (), "choose one with --depth"),
        (
            without("/tf"),
            (),
            "the memory has seen none of the 6 frames: the frames 'map' and 'optical' are not connected",
        ),
    ],
)
def test_what_a_bag_lacks_is_said(
    tmp_path: Path, change: Change, options: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, path = save(tmp_path / "run", change(drive())), tmp_path / "lab.memory"
    code, said = run(capsys, bag, "--out", tmp_path / "out", "--memory", path, *options)
    assert code == 1
    assert expected in said
    assert not remembered(path).recordings
    assert not (tmp_path / "out" / "run.json").exists()


def test_what_no_memory_can_be_filled_from_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag, picture = save(tmp_path / "run", drive(2)), segment_case.save_image(tmp_path / "a.png")
    path, out = tmp_path / "lab.memory", ("--out", tmp_path / "out")
    assert "which only bags have" in run(capsys, bag, picture, *out, "--memory", path)[1]
    assert "--map-frame is for --memory FILE" in run(capsys, bag, *out, "--map-frame", "map")[1]
    path.write_bytes(b"no database, but as long as the header of one would have to be" * 3)
    code, said = run(capsys, bag, *out, "--memory", path)
    assert code == 2 and "cannot read the memory file" in said and path.stat().st_size == 186
    path.unlink()
    with ObjectMemory(path=path):
        assert "is in use by another process" in run(capsys, bag, *out, "--memory", path)[1]
    with ObjectMemory(path=path) as memory:
        memory.learn_words(["mug"], TextEmbeddings(np.eye(DIMENSION, dtype=np.float32)[:1], 10.0, "another"))
    code, said = run(capsys, bag, *out, "--memory", path)
    assert code == 1 and "with the checkpoint that the objects were seen with" in said


def test_several_processes_are_refused(tmp_path: Path) -> None:
    args = SimpleNamespace(memory=tmp_path / "lab.memory", map_frame=None, depth=None)
    with pytest.raises(FcclipError, match="--memory cannot be filled by several processes"):
        check_memory_arguments(args, [], alone=False)


def test_the_key_of_a_recording_is_its_own(tmp_path: Path) -> None:
    one = save(tmp_path / "one", drive(2))
    keys = {
        recording_key(BagImages(save(tmp_path / name, drive(count), period=period), "/camera/image"))
        for name, count, period in (("two", 2, 10**8), ("three", 3, 10**8), ("four", 2, 10**8 + 1))
    }
    assert len(keys) == 3 and recording_key(BagImages(one, "/camera/image")) in keys
    with pytest.raises(ImageError):
        recording_key(BagImages(one, "/none"))
