"""The demo's album: scenes are recognised, pictures are composed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcclip_core.errors import FcclipError
from fcclip_ros.demo.ledger import Frame, PublishedClass, SegmentList
from fcclip_ros.demo.pictures import Album


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    ramp = np.tile(np.linspace(0, 255, 120, dtype=np.uint8), (90, 1))
    for name, grey in {"left": ramp, "right": ramp[:, ::-1], "dark": ramp // 8}.items():
        Image.fromarray(np.stack([grey] * 3, axis=2)).save(folder / f"{name}.png")
    (folder / "CREDITS.md").write_text("not a picture")
    return folder


def frame(photo: np.ndarray, version: int, shade: int = 9) -> Frame:
    segments = SegmentList(version, *photo.shape[:2], ())
    return Frame(photo=photo, labels={"segments": segments}, overlay=np.full_like(photo, shade))


def test_scaled_and_compressed_frames_are_recognised(photos: Path, tmp_path: Path) -> None:
    album = Album(photos)
    assert album.scenes == ("dark", "left", "right")
    for name in album.scenes:
        Image.open(photos / f"{name}.png").resize((200, 150)).save(tmp_path / "frame.jpg", quality=50)
        assert album.scene_of(np.asarray(Image.open(tmp_path / "frame.jpg"))) == name


def test_newest_frame_of_each_scene_and_version_is_written(photos: Path, tmp_path: Path) -> None:
    album = Album(photos)
    left, dark = (np.asarray(Image.open(photos / f"{name}.png")) for name in ("left", "dark"))
    for photo, version, shade in ((left, 1, 50), (left, 1, 200), (dark, 2, 100)):
        album.put(frame(photo, version, shade))
    assert album.missing(1) == ["dark", "right"]
    written = album.save(tmp_path, {1: (PublishedClass(1, "cup", (250, 10, 10)),)})
    assert {key: path.name for key, path in written.items()} == {("left", 1): "left_v1.jpg", ("dark", 2): "dark_v2.jpg"}
    picture = np.asarray(Image.open(written["left", 1])).astype(int)
    assert picture.shape == (90 + 32, 120 + 4 + 120, 3)
    assert abs(picture[45, :120] - left[45].astype(int)).mean() < 5
    assert abs(picture[20:70, 140:230] - 200).max() < 8
    assert abs(picture[90 + 16, 8 + 8] - (250, 10, 10)).max() < 40, "the legend shows the class's colour"


def test_folder_without_photographs_is_explained(tmp_path: Path) -> None:
    with pytest.raises(FcclipError, match="holds no JPEG or PNG"):
        Album(tmp_path)
    with pytest.raises(FcclipError, match="is no folder"):
        Album(tmp_path / "gone")
