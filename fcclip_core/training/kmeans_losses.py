"""The loss of kMaX-DeepLab: classes, mask shares, dice and pixel features of all depths (Yu et al., 2022).

Without the auxiliary semantic head: with frozen image features its removal leaves every other gradient as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fcclip_core.training.config import KMeansLossConfig
from fcclip_core.training.kmeans_matching import Assignment, ImageTargets, assign, image_targets
from fcclip_core.training.losses import Losses
from fcclip_core.training.matching import LayerPrediction, Targets

_LEAST_WEIGHT = 1e-5
_OBJECT_SHARE = 0.75
"""Weight of objects in class and dice loss; the rest is void's."""
_NEVER = 99_999.0
"""Subtracted from the rank of pixels that should not be sampled."""
_FEATURE_TEMPERATURE = 0.3


@dataclass(frozen=True)
class KMeansLayerPrediction(LayerPrediction):
    """The prediction of one depth.

    Attributes:
        mask_logits: `(B, Q, h, w)`; a query's share of a pixel is the softmax over queries.
        class_logits: float32 `(B, Q, C+1)`, void last.
        pixel_features: `(B, F, h, w)`, unit length at the depth's own size.
    """

    pixel_features: Tensor


@dataclass(frozen=True)
class KMeansLosses(Losses):
    """As `Losses`, with one more term of each depth.

    Attributes:
        pixels: Pixel instance discrimination, `(L,)`.
    """

    pixels: Tensor

    @property
    def last(self) -> dict[str, Tensor]:
        """The last depth's terms by the name that the log gives them."""
        return {**super().last, "pixel": self.pixels[-1]}


class NoiseSource(Protocol):
    """Where the sampling of pixels gets its random numbers."""

    def uniform(self, layer: int, pixels: int) -> Tensor:
        """float32 `(B, pixels)`, 0 to 1, for a decoder depth counted from 0."""


