"""Our towers against open_clip's own model, built from its configuration and given the same seeded weights."""

from __future__ import annotations

import open_clip
import pytest
import torch

from fcclip_core.model.backbone import ConvNeXtTower, ImageTower
from fcclip_core.model.config import CLIP_HEADS, ConvNeXtConfig
from fcclip_core.weights.checkpoints import load_checkpoint, load_model
from fcclip_core.weights.published_names import CLIP_PREFIX


def embedded(tower: ImageTower, image: torch.Tensor) -> torch.Tensor:
    """Images (B, 3, H, W) as (B, D): a mask of the whole image is pooled as open_clip pools the image."""
    res5 = tower(image).res5
    return tower.embed_masks(res5, torch.ones(len(image), 1, *res5.shape[-2:], dtype=torch.bool))[:, 0]


@pytest.mark.parametrize("size", [(64, 96), (112, 80)], ids=["whole cells", "ImageNet at 336"])
@pytest.mark.parametrize("head", CLIP_HEADS)
def test_a_small_tower_with_either_head_embeds_as_open_clips(head: str, size: tuple[int, int]) -> None:
    config = ConvNeXtConfig(depths=(3, 3, 9, 3), dims=(96, 192, 384, 768), head=head)
    vision = {"timm_model_name": "convnext_tiny", "timm_pool": "", "timm_proj": head, "image_size": 64}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = ConvNeXtTower(config, 48).eval()
    oracle = open_clip.CLIP(48, vision, {"width": 64, "heads": 1, "layers": 1, "vocab_size": 8}).eval()
    oracle.visual.load_state_dict(tower.state_dict())
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(embedded(tower, image), oracle.encode_image(image), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["convnext_base", "convnext_large"])
def test_an_image_and_words_have_open_clips_embeddings(preset: str) -> None:
    checkpoint = load_checkpoint(f"recipe:{preset}")
    oracle = open_clip.create_model(checkpoint.config.open_clip_name, load_weights=False, device="meta").eval()
    both = {**checkpoint.state, **checkpoint.text_state()}
    clip = {key.removeprefix(CLIP_PREFIX): value for key, value in both.items() if key.startswith(CLIP_PREFIX)}
    oracle.load_state_dict(clip, assign=True)
    # No part of the state, and so still without memory.
    oracle.attn_mask = torch.full((77, 77), -torch.inf).triu(1)

    image = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    tokens = open_clip.tokenize(["a cup", "a photo of a red forklift."])
    with torch.inference_mode():
        ours = embedded(load_model(checkpoint).backbone, image)
        torch.testing.assert_close(ours, oracle.encode_image(image), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(checkpoint.text_tower()(tokens), oracle.encode_text(tokens), rtol=1e-4, atol=1e-4)
