"""Trained parameters, learning rates and weight decay."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fcclip_core.training.config import TrainingConfig

_WITHOUT_DECAY = (nn.LayerNorm, nn.GroupNorm, _BatchNorm, nn.Embedding)
_BACKBONE = "backbone."
_TOWERS = (_BACKBONE, "mask_tower.")
# CLIP's pooling heads and logit scale are for the out-of-vocabulary classifier, which training does not use.
_UNUSED = ("clip_logit_scale", "backbone.head.", "backbone.trunk.head.", "backbone.attnpool.")


def trained_parameters(model: nn.Module, train_backbone: bool) -> dict[str, nn.Parameter]:
    """The trained parameters of an `FCCLIP` by name: all but CLIP's, optionally with CLIP's feature pyramid.

    An image tower that the mask generator has to itself is always trained.
    """
    frozen = _UNUSED if train_backbone else (*_UNUSED, _BACKBONE)
    return {name: parameter for name, parameter in model.named_parameters() if not name.startswith(frozen)}


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """AdamW's parameter groups by weight decay and image towers; `share` is each group's factor of the learning rate.

    Normalization layers and embeddings have no weight decay; biases and vectors have, as in the published training,
    unless `decay_vectors` is false.
    """
    exempt = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _WITHOUT_DECAY)
        for parameter in module.parameters(recurse=False)
    }
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in trained_parameters(model, config.train_backbone).items():
        without_decay = id(parameter) in exempt or (parameter.ndim < 2 and not config.decay_vectors)
        groups.setdefault((name.startswith(_TOWERS), without_decay), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": 0.0 if without_decay else config.weight_decay,
            "share": config.backbone_rate if in_backbone else 1.0,
        }
        for (in_backbone, without_decay), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def learning_rate(step: int, config: TrainingConfig) -> float:
    """AdamW's learning rate in `step`, counted from 0."""
    if config.poly is not None:
        return config.learning_rate * config.poly.share(step, config.steps)
    return config.learning_rate * config.decay ** bisect_right(config.drops, step)
