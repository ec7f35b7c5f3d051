"""CLIP's own weights: every form in which people have them, and what is said when they do not."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import torch
from key_lists import CLIP_PREFIX, LISTS, listed_state, only_clip, without_clip
from safetensors.torch import save_file

from fcclip_core.errors import CheckpointError
from fcclip_core.model.config import CONVNEXT_LARGE, PRESETS, RN50, TINY, ModelConfig
from fcclip_core.weights import clip_weights
from fcclip_core.weights.checkpoints import load_checkpoint
from fcclip_core.weights.clip_weights import clip_source, load_clip
from fcclip_core.weights.published_layout import layout_of
from fcclip_core.weights.weight_files import sha256_of

STATE = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in listed_state("tiny").items()}
CLIP = only_clip(STATE)
WITH_PUBLISHED_CLIP = [
    config for config in PRESETS.values() if config.name in LISTS and config.open_clip_name and config.clip_is_frozen
]
TEXT = ("positional_embedding", "text_projection", "token_embedding.weight", "ln_final.", "transformer.")

Change = Callable[[dict[str, torch.Tensor]], dict]


def with_separate_text(state: dict) -> dict:
    return {f"text.{key}" if key.startswith(TEXT) else key: tensor for key, tensor in state.items()}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda state: state, id="as open_clip's models save themselves"),
        pytest.param(lambda state: {"state_dict": state, "epoch": 3}, id="open_clip's training checkpoint"),
        pytest.param(lambda state: {"state_dict": {f"module.{k}": t for k, t in state.items()}}, id="distributed"),
        pytest.param(with_separate_text, id="separate text module"),
        pytest.param(lambda state: {**state, "logit_scale": state["logit_scale"].reshape(1)}, id="scale of one entry"),
        pytest.param(lambda state: {**state, "context_length": torch.tensor(77)}, id="OpenAI's numbers beside it"),
        pytest.param(lambda state: {CLIP_PREFIX + k: t for k, t in state.items()}, id="an FC-CLIP file's CLIP"),
    ],
)
def test_every_spelling_gives_the_published_keys(tmp_path: Path, change: Change) -> None:
    torch.save(change(CLIP), tmp_path / "clip.bin")
    tensors = load_clip(TINY, tmp_path / "clip.bin").tensors
    expected = {CLIP_PREFIX + key: tensor for key, tensor in CLIP.items()}
    assert set(tensors) == set(expected)
    assert all(torch.equal(tensors[key], tensor) for key, tensor in expected.items())


def test_safetensors_are_read_too(tmp_path: Path) -> None:
    save_file(CLIP, tmp_path / "open_clip_model.safetensors")
    assert len(load_clip(TINY, tmp_path / "open_clip_model.safetensors").tensors) == len(CLIP)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_joining_with_half_precision_clip_computes_in_float32(tmp_path: Path, kind: torch.dtype) -> None:
    torch.save({"model": without_clip(STATE)}, tmp_path / "fcclip.pth")
    torch.save({key: tensor.to(kind) for key, tensor in CLIP.items()}, tmp_path / "clip.pt")
    checkpoint = load_checkpoint(tmp_path / "fcclip.pth", tmp_path / "clip.pt")
    key = CLIP_PREFIX + "visual.trunk.stem.0.weight"
    assert checkpoint.state[key].dtype == torch.float32
    assert torch.equal(checkpoint.state[key], STATE[key].to(kind).float())


def test_a_file_from_before_batches_were_counted_is_completed(tmp_path: Path) -> None:
    state = only_clip(listed_state("rn50"))
    torch.save({key: tensor for key, tensor in state.items() if "num_batches" not in key}, tmp_path / "rn50.pt")
    torch.save(without_clip(listed_state("rn50")), tmp_path / "fcclip.pth")
    checkpoint = load_checkpoint(tmp_path / "fcclip.pth", tmp_path / "rn50.pt")
    assert checkpoint.state[CLIP_PREFIX + "visual.bn1.num_batches_tracked"].item() == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda: only_clip(listed_state("rn50")),
            "it is open_clip's RN50. Pass .*open_clip's convnext_large_d_320, laion2b_s29b_b131k_ft_soup",
            id="RN50",
        ),
        pytest.param(
            lambda: {"trunk.stem.0.weight": torch.ones(2)}, "contains no CLIP image tower", id="a timm file, not CLIP"
        ),
        pytest.param(
            lambda: {k: t for k, t in only_clip(listed_state("convnext_large")).items() if k.startswith("visual")},
            "image tower without CLIP's text tower",
            id="image tower alone",
        ),
        pytest.param(
            lambda: {**only_clip(listed_state("convnext_large")), "visual.trunk.stem.0.weight": torch.ones(1, 3, 4, 4)},
            r"1 of another shape: backbone.clip_model.visual.trunk.stem.0.weight \[1, 3, 4, 4\] not \[192, 3, 4, 4\]",
            id="one key reshaped",
        ),
    ],
)
def test_another_clip_is_refused_by_name(tmp_path: Path, make: Callable[[], dict], message: str) -> None:
    torch.save({"model": without_clip(listed_state("convnext_large"))}, tmp_path / "fcclip.pth")
    torch.save(make(), tmp_path / "clip.pt")
    with pytest.raises(CheckpointError, match=f"clip.pt is not the CLIP that convnext_large needs: .*{message}"):
        load_checkpoint(tmp_path / "fcclip.pth", tmp_path / "clip.pt")


def test_without_a_file_open_clips_download_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"model": without_clip(listed_state("convnext_large"))}, tmp_path / "fcclip_cocopan.pth")
    torch.save(only_clip(listed_state("convnext_large")), tmp_path / "open_clip_pytorch_model.bin")
    asked = []

    def download(entry: dict) -> str:
        asked.append(entry["hf_hub"])
        return str(tmp_path / "open_clip_pytorch_model.bin")

    monkeypatch.setattr(clip_weights, "_check_network", lambda: None)
    monkeypatch.setattr(clip_weights, "cached_clip", lambda config: None)
    monkeypatch.setattr(open_clip, "download_pretrained", download)
    checkpoint = load_checkpoint(tmp_path / "fcclip_cocopan.pth")
    assert asked == ["laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup/"]
    assert [source.name for source in checkpoint.provenance.sources] == [
        "fcclip_cocopan.pth",
        "open_clip_pytorch_model.bin",
    ]
    assert checkpoint.provenance.sources[1].origin == "open_clip convnext_large_d_320 laion2b_s29b_b131k_ft_soup"
    assert checkpoint.provenance.license.startswith("Apache-2.0")


@pytest.mark.parametrize("config", WITH_PUBLISHED_CLIP, ids=lambda config: config.name)
def test_offline_it_says_which_file_to_fetch(
    config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object) -> list:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(clip_weights, "cached_clip", lambda config: None)
    monkeypatch.setattr(clip_weights, "getproxies", dict)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    torch.save({"model": without_clip(listed_state(config.name))}, tmp_path / "fcclip.pth")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "fcclip.pth")
    message = str(caught.value)
    assert "Name or service not known" in message
    assert "--clip FILE" in message
    assert "https://huggingface.co/" in message
    assert ("openaipublic" in message) == (config.open_clip_tag == "openai")


def test_an_earlier_download_is_found_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A robot that is offline must not wait for a network that it does not need."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    assert clip_weights.cached_clip(RN50) is None
    assert clip_weights.cached_clip(CONVNEXT_LARGE) is None

    (tmp_path / ".cache" / "clip").mkdir(parents=True)
    (tmp_path / ".cache" / "clip" / "RN50.pt").touch()
    assert clip_weights.cached_clip(RN50) == tmp_path / ".cache" / "clip" / "RN50.pt"
    assert clip_weights.cached_clip(CONVNEXT_LARGE) is None

    def in_hub(repository: str, name: str) -> str | None:
        known = ("laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup", "open_clip_pytorch_model.bin")
        return "/hub/model.bin" if (repository, name) == known else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", in_hub)
    assert clip_weights.cached_clip(CONVNEXT_LARGE) == Path("/hub/model.bin")


def test_a_clip_that_is_published_nowhere_must_be_in_the_file(tmp_path: Path) -> None:
    torch.save({"model": without_clip(STATE)}, tmp_path / "fcclip.pth")
    with pytest.raises(CheckpointError, match="the CLIP of preset tiny is not published"):
        load_checkpoint(tmp_path / "fcclip.pth")


def test_clip_file_beside_a_complete_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"model": STATE}, tmp_path / "fcclip.pth")
    torch.save(CLIP, tmp_path / "clip.pt")
    with pytest.raises(CheckpointError, match="fcclip.pth already contains CLIP's weights; omit .*clip.pt"):
        load_checkpoint(tmp_path / "fcclip.pth", tmp_path / "clip.pt")


class Tree(torch.nn.Module):
    """Parameters under dotted names, as TorchScript wants them."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        branches: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in state.items():
            head, _, rest = key.partition(".")
            if rest:
                branches.setdefault(head, {})[rest] = tensor
            else:
                self.register_buffer(head, tensor)
        for head, branch in branches.items():
            self.add_module(head, Tree(branch))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_openais_archive_is_opened_only_if_it_is_the_published_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "RN50.pt"
    state = {**CLIP, "input_resolution": torch.tensor(224), "vocab_size": torch.tensor(49408)}
    torch.jit.script(Tree({key: t.half() if t.is_floating_point() else t for key, t in state.items()})).save(path)
    config = replace(TINY, open_clip_name="RN50", open_clip_tag="openai")
    with pytest.raises(CheckpointError, match="TorchScript archive.*not OpenAI's published one for RN50.*SHA-256"):
        load_clip(config, path)

    url = f"https://openaipublic.azureedge.net/clip/models/{sha256_of(path)}/RN50.pt"
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: {"url": url})
    tensors = load_clip(config, path).tensors
    assert set(tensors) == {CLIP_PREFIX + key for key in CLIP}
    assert tensors[CLIP_PREFIX + "text_projection"].dtype == torch.float16


@pytest.mark.parametrize("config", WITH_PUBLISHED_CLIP, ids=lambda config: config.name)
def test_open_clips_own_model_has_the_keys_that_are_expected(config: ModelConfig) -> None:
    model = open_clip.create_model(config.open_clip_name, load_weights=False, device="meta")
    found = {CLIP_PREFIX + key: (tuple(t.shape), t.dtype) for key, t in model.state_dict().items()}
    assert found == {key: (entry.shape, entry.dtype) for key, entry in layout_of(config).clip.items()}


def test_places_named_are_open_clips_own() -> None:
    assert "huggingface.co/laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup" in clip_source(CONVNEXT_LARGE)
    assert clip_source(RN50).endswith("/RN50.pt")
