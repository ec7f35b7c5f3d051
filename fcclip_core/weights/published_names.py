"""Maps our parameter names to those of the published checkpoints."""

from __future__ import annotations

import re

from fcclip_core.weights.kmax_names import kmax_name

CLIP_PREFIX = "backbone.clip_model."
_PIXEL_DECODER = "sem_seg_head.pixel_decoder."
_PREDICTOR = "sem_seg_head.predictor."
_ENCODER = _PIXEL_DECODER + "transformer.encoder.layers."
_CROSS_ATTENTION = _PREDICTOR + "transformer_cross_attention_layers."
_SELF_ATTENTION = _PREDICTOR + "transformer_self_attention_layers."
_FEED_FORWARD = _PREDICTOR + "transformer_ffn_layers."

# First match wins; `\1` is a layer's index.
_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^backbone\.", CLIP_PREFIX + "visual."),
        (r"^clip_logit_scale$", CLIP_PREFIX + "logit_scale"),
        (r"^pixel_decoder\.level_embed$", _PIXEL_DECODER + "transformer.level_embed"),
        (r"^pixel_decoder\.layers\.(\d+)\.attention\.", _ENCODER + r"\1.self_attn."),
        (r"^pixel_decoder\.layers\.(\d+)\.attention_norm\.", _ENCODER + r"\1.norm1."),
        (r"^pixel_decoder\.layers\.(\d+)\.feed_forward_norm\.", _ENCODER + r"\1.norm2."),
        (r"^pixel_decoder\.layers\.", _ENCODER),
        (r"^pixel_decoder\.lateral\.", _PIXEL_DECODER + "adapter_1."),
        (r"^pixel_decoder\.lateral_norm\.", _PIXEL_DECODER + "adapter_1.norm."),
        (r"^pixel_decoder\.output\.", _PIXEL_DECODER + "layer_1."),
        (r"^pixel_decoder\.output_norm\.", _PIXEL_DECODER + "layer_1.norm."),
        (r"^pixel_decoder\.", _PIXEL_DECODER),
        (r"^mask_decoder\.query_content\.", _PREDICTOR + "query_feat."),
        (r"^mask_decoder\.query_position\.", _PREDICTOR + "query_embed."),
        (r"^mask_decoder\.norm\.", _PREDICTOR + "decoder_norm."),
        (r"^mask_decoder\.mask_pooling_proj\.", _PREDICTOR + "_mask_pooling_proj."),
        (r"^mask_decoder\.layers\.(\d+)\.cross_attention\.", _CROSS_ATTENTION + r"\1.multihead_attn."),
        (r"^mask_decoder\.layers\.(\d+)\.cross_attention_norm\.", _CROSS_ATTENTION + r"\1.norm."),
        (r"^mask_decoder\.layers\.(\d+)\.self_attention\.", _SELF_ATTENTION + r"\1.self_attn."),
        (r"^mask_decoder\.layers\.(\d+)\.self_attention_norm\.", _SELF_ATTENTION + r"\1.norm."),
        (r"^mask_decoder\.layers\.(\d+)\.feed_forward_norm\.", _FEED_FORWARD + r"\1.norm."),
        (r"^mask_decoder\.layers\.(\d+)\.", _FEED_FORWARD + r"\1."),
        (r"^mask_decoder\.", _PREDICTOR),
    )
)


def published_name(name: str) -> str:
    """The published key of our parameter `name`, a key of `FCCLIP.state_dict`."""
    of_kmax = kmax_name(name)
    if of_kmax is not None:
        return of_kmax
    for pattern, replacement in _RULES:
        published, matches = pattern.subn(replacement, name)
        if matches:
            return published
    return name
