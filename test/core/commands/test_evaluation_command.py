"""`fcclip evaluate` from folder to JSON, with seeded weights: the numbers mean nothing, where they stand does."""

from __future__ import annotations

import argparse
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_vit
from gl_here import needs_gl
from PIL import Image

from checkout import ROOT as CHECKOUT
from fcclip_core.commands import evaluate
from fcclip_core.commands.inference_arguments import settings_from
from fcclip_core.datasets import class_folders
from fcclip_core.datasets.catalog import DATASETS, dataset_words
from fcclip_core.datasets.class_folders import ClassFolders
from fcclip_core.datasets.records import ClassList
from fcclip_core.errors import DatasetError, FcclipError, SettingsError, VocabularyError
from fcclip_core.evaluation.paper import fingerprint
from fcclip_core.vocabulary.classes import Vocabulary

TINY = ("--checkpoint", "recipe:tiny", "--device", "cpu", "--shorter-side", "64")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def parse(*arguments: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    evaluate.add_parser(parser.add_subparsers())
    return parser.parse_args(["evaluate", *map(str, arguments)])


def run(*arguments: object) -> int:
    args = parse(*arguments)
    return args.run(args)


def write_folder(root: Path, images: int = 3, thing: str = "cup") -> Path:
    """Two classes: a thing that was trained on ("cup" is one of COCO's) and stuff that was not."""
    generator = np.random.default_rng(0)
    for folder in ("images", "panoptic"):
        (root / folder).mkdir(parents=True)
    annotations = []
    for number in range(images):
        Image.fromarray(generator.integers(0, 255, (48, 64, 3), np.uint8)).save(root / f"images/{number}.png")
        ids = np.full((48, 64), 2, np.uint8)
        ids[10:30, 5 + number : 40] = 1
        Image.fromarray(np.stack([ids, ids * 0, ids * 0], -1)).save(root / f"panoptic/{number}.png")
        segments = [{"id": 1, "category_id": 5}, {"id": 2, "category_id": 9}]
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": segments})
    document = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(images)],
        "annotations": annotations,
        "categories": [{"id": 5, "name": thing, "isthing": 1}, {"id": 9, "name": "moon dust", "isthing": 0}],
    }
    (root / "panoptic.json").write_text(json.dumps(document))
    return root


def test_folder_gives_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_folder(tmp_path / "data"), tmp_path / "scores.json"
    options = ("--limit", 2, "--ensembles", "--sweep-alpha-beta", "0,1", "--per-class", "--json", out)
    assert run("folder", "--data", data, *TINY, *options) == 0

    document = json.loads(out.read_text())
    assert (document["dataset"], document["images"], document["checkpoint"]) == ("folder", 2, "recipe:tiny")
    assert document["settings"]["shorter_side"] == 64 and document["vocabulary"] == "the dataset's own names"
    for name in ("pq.all", "pq.seen", "pq.unseen", "recall.unseen", "ap.all", "miou.all", "grounding.pq", "fps"):
        assert isinstance(document[name], float), name
    assert document["details"]["pq"]["unseen"] == document["pq.unseen"]
    assert document["details"]["recall"]["unseen"] == document["recall.unseen"]
    classes = document["details"]["per_class"]
    assert [(row["name"], row["is_thing"], row["seen"]) for row in classes] == [
        ("cup", True, True),
        ("moon dust", False, False),
    ]
    assert document["pq.seen"] == pytest.approx(classes[0]["pq"]) and document["ap.all"] == classes[0]["ap"]
    assert set(document["forms"]) == {
        "geometric",
        "arithmetic",
        "in_vocabulary",
        "out_of_vocabulary",
        *(f"alpha {alpha}, beta {beta}" for alpha in (0, 1) for beta in (0, 1)),
    }
    # alpha = beta = 0 is the in-vocabulary classifier alone, 1 the other.
    assert document["forms"]["alpha 0, beta 0"] == pytest.approx(document["forms"]["in_vocabulary"])
    assert document["forms"]["alpha 1, beta 1"] == pytest.approx(document["forms"]["out_of_vocabulary"])

    printed = capsys.readouterr().out
    for words in ("seeded weights", "2 images", "PQ", "recall@0.5", "grounding mIoU", "in_vocabulary", "moon dust"):
        assert words in printed


