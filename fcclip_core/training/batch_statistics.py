"""Batch normalization of the trained parts: whose statistics it uses, and where they are kept.

A k-means mask decoder and an axial pixel decoder have it in every layer. In training it uses the statistics of the
step's images, on several GPUs those of all of them, and keeps running ones, which are used otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fcclip_core import distributed
from fcclip_core.errors import TrainingError
from fcclip_core.model.fcclip import FCCLIP

_DECODERS = ("pixel_decoder", "mask_decoder")


def with_shared_statistics(model: FCCLIP, device: torch.device, freeze_statistics: int | None) -> None:
    """Makes the batch normalizations of the decoders use the images of all workers.

    Args:
        model: The network; its parameters stay the same objects.
        device: Where it will be trained.
        freeze_statistics: As in `TrainingConfig`.

    Raises:
        TrainingError: There are several workers without GPUs, which cannot share statistics.
    """
    if distributed.world_size() == 1 or not trained_norms(model) or freeze_statistics == 0:
        return
    if device.type != "cuda":
        raise TrainingError(
            f"{model.config.name} has batch normalization, whose statistics several workers share on GPUs only; train "
            "it with one worker, or with --freeze-statistics 0 from a checkpoint that has been trained"
        )
    for name in _DECODERS:
        setattr(model, name, nn.SyncBatchNorm.convert_sync_batchnorm(getattr(model, name)))


def trained_norms(model: FCCLIP) -> list[_BatchNorm]:
    """The batch normalizations of the decoders; those of CLIP's tower are frozen."""
    decoders = [getattr(model, name) for name in _DECODERS]
    return [module for decoder in decoders for module in decoder.modules() if isinstance(module, _BatchNorm)]


def running_statistics(model: FCCLIP) -> dict[str, Tensor]:
    """Running means, variances and counters of `trained_norms` by name, as the model's state has them."""
    return {
        f"{name}.{key}": buffer
        for name, module in model.named_modules()
        if name.startswith(_DECODERS) and isinstance(module, _BatchNorm)
        for key, buffer in module.named_buffers(recurse=False)
    }


def use_batch(norms: list[_BatchNorm], batch: bool) -> None:
    """Normalizes by the batch from now on, or by the running statistics, which then stay as they are."""
    for norm in norms:
        norm.train(batch)
