"""Checkpoints that lie: of their text tower, their configuration, their size, their own kind."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fcclip_core.cli import main
from fcclip_core.errors import CheckpointError
from fcclip_core.vocabulary.text_embeddings import TextEncoder, TextRows
from fcclip_core.weights.checkpoints import METADATA_KEY, load_checkpoint, save_checkpoint
from fcclip_core.weights.weight_files import MAX_HEADER, read_weight_file

LONGEST_MESSAGE = 3000


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    save_checkpoint(path, load_checkpoint("recipe:tiny"))
    return path


def header_of(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()[METADATA_KEY])


def rewritten(source: Path, target: Path, header: object, state: dict[str, torch.Tensor] | None = None) -> Path:
    save_file(
        state or load_file(source), target, {METADATA_KEY: header if isinstance(header, str) else json.dumps(header)}
    )
    return target


def refused(path: Path) -> str:
    """The message of the refusal, which takes no more memory than the file and a little."""
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    size = path.stat().st_size if path.is_file() else 0
    assert peak < 10 * size + 50_000_000
    message = str(caught.value)
    assert len(message) < LONGEST_MESSAGE
    assert message.isprintable()
    return message


# --- identity ---------------------------------------------------------------------------------------------------


def test_a_file_that_claims_another_text_tower_does_not_poison_the_cache_of_words(tiny: Path, tmp_path: Path) -> None:
    truth = load_checkpoint(tiny)
    state = load_file(tiny)
    key = "backbone.clip_model.text_projection"
    state[key] = state[key].flip(0)
    lie = {**header_of(tiny), "text_tower_id": truth.text_tower_id}
    liar = load_checkpoint(rewritten(tiny, tmp_path / "liar.safetensors", lie, state))
    assert liar.text_tower_id != truth.text_tower_id

    rows = {}
    for name, checkpoint in (("liar", liar), ("truth", truth)):
        encoder = TextEncoder(checkpoint.text_tower)
        rows[name] = TextRows(encoder, checkpoint.text_tower_id, tmp_path / "cache", width=64).rows(["cup"])
    assert not torch.allclose(rows["liar"], rows["truth"])
    alone = TextRows(TextEncoder(truth.text_tower), truth.text_tower_id).rows(["cup"])
    assert torch.equal(rows["truth"], alone)


def test_a_text_tower_is_known_again_whatever_file_it_comes_in(tiny: Path, tmp_path: Path) -> None:
    without_claim = {name: value for name, value in header_of(tiny).items() if name != "text_tower_id"}
    again = rewritten(tiny, tmp_path / "again.safetensors", without_claim)
    assert load_checkpoint(again).text_tower_id == load_checkpoint(tiny).text_tower_id


# --- configuration and provenance -------------------------------------------------------------------------------


def config_with(**changes: object) -> Callable[[dict[str, Any]], object]:
    def change(header: dict[str, Any]) -> object:
        for name, value in changes.items():
            part, _, field = name.rpartition("__")
            target = header["config"][part] if part else header["config"]
            target[field] = value
        return header

    return change


def header_with(**changes: object) -> Callable[[dict[str, Any]], object]:
    return lambda header: {**header, **changes}


def provenance_with(**changes: object) -> Callable[[dict[str, Any]], object]:
    return lambda header: {**header, "provenance": {**header["provenance"], **changes}}


def test_provenance_of_the_first_version_spells_license_with_a_c(tiny: Path, tmp_path: Path) -> None:
    header = header_of(tiny)
    header["provenance"]["licence"] = header["provenance"].pop("license") or "MIT"
    again = load_checkpoint(rewritten(tiny, tmp_path / "again.safetensors", header))
    assert again.provenance.license == "MIT"


LAUGHS = "classes:\n- &a [x, x]\n" + "".join(
    f"- &{chr(98 + level)} [{', '.join([f'*{chr(97 + level)}'] * 9)}]\n" for level in range(12)
)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (config_with(pixel_decoder__layers=10_000_000), "pixel_decoder.layers is 10000000"),
        (config_with(pixel_decoder__layers=900_000), "pixel_decoder.layers is 900000, but the file contains"),
        (config_with(mask_decoder__layers=5_000), "mask_decoder.layers is 5000, but the file contains"),
        (config_with(text__layers=100_000), "text.layers is 100000, but the file contains"),
        (config_with(vision__depths=[1, 1, 1_000_000, 1]), "vision blocks is 1000003"),
        (config_with(pixel_decoder__layers=-1), "pixel_decoder.layers is -1"),
        (config_with(pixel_decoder__layers=2.5), "pixel_decoder.layers is 2.5"),
        (config_with(pixel_decoder__layers=True), "pixel_decoder.layers is True"),
        (config_with(pixel_decoder__layers="2"), "pixel_decoder.layers is '2'"),
        (config_with(pixel_decoder__layers=10**400), "a number of 1329 bits"),
        (config_with(shorter_side=0), "shorter_side is 0"),
        (config_with(shorter_side=5), "shorter_side is 5"),
        (config_with(shorter_side=10**6), "shorter_side is 1000000"),
        (config_with(mask_decoder__heads=0), "mask_decoder.heads is 0"),
        (config_with(mask_decoder__heads=7), "is not divisible by its number of heads, 7"),
        (config_with(text__heads=3), "is not divisible by its number of heads, 3"),
        (config_with(mask_decoder__queries=1_000_000), "of another shape"),
        (config_with(vision__dims=[1_000_000] * 4), "of another shape"),
        (config_with(vision__dims=[32, 64]), "dims is [32, 64]"),
        (config_with(vision__dims={"a": 1}), "dims is {'a': 1}"),
        (config_with(vision__head="attention"), "vision.head is 'attention'; expected one of mlp, linear"),
        (config_with(vision__head=1), "head is 1; expected a string"),
        (config_with(vision__head="linear"), "not expected: backbone.clip_model.visual.head.mlp"),
        (config_with(clip_is_frozen="no"), "clip_is_frozen is 'no'; expected true or false"),
        (config_with(vision=None), "vision is None"),
        (config_with(text=[[[]]]), "text is [[[]]]"),
        (config_with(name="x" * 100_000), "name is 'xxx"),
        (config_with(name="\x1b[31mred"), "name is "),
        (config_with(valid_mask_only="no"), "valid_mask_only is 'no'"),
        (config_with(surprise=1), "unknown field 'surprise'"),
        (config_with(**{"y" * 100_000: 1}), "unknown field 'yyy"),
        (lambda header: {**header, "config": {}}, "vision is None"),
        (lambda header: {name: value for name, value in header.items() if name != "config"}, "KeyError"),
        (lambda header: "[" * 100_000, "damaged header"),
        (lambda header: "{" * 100_000, "damaged header"),
        (lambda header: "[]", "damaged header"),
        (lambda header: "NaN", "damaged header"),
        (header_with(format_version="9" * 100_000), "has format version '999"),
        (header_with(format_version=[[1]]), "has format version [[1]]"),
        (header_with(train_vocabulary=5), "train_vocabulary is 5"),
        (header_with(train_vocabulary=LAUGHS), "alias"),
        (header_with(train_vocabulary="[" * 50_000), "damaged header"),
        (header_with(train_vocabulary="classes:\n- {name: " + "x" * 100_000 + "}"), "100000 characters"),
        (provenance_with(sources="abc"), "sources is 'abc'"),
        (provenance_with(sources=[{}] * 1000), "sources is [{}, {}, {}, ...]"),
        (provenance_with(sources=[{"role": 5, "name": "x"}]), "provenance has 5"),
        (provenance_with(sources=[{"role": "a", "name": "b", "path": "/etc/passwd"}]), "unknown fields"),
        (provenance_with(seeded="false"), "seeded is 'false'"),
        (provenance_with(note="\x1b]0;owned\x07"), "provenance has"),
        (provenance_with(note="n" * 10_000), "provenance has 'nnn"),
        (provenance_with(license={"a": []}), "provenance has {'a': []}"),
        (header_with(provenance=[1]), "damaged header"),
    ],
)
def test_a_lying_header_is_refused_before_anything_is_built(
    change: Callable[[dict[str, Any]], object], said: str, tiny: Path, tmp_path: Path
) -> None:
    thin = {key: torch.zeros(1) for key in load_file(tiny)}
    assert said in refused(rewritten(tiny, tmp_path / "lie.safetensors", change(header_of(tiny)), thin))


def test_aliases_in_a_stored_vocabulary_do_not_hang_inspect(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = rewritten(tiny, tmp_path / "lie.safetensors", {**header_of(tiny), "train_vocabulary": LAUGHS})
    assert main(["weights", "inspect", str(path)]) != 0
    assert "alias" in capsys.readouterr().err


# --- files ------------------------------------------------------------------------------------------------------


def safetensors(header: bytes, content: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + content


def entry(**changes: object) -> bytes:
    return json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}).encode()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(safetensors(b"{}", length=2**63), id="a header of 8 exabytes"),
        pytest.param(safetensors(b"{}", length=MAX_HEADER + 1), id="a header of more than is read"),
        pytest.param(safetensors(b"{" + b" " * 100, length=90_000), id="a header longer than the file"),
        pytest.param(safetensors(b'{"a":' * 50_000), id="nested without end"),
        pytest.param(safetensors(b'{"\xff\xfe": 1}'), id="not UTF-8"),
        pytest.param(safetensors(entry(data_offsets=[0, 2**60]), b"\0" * 8), id="offsets beyond the file"),
        pytest.param(safetensors(entry(data_offsets=[8, 0]), b"\0" * 8), id="offsets backwards"),
        pytest.param(safetensors(entry(shape=[2**40, 2**40]), b"\0" * 8), id="a shape that overflows"),
        pytest.param(safetensors(entry(shape=[2**62, 4]), b"\0" * 8), id="a shape that overflows 64 bits"),
        pytest.param(safetensors(entry(shape=[-2]), b"\0" * 8), id="a negative side"),
        pytest.param(safetensors(entry(dtype="F64"), b"\0" * 8), id="a type that does not fit"),
        pytest.param(safetensors(entry(dtype="EVIL"), b"\0" * 8), id="an unknown type"),
        pytest.param(safetensors(entry(shape=[1] * 1000 + [2]), b"\0" * 8), id="a thousand axes"),
        pytest.param(
            safetensors(
                json.dumps(
                    {
                        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                        "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
                    }
                ).encode(),
                b"\0" * 12,
            ),
            id="overlapping tensors",
        ),
        pytest.param(safetensors(json.dumps({"k" * 1_000_000: {}}).encode()), id="a key of a megabyte"),
        pytest.param(
            safetensors(json.dumps({"__metadata__": {"fcclip": "x" * 2_000_000}}).encode()),
            id="two megabytes of metadata",
        ),
        pytest.param(
            safetensors(
                json.dumps({"k\x1b[2J" * 50_000: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode(),
                b"\0" * 8,
            ),
            id="escapes in a key",
        ),
    ],
)
def test_a_lying_safetensors_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "lie.safetensors"
    path.write_bytes(content)
    refused(path)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "loop.pth").symlink_to(tmp_path / "loop.pth")
    assert "is a pipe" in refused(tmp_path / "pipe.pth")
    assert "is a folder" in refused(tmp_path / "folder.pth")
    assert "cannot be read" in refused(tmp_path / "loop.pth")
    assert "is a device" in refused(Path("/dev/zero"))
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / ("n" * 300 + ".pth"))
    with pytest.raises(CheckpointError, match="not a file name"):
        load_checkpoint("a\0b.pth")


def torch_zip(target: Path, state: object, method: int) -> Path:
    plain = target.with_suffix(".plain")
    torch.save(state, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(target, "w", method) as packed:
        for member in source.infolist():
            packed.writestr(member.filename, source.read(member))
    plain.unlink()
    return target


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("name", ["bomb.pth", "bomb.safetensors"])
def test_a_compressed_member_is_not_unpacked(method: int, name: str, tmp_path: Path) -> None:
    bomb = torch_zip(tmp_path / name, {"model": {"a": torch.zeros(5_000_000)}}, method)
    assert bomb.stat().st_size < 200_000
    assert "is compressed" in refused(bomb)


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "overlap.pth"
    torch.save({"a": torch.zeros(100_000)}, path)
    content = path.read_bytes()
    at = content.rindex(b"PK\x01\x02")
    while (before := content.rfind(b"PK\x01\x02", 0, at)) >= 0:
        at = before
    directory, end = content[at : content.rindex(b"PK\x05\x06")], content[content.rindex(b"PK\x05\x06") :]
    fields = list(struct.unpack("<4sHHHHIIH", end[:22]))
    fields[3] = fields[4] = fields[3] * 5
    fields[5] = len(directory) * 5
    path.write_bytes(content[:at] + directory * 5 + struct.pack("<4sHHHHIIH", *fields))
    refused(path)


def test_a_pickle_whose_storage_is_larger_than_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"model": {"a": torch.zeros(7_777)}}, path)
    content = path.read_bytes()
    count = struct.pack("<H", 7_777)
    assert b"M" + count in content
    path.write_bytes(content.replace(b"M" + count, b"M" + struct.pack("<H", 65_535)))
    refused(path)


def test_one_storage_under_a_thousand_keys_is_refused(tmp_path: Path) -> None:
    block = torch.zeros(100_000)
    torch.save({"model": {f"k{index}": block.view(-1) for index in range(1000)}}, tmp_path / "w.pth")
    assert "share memory" in refused(tmp_path / "w.pth")


def test_keys_that_are_no_text_are_named_by_what_they_are(tmp_path: Path) -> None:
    key: tuple = ()
    for _ in range(18):
        key = (key, key)
    torch.save({"model": {key: torch.zeros(2), "a": torch.zeros(2)}}, tmp_path / "w.pth")
    file = read_weight_file(tmp_path / "w.pth")
    assert file.others == ("(((...), (...)), ((...), (...)))",)
    assert list(file.tensors) == ["a"]


@pytest.mark.parametrize("zipped", [True, False])
def test_tuples_without_end_are_refused_and_not_hashed(zipped: bool, tmp_path: Path) -> None:
    form: Any = {"_use_new_zipfile_serialization": zipped}
    levels: list = ["x"]
    for _ in range(60):
        levels = [levels, levels]
    torch.save({"model": {"a": torch.zeros(2), "b": levels}}, tmp_path / "w.pth", **form)
    assert read_weight_file(tmp_path / "w.pth").others == ("b",)  # lists are no keys
    nested: tuple = ("x",)
    for _ in range(60):
        nested = (nested, nested)
    torch.save({"model": {"a": torch.zeros(2), "b": nested}}, tmp_path / "w.pth", **form)
    assert "tuples nested so deeply" in refused(tmp_path / "w.pth")


# --- what programs around a model leave in its files --------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        "module.{}",
        "_orig_mod.{}",
        "model.{}",
        "module._orig_mod.{}",
        "_orig_mod.module.{}",
        "model.module._orig_mod.{}",
        "model.model.{}",
    ],
)
@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16, torch.float32])
def test_wrapped_and_retyped_checkpoints_are_imported_right(
    wrap: str, kind: torch.dtype, tiny: Path, tmp_path: Path
) -> None:
    state = load_file(tiny)
    stored = {wrap.format(key): t.to(kind) if t.is_floating_point() else t for key, t in state.items()}
    classes = torch.ones(134, dtype=kind)
    stored[wrap.format("criterion.empty_weight")] = classes
    torch.save({"state_dict": stored}, tmp_path / "w.pth")
    checkpoint = load_checkpoint(tmp_path / "w.pth")
    assert checkpoint.config.name == "tiny"
    for key, tensor in checkpoint.state.items():
        assert tensor.dtype == state[key].dtype
        assert torch.equal(tensor, state[key].to(kind).to(state[key].dtype))
    assert checkpoint.text_tower().text_projection.dtype is torch.float32


def test_wrapped_submodules_and_nested_dictionaries_are_imported_right(tiny: Path, tmp_path: Path) -> None:
    state = load_file(tiny)
    stored = {key.replace("sem_seg_head.", "sem_seg_head._orig_mod."): tensor for key, tensor in state.items()}
    stored["criterion.empty_weight"] = torch.ones(134)
    torch.save({"state_dict": {"model": stored}, "epoch": 3}, tmp_path / "w.pth")
    assert set(load_checkpoint(tmp_path / "w.pth").state) <= set(state)


def test_wrapped_and_plain_keys_together_are_refused(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.zeros(2), "module.a.weight": torch.ones(2)}, tmp_path / "w.pth")
    assert "more than once, with and without" in refused(tmp_path / "w.pth")


def test_a_float64_value_beyond_float32_is_no_number(tiny: Path, tmp_path: Path) -> None:
    state = {key: t.double() if t.is_floating_point() else t for key, t in load_file(tiny).items()}
    state["void_embedding.weight"][0, 0] = 1e300
    state["criterion.empty_weight"] = torch.ones(134)
    torch.save(state, tmp_path / "w.pth")
    assert "NaN or infinite" in refused(tmp_path / "w.pth")
