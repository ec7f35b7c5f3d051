"""Recorded drives read back as what was rendered, without a GL library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gl_here import needs_gl

from fcclip_core.cli import main
from fcclip_core.datasets.drive_recording import Recording
from fcclip_core.errors import DatasetError
from fcclip_core.simulation.coco_files import make_folders, save_annotations, save_frame
from fcclip_core.simulation.drive import make_drive
from fcclip_core.simulation.frames import Frame, TruthSegment
from fcclip_core.simulation.render import Renderer


def frame(index: int) -> Frame:
    """A red ball on grass that moves to the right; the sky above has no depth."""
    segment_map = np.full((6, 8), 1, np.int32)
    segment_map[2:4, index : index + 2] = 2
    depth = np.full((6, 8), 1.5 + index, np.float32)
    depth[0] = np.inf
    pose = np.eye(4)
    pose[0, 3] = index
    return Frame(
        image=np.full((6, 8, 3), 40 * index, np.uint8),
        segment_map=segment_map,
        segments=(TruthSegment(1, "grass", False), TruthSegment(2, "red ball", True)),
        depth=depth,
        intrinsics=np.array([[7.0, 0, 3.5], [0, 7.0, 2.5], [0, 0, 1]]),
        pose=pose,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_folders(tmp_path)
    save_annotations(tmp_path, [save_frame(tmp_path, f"{i:05d}", i + 1, frame(i)) for i in range(3)], "a test")
    return tmp_path


def assert_equal(read: Frame, written: Frame) -> None:
    for name in ("image", "segment_map", "intrinsics", "pose"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name), name)
    assert read.segments == written.segments
    np.testing.assert_allclose(read.depth, written.depth, atol=0.00051)
    assert read.depth.dtype == np.float32 and read.segment_map.dtype == np.int32


def test_frames_read_back_in_order(folder: Path) -> None:
    recording = Recording(folder)
    assert len(recording) == 3
    for index in range(3):
        assert_equal(recording[index], frame(index))


def test_reading_needs_neither_mujoco_nor_gl(folder: Path) -> None:
    code = f"""
import sys
sys.modules["mujoco"] = None
from pathlib import Path
from fcclip_core.datasets.drive_recording import Recording
print(len(Recording(Path({str(folder)!r}))[0].segments))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "2\n", done.stderr


def test_what_is_no_recording_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone.panoptic\.json"):
        Recording(tmp_path / "gone")
    document = json.loads((folder / "panoptic.json").read_text())
    del document["images"][1]["pose"]
    (folder / "panoptic.json").write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=r"00001\.png; create a recording with `fcclip world drive`"):
        Recording(folder)


def test_missing_depth_is_named(folder: Path) -> None:
    (folder / "depth" / "00002.png").unlink()
    with pytest.raises(DatasetError, match=r"depth.00002\.png is missing"):
        Recording(folder)[2]


@needs_gl
def test_command_records_the_drive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "drive"
    command = ["world", "drive", str(out), "--frames", "3", "--rate", "2", "--seed", "3", "--size", "48x32"]
    assert main(command) == 0
    drive = make_drive(3)
    with Renderer() as renderer:
        expected = [renderer.render(drive.scene, drive.camera(index / 2), (48, 32)) for index in range(3)]
    recording = Recording(out)
    assert len(recording) == 3
    for index, rendered in enumerate(expected):
        read = recording[index]
        np.testing.assert_array_equal(read.image, rendered.image)
        np.testing.assert_allclose(read.pose, rendered.pose)
        assert [item.name for item in read.segments] == [item.name for item in rendered.segments]
    assert main(command) == 2
    assert "is not empty; choose another folder" in " ".join(capsys.readouterr().err.split())
