"""How many parameters a model has, part by part, and as the paper counts them (Table 1)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fcclip_core.model.config import ModelConfig
from fcclip_core.weights.published_layout import VISUAL_PREFIX, Entry, is_parameter, layout_of
from fcclip_core.weights.published_names import CLIP_PREFIX

_EMBEDDINGS = tuple(CLIP_PREFIX + name for name in ("token_embedding.weight", "positional_embedding"))


@dataclass(frozen=True)
class ModelSize:
    """Numbers of parameters.

    Attributes:
        image_tower: CLIP's image tower.
        text_tower: CLIP's text tower, with its logit scale.
        embeddings: Of these, the embeddings of tokens and positions.
        trained: What FC-CLIP trains: pixel decoder, mask decoder with both embeddings, void embedding.
    """

    image_tower: int
    text_tower: int
    embeddings: int
    trained: int

    @property
    def paper_frozen(self) -> int:
        """Frozen parameters as the ratios in the paper count them: image tower, embeddings of tokens and positions."""
        return self.image_tower + self.embeddings

    @property
    def total(self) -> int:
        """Everything."""
        return self.image_tower + self.text_tower + self.trained


def model_size(config: ModelConfig) -> ModelSize:
    """Counts a configuration's parameters; running statistics of batch normalization are none."""
    layout = layout_of(config)
    image = {key: entry for key, entry in layout.clip.items() if key.startswith(VISUAL_PREFIX)}
    text = {key: entry for key, entry in layout.clip.items() if key not in image}
    return ModelSize(
        image_tower=_count(image, image),
        text_tower=_count(text, text),
        embeddings=_count(text, _EMBEDDINGS),
        trained=_count(layout.trained, layout.trained),
    )


def _count(entries: Mapping[str, Entry], keys: Iterable[str]) -> int:
    return sum(math.prod(entries[key].shape) for key in keys if is_parameter(key))
