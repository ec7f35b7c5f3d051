"""Checkpoints whose mask generator has an image tower of its own, beside CLIP's (Table 6)."""

from __future__ import annotations

from dataclasses import replace

from fcclip_core.errors import CheckpointError
from fcclip_core.model.config import OWN, SHARED
from fcclip_core.weights.checkpoints import Checkpoint, Provenance
from fcclip_core.weights.published_layout import MASK_TOWER_PREFIX, VISUAL_PREFIX, layout_of
from fcclip_core.weights.published_names import CLIP_PREFIX


def with_own_tower(masks: Checkpoint, clip: Checkpoint | None = None) -> Checkpoint:
    """A checkpoint whose mask generator has an image tower of its own.

    Args:
        masks: Gives mask generator and in-vocabulary classifier with their image tower, which becomes their own.
        clip: Gives the CLIP that out-of-vocabulary classifier and text embeddings use; None: `masks` as well, so that
            the new tower is a copy of it, to be trained.

    Raises:
        CheckpointError: `masks` has two towers already, or `clip` another architecture or text tower.
    """
    clip = masks if clip is None else clip
    if masks.config.mask_tower != SHARED:
        raise CheckpointError(
            "this checkpoint's mask generator has an image tower of its own already; train it as it is"
        )
    if (masks.config.vision, masks.config.embed_dim) != (clip.config.vision, clip.config.embed_dim):
        raise CheckpointError(
            f"the image towers differ: {masks.config.name} and {clip.config.name}; give checkpoints of one CLIP"
        )
    if masks.text_tower_id != clip.text_tower_id:
        raise CheckpointError("the text towers differ; give checkpoints that began with the same CLIP")
    config = replace(masks.config, mask_tower=OWN)
    state = {key: clip.state[key] if key.startswith(CLIP_PREFIX) else item for key, item in masks.state.items()}
    copied = {
        key: masks.state[VISUAL_PREFIX + key.removeprefix(MASK_TOWER_PREFIX)]
        for key in layout_of(config).image
        if key.startswith(MASK_TOWER_PREFIX)
    }
    return replace(masks, config=config, state={**state, **copied}, provenance=_provenance(masks, clip))


def _provenance(masks: Checkpoint, clip: Checkpoint) -> Provenance:
    if clip is masks:
        return masks.provenance
    note = f"out-of-vocabulary classifier: {clip.provenance.describe()}"[:1000]
    return replace(masks.provenance, note="; ".join(filter(None, (masks.provenance.note, note))))
