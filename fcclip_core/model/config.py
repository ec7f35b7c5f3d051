"""Model configurations: one frozen dataclass per part, and presets, among them those of all published models."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fcclip_core.model.decoder_config import (
    AxialPixelDecoderConfig,
    DeformablePixelDecoderConfig,
    KMeansDecoderConfig,
    MaskDecoderConfig,
    MaskedAttentionDecoderConfig,
    PixelDecoderConfig,
)

MLP, LINEAR = CLIP_HEADS = ("mlp", "linear")
"""Kinds of heads of CLIP's ConvNeXt image towers."""


@dataclass(frozen=True)
class ConvNeXtConfig:
    """CLIP's ConvNeXt image tower (timm `ConvNeXt` trunk, pooled and projected by a head).

    Attributes:
        depths: Blocks in each of the four stages.
        dims: Channels of each stage; strides are 4, 8, 16 and 32.
        head: Kind of the projection into the joint space, one of `CLIP_HEADS`: two layers, or one without bias.
    """

    depths: tuple[int, int, int, int]
    dims: tuple[int, int, int, int]
    head: str = MLP

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of res2, res3, res4 and res5."""
        return self.dims


@dataclass(frozen=True)
class ResNetConfig:
    """CLIP's modified ResNet image tower (open_clip `ModifiedResNet` with attention pooling).

    Attributes:
        layers: Bottleneck blocks in each of the four stages.
        width: Channels of the stem; stage i has `width * 4 * 2**i` output channels.
        image_size: Pre-training resolution in pixels; fixes the attention pool's positional grid.
    """

    layers: tuple[int, int, int, int]
    width: int
    image_size: int

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of res2, res3, res4 and res5."""
        return (self.width * 4, self.width * 8, self.width * 16, self.width * 32)

    @property
    def heads(self) -> int:
        """Heads of the attention pool, 64 channels each."""
        return self.width * 32 // 64