def test_a_class_called_like_markup_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_folder(tmp_path / "data", images=1, thing="red [/] sign"), tmp_path / "scores.json"
    assert run("folder", "--data", data, *TINY, "--per-class", "--json", out) == 0
    assert json.loads(out.read_text())["details"]["per_class"][0]["name"] == "red [/] sign"
    assert "red [/] sign" in capsys.readouterr().out


@pytest.mark.parametrize("error", [BrokenPipeError(), FcclipError("the standard output cannot be written")])
def test_a_result_that_cannot_be_printed_was_written(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`| head -1` and `> /dev/full`, after the last image."""
    data, out = write_folder(tmp_path / "data", images=1), tmp_path / "scores.json"

    def refuse(self: object, text: str) -> int:
        raise error

    monkeypatch.setattr("fcclip_core.terminal._Answer.write", refuse)
    with pytest.raises(type(error)):
        run("folder", "--data", data, *TINY, "--json", out)
    assert json.loads(out.read_text())["images"] == 1


def test_a_place_that_cannot_be_written_is_named_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_folder(tmp_path / "data", images=1)
    (tmp_path / "taken").mkdir()
    with pytest.raises(FcclipError, match="taken: Is a directory; choose another --json"):
        run("folder", "--data", data, "--checkpoint", "/no/such/model.safetensors", "--json", tmp_path / "taken")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(FcclipError, match="Read-only file system; choose another --json"):
        run("folder", "--data", data, "--checkpoint", "/no/such/model.safetensors", "--json", tmp_path / "new.json")


def write_voc(root: Path, images: int = 1) -> Path:
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(map(str, range(images))))
    labels = np.arange(1600, dtype=np.uint16).reshape(40, 40).astype(np.uint8) % 21
    for number in range(images):
        Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(root / f"JPEGImages/{number}.jpg")
        Image.fromarray(labels).save(root / f"SegmentationClass/{number}.png")
    return root


def test_semantic_dataset_has_classes_and_no_segments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scores.json"
    assert run("pascal_voc_20", "--data", write_voc(tmp_path / "voc"), *TINY, "--json", out) == 0
    document = json.loads(out.read_text())
    assert "pq.all" not in document and 0 <= document["miou.all"] <= 100
    assert document["miou.unseen"] is None, "all of VOC's classes are COCO's"
    # Its words are ours, so the paper's 95.4 is no measure for them.
    assert document["paper"] == {} and "--vocabulary pascal_voc_21_with_prompt_eng.txt" in document["paper_left_out"]
    printed = capsys.readouterr().out
    assert "95.4" not in printed and "no published numbers beside these" in printed


def as_list(*names: str) -> str:
    """A file in the form of the authors'."""
    return "\n".join(["0:invalid_class_id", *(f"{number}:{text}" for number, text in enumerate(names, 1))])


def test_the_papers_number_stands_beside_words_that_are_the_papers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words, trained = tmp_path / "voc_21.txt", tmp_path / "coco.txt"
    objects = Vocabulary.load("pascal_voc_20")
    words.write_text(as_list("background,wall", *(", ".join(item.synonyms) for item in objects.classes)))
    trained.write_text(as_list("cat", "dog,hound"))
    known = {"pascal_voc_20": fingerprint(objects), "coco": fingerprint(Vocabulary.load(trained))}
    monkeypatch.setattr("fcclip_core.evaluation.paper.PAPER_WORDS", known)
    data, out = write_voc(tmp_path / "voc", images=2), tmp_path / "scores.json"
    given = ("--vocabulary", words, "--train-vocabulary", trained, "--json", out)

    assert run("pascal_voc_20", "--data", data, *TINY, *given) == 0
    document = json.loads(out.read_text())
    assert document["paper"]["miou.all"] == 95.4 and document["paper_left_out"] == ""
    assert document["words"] == "the given words without background, by position"
    assert document["seen_classes"] == 2, "cat and dog, by the given training words"
    captured = capsys.readouterr()
    assert "95.4" in captured.out and "seen: 2 of 20 classes, by 3 names of 2 training classes" in captured.err

    assert run("pascal_voc_20", "--data", data, *TINY, *given, "--limit", 1) == 0
    document = json.loads(out.read_text())
    assert document["paper"] == {} and document["paper_left_out"] == "only a part of the images was evaluated"


def test_training_words_decide_what_is_seen(tmp_path: Path) -> None:
    data, out, trained = write_folder(tmp_path / "data"), tmp_path / "scores.json", tmp_path / "trained.txt"
    trained.write_text(as_list("moon dust, regolith", "house"))
    options = ("--data", data, *TINY, "--train-vocabulary", trained, "--json", out)
    assert run("folder", *options) == 0
    document = json.loads(out.read_text())
    assert [row["seen"] for row in document["details"]["per_class"]] == [False, True]
    assert (document["train_vocabulary"], document["seen_classes"]) == (str(trained), 1)
    assert run("clip-masks", "folder", *options, "--sizes", 64) == 0
    document = json.loads(out.read_text())
    assert (document["train_vocabulary"], document["seen_classes"]) == (str(trained), 1)
    with pytest.raises(FcclipError, match="would overwrite|would replace"):
        run("folder", "--data", data, *TINY, "--train-vocabulary", trained, "--json", trained)


@pytest.mark.parametrize(
    ("dataset", "options", "size", "whose"),
    [
        ("cityscapes", (), (1024, 2560), "the paper's for cityscapes"),
        ("mapillary_vistas_semantic", (), (1024, 2560), "the paper's for mapillary_vistas_semantic"),
        ("ade20k", (), (800, 1333), "the paper's for ade20k"),
        ("folder", (), (0, 1333), "the model's own"),
        ("cityscapes", ("--shorter-side", 512), (512, 2560), "as given"),
        ("cityscapes", ("--max-size", 900), (900, 900), "as given"),
        ("ade20k", ("--shorter-side", 1400), (1400, 1400), "as given"),
        ("ade20k", ("--shorter-side", 0), (0, 1333), "the model's own"),
    ],
)
def test_the_input_size_is_the_datasets_until_another_is_asked_for(
    dataset: str, options: tuple[object, ...], size: tuple[int, int], whose: str
) -> None:
    args = parse(dataset, "--data", "/data", "--checkpoint", "recipe:tiny", *options)
    found = evaluate.input_size(args)
    settings = settings_from(args, found.sides)
    assert (settings.shorter_side, settings.max_size, found.whose) == (*size, whose)


def test_the_report_says_which_size_was_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_voc(tmp_path / "voc"), tmp_path / "scores.json"
    options = ("--checkpoint", "recipe:tiny", "--device", "cpu", "--json", out)
    assert run("pascal_voc_21", "--data", data, *options) == 0
    document = json.loads(out.read_text())
    assert (document["settings"]["shorter_side"], document["settings"]["max_size"]) == (800, 1333)
    assert document["input_size"] == "the paper's for pascal_voc_21"
    captured = capsys.readouterr()
    assert "shorter side 800, longer at most 1333" in " ".join(captured.out.split())
    assert "input size: shorter side 800, longer at most 1333 (the paper's for pascal_voc_21)" in " ".join(
        captured.err.split()
    )
    assert document["words"] == "pascal_voc_21, by position"


def test_clip_masks_gives_a_row_a_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_folder(tmp_path / "data"), tmp_path / "sizes.json"
    assert run("clip-masks", "folder", "--data", data, *TINY, "--sizes", "64,96", "--json", out) == 0
    document = json.loads(out.read_text())
    assert set(document["sizes"]) == {"64", "96"} and document["images"] == 3
    assert all(0 <= row["accuracy.all"] <= 100 for row in document["sizes"].values())
    assert "classifies correctly" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("masks", ["truth", "proposals"])
def test_a_vit_names_the_same_masks(masks: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out, vit = write_folder(tmp_path / "data"), tmp_path / "sizes.json", tiny_vit.register(tmp_path)
    options = ("--data", data, *TINY, "--sizes", "96,64", "--masks", masks, "--vit", f"recipe:{vit}", "--json", out)
    assert run("clip-masks", "folder", *options) == 0
    document = json.loads(out.read_text())
    assert list(document["clips"]) == ["tiny", vit] and document["sizes"] == document["clips"]["tiny"]
    for by_size in document["clips"].values():
        assert list(by_size) == ["64", "96"]
        assert all(0 <= row["pq.all"] <= 100 for row in by_size.values())
    assert (document["masks"], document["paper_pq"]) == (masks, {"tiny": {}, vit: {}})
    printed = " ".join(capsys.readouterr().out.split())
    assert f"seeded weights: the numbers of tiny, {vit} mean nothing" in printed
    assert ("the same masks, named by CLIP alone" in printed) == (masks == "proposals")


def test_imagenet_is_named_from_folder_to_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With three class names in place of a thousand, whose 80,000 prompts take a while."""
    names, root = ("tench", "goldfish", "hen"), tmp_path / "imagenet"
    for name in ("tench", "hen"):
        (root / "val" / name).mkdir(parents=True)
        Image.fromarray(np.random.default_rng(1).integers(0, 255, (50, 60, 3), np.uint8)).save(
            root / "val" / name / "1.JPEG"
        )
    (root / "val" / "hen" / "2.JPEG").write_bytes(b"nothing")
    monkeypatch.setattr(class_folders, "imagenet", lambda data, split: ClassFolders.open(data / split, names))
    out, vit = tmp_path / "top1.json", tiny_vit.register(tmp_path)
    options = ("--checkpoint", "recipe:tiny", "--device", "cpu", "--vit", f"recipe:{vit}", "--sizes", "64,56")
    assert run("imagenet", "--data", root, *options, "--resize", "crop", "--json", out) == 0
    document = json.loads(out.read_text())
    assert (document["images"], document["classes"], document["classes_with_images"]) == (2, 3, 2)
    assert list(document["unreadable"]) == ["hen/2.JPEG"] and document["resize"] == "crop"
    for name in ("tiny", vit):
        for size in ("56", "64"):
            # Of one noise in two classes, one at most is right; among three classes the best five are all.
            assert document["clips"][name][size]["top1"] in (0, 50) and document["clips"][name][size]["top5"] == 100
    captured = capsys.readouterr()
    assert "left out: hen/2.JPEG: not an image" in " ".join(captured.err.split())
    assert "1 images could not be read and count nowhere" in captured.out


@pytest.mark.slow
def test_all_thousand_classes_of_imagenet_are_competitors(tmp_path: Path) -> None:
    out, folder = tmp_path / "top1.json", tmp_path / "n01440764"
    folder.mkdir()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(folder / "1.JPEG")
    options = ("--checkpoint", "recipe:tiny", "--device", "cpu", "--sizes", "64", "--json", out)
    assert run("imagenet", "--data", tmp_path, *options) == 0
    document = json.loads(out.read_text())
    assert (document["classes"], document["images"]) == (1000, 1)


@needs_gl
def test_world_is_rendered_and_measured(tmp_path: Path) -> None:
    out = tmp_path / "world.json"
    assert run("world", *TINY, "--scenes", 2, "--seed", 11, "--json", out) == 0
    document = json.loads(out.read_text())
    assert (document["scenes"], document["seed"], document["images"]) == (2, 11, 2)
    for name in ("pq.all", "pq.seen", "pq.unseen", "recall.unseen"):
        assert name in document
    assert len(document["details"]["per_class"]) == 118


@needs_gl
def test_world_sample_is_the_worlds_frame() -> None:
    from fcclip_core.datasets.world import WorldScenes
    from fcclip_core.simulation.dataset import WorldPlan, render_scene
    from fcclip_core.simulation.render import Renderer

    plan = WorldPlan(scenes=2, seed=3, size=(96, 64), views=2)
    dataset = WorldScenes(plan)
    sample = dataset[3]
    with Renderer() as renderer:
        frame = list(render_scene(renderer, plan, 1))[1]
    assert len(dataset) == 4 and np.array_equal(sample.image, frame.image)
    assert [dataset.classes.names[segment.class_index] for segment in sample.segments] == [
        segment.name for segment in frame.segments
    ]
    for ours, theirs in zip(sample.segments, frame.segments, strict=True):
        assert np.array_equal(sample.segment_map == ours.id, frame.segment_map == theirs.id)
    assert [segment.id for segment in sample.segments] == list(range(1, len(sample.segments) + 1))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("--limit", "0"), SettingsError, "--limit is 0"),
        (("--sweep-alpha-beta", "0,x"), SettingsError, "numbers with commas"),
        (("--sweep-alpha-beta", "0,2"), SettingsError, "beta is 2"),
        (("--json", "/no/such/folder/a.json"), FcclipError, "no such folder"),
        (("--vocabulary", "a; b; c"), VocabularyError, "has 3 classes, but the dataset has 2"),
        (("--data", "/no/such/data"), DatasetError, "/no/such/data/panoptic.json"),
    ],
)
def test_wrong_arguments_are_named_before_the_model_is_loaded(
    tmp_path: Path, arguments: tuple[str, ...], error: type[Exception], words: str
) -> None:
    data = write_folder(tmp_path / "data", images=1)
    with pytest.raises(error, match=words):
        run("folder", "--data", data, "--checkpoint", "/no/such/model.safetensors", *arguments)


def test_datasets_without_a_bundled_list_ask_for_the_papers() -> None:
    for name, list_file in (
        ("ade20k_847", "ade20k_847_with_prompt_eng.txt"),
        ("mapillary_vistas", "mapillary_vistas_with_prompt_eng.txt"),
        ("pascal_context_459", "pascal_ctx_459_with_prompt_eng.txt"),
    ):
        with pytest.raises(VocabularyError, match=list_file):
            dataset_words(DATASETS[name], ClassList((), (False,)))


def test_the_dataset_says_what_is_a_thing() -> None:
    """The paper's lists do not."""
    classes = ClassList(("a", "b"), (False, True))
    words = dataset_words(DATASETS["folder"], classes, Vocabulary.from_names(["first, one", "second"]))
    assert words.vocabulary.things == (False, True)
    assert words.how == "the given words, by position; 0 of 2 names agree"
    own = dataset_words(DATASETS["folder"], ClassList(("a, comma", "b"), (False, True))).vocabulary
    assert own.names == ("a, comma", "b") and own.things == (False, True)


def test_cocos_categories_in_any_order_keep_their_own_words() -> None:
    bundled = Vocabulary.load("coco_panoptic")
    order = np.random.default_rng(0).permutation(len(bundled))
    names = tuple(bundled.names[at] for at in order)
    words = dataset_words(DATASETS["coco"], ClassList(names, tuple(bundled.things[at] for at in order)))
    assert words.how == "coco_panoptic, by name"
    assert [item.synonyms for item in words.vocabulary.classes] == [bundled.classes[at].synonyms for at in order]
    assert words.vocabulary.things == tuple(bundled.things[at] for at in order)


def test_cocos_own_names_and_ids_stand_for_the_bundled_words_in_any_order() -> None:
    """Its files say "wall-wood" and "wall-tile", which are no names here; its ids tell which classes they are."""
    bundled = Vocabulary.load("coco_panoptic")
    as_published = {
        "wall": "wall-other-merged",
        "tree": "tree-merged",
        "wood floor": "floor-wood",
        "door": "door-stuff",
    }
    as_published |= {"wooden wall": "wall-wood", "tiled wall": "wall-tile", "playing field": "playingfield"}
    ids = DATASETS["coco"].category_ids
    order = np.random.default_rng(0).permutation(len(bundled))
    names = tuple(as_published.get(bundled.names[at], bundled.names[at]) for at in order)
    things = tuple(bundled.things[at] for at in order)
    words = dataset_words(DATASETS["coco"], ClassList(names, things, tuple(ids[at] for at in order)))
    assert words.how == "coco_panoptic, by the ids of its categories"
    assert words.vocabulary.names == tuple(bundled.names[at] for at in order)
    # With other ids the names decide, and what has no words goes by its own name.
    words = dataset_words(DATASETS["coco"], ClassList(names, things, tuple(range(1, 134))))
    assert words.how.startswith("coco_panoptic, by name; by their own names alone: 'wall-")
    expected = [
        bundled.names[at] if name not in ("wall-wood", "wall-tile") else name
        for at, name in zip(order, names, strict=True)
    ]
    assert list(words.vocabulary.names) == expected


def test_ids_that_names_contradict_are_not_believed() -> None:
    bundled = Vocabulary.load("coco_panoptic")
    names = ("wall-wood", *bundled.names[:0:-1])
    words = dataset_words(DATASETS["coco"], ClassList(names, bundled.things[::-1], DATASETS["coco"].category_ids))
    assert words.vocabulary.names == names


def test_bundled_words_are_taken_only_where_the_classes_are_the_datasets() -> None:
    """Somebody's own labels in COCO's layout, as many and of the same kinds."""
    bundled = Vocabulary.load("coco_panoptic")
    strange = ClassList(tuple(f"name {number}" for number in range(133)), bundled.things, tuple(range(133)))
    words = dataset_words(DATASETS["coco"], strange)
    assert words.vocabulary.names == strange.names
    assert words.how == "the dataset's own names, since most of them are not in coco_panoptic"


def test_given_words_are_matched_by_name_before_their_place() -> None:
    classes = ClassList(("forklift", "Pallet", "floor"), (True, True, False))
    folder = DATASETS["folder"]
    moved = dataset_words(folder, classes, Vocabulary.from_names(["floor", "wooden pallet, pallet", "forklift, truck"]))
    assert moved.vocabulary.names == ("forklift", "wooden pallet", "floor") and "by name" in moved.how
    placed = dataset_words(folder, classes, Vocabulary.from_names(["stacker", "pallet", "ground"]))
    assert placed.vocabulary.names == ("stacker", "pallet", "ground") and "1 of 3 names agree" in placed.how
    with pytest.raises(VocabularyError, match="stand in another order than the dataset: class 3 there is 'floor'"):
        dataset_words(folder, classes, Vocabulary.from_names(["floor", "pallet", "stacker"]))
    with pytest.raises(VocabularyError, match="has 2 classes, but the dataset has 3"):
        dataset_words(folder, classes, Vocabulary.from_names(["floor", "pallet"]))


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", images=5)
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    assert run("folder", "--data", data, *TINY, "--json", one) == 0
    program = "import sys; from fcclip_core.cli import main; sys.exit(main())"
    script = tmp_path / "evaluate.py"
    script.write_text(program)
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    subprocess.run(
        [*launcher, str(script), "evaluate", "folder", "--data", str(data), *TINY, "--json", str(two)],
        check=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"},
    )
    alone, together = json.loads(one.read_text()), json.loads(two.read_text())
    numbers = [name for name, value in alone.items() if isinstance(value, float) and name != "fps"]
    assert len(numbers) > 15 and together["images"] == 5
    assert {name: together[name] for name in numbers} == pytest.approx(
        {name: alone[name] for name in numbers}, abs=1e-6
    )
