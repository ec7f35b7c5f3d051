"""Mask decoder: masked-attention layers with a full prediction head before the first and after each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fcclip_core.model.config import ModelConfig
from oracle.classification import class_logits, mask_pooling
from oracle.pixel_decoder import sine_position
from oracle.trace import Trace
from oracle.weights import Weights


@dataclass(frozen=True)
class TextClassifier:
    """Rows of a vocabulary with the void row last.

    Attributes:
        rows: (synonyms + 1, D) unit rows.
        synonym_counts: Synonyms of each class.
    """

    rows: torch.Tensor
    synonym_counts: tuple[int, ...]


def decode_masks(
    weights: Weights,
    config: ModelConfig,
    levels: list[torch.Tensor],
    mask_features: torch.Tensor,
    text: TextClassifier,
    trace: Trace,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Levels (stride 32 first) and mask features -> class logits (B, Q, C+1) and mask logits (B, Q, h/4, w/4)."""
    decoder = weights.under("sem_seg_head.predictor")
    batch = mask_features.shape[0]
    sizes = [(int(level.shape[-2]), int(level.shape[-1])) for level in levels]
    positions = [sine_position(level, config.mask_decoder.dim).flatten(2).permute(2, 0, 1) for level in levels]
    memories = [
        (level.flatten(2) + decoder["level_embed.weight"][index][None, :, None]).permute(2, 0, 1)
        for index, level in enumerate(levels)
    ]
    query_position = decoder["query_embed.weight"].unsqueeze(1).repeat(1, batch, 1)
    state = decoder["query_feat.weight"].unsqueeze(1).repeat(1, batch, 1)

    # The published code holds the predictions of all heads until the end.
    predictions = [_prediction_head(decoder, config, state, mask_features, sizes[0], text, 0, trace)]
    for index in range(config.mask_decoder.layers):
        level = index % 3
        blocked = predictions[-1][2]
        blocked[torch.where(blocked.sum(-1) == blocked.shape[-1])] = False
        state = _cross_attention(
            decoder.under(f"transformer_cross_attention_layers.{index}"),
            config,
            state,
            query_position,
            memories[level],
            positions[level],
            blocked,
        )
        trace.note(f"dec.{index}.cross", state)
        state = _self_attention(
            decoder.under(f"transformer_self_attention_layers.{index}"), config, state, query_position
        )
        trace.note(f"dec.{index}.self", state)
        state = trace.note(f"dec.{index}.ffn", _ffn(decoder.under(f"transformer_ffn_layers.{index}"), state))
        size = sizes[(index + 1) % 3]
        predictions.append(_prediction_head(decoder, config, state, mask_features, size, text, index + 1, trace))
    return predictions[-1][0], predictions[-1][1]


def _prediction_head(
    decoder: Weights,
    config: ModelConfig,
    state: torch.Tensor,
    mask_features: torch.Tensor,
    size: tuple[int, int],
    text: TextClassifier,
    index: int,
    trace: Trace,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Class logits, mask logits, and what the next layer's cross-attention must not look at (B*heads, Q, h*w)."""
    with trace.stage("prediction heads"):
        normed = decoder.under("decoder_norm").layer_norm(state).transpose(0, 1)
        mask_embedding = trace.note("cls.mask_embed", _mlp(decoder.under("mask_embed"), normed))
        masks = torch.einsum("bqc,bchw->bqhw", mask_embedding, mask_features)
        trace.note(f"dec.head.{index}.masks", masks)
        with trace.stage("mask pooling"):
            pooled = trace.note("cls.in_pooled", mask_pooling(mask_features, masks))
        projection = decoder.under("_mask_pooling_proj")
        pooled = projection.under("1").linear(projection.under("0").layer_norm(pooled))
        embedding = trace.note("cls.in_embed", _mlp(decoder.under("class_embed"), pooled + normed))
        logits = class_logits(embedding, text.rows, decoder["logit_scale"], text.synonym_counts)
        trace.note(f"dec.head.{index}.logits", logits)

        resized = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
        probability = resized.sigmoid().flatten(2)
        blocked = probability.unsqueeze(1).repeat(1, config.mask_decoder.heads, 1, 1).flatten(0, 1) < 0.5
        if trace.keep:
            trace.note(f"dec.head.{index}.blocked", (probability[0] < 0.5).sum(-1))
    return logits, masks, blocked


def _mlp(mlp: Weights, x: torch.Tensor) -> torch.Tensor:
    x = F.relu(mlp.under("layers.0").linear(x))
    x = F.relu(mlp.under("layers.1").linear(x))
    return mlp.under("layers.2").linear(x)


def _cross_attention(
    layer: Weights,
    config: ModelConfig,
    state: torch.Tensor,
    query_position: torch.Tensor,
    memory: torch.Tensor,
    position: torch.Tensor,
    blocked: torch.Tensor,
) -> torch.Tensor:
    attended = _attention(
        layer.under("multihead_attn"), config, state + query_position, memory + position, memory, blocked
    )
    return layer.under("norm").layer_norm(state + attended)


def _self_attention(
    layer: Weights, config: ModelConfig, state: torch.Tensor, query_position: torch.Tensor
) -> torch.Tensor:
    placed = state + query_position
    attended = _attention(layer.under("self_attn"), config, placed, placed, state, None)
    return layer.under("norm").layer_norm(state + attended)


def _ffn(layer: Weights, state: torch.Tensor) -> torch.Tensor:
    hidden = layer.under("linear2").linear(F.relu(layer.under("linear1").linear(state)))
    return layer.under("norm").layer_norm(state + hidden)


def _attention(
    attention: Weights,
    config: ModelConfig,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    blocked: torch.Tensor | None,
) -> torch.Tensor:
    """torch's multi-head attention as `nn.MultiheadAttention` calls it by default: with averaged weights returned."""
    attended, _ = F.multi_head_attention_forward(
        query,
        key,
        value,
        config.mask_decoder.dim,
        config.mask_decoder.heads,
        attention["in_proj_weight"],
        attention["in_proj_bias"],
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=attention["out_proj.weight"],
        out_proj_bias=attention["out_proj.bias"],
        training=False,
        need_weights=True,
        attn_mask=blocked,
    )
    return attended
