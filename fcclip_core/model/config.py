"""Model configurations: one frozen dataclass per part, and presets, among them those of all published models."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

from fcclip_core.quoting import short

MLP, LINEAR = CLIP_HEADS = ("mlp", "linear")
"""Kinds of heads of CLIP's ConvNeXt image towers."""
SHARED, OWN = MASK_TOWERS = ("shared", "own")
"""Where the mask generator's features come from: CLIP's image tower, or an image tower of its own (Table 6)."""


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
        hidden_dim: Channels of the pixel decoder, of mask features and of object queries.
        num_heads: Attention heads in pixel decoder and mask decoder.
        encoder_layers: Deformable attention layers of the pixel decoder.
        encoder_points: Sampling points per head and level.
        encoder_ffn_dim: Hidden channels of the pixel decoder's feed-forward blocks.
        decoder_layers: Masked-attention layers of the mask decoder.
        decoder_ffn_dim: Hidden channels of the mask decoder's feed-forward blocks.
        num_queries: Object queries.
        mask_tower: Image tower of mask generator and in-vocabulary classifier, one of `MASK_TOWERS`. CLIP's image tower
            is always that of the out-of-vocabulary classifier.
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
    hidden_dim: int = 256
    num_heads: int = 8
    encoder_layers: int = 6
    encoder_points: int = 4
    encoder_ffn_dim: int = 1024
    decoder_layers: int = 9
    decoder_ffn_dim: int = 2048
    num_queries: int = 250
    mask_tower: str = SHARED


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
MAFT_PLUS_LARGE = replace(CONVNEXT_LARGE, name="maft_plus_large", num_queries=100, clip_is_frozen=False)
MAFT_PLUS_BASE = replace(CONVNEXT_BASE, name="maft_plus_base", num_queries=100, clip_is_frozen=False)
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
    hidden_dim=128,
    num_heads=8,
    encoder_layers=2,
    encoder_ffn_dim=512,
    decoder_layers=6,
    decoder_ffn_dim=512,
    num_queries=60,
)
TINY = ModelConfig(
    name="tiny",
    vision=ConvNeXtConfig(depths=(1, 1, 2, 1), dims=(32, 64, 128, 256)),
    text=TextConfig(width=64, heads=2, layers=2),
    embed_dim=64,
    hidden_dim=64,
    num_heads=4,
    encoder_layers=2,
    decoder_layers=3,
    decoder_ffn_dim=128,
    num_queries=20,
)

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
    )
}


_SIDES = (32, 4096)
"""Smallest and largest `shorter_side`, as in `InferenceSettings`."""
_MAX_NAME_LENGTH = 200
_MAX_COUNT = 1 << 20
"""Largest number in a configuration, with room for `vocab_size`."""


def config_from_dict(fields: object) -> ModelConfig:
    """Rebuilds a configuration from `dataclasses.asdict` output, as stored in a checkpoint.

    Checks the type and range of every field, but not whether a file's tensors match.

    Raises:
        ValueError: A field is unknown, missing, of the wrong type or out of range.
    """
    fields = dict(_mapping("config", fields))
    vision = _mapping("vision", fields.get("vision"))
    parts = {"vision": ConvNeXtConfig if "depths" in vision else ResNetConfig, "text": TextConfig}
    for name, part in parts.items():
        fields[name] = part(**_checked(part, name, fields.get(name)))
    config = ModelConfig(**_checked(ModelConfig, "config", fields))
    if not _SIDES[0] <= config.shorter_side <= _SIDES[1]:
        raise ValueError(f"shorter_side is {config.shorter_side}; expected {_SIDES[0]} to {_SIDES[1]}")
    if isinstance(config.vision, ConvNeXtConfig) and config.vision.head not in CLIP_HEADS:
        raise ValueError(f"vision.head is {short(config.vision.head)}; expected one of {', '.join(CLIP_HEADS)}")
    if config.mask_tower not in MASK_TOWERS:
        raise ValueError(f"mask_tower is {short(config.mask_tower)}; expected one of {', '.join(MASK_TOWERS)}")
    for what, width, heads in (
        ("hidden_dim", config.hidden_dim, config.num_heads),
        ("text.width", config.text.width, config.text.heads),
    ):
        if width % heads:
            raise ValueError(f"{what} is {width}, which is not divisible by its number of heads, {heads}")
    return config


def _mapping(what: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{what} is {short(value)}; expected a mapping from field names")
    return value


def _checked(part: type, what: str, value: object) -> dict[str, Any]:
    """Checked keyword arguments for one dataclass.

    Raises:
        ValueError: A field is invalid; names it.
    """
    given, known = _mapping(what, value), {field.name: field for field in dataclasses.fields(part)}
    for name in given:
        if name not in known:
            raise ValueError(f"{what} has an unknown field {short(name)}")
    for name, field in known.items():
        if name not in given and field.default is dataclasses.MISSING:
            raise ValueError(f"{what} lacks the field {name}")
    return {name: _value(name, str(known[name].type), value) for name, value in given.items()}


def _value(name: str, kind: str, value: object) -> object:
    """Returns `value` if it matches `kind`, the field's annotation."""
    if kind == "int" and _is_count(value):
        return value
    if kind.startswith("tuple") and isinstance(value, list) and len(value) == 4 and all(map(_is_count, value)):
        return tuple(value)
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind.startswith("str") and isinstance(value, str) and len(value) <= _MAX_NAME_LENGTH and value.isprintable():
        return value
    if kind == "str | None" and value is None:
        return value
    if kind not in ("int", "bool") and not kind.startswith(("tuple", "str")):  # a nested part, checked before
        return value
    raise ValueError(f"{name} is {short(value)}; expected {_EXPECTED[kind.partition('[')[0].partition(' ')[0]]}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_COUNT


_EXPECTED = {
    "int": f"an integer from 1 to {_MAX_COUNT}",
    "tuple": f"four integers from 1 to {_MAX_COUNT}",
    "bool": "true or false",
    "str": f"a string of at most {_MAX_NAME_LENGTH} characters",
}


def layer_counts(config: ModelConfig) -> dict[str, int]:
    """Name of each layer count -> its value: the time to build a model grows with each layer, whatever its size."""
    vision = config.vision
    blocks = vision.depths if isinstance(vision, ConvNeXtConfig) else vision.layers
    return {
        "vision blocks": sum(blocks) * (2 if config.mask_tower == OWN else 1),
        "text.layers": config.text.layers,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
    }
