"""`preprocess` on the GPU: the camera's bytes are uploaded unchanged, a quarter of the size of floats.

The resize is Pillow's bilinear filter in Pillow's fixed-point arithmetic, columns before rows, as in the published
inference. It equals `preprocess` bit for bit, with one exception: since version 13, Pillow resizes rows first if an
image shrinks by more than twice as many rows as columns; pixels may then differ by 1 of 255.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fcclip_core.inference.preprocess import PIXEL_MEAN, PIXEL_STD, FrameGeometry, check_image, preprocess
from fcclip_core.kernels.cuda_graph import ATTEMPTS, CapturedWork
from fcclip_core.quoting import first_line
from fcclip_core.settings import InferenceSettings

_logger = logging.getLogger(__name__)

_FRACTION_BITS = 22
_KEPT_SIZES = 4


Preprocessor = Callable[[np.ndarray, InferenceSettings], tuple[Tensor, FrameGeometry]]
"""uint8 RGB `(H, W, 3)` -> the network's input `(1, 3, h, w)` and the frame's sizes; errors as `preprocess`."""


def create_preprocessor(device: torch.device) -> Preprocessor:
    """Creates the fastest preprocessor for `device`."""
    if device.type == "cuda":
        return DevicePreprocessor(device)
    return functools.partial(preprocess, device=device)


class DevicePreprocessor:
    """Preprocesses images one after the other in buffers that it reuses; not thread-safe."""

    def __init__(self, device: torch.device) -> None:
        """Preprocesses images on `device`."""
        self._frames = functools.lru_cache(_KEPT_SIZES)(functools.partial(_Frames, device=device))

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, settings: InferenceSettings) -> tuple[Tensor, FrameGeometry]:
        """As `preprocess`; a later call overwrites the tensor."""
        check_image(image)
        geometry = FrameGeometry.of(image.shape[0], image.shape[1], settings)
        return self._frames(geometry).prepare(image), geometry


@dataclass(frozen=True)
class AxisFilter:
    """Pillow's bilinear filter along one axis: each output pixel is a weighted sum of K neighboring input pixels.

    Attributes:
        indices: int64 `(K, target)`, input pixels.
        weights: int32 `(K, target)`, in units of 2^-22; a column sums to about 2^22.
    """

    indices: Tensor
    weights: Tensor

    @classmethod
    def of(cls, source: int, target: int, device: torch.device) -> AxisFilter:
        """The filter from `source` to `target` pixels: triangles as wide as the larger of the two pixels."""
        scale = source / target
        reach = max(scale, 1.0)
        center = (np.arange(target) + 0.5) * scale
        first = np.maximum((center - reach + 0.5).astype(np.int64), 0)
        last = np.minimum((center + reach + 0.5).astype(np.int64), source)
        taps = first + np.arange(int(np.ceil(reach)) * 2 + 1)[:, None]
        weights = np.maximum(1 - np.abs((taps - center + 0.5) * (1 / reach)), 0.0) * (taps < last)
        weights = weights / weights.sum(0)
        used = weights.any(1)
        fixed = (0.5 + weights[used] * (1 << _FRACTION_BITS)).astype(np.int32)
        indices = np.minimum(taps[used], source - 1)
        return cls(torch.from_numpy(indices).to(device), torch.from_numpy(fixed).to(device))

    def __call__(self, pixels: Tensor, axis: int) -> Tensor:
        """Resizes axis 0 (rows) or 1 (columns) of `pixels` `(H, W, 3)`; int32, 0..255, with Pillow's rounding."""
        shape = (-1, 1, 1) if axis == 0 else (-1, 1)
        total = None
        for index, weight in zip(self.indices, self.weights, strict=True):
            part = pixels.index_select(axis, index).int().mul_(weight.view(shape))
            total = part.add_(1 << (_FRACTION_BITS - 1)) if total is None else total.add_(part)
        assert total is not None
        return total.bitwise_right_shift_(_FRACTION_BITS)


class _Frames:
    """Filters and buffers for one image size."""

    def __init__(self, geometry: FrameGeometry, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        (height, width), (new_height, new_width) = geometry.image, geometry.resized
        self._rows = AxisFilter.of(height, new_height, device) if height != new_height else None
        self._columns = AxisFilter.of(width, new_width, device) if width != new_width else None
        self._mean, self._std = torch.tensor(PIXEL_MEAN, device=device), torch.tensor(PIXEL_STD, device=device)
        # Padding is the mean color, which is zero after normalization; later frames do not write it.
        self._padded = torch.zeros((*geometry.padded, 3), device=device)
        self._inner = self._padded[:new_height, :new_width]
        self._staged = torch.empty((height, width, 3), dtype=torch.uint8, pin_memory=on_gpu)
        self._uploaded = torch.empty_like(self._staged, device=device) if on_gpu else self._staged
        self._arrived = torch.cuda.Event() if on_gpu else None

        self._runs = 0
        self._captured: CapturedWork[None] | None = None

    def prepare(self, image: np.ndarray) -> Tensor:
        """The network's input for `image`."""
        if self._arrived:
            # Wait until the previous frame is copied out of the staging buffer, usually long ago.
            self._arrived.synchronize()
        np.copyto(self._staged.numpy(), image)
        if self._arrived:
            self._uploaded.copy_(self._staged, non_blocking=True)
            self._arrived.record(torch.cuda.current_stream(self._uploaded.device))
        self._runs += 1
        # Capturing a graph does not pay off for a single image.
        if self._uploaded.is_cuda and not self._captured and 1 < self._runs <= 1 + ATTEMPTS:
            self._captured = self._capture()
        if self._captured:
            self._captured.replay()
        else:
            self._resize()
        return self._padded.permute(2, 0, 1).unsqueeze(0)

    def _capture(self) -> CapturedWork[None] | None:
        """`_resize` as a CUDA graph; None if it cannot be captured, which is only slower."""
        try:
            return CapturedWork(self._resize, self._uploaded.device)
        except Exception as error:  # CUDA raises various types
            if self._runs > ATTEMPTS:
                _logger.warning("images are resized without a CUDA graph, more slowly: %s", first_line(error))
            return None

    def _resize(self) -> None:
        """Resizes and normalizes the uploaded pixels into the padded input."""
        pixels = self._uploaded
        # Rounded to integers in between, as Pillow does, so the order matters.
        for axis, resize in ((1, self._columns), (0, self._rows)):
            pixels = resize(pixels, axis) if resize else pixels
        self._inner.copy_((pixels.float() - self._mean) / self._std)
