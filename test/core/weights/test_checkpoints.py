"""Loading key for key, saving into one file, and what is said about files that do not fit."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from key_lists import LISTS, counts, entries, listed_state, weight_file, without_clip
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fcclip_core.errors import CheckpointError
from fcclip_core.model.config import PRESETS
from fcclip_core.vocabulary.classes import Vocabulary
from fcclip_core.weights import model_zoo, weight_files
from fcclip_core.weights.checkpoints import (
    METADATA_KEY,
    Checkpoint,
    Provenance,
    Source,
    check_published,
    load_checkpoint,
    load_model,
    save_checkpoint,
)
from fcclip_core.weights.published_layout import EMPTY_WEIGHT, is_parameter, layout_of, part_of

State = dict[str, torch.Tensor]
COCO = Vocabulary.load("coco_panoptic")
SMALL = Vocabulary.from_names(["pallet, wooden pallet", "floor"], stuff=["floor"])
# One key of every kind; where a preset lacks it, the case is left out.
KEYS = (
    "backbone.clip_model.logit_scale",
    "backbone.clip_model.visual.trunk.stem.0.weight",
    "backbone.clip_model.visual.trunk.stages.2.blocks.0.gamma",
    "backbone.clip_model.visual.trunk.head.norm.bias",
    "backbone.clip_model.visual.head.mlp.fc2.weight",
    "backbone.clip_model.visual.conv1.weight",
    "backbone.clip_model.visual.layer3.2.bn1.running_mean",
    "backbone.clip_model.visual.bn1.num_batches_tracked",
    "backbone.clip_model.visual.attnpool.positional_embedding",
    "backbone.clip_model.positional_embedding",
    "backbone.clip_model.token_embedding.weight",
    "backbone.clip_model.transformer.resblocks.1.mlp.c_fc.bias",
    "backbone.clip_model.text_projection",
    "sem_seg_head.pixel_decoder.input_proj.0.0.weight",
    "sem_seg_head.pixel_decoder.transformer.level_embed",
    "sem_seg_head.pixel_decoder.transformer.encoder.layers.1.self_attn.sampling_offsets.bias",
    "sem_seg_head.pixel_decoder.adapter_1.norm.weight",
    "sem_seg_head.predictor.query_feat.weight",
    "sem_seg_head.predictor.transformer_cross_attention_layers.2.multihead_attn.in_proj_weight",
    "sem_seg_head.predictor._mask_pooling_proj.1.bias",
    "sem_seg_head.predictor.logit_scale",
    "void_embedding.weight",
    EMPTY_WEIGHT,
)
CASES = [(preset, key) for preset in LISTS for key in KEYS if key in entries(preset)]


def removed(state: State, key: str) -> State:
    return {name: tensor for name, tensor in state.items() if name != key}


def added(state: State, key: str) -> State:
    return {**state, f"{key}_2": torch.ones(2)}


def reshaped(state: State, key: str) -> State:
    return {**state, key: torch.ones((*state[key].shape, 2), dtype=state[key].dtype)}


def retyped(state: State, key: str) -> State:
    return {**state, key: torch.zeros((), dtype=torch.complex64).expand(state[key].shape)}


CHANGES: dict[Callable[[State, str], State], str] = {
    removed: "missing: {key}",
    added: "not expected: {key}_2",
    reshaped: "of another shape: {key} [",
    retyped: "of another type: {key} torch.complex64",
}


@pytest.fixture
def tiny() -> Checkpoint:
    return load_checkpoint("recipe:tiny")


def published(folder: Path, state: State, name: str = "fcclip.pth") -> Path:
    torch.save({"model": state}, folder / name)
    return folder / name


def real_tiny_state(seed: int = 0) -> State:
    """Tensors of the listed shapes, each value different."""
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator) for key, (shape, _) in entries("tiny").items()}


# --- the published key lists ------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", LISTS)
def test_listed_keys_load_completely(preset: str, tmp_path: Path) -> None:
    state = listed_state(preset)
    checkpoint = load_checkpoint(published(tmp_path, state))
    assert checkpoint.config == PRESETS[preset]
    assert len(checkpoint.train_vocabulary) == 133

    model, tower = load_model(checkpoint), checkpoint.text_tower()
    loaded = {**model.state_dict(), **tower.state_dict()}
    assert not any(tensor.is_meta for tensor in [*loaded.values(), *model.buffers(), *tower.buffers()])
    assert not model.training
    assert not tower.training
    # Every number of the file has arrived in exactly one place of the model.
    arrived = Counter((tuple(tensor.shape), tensor.flatten()[0].item()) for tensor in loaded.values())
    given = Counter((tuple(t.shape), t.flatten()[0].item()) for key, t in state.items() if key != EMPTY_WEIGHT)
    assert arrived == given


@pytest.mark.parametrize("preset", [preset for preset in LISTS if preset != "tiny"])
def test_parts_have_the_published_numbers_of_parameters(preset: str) -> None:
    expected, found = counts(preset), Counter[str]()
    for key, entry in layout_of(PRESETS[preset]).everything.items():
        if is_parameter(key):
            found[part_of(key)] += torch.Size(entry.shape).numel()
    assert found["pixel decoder"] == expected["pixel_decoder"]
    assert found["mask decoder"] == expected["transformer_decoder"]
    assert found["void embedding"] == expected["void_embedding"]
    assert found["CLIP image tower"] == expected["clip_visual"]
    assert found["CLIP text tower and scale"] == expected["clip_text_and_scale"]
    assert found.total() == expected["total"]


@pytest.mark.parametrize(("preset", "key"), CASES)
def test_a_changed_key_is_reported_by_name(preset: str, key: str) -> None:
    check_every_change(preset, listed_state(preset), key)


def check_every_change(preset: str, state: State, key: str) -> None:
    for change, expected in CHANGES.items():
        with pytest.raises(CheckpointError) as caught:
            check_published(weight_file(change(state, key)), COCO)
        message = str(caught.value)
        assert f"does not match {preset}" in message
        assert f"1 {expected.format(key=key)}" in message


@pytest.mark.slow
@pytest.mark.parametrize("preset", LISTS)
def test_every_single_key_is_reported_by_name(preset: str) -> None:
    for key in listed_state(preset):
        check_every_change(preset, listed_state(preset), key)


def test_all_differences_are_counted_and_ten_of_a_kind_spelled_out() -> None:
    state = dict(listed_state("tiny"))
    lost = [key for key in state if key.startswith("sem_seg_head.predictor.")][:12]
    for key in lost:
        del state[key]
    state["surplus"] = torch.ones(1)
    with pytest.raises(CheckpointError) as caught:
        check_published(weight_file(state), COCO)
    message = str(caught.value)
    assert f"12 missing: {', '.join(lost[:10])} and 2 more; 1 not expected: surplus" in message


def test_entries_that_are_no_tensors_are_reported(tmp_path: Path) -> None:
    torch.save({**listed_state("tiny"), "epoch": 12}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="1 not tensors: epoch"):
        load_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize("preset", [preset for preset in LISTS if PRESETS[preset].clip_is_frozen])
def test_the_trained_part_alone_tells_the_preset(preset: str) -> None:
    state = without_clip(listed_state(preset))
    assert check_published(weight_file(state), COCO).name == preset
    # The stripped files may have kept the training loss's buffer or not; nothing else may be absent.
    assert check_published(weight_file(removed(state, EMPTY_WEIGHT)), COCO).name == preset
    with pytest.raises(CheckpointError, match="1 missing: void_embedding.weight"):
        check_published(weight_file(removed(state, "void_embedding.weight")), COCO)


def test_trained_on_other_classes_needs_their_vocabulary(tmp_path: Path) -> None:
    path = published(tmp_path, {**listed_state("tiny"), EMPTY_WEIGHT: torch.ones(3)})
    with pytest.raises(CheckpointError, match=r"criterion.empty_weight \[3\] not \[134\].*training vocabulary has 133"):
        load_checkpoint(path)
    assert load_checkpoint(path, train_vocabulary=SMALL).train_vocabulary == SMALL


def test_stored_precision_may_be_half_but_the_model_is_float32(tmp_path: Path) -> None:
    state = {key: tensor.half() for key, tensor in real_tiny_state().items()}
    checkpoint = load_checkpoint(published(tmp_path, state))
    assert {tensor.dtype for tensor in checkpoint.state.values()} == {torch.float32}
    assert {tensor.dtype for tensor in checkpoint.text_tower().state_dict().values()} == {torch.float32}


def test_batch_counters_of_any_real_type_load() -> None:
    state = {key: tensor.float() for key, tensor in listed_state("rn50").items()}
    assert check_published(weight_file(state), COCO).name == "rn50"


# --- other models' files ----------------------------------------------------------------------------------------


def resnet_classifier() -> State:
    from torchvision.models import resnet50

    with torch.device("meta"):
        model = resnet50()
    return {key: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) for key, tensor in model.state_dict().items()}


def mask2former() -> State:
    """Shares FC-CLIP's pixel decoder key for key; classes, queries and backbone are its own."""
    state = without_clip(listed_state("rn50"))
    own = ("class_embed", "_mask_pooling_proj", "logit_scale", "void_embedding")
    state = {key: tensor for key, tensor in state.items() if not any(name in key for name in own)}
    state["sem_seg_head.predictor.class_embed.weight"] = torch.zeros(134, 256)
    return {**state, "backbone.stem.conv1.weight": torch.zeros(64, 3, 7, 7)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(resnet_classifier, "an image classifier.*conv1.weight", id="ResNet-50 classifier"),
        pytest.param(mask2former, "Mask2Former", id="Mask2Former"),
        pytest.param(
            lambda: {
                key.removeprefix("backbone.clip_model."): t for key, t in listed_state("rn50").items() if "clip" in key
            },
            "CLIP alone.*--clip",
            id="CLIP",
        ),
        pytest.param(lambda: {"model.diffusion_model.x": torch.ones(1)}, "another model", id="something else"),
    ],
)
def test_another_models_file_is_named(tmp_path: Path, make: Callable[[], State], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"foreign.pth is not an FC-CLIP checkpoint: .*{message}"):
        load_checkpoint(published(tmp_path, make(), "foreign.pth"))


