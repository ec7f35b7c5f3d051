"""`fcclip vocab`: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from fcclip_core.commands import vocab
from fcclip_core.errors import FcclipError, VocabularyError
from fcclip_core.vocabulary.classes import Vocabulary


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    vocab.add_parser(parser.add_subparsers())
    args = parser.parse_args(["vocab", *map(str, arguments)])
    return args.run(args)


def cells(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines()]


def test_list_counts_every_bundled_vocabulary(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    rows = {row[0]: row[1:5] for row in cells(capsys.readouterr().out) if len(row) > 5}
    assert rows["coco_panoptic"][:3] == ["133", "80", "53"]
    assert rows["warehouse"][:3] == ["42", "34", "8"]


def test_show_gives_ids_kinds_and_seen_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "words.yaml"
    path.write_text(
        "classes:\n- {name: '[red]cup', id: 9}\n- {name: pallet, synonyms: [skid]}\n"
        "- {name: floor, stuff: true}\n- {name: sky, seen: false}\n"
    )
    train = tmp_path / "train.yaml"
    train.write_text("classes: [{name: skid}, {name: sky}]")
    assert run("show", path, "--train", train) == 0
    rows = cells(capsys.readouterr().out)
    assert ["9", "[red]cup", "thing", "unseen"] in rows
    assert ["1", "pallet", "skid", "thing", "seen"] in rows
    assert ["2", "floor", "stuff", "unseen"] in rows
    assert ["3", "sky", "thing", "unseen", "(forced)"] in rows


def test_check_fails_on_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "words.yaml"
    path.write_text("classes: [{name: cup}, {name: cup}]")
    assert run("check", path) == 1
    assert "classes 1 and 2" in capsys.readouterr().out


def test_check_passes_and_names_what_is_probably_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"1:cup,Drinking  Glass\n2:glass,drinking glass\n3:fork,fork\n4:{'a very ' * 80}long name\n5:sky\n")
    assert run("check", path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["warning"] * 3 + ["usable"]
    assert "'drinking glass'" in lines[0] and "'cup', 'glass'" in lines[0] and "tie" in lines[0]
    assert "'fork'" in lines[1] and "needed once" in lines[1]
    assert "longer than CLIP reads" in lines[2]
    assert "5 classes (5 things, 0 stuff)" in lines[3]


def test_check_names_stuff_that_is_no_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "words.yaml"
    path.write_text("classes: [{name: cup}, {name: floor}]")
    assert run("check", path, "--stuff", "flor; floor") == 0
    (warning, usable) = capsys.readouterr().out.splitlines()
    assert warning.startswith("warning: stuff names 'flor'") and "'floor'" in warning and usable.startswith("usable")


def test_check_says_which_key_comes_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "words.yaml"
    path.write_text("classes:\n- {name: pallet}\nclasses:\n- {name: floor, stuff: true}\n")
    assert run("check", path) == 1
    assert "line 3: duplicate key 'classes', first in line 1" in capsys.readouterr().out


def test_convert_writes_what_the_list_says(tmp_path: Path) -> None:
    source, target, like = tmp_path / "list.txt", tmp_path / "words.yaml", tmp_path / "like.yaml"
    source.write_text("0:invalid_class_id\n1:heaven,sky\n2:mug, cup\n")
    like.write_text("classes: [{name: sky, stuff: true}, {name: cup}]")
    assert run("convert", source, target, "--like", like) == 0
    vocabulary = Vocabulary.load(target)
    assert [item.synonyms for item in vocabulary.classes] == [("heaven", "sky"), ("mug", "cup")]
    assert vocabulary.things == (False, True)


def test_convert_replaces_nothing_unasked(tmp_path: Path) -> None:
    source, target = tmp_path / "list.txt", tmp_path / "words.yaml"
    source.write_text("1:cup\n")
    target.write_text("mine")
    with pytest.raises(FcclipError, match="--force"):
        run("convert", source, target)
    assert target.read_text() == "mine"
    assert run("convert", source, target, "--force") == 0
    assert Vocabulary.load(target).names == ("cup",)


def test_convert_says_what_it_cannot_do(tmp_path: Path) -> None:
    source = tmp_path / "list.txt"
    source.write_text("1:cup\n")
    with pytest.raises(FcclipError, match=r"not the name of a \.yaml file"):
        run("convert", source, tmp_path / "words.txt")
    with pytest.raises(FcclipError, match="cannot write"):
        run("convert", source, tmp_path / "missing" / "words.yaml")
    with pytest.raises(VocabularyError, match="the vocabulary has 133 classes, but .*list.txt has 1"):
        run("convert", source, tmp_path / "words.yaml", "--like", "coco_panoptic")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.txt"]


def test_convert_takes_stuff_from_classes_of_the_same_name_in_any_order(tmp_path: Path) -> None:
    source, target, like = tmp_path / "list.txt", tmp_path / "words.yaml", tmp_path / "like.yaml"
    source.write_text("0:cup,mug\n1:sky\n2:floor\n")
    like.write_text("classes: [{name: sky, stuff: true}, {name: floor, stuff: true}, {name: cup}]")
    assert run("convert", source, target, "--like", like) == 0
    assert Vocabulary.load(target).things == (True, False, False)
    source.write_text("0:cup,mug\n1:sky\n2:ground\n")
    with pytest.raises(VocabularyError, match="stand in another order"):
        run("convert", source, target, "--like", like, "--force")


def test_show_says_what_competes_and_what_fell_away_for_which_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "words.yaml"
    path.write_text("classes: [{name: ball}, {name: '[red]floor', stuff: true}]")
    assert run("show", path, "--background", "auto", "--checkpoint", "demo") == 0
    output = capsys.readouterr().out
    rows = cells(output)
    assert ["red", "ball", "ball"] in rows and ["wooden", "floor", "[red]floor"] not in rows
    assert "hidden competitors" in output and "classes dropped" in output
    nearest = [row for row in rows if row[:2] == ["red", "box"]]
    assert nearest and 0.0 < float(nearest[0][-1]) < 1.0
    assert run("show", path, "--background", "balls; tree") == 0
    rows = cells(capsys.readouterr().out)
    assert ["balls", "ball"] in rows and ["tree"] in rows
    with pytest.raises(VocabularyError, match="did you mean"):
        run("show", path, "--background", "coco")
