"""Builds the decoders that a configuration names."""

from __future__ import annotations

from fcclip_core.model.axial_pixel_decoder import AxialPixelDecoder
from fcclip_core.model.config import ModelConfig
from fcclip_core.model.decoder_config import DeformablePixelDecoderConfig, MaskedAttentionDecoderConfig
from fcclip_core.model.kmeans_decoder import KMeansDecoder
from fcclip_core.model.mask_decoder import MaskDecoder
from fcclip_core.model.pixel_decoder import PixelDecoder


def build_pixel_decoder(config: ModelConfig) -> PixelDecoder | AxialPixelDecoder:
    """An untrained pixel decoder of the kind of `config.pixel_decoder`."""
    if isinstance(config.pixel_decoder, DeformablePixelDecoderConfig):
        return PixelDecoder(config.pixel_decoder, config.vision.channels)
    return AxialPixelDecoder(config.pixel_decoder, config.vision.channels)


def build_mask_decoder(config: ModelConfig) -> MaskDecoder | KMeansDecoder:
    """An untrained mask decoder of the kind of `config.mask_decoder`."""
    if isinstance(config.mask_decoder, MaskedAttentionDecoderConfig):
        return MaskDecoder(config.mask_decoder, config.embed_dim)
    return KMeansDecoder(config.mask_decoder, config.pixel_decoder.channels, config.embed_dim)
