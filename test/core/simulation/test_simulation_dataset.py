from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gl_here import needs_gl
from PIL import Image

from fcclip_core.cli import main
from fcclip_core.datasets.coco_panoptic import panoptic_folder
from fcclip_core.errors import SettingsError, SimulationError
from fcclip_core.simulation.dataset import WorldPlan, render_scene, write_coco, write_shards
from fcclip_core.simulation.frames import Frame
from fcclip_core.simulation.names import world_vocabulary
from fcclip_core.simulation.render import Renderer

PLAN = WorldPlan(scenes=3, seed=9, split="all", size=(96, 72), views=2)


def direct(plan: WorldPlan) -> list[Frame]:
    with Renderer() as renderer:
        return [frame for scene in range(plan.scenes) for frame in render_scene(renderer, plan, scene)]


@needs_gl
def test_coco_folder_reads_back_as_what_was_rendered(tmp_path: Path) -> None:
    done: list[int] = []
    write_coco(PLAN, tmp_path / "world", advance=done.append)
    assert sum(done) == PLAN.frames == 6
    dataset = panoptic_folder(tmp_path / "world")
    assert dataset.classes.names == world_vocabulary().names
    for sample, frame in zip((dataset[index] for index in range(len(dataset))), direct(PLAN), strict=True):
        assert np.array_equal(sample.image, frame.image)
        names = {segment.id: dataset.classes.names[segment.class_index] for segment in sample.segments}
        expected = {segment.id: segment.name for segment in frame.segments}
        assert sorted(names.values()) == sorted(expected.values())
        for number, name in names.items():
            (source,) = np.unique(frame.segment_map[sample.segment_map == number])
            assert expected[int(source)] == name


@needs_gl
def test_depth_and_cameras_are_stored_in_millimeters_and_meters(tmp_path: Path) -> None:
    write_coco(PLAN, tmp_path)
    document = json.loads((tmp_path / "panoptic.json").read_text())
    for image, annotation, frame in zip(document["images"], document["annotations"], direct(PLAN), strict=True):
        stored = np.asarray(Image.open(tmp_path / "depth" / image["depth_file_name"]))
        assert stored.dtype == np.uint16
        near = frame.depth < 65
        assert np.abs(stored[near] / 1000 - frame.depth[near]).max() <= 0.00051
        assert (stored[np.isinf(frame.depth)] == 0).all()
        assert np.array(image["pose"]) == pytest.approx(frame.pose)
        assert np.array(image["intrinsics"]) == pytest.approx(frame.intrinsics)
        for segment in annotation["segments_info"]:
            rows, columns = np.nonzero(frame.segment_map == segment["id"])
            assert segment["area"] == len(rows)
            x, y, width, height = segment["bbox"]
            assert (x, y, x + width - 1, y + height - 1) == (columns.min(), rows.min(), columns.max(), rows.max())


@needs_gl
def test_second_run_renders_only_what_is_missing(tmp_path: Path) -> None:
    write_coco(PLAN, tmp_path)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.glob("*/*") if path.is_file()}
    annotations = (tmp_path / "panoptic.json").read_bytes()
    (tmp_path / "panoptic.json").unlink()
    (tmp_path / "parts" / "000001.json").unlink()
    (tmp_path / "images" / "000001_00.png").write_bytes(b"half a picture")
    write_coco(PLAN, tmp_path)
    assert (tmp_path / "panoptic.json").read_bytes() == annotations
    for path, (content, time) in before.items():
        assert path.read_bytes() == content, path
        assert (path.stat().st_mtime_ns == time) == (not path.name.startswith("000001"))


@needs_gl
def test_shards_hold_the_same_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcclip_core.simulation.dataset.FRAMES_PER_SHARD", 4)
    plan = WorldPlan(scenes=3, seed=9, split="train", size=(48, 36), views=2)
    write_shards(plan, tmp_path)
    names = ["shard-00000.npz", "shard-00001.npz"]
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == names
    frames = direct(plan)
    place = 0
    for name in names:
        with np.load(tmp_path / name) as shard:
            for index, (image, ids) in enumerate(zip(shard["images"], shard["maps"], strict=True)):
                frame = frames[place]
                assert np.array_equal(image, frame.image)
                assert np.array_equal(ids, frame.segment_map)
                mine = shard["segment_frame"] == index
                classes = shard["class_names"][shard["segment_class"][mine]].tolist()
                assert list(zip(shard["segment_id"][mine].tolist(), classes, strict=True)) == [
                    (segment.id, segment.name) for segment in frame.segments
                ]
                place += 1
    assert place == plan.frames


@needs_gl
@pytest.mark.slow
def test_two_processes_write_what_one_writes(tmp_path: Path) -> None:
    for workers in (1, 2):
        write_coco(PLAN, tmp_path / str(workers), workers)
    for path in (tmp_path / "1").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "2" / path.relative_to(tmp_path / "1")).read_bytes()


def test_rendering_processes_that_cannot_render_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    with pytest.raises(SimulationError, match="does not render off-screen"):
        write_coco(PLAN, tmp_path, workers=2)


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SimulationError, match="not empty"):
        write_coco(PLAN, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@needs_gl
def test_a_folder_with_another_world_in_it_is_left_alone(tmp_path: Path) -> None:
    small = WorldPlan(scenes=1, seed=1, size=(32, 24), views=1)
    write_coco(small, tmp_path)
    with pytest.raises(SimulationError, match="other settings"):
        write_coco(WorldPlan(scenes=1, seed=2, size=(32, 24), views=1), tmp_path)
    with pytest.raises(SimulationError, match="other settings"):
        write_shards(small, tmp_path)


@pytest.mark.parametrize(
    ("values", "error", "says"),
    [
        ({"scenes": 0}, SimulationError, "scenes is 0"),
        ({"scenes": 1, "views": 0}, SimulationError, "views is 0"),
        ({"scenes": 1, "size": (0, 10)}, SimulationError, "width is 0"),
        ({"scenes": 1, "size": (10, 9000)}, SimulationError, "height is 9000"),
        ({"scenes": 1, "seed": -1}, SimulationError, "seed is -1"),
        ({"scenes": 1, "split": "val"}, SettingsError, "'val'"),
    ],
)
def test_plans_out_of_range_are_refused(values: dict, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        WorldPlan(**values)


@needs_gl
def test_command_writes_a_world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    options = ["--scenes", "1", "--views", "1", "--size", "64x48", "--seed", "4", "--workers", "1"]
    assert main(["world", "render", str(out), *options]) == 0
    with Image.open(out / "images" / "000000_00.png") as image:
        assert image.size == (64, 48)
    assert main(["world", "render", str(out), *options, "--split", "train"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_command_refuses_a_size_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["world", "render", str(tmp_path), "--scenes", "1", "--size", "big"])
    assert "WIDTHxHEIGHT" in capsys.readouterr().err
