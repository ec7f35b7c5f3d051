"""`fcclip memory`: what it prints, writes and refuses, on a file that a world of boxes has filled."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from fcclip_core.cli import main
from fcclip_core.memory.object_memory import ObjectMemory
from fcclip_core.vocabulary.embedded_text import TextEmbeddings

sys.path.append(str(Path(__file__).parents[1] / "memory"))
from box_world import CAMERA, DIMENSION, SECOND, Thing, look  # noqa: E402

ROWS = {"mug": 0, "red cup": 0, "box": 2, "lamp": 5}
MUG = Thing("mug", (2.0, 0.0, 0.1), (0.12, 0.12, 0.2), look=0)
BOX = Thing("box", (2.0, 0.8, 0.15), (0.3, 0.3, 0.3), look=2)
EYE, TARGET = (0.9, 0.2, 0.6), (2.0, 0.2, 0.1)
START = 1_750_000_000 * SECOND
NOW = ("--now", "newest")


def embed(names: Sequence[str], model: str = "tower") -> TextEmbeddings:
    return TextEmbeddings(np.eye(DIMENSION, dtype=np.float32)[[ROWS.get(name, 7) for name in names]], 10.0, model)


class FakeSegmenter:
    model = "tower"

    @classmethod
    def from_checkpoint(cls, source: str, **options: object) -> FakeSegmenter:
        return cls()

    def default_background(self) -> None:
        return None

    def embed_text(self, names: Sequence[str]) -> TextEmbeddings:
        return embed(names, self.model)


@pytest.fixture(autouse=True)
def wide_and_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("fcclip_core.segmenter.Segmenter", FakeSegmenter)


def filled(path: Path, *things: Thing, model: str = "tower") -> Path:
    image = np.full((CAMERA.height, CAMERA.width, 3), (200, 30, 30), np.uint8)
    with ObjectMemory(path=path) as memory:
        memory.learn_words(["mug"], embed(["mug"], model))
        for number in range(4):
            seen = look(things, EYE, TARGET, stamp=START + number * SECOND, words=("box", "table"), image=image)
            memory.observe(seen)
    return path


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    return filled(tmp_path / "lab.memory", MUG, BOX)


@pytest.fixture
def in_use(lab: Path) -> Iterator[Path]:
    with ObjectMemory(path=lab):
        yield lab


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """The exit code, and what was printed."""
    code = main(["memory", *map(str, arguments)])
    return code, "".join(capsys.readouterr())


def found(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    """Names of the objects that a listing has."""
    code, text = run(capsys, "list", *arguments, "--json")
    assert code == 0
    return [item["name"] for item in json.loads(text)]


def test_the_list_has_a_row_for_each_object(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "list", lab, *NOW)
    rows = [line.split() for line in text.splitlines()]
    assert code == 0
    (mug,) = [row for row in rows if row[1:2] == ["mug"]]
    assert mug[2] == "confirmed" and mug[-4:] == ["4", "0", "s", "ago"]
    x, y, _ = (float(value.rstrip(",")) for value in mug[3:6])
    assert (x, y) == pytest.approx((2.0, 0.0), abs=0.06)
    assert f"2 of 2 objects in {lab}" in text


def test_filters_leave_out_what_is_elsewhere_called_otherwise_old_or_gone(
    lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corners = tmp_path / "kitchen.json"
    corners.write_text("[[1.5, 0.5], [2.5, 0.5], [2.5, 1], [1.5, 1.0]]")
    assert found(capsys, lab) == ["mug", "box"]
    assert found(capsys, lab, "--near", "2,0,0.3") == ["mug"]
    assert found(capsys, lab, "--area", "1.5,-0.5 2.5,-0.5 2.5,0.4 1.5,0.4") == ["mug"]
    assert found(capsys, lab, "--area", corners) == ["box"]
    assert found(capsys, lab, "--called", "box", "--called", "lamp") == ["box"]
    assert found(capsys, lab, "--max-age", "2min", "--now", START / SECOND + 122) == ["mug", "box"]
    assert found(capsys, lab, "--max-age", "2min", "--now", START / SECOND + 124) == []
    assert found(capsys, lab, "--state", "gone") == []
    assert found(capsys, lab, "--state", "gone", "--state", "all", "--limit", "1") == ["mug"]


def test_words_are_answered_with_place_and_approach(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "ask", lab, "red cup", *NOW)
    assert code == 0
    assert text.startswith('"red cup": mug (object 1) at (')
    code, text = run(capsys, "ask", lab, "red cup", "--json", *NOW)
    reply = json.loads(text)
    (answer,) = reply["answers"]
    assert (answer["name"], answer["age"]) == ("mug", 0.0)
    assert answer["position"] == pytest.approx((2.0, 0.0, 0.1), abs=0.06)
    ground = answer["approach"]["ground"]
    assert (ground["x"], ground["y"], ground["yaw"]) == pytest.approx((0.9, 0.2, 0.0), abs=1e-6)
    assert reply["best"] == answer


def test_nothing_like_it_is_an_answer_and_exit_code_one(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "ask", lab, "red cup", "--min-probability", "1", *NOW)
    assert code == 1
    assert 'nothing like "red cup" is remembered; the best is mug (object 1)' in text
    code, text = run(capsys, "ask", lab, "red cup", "--near", "90,0,1", "--json")
    assert code == 1
    assert json.loads(text) == {
        "sentence": 'nothing is remembered that could be "red cup"',
        "answers": [],
        "best": None,
    }


def test_distractors_compete(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probability = []
    for options in ((), ("--distractors", "mug, beaker; lamp")):
        _, text = run(capsys, "ask", lab, "red cup", "--json", *options)
        probability.append(json.loads(text)["best"]["probability"])
    assert probability[0] > 0.99 and probability[1] == pytest.approx(0.5, abs=0.01)


def test_words_of_another_model_are_refused(
    lab: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeSegmenter, "model", "other")
    code, text = run(capsys, "ask", lab, "red cup")
    assert code == 2
    assert "ask with the checkpoint that the objects were seen with" in text


def test_show_prints_everything_and_writes_the_picture(
    lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "mug.jpg"
    code, text = run(capsys, "show", lab, 1, "--crop", picture)
    assert code == 0
    facts = dict(line.split(maxsplit=1) for line in text.splitlines() if not line.startswith(("first", "last")))
    assert facts["called"] == "mug: 4 looks, mean score 0.90"
    assert facts["looks"] == "4, from 1 of 8 sides"
    assert "standard deviations" in facts["position"] and "size" in facts["box"]
    assert facts["approach"].startswith("from 0.90, 0.20, 0")
    assert "first seen  2025-06-15 15:06:40 UTC" in text
    pixels = np.asarray(PIL.Image.open(io.BytesIO(picture.read_bytes())))
    assert pixels.mean((0, 1)) == pytest.approx((200, 30, 30), abs=8)
    _, text = run(capsys, "show", lab, 2, "--json")
    assert json.loads(text)["names"] == [{"name": "box", "looks": 4, "mean_score": 0.9}]


def test_export_writes_what_the_filters_leave(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "objects.json"
    assert run(capsys, "export", lab, target, "--called", "mug")[0] == 0
    document = json.loads(target.read_text())
    assert document["model"] == "tower"
    (mug,) = document["objects"]
    assert np.array(mug["covariance"]).shape == (3, 3)
    assert mug["box"]["size"] == pytest.approx((0.12, 0.12, 0.2), abs=0.08)
    code, text = run(capsys, "export", lab, lab)
    assert code == 2 and "would replace an input" in text


def test_merging_joins_what_both_know(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lamp = Thing("lamp", (2.0, -0.6, 0.2), (0.2, 0.2, 0.4), look=5)
    other, target = filled(tmp_path / "later.memory", MUG, lamp), tmp_path / "both.memory"
    code, text = run(capsys, "merge", lab, other, "--out", target)
    assert code == 0
    assert f"2 + 2 objects became 3 in {target}; their coordinates were taken to be of one map" in text
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith("both")} == {"both.memory"}
    assert sorted(found(capsys, target)) == ["box", "lamp", "mug"]
    assert run(capsys, "ask", target, "red cup", *NOW)[0] == 0


def test_merging_replaces_nothing_and_mixes_no_models(
    lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, target = filled(tmp_path / "other.memory", MUG, model="of another"), tmp_path / "new.memory"
    assert "exists already, and a memory is never replaced" in run(capsys, "merge", lab, lab, "--out", other)[1]
    assert "there is only" in run(capsys, "merge", lab, "--out", target)[1]
    code, text = run(capsys, "merge", lab, other, "--out", target)
    assert code == 2 and "the memories are of two models, 'tower' and 'of another'" in text
    assert not target.exists()


def test_a_name_is_kept_and_found_and_an_object_forgotten(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "name", lab, 1, "Ada's mug")[0] == 0
    assert found(capsys, lab) == ["Ada's mug", "box"]
    _, text = run(capsys, "ask", lab, "Ada's mug", "--json")
    assert json.loads(text)["best"]["probability"] == 1.0
    assert run(capsys, "forget", lab, 2, 77) == (0, f"1 of 2 objects are forgotten in {lab}\n")
    assert run(capsys, "forget", lab, 2)[0] == 1
    assert found(capsys, lab) == ["Ada's mug"]


def test_a_file_in_use_is_read_and_not_changed(in_use: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert found(capsys, in_use) == ["mug", "box"]
    assert run(capsys, "ask", in_use, "red cup")[0] == 0
    for arguments in (("name", in_use, 1, "mine"), ("forget", in_use, 1)):
        code, text = run(capsys, *arguments)
        assert code == 2 and "is in use by another process" in text


def test_what_is_no_memory_is_neither_made_nor_moved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for action in (("list",), ("name", 1, "x"), ("forget", 1)):
        code, text = run(capsys, action[0], tmp_path / "none.memory", *action[1:])
        assert code == 2 and "there is no memory file" in text
    damaged = tmp_path / "damaged.memory"
    damaged.write_bytes(b"SQLite format 3\0" + b"\xff" * 4000)
    before = damaged.read_bytes()
    code, _ = run(capsys, "forget", damaged, 1)
    assert code == 2 and damaged.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.memory"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("list", "--near", "1,2"), "--near is '1,2'; expected X,Y,RADIUS in meters"),
        (("list", "--near", "1,2,0"), "a radius above 0"),
        (("list", "--area", "1,2 3"), "--area is '3'; expected X,Y of each corner"),
        (("list", "--area", "0,0 1,1"), "the area has 2 corners"),
        (("list", "--area", "none.json"), "--area none.json cannot be read"),
        (("list", "--now", "yesterday"), "--now is 'yesterday'"),
        (("list", "--limit", "-1"), "--limit is -1"),
        (("ask", "mug", "--limit", "0"), "limit is 0"),
        (("ask", ", "), "words"),
        (("show", "9"), "there is no object 9 in the memory"),
        (("show", "1", "--crop", "mug.png"), "pictures are JPEG"),
    ],
)
def test_what_makes_no_sense_is_said(
    lab: Path, arguments: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = run(capsys, arguments[0], lab, *arguments[1:])
    assert code == 2
    assert expected in text


@pytest.mark.parametrize("content", ['{"a": 1}', "[[0, 0], [1]]", "[1, 2", "[[0, 0], [true, 1], [1, 1]]", '[["0", 1]]'])
def test_a_file_without_corners_is_said(
    lab: Path, tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "area.json"
    path.write_text(content)
    code, text = run(capsys, "list", lab, "--area", path)
    assert code == 2 and "is no JSON list of corners" in text


def test_an_age_needs_a_unit_that_is_known(lab: Path) -> None:
    with pytest.raises(SystemExit):
        main(["memory", "list", str(lab), "--max-age", "3 weeks"])
