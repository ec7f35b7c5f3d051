"""CLIP's ViT image tower, to compare with the convolutional ones (the paper's Tables 9 and 10, Figure 1).

FC-CLIP itself cannot be built on it: it has one map of features, at one stride.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transformer import LayerNorm, QuickGELU, VisionTransformer
from torch import Tensor, nn

from fcclip_core.model.backbone import FeaturePyramid, mask_pool
from fcclip_core.model.config import TextConfig


@dataclass(frozen=True)
class PatchClipConfig:
    """A CLIP of open_clip whose image tower is a plain ViT.

    Attributes:
        open_clip_name: open_clip's architecture name.
        open_clip_tag: open_clip's tag of the pre-trained weights; None for seeded ones.
        text: The text tower.
        embed_dim: Size of CLIP's joint embedding space.
        image_size: Side of the images of its training, in pixels; fixes the grid of the position embeddings.
        patch_size: Side of a patch, in pixels.
        width: Channels of a token.
        layers: Residual attention blocks.
        heads: Attention heads.
        mlp_ratio: Hidden channels of a block over `width`.
        mean: Mean of the pixels that the weights were trained with, one for each channel, in units of 0..1.
        std: Their standard deviation, likewise.
    """

    clip_is_frozen: ClassVar[bool] = True

    open_clip_name: str
    open_clip_tag: str | None
    text: TextConfig
    embed_dim: int
    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_ratio: float = 4.0
    mean: tuple[float, ...] = OPENAI_DATASET_MEAN
    std: tuple[float, ...] = OPENAI_DATASET_STD

    @property
    def name(self) -> str:
        """For messages."""
        return self.open_clip_name

    @classmethod
    def of(
        cls, name: str, tag: str | None, architecture: Mapping[str, Any], pretrained: Mapping[str, Any]
    ) -> PatchClipConfig:
        """Reads open_clip's own description of a model.

        Args:
            name: open_clip's architecture name.
            tag: open_clip's tag of the weights; None for seeded ones.
            architecture: From `open_clip.get_model_config`.
            pretrained: From `open_clip.get_pretrained_cfg`.

        Raises:
            ValueError: It is no plain ViT with a plain text tower.
        """
        vision, text = dict(architecture["vision_cfg"]), dict(architecture["text_cfg"])
        width, size = vision.pop("width"), vision.pop("image_size")
        config = cls(
            open_clip_name=name,
            open_clip_tag=tag,
            text=TextConfig(
                width=text.pop("width"),
                heads=text.pop("heads"),
                layers=text.pop("layers"),
                quick_gelu=bool(architecture.get("quick_gelu") or pretrained.get("quick_gelu")),
                context_length=text.pop("context_length", 77),
                vocab_size=text.pop("vocab_size", 49408),
            ),
            embed_dim=architecture["embed_dim"],
            image_size=size,
            patch_size=vision.pop("patch_size"),
            width=width,
            layers=vision.pop("layers"),
            heads=width // vision.pop("head_width", 64),
            mlp_ratio=vision.pop("mlp_ratio", 4.0),
            mean=tuple(pretrained.get("mean", OPENAI_DATASET_MEAN)),
            std=tuple(pretrained.get("std", OPENAI_DATASET_STD)),
        )
        further = [*vision, *text, *(set(architecture) - {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"})]
        if further or not all(isinstance(count, int) for count in (size, config.layers, config.patch_size)):
            raise ValueError(f"it has {', '.join(map(str, further)) or 'stages'}")
        return config


class PatchTower(nn.Module):
    """CLIP's ViT: pools the last layer's patch tokens inside the mask, then normalizes and projects.

    That is what the convolutional towers do with their last map; the paper does not say how it pools a ViT. Images come
    normalized as for the convolutional towers, of any size: they are padded to whole patches, and the position
    embeddings are interpolated to the grid as open_clip does it. Parameters have open_clip's names, below `visual.`.

    Attributes:
        stride: Pixels per token.
        visual: open_clip's tower.
    """

    def __init__(self, config: PatchClipConfig) -> None:
        """Builds an untrained tower."""
        super().__init__()
        self.stride = config.patch_size
        self.visual = VisionTransformer(
            image_size=config.image_size,
            patch_size=config.patch_size,
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            output_dim=config.embed_dim,
            act_layer=QuickGELU if config.text.quick_gelu else nn.GELU,
            norm_layer=LayerNorm,
        )
        self._mean, self._std = config.mean, config.std

    def forward(self, image: Tensor) -> FeaturePyramid:
        """`image` `(B, 3, H, W)`, normalized; all maps are the patch tokens `(B, C, ceil(H/P), ceil(W/P))`."""
        _, tokens = self._tokens(image)
        return FeaturePyramid(tokens, tokens, tokens, tokens)

    def embed_masks(self, res5: Tensor, masks: Tensor) -> Tensor:
        """Embeds bool masks `(B, Q, h, w)` over `res5` `(B, C, h, w)` as `(B, Q, D)`, not normalized."""
        return self.visual.ln_post(mask_pool(res5, masks).to(res5.dtype)) @ self.visual.proj

    def embed_images(self, image: Tensor) -> Tensor:
        """Embeds whole images `(B, 3, H, W)` by the class token: `(B, D)`, not normalized."""
        of_class, _ = self._tokens(image)
        return self.visual.ln_post(of_class) @ self.visual.proj

    def _tokens(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The last layer's class token `(B, C)` and patch tokens `(B, C, h, w)`."""
        patches = self.visual.conv1(self._padded(self._as_trained(image)))
        height, width = patches.shape[-2:]
        of_class = self.visual.class_embedding.expand(len(image), 1, -1)
        tokens = torch.cat((of_class, patches.flatten(2).transpose(1, 2)), dim=1) + self._positions(height, width)
        tokens = self.visual.transformer(self.visual.ln_pre(tokens))
        return tokens[:, 0], tokens[:, 1:].transpose(1, 2).unflatten(2, (height, width))

    def _as_trained(self, image: Tensor) -> Tensor:
        """The image with the mean and deviation that the weights were trained with."""
        if (self._mean, self._std) == (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD):
            return image
        given_mean, given_std, mean, std = (
            _channels(image, values) for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, self._mean, self._std)
        )
        return (image * given_std + given_mean - mean) / std

    def _padded(self, image: Tensor) -> Tensor:
        bottom, right = (-side % self.stride for side in image.shape[-2:])
        return F.pad(image, (0, right, 0, bottom))

    def _positions(self, height: int, width: int) -> Tensor:
        """Position embeddings `(1 + h*w, C)`, interpolated from the grid of the training."""
        rows = self.visual.positional_embedding
        grid = self.visual.grid_size
        if (height, width) == tuple(grid):
            return rows
        square = rows[1:].T.unflatten(1, grid)[None]
        resized = F.interpolate(square, (height, width), mode="bicubic", antialias=True, align_corners=False)
        return torch.cat((rows[:1], resized[0].flatten(1).T))


def _channels(image: Tensor, values: Sequence[float]) -> Tensor:
    return image.new_tensor(values).view(3, 1, 1)
