"""Vocabularies: what is accepted, what is refused and how it is said, ids that never change hands, files."""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from skimage.color import rgb2lab

from fcclip_core.errors import VocabularyError
from fcclip_core.vocabulary.class_ids import ClassIds
from fcclip_core.vocabulary.classes import Vocabulary, VocabularyClass
from fcclip_core.vocabulary.palette import class_color


def words(*names: str, **options: object) -> Vocabulary:
    return Vocabulary.from_names(names, **options)


def test_commas_separate_synonyms_and_the_first_names_the_class() -> None:
    vocabulary = words("person", " pallet ,wooden pallet", "floor", stuff=["floor"])
    assert vocabulary.names == ("person", "pallet", "floor")
    assert vocabulary.synonyms == ("person", "pallet", "wooden pallet", "floor")
    assert vocabulary.synonym_counts == (1, 2, 1)
    assert vocabulary.things == (True, True, False)


def test_options_reach_their_class() -> None:
    vocabulary = words("cup, mug", "sky", seen=["sky"], ids={"cup": 7}, colors={"sky": (1, 2, 3)})
    cup, sky = vocabulary.classes
    assert (cup.id, cup.color, cup.seen) == (7, None, False)
    assert (sky.id, sky.color, sky.seen) == (None, (1, 2, 3), True)
    assert vocabulary.colors[1] == (1, 2, 3)


def test_seen_follows_the_letters_unless_it_is_forced() -> None:
    train = frozenset({"cup", "sky", "rocket"})
    vocabulary = words("mug, cup", "Sky", "spacecraft,  rocket")
    assert vocabulary.seen_mask(train).tolist() == [True, False, True]
    assert words("mug, cup", "Sky", seen=["Sky"]).seen_mask(train).tolist() == [False, True]
    assert words("cup", "sky", seen=[]).seen_mask(train).tolist() == [False, False]
    assert vocabulary.seen_mask(train).dtype == np.bool_


@pytest.mark.parametrize(
    "name", ["工具箱", "стол", "كرسي", "naïve café", "🙂 sticker", "a" * 1000, "it's 3.5\" wide: {x} [red]"]
)
def test_names_of_any_script_are_accepted(name: str) -> None:
    vocabulary = words(name, "floor")
    assert vocabulary.names[0] == name
    assert Vocabulary.from_yaml(vocabulary.to_yaml()).names[0] == name


def test_one_synonym_may_stand_in_two_classes() -> None:
    assert words("cup, vessel", "bowl, vessel").synonyms == ("cup", "vessel", "bowl", "vessel")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: words(), "empty"),
        (lambda: Vocabulary.from_names("person"), "list of names"),
        (lambda: words("cup", ""), "class 2: .*empty"),
        (lambda: words("cup", " , mug"), "class 2: .*empty"),
        (lambda: words("cup,"), "class 1: .*empty"),
        (lambda: Vocabulary.from_names(["cup", 7]), "class 2: .*7 .*expected text"),
        (lambda: words("cup", "mug", "cup, beaker"), "classes 1 and 3 .*'cup'"),
        (lambda: words("cup", "a" * 10_000), "10000 characters; at most 1000"),
        (lambda: words("cup\x00"), r"U\+0000"),
        (lambda: words("a\nb"), r"U\+000A"),
        (lambda: words("cup\ud800"), r"U\+D800"),
        (lambda: words("cup", stuff=["flor"]), "stuff names 'flor'"),
        (lambda: words("floor", stuff=["flor"]), "did you mean 'floor'"),
        (lambda: words("cup, mug", stuff=["mug"]), "first synonym"),
        (lambda: words("cup", stuff="cup"), "list of names"),
        (lambda: words("cup", seen=["sky"]), "seen names 'sky'"),
        (lambda: words("cup", ids={"sky": 1}), "ids names 'sky'"),
        (lambda: words("cup", colors={"sky": (0, 0, 0)}), "colors names 'sky'"),
        (lambda: words("cup", ids={"cup": 0}), "'cup': id is 0; .*1 and 65535"),
        (lambda: words("cup", ids={"cup": 65_536}), "id is 65536"),
        (lambda: words("cup", ids={"cup": 1.0}), "whole number"),
        (lambda: words("cup", ids={"cup": True}), "whole number"),
        (lambda: words("a", "b", "c", ids={"a": 5, "c": 5}), "classes 1 and 3 both have id 5"),
        (lambda: words("cup", colors={"cup": (0, 0, 256)}), "'cup': color"),
        (lambda: words("cup", colors={"cup": (0, 0)}), "three whole numbers"),
        (lambda: words("cup", colors={"cup": 0xFF0000}), "three whole numbers"),
        (lambda: Vocabulary((VocabularyClass("cup"),)), "list of names"),
        (lambda: VocabularyClass(()), "no name"),
        (lambda: VocabularyClass(("cup",), is_thing="yes"), "'cup': is_thing"),
        (lambda: Vocabulary(("cup",)), "class 1 is 'cup'"),
        (lambda: Vocabulary.from_names([str(i) for i in range(65_536)]), "more than 65535 classes"),
    ],
)
def test_mistakes_are_named(make, message: str) -> None:
    with pytest.raises(VocabularyError, match=message) as caught:
        make()
    assert len(str(caught.value)) < 300


