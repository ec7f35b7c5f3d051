"""FC-CLIP: one frozen convolutional CLIP, shared by a mask generator and two mask classifiers (Figure 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcclip_core.model.backbone import FeaturePyramid, build_backbone
from fcclip_core.model.config import ModelConfig
from fcclip_core.model.decoders import build_mask_decoder, build_pixel_decoder
from fcclip_core.model.kmeans_decoder import KMeansPrediction
from fcclip_core.model.mask_decoder import MaskPrediction
from fcclip_core.model.vanished_masks import POOLED_CELLS
from fcclip_core.settings import PUBLISHED


@dataclass(frozen=True)
class ModelOutput:
    """The network's output, independent of any vocabulary.

    Attributes:
        mask_logits: `(B, Q, h/4, w/4)`; positive inside the mask. Of a k-means decoder their sigmoid is the query's
            softmax share of the pixel, so the shares of a pixel sum to 1 over the queries.
        in_vocab_embedding: `(B, Q, D)`, learned, not normalized.
        out_vocab_embedding: `(B, Q, D)`, CLIP's own embedding of the mask, not normalized.
        mask_survives: bool `(B, Q)`, false if the mask is empty at stride 32.
    """

    mask_logits: Tensor
    in_vocab_embedding: Tensor
    out_vocab_embedding: Tensor
    mask_survives: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> ModelOutput:
        """The output with `change` applied to every field."""
        return ModelOutput(*map(change, vars(self).values()))


class FCCLIP(nn.Module):
    """Image -> masks with two embeddings each; `inference/classification.py` compares them with text embeddings.

    Attributes:
        config: Architecture of the network.
        vanished_masks: How masks that vanish at stride 32 are pooled, one of `VANISHED_MASKS`.
    """

    def __init__(self, config: ModelConfig, vanished_masks: str = PUBLISHED) -> None:
        """Builds an untrained network; `checkpoints.load_model` fills one."""
        super().__init__()
        self.config = config
        self.vanished_masks = vanished_masks
        self.backbone = build_backbone(config)
        self.pixel_decoder = build_pixel_decoder(config)
        self.mask_decoder = build_mask_decoder(config)
        self.void_embedding = nn.Embedding(1, config.embed_dim)
        self.clip_logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        self._pooled_cells = POOLED_CELLS[vanished_masks]

    def forward(self, image: Tensor) -> ModelOutput:
        """Runs the network.

        Args:
            image: `(B, 3, h, w)`, normalized with CLIP's mean and deviation, then padded; h and w divisible by 32.

        Returns:
            Masks and their embeddings.
        """
        features = self.backbone(image)
        pixels = self.pixel_decoder(features)
        prediction = self.mask_decoder(pixels)
        logits = F.interpolate(
            prediction.mask_logits, size=features.res5.shape[-2:], mode="bilinear", align_corners=False
        )
        return ModelOutput(
            mask_logits=prediction.mask_logits,
            in_vocab_embedding=prediction.in_vocab_embedding,
            out_vocab_embedding=self.backbone.embed_masks(features.res5, self._pooled_cells(logits)),
            mask_survives=logits.flatten(2).amax(-1) > 0,
        )

    def predictions(self, image: Tensor) -> tuple[MaskPrediction, ...] | tuple[KMeansPrediction, ...]:
        """The predictions of all decoder depths, for the training loss, without CLIP's classifier (section 3.2).

        Args:
            image: As for `forward`.

        Returns:
            Masked attention: one prediction before the first decoder layer and one after each; the last one equals that
            of `forward`. k-means: one of each layer and a last one, whose mask logits are those before the softmax.
        """
        features = self.backbone(image)
        # The published training keeps the pixel decoder in full precision under autocast.
        with torch.autocast(image.device.type, enabled=False):
            pixels = self.pixel_decoder(
                FeaturePyramid(*(x.float() for x in (features.res2, features.res3, features.res4, features.res5)))
            )
        return self.mask_decoder.predictions(pixels)
