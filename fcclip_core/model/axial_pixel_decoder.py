"""kMaX-DeepLab's pixel decoder: axial attention at strides 32 and 16, bottlenecks at 8 and 4 (Yu et al., 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from fcclip_core.model.axial_attention import AxialAttention
from fcclip_core.model.backbone import FeaturePyramid
from fcclip_core.model.conv_norm import ConvNorm2d, ConvNormGelu2d
from fcclip_core.model.decoder_config import AxialPixelDecoderConfig
from fcclip_core.model.pixel_decoder import PixelDecoderOutput

AXIAL_STAGES = 2
"""The first stages, at strides 32 and 16, have axial attention."""


class _Block(nn.Module):
    """Residual block with its activation first; subclasses define the middle of the branch."""

    def __init__(self, channels: int, hidden: int, out: int) -> None:
        super().__init__()
        self.shortcut = ConvNorm2d(channels, out) if channels != out else None
        self.conv1 = ConvNormGelu2d(channels, hidden)
        self.conv3 = ConvNorm2d(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, H, W)` -> `(B, out, H, W)`, not activated."""
        x = F.gelu(x)
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.conv3(self.middle(self.conv1(x))) + shortcut

    def middle(self, x: Tensor) -> Tensor:
        """`(B, hidden, H, W)` -> `(B, hidden, H, W)`."""
        raise NotImplementedError


class AxialBlock(_Block):
    """Residual block with axial attention."""

    def __init__(self, channels: int, width: int, heads: int) -> None:
        """Builds a block `channels` -> `4 * width`."""
        super().__init__(channels, 2 * width, 4 * width)
        self.attention = AxialAttention(2 * width, heads)

    def middle(self, x: Tensor) -> Tensor:
        """Attention, activated."""
        return F.gelu(self.attention(x))


class BottleneckBlock(_Block):
    """Residual block with a 3 x 3 convolution."""

    def __init__(self, channels: int, width: int) -> None:
        """Builds a block `channels` -> `4 * width`."""
        super().__init__(channels, width, 4 * width)
        self.conv2 = ConvNormGelu2d(width, width, 3)

    def middle(self, x: Tensor) -> Tensor:
        """The convolution."""
        return self.conv2(x)


class Fuse(nn.Module):
    """Brings a stage's output to the size of the next input, and adds both in `width` channels."""

    def __init__(self, low: int, high: int, width: int) -> None:
        """Builds the projections from `low` and `high` channels; one that has `width` already is not projected."""
        super().__init__()
        self.low = ConvNorm2d(low, width) if low != width else None
        self.high = ConvNorm2d(high, width) if high != width else None

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """`(B, C, h, w)` and `(B, D, H, W)` -> `(B, width, H, W)`."""
        low = low if self.low is None else self.low(F.gelu(low))
        high = high if self.high is None else self.high(F.gelu(high))
        # The reference decides by the width alone, since its images are square.
        corners = low.shape[-1] % 2 == 1
        return F.interpolate(low, size=high.shape[-2:], mode="bilinear", align_corners=corners) + high


class AxialPixelDecoder(nn.Module):
    """Feature pyramid -> per-pixel features at strides 32, 16, 8 and 4, with `AxialPixelDecoderConfig.channels`."""

    def __init__(self, config: AxialPixelDecoderConfig, channels: Sequence[int]) -> None:
        """Builds the stages; `channels` are those of res2, res3, res4 and res5."""
        super().__init__()
        inputs = tuple(reversed(channels))
        self.in_norms = nn.ModuleList(LayerNorm2d(width, eps=1e-6) for width in inputs)
        self.stages = nn.ModuleList()
        self.fuses = nn.ModuleList()
        for stage, (width, blocks, out) in enumerate(zip(config.widths, config.blocks, config.channels, strict=True)):
            first = width if stage else inputs[0]
            if stage:
                self.fuses.append(Fuse(config.channels[stage - 1], inputs[stage], width))
            sizes = [first] + [out] * (blocks - 1)
            self.stages.append(
                nn.Sequential(
                    *(
                        AxialBlock(size, width, config.heads) if stage < AXIAL_STAGES else BottleneckBlock(size, width)
                        for size in sizes
                    )
                )
            )

    def forward(self, features: FeaturePyramid) -> PixelDecoderOutput:
        """Runs the stages from stride 32 to stride 4; the maps may have any size, but see `AxisAttention`.

        Raises:
            ImageError: A side of the maps at stride 32 or 16 is longer than the relative positions reach.
        """
        maps = (features.res5, features.res4, features.res3, features.res2)
        inputs = [norm(x) for norm, x in zip(self.in_norms, maps, strict=True)]
        first, *stages = self.stages
        outputs = [first(inputs[0])]
        for fuse, stage, x in zip(self.fuses, stages, inputs[1:], strict=True):
            outputs.append(stage(fuse(outputs[-1], x)))
        coarse, middle, fine, finest = outputs
        return PixelDecoderOutput(finest, (coarse, middle, fine))