def test_wrong_backbone_for_the_stated_preset(tmp_path: Path, tiny: Checkpoint) -> None:
    path = published(tmp_path, listed_state("rn50"), "fcclip_cocopan_r50.pth")
    with pytest.raises(CheckpointError, match="fcclip_cocopan_r50.pth contains FC-CLIP with rn50, not convnext_large"):
        load_checkpoint(path, preset="convnext_large")
    save_checkpoint(tmp_path / "tiny.safetensors", tiny)
    with pytest.raises(CheckpointError, match="tiny.safetensors contains the model tiny, not rn50"):
        load_checkpoint(tmp_path / "tiny.safetensors", preset="rn50")
    with pytest.raises(CheckpointError, match="there is no preset 'resnet'"):
        load_checkpoint(path, preset="resnet")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("key", ["void_embedding.weight", "backbone.clip_model.visual.trunk.stem.0.bias"])
def test_values_that_are_no_numbers_are_reported(tmp_path: Path, value: float, key: str) -> None:
    state = real_tiny_state()
    state[key].flatten()[-1] = value
    with pytest.raises(CheckpointError, match=f"NaN or infinite.*in 1 tensors: {key}"):
        load_checkpoint(published(tmp_path, state))


def test_text_tower_without_numbers_is_reported_when_it_is_asked_for(tmp_path: Path) -> None:
    state = real_tiny_state()
    state["backbone.clip_model.ln_final.bias"][0] = float("nan")
    checkpoint = load_checkpoint(published(tmp_path, state))
    with pytest.raises(CheckpointError, match="the text tower contains.*ln_final.bias"):
        checkpoint.text_tower()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("recipe:resnet", "there is no recipe 'resnet'; there are .*rn50"),
        ("recipe:", "there is no recipe ''"),
        ("demoo", "no file and no bundled or installed checkpoint 'demoo'.*recipe:convnext_large"),
        ("nowhere/weights.pth", "nowhere/weights.pth does not exist"),
        ("~/nowhere.safetensors", "/nowhere.safetensors does not exist"),
    ],
)
def test_unknown_source_lists_what_exists(source: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(source)


def test_bundled_checkpoint_goes_by_its_name(tmp_path: Path, tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_zoo, "config_path", lambda *parts: tmp_path.joinpath(*parts))
    (tmp_path / "checkpoints").mkdir()
    save_checkpoint(tmp_path / "checkpoints" / "demo.safetensors", tiny)
    assert load_checkpoint("demo").config.name == "tiny"
    with pytest.raises(CheckpointError, match="did you mean demo.*here are: demo"):
        load_checkpoint("dem")


# --- no copies, one warning -------------------------------------------------------------------------------------


def test_the_model_holds_the_checkpoints_tensors_themselves(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(published(tmp_path, real_tiny_state()))
    model = load_model(checkpoint)
    for own, key in layout_of(checkpoint.config).published.items():
        assert model.state_dict()[own].data_ptr() == checkpoint.state[key].data_ptr()
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_seeded_weights_warn_once_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="fcclip_core"):
        checkpoint = load_checkpoint("recipe:tiny")
    assert [record.getMessage() for record in caplog.records] == [
        "recipe:tiny: deterministic random weights; the labels are meaningless"
    ]
    assert checkpoint.provenance.seeded
    assert "meaningless" in checkpoint.provenance.describe()


# --- our own file -----------------------------------------------------------------------------------------------


def test_round_trip_keeps_everything(tmp_path: Path) -> None:
    source = published(tmp_path, real_tiny_state(), "fcclip_cocopan.pth")
    before = replace(load_checkpoint(source), train_vocabulary=SMALL)
    save_checkpoint(tmp_path / "own.safetensors", before)
    source.unlink()  # the new file stands alone

    after = load_checkpoint(tmp_path / "own.safetensors")
    assert after.config == before.config
    assert after.train_vocabulary == SMALL
    assert after.text_tower_id == before.text_tower_id
    assert list(after.state) == list(before.state)
    assert all(torch.equal(after.state[key], tensor) for key, tensor in before.state.items())
    text_before, text_after = before.text_state(), after.text_state()
    assert set(text_after) == set(text_before)
    assert all(torch.equal(text_after[key], tensor) for key, tensor in text_before.items())


def test_saved_file_is_plain_safetensors_under_published_keys(tmp_path: Path, tiny: Checkpoint) -> None:
    save_checkpoint(tmp_path / "own.safetensors", tiny)
    listed = {key: tuple(shape) for key, (shape, _) in entries("tiny").items() if key != EMPTY_WEIGHT}
    assert {key: tuple(t.shape) for key, t in load_file(tmp_path / "own.safetensors").items()} == listed


def test_saved_file_may_be_read_by_whom_the_umask_lets(tmp_path: Path, tiny: Checkpoint) -> None:
    save_checkpoint(tmp_path / "own.safetensors", tiny)
    (tmp_path / "other").touch()
    assert (tmp_path / "own.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_origin_is_written_with_hash_and_without_paths(tmp_path: Path) -> None:
    path = published(tmp_path, real_tiny_state(), "fcclip_cocopan.pth")
    checkpoint = load_checkpoint(path)
    save_checkpoint(tmp_path / "own.safetensors", checkpoint)
    expected = Source(
        "FC-CLIP weights",
        "fcclip_cocopan.pth",
        hashlib.sha256(path.read_bytes()).hexdigest(),
        "https://drive.google.com/file/d/1-91PIns86vyNaL3CzMmDD39zKGnPMtvj/view",
    )
    after = load_checkpoint(tmp_path / "own.safetensors").provenance
    assert after.sources == (expected,)
    assert after.license.startswith("Apache-2.0")
    assert str(tmp_path) not in (tmp_path / "own.safetensors").read_bytes()[:20_000].decode(errors="ignore")


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_half_precision_halves_the_file_and_rounds(
    tmp_path: Path, tiny: Checkpoint, dtype: str, tolerance: float
) -> None:
    save_checkpoint(tmp_path / "full.safetensors", tiny)
    save_checkpoint(tmp_path / "half.safetensors", tiny, dtype=dtype)
    sizes = [(tmp_path / name).stat().st_size for name in ("full.safetensors", "half.safetensors")]
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.02)
    half = load_checkpoint(tmp_path / "half.safetensors")
    for key, tensor in tiny.state.items():
        assert half.state[key].dtype == torch.float32
        torch.testing.assert_close(half.state[key], tensor, rtol=tolerance, atol=1e-6)
    # Rounded text weights give other rows, so the cache must tell the two apart.
    assert half.text_tower_id != load_checkpoint(tmp_path / "full.safetensors").text_tower_id


def test_values_too_large_for_float16_are_refused(tmp_path: Path) -> None:
    state = real_tiny_state()
    state["void_embedding.weight"][0, 0] = 1e5
    checkpoint = load_checkpoint(published(tmp_path, state))
    with pytest.raises(CheckpointError, match="float16.*void_embedding.weight"):
        save_checkpoint(tmp_path / "own.safetensors", checkpoint, dtype="float16")
    save_checkpoint(tmp_path / "own.safetensors", checkpoint, dtype="bfloat16")


@pytest.mark.parametrize(
    "stop", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["Ctrl-C", "disk full"]
)
def test_interrupted_writing_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    target = tmp_path / "own.safetensors"
    target.write_bytes(b"the old file")

    def write_half(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise stop

    monkeypatch.setattr(weight_files, "save_file", write_half)
    with pytest.raises(KeyboardInterrupt if isinstance(stop, KeyboardInterrupt) else CheckpointError):
        save_checkpoint(target, tiny)
    assert target.read_bytes() == b"the old file"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("own.pth", {}, "must end in .safetensors"),
        ("own.safetensors", {"dtype": "int8"}, "it must be one of float32, float16, bfloat16"),
        ("nowhere/own.safetensors", {}, "cannot be written"),
    ],
)
def test_bad_output_is_refused(tmp_path: Path, tiny: Checkpoint, name: str, options: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        save_checkpoint(tmp_path / name, tiny, **options)


def rewritten(path: Path, change: Callable[[dict], None]) -> None:
    """Writes a file of ours again with another header."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()[METADATA_KEY])
    tensors = load_file(path)
    change(header)
    save_file(tensors, path, {METADATA_KEY: json.dumps(header)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda h: h.update(format_version=3), "format version 3; this program reads versions up to 2", id="newer"
        ),
        pytest.param(lambda h: h.pop("config"), "a damaged header.*config", id="no configuration"),
        pytest.param(lambda h: h["config"]["mask_decoder"].update(queries="many"), "a damaged header", id="no number"),
        pytest.param(lambda h: h["config"].update(extra=1), "a damaged header.*extra", id="unknown field"),
        pytest.param(
            lambda h: h.update(train_vocabulary="classes: []"), "a damaged header.*vocabulary", id="no classes"
        ),
        pytest.param(
            lambda h: h["config"]["mask_decoder"].update(queries=21),
            r"query_feat.weight \[20, 64\] not \[21, 64\]",
            id="21",
        ),
        pytest.param(
            lambda h: h["config"]["text"].update(layers=3), "missing: .*resblocks.2.ln_1.weight", id="text tower"
        ),
    ],
)
def test_header_that_does_not_fit_is_refused(tmp_path: Path, tiny: Checkpoint, change: Callable, message: str) -> None:
    save_checkpoint(tmp_path / "own.safetensors", tiny)
    rewritten(tmp_path / "own.safetensors", change)
    with pytest.raises(CheckpointError, match=f"own.safetensors.*{message}"):
        load_checkpoint(tmp_path / "own.safetensors")


def test_a_key_missing_in_our_own_file_is_reported(tmp_path: Path, tiny: Checkpoint) -> None:
    path = tmp_path / "own.safetensors"
    save_checkpoint(path, tiny)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    del tensors["void_embedding.weight"]
    save_file(tensors, path, metadata)
    with pytest.raises(CheckpointError, match="1 missing: void_embedding.weight"):
        load_checkpoint(path)


# --- identity of the text tower ---------------------------------------------------------------------------------


def test_weights_id_follows_the_content_of_both_towers_and_not_the_file(tmp_path: Path) -> None:
    seeded = load_checkpoint("recipe:tiny")
    for name in ("a", "b"):
        save_checkpoint(tmp_path / f"{name}.safetensors", seeded)
    ids = {load_checkpoint(tmp_path / f"{name}.safetensors").weights_id for name in ("a", "b")}
    assert len(ids) == 1
    key = next(key for key, tensor in seeded.state.items() if tensor.is_floating_point())
    changed = replace(seeded, state={**seeded.state, key: seeded.state[key] + 1e-3})
    assert changed.weights_id != seeded.weights_id
    other_words = replace(seeded, fingerprint=lambda: "another text tower")
    assert other_words.weights_id != seeded.weights_id


def test_text_tower_id_follows_the_towers_content(tmp_path: Path) -> None:
    state = real_tiny_state()
    same = load_checkpoint(published(tmp_path, state, "a.pth")).text_tower_id
    assert load_checkpoint(published(tmp_path, state, "b.pth")).text_tower_id == same

    image = {**state, "void_embedding.weight": torch.ones(1, 64)}
    assert load_checkpoint(published(tmp_path, image, "c.pth")).text_tower_id == same

    text = {**state, "backbone.clip_model.ln_final.bias": torch.ones(64)}
    assert load_checkpoint(published(tmp_path, text, "d.pth")).text_tower_id != same


def test_recipes_of_different_towers_have_different_ids(tiny: Checkpoint) -> None:
    assert tiny.text_tower_id == load_checkpoint("recipe:tiny").text_tower_id
    assert tiny.text_tower_id != load_checkpoint("recipe:convnext_small").text_tower_id


def test_text_tower_computes_what_its_weights_say(tiny: Checkpoint) -> None:
    """The tower gets CLIP's text weights and not, say, untrained ones."""
    state = tiny.text_tower().state_dict()
    given = tiny.text_state()
    assert {f"backbone.clip_model.{key}" for key in state} == set(given)
    assert all(torch.equal(tensor, given[f"backbone.clip_model.{key}"]) for key, tensor in state.items())


def test_provenance_describes_itself() -> None:
    assert Provenance().describe() == "unknown origin"
    sources = (Source("FC-CLIP weights", "a.pth"), Source("CLIP weights", "b.bin"))
    assert Provenance(sources, "MIT").describe() == "a.pth + b.bin; MIT"
