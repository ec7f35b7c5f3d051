"""`fcclip view --memory`: objects are where the memory has them, with names, pictures and arrows."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from fcclip_core.cli import main
from fcclip_core.memory.object_memory import ObjectMemory

pytest.importorskip("rerun", reason="rerun-sdk is not installed")
from rerun.chunk import RrdReader  # noqa: E402

sys.path.append(str(Path(__file__).parents[1] / "memory"))
from box_world import CAMERA, SECOND, Thing, look, pose_at  # noqa: E402

MUG = Thing("mug", (2.0, 0.0, 0.1), (0.12, 0.12, 0.2), look=0)
BOX = Thing("box", (2.0, 0.5, 0.15), (0.3, 0.3, 0.3), look=2)
EYE, TARGET = (0.9, 0.2, 0.6), (2.0, 0.2, 0.1)


def shown(path: Path) -> dict[tuple[str, str], list]:
    """(entity, component) -> what was logged last."""
    found = {}
    for chunk in RrdReader(path).stream():
        batch = chunk.to_record_batch()
        for name in batch.schema.names:
            if ":" in name:
                found[chunk.entity_path, name] = batch.column(name).to_pylist()[-1]
    return found


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    path, image = tmp_path / "lab.memory", np.full((CAMERA.height, CAMERA.width, 3), 90, np.uint8)
    with ObjectMemory(path=path) as memory:
        for number in range(4):
            memory.observe(look([MUG, BOX], EYE, TARGET, stamp=number * SECOND, image=image))
    return path


def test_objects_are_boxes_with_pictures_in_the_map(
    lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["view", "--memory", str(lab), "--save", str(tmp_path / "lab.rrd")]) == 0
    assert "2 objects, and 0 that are gone" in capsys.readouterr().err
    found, items = shown(tmp_path / "lab.rrd"), ObjectMemory(path=lab, read_only=True).objects()
    boxes = [found["/map/objects", f"Boxes3D:{name}"] for name in ("labels", "centers", "half_sizes")]
    assert boxes[0] == ["mug (1)", "box (2)"]
    assert np.array(boxes[1]) == pytest.approx(np.array([item.center for item in items]), abs=1e-5)
    assert np.array(boxes[2]) == pytest.approx(np.array([item.extents / 2 for item in items]), abs=1e-5)
    arrows = np.array(found["/map/approach", "Arrows3D:origins"])
    assert arrows == pytest.approx(np.array([EYE, EYE]), abs=1e-5)
    forward = pose_at(EYE, TARGET)[:3, 2]
    for item in items:
        picture = f"/map/pictures/{item.id}"
        (contents,) = found[picture, "EncodedImage:blob"]
        assert bytes(contents) == item.crop
        (place,) = found[picture, "Transform3D:translation"]
        (distance,) = found[picture, "Pinhole:image_plane_distance"]
        middle = np.array(place) + distance * forward
        assert middle[:2] == pytest.approx(item.center[:2], abs=1e-4)
        assert middle[2] - distance / 2 == pytest.approx(item.high[2], abs=1e-4)


def test_a_bag_beside_it_or_no_memory_is_refused(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = ("--save", str(tmp_path / "lab.rrd"))
    assert main(["view", str(tmp_path), "--memory", str(lab), *target]) == 2
    assert "look at one after the other" in capsys.readouterr().err
    assert main(["view", "--memory", str(tmp_path / "none"), *target]) == 2
    assert "there is no memory file" in capsys.readouterr().err
    assert main(["view", "--memory", str(lab), "--save", str(lab)]) == 2
    assert "would replace an input" in capsys.readouterr().err
