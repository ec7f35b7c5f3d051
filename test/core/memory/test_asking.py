"""Words to objects: probabilities as a softmax by hand gives them, filters, and "nothing like it"."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from box_world import DIMENSION, SECOND, Thing, look

from fcclip_core import Vocabulary
from fcclip_core.errors import SettingsError, VocabularyError
from fcclip_core.memory.areas import Circle, Polygon
from fcclip_core.memory.asking import Question
from fcclip_core.memory.object_memory import ObjectMemory
from fcclip_core.memory.objects import State
from fcclip_core.memory.table import ObjectTable
from fcclip_core.vocabulary.embedded_text import TextEmbeddings
from fcclip_core.vocabulary.query import Query

SCALE = 10.0
ROWS = {"mug": 0, "cup": 0, "box": 2, "table": 4, "lamp": 5, "vase": 6}
MUG = Thing("mug", (2.0, 0.0, 0.1), (0.12, 0.12, 0.2), look=0)
BOX = Thing("box", (2.0, 0.8, 0.15), (0.3, 0.3, 0.3), look=2)
EYE, TARGET = (0.0, 0.2, 0.9), (2.0, 0.2, 0.1)


def embed(names: Sequence[str]) -> TextEmbeddings:
    return TextEmbeddings(np.eye(DIMENSION, dtype=np.float32)[[ROWS.get(name, 7) for name in names]], SCALE, "test")


def remembering(*things: Thing, words: Sequence[str] = (), memory: ObjectMemory | None = None) -> ObjectMemory:
    memory = memory or ObjectMemory()
    for number in range(4):
        memory.observe(look(things, EYE, TARGET, stamp=number * SECOND, words=words))
    return memory


def about(*words: str, **filters) -> Question:
    return Question(Query.of(words), **filters)


def test_a_word_of_no_vocabulary_gets_the_softmax_share_among_all_words() -> None:
    memory = remembering(MUG, BOX, words=("table", "box"))
    reply = memory.ask(about("mug"), embed, now=3 * SECOND)
    # The mug's cosines: 1 with its word, 0 with table and box.
    assert reply.answers[0].probability == pytest.approx(1 / (1 + 2 * math.exp(-SCALE)))
    assert reply.best.object.id == 1
    assert [item.object.name for item in reply.answers] == ["mug"]
    assert reply.answers[0].age == 0.0


def test_a_word_of_the_vocabulary_is_joined_with_what_frames_said() -> None:
    memory = remembering(MUG, words=("mug", "table"))
    expected = 0.6 * MUG.score + 0.4 / (1 + math.exp(-SCALE))
    assert memory.ask(about("mug"), embed).answers[0].probability == pytest.approx(expected)
    # Four looks under words without "mug" do not dilute what the other four said.
    remembering(replace(MUG, name="table"), words=("table", "lamp"), memory=memory)
    expected = 0.6 * MUG.score + 0.4 / (1 + 2 * math.exp(-SCALE))
    assert memory.ask(about("mug"), embed).answers[0].probability == pytest.approx(expected)


def test_a_vocabulary_that_had_the_word_and_did_not_use_it_speaks_against() -> None:
    memory = remembering(MUG, words=("cup", "mug"))  # CLIP cannot tell them apart here
    assert memory.ask(about("cup"), embed).answers[0].probability == pytest.approx(0.4 / 2)


def test_words_that_overlap_with_the_question_do_not_compete() -> None:
    memory = remembering(MUG, words=("red mug", "table"))
    assert memory.words_of(about("mug")) == ("mug", "table")
    assert memory.words_of(about("red mug")) == ("red mug", "table")
    assert memory.words_of(Question(Query.of(["mug"], ["lamp, light"]))) == ("mug", "lamp", "light", "table")


def test_the_background_competes_behind_a_margin() -> None:
    memory = ObjectMemory(background=Vocabulary.from_names(["vase", "mugs"]))
    remembering(replace(MUG, look=6, name=""), memory=memory)  # a vase
    assert memory.words_of(about("mug")) == ("mug", "vase")
    reply = memory.ask(about("mug"), embed)
    assert reply.best.probability == pytest.approx(1 / (1 + math.exp(SCALE - 1.5)))
    assert reply.answers == ()
    assert reply.sentence.startswith(
        'nothing like "mug" is remembered; the best is something unnamed (object 1) at (2.'
    )


def test_an_empty_memory_says_so() -> None:
    reply = ObjectMemory().ask(about("mug"), embed)
    assert (reply.answers, reply.best) == ((), None)
    assert reply.sentence == 'nothing is remembered that could be "mug"'


def test_a_name_of_ones_own_is_a_word_from_then_on() -> None:
    memory = remembering(MUG, BOX, words=("mug", "box"))
    memory.name(2, "toolbox of Ann")
    reply = memory.ask(about("toolbox of Ann"), embed)
    assert [(item.object.id, item.probability) for item in reply.answers] == [(2, 1.0)]
    memory.name(2, "")
    assert memory.ask(about("toolbox of Ann"), embed).answers[:1] != reply.answers


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, {1, 2}),
        ({"area": Circle(2.0, 0.0, 0.3)}, {1}),
        ({"area": Polygon([(1, 0.5), (3, 0.5), (3, 1.5), (1, 1.5)])}, {2}),
        ({"max_age": 5.0}, set()),
        ({"max_age": 50.0}, {1, 2}),
        ({"called": ["box"]}, {2}),
        ({"called": ["nothing"]}, set()),
        ({"states": (State.GONE,)}, set()),
        ({"limit": 1}, {1}),
    ],
)
def test_filters_limit_the_answers(filters, expected) -> None:
    memory = remembering(MUG, replace(BOX, look=0, tilt=0.2))
    reply = memory.ask(about("mug", **filters), embed, now=20 * SECOND)
    assert {item.object.id for item in reply.answers} == expected


def test_many_objects_are_ranked_by_probability() -> None:
    memory = ObjectMemory()
    for number in range(40):
        thing = replace(MUG.at(2.0 + 6 * number, 0.0), tilt=0.03 * number)
        for _ in range(3):
            memory.observe(look([thing], (6.0 * number, 0.2, 0.9), (2.0 + 6 * number, 0.2, 0.1)))
    reply = memory.ask(about("mug", limit=5), lambda names: embed(names), now=0)
    assert [item.object.id for item in reply.answers] == [1, 2, 3, 4, 5]


def test_words_can_be_learned_before_they_are_asked() -> None:
    memory = remembering(MUG, words=("table",))
    with pytest.raises(VocabularyError, match="learn_words"):
        memory.ask(about("cup"))
    unknown = memory.unknown_words(about("cup"))
    assert unknown == ("cup", "table")
    memory.learn_words(unknown, embed(unknown))
    assert memory.unknown_words(about("cup")) == ()
    assert memory.ask(about("cup")).answers[0].object.id == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TextEmbeddings(np.eye(8, dtype=np.float32)[:1], SCALE, "other"), "text tower"),
        (TextEmbeddings(np.eye(8, dtype=np.float32)[:2], SCALE, "test"), "1 words"),
        (TextEmbeddings(np.ones((1, 8), np.float32), SCALE, "test"), "unit vectors"),
        (TextEmbeddings(np.eye(8, dtype=np.float32)[:1], math.nan, "test"), "logit scale"),
    ],
)
def test_text_embeddings_that_do_not_fit_are_refused(text: TextEmbeddings, expected: str) -> None:
    memory = remembering(MUG)
    memory.learn_words(["mug"], embed(["mug"]))
    with pytest.raises(VocabularyError, match=expected):
        memory.learn_words(["cup"], text)


def test_embeddings_of_another_size_are_refused() -> None:
    memory = remembering(MUG)
    with pytest.raises(VocabularyError, match="have 8 numbers, the words' 4"):
        memory.ask(about("cup"), lambda names: TextEmbeddings(np.eye(4, dtype=np.float32)[:1], SCALE, "four"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: about("mug", max_age=-1.0),
        lambda: about("mug", max_age=math.inf),
        lambda: about("mug", min_probability=math.nan),
        lambda: about("mug", limit=0),
        lambda: Circle(0.0, math.nan, 1.0),
        lambda: Circle(0.0, 0.0, 0.0),
        lambda: Polygon([(0, 0), (1, 1)]),
        lambda: Polygon([(0, 0), (1, 1), (math.inf, 0)]),
    ],
)
def test_questions_that_make_no_sense_are_refused(make) -> None:
    with pytest.raises(SettingsError):
        make()


def test_a_concave_polygon_is_concave() -> None:
    shape = Polygon([(0, 0), (4, 0), (4, 4), (2, 1), (0, 4)])
    points = np.array([[1.0, 1.0, 9], [2, 3, 9], [3.5, 2, 9], [2, 0.5, 9], [5, 1, 9]])
    assert shape.contains(points).tolist() == [True, False, True, True, False]


def test_the_index_finds_what_a_plain_product_finds_after_any_changes() -> None:
    memory, dice = remembering(MUG), np.random.default_rng(0)
    item, index, rows = memory.get(1), ObjectTable(), {}
    for turn in range(3000):
        number = int(dice.integers(1, 400))
        if number in rows and turn % 3 == 0:
            index.remove(number)
            del rows[number]
        else:
            rows[number] = dice.standard_normal(DIMENSION).astype(np.float32)
            index.put(replace(item, id=number, embedding_sum=rows[number]))
    columns, query = index.columns(), np.eye(DIMENSION, dtype=np.float32)[:2]
    chosen = columns.ids % 2 == 0
    found = dict(zip(columns.ids.tolist(), columns.best_cosines(query, chosen).tolist(), strict=True))
    assert found.keys() == rows.keys()
    for number, row in rows.items():
        expected = max(row[:2]) / np.linalg.norm(row) if number % 2 == 0 else -math.inf
        assert found[number] == pytest.approx(expected, abs=1e-5)


def test_readers_may_ask_while_one_thread_writes() -> None:
    memory = remembering(MUG, BOX, words=("mug", "box"))
    memory.ask(about("mug"), embed)
    failures: list[Exception] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                assert memory.ask(about("mug")).best is not None
                memory.objects()
            except Exception as error:
                failures.append(error)
                return

    readers = [threading.Thread(target=ask) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(60):
        place = 10.0 * (number % 20)
        memory.observe(look([MUG.at(place, 9.0)], (place - 2, 9.0, 0.9), (place, 9.0, 0.1)))
        if number % 10 == 9:
            memory.forget_where(Circle(place, 9.0, 1.0))
    stop.set()
    for reader in readers:
        reader.join()
    assert failures == []
