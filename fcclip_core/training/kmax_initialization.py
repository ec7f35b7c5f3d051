"""Initial weights of kMaX's decoders, as in kMaX-DeepLab.

Branches start at zero, so at first each block passes its input on; masks start nearly equal for all queries.
"""

from __future__ import annotations

from torch import nn

from fcclip_core.model.axial_attention import AxisAttention
from fcclip_core.model.axial_pixel_decoder import AxialBlock, AxialPixelDecoder, BottleneckBlock
from fcclip_core.model.conv_norm import ConvNorm1d, ConvNorm2d
from fcclip_core.model.kmeans_decoder import KMeansDecoder
from fcclip_core.model.kmeans_layer import KMeansLayer, MaskPredictor, QueryAttention

_FEATURE_STD = 0.01
_MASK_WEIGHT = 0.1


def initialize_kmax(part: AxialPixelDecoder | KMeansDecoder) -> None:
    """Initializes one decoder in place, from torch's generator; FC-CLIP's class branch keeps torch's weights."""
    for module in part.modules():
        if isinstance(module, ConvNorm1d | ConvNorm2d):
            _cut_normal(module.conv, (2 / module.conv.in_channels) ** 0.5)
            if module.conv.bias is not None:
                nn.init.zeros_(module.conv.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=1.0, a=-2.0, b=2.0)
    # Only now, because a parent comes before its children.
    for module in part.modules():
        if isinstance(module, AxialBlock | BottleneckBlock):
            nn.init.zeros_(module.conv3.norm.weight)
        elif isinstance(module, AxisAttention | QueryAttention):
            _cut_normal(module.qkv.conv, module.qkv.conv.in_channels**-0.5)
        elif isinstance(module, KMeansLayer):
            _cut_normal(module.value.conv, module.value.conv.in_channels**-0.5)
            for last in (module.update, module.attention_out, module.contract):
                nn.init.zeros_(last.norm.weight)
        elif isinstance(module, MaskPredictor):
            nn.init.xavier_uniform_(module.depthwise.conv.weight)
            _cut_normal(module.reduce.conv, _FEATURE_STD)
            nn.init.constant_(module.mask_norm.weight, _MASK_WEIGHT)


def _cut_normal(conv: nn.Conv1d | nn.Conv2d, deviation: float) -> None:
    """Normal values cut at two nominal deviations, which leaves 0.88 of the nominal one."""
    nn.init.trunc_normal_(conv.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