def test_an_id_of_65535_is_the_last(tmp_path: Path) -> None:
    assert ClassIds().resolve(words("cup", ids={"cup": 65_535})) == (65_535,)


# Ids.


def test_a_name_keeps_its_id_and_a_retired_id_is_not_given_away() -> None:
    ids = ClassIds()
    assert ids.resolve(words("person", "cup", "floor")) == (1, 2, 3)
    assert ids.resolve(words("floor", "spoon")) == (3, 4)
    assert ids.resolve(words("spoon", "person, human", "fork")) == (4, 1, 5)


def test_asked_ids_are_honored_and_the_others_step_round_them() -> None:
    ids = ClassIds()
    # "late" asks for 1 after "early" could have taken it.
    assert ids.resolve(words("early", "late", "third", ids={"late": 1, "third": 3})) == (2, 1, 3)
    assert ids.resolve(words("early", "fourth", "far", ids={"far": 1000})) == (2, 4, 1000)
    assert ids.resolve(words("fourth", "far", "fifth", ids={"fourth": 4})) == (4, 1000, 5)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"cup": 9}, "'cup' asks for id 9 but has had id 1"),
        ({"spoon": 1}, "'spoon' asks for id 1, which was given to 'cup'"),
    ],
)
def test_a_broken_promise_is_refused_and_nothing_changes(asked: dict[str, int], message: str) -> None:
    ids = ClassIds()
    ids.resolve(words("cup"))
    with pytest.raises(VocabularyError, match=message):
        ids.resolve(words("knife", "spoon", "cup", ids={"knife": 2, **asked}))
    # Had the failed call left anything behind, 2 would belong to "knife".
    assert ids.resolve(words("fork", "cup")) == (2, 1)


def test_ids_can_run_out(tmp_path: Path) -> None:
    ids = ClassIds()
    ids.resolve(Vocabulary.from_names([f"name {i}" for i in range(65_535)]))
    with pytest.raises(VocabularyError, match="no id is left for class 'one more'"):
        ids.resolve(words("one more"))
    assert ids.resolve(words("name 65534")) == (65_535,)


def test_threads_never_share_an_id() -> None:
    ids = ClassIds()
    found: list[tuple[str, int]] = []
    start = threading.Barrier(8)

    def ask(thread: int) -> None:
        start.wait()
        for i in range(50):
            names = [f"common {i}", f"own {thread} {i}"]
            found.extend(zip(names, ids.resolve(Vocabulary.from_names(names)), strict=True))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pairs = set(found)
    assert len(pairs) == len({name for name, _ in pairs}) == len({number for _, number in pairs}) == 50 + 8 * 50


# Colors.


def test_a_name_has_one_color_bright_enough_for_a_photograph() -> None:
    # Pinned: the colors of maps that robots have stored must not change with the interpreter or the version.
    assert class_color("person") == (140, 168, 255)
    assert all(max(class_color(f"name {i}")) >= 190 for i in range(500))


