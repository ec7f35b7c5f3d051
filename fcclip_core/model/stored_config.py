"""Reads configurations stored in checkpoints, which are not trusted, also those of version 0.1."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fcclip_core.model.config import CLIP_HEADS, ConvNeXtConfig, ModelConfig, ResNetConfig, TextConfig
from fcclip_core.model.decoder_config import (
    AxialPixelDecoderConfig,
    DeformablePixelDecoderConfig,
    KMeansDecoderConfig,
    MaskedAttentionDecoderConfig,
)
from fcclip_core.quoting import short

_SIDES = (32, 4096)
"""Smallest and largest `shorter_side`, as in `InferenceSettings`."""
_MAX_NAME_LENGTH = 200
_MAX_COUNT = 1 << 20
"""Largest number in a configuration, with room for `vocab_size`."""
_PARTS: dict[str, dict[str, type]] = {
    "vision": {"depths": ConvNeXtConfig, "layers": ResNetConfig},
    "text": {"width": TextConfig},
    "pixel_decoder": {"blocks": AxialPixelDecoderConfig, "points": DeformablePixelDecoderConfig},
    "mask_decoder": {"feature_dim": KMeansDecoderConfig, "queries": MaskedAttentionDecoderConfig},
}
"""Part -> field that only one kind has -> that kind; the last kind is taken if none is there."""
_FLAT_FIELDS = {
    "pixel_decoder": {
        "hidden_dim": "dim",
        "num_heads": "heads",
        "encoder_layers": "layers",
        "encoder_points": "points",
        "encoder_ffn_dim": "ffn_dim",
    },
    "mask_decoder": {
        "hidden_dim": "dim",
        "num_heads": "heads",
        "decoder_layers": "layers",
        "decoder_ffn_dim": "ffn_dim",
        "num_queries": "queries",
    },
}
"""Part -> field of version 0.1 -> field of the part."""


def config_from_dict(fields: object) -> ModelConfig:
    """Rebuilds a configuration from `dataclasses.asdict` output, as stored in a checkpoint.

    Checks the type and range of every field, but not whether a file's tensors match. Configurations of version 0.1,
    which had the decoders' fields side by side with all others, are understood too.

    Raises:
        ValueError: A field is unknown, missing, of the wrong type or out of range.
    """
    fields = with_decoder_parts(_mapping("config", fields))
    for name, kinds in _PARTS.items():
        given = _mapping(name, fields.get(name))
        kind = next((kind for mark, kind in kinds.items() if mark in given), list(kinds.values())[-1])
        fields[name] = kind(**_checked(kind, f"{name}.", given))
    config = ModelConfig(**_checked(ModelConfig, "", fields))
    if not _SIDES[0] <= config.shorter_side <= _SIDES[1]:
        raise ValueError(f"shorter_side is {config.shorter_side}; expected {_SIDES[0]} to {_SIDES[1]}")
    if isinstance(config.vision, ConvNeXtConfig) and config.vision.head not in CLIP_HEADS:
        raise ValueError(f"vision.head is {short(config.vision.head)}; expected one of {', '.join(CLIP_HEADS)}")
    _check_heads(config)
    pixels, masks = config.pixel_decoder, config.mask_decoder
    if isinstance(masks, MaskedAttentionDecoderConfig) and {*pixels.channels} != {masks.dim}:
        raise ValueError(
            f"the pixel decoder has {pixels.channels} channels at strides 32, 16, 8 and 4; a masked-attention decoder "
            f"with dim {masks.dim} needs as many at each"
        )
    return config


def with_decoder_parts(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Moves the decoders' fields of a version 0.1 configuration into their two parts; one with parts is unchanged."""
    parts = {
        part: {name: fields[flat] for flat, name in names.items() if flat in fields}
        for part, names in _FLAT_FIELDS.items()
    }
    if fields.keys() & parts.keys() or not all(parts.values()):
        return dict(fields)
    flat = {name for names in _FLAT_FIELDS.values() for name in names}
    return {name: value for name, value in fields.items() if name not in flat} | parts


def _check_heads(config: ModelConfig) -> None:
    pixels, masks = config.pixel_decoder, config.mask_decoder
    first, second = (pixels.dim, pixels.dim) if isinstance(pixels, DeformablePixelDecoderConfig) else pixels.widths[:2]
    for what, width, heads in (
        ("pixel_decoder's width", first, pixels.heads),
        ("pixel_decoder's width", second, pixels.heads),
        ("mask_decoder.dim", masks.dim, masks.heads),
        ("text.width", config.text.width, config.text.heads),
    ):
        if width % heads:
            raise ValueError(f"{what} is {width}, which is not divisible by its number of heads, {heads}")


def _mapping(what: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{what} is {short(value)}; expected a mapping from field names")
    return value


def _checked(part: type, prefix: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Checked keyword arguments for one dataclass; `prefix` stands before the names of its fields in errors.

    Raises:
        ValueError: A field is invalid; names it.
    """
    known, part_name = {field.name: field for field in dataclasses.fields(part)}, prefix.rstrip(".") or "config"
    for name in given:
        if name not in known:
            raise ValueError(f"{part_name} has an unknown field {short(name)}")
    for name, field in known.items():
        if name not in given and field.default is dataclasses.MISSING:
            raise ValueError(f"{part_name} lacks the field {name}")
    return {name: _value(prefix + name, str(known[name].type), value) for name, value in given.items()}


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
    vision, pixels, masks = config.vision, config.pixel_decoder, config.mask_decoder
    counts = {
        "vision blocks": sum(vision.depths if isinstance(vision, ConvNeXtConfig) else vision.layers),
        "text.layers": config.text.layers,
        "mask_decoder.layers": masks.layers * (3 if isinstance(masks, KMeansDecoderConfig) else 1),
    }
    if isinstance(pixels, DeformablePixelDecoderConfig):
        return {**counts, "pixel_decoder.layers": pixels.layers}
    return {**counts, "pixel decoder blocks": sum(pixels.blocks)}
