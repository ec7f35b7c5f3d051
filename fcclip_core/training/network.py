"""The network for training: images in, predictions of all decoder depths for the training classes out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcclip_core.inference.classification import MAX_LOGIT_SCALE, TextClassifier
from fcclip_core.inference.preprocess import PIXEL_MEAN, PIXEL_STD
from fcclip_core.model.fcclip import FCCLIP
from fcclip_core.model.kmeans_decoder import KMeansPrediction
from fcclip_core.model.mask_decoder import MaskPrediction
from fcclip_core.training.kmeans_losses import KMeansLayerPrediction
from fcclip_core.training.matching import LayerPrediction


class TrainingNetwork(nn.Module):
    """`FCCLIP` with the fixed text embeddings of the training classes."""

    mean: Tensor
    deviation: Tensor
    rows: Tensor
    class_of_row: Tensor

    def __init__(self, model: FCCLIP, rows: Tensor, synonym_counts: tuple[int, ...]) -> None:
        """Wraps `model`; its trainable parameters are unchanged.

        Args:
            model: The network.
            rows: Unit text embeddings `(T, D)`, one per synonym, grouped by class.
            synonym_counts: Rows of each class; sums to T.
        """
        super().__init__()
        self.model = model
        self.classes = len(synonym_counts)
        class_of_row = torch.arange(self.classes).repeat_interleave(torch.tensor(synonym_counts))
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN).view(-1, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(PIXEL_STD).view(-1, 1, 1), persistent=False)
        self.register_buffer("rows", rows.float(), persistent=False)
        self.register_buffer("class_of_row", class_of_row, persistent=False)

    def forward(self, images: Tensor) -> list[LayerPrediction]:
        """`images` uint8 `(B, 3, H, W)`, sides divisible by 32 -> one prediction per decoder depth, in order."""
        predictions = self.model.predictions((images.float() - self.mean) / self.deviation)
        # Rebuilt in every step, because void embedding and logit scale are trained.
        with torch.autocast(images.device.type, enabled=False):
            classifier = self._classifier()
            return [
                _with_classes(item, self._class_logits(classifier, item.in_vocab_embedding)) for item in predictions
            ]

    def _classifier(self) -> TextClassifier:
        scale = self.model.mask_decoder.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)
        return TextClassifier(
            rows=self.rows,
            void=F.normalize(self.model.void_embedding.weight.float(), dim=-1),
            class_of_row=self.class_of_row,
            seen=torch.ones(self.classes, dtype=torch.bool, device=self.rows.device),
            in_vocab_scale=scale,
            out_vocab_scale=scale,
        )

    @staticmethod
    def _class_logits(classifier: TextClassifier, embeddings: Tensor) -> Tensor:
        """`(B, Q, D)` -> `(B, Q, C+1)`, void last."""
        logits = classifier.logits(embeddings, classifier.in_vocab_scale)
        return torch.cat((logits, classifier.void_logits(embeddings)), dim=-1)


def _with_classes(item: MaskPrediction | KMeansPrediction, class_logits: Tensor) -> LayerPrediction:
    if isinstance(item, KMeansPrediction):
        return KMeansLayerPrediction(item.mask_logits, class_logits, item.pixel_features)
    return LayerPrediction(item.mask_logits, class_logits)
