"""The layout of a published checkpoint: every key with its shape and data type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

from fcclip_core.devices import undisturbed
from fcclip_core.model.config import ModelConfig
from fcclip_core.model.fcclip import FCCLIP
from fcclip_core.model.text_tower import TextTower
from fcclip_core.weights.published_names import CLIP_PREFIX, published_name

EMPTY_WEIGHT = "criterion.empty_weight"
"""Class weights of the training loss: one per training class, then void. Accepted, but not loaded."""
BATCH_COUNTER = "num_batches_tracked"
VISUAL_PREFIX = CLIP_PREFIX + "visual."
MASK_TOWER_PREFIX = "mask_tower.tower."
"""Image tower of the mask generator alone, which no published checkpoint has."""
CLIP_SCALE = CLIP_PREFIX + "logit_scale"
PARTS = {
    "CLIP image tower": VISUAL_PREFIX,
    "CLIP text tower and scale": CLIP_PREFIX,
    "mask generator's own image tower": MASK_TOWER_PREFIX,
    "pixel decoder": "sem_seg_head.pixel_decoder.",
    "mask decoder": "sem_seg_head.predictor.",
    "void embedding": "void_embedding.",
}
"""Part -> prefix of its published keys; the first matching prefix applies."""


@dataclass(frozen=True)
class Entry:
    """Shape and data type of one tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Layout:
    """Every key of a complete checkpoint, without the training loss's buffer.

    Attributes:
        image: Published key -> entry, for everything but the text tower.
        text: Published key -> entry of CLIP's text tower.
        published: Our parameter name -> published key, for the keys of `image`.
    """

    image: Mapping[str, Entry]
    text: Mapping[str, Entry]
    published: Mapping[str, str]

    @cached_property
    def trained(self) -> Mapping[str, Entry]:
        """The part that FC-CLIP trains: everything but CLIP."""
        return {key: entry for key, entry in self.image.items() if not key.startswith(CLIP_PREFIX)}

    @cached_property
    def clip(self) -> Mapping[str, Entry]:
        """CLIP's part, image and text."""
        return {key: entry for key, entry in self.everything.items() if key.startswith(CLIP_PREFIX)}

    @cached_property
    def everything(self) -> Mapping[str, Entry]:
        """Image and text together."""
        return {**self.image, **self.text}


@lru_cache(maxsize=16)
def layout_of(config: ModelConfig) -> Layout:
    """The layout of a configuration, determined from modules on the meta device."""
    with undisturbed(), torch.device("meta"):
        model, text_tower = FCCLIP(config), TextTower(config)
    own = {name: Entry(tuple(tensor.shape), tensor.dtype) for name, tensor in model.state_dict().items()}
    text = {name: Entry(tuple(tensor.shape), tensor.dtype) for name, tensor in text_tower.state_dict().items()}
    return Layout(
        image={published_name(name): entry for name, entry in own.items()},
        text={CLIP_PREFIX + name: entry for name, entry in text.items()},
        published={name: published_name(name) for name in own},
    )


def part_of(key: str) -> str:
    """The name in `PARTS` of a published key's part; empty if none."""
    return next((part for part, prefix in PARTS.items() if key.startswith(prefix)), "")


def is_parameter(key: str) -> bool:
    """False for the running statistics of batch normalization, which do not count as parameters."""
    return key.rpartition(".")[2] not in ("running_mean", "running_var", BATCH_COUNTER)
