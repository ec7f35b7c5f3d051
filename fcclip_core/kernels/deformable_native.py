"""Multi-scale deformable attention on a CPU by a C++ kernel compiled for it, for inference.

`sample_by_index` computes the indices and weights of all neighbors first, in forty passes over memory; the kernel needs
one pass, softmax included. It is one C++ file without dependencies, compiled once in two seconds.
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
_MAX_POINTS = 64
_TIMEOUT = 120.0
_CHECKSUM_SIZE = 32


class _Sizes(ctypes.Structure):
    """The kernel's struct `Sizes`."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("level_count", "points", "heads", "channels")),
        ("levels", ctypes.POINTER(ctypes.c_int64)),
    ]


class NativeDeformableAttention(nn.Module):
    """`DeformableAttention` computed by the compiled kernel, softmax included; for inference on a CPU."""

    def __init__(self, attention: DeformableAttention) -> None:
        """Uses the layers of `attention`; requires that `compile_kernel` was called and `takes` is true."""
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
    kernel = getattr(_libraries[0], _NAMES[value.dtype])

    def run(image: int, begin: int, end: int) -> None:
        tensors = (value[image], centers, offsets[image], scores[image], sums[image])
        pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)
        if kernel(ctypes.byref(sizes), *pointers, ctypes.c_int64(begin), ctypes.c_int64(end)):
            raise BackendError(f"the kernel does not support {heads} heads of {channels} channels with {points} points")

    threads = torch.get_num_threads()
    bounds = [rows * part // threads for part in range(threads + 1)]
    for image in range(batch):
        # ctypes releases the GIL during the call.
        others = [_threads().submit(run, image, *part) for part in zip(bounds[1:-1], bounds[2:], strict=True)]
        run(image, *bounds[:2])
        for other in others:
            other.result()
    return sums


@_attend_natively.register_fake
def _(value: Tensor, sides: Sequence[int], centers: Tensor, offsets: Tensor, scores: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], offsets.shape[1], value.shape[2] * value.shape[3])


def compile_kernel(folder: Path | None) -> None:
    """Compiles the kernel if necessary, and loads it.

    Args:
        folder: Where to keep compiled kernels; if it is None or unusable, the kernel is compiled for this process only.

    Raises:
        BackendError: There is no C++ compiler, or it fails.
    """
    if _libraries:
        return
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise BackendError("no C++ compiler was found; apt install g++")
    try:
        _libraries.append(_loaded(compiler.split(), folder))
    except subprocess.CalledProcessError as error:
        raise BackendError(f"{compiler} cannot compile {_SOURCE.name}: {first_line(error.stderr)}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{_SOURCE.name} cannot be compiled by {compiler} and loaded: {error}") from error


def _loaded(compiler: list[str], folder: Path | None) -> ctypes.CDLL:
    """The kernel for this source, compiler and CPU."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True, timeout=_TIMEOUT)
    # Machines with different CPUs may share a home folder.
    about = f"{version.stdout}{_OPTIONS}{platform.machine()}{sorted(features())}"
    name = f"deformable-{blake2b(about.encode() + _SOURCE.read_bytes(), digest_size=8).hexdigest()}.so"
    if folder is not None and (why := why_unsafe(folder.resolve())):
        _logger.warning("compiled kernels are neither loaded from %s nor kept there: %s", folder, why)
    elif folder is not None:
        try:
            return _from_file(compiler, folder / name)
        except (OSError, subprocess.CalledProcessError) as error:
            _logger.warning(
                "the compiled kernel cannot be kept in %s: %s. It works now, but will be compiled again at the next "
                "start; free disk space or set FCCLIP_CACHE_DIR to a writable folder",
                folder,
                error,
            )
    with tempfile.TemporaryDirectory() as temporary:
        return _from_file(compiler, Path(temporary) / name)


def _from_file(compiler: list[str], kernel: Path) -> ctypes.CDLL:
    """Loads a kept kernel, compiling it first if it is missing or damaged."""
    try:
        if not _is_intact(kernel):
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
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT)
            # Loaders ignore bytes after the library's end.
            part.write_bytes(_with_checksum(part.read_bytes()))
            keep_ours(part)
    return ctypes.CDLL(str(kernel))


def _with_checksum(library: bytes) -> bytes:
    return library + blake2b(library, digest_size=_CHECKSUM_SIZE).digest()


def _is_intact(kernel: Path) -> bool:
    """Whether a kept kernel is unchanged: loading a truncated library would crash the process."""
    with open_ours(kernel) as file:
        kept = file.read()
    return kept == _with_checksum(kept[:-_CHECKSUM_SIZE])


_libraries: list[ctypes.CDLL] = []
"""The loaded kernel, if any."""


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="sampling")
