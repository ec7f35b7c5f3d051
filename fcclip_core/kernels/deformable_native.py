"""Multi-scale deformable attention on a processor, by a kernel compiled for it, for inference.

`sample_by_index` computes indices and weights of all neighbors before it reads the first, in forty passes over memory;
the kernel makes one, softmax included. It is one C++ file without dependencies, compiled once, in two seconds.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor, nn

from fcclip_core.errors import BackendError
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.files.cache_folder import keep_ours, open_ours, why_unsafe
from fcclip_core.kernels.processor import features
from fcclip_core.model.deformable_attention import DeformableAttention
from fcclip_core.quoting import first_line

_logger = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_suffix(".cpp")
_OPTIONS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC")
_COMPILERS = ("c++", "g++", "clang++")
_NAMES = {torch.float32: "fcclip_attend_float32", torch.bfloat16: "fcclip_attend_bfloat16"}
_CHANNELS = (16, 32, 64)
_MOST_POINTS = 64
_PATIENCE = 120.0
_SEAL = 32
"""Bytes of the checksum."""


class _Sizes(ctypes.Structure):
    """The kernel's `Sizes`."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("level_count", "points", "heads", "channels")),
        ("levels", ctypes.POINTER(ctypes.c_int64)),
    ]


class NativeDeformableAttention(nn.Module):
    """`DeformableAttention` whose sum, softmax included, is the compiled kernel; for inference on a processor."""

    def __init__(self, attention: DeformableAttention) -> None:
        """Takes over the layers of `attention`; `compile_kernel` must have been called, and `takes` be true."""
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
    """Whether the kernel was made for attention of such sizes."""
    channels = attention.value_proj.out_features // attention.heads
    return channels in _CHANNELS and attention.levels * attention.points <= _MOST_POINTS


# An operator of its own is opaque to torch.compile: compiled graphs call it where it stands.
@torch.library.custom_op("fcclip::attend_natively", mutates_args=())
def _attend_natively(value: Tensor, sides: Sequence[int], centers: Tensor, offsets: Tensor, scores: Tensor) -> Tensor:
    value, centers, offsets, scores = (x.contiguous() for x in (value, centers, offsets, scores))
    batch, _, heads, channels = value.shape
    rows, levels = offsets.shape[1] * heads, len(sides) // 2
    first, described = 0, []
    for height, width in zip(sides[::2], sides[1::2], strict=True):
        described += [height, width, first]
        first += height * width
    points = scores.shape[2] // (heads * levels)
    sizes = _Sizes(levels, points, heads, channels, (ctypes.c_int64 * len(described))(*described))
    sums = value.new_empty(batch, offsets.shape[1], heads * channels)
    kernel = getattr(_libraries[0], _NAMES[value.dtype])

    def run(image: int, begin: int, end: int) -> None:
        tensors = (value[image], centers, offsets[image], scores[image], sums[image])
        pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)
        if kernel(ctypes.byref(sizes), *pointers, ctypes.c_int64(begin), ctypes.c_int64(end)):
            raise BackendError(f"there is no kernel for {heads} heads of {channels} channels with {points} points")

    threads = torch.get_num_threads()
    bounds = [rows * part // threads for part in range(threads + 1)]
    for image in range(batch):
        # ctypes lets go of Python's lock meanwhile.
        others = [_threads().submit(run, image, *part) for part in zip(bounds[1:-1], bounds[2:], strict=True)]
        run(image, *bounds[:2])
        for other in others:
            other.result()
    return sums


@_attend_natively.register_fake
def _(value: Tensor, sides: Sequence[int], centers: Tensor, offsets: Tensor, scores: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], offsets.shape[1], value.shape[2] * value.shape[3])


def compile_kernel(folder: Path | None) -> None:
    """Compiles the kernel, unless that was done before, and loads it.

    Args:
        folder: Where compiled kernels are kept; if it is None or cannot be used, one is made for this process alone.

    Raises:
        BackendError: There is no C++ compiler, or it fails.
    """
    if _libraries:
        return
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise BackendError("there is no C++ compiler; apt install g++")
    try:
        _libraries.append(_loaded(compiler.split(), folder))
    except subprocess.CalledProcessError as error:
        raise BackendError(f"{compiler} cannot compile {_SOURCE.name}: {first_line(error.stderr)}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{_SOURCE.name} cannot be compiled by {compiler} and loaded: {error}") from error


def _loaded(compiler: list[str], folder: Path | None) -> ctypes.CDLL:
    """The kernel for this source, compiler and processor."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True, timeout=_PATIENCE)
    # A home folder may be shared by different machines.
    about = f"{version.stdout}{_OPTIONS}{platform.machine()}{sorted(features())}"
    name = f"deformable-{blake2b(about.encode() + _SOURCE.read_bytes(), digest_size=8).hexdigest()}.so"
    if folder is not None and (why := why_unsafe(folder.resolve())):
        _logger.warning("no compiled kernel is loaded from %s, nor kept there: %s", folder, why)
    elif folder is not None:
        try:
            return _from_file(compiler, folder / name)
        except (OSError, subprocess.CalledProcessError) as error:
            _logger.warning(
                "the compiled kernel cannot be kept in %s: %s. It works now, but will be compiled again at the next "
                "start; make room or set FCCLIP_CACHE_DIR to a folder that can be written",
                folder,
                error,
            )
    with tempfile.TemporaryDirectory() as place:
        return _from_file(compiler, Path(place) / name)


def _from_file(compiler: list[str], kernel: Path) -> ctypes.CDLL:
    """Loads a kept kernel, which is compiled if it is not there, or damaged."""
    try:
        if not _is_whole(kernel):
            _logger.warning("%s is damaged, so it is compiled again", kernel)
            kernel.unlink()
    except PermissionError as error:  # not this user's
        _logger.warning("%s; it is compiled again", error)
        kernel.unlink()
    except FileNotFoundError:
        pass
    if not kernel.exists():
        kernel.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_write(kernel) as part:
            command = [*compiler, *_OPTIONS, "-o", str(part), str(_SOURCE)]
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=_PATIENCE)
            # Behind the library's end, where no loader looks.
            part.write_bytes(_sealed(part.read_bytes()))
            keep_ours(part)
    return ctypes.CDLL(str(kernel))


def _sealed(library: bytes) -> bytes:
    """`library` with its checksum behind it."""
    return library + blake2b(library, digest_size=_SEAL).digest()


def _is_whole(kernel: Path) -> bool:
    """Whether a kept kernel is as it was written: to load one that was cut short would end the process."""
    with open_ours(kernel) as file:
        kept = file.read()
    return kept == _sealed(kept[:-_SEAL])


_libraries: list[ctypes.CDLL] = []
"""The loaded kernel, if there is one."""


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="sampling")
