"""A small plain ViT to train in place of a convolutional image tower; `evaluation/patch_tower.py` is open_clip's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from timm.layers import Mlp
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fcclip_core.model.backbone import FeaturePyramid, mask_pool

PATCH = 16
WIDTH, DEPTH, HEADS = 160, 6, 5
"""2.22 million parameters, head included; the small ConvNeXt tower has 2.16."""
LARGEST_WINDOW = 192
"""Side, in pixels, of the largest windows of the CLIP recipe: the grid that position embeddings are learned on."""


class PatchTower(nn.Module):
    """ViT of patch 16: pool the last layer's patch tokens inside the mask, then normalize and project.

    Position embeddings are interpolated to each input's grid, as in CLIP's ViTs. Head and pooling are those of
    `ConvNeXtTower`, and as there a whole window is embedded as the mean over it, so there is no class token.

    Masks come at stride 32, the grid that the training's windows have: `res5` holds the means of 2 x 2 tokens, so
    that a mask pools exactly the tokens of its cells, and both towers pool the same regions. `FineGrid` takes masks at
    the tokens' own stride.
    """

    stride = 2 * PATCH

    def __init__(self, embed_dim: int) -> None:
        """Builds an untrained tower into a joint space of `embed_dim` dimensions."""
        super().__init__()
        self.trunk = VisionTransformer(
            img_size=LARGEST_WINDOW,
            patch_size=PATCH,
            num_classes=0,
            global_pool="",
            class_token=False,
            embed_dim=WIDTH,
            depth=DEPTH,
            num_heads=HEADS,
            final_norm=False,
            dynamic_img_size=True,
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.head = Mlp(WIDTH, 2 * embed_dim, embed_dim, bias=(True, False))

    def tokens(self, image: Tensor) -> Tensor:
        """The last layer's patch tokens: `(B, 3, H, W)`, sides divisible by 32 -> `(B, C, H/16, W/16)`."""
        rows = image.shape[-2] // PATCH
        return self.trunk.forward_features(image).transpose(1, 2).unflatten(2, (rows, -1))

    def forward(self, image: Tensor) -> FeaturePyramid:
        """`image` `(B, 3, H, W)`, normalized, sides divisible by 32; a ViT's other maps are its tokens."""
        tokens = self.tokens(image)
        return FeaturePyramid(tokens, tokens, tokens, F.avg_pool2d(tokens, 2))

    def embed_masks(self, features: Tensor, masks: Tensor) -> Tensor:
        """Embeds bool masks `(B, Q, h, w)` over `features` `(B, C, h, w)` as `(B, Q, D)`, not normalized."""
        return cast(Tensor, self.head(self.norm(mask_pool(features, masks))))


@dataclass(frozen=True)
class FineGrid:
    """A trained `PatchTower` whose masks are pooled at stride 16, token by token."""

    tower: PatchTower
    stride: int = PATCH

    def __call__(self, image: Tensor) -> FeaturePyramid:
        """As `PatchTower`, the last map at stride 16."""
        tokens = self.tower.tokens(image)
        return FeaturePyramid(tokens, tokens, tokens, tokens)

    def embed_masks(self, features: Tensor, masks: Tensor) -> Tensor:
        """As `PatchTower`."""
        return self.tower.embed_masks(features, masks)
