"""`fcclip segment` a second time: what is done and whole is kept, what was made otherwise is labeled again."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from segment_case import FakeSegmenter, names_in, run, said, save_image, save_video

from fcclip_core.commands import segment_records
from fcclip_core.commands.segment_records import state_of
from fcclip_core.errors import FolderTakenError
from fcclip_core.files import atomic_write, folder_claim


@pytest.fixture(autouse=True)
def fake_segmenter(monkeypatch: pytest.MonkeyPatch) -> type[FakeSegmenter]:
    monkeypatch.setattr("fcclip_core.segmenter.Segmenter", FakeSegmenter)
    monkeypatch.setattr(FakeSegmenter, "on_frame", staticmethod(lambda index: None))
    return FakeSegmenter


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time of the last change and bytes of each file."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def test_what_is_done_is_kept_until_it_is_asked_for_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = save_image(tmp_path / "a.png"), save_image(tmp_path / "b.jpg"), save_video(tmp_path / "c.mp4", frames=2)
    out = tmp_path / "out"
    assert run(*inputs[:2], "--out", out) == 0
    assert "done already" not in said(capsys)
    before = contents(out)
    assert run(*inputs, "--out", out) == 0
    assert "1 of 3 inputs segmented" in (told := said(capsys))
    assert "2 of 3 were done already (--again labels them anew)" in told and "labeled again" not in told
    after = contents(out)
    assert before.items() <= after.items(), "not touched"
    assert run(*inputs, "--out", out) == 0
    assert "0 of 3 inputs segmented" in said(capsys) and contents(out) == after
    assert run(*inputs, "--out", out, "--again") == 0
    assert "3 of 3 inputs segmented" in (told := said(capsys)) and "done already" not in told
    assert set(contents(out)) == set(after)
    assert all(time > after[name][0] for name, (time, _) in contents(out).items())


def mask(folder: Path) -> Path:
    pixels = np.zeros((40, 60), np.uint8)
    pixels[:, :10] = 255
    Image.fromarray(pixels).save(folder / "mask.png")
    return folder / "mask.png"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--vocab", "cup; table"], "words 1"),
        (["--stuff", "table"], "words 1"),
        (["--background", "shelf"], "words 1"),
        (["--alpha", "0.1"], "settings 1"),
        (["--overlay", "none"], "outputs 1"),
        (["--opacity", "0.9"], "outputs 1"),
        (["--contours", "polygons"], "outputs 1"),
        (["--max-image-pixels", "5000"], "outputs 1"),
        (["--num-threads", "2"], ""),
        (["--with-input"], ""),
    ],
)
def test_other_options_that_matter_label_again(
    tmp_path: Path, options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, out = save_image(tmp_path / "a.png"), tmp_path / "out"
    assert run(photo, "--out", out) == 0
    said(capsys)
    assert run(photo, "--out", out, *options) == 0
    told = said(capsys)
    if reason:
        assert f"1 were labeled again, because an earlier run made them otherwise ({reason})" in told
        assert run(photo, "--out", out, *options) == 0
        assert "1 of 1 were done already" in said(capsys)
    else:
        assert "1 of 1 were done already" in told


def test_other_weights_versions_and_masks_label_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, out = save_image(tmp_path / "a.png"), tmp_path / "out"
    assert run(photo, "--out", out) == 0
    monkeypatch.setattr(FakeSegmenter, "weights_id", "trained longer")
    assert run(photo, "--out", out) == 0
    assert "otherwise (weights 1)" in said(capsys)
    monkeypatch.setattr(segment_records, "package_version", lambda: "9.0.0")
    assert run(photo, "--out", out) == 0
    assert "otherwise (version 1)" in said(capsys)
    assert run(photo, "--out", out, "--ignore-mask", mask(tmp_path)) == 0
    assert "otherwise (ignore mask 1)" in said(capsys)
    (tmp_path / "mask.png").rename(tmp_path / "arm.png")
    assert run(photo, "--out", out, "--ignore-mask", tmp_path / "arm.png") == 0
    assert "done already" in said(capsys), "its pixels matter, not its name"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def without_record(path: Path) -> None:
    about = json.loads(path.read_text())
    del about["record"]
    path.write_text(json.dumps(about))


def of_another_place(path: Path) -> None:
    """Names a file that is not one of this input's results."""
    about = json.loads(path.read_text())
    about["files"]["overlay"] = "../precious.txt"
    path.write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: cut(folder / "out" / "a_labels.png"), "files are missing or cut 1"),
        (lambda folder: (folder / "out" / "a_overlay.jpg").unlink(), "files are missing or cut 1"),
        (lambda folder: save_image(folder / "a.png", 44), "input 1"),
        (lambda folder: os.utime(folder / "a.png"), "input 1"),
        (lambda folder: (folder / "out" / "a.json").write_text("{"), "unknown 1"),
        (lambda folder: (folder / "out" / "a.json").write_text("[" * 100_000), "unknown 1"),
        (lambda folder: (folder / "out" / "a.json").write_text('{"record": [], "files": 3}'), "unknown 1"),
        (lambda folder: without_record(folder / "out" / "a.json"), "unknown 1"),
        (lambda folder: of_another_place(folder / "out" / "a.json"), "files are missing or cut 1"),
        (lambda folder: (folder / "out" / "a.json").unlink(), ""),
    ],
)
def test_what_is_changed_cut_or_unknown_is_labeled_again(
    tmp_path: Path, damage: Callable[[Path], object], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, out = save_image(tmp_path / "a.png"), tmp_path / "out"
    (tmp_path / "precious.txt").write_text("mine")
    assert run(photo, "--out", out) == 0
    whole = names_in(out)
    said(capsys)
    damage(tmp_path)
    assert run(photo, "--out", out) == 0
    assert "1 of 1 inputs segmented" in (told := said(capsys))
    assert f"({reason})" in told if reason else "labeled again" not in told
    assert names_in(out) == whole and (tmp_path / "precious.txt").read_text() == "mine"
    assert run(photo, "--out", out) == 0
    assert "done already" in said(capsys)


def test_what_a_run_writes_no_more_is_removed(tmp_path: Path) -> None:
    photo, video, out = save_image(tmp_path / "a.png"), save_video(tmp_path / "b.mp4", frames=1), tmp_path / "out"
    assert run(photo, video, "--out", out) == 0
    (out / "a_notes.txt").write_text("the user's")
    assert run(photo, video, "--out", out, "--overlay", "none") == 0
    assert names_in(out) == ["a.json", "a_labels.png", "a_notes.txt", "a_semantic.png", "b.json", "b_frames.jsonl"]


def test_what_failed_is_tried_again_and_what_a_killed_run_left_is_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad, out = save_image(tmp_path / "a.png"), tmp_path / "b.png", tmp_path / "out"
    bad.write_text("no picture yet")
    assert run(good, bad, "--out", out) == 1
    left = out / f"{atomic_write.PREFIX}killed"
    left.mkdir()
    (left / "fcclip-lock").touch()
    (left / "b_labels.png").write_text("half")
    assert run(good, "--out", out) == 0
    assert not left.exists(), "also where nothing is written"
    save_image(bad)
    said(capsys)
    assert run(good, bad, "--out", out) == 0
    assert "1 of 2 inputs segmented" in (told := said(capsys)) and "1 of 2 were done already" in told


def test_a_folder_has_changed_when_one_of_its_files_has(tmp_path: Path) -> None:
    bag = tmp_path / "run"
    bag.mkdir()
    for name in ("metadata.yaml", "run_0.mcap"):
        (bag / name).write_text("12345")
    before = state_of(bag)
    assert before["size"] == 10 and before["path"] == str(bag)
    os.utime(bag / "run_0.mcap", ns=(0, before["mtime_ns"] + 1))
    assert state_of(bag) == before | {"mtime_ns": before["mtime_ns"] + 1}
    assert state_of(tmp_path / "gone") == {}


def test_a_second_run_into_the_same_folder_is_refused_while_the_first_one_lives(
    tmp_path: Path, fake_segmenter: type[FakeSegmenter]
) -> None:
    photo, out = save_image(tmp_path / "a.png"), tmp_path / "out"
    refused = []

    def begin_another(frame: int) -> None:
        with pytest.raises(
            FolderTakenError, match=rf"another run \(process {os.getpid()} on .*\) writes to .*out; wait"
        ):
            run(photo, "--out", out)
        refused.append(frame)

    fake_segmenter.on_frame = staticmethod(begin_another)
    assert run(photo, "--out", out) == 0 and refused == [1]
    assert folder_claim.NAME not in names_in(out)


def test_the_claim_of_a_killed_run_counts_no_more(tmp_path: Path) -> None:
    photo, out = save_image(tmp_path / "a.png"), tmp_path / "out"
    out.mkdir()
    (out / folder_claim.NAME).write_text('{"token": "killed", "host": "here", "pid": 1}')
    assert run(photo, "--out", out) == 0
    assert folder_claim.NAME not in names_in(out)


def test_where_there_are_no_locks_the_earlier_run_ends_when_a_later_one_begins(
    tmp_path: Path, fake_segmenter: type[FakeSegmenter], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(file: int, operation: int) -> None:
        raise OSError("No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    photos, out = [save_image(tmp_path / name) for name in ("a.png", "b.png", "c.png")], tmp_path / "out"

    def begin_another(frame: int) -> None:
        if frame == 2:
            (out / folder_claim.NAME).write_text('{"token": "later", "host": "robot7", "pid": 4}')

    fake_segmenter.on_frame = staticmethod(begin_another)
    with pytest.raises(FolderTakenError, match=r"another run \(process 4 on robot7\) has begun to write"):
        run(*photos, "--out", out, "--overlay", "none")
    # The claim is the later run's.
    assert names_in(out) == [folder_claim.NAME, "a.json", "a_labels.png", "a_semantic.png"]
