"""OVRCOAT and MAFT+, whose CLIP was trained too: key lists from their code load completely, and nothing else does.

No file of theirs has been opened here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from key_lists import CLIP_PREFIX, listed_state, maft_plus_state, ovrcoat_state, without_clip

from fcclip_core.cli import main
from fcclip_core.errors import CheckpointError
from fcclip_core.weights.checkpoints import load_checkpoint, load_model
from fcclip_core.weights.model_zoo import imported_models
from fcclip_core.weights.published_layout import EMPTY_WEIGHT

State = dict[str, torch.Tensor]
FILES: dict[str, tuple[Callable[[], State], str]] = {
    "ovrcoat.pth": (ovrcoat_state, "convnext_large"),
    "maftp_l_pano.pth": (lambda: maft_plus_state("maft_plus_large"), "maft_plus_large"),
    "maftp_b.pth": (lambda: maft_plus_state("maft_plus_base"), "maft_plus_base"),
}
CLASSES = {"ovrcoat.pth": 133, "maftp_l_pano.pth": 133, "maftp_b.pth": 171}
FURTHER = {
    "ovrcoat.pth": ["frozen_backbone.clip_model.logit_scale"],
    "maftp_l_pano.pth": ["backbone_t.clip_model.visual.trunk.stem.0.weight", "cdt.cross_atten.MLP.bias"],
    "maftp_b.pth": ["backbone_t.clip_model.visual.head.proj.weight", "cdt.cross_atten.multihead_attn.in_proj_weight"],
}
CASES = [(name, key) for name, keys in FURTHER.items() for key in [*keys, f"{CLIP_PREFIX}ln_final.bias"]]


def made(name: str) -> State:
    """The tensors of a file, with the training loss's buffer of its training classes."""
    return {**FILES[name][0](), EMPTY_WEIGHT: torch.ones(CLASSES[name] + 1)}


def saved(folder: Path, name: str, state: State) -> Path:
    torch.save({"model": state, "iteration": 1}, folder / name)
    return folder / name


@pytest.mark.parametrize("name", FILES)
def test_a_file_as_their_code_writes_it_loads_with_its_own_clip(name: str, tmp_path: Path) -> None:
    preset = FILES[name][1]
    # Their CLIP differs from what it began with: the loaded one must be theirs.
    state = made(name)
    key = f"{CLIP_PREFIX}visual.trunk.stem.0.weight"
    state[key] = torch.tensor(0.123).expand(state[key].shape)
    checkpoint = load_checkpoint(saved(tmp_path, name, state))
    assert checkpoint.config.name == preset
    assert len(checkpoint.train_vocabulary) == CLASSES[name]
    assert load_model(checkpoint).backbone.trunk.stem[0].weight.flatten()[0].item() == pytest.approx(0.123)
    assert not [key for key in checkpoint.state if not key.startswith(("backbone.", "sem_seg_head.", "void_"))]


@pytest.mark.parametrize(("name", "key"), CASES)
def test_a_key_that_is_missing_or_of_another_shape_is_named(name: str, key: str, tmp_path: Path) -> None:
    preset, state = FILES[name][1], made(name)
    without = {other: tensor for other, tensor in state.items() if other != key}
    with pytest.raises(CheckpointError, match=f"does not match {preset}. Keys 1 missing: {key}"):
        load_checkpoint(saved(tmp_path, name, without))
    reshaped = {**state, key: state[key][..., None]}
    with pytest.raises(CheckpointError, match=f"does not match {preset}. Keys 1 of another shape: {key} "):
        load_checkpoint(saved(tmp_path, name, reshaped))
    with pytest.raises(CheckpointError, match=f"does not match {preset}. Keys 1 not expected: {key}_2"):
        load_checkpoint(saved(tmp_path, name, {**state, f"{key}_2": torch.ones(1)}))


@pytest.mark.parametrize("prefix", ["frozen_backbone.", "backbone_t.", "cdt."])
def test_parts_that_inference_needs_not_may_be_stripped_as_a_whole(prefix: str, tmp_path: Path) -> None:
    name = "ovrcoat.pth" if prefix == "frozen_backbone." else "maftp_l_pano.pth"
    state = {key: tensor for key, tensor in made(name).items() if not key.startswith(prefix)}
    assert load_checkpoint(saved(tmp_path, name, state)).config.name == FILES[name][1]


def test_without_its_own_clip_nothing_is_loaded_in_its_place(tmp_path: Path) -> None:
    stripped = without_clip(listed_state("convnext_large"))
    with pytest.raises(CheckpointError, match=r"lacks CLIP's weights, which OVRCOAT \(ConvNeXt-L\) has trained too"):
        load_checkpoint(saved(tmp_path, "ovrcoat.pth", stripped))
    with pytest.raises(CheckpointError, match=r"does not match maft_plus_large. Keys \d+ missing: backbone.clip_model"):
        load_checkpoint(saved(tmp_path, "renamed.pth", without_clip(listed_state("maft_plus_large"))))


@pytest.mark.parametrize(("name", "key"), [("renamed.pth", "ovrcoat"), ("ovrcoat.pth", "ovrcoat")])
def test_an_import_is_found_under_its_own_name_beside_fc_clip(
    name: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    written: list[Path] = []

    def save(path: Path, checkpoint: object, **_: object) -> None:  # 1.5 GB
        path.touch()
        written.append(path)

    # `install` first: it takes the name when it is imported, which must not be while another function has it.
    monkeypatch.setattr("fcclip_core.weights.install.save_checkpoint", save)
    monkeypatch.setattr("fcclip_core.weights.checkpoints.save_checkpoint", save)
    assert main(["weights", "import", str(saved(tmp_path, name, ovrcoat_state()))]) == 0
    assert [path.name for path in written] == [f"{key}.safetensors"]
    assert list(imported_models()) == [key]


def test_auto_prefers_ovrcoat_and_takes_maft_plus_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    folder = tmp_path / "fcclip_ros" / "models"
    folder.mkdir(parents=True)
    for key in ("maftp_l_pano", "rn50", "convnext_large", "ovrcoat"):
        (folder / f"{key}.safetensors").touch()
    assert list(imported_models()) == ["ovrcoat", "convnext_large", "rn50", "maftp_l_pano"]
