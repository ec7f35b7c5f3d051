"""Deterministic random weights: the `recipe:` checkpoints.

Every tensor is drawn from a generator seeded with the tensor's published name, so a full-size model is the same on all
machines and needs no download. It runs as fast as a trained model, but its labels are meaningless.
"""

from __future__ import annotations

import math
import os
import re
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
import torch

Progress = Callable[[int, int], None]
"""Called with (done, total); functions with such an argument document the unit."""

CONSTANTS = {
    "backbone.clip_model.logit_scale": 3.4,
    "sem_seg_head.predictor.logit_scale": 4.7,
    "sem_seg_head.pixel_decoder.mask_features.bias": 0.1,
    "sem_seg_head.predictor.mask_embed.layers.2.bias": -0.4,
}
PLAIN_NORMAL = (
    "token_embedding.weight",
    "positional_embedding",
    "query_feat.weight",
    "query_embed.weight",
    "level_embed",
    "level_embed.weight",
    "void_embedding.weight",
    "_cluster_centers.weight",
    "_rpe._embeddings.weight",
)
GAINS = (
    ("sem_seg_head.predictor.", "out_proj.weight", 0.3),
    ("sem_seg_head.predictor.", "linear2.weight", 0.5),
    ("sem_seg_head.predictor._mask_pooling_proj.1.weight", "", 0.3),
    ("sem_seg_head.predictor.mask_embed.layers.2.weight", "", 4.0),
    ("backbone.clip_model.transformer.", "in_proj_weight", 2.0),
    ("backbone.clip_model.visual.conv", "weight", 1.5),
    ("backbone.clip_model.visual.layer", "weight", 1.5),
)
# kMaX's decoders: what a normalization meets that divides by its running variance, such as sums over pixels.
VARIANCES = tuple(
    (re.compile(pattern), factor)
    for pattern, factor in (
        (r"_axis\._batch_norm_similarity\.", 150.0),
        (r"_query_self_attention\._batch_norm_similarity\.", 64.0),
        (r"_layers\.[01]\._kmeans_query_batch_norm_retrieved_value\.", 50.0),
        (r"_layers\.[23]\._kmeans_query_batch_norm_retrieved_value\.", 800.0),
        (r"_layers\.[45]\._kmeans_query_batch_norm_retrieved_value\.", 12000.0),
    )
)
# Residual branches add less than their input; masks are sharp enough that queries own most of their pixels.
NORM_GAINS = (
    ("_kmeans_query_conv3_bn.norm.weight", 0.4),
    ("_query_conv3_bn.norm.weight", 0.25),
    ("_query_ffn_conv2_bn.norm.weight", 0.25),
    ("._conv3_bn.norm.weight", 0.5),
    ("_pixel_space_mask_batch_norm.weight", 6.0),
)


def seeded_tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Draws one tensor in float32 arithmetic.

    Args:
        name: Published key, for example `sem_seg_head.predictor.query_feat.weight`; it determines the seed.
        shape: Shape of the tensor.

    Returns:
        float32 tensor of that shape; int64 zeros for a `num_batches_tracked` counter.
    """
    last = name.rpartition(".")[2]
    if last == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    if name in CONSTANTS:
        return torch.full(shape, CONSTANTS[name], dtype=torch.float32)
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    normal = np.asarray(generator.standard_normal(shape, dtype=np.float32), np.float32)
    return torch.from_numpy(np.ascontiguousarray(_shaped(name, last, normal)))


def seeded_state(shapes: Mapping[str, tuple[int, ...]], progress: Progress | None = None) -> dict[str, torch.Tensor]:
    """Draws many tensors, on all CPUs available to the process.

    Args:
        shapes: Published key -> shape.
        progress: Called with (values drawn, total values) from the calling thread.

    Returns:
        Published key -> tensor, in the order of `shapes`.
    """
    total = sum(map(math.prod, shapes.values()))
    # Largest tensors first: otherwise the last thread works alone on one of them.
    names = sorted(shapes, key=lambda name: math.prod(shapes[name]), reverse=True)
    state: dict[str, torch.Tensor] = {}
    done = 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        pending = {pool.submit(seeded_tensor, name, tuple(shapes[name])): name for name in names}
        try:
            for future in as_completed(pending):
                state[pending[future]] = future.result()
                done += future.result().numel()
                if progress is not None:
                    progress(done, total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {name: state[name] for name in shapes}


def _shaped(name: str, last: str, normal: np.ndarray) -> np.ndarray:
    """Scales standard normal values depending on the tensor's name."""
    if last == "gamma":
        return 0.5 + 0.1 * normal
    if last == "running_var":
        factor = next((factor for pattern, factor in VARIANCES if pattern.search(name)), 1.0)
        return np.float32(factor) * (1 + 0.1 * np.abs(normal))
    if name.endswith(PLAIN_NORMAL):
        return normal
    if normal.ndim >= 2:
        return _scaled_rows(name, normal)
    if last == "weight":
        gain = next((gain for suffix, gain in NORM_GAINS if name.endswith(suffix)), 1.0)
        return np.float32(gain) * (1 + 0.1 * normal)
    return 0.02 * normal


def _scaled_rows(name: str, normal: np.ndarray) -> np.ndarray:
    """Zero-mean rows, scaled so that a layer preserves the magnitude of its input, times the layer's gain."""
    rows = normal.reshape(normal.shape[0], -1)
    if ".stem." not in name and "conv_dw" not in name:
        rows -= rows.mean(axis=1, dtype=np.float64, keepdims=True).astype(np.float32)
    gain = next((gain for prefix, suffix, gain in GAINS if name.startswith(prefix) and name.endswith(suffix)), 1.0)
    rows *= np.float32(gain / math.sqrt(rows.shape[1]))
    return rows.reshape(normal.shape)