def test_colors_of_up_to_64_classes_are_well_separated() -> None:
    # 64 names in 64 places always collide, so this also covers those that do not get the color they ask for.
    colors = np.array(Vocabulary.from_names([f"name {i}" for i in range(64)]).colors, np.uint8)
    assert pdist(rgb2lab(colors[None])[0]).min() > 9.0  # CIE76; 2.3 is just noticeable


@pytest.mark.parametrize("name", ["coco_panoptic", "ade20k_150"])
def test_colors_of_larger_vocabularies_still_differ(name: str) -> None:
    colors = Vocabulary.load(name).colors
    assert len(set(colors)) == len(colors)


def test_the_largest_vocabulary_gets_colors() -> None:
    assert len(Vocabulary.from_names([str(i) for i in range(65_535)]).colors) == 65_535


def test_a_users_color_wins_and_is_not_given_twice() -> None:
    wanted = class_color("person")
    vocabulary = words("person", "cup", colors={"cup": wanted})
    assert vocabulary.colors[1] == wanted != vocabulary.colors[0]


# Files.


def test_yaml_keeps_everything() -> None:
    vocabulary = Vocabulary(
        (
            VocabularyClass(("person", "people"), id=3, color=(255, 0, 10), seen=True),
            VocabularyClass(("floor",), is_thing=False, seen=False),
            VocabularyClass(("no",), label="the word no"),
            VocabularyClass(("yes", "7")),
        ),
        description="colon: and # hash",
        source="somebody",
        license="CC0-1.0",
    )
    again = Vocabulary.from_yaml(vocabulary.to_yaml())
    assert again == vocabulary
    assert (again.description, again.source, again.license) == ("colon: and # hash", "somebody", "CC0-1.0")


def test_files_of_the_first_version_spell_license_with_a_c() -> None:
    assert Vocabulary.from_yaml("licence: MIT\nclasses: [{name: cup}]").license == "MIT"