@dataclass(frozen=True)
class TextConfig:
    """CLIP's causal text transformer.

    Attributes:
        width: Channels of a token.
        heads: Attention heads.
        layers: Residual attention blocks.
        quick_gelu: OpenAI's weights were trained with `x * sigmoid(1.702 x)`; OpenCLIP's with the exact GELU.
        context_length: Positions of the learned positional embedding.
        vocab_size: Byte-pair tokens.
    """

    width: int
    heads: int
    layers: int
    quick_gelu: bool = False
    context_length: int = 77
    vocab_size: int = 49408


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of an FC-CLIP model.

    Attributes:
        name: Preset name, also stored in saved checkpoints.
        vision: The frozen CLIP image tower.
        text: The frozen CLIP text tower.
        embed_dim: Size of CLIP's joint embedding space.
        open_clip_name: open_clip's architecture name; None for a tower that open_clip does not publish.
        open_clip_tag: open_clip's tag of the pre-trained weights that the published checkpoints need.
        clip_is_frozen: Whether CLIP's weights are open_clip's own; if not, checkpoints must contain them.
        valid_mask_only: Ensemble only masks that survive at stride 32 (the published ResNet setting).
        shorter_side: Shorter image side in pixels that the model is intended for.
        pixel_decoder: The pixel decoder; its kind is chosen by the class of its configuration, like the image tower's.
        mask_decoder: The mask decoder, chosen likewise.
    """

    name: str
    vision: ConvNeXtConfig | ResNetConfig
    text: TextConfig
    embed_dim: int
    open_clip_name: str | None = None
    open_clip_tag: str | None = None
    clip_is_frozen: bool = True
    valid_mask_only: bool = False
    shorter_side: int = 800
    pixel_decoder: PixelDecoderConfig = DeformablePixelDecoderConfig()
    mask_decoder: MaskDecoderConfig = MaskedAttentionDecoderConfig()


def _resnet(name: str, vision: ResNetConfig, text_width: int, embed_dim: int) -> ModelConfig:
    text = TextConfig(text_width, text_width // 64, 12, quick_gelu=True)
    preset = name.replace("RN", "rn")
    return ModelConfig(preset, vision, text, embed_dim, name, open_clip_tag="openai", valid_mask_only=True)


CONVNEXT_LARGE = ModelConfig(
    name="convnext_large",
    vision=ConvNeXtConfig(depths=(3, 3, 27, 3), dims=(192, 384, 768, 1536)),
    text=TextConfig(width=768, heads=12, layers=16),
    embed_dim=768,
    open_clip_name="convnext_large_d_320",
    open_clip_tag="laion2b_s29b_b131k_ft_soup",
)
CONVNEXT_BASE = ModelConfig(
    name="convnext_base",
    vision=ConvNeXtConfig(depths=(3, 3, 27, 3), dims=(128, 256, 512, 1024), head=LINEAR),
    text=TextConfig(width=640, heads=10, layers=12),
    embed_dim=640,
    open_clip_name="convnext_base_w_320",
    open_clip_tag="laion_aesthetic_s13b_b82k_augreg",
)
# MAFT+ has fewer queries, and trains CLIP too.
_MAFT_PLUS_DECODER = MaskedAttentionDecoderConfig(queries=100)
MAFT_PLUS_LARGE = replace(CONVNEXT_LARGE, name="maft_plus_large", mask_decoder=_MAFT_PLUS_DECODER, clip_is_frozen=False)
MAFT_PLUS_BASE = replace(CONVNEXT_BASE, name="maft_plus_base", mask_decoder=_MAFT_PLUS_DECODER, clip_is_frozen=False)
RN50 = _resnet("RN50", ResNetConfig((3, 4, 6, 3), 64, 224), text_width=512, embed_dim=1024)
RN101 = _resnet("RN101", ResNetConfig((3, 4, 23, 3), 64, 224), text_width=512, embed_dim=512)
RN50X4 = _resnet("RN50x4", ResNetConfig((4, 6, 10, 6), 80, 288), text_width=640, embed_dim=640)
RN50X16 = _resnet("RN50x16", ResNetConfig((6, 8, 18, 8), 96, 384), text_width=768, embed_dim=768)
RN50X64 = _resnet("RN50x64", ResNetConfig((3, 15, 36, 10), 128, 448), text_width=1024, embed_dim=1024)
CONVNEXT_SMALL = ModelConfig(
    name="convnext_small",
    vision=ConvNeXtConfig(depths=(2, 2, 4, 2), dims=(32, 64, 128, 256)),
    text=TextConfig(width=64, heads=2, layers=4),
    embed_dim=256,
    valid_mask_only=True,
    shorter_side=640,
    pixel_decoder=DeformablePixelDecoderConfig(dim=128, layers=2, ffn_dim=512),
    mask_decoder=MaskedAttentionDecoderConfig(dim=128, layers=6, ffn_dim=512, queries=60),
)
TINY = ModelConfig(
    name="tiny",
    vision=ConvNeXtConfig(depths=(1, 1, 2, 1), dims=(32, 64, 128, 256)),
    text=TextConfig(width=64, heads=2, layers=2),
    embed_dim=64,
    pixel_decoder=DeformablePixelDecoderConfig(dim=64, heads=4, layers=2),
    mask_decoder=MaskedAttentionDecoderConfig(dim=64, heads=4, layers=3, ffn_dim=128, queries=20),
)
# Table 11's "FC-CLIP w/ kMaX" (axial pixel decoder) and "w/ kMaX*" (deformable); weights were not published, and the
# number of queries is our choice: kMaX-DeepLab's 128 and FC-CLIP's 250.
CONVNEXT_LARGE_KMAX = replace(
    CONVNEXT_LARGE,
    name="convnext_large_kmax",
    pixel_decoder=AxialPixelDecoderConfig(),
    mask_decoder=KMeansDecoderConfig(),
)
CONVNEXT_LARGE_KMAX_DEFORMABLE = replace(
    CONVNEXT_LARGE, name="convnext_large_kmax_deformable", mask_decoder=KMeansDecoderConfig(queries=250)
)
_SMALL_KMEANS = KMeansDecoderConfig(dim=128, ffn_dim=512, feature_dim=64, queries=60)
CONVNEXT_SMALL_KMAX = replace(
    CONVNEXT_SMALL,
    name="convnext_small_kmax",
    pixel_decoder=AxialPixelDecoderConfig(widths=(64, 32, 32, 16), blocks=(1, 2, 1, 1)),
    mask_decoder=_SMALL_KMEANS,
)
CONVNEXT_SMALL_KMAX_DEFORMABLE = replace(
    CONVNEXT_SMALL, name="convnext_small_kmax_deformable", mask_decoder=_SMALL_KMEANS
)
_TINY_KMEANS = KMeansDecoderConfig(dim=64, heads=4, layers=1, ffn_dim=128, feature_dim=32, queries=20)
TINY_KMAX = replace(
    TINY,
    name="tiny_kmax",
    pixel_decoder=AxialPixelDecoderConfig(widths=(32, 16, 16, 8), blocks=(1, 1, 1, 1)),
    mask_decoder=_TINY_KMEANS,
)
TINY_KMAX_DEFORMABLE = replace(TINY, name="tiny_kmax_deformable", mask_decoder=_TINY_KMEANS)

PRESETS: dict[str, ModelConfig] = {
    config.name: config
    for config in (
        CONVNEXT_LARGE,
        CONVNEXT_BASE,
        MAFT_PLUS_LARGE,
        MAFT_PLUS_BASE,
        RN50,
        RN101,
        RN50X4,
        RN50X16,
        RN50X64,
        CONVNEXT_SMALL,
        TINY,
        CONVNEXT_LARGE_KMAX,
        CONVNEXT_LARGE_KMAX_DEFORMABLE,
        CONVNEXT_SMALL_KMAX,
        CONVNEXT_SMALL_KMAX_DEFORMABLE,
        TINY_KMAX,
        TINY_KMAX_DEFORMABLE,
    )
}
