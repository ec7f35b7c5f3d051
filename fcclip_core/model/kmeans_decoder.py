"""k-means mask decoder: queries are cluster centers of pixels (Yu et al., "k-means Mask Transformer", 2022).

FC-CLIP's authors report results with this decoder (Table 11), but published neither its code nor its weights. The
masks follow kMaX-DeepLab to the letter. The class branch, which replaces kMaX's classifier for fixed classes, is our
choice, made after FC-CLIP's own: the mean pixel feature of the pixels that a query owns, projected, plus the query's
class embedding, goes through an MLP into CLIP's space. All depths share this branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcclip_core.model.backbone import Pool, mask_pool
from fcclip_core.model.conv_norm import ConvNormGelu1d
from fcclip_core.model.decoder_config import KMeansDecoderConfig
from fcclip_core.model.kmeans_layer import KMeansLayer, MaskPredictor, owned_pixels
from fcclip_core.model.mask_decoder import MLP, MaskPrediction
from fcclip_core.model.pixel_decoder import NUM_LEVELS, PixelDecoderOutput
from fcclip_core.model.precision import at_least_float32


@dataclass(frozen=True)
class KMeansPrediction:
    """The prediction of the queries at one decoder depth.

    Attributes:
        mask_logits: `(B, Q, h, w)`; their softmax over the queries is each query's share of a pixel.
        pixel_features: `(B, C, h, w)`, unit length where not resized.
        in_vocab_embedding: `(B, Q, D)` in CLIP's joint space, not normalized.
    """

    mask_logits: Tensor
    pixel_features: Tensor
    in_vocab_embedding: Tensor


def share_logits(logits: Tensor) -> Tensor:
    """The logits of the shares: `sigmoid(share_logits(x)) == x.softmax(1)`, exact also near shares of 0 and 1.

    Args:
        logits: `(B, Q, H, W)`, two queries or more.

    Returns:
        `(B, Q, H, W)`: each logit minus the logarithm of the summed exponentials of all others.
    """
    wide = at_least_float32(logits)
    is_top = owned_pixels(wide)
    peak = wide.amax(1, keepdim=True)
    powers = (wide - peak).exp()
    # Without the largest summand the others' sum has no digits left; so it is summed anew without that one.
    second = torch.where(is_top, torch.finfo(torch.float32).min / 2, wide).amax(1, keepdim=True)
    rest = torch.where(is_top, 0.0, (wide - second).clamp(max=0).exp()).sum(1, keepdim=True)
    others = torch.where(is_top, 1.0, powers.sum(1, keepdim=True) - powers)
    total = torch.where(is_top, second + rest.log(), peak + others.log())
    return (wide - total).to(logits.dtype)


class KMeansDecoder(nn.Module):
    """Cluster centers -> masks that share out each pixel, and in-vocabulary embeddings.

    Layers work at strides 32, 16 and 8, `KMeansDecoderConfig.layers` at each, in this order; a last predictor reads the
    map of stride 4.

    Attributes:
        pool: Implementation of mask pooling; a backend may replace it.
    """

    def __init__(self, config: KMeansDecoderConfig, channels: Sequence[int], embed_dim: int) -> None:
        """Builds the layers for pixel maps of `channels` at strides 32, 16, 8 and 4."""
        super().__init__()
        dim = config.dim
        *coarse, finest = channels
        self.centers = nn.Embedding(dim, config.queries)
        self.kmeans_layers = nn.ModuleList(
            KMeansLayer(config, coarse[level]) for level in range(NUM_LEVELS) for _ in range(config.layers)
        )
        self.class_projection = ConvNormGelu1d(dim, dim)
        self.mask_projection = ConvNormGelu1d(dim, dim)
        self.predictor = MaskPredictor(finest, dim, config.feature_dim)
        self.mask_pooling_proj = nn.Sequential(nn.LayerNorm(config.feature_dim), nn.Linear(config.feature_dim, dim))
        self.class_embed = MLP(dim, embed_dim)
        self.pool: Pool = mask_pool
        # Learned logit scale of the in-vocabulary classifier, initialized as in CLIP: 1 / 0.07.
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        self._layers_per_level = config.layers

    def forward(self, pixels: PixelDecoderOutput) -> MaskPrediction:
        """Runs all layers; `mask_logits` are `share_logits`, so their sigmoid is the query's share of a pixel."""
        queries, _ = self._run(pixels)
        last = self._last(queries, pixels)
        return MaskPrediction(share_logits(last.mask_logits), last.in_vocab_embedding)

    def predictions(self, pixels: PixelDecoderOutput) -> tuple[KMeansPrediction, ...]:
        """The predictions of every layer, resized to the last one's size, and the last one, for the training loss."""
        queries, found = self._run(pixels)
        last = self._last(queries, pixels)
        return (*(_resized(self._classified(*item), last.mask_logits.shape[-2:]) for item in found), last)

    def _run(self, pixels: PixelDecoderOutput) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
        """The queries `(B, C, Q)` after all layers, and each layer's logits, pixel features and class embedding."""
        queries = self.centers.weight.expand(pixels.mask_features.shape[0], -1, -1)
        found = []
        for index, layer in enumerate(self.kmeans_layers):
            queries, *prediction = layer(queries, pixels.levels[index // self._layers_per_level])
            found.append(prediction)
        return queries, found

    def _last(self, queries: Tensor, pixels: PixelDecoderOutput) -> KMeansPrediction:
        """The prediction on the map of stride 4."""
        logits, features = self.predictor(pixels.mask_features, self.mask_projection(queries))
        return self._classified(logits, features, self.class_projection(queries))

    def _classified(self, logits: Tensor, features: Tensor, embedding: Tensor) -> KMeansPrediction:
        """Adds the class branch, which reads `embedding` `(B, C, Q)` and the features of the owned pixels."""
        pooled = self.pool(features, owned_pixels(logits.detach())).to(embedding.dtype)
        state = self.mask_pooling_proj(pooled) + embedding.transpose(1, 2)
        return KMeansPrediction(logits, features, self.class_embed(state))


def _resized(item: KMeansPrediction, size: torch.Size) -> KMeansPrediction:
    corners = size[0] % 2 == 1  # as kMaX-DeepLab decides it

    def resize(x: Tensor) -> Tensor:
        return F.interpolate(x, size=size, mode="bilinear", align_corners=corners)

    return replace(item, mask_logits=resize(item.mask_logits), pixel_features=resize(item.pixel_features))
