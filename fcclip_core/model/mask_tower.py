"""The image tower of the mask generator: CLIP's own, or another one beside it (ablation in Table 6)."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from fcclip_core.model.backbone import ConvNeXtTower, FeaturePyramid, ImageTower, ResNetTower, build_backbone
from fcclip_core.model.config import OWN, ModelConfig


class SharedTower(nn.Module):
    """The mask generator sees the features of CLIP's image tower: FC-CLIP as published."""

    def forward(self, image: Tensor, clip_features: FeaturePyramid) -> FeaturePyramid:
        """Returns `clip_features`, which CLIP's tower computed from `image`."""
        return clip_features

    def alone(self, image: Tensor, clip_tower: ImageTower) -> FeaturePyramid:
        """The features where CLIP's own are not needed, as in training."""
        return clip_tower(image)


class OwnTower(nn.Module):
    """The mask generator has an image tower of CLIP's architecture to itself, which may be trained.

    Attributes:
        tower: The tower without its pooling head.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Builds an untrained tower."""
        super().__init__()
        self.tower = _without_head(build_backbone(config))

    def forward(self, image: Tensor, clip_features: FeaturePyramid) -> FeaturePyramid:
        """`image` as for `FCCLIP.forward`; `clip_features` are not used."""
        return self.tower(image)

    def alone(self, image: Tensor, clip_tower: ImageTower) -> FeaturePyramid:
        """As `forward`: CLIP's tower does not run."""
        return self.tower(image)


def build_mask_tower(config: ModelConfig) -> SharedTower | OwnTower:
    """Builds what `config.mask_tower` names."""
    return OwnTower(config) if config.mask_tower == OWN else SharedTower()


def _without_head(tower: ConvNeXtTower | ResNetTower) -> ConvNeXtTower | ResNetTower:
    """Removes what only `embed_masks` uses: masks are embedded by CLIP's own tower."""
    if isinstance(tower, ConvNeXtTower):
        tower.head = nn.Sequential()
        tower.trunk.head = nn.Identity()
    else:
        tower.attnpool = cast(nn.Module, nn.Identity())
    return tower
