"""CLIP's convolutional image towers and their pooled heads, as the published code calls them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fcclip_core.model.config import ConvNeXtConfig, ModelConfig, ResNetConfig
from oracle.trace import Trace
from oracle.weights import Weights

LEVELS = ("res2", "res3", "res4", "res5")
CONVNEXT_EPS = 1e-6


def features(weights: Weights, config: ModelConfig, image: torch.Tensor, trace: Trace) -> dict[str, torch.Tensor]:
    """Stem and stages of the frozen tower, each copied to a contiguous tensor; `clip_vis_dense` is the last one."""
    visual = weights.under("backbone.clip_model.visual")
    if isinstance(config.vision, ConvNeXtConfig):
        result = _convnext(visual.under("trunk"), config.vision, image)
    else:
        result = _resnet(visual, config.vision, image)
    result["clip_vis_dense"] = result["res5"].contiguous()
    for name, tensor in result.items():
        trace.note(f"feat.{name}", tensor)
    return result


def _convnext(trunk: Weights, config: ConvNeXtConfig, x: torch.Tensor) -> dict[str, torch.Tensor]:
    x = _channel_norm(trunk.under("stem.1"), trunk.under("stem.0").conv(x, stride=4))
    result = {"stem": x.contiguous()}
    for index, (level, depth) in enumerate(zip(LEVELS, config.depths, strict=True)):
        stage = trunk.under(f"stages.{index}")
        if index > 0:
            x = stage.under("downsample.1").conv(_channel_norm(stage.under("downsample.0"), x), stride=2)
        for block in range(depth):
            x = _convnext_block(stage.under(f"blocks.{block}"), x)
        result[level] = x.contiguous()
    return result


def _convnext_block(block: Weights, x: torch.Tensor) -> torch.Tensor:
    shortcut = x
    x = block.under("conv_dw").conv(x, padding=3, groups=x.shape[1]).permute(0, 2, 3, 1)
    x = block.under("norm").layer_norm(x, CONVNEXT_EPS)
    x = block.under("mlp.fc2").linear(F.gelu(block.under("mlp.fc1").linear(x)))
    return x.permute(0, 3, 1, 2) * block["gamma"].reshape(1, -1, 1, 1) + shortcut


def _channel_norm(norm: Weights, x: torch.Tensor) -> torch.Tensor:
    return norm.layer_norm(x.permute(0, 2, 3, 1), CONVNEXT_EPS).permute(0, 3, 1, 2)


def _resnet(visual: Weights, config: ResNetConfig, x: torch.Tensor) -> dict[str, torch.Tensor]:
    for index, stride in ((1, 2), (2, 1), (3, 1)):
        x = visual.under(f"conv{index}").conv(x, stride=stride, padding=1)
        x = F.relu(visual.under(f"bn{index}").batch_norm(x))
    result = {"stem": x.contiguous()}
    x = F.avg_pool2d(x, 2)
    for index, (level, depth) in enumerate(zip(LEVELS, config.layers, strict=True), start=1):
        for block in range(depth):
            stride = 2 if index > 1 and block == 0 else 1
            x = _bottleneck(visual.under(f"layer{index}.{block}"), x, stride)
        result[level] = x.contiguous()
    return result


def _bottleneck(block: Weights, x: torch.Tensor, stride: int) -> torch.Tensor:
    shortcut = x
    if "downsample.0.weight" in block:
        shortcut = F.avg_pool2d(x, stride) if stride > 1 else x
        shortcut = block.under("downsample.1").batch_norm(block.under("downsample.0").conv(shortcut))
    x = F.relu(block.under("bn1").batch_norm(block.under("conv1").conv(x)))
    x = F.relu(block.under("bn2").batch_norm(block.under("conv2").conv(x, padding=1)))
    x = F.avg_pool2d(x, stride) if stride > 1 else x
    x = block.under("bn3").batch_norm(block.under("conv3").conv(x))
    return F.relu(x + shortcut)


def convnext_head(weights: Weights, pooled: torch.Tensor) -> torch.Tensor:
    """Projects pooled ConvNeXt features (B, Q, C) into CLIP's joint space (B, Q, D)."""
    visual = weights.under("backbone.clip_model.visual")
    x = visual.under("trunk.head.norm").layer_norm(pooled, CONVNEXT_EPS)
    if "head.proj.weight" in visual:
        return visual.under("head.proj").linear(x)
    return visual.under("head.mlp.fc2").linear(F.gelu(visual.under("head.mlp.fc1").linear(x)))


def resnet_head(weights: Weights, config: ResNetConfig, dense: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """CLIP's attention pool, once per mask: positions outside the mask are blocked.

    Args:
        weights: The checkpoint.
        config: The tower.
        dense: (B, C, H, W), last stage.
        masks: (B, Q, H, W) logits.

    Returns:
        (B, Q, D) embeddings.
    """
    pool = weights.under("backbone.clip_model.visual.attnpool")
    batch, channels, height, width = dense.shape
    queries = masks.shape[1]
    position = pool["positional_embedding"]
    side = round((len(position) - 1) ** 0.5)
    grid = position[1:].T.reshape(1, channels, side, side)
    grid = F.interpolate(grid, size=(height, width), mode="bilinear", align_corners=False)
    tokens = dense.flatten(2).permute(2, 0, 1)
    keys = tokens + grid.flatten(2).permute(2, 0, 1)
    query = (tokens.mean(0, keepdim=True) + position[:1, None, :]).repeat_interleave(queries, dim=0)
    blocked = (masks > 0).to(masks.dtype).flatten(2) < 0.5
    blocked = blocked.unsqueeze(1).expand(-1, config.heads, -1, -1).reshape(batch * config.heads, queries, -1)
    attended, _ = F.multi_head_attention_forward(
        query,
        keys,
        keys,
        channels,
        config.heads,
        in_proj_weight=None,
        in_proj_bias=torch.cat([pool[f"{name}_proj.bias"] for name in "qkv"]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=pool["c_proj.weight"],
        out_proj_bias=pool["c_proj.bias"],
        training=False,
        need_weights=False,
        attn_mask=blocked,
        use_separate_proj_weight=True,
        q_proj_weight=pool["q_proj.weight"],
        k_proj_weight=pool["k_proj.weight"],
        v_proj_weight=pool["v_proj.weight"],
    )
    return attended.permute(1, 0, 2)