def test_a_yaml_file_reads_as_documented(tmp_path: Path) -> None:
    path = tmp_path / "shop floor.yml"
    path.write_text(
        "description: shop floor\n"
        "classes:\n"
        "- {name: pallet, synonyms: [wooden pallet], id: 12, color: [255, 128, 0]}\n"
        "- {name: floor, stuff: true, seen: false}\n",
        encoding="utf-8-sig",
    )
    vocabulary = Vocabulary.load(path)
    assert vocabulary.classes == (
        VocabularyClass(("pallet", "wooden pallet"), id=12, color=(255, 128, 0)),
        VocabularyClass(("floor",), is_thing=False, seen=False),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mapping with a list under 'classes'"),
        ("[a, b]", "mapping with a list under 'classes'"),
        ("classes: cup", "mapping with a list under 'classes'"),
        ("classes: []", "empty"),
        ("classes: [{name: cup}", "not valid YAML"),
        ("classes: [{name: !!timestamp 2001-99-99}]", "not valid YAML: line 1: the tag"),
        ("[" * 2000, "not valid YAML"),
        ("!!python/object/apply:os.system [id]", "not valid YAML: line 1: the tag"),
        ("classes: [{name: cup, stuff: !!bool x}]", "not valid YAML: line 1: the tag .*:bool"),
        ("a: &a [cup]\nclasses: [{name: cup, synonyms: *a}]", "line 1: anchors and aliases"),
        ("classes:\n- {<<: {name: cup}}", "line 2: merge keys"),
        ("classes: [{name: cup}]\nclasses: [{name: mug}]", "line 2: duplicate key 'classes', first in line 1"),
        ('{"classes": [{"name": "cup",\n"name": "mug"}]}', "line 2: duplicate key 'name', first in line 1"),
        ("classes:\n- {name: cup, id: 1, 'id': 2}", "line 2: duplicate key 'id'"),
        ("classes: [{name: cup, id: 0x%s}]" % ("1" * 5000), "a number has 5002 digits"),
        ("classes: [{name: cup, id: 0x_}]", "'0x_' looks like a number"),
        ("classes:\n\t- name: cup", "line 2, column 1: .*cannot start any token"),
        ("classes: [{name: cup}]\n---\nclasses: [{name: mug}]", "a second document"),
        ("classes: [{name: cup\0}]", "control characters are not allowed"),
        ("classes: [{? [name] : cup}]", "expected a string"),
        ("description: [a]\nclasses: [{name: cup}]", "description is .*expected text"),
        ("classes: [cup]", "class 1: 'cup' is not a mapping with a 'name'"),
        ("classes: [{name: cup}, {synonyms: [mug]}]", "class 2: .*'name'"),
        ("classes: [{name: cup, synonym: mug}]", "class 1: unknown key 'synonym'; known are name, synonyms"),
        ("classes: [{name: cup, synonyms: mug}]", "class 1: 'synonyms' must be a list"),
        ("classes: [{name: cup, stuff: maybe}]", "class 1: .*'stuff' true or false"),
        ("classes: [{name: cup}, {name: no}]", r"class 2: a class name is False \(bool\); .*quote it"),
        ("classes: [{name: cup, id: '7'}]", "class 1: class 'cup': id is '7'"),
        ("classes: [{name: cup}, {name: cup}]", "classes 1 and 2"),
        ("classes: [{name: cup, seen: 1}]", "class 1: class 'cup': seen is 1"),
        ("color: red\nclasses: [{name: cup}]", "unknown key 'color'"),
    ],
)
def test_mistakes_in_a_file_name_file_and_class(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(VocabularyError, match=message) as caught:
        Vocabulary.load(path)
    assert "wrong.yaml" in str(caught.value)


def test_files_that_are_no_text_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    (tmp_path / "folder.txt").mkdir()
    for name, message in (
        ("binary.yaml", "not UTF-8"),
        ("missing.txt", "No such file"),
        ("folder.txt", "it is a folder"),
        ("model.pth", "no vocabulary .*indoor_robot"),
        ("coco", "no vocabulary 'coco'.*coco_panoptic"),
    ):
        with pytest.raises(VocabularyError, match=message):
            Vocabulary.load(tmp_path / name if "." in name else name)


def test_a_list_reads_as_the_published_code_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    # ", " counts as ","; a second blank stays; so do outer blanks, capitals and repeated synonyms. The published code
    # numbers classes by position, past the rows without a class.
    path.write_text(
        "0:invalid_class_id\n1:rocket, spacecraft,  shuttle\n26:invalid_class_id\n27: Cup,cup,cup \n90:a:b\n\n"
    )
    vocabulary = Vocabulary.load(path)
    assert [item.synonyms for item in vocabulary.classes] == [
        ("rocket", "spacecraft", " shuttle"),
        (" Cup", "cup", "cup "),
        ("a:b",),
    ]
    assert vocabulary.things == (True, True, True)
    assert ClassIds().resolve(vocabulary) == (1, 2, 3)
    assert Vocabulary.from_yaml(vocabulary.to_yaml()) == vocabulary


def test_classes_of_a_list_that_begin_alike_get_names_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("1:bag,sack\n2:bag\n3:bag (2)\n4:bag,pouch,pouch\n")
    vocabulary = Vocabulary.load(path)
    assert vocabulary.names == ("bag", "bag (2)", "bag (2) (2)", "bag (3)")
    assert vocabulary.synonyms == ("bag", "sack", "bag", "bag (2)", "bag", "pouch", "pouch")
    assert ClassIds().resolve(vocabulary) == (1, 2, 3, 4)


def test_things_of_a_list_can_be_told(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("0:sky\n1:cup\n")
    assert Vocabulary.load(path, things=[False, True]).things == (False, True)
    with pytest.raises(VocabularyError, match="2 classes but 3 thing flags"):
        Vocabulary.load(path, things=[False, True, True])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no class"),
        ("0:invalid_class_id\n", "holds no class"),
        ("1:cup\nspoon\n", "line 2: 'spoon' is not of the form"),
        ("one:cup\n", "line 1"),
        ("1:cup\n2:\n", "line 2: .*empty"),
        ("1:cup,,mug\n", "line 1: .*empty"),
    ],
)
def test_mistakes_in_a_list_name_file_and_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(VocabularyError, match=message) as caught:
        Vocabulary.load(path)
    assert "list.txt" in str(caught.value)


