"""Prompts, tokens, and the rows' cache: what it saves, and what it survives."""

from __future__ import annotations

import json
import logging
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from checkout import REFERENCE
from fcclip_core.errors import CheckpointError
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.inference.classification import TextClassifier
from fcclip_core.model.config import TINY
from fcclip_core.model.fcclip import FCCLIP
from fcclip_core.model.text_tower import TextTower
from fcclip_core.vocabulary import text_embeddings as text
from fcclip_core.vocabulary.text_embeddings import TEMPLATES, TextEncoder, TextRows, is_cut, prompts_for, tokenize


class Encoder:
    """Stands for a text tower: gives each prompt a vector of its own and remembers what it was asked."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def __call__(self, prompts: list[str]) -> torch.Tensor:
        self.prompts += prompts
        return torch.tensor([[len(prompt), prompt.count("e"), prompt.count("a"), 1.0] for prompt in prompts])


def no_encoder(prompts: list[str]) -> torch.Tensor:
    raise AssertionError(f"{prompts[0]!r} was encoded although its row is known")


def row_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.row"))


def test_templates_and_prompt_order_are_the_published_ones() -> None:
    published = json.loads((REFERENCE / "text.json").read_text())
    assert list(TEMPLATES) == json.loads((REFERENCE / "spec.json").read_text())["templates"]
    assert prompts_for(published["names"]) == published["prompts"]


def test_tokens_equal_the_reference_up_to_the_padding() -> None:
    golden = np.load(REFERENCE / "text.npz")["tokens"]
    tokens = tokenize(json.loads((REFERENCE / "text.json").read_text())["prompts"]).numpy()
    length = tokens.shape[1]
    assert length == np.argmax(golden, axis=1).max() + 1  # the longest prompt's end token is in the last column
    assert (tokens == golden[:, :length]).all()


@pytest.mark.parametrize("name", ["{}", "{0}", "50 % {cup}", "工具箱", "čaj", "<end_of_text>"])
def test_odd_names_become_prompts_and_tokens(name: str) -> None:
    prompts = prompts_for([name])
    assert all(name in prompt for prompt in prompts)
    tokens = tokenize(prompts)
    assert tokens.shape == (14, (tokens != 0).sum(1).max()) and (tokens == 49407).any(1).all()


def test_overlong_prompts_are_cut_as_open_clip_does_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    from open_clip import tokenize as oracle

    prompts = ["cup " * 75, "cup " * 76, "a cup"]
    assert torch.equal(tokenize(prompts), oracle(prompts))
    assert len(caplog.records) == 1
    assert "77 tokens" in caplog.text and "in 1 of 3 prompts" in caplog.text


def test_a_name_is_cut_if_its_longest_prompt_is() -> None:
    # "There is a medium {} in the scene." has eight tokens beside the name, start and end token two more.
    assert not is_cut("cup " * 67)
    assert is_cut("cup " * 68)


def test_a_row_is_the_normalized_mean_of_normalized_prompts() -> None:
    vectors = torch.zeros(28, 2)
    vectors[:14, 0] = 5.0  # thirteen long vectors to the right and a short one upwards weigh as directions, not lengths
    vectors[13] = torch.tensor([0.0, 0.1])
    vectors[14:, 1] = -3.0
    rows = TextRows(lambda prompts: vectors, "tower").rows(["a", "b"])
    assert rows.dtype == torch.float32
    np.testing.assert_allclose(rows, [[13 / 170**0.5, 1 / 170**0.5], [0.0, -1.0]], atol=1e-6)


def test_one_new_word_costs_one_word() -> None:
    encoder = Encoder()
    rows = TextRows(encoder, "tower")
    first = rows.rows(["cup", "floor", "cup"])
    assert sorted(encoder.prompts) == sorted(prompts_for(["cup", "floor"]))
    encoder.prompts.clear()
    second = rows.rows(["floor", "spoon", "cup"])
    assert encoder.prompts == prompts_for(["spoon"])
    assert torch.equal(first[[1, 0]], second[[0, 2]]) and torch.equal(first[0], first[2])


def test_rows_do_not_depend_on_the_order_or_number_of_new_names() -> None:
    names = [f"{'long ' * (i % 7)}name {i}" for i in range(40)]
    together = TextRows(Encoder(), "tower").rows(names)
    alone = torch.cat([TextRows(Encoder(), "tower").rows([name]) for name in names])
    assert torch.equal(together, alone)


def test_rows_survive_the_process(tmp_path: Path) -> None:
    first = TextRows(Encoder(), "tower", tmp_path / "made" / "when needed").rows(["cup", "工具箱"])
    again = TextRows(no_encoder, "tower", tmp_path / "made" / "when needed").rows(["工具箱", "cup"])
    assert torch.equal(first[[1, 0]], again)


def test_another_tower_or_other_templates_share_nothing(tmp_path: Path) -> None:
    TextRows(Encoder(), "tower", tmp_path).rows(["cup"])
    other = Encoder()
    TextRows(other, "other tower", tmp_path).rows(["cup"])
    assert len(other.prompts) == 14
    TextRows(other, "tower", tmp_path, templates=("one {}.",)).rows(["cup"])
    assert len(other.prompts) == 15 and other.prompts[-1] == "one cup."


def test_an_interrupted_run_keeps_what_it_has_encoded(tmp_path: Path) -> None:
    names = [f"name {i}" for i in range(40)]

    def stop_after_one(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TextRows(Encoder(), "tower", tmp_path).rows(names, stop_after_one)
    kept = len(row_files(tmp_path))
    assert 0 < kept < 40
    encoder = Encoder()
    TextRows(encoder, "tower", tmp_path).rows(names)
    assert len(encoder.prompts) == 14 * (40 - kept)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[:32],
        lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
        lambda content: b"\x93NUMPY" + content,
    ],
    ids=["empty", "truncated", "header only", "one bit", "foreign"],
)
def test_a_damaged_file_is_computed_anew_and_repaired(damage, tmp_path: Path, caplog) -> None:
    right = TextRows(Encoder(), "tower", tmp_path).rows(["cup"])
    (file,) = row_files(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    assert torch.equal(TextRows(Encoder(), "tower", tmp_path).rows(["cup"]), right)
    assert "damaged" in caplog.text and "'cup'" in caplog.text
    assert torch.equal(TextRows(no_encoder, "tower", tmp_path).rows(["cup"]), right)


def test_rows_of_another_length_type_or_norm_are_computed_anew(tmp_path: Path, caplog) -> None:
    right = TextRows(Encoder(), "tower", tmp_path).rows(["cup"])
    (file,) = row_files(tmp_path)
    rows = TextRows(Encoder(), "tower", tmp_path, width=4)
    unit = np.eye(4, dtype="<f4")[0]
    no_numbers = [np.full(4, value, "<f4") for value in (np.nan, np.inf)]
    lies = (np.eye(7, dtype="<f4")[0], unit * 2, unit * 0, *no_numbers, np.zeros(0, "<f4"))
    for payload in (*(lie.tobytes() for lie in lies), unit.tobytes()[:-1], unit.tobytes() * 100_000):
        file.write_bytes(rows._digest("cup", payload) + payload)
        found = TextRows(Encoder(), "tower", tmp_path, width=4)
        assert torch.equal(found.rows(["cup"]), right)
        assert found.rows(["cup", "spoon"]).shape == (2, 4)
    assert "no row of unit length" in caplog.text
    assert "holds 7 numbers, not 4" in caplog.text


def test_unusable_rows_are_said_once(tmp_path: Path, caplog) -> None:
    TextRows(Encoder(), "tower", tmp_path).rows(["cup", "spoon", "fork"])
    for file in row_files(tmp_path):
        file.write_bytes(b"damaged")
    TextRows(Encoder(), "tower", tmp_path).rows(["cup", "spoon", "fork"])
    assert len(caplog.records) == 1


def test_a_row_that_another_user_could_write_is_not_believed(tmp_path: Path, caplog) -> None:
    TextRows(Encoder(), "tower", tmp_path).rows(["cup"])
    (file,) = row_files(tmp_path)
    assert file.stat().st_mode & 0o022 == 0
    file.chmod(0o666)
    encoder = Encoder()
    TextRows(encoder, "tower", tmp_path).rows(["cup"])
    assert encoder.prompts == prompts_for(["cup"])
    assert "everybody can write" in caplog.text


def test_a_file_under_another_name_is_not_believed(tmp_path: Path) -> None:
    TextRows(Encoder(), "tower", tmp_path).rows(["cup"])
    (cup,) = row_files(tmp_path)
    TextRows(Encoder(), "tower", tmp_path).rows(["spoon"])
    (spoon,) = set(row_files(tmp_path)) - {cup}
    spoon.write_bytes(cup.read_bytes())
    encoder = Encoder()
    TextRows(encoder, "tower", tmp_path).rows(["spoon"])
    assert encoder.prompts == prompts_for(["spoon"])


def test_an_unwritable_cache_is_said_once_and_changes_nothing(tmp_path: Path, caplog) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")  # also stops root, whom permissions do not
    rows = TextRows(Encoder(), "tower", blocked / "cache")
    assert torch.equal(rows.rows(["cup", "spoon"]), TextRows(Encoder(), "tower").rows(["cup", "spoon"]))
    rows.rows(["floor"])
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(blocked) in caplog.text


def test_a_full_disk_leaves_no_half_written_file(tmp_path: Path, caplog, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert TextRows(Encoder(), "tower", tmp_path).rows(["cup", "spoon"]).shape == (2, 4)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert "No space left" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_useless_numbers_are_refused_and_not_kept(value: float, tmp_path: Path) -> None:
    rows = TextRows(lambda prompts: torch.full((len(prompts), 4), value), "tower", tmp_path)
    with pytest.raises(CheckpointError, match="'cup'"):
        rows.rows(["cup"])
    assert not row_files(tmp_path)


def test_progress_counts_the_new_names_up_to_all_of_them() -> None:
    calls: list[tuple[int, int]] = []
    rows = TextRows(Encoder(), "tower")
    rows.rows(["known"])
    rows.rows(["known", *(f"name {i}" for i in range(40))], lambda done, total: calls.append((done, total)))
    assert calls[-1] == (40, 40) and [done for done, _ in calls] == sorted({done for done, _ in calls})
    calls.clear()
    rows.rows(["known"], lambda done, total: calls.append((done, total)))
    assert calls == []


def test_threads_that_want_the_same_words_encode_them_once() -> None:
    encoder = Encoder()
    rows = TextRows(encoder, "tower")
    names = [f"name {i}" for i in range(30)]
    found: list[torch.Tensor] = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        found.append(rows.rows(names))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(encoder.prompts) == sorted(prompts_for(names))
    assert len(found) == 8 and all(torch.equal(found[0], other) for other in found)


def test_known_words_do_not_wait_for_new_ones() -> None:
    encoding, release = threading.Event(), threading.Event()

    def slow(prompts: list[str]) -> torch.Tensor:
        if "new" in prompts[0]:
            encoding.set()
            assert release.wait(10)
        return Encoder()(prompts)

    rows = TextRows(slow, "tower")
    rows.rows(["cup"])
    worker = threading.Thread(target=rows.rows, args=(["new"],))
    worker.start()
    assert encoding.wait(10)
    answer = threading.Thread(target=rows.rows, args=(["cup"],))
    answer.start()
    answer.join(5)
    waited = answer.is_alive()
    release.set()
    worker.join()
    answer.join()
    assert not waited


def test_the_encoder_returns_embeddings_in_the_order_of_the_prompts() -> None:
    torch.manual_seed(0)
    tower = TextTower(TINY).eval()
    prompts = [f"{'very ' * (i * 7 % 20)}long prompt {i}" for i in range(130)]  # three batches, lengths mixed
    together = TextEncoder(lambda: tower)(prompts)
    with torch.no_grad():
        alone = torch.cat([tower(tokenize([prompt])) for prompt in prompts])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert not together.requires_grad


def test_the_tower_is_loaded_once_for_many_words_and_released_after_them() -> None:
    loads: list[int] = []

    def load() -> TextTower:
        loads.append(1)
        return TextTower(TINY).eval()

    encoder = TextEncoder(load, release_after=0.3)
    rows = TextRows(encoder, "tower")
    assert not loads
    rows.rows([f"name {i}" for i in range(40)])
    assert len(loads) == 1 and encoder._tower is not None
    held = weakref.ref(encoder._tower)
    deadline = time.monotonic() + 20
    while held() is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert held() is None
    rows.rows(["another"])
    assert len(loads) == 2


@pytest.mark.parametrize("trouble", ["missing", "wrong"])
def test_a_processor_on_which_fused_products_fail_encodes_all_the_same(
    trouble: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    tower = TextTower(TINY).eval()
    expected = TextEncoder(lambda: tower)(["a cup"])

    def fused(given: TextTower) -> TextTower:
        if trouble == "missing":
            raise RuntimeError("could not create a primitive")
        return TextTower(TINY).eval()

    assert not caplog.messages
    monkeypatch.setattr(text, "text_tower_for_processor", fused)
    torch.testing.assert_close(TextEncoder(lambda: tower)(["a cup"]), expected)
    assert any("without oneDNN's fused products" in message for message in caplog.messages)


def test_a_tower_in_use_is_not_released(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[TextTower] = []

    def load() -> TextTower:
        loads.append(TextTower(TINY).eval())
        return loads[-1]

    encoder = TextEncoder(load, release_after=60.0)
    encoder(["a cup"])
    stale = encoder._timer
    assert stale is not None
    encoder(["a spoon"])
    stale.function()  # what a timer does that fired just before it was replaced
    encoder(["a fork"])
    assert len(loads) == 1


def test_a_file_is_whole_or_untouched(tmp_path: Path) -> None:
    path = tmp_path / "words.yaml"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with atomic_write(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_words_lie_where_the_network_answers_wherever_the_model_is() -> None:
    """Engines and compiled networks leave the model on the processor."""
    model, rows = FCCLIP(TINY), torch.eye(3, TINY.embed_dim)
    classifier = TextClassifier.build(model, rows, (2, 1), torch.ones(2, dtype=torch.bool), torch.device("meta"))
    parts = (classifier.rows, classifier.void, classifier.class_of_row, classifier.seen)
    assert [part.device.type for part in parts] == ["meta"] * 4
