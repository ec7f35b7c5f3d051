"""The published key lists in test/reference, and files made of them that cost nothing.

A tensor of a listed shape is one number, expanded: torch saves and maps that one number only.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import open_clip
import torch

from checkout import REFERENCE
from fcclip_core.weights.weight_files import WeightFile

LISTS = {
    "convnext_large": "convnext_large_d_320",
    "convnext_base": "convnext_base_w_320",
    "maft_plus_large": "convnext_large_d_320",
    "maft_plus_base": "convnext_base_w_320",
    "rn50": "RN50",
    "rn101": "RN101",
    "rn50x4": "RN50x4",
    "rn50x16": "RN50x16",
    "rn50x64": "RN50x64",
    "tiny": "",
}
CLIP_PREFIX = "backbone.clip_model."
# By hand, from ConvNeXt-L's: four projections of 1920 instead of 2880 channels to 256, and a last layer of 257 numbers
# for each of 640 instead of 768 dimensions. CLIP's are open_clip's: 87,566,464 of the trunk, 1024 x 640 of the head.
BASE_COUNTS = {
    "pixel_decoder": 5_790_144 - 256 * 960,
    "transformer_decoder": 14_930_689 - 257 * 128,
    "void_embedding": 640,
    "clip_visual": 87_566_464 + 655_360,
    "clip_text_and_scale": 91_163_521,
    "total": 199_828_162,
}
# MAFT+ is FC-CLIP with 100 queries instead of 250 (configs/maskformer2_R50_bs16_50ep.yaml of its repository).
FROZEN = {"maft_plus_large": "convnext_large", "maft_plus_base": "convnext_base"}
QUERY_SHAPES = {f"sem_seg_head.predictor.query_{name}.weight": [100, 256] for name in ("feat", "embed")}
# MAFT+'s content-dependent transfer (content_dependent_transfer.py): a torch.nn.MultiheadAttention, a LayerNorm and a
# Linear of CLIP's joint size.
TRANSFER = {
    "cdt.cross_atten.multihead_attn.in_proj_weight": lambda size: [3 * size, size],
    "cdt.cross_atten.multihead_attn.in_proj_bias": lambda size: [3 * size],
    "cdt.cross_atten.multihead_attn.out_proj.weight": lambda size: [size, size],
    "cdt.cross_atten.multihead_attn.out_proj.bias": lambda size: [size],
    "cdt.cross_atten.norm.weight": lambda size: [size],
    "cdt.cross_atten.norm.bias": lambda size: [size],
    "cdt.cross_atten.MLP.weight": lambda size: [size, size],
    "cdt.cross_atten.MLP.bias": lambda size: [size],
}
# Where the authors' code makes the trained part for ConvNeXt-B otherwise than for ConvNeXt-L.
BASE_SHAPES = {
    "sem_seg_head.pixel_decoder.input_proj.0.0.weight": [256, 1024, 1, 1],
    "sem_seg_head.pixel_decoder.input_proj.1.0.weight": [256, 512, 1, 1],
    "sem_seg_head.pixel_decoder.input_proj.2.0.weight": [256, 256, 1, 1],
    "sem_seg_head.pixel_decoder.adapter_1.weight": [256, 128, 1, 1],
    "sem_seg_head.predictor.class_embed.layers.2.weight": [640, 256],
    "sem_seg_head.predictor.class_embed.layers.2.bias": [640],
    "void_embedding.weight": [1, 640],
}


@functools.cache
def _published() -> dict:
    return json.loads((REFERENCE / "keys.json").read_text())


@functools.cache
def entries(preset: str) -> dict[str, list]:
    """Published key -> [shape, type, ...]."""
    if preset == "tiny":
        return json.loads((REFERENCE / "tiny_keys.json").read_text())
    if preset == "convnext_base":
        return _base_entries()
    if preset in FROZEN:
        return {key: [QUERY_SHAPES.get(key, shape), *rest] for key, (shape, *rest) in entries(FROZEN[preset]).items()}
    return _published()[LISTS[preset]]["entries"]


def _base_entries() -> dict[str, list]:
    """ConvNeXt-B, which no file of the authors has: open_clip's own CLIP, and ConvNeXt-L's trained part resized."""
    clip = open_clip.create_model("convnext_base_w_320", load_weights=False, device="meta").state_dict()
    trained = {key: entry for key, entry in entries("convnext_large").items() if not key.startswith(CLIP_PREFIX)}
    return {
        **{CLIP_PREFIX + key: [list(t.shape), str(t.dtype).removeprefix("torch.")] for key, t in clip.items()},
        **{key: [BASE_SHAPES.get(key, shape), *rest] for key, (shape, *rest) in trained.items()},
    }


def counts(preset: str) -> dict[str, int]:
    if preset == "convnext_base":
        return BASE_COUNTS
    if preset in FROZEN:
        return {
            name: count - 2 * 150 * 256 * (name in ("transformer_decoder", "total"))
            for name, count in counts(FROZEN[preset]).items()
        }
    return _published()[LISTS[preset]]["counts"]


@functools.cache
def listed_state(preset: str) -> dict[str, torch.Tensor]:
    """Every listed tensor, a number expanded to the shape; copy the dictionary before changing it."""
    return {
        key: torch.tensor(index % 97 / 97).to(getattr(torch, kind)).expand(shape)
        for index, (key, (shape, kind, *_)) in enumerate(entries(preset).items())
    }


def ovrcoat_state() -> dict[str, torch.Tensor]:
    """FC-CLIP's keys, and the CLIP that training began with as `frozen_backbone`."""
    state = listed_state("convnext_large")
    return {**state, **{f"frozen_{key}": tensor for key, tensor in state.items() if key.startswith(CLIP_PREFIX)}}


def maft_plus_state(preset: str) -> dict[str, torch.Tensor]:
    """FC-CLIP's keys, the CLIP that training began with as `backbone_t`, and the content-dependent transfer."""
    state = listed_state(preset)
    size = state["void_embedding.weight"].shape[1]
    return {
        **state,
        **{key.replace("backbone.", "backbone_t.", 1): t for key, t in state.items() if key.startswith(CLIP_PREFIX)},
        **{key: torch.tensor(0.5).expand(shape(size)) for key, shape in TRANSFER.items()},
    }


def weight_file(state: dict[str, torch.Tensor]) -> WeightFile:
    return WeightFile(Path("published.pth"), state, (), {})


def without_clip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in state.items() if not key.startswith(CLIP_PREFIX)}


def only_clip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As open_clip spells the keys."""
    return {key[len(CLIP_PREFIX) :]: tensor for key, tensor in state.items() if key.startswith(CLIP_PREFIX)}