def test_one_word_written_in_two_ways_is_one_name() -> None:
    nfc, nfd = "caf\u00e9", "cafe\u0301"
    both = words(f"{nfc}, bistro", "sky", f"{nfd}, bar")
    assert [item.synonyms for item in both.classes] == [(nfc, "bistro", "bar"), ("sky",)]
    assert both.written_twice == (nfc,) and Vocabulary.from_yaml(both.to_yaml()) == both
    with pytest.raises(VocabularyError, match="classes 1 and 2 both have the name"):
        words(nfd, nfd)
    vocabulary = words(nfd, "sky", stuff=[nfc], seen=[nfd], ids={nfc: 7}, colors={nfd: (1, 2, 3)})
    assert vocabulary.names[0] == nfc
    assert vocabulary.classes[0] == VocabularyClass((nfc,), is_thing=False, id=7, color=(1, 2, 3), seen=True)
    assert VocabularyClass((nfd,), label=nfd).label == nfc
    assert words(nfd).seen_mask(frozenset(words(nfc).synonyms)).all()
    ids = ClassIds()
    assert ids.resolve(words(nfc)) == ids.resolve(words(nfd))
    assert words(nfd).with_stuff([f" {nfc} "]).things == (False,)


@pytest.mark.parametrize("sign", ["\u202e", "\u2066", "\u2028", "\x9b"])
def test_control_characters_in_names_are_refused(sign: str) -> None:
    with pytest.raises(VocabularyError, match=rf"class 1: .* character U\+{ord(sign):04X}; remove it"):
        words(f"flo{sign}or")
    with pytest.raises(VocabularyError, match="class 1: "):
        Vocabulary.from_yaml(f'classes: [{{name: "flo\\u{ord(sign):04x}or"}}]')


def test_joiners_that_scripts_and_emoji_need_are_names_parts() -> None:
    assert words("می\u200cخواهم", "👩\u200d🚀").names == ("می\u200cخواهم", "👩\u200d🚀")
    for nothing in ("\u200d", "\u200b", " \ufeff"):
        with pytest.raises(VocabularyError, match="empty"):
            words(nothing)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *(
            (lambda wrong=wrong: Vocabulary.from_names(wrong), "names is .*list of names")
            for wrong in ("mug", b"mug", None, 7, {"mug": 1})
        ),
        (lambda: Vocabulary.from_names({"mug", "cup"}), "without an order"),
        (lambda: Vocabulary.from_names([None]), "class 1: a class name is None"),
        (lambda: Vocabulary.from_names([["mug"]]), "class 1: a class name is "),
        (lambda: words("cup", ids=["cup"]), "ids is .*mapping"),
        (lambda: words("cup", colors=7), "colors is 7"),
        (lambda: words("cup", stuff=[["cup"]]), "stuff names "),
        (lambda: words("cup", stuff=None), "stuff is None"),
        (lambda: Vocabulary("mug"), "classes is 'mug'"),
        (lambda: Vocabulary(None), "classes is None"),
        (lambda: Vocabulary(({"name": "mug"},)), "class 1 is "),
        (lambda: VocabularyClass(None), "synonyms is None"),
        (lambda: VocabularyClass({"mug": 1}), "synonyms is "),
        (lambda: VocabularyClass(("cup",), label=7), "a class name is 7"),
        *((lambda wrong=wrong: Vocabulary.load(wrong), "the vocabulary is ") for wrong in (None, 7, {}, [], b"a.yaml")),
        (lambda: Vocabulary.from_yaml(None), "expected YAML text"),
        (lambda: Vocabulary.load("indoor_robot", things=7), "things is 7"),
        (lambda: Vocabulary.from_words("mug"), "words is 'mug'"),
        (lambda: Vocabulary.from_words([7]), "class 1: a class name is 7"),
    ],
)
def test_vocabularies_of_the_wrong_type_get_a_sentence(make, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: words("x" * 10**6),
        lambda: words("cup", stuff=["x" * 10**6]),
        lambda: words("cup", ids={"cup": 10**5000}),
        lambda: words("cup", colors={"cup": range(10**9)}),
        lambda: VocabularyClass(("cup",), is_thing=["x" * 10**6] * 100),
        lambda: Vocabulary(("x" * 10**6,)),
        lambda: Vocabulary.from_names(itertools.repeat("cup")),
        lambda: Vocabulary.load("x" * 10**6),
        lambda: Vocabulary.load("x" * 10**6 + ".yaml"),
        lambda: Vocabulary.from_words(["/" + "x" * 10**6]),
        lambda: Vocabulary.from_yaml(f"classes: [{{name: cup, {'x' * 10**5}: 1}}]"),
        lambda: Vocabulary.from_yaml(f"classes: [{{name: cup, color: [{','.join('x' * 10**5)}]}}]"),
        lambda: Vocabulary.from_yaml(f"classes: [[{','.join('x' * 10**5)}]]"),
        lambda: Vocabulary.from_yaml(f"classes: [{{name: cup}}]\ndescription: {'x' * 10**5}"),
    ],
)
def test_quoted_values_are_short_however_long_they_are(make) -> None:
    with pytest.raises(VocabularyError) as caught:
        make()
    assert len(str(caught.value)) < 800


