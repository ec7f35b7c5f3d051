"""Configurations of the decoders: one frozen dataclass for each kind of pixel decoder and of mask decoder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DeformablePixelDecoderConfig:
    """Deformable attention over strides 32, 16 and 8, then one step to stride 4 (Mask2Former).

    Attributes:
        dim: Channels of every output.
        heads: Attention heads.
        layers: Deformable attention layers.
        points: Sampling points per head and level.
        ffn_dim: Hidden channels of the feed-forward blocks.
    """

    dim: int = 256
    heads: int = 8
    layers: int = 6
    points: int = 4
    ffn_dim: int = 1024

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels at strides 32, 16, 8 and 4."""
        return (self.dim, self.dim, self.dim, self.dim)


@dataclass(frozen=True)
class AxialPixelDecoderConfig:
    """Axial attention at strides 32 and 16, bottleneck blocks at strides 8 and 4 (kMaX-DeepLab).

    Attributes:
        widths: Base width of each stage, at strides 32, 16, 8 and 4; a stage has four times as many output channels.
        blocks: Residual blocks of each stage.
        heads: Attention heads; the first two widths are multiples of it.
    """

    widths: tuple[int, int, int, int] = (512, 256, 128, 64)
    blocks: tuple[int, int, int, int] = (1, 5, 1, 1)
    heads: int = 8

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels at strides 32, 16, 8 and 4."""
        first, second, third, fourth = self.widths
        return (4 * first, 4 * second, 4 * third, 4 * fourth)


@dataclass(frozen=True)
class MaskedAttentionDecoderConfig:
    """Queries that attend to the image inside their masks (Mask2Former).

    Attributes:
        dim: Channels of a query; the pixel decoder has as many at every stride.
        heads: Attention heads.
        layers: Masked-attention layers.
        ffn_dim: Hidden channels of the feed-forward blocks.
        queries: Object queries.
    """

    dim: int = 256
    heads: int = 8
    layers: int = 9
    ffn_dim: int = 2048
    queries: int = 250


@dataclass(frozen=True)
class KMeansDecoderConfig:
    """Queries that are the centers of clusters of pixels (kMaX-DeepLab).

    Attributes:
        dim: Channels of a query.
        heads: Heads of the attention between queries.
        layers: k-means layers at stride 32, and as many at stride 16 and at stride 8.
        ffn_dim: Hidden channels of the feed-forward blocks.
        feature_dim: Channels of the pixel features whose products with the queries are the masks.
        queries: Object queries.
    """

    dim: int = 256
    heads: int = 8
    layers: int = 2
    ffn_dim: int = 2048
    feature_dim: int = 128
    queries: int = 128


PixelDecoderConfig = DeformablePixelDecoderConfig | AxialPixelDecoderConfig
MaskDecoderConfig = MaskedAttentionDecoderConfig | KMeansDecoderConfig
