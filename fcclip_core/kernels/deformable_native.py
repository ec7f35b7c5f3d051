"""Multi-scale deformable attention on a CPU by a C++ kernel compiled for it, for inference.

`sample_by_index` computes the indices and weights of all neighbors first, in forty passes over memory; the kernel needs
one pass, softmax included. It is one C++ file without dependencies, compiled once in two seconds.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fcclip_core.errors import BackendError
from fcclip_core.kernels.native_library import NativeLibrary, in_parallel
from fcclip_core.model.deformable_attention import DeformableAttention

LIBRARY = NativeLibrary(Path(__file__).with_suffix(".cpp"))

_NAMES = {torch.float32: "fcclip_attend_float32", torch.bfloat16: "fcclip_attend_bfloat16"}
_CHANNELS = (16, 32, 64)
_MAX_POINTS = 64


class _Sizes(ctypes.Structure):
    """The kernel's struct `Sizes`."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("level_count", "points", "heads", "channels")),
        ("levels", ctypes.POINTER(ctypes.c_int64)),
    ]


class NativeDeformableAttention(nn.Module):
    """`DeformableAttention` computed by the compiled kernel, softmax included; for inference on a CPU."""

    def __init__(self, attention: DeformableAttention) -> None:
        """Uses the layers of `attention`; requires that `LIBRARY` is loaded and `takes` is true."""
        super().__init__()
        self.heads = attention.heads
        self.sampling_offsets = attention.sampling_offsets
        self.attention_weights = attention.attention_weights
        self.value_proj, self.output_proj = attention.value_proj, attention.output_proj

    def forward(self, query: Tensor, tokens: Tensor, reference: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """As `DeformableAttention`."""
        value = self.value_proj(tokens).unflatten(-1, (self.heads, -1))
        sides = [side for shape in shapes for side in shape]
        offsets, scores = self.sampling_offsets(query), self.attention_weights(query)
        return self.output_proj(_attend_natively(value, sides, reference.float(), offsets, scores))


def takes(attention: DeformableAttention) -> bool:
    """Whether the kernel supports the sizes of `attention`."""
    channels = attention.value_proj.out_features // attention.heads
    return channels in _CHANNELS and attention.levels * attention.points <= _MAX_POINTS


# A custom operator is opaque to torch.compile: compiled graphs call it unchanged.
@torch.library.custom_op("fcclip::attend_natively", mutates_args=())
def _attend_natively(value: Tensor, sides: Sequence[int], centers: Tensor, offsets: Tensor, scores: Tensor) -> Tensor:
    value, centers, offsets, scores = (x.contiguous() for x in (value, centers, offsets, scores))
    batch, _, heads, channels = value.shape
    rows, levels = offsets.shape[1] * heads, len(sides) // 2
    first, level_sizes = 0, []
    for height, width in zip(sides[::2], sides[1::2], strict=True):
        level_sizes += [height, width, first]
        first += height * width
    points = scores.shape[2] // (heads * levels)
    sizes = _Sizes(levels, points, heads, channels, (ctypes.c_int64 * len(level_sizes))(*level_sizes))
    sums = value.new_empty(batch, offsets.shape[1], heads * channels)
    kernel = getattr(LIBRARY.functions, _NAMES[value.dtype])

    def run(image: int, begin: int, end: int) -> None:
        tensors = (value[image], centers, offsets[image], scores[image], sums[image])
        pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)
        if kernel(ctypes.byref(sizes), *pointers, ctypes.c_int64(begin), ctypes.c_int64(end)):
            raise BackendError(f"the kernel does not support {heads} heads of {channels} channels with {points} points")

    for image in range(batch):
        in_parallel(functools.partial(run, image), rows)
    return sums


@_attend_natively.register_fake
def _(value: Tensor, sides: Sequence[int], centers: Tensor, offsets: Tensor, scores: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], offsets.shape[1], value.shape[2] * value.shape[3])
