"""Chooses how masks are merged on a device: what is fast must reproduce the plain form's result on a test frame."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from fcclip_core.errors import BackendError
from fcclip_core.inference import postprocess_native
from fcclip_core.inference.postprocess import ClassifiedMasks, HostMerger, Merger
from fcclip_core.inference.postprocess_gpu import DeviceMerger
from fcclip_core.inference.preprocess import FrameGeometry
from fcclip_core.settings import InferenceSettings

_logger = logging.getLogger(__name__)


def create_merger(device: torch.device, kernels: Path | None) -> Merger:
    """Creates the fastest merger for `device`.

    Args:
        device: Where masks are.
        kernels: Folder that keeps compiled kernels; None: they are compiled for this process only.
    """
    host = HostMerger(device)
    try:
        merger = DeviceMerger(device) if device.type == "cuda" else _native_merger(kernels)
        if _agree(merger, host, device):
            return merger
        reason = "its segments differ from the plain form's on a test frame"
    except BackendError as error:
        _logger.warning("merging runs uncompiled, which makes large images slow: %s", error)
        return host
    except Exception as error:  # the kernel does not compile or run: Triton and CUDA raise various types
        reason = f"{type(error).__name__}: {error}"
    _logger.error("merging by a kernel on %s failed; falling back to slower merging: %s", device, reason)
    return host


def _native_merger(kernels: Path | None) -> Merger:
    postprocess_native.LIBRARY.load(kernels)
    return postprocess_native.NativeMerger()


def _agree(merger: Merger, host: Merger, device: torch.device) -> bool:
    """Whether both mergers agree on a synthetic frame of large, overlapping masks."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 24, 6, 8, generator=generator)
    masks = F.interpolate(coarse * 8, size=(48, 64), mode="bilinear")[0].to(device)
    probabilities = (torch.randn(24, 9, generator=generator) * 4).softmax(-1).to(device)
    embeddings = torch.randn(24, 16, generator=generator).to(device)
    settings = InferenceSettings(shorter_side=192, object_mask_threshold=0.3, overlap_threshold=0.1)
    is_thing = torch.arange(8, device=device) % 2 == 0
    frame = ClassifiedMasks(masks, probabilities, embeddings, is_thing, FrameGeometry.of(240, 320, settings), settings)
    found, expected = merger(frame), host(frame)
    return (
        len(expected.queries) > 0
        and np.array_equal(found.queries, expected.queries)
        and np.array_equal(found.class_indices, expected.class_indices)
        and float((found.segment_map != expected.segment_map).mean()) < 1e-3
    )
