"""The published key lists in test/reference, and files made of them that cost nothing.

A tensor of a listed shape is one number, expanded: torch saves and maps that one number only.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import torch

from checkout import REFERENCE
from fcclip_core.weights.weight_files import WeightFile

LISTS = {
    "convnext_large": "convnext_large_d_320",
    "rn50": "RN50",
    "rn101": "RN101",
    "rn50x4": "RN50x4",
    "rn50x16": "RN50x16",
    "rn50x64": "RN50x64",
    "tiny": "",
}
CLIP_PREFIX = "backbone.clip_model."


@functools.cache
def _published() -> dict:
    return json.loads((REFERENCE / "keys.json").read_text())


@functools.cache
def entries(preset: str) -> dict[str, list]:
    """Published key -> [shape, type, ...]."""
    if preset == "tiny":
        return json.loads((REFERENCE / "tiny_keys.json").read_text())
    return _published()[LISTS[preset]]["entries"]


def counts(preset: str) -> dict[str, int]:
    return _published()[LISTS[preset]]["counts"]


@functools.cache
def listed_state(preset: str) -> dict[str, torch.Tensor]:
    """Every listed tensor, a number expanded to the shape; copy the dictionary before changing it."""
    return {
        key: torch.tensor(index % 97 / 97).to(getattr(torch, kind)).expand(shape)
        for index, (key, (shape, kind, *_)) in enumerate(entries(preset).items())
    }


def weight_file(state: dict[str, torch.Tensor]) -> WeightFile:
    return WeightFile(Path("published.pth"), state, (), {})


def without_clip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in state.items() if not key.startswith(CLIP_PREFIX)}


def only_clip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As open_clip spells the keys."""
    return {key[len(CLIP_PREFIX) :]: tensor for key, tensor in state.items() if key.startswith(CLIP_PREFIX)}