class RandomNoise:
    """Random numbers of image i from `generators[i]`, so that they do not depend on the other images."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        """Takes one generator per image."""
        self._generators = generators

    def uniform(self, layer: int, pixels: int) -> Tensor:
        """See `NoiseSource`; the numbers depend on the order of calls."""
        return torch.stack([torch.rand(pixels, generator=one, device=one.device) for one in self._generators])


class KMeansCriterion:
    """Matches queries with segments and computes the loss.

    Every term is a mean over images, so that averaging gradients over workers gives the gradient of all images.
    """

    def __init__(self, config: KMeansLossConfig) -> None:
        """`config` has the weights of the terms and the number of sampled pixels."""
        self.config = config

    def __call__(
        self, predictions: Sequence[KMeansLayerPrediction], targets: Targets, noise: NoiseSource
    ) -> KMeansLosses:
        """Computes the loss of a batch.

        Args:
            predictions: One per decoder depth; the last is the model's prediction, and its masks are the largest.
            targets: The ground truth.
            noise: Decides which pixels are compared.

        Raises:
            TrainingError: A prediction is not finite.
        """
        return self.of_images(predictions, image_targets(targets), noise)

    def of_images(
        self, predictions: Sequence[KMeansLayerPrediction], targets: Sequence[ImageTargets], noise: NoiseSource
    ) -> KMeansLosses:
        """As `__call__`, for targets at the size of the masks."""
        final = predictions[-1]
        wanted = [
            _Wanted.of(mask_logits, class_logits, truth, found)
            for mask_logits, class_logits, truth, found in zip(
                final.mask_logits, final.class_logits, targets, assign(final, targets), strict=True
            )
        ]
        depths = [self._depth(layer, item, wanted, noise) for layer, item in enumerate(predictions)]
        classes, masks, dice, pixels = (torch.stack(terms) for terms in zip(*depths, strict=True))
        config = self.config
        total = config.class_weight * classes + config.mask_weight * masks + config.dice_weight * dice
        return KMeansLosses(classes, masks, dice, (total + config.pixel_weight * pixels).sum(), pixels)

    def _depth(
        self, layer: int, prediction: KMeansLayerPrediction, wanted: Sequence[_Wanted], noise: NoiseSource
    ) -> tuple[Tensor, ...]:
        """The four terms of one depth."""
        size = wanted[0].void.shape
        mask_logits, features = (_resized(x, size) for x in (prediction.mask_logits, prediction.pixel_features))
        random = noise.uniform(layer, size[0] * size[1])
        images = [
            (
                _class_loss(prediction.class_logits[image].float(), truth),
                *_mask_losses(mask_logits[image].flatten(1), truth),
                self._pixel_loss(features[image].flatten(1), truth, random[image]),
            )
            for image, truth in enumerate(wanted)
        ]
        return tuple(torch.stack(terms).mean() for terms in zip(*images, strict=True))

    def _pixel_loss(self, features: Tensor, wanted: _Wanted, random: Tensor) -> Tensor:
        """Contrastive loss of pixel features `(F, h * w)`: pixels of one segment should be alike."""
        with torch.no_grad():
            chosen = self.sampled_pixels(wanted.masks, random)
            masks = wanted.masks[:, chosen]
            alike = masks.T @ masks
            alike = alike / alike.sum(0, keepdim=True).clamp(min=1)
        chosen_features = features[:, chosen]
        logits = chosen_features.T @ chosen_features / _FEATURE_TEMPERATURE
        return _mean_of_nonzero(-(alike * logits.log_softmax(0)).sum(0))

    def sampled_pixels(self, masks: Tensor, random: Tensor) -> Tensor:
        """Indices of the pixels to compare, int64 `(K,)`: by chance, those of small segments rather.

        Args:
            masks: float32 `(T, h * w)`.
            random: `(h * w,)`, 0 to 1.
        """
        area = (masks * masks.sum(1, keepdim=True)).sum(0)
        inverse = len(random) / area.clamp(min=1)
        void = masks.sum(0) == 0
        rank = self.config.area_exponent * inverse.log() - _NEVER * void - (-random.log()).log()
        return rank.topk(min(self.config.sampled_pixels, len(random))).indices


@dataclass(frozen=True)
class _Wanted:
    """What one image's predictions are compared with, without gradient.

    Attributes:
        labels: int64 `(Q,)`, the class of each query's segment, else void.
        class_weights: float32 `(Q,)`.
        dice_weights: float32 `(Q,)`, 0 for queries without a segment.
        query_masks: float32 `(Q, h * w)`, the mask of each query's segment.
        masks: float32 `(T, h * w)`, the masks of all segments.
        void: bool `(h, w)`.
    """

    labels: Tensor
    class_weights: Tensor
    dice_weights: Tensor
    query_masks: Tensor
    masks: Tensor
    void: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, mask_logits: Tensor, class_logits: Tensor, truth: ImageTargets, found: Assignment) -> _Wanted:
        """From the last depth's prediction: what is matched well counts more, in class loss and dice loss."""
        void, masks = truth.void, truth.masks.flatten(1)
        shares = mask_logits.float().softmax(0).flatten(1)
        queries, segments = (x.to(masks.device) for x in (found.match.queries, found.match.segments))
        labels = torch.full((len(class_logits),), class_logits.shape[-1] - 1, device=masks.device)
        labels[queries] = truth.labels[segments]
        class_weights = (shares * void.flatten()).sum(1) / (shares.sum(1) + 1e-5)
        class_weights[queries] = found.dice
        dice_weights = torch.zeros_like(class_weights)
        dice_weights[queries] = found.probability.clamp(min=_LEAST_WEIGHT)
        query_masks = torch.zeros_like(shares)
        query_masks[queries] = masks[segments]
        return cls(labels, class_weights.clamp(min=_LEAST_WEIGHT), dice_weights, query_masks, masks, void)


def _class_loss(class_logits: Tensor, wanted: _Wanted) -> Tensor:
    void = class_logits.shape[-1] - 1
    side = torch.where(wanted.labels == void, 1 - _OBJECT_SHARE, _OBJECT_SHARE)
    losses = F.cross_entropy(class_logits, wanted.labels, reduction="none")
    return _mean_of_nonzero(losses * side * wanted.class_weights)


def _mask_losses(mask_logits: Tensor, wanted: _Wanted) -> tuple[Tensor, Tensor]:
    """Cross-entropy over queries of each pixel, and dice loss, of one image's logits `(Q, h * w)`."""
    logarithms = mask_logits.log_softmax(0)
    cross_entropy = _mean_of_nonzero(-(wanted.query_masks * logarithms).sum(0))
    shares = logarithms.exp() * ~wanted.void.flatten()
    overlap = 2 * (shares * wanted.query_masks).sum(1) + 1
    dice = 1 - overlap / (shares.sum(1) + wanted.query_masks.sum(1) + 1)
    return cross_entropy, (dice * wanted.dice_weights).sum() * _OBJECT_SHARE / len(mask_logits)


def _mean_of_nonzero(losses: Tensor) -> Tensor:
    return losses.sum() / (losses != 0).sum().clamp(min=1)


def _resized(maps: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """`(B, C, h, w)` in float32 at another size; corners are aligned where the height is odd, as the authors do."""
    maps = maps.float()
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=bool(size[0] % 2))
