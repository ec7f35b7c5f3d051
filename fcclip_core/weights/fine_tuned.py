"""What published models whose CLIP was trained too store beside FC-CLIP's keys.

OVRCOAT and MAFT+ build on FC-CLIP's code. Their files hold their own CLIP under FC-CLIP's keys, a copy of the CLIP that
they began with, and MAFT+ the weights of its content-dependent transfer. Those are checked, and not used: the copies
served training, and the transfer, which changes the text embeddings with every image, is not computed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from fcclip_core.model.config import ModelConfig
from fcclip_core.weights.published_layout import Entry, layout_of

OVRCOAT_COPY = "frozen_backbone."
MAFT_PLUS_COPY = "backbone_t."
MAFT_PLUS_TRANSFER = "cdt.cross_atten."
_BACKBONE = "backbone."


def further_entries(keys: Iterable[str], config: ModelConfig) -> Mapping[str, Entry]:
    """The entries of each part beside FC-CLIP's of which a file has a key; a part must be there as a whole.

    Args:
        keys: The file's keys.
        config: Its model.
    """
    clip = layout_of(config).clip
    parts = {
        copy: {copy + key.removeprefix(_BACKBONE): entry for key, entry in clip.items()}
        for copy in (OVRCOAT_COPY, MAFT_PLUS_COPY)
    }
    parts[MAFT_PLUS_TRANSFER] = _transfer(config.embed_dim)
    present = {prefix for prefix in parts if any(key.startswith(prefix) for key in keys)}
    return {key: entry for prefix in parts if prefix in present for key, entry in parts[prefix].items()}


def _transfer(size: int) -> dict[str, Entry]:
    """Attention of words to the image, a layer after it, and a norm, all in the joint space."""
    shapes = {
        "multihead_attn.in_proj_weight": (3 * size, size),
        "multihead_attn.in_proj_bias": (3 * size,),
        "multihead_attn.out_proj.weight": (size, size),
        "multihead_attn.out_proj.bias": (size,),
        "norm.weight": (size,),
        "norm.bias": (size,),
        "MLP.weight": (size, size),
        "MLP.bias": (size,),
    }
    return {MAFT_PLUS_TRANSFER + name: Entry(shape, torch.float32) for name, shape in shapes.items()}