def test_a_vocabulary_has_limits() -> None:
    with pytest.raises(VocabularyError, match="100001 names; at most 100000"):
        Vocabulary((VocabularyClass(("a",) * 50_000), VocabularyClass(("b",) * 50_001)))
    with pytest.raises(VocabularyError, match="characters together; at most 2000000"):
        Vocabulary(tuple(VocabularyClass((f"{n:04d}" + "x" * 996,)) for n in range(2_001)))


def test_equal_names_in_a_list_cost_no_more_than_others(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{n}:cup\n" for n in range(60_000)))
    # One look for each name: with a look at all earlier labels for each, these would be minutes.
    assert Vocabulary.load(path).names[-1] == "cup (60000)"


def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "folder.yaml").mkdir()
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "binary.txt").write_bytes(b"1:\xff\xfe")
    for name, message in (
        ("pipe.yaml", "it is a pipe"),
        ("zero.yaml", "it is a device"),
        ("folder.yaml", "it is a folder"),
        ("large.yaml", "larger than the limit of 16,777,216 bytes"),
        ("binary.txt", "not UTF-8"),
        ("nul\0.yaml", "is not a file name"),
    ):
        with pytest.raises(VocabularyError, match=message):
            Vocabulary.load(tmp_path / name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["coco"], "no vocabulary 'coco'; did you mean coco_panoptic\\? If a class of that name is meant"),
        (["COCO_panoptic"], "did you mean coco_panoptic"),
        (["indoor robot"], "did you mean indoor_robot"),
        (["Cityscape"], "did you mean cityscapes"),
        (["ade20k"], "did you mean ade20k_150"),
        (["voc"], "did you mean pascal_voc_20"),
        (["words.json"], "words.json is no vocabulary file; .*rename it"),
        (["./words"], "./words is no vocabulary file"),
        (["coco_panoptic", "forklift"], "coco_panoptic is a bundled vocabulary among class names"),
        (["forklift", "words.yaml"], "words.yaml looks like a file among class names"),
        (["coco_panoptic.yaml"], "did you mean the bundled vocabulary coco_panoptic"),
    ],
)
def test_what_was_meant_for_a_source_is_asked(given: list[str], message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.from_words(given)


def test_a_file_beside_is_proposed_for_a_misspelt_one(tmp_path: Path) -> None:
    (tmp_path / "hall_words.yaml").touch()
    with pytest.raises(VocabularyError, match="No such file.*did you mean .*hall_words.yaml"):
        Vocabulary.load(tmp_path / "hal_words.yaml")


def test_words_that_are_also_sources_can_be_classes() -> None:
    assert Vocabulary.from_words(["warehouse", "forklift"]).names == ("warehouse", "forklift")
    assert Vocabulary.from_words(["coco, coconut"]).synonyms == ("coco", "coconut")
    assert Vocabulary.from_words(["robot"]).names == ("robot",)
    assert len(Vocabulary.from_words(["pascal_voc_20"])) == 20
