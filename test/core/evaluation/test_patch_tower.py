"""CLIP's ViT and its text tower, from open_clip's own files, against open_clip's own model."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import tiny_vit
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from safetensors.torch import save_file

from fcclip_core.commands import vit_arguments
from fcclip_core.errors import CheckpointError
from fcclip_core.evaluation.patch_clips import PAPER_S_VIT, PatchClip, load_patch_clip
from fcclip_core.vocabulary.text_embeddings import tokenize


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    tiny_vit.register(tmp_path)
    return tiny_vit.tagged(monkeypatch)


def theirs(size: int | None = None, weights: Path | None = None) -> open_clip.CLIP:
    torch.manual_seed(3)
    model = open_clip.create_model(
        tiny_vit.NAME, pretrained=None if weights is None else str(weights), force_image_size=size
    )
    return model.eval()


def saved(path: Path) -> Path:
    torch.save(theirs().state_dict(), path)
    return path


def loaded(name: str, folder: Path) -> PatchClip:
    return load_patch_clip(name, saved(folder / "clip.bin"))


@pytest.mark.parametrize("size", [56, 112, 98])
def test_images_are_embedded_as_open_clip_does_at_any_size(name: str, tmp_path: Path, size: int) -> None:
    """open_clip interpolates the position embeddings when it loads weights for another size."""
    image = torch.randn(2, 3, size, size)
    clip, model = loaded(name, tmp_path), theirs(size, tmp_path / "clip.bin")
    with torch.no_grad():
        torch.testing.assert_close(clip.image.embed_images(image), model.encode_image(image), rtol=1e-4, atol=1e-5)
        tokens = model.visual.forward_intermediates(image, indices=1)["image_intermediates"][-1]
        torch.testing.assert_close(clip.image(image).res5, tokens, rtol=1e-4, atol=1e-5)


def test_text_is_embedded_as_open_clip_does(name: str, tmp_path: Path) -> None:
    clip, model = loaded(name, tmp_path), theirs(weights=tmp_path / "clip.bin")
    texts = ["a photo of a cup.", "two very small dogs"]
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer("ViT-L-14")(texts))
        torch.testing.assert_close(clip.text(tokenize(texts)), expected, rtol=1e-4, atol=1e-5)
    assert clip.logit_scale == pytest.approx(model.logit_scale.item())


def test_a_mask_over_everything_pools_all_patches(name: str, tmp_path: Path) -> None:
    clip = loaded(name, tmp_path)
    tokens = clip.image(torch.randn(1, 3, 56, 70)).res5
    assert tokens.shape == (1, 64, 4, 5) and clip.image.stride == 14
    masks = torch.ones(1, 2, 4, 5, dtype=torch.bool)
    masks[:, 1] = False
    masks[0, 1, 2, 3] = True
    visual = clip.image.visual
    expected = torch.stack((tokens[0].flatten(1).mean(1), tokens[0, :, 2, 3]))
    torch.testing.assert_close(
        clip.image.embed_masks(tokens, masks)[0], visual.ln_post(expected) @ visual.proj, rtol=1e-4, atol=1e-5
    )


def test_an_image_of_broken_patches_is_padded_with_the_mean_color(name: str, tmp_path: Path) -> None:
    clip, image = loaded(name, tmp_path), torch.randn(1, 3, 32, 64)
    whole = torch.zeros(1, 3, 42, 70)
    whole[:, :, :32, :64] = image
    torch.testing.assert_close(clip.image(image).res5, clip.image(whole).res5)


def test_weights_trained_with_another_mean_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LAION's ViT-L/14 was trained with mean and deviation of one half."""
    tiny_vit.register(tmp_path)
    name = tiny_vit.tagged(monkeypatch, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    clip, pixels = loaded(name, tmp_path), torch.rand(1, 3, 56, 56)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    model = theirs(weights=tmp_path / "clip.bin")
    with torch.no_grad():
        expected = model.encode_image(pixels * 2 - 1)
        torch.testing.assert_close(clip.image.embed_images((pixels - mean) / std), expected, rtol=1e-4, atol=1e-5)


def test_the_papers_vit_is_one_of_open_clips() -> None:
    architecture, tag = PAPER_S_VIT.split(":")
    assert vit_arguments.VIT == PAPER_S_VIT
    assert tag in open_clip.list_pretrained_tags_by_model(architecture)
    assert open_clip.get_pretrained_cfg(architecture, tag)["mean"] == (0.5, 0.5, 0.5)


def test_openais_weights_get_their_own_gelu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_vit.register(tmp_path)
    name = tiny_vit.tagged(monkeypatch, quick_gelu=True)
    assert loaded(name, tmp_path).config.text.quick_gelu


def test_seeded_weights_are_the_same_each_time(tmp_path: Path) -> None:
    recipe = f"recipe:{tiny_vit.register(tmp_path)}"
    first, second = load_patch_clip(recipe), load_patch_clip(recipe)
    assert first.seeded
    for key, tensor in first.image.state_dict().items():
        assert torch.equal(tensor, second.image.state_dict()[key])


def test_safetensors_and_separate_text_are_read_too(name: str, tmp_path: Path) -> None:
    state = theirs().state_dict()
    separate = {key if key.startswith(("visual.", "logit")) else f"text.{key}": value for key, value in state.items()}
    save_file(separate, tmp_path / "clip.safetensors")
    clip = load_patch_clip(name, tmp_path / "clip.safetensors")
    assert torch.equal(clip.image.visual.proj, state["visual.proj"])


def test_what_is_no_such_clip_is_said(name: str, tmp_path: Path) -> None:
    torch.save({key: value for key, value in theirs().state_dict().items() if "ln_post" not in key}, tmp_path / "a.bin")
    with pytest.raises(CheckpointError, match="visual.ln_post.weight, visual.ln_post.bias differ"):
        load_patch_clip(name, tmp_path / "a.bin")
    broken = theirs().state_dict()
    broken["visual.proj"][0] = torch.nan
    torch.save(broken, tmp_path / "b.bin")
    with pytest.raises(CheckpointError, match="NaN or infinite values in visual.proj"):
        load_patch_clip(name, tmp_path / "b.bin")
    with pytest.raises(CheckpointError, match="would not be read"):
        load_patch_clip(f"recipe:{tiny_vit.NAME}", tmp_path / "b.bin")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ViT-L-15:openai", "no model 'ViT-L-15'; did you mean ViT-"),
        ("ViT-L-14:nobody", "no weights 'nobody' of ViT-L-14; tags: openai,"),
        ("ViT-L-14", "ViT-L-14 does not say which weights; add one of open_clip's tags: openai,"),
        ("convnext_base:laion400m_s13b_b51k", "is no CLIP with a plain ViT"),
        ("RN50:openai", "is no CLIP with a plain ViT"),
        ("ViT-B-16-SigLIP:webli", "is no CLIP with a plain ViT"),
        ("coca_ViT-B-32:laion2b_s13b_b90k", "is no CLIP with a plain ViT"),
    ],
)
def test_what_open_clip_lacks_or_is_no_plain_vit_is_said(name: str, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        load_patch_clip(name, Path("/nowhere"))


def test_weights_that_cannot_be_downloaded_say_how_to_pass_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise OSError("there is no network")

    monkeypatch.setattr("fcclip_core.weights.clip_weights._check_network", unreachable)
    monkeypatch.setattr("fcclip_core.weights.clip_weights.cached_clip", lambda config: None)
    with pytest.raises(CheckpointError, match="not on this machine.*CLIP-ViT-L-14-laion2B.*--vit-weights FILE"):
        load_patch_clip(PAPER_S_VIT)
