"""torch.compile: fused kernels for this network and image size; on a GPU replayed as one CUDA graph.

Compiling for an image shape takes a minute or more (less if Inductor's cache on disk has the kernels), so only the
first `MAX_SIZES` sizes are compiled; others run through the same network uncompiled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fcclip_core.backends.interface import Progress
from fcclip_core.errors import BackendError
from fcclip_core.export.constants import capture
from fcclip_core.files.cache_folder import guard_compilers
from fcclip_core.kernels.cuda_graph import CapturedWork
from fcclip_core.kernels.gpu_network import for_gpu
from fcclip_core.model.deformable_attention import sample_by_index, set_sampler
from fcclip_core.model.fcclip import FCCLIP, ModelOutput
from fcclip_core.model.precision import in_precision
from fcclip_core.quoting import first_line

MAX_SIZES = 4

Forward = Callable[[Tensor], ModelOutput]

_log = logging.getLogger(__name__)


class CompiledBackend:
    """Runs a compiled copy of the network; the given model is neither changed nor moved.

    On a GPU, weights, input and captured intermediate results stay allocated between frames. A frame is one copy in,
    one graph launch and one copy out, so the next frame does not overwrite the caller's results.
    """

    def __init__(
        self,
        model: FCCLIP,
        device: torch.device,
        *,
        dtype: torch.dtype | None = None,
        compiler: str | None = "inductor",
    ) -> None:
        """Copies the network and checks that the compiler works; compiling starts when an image size is known.

        Args:
            model: The network.
            device: Where to run.
            dtype: Type of weights and activations; None: float32 on a CPU, on a GPU bfloat16 if it supports it, else
                float16. Outputs are always float32.
            compiler: torch.compile's backend; None: nothing is compiled, but a GPU still uses a CUDA graph.

        Raises:
            BackendError: No working compiler, or not enough memory.
        """
        guard_compilers()
        self.device = device
        self.dtype = dtype or _default_type(device)
        self._compiler = compiler
        self._options: dict[str, Any] | None = None
        if compiler == "inductor" and device.type == "cuda":
            self._options = {"triton.cudagraphs": False}  # captured here instead, with a separate input
        self._frames: dict[tuple[int, ...], Forward] = {}
        self._sizes: set[tuple[int, ...]] = set()  # compiled (height, width), of any batch size
        with _as_backend_error(f"torch.compile cannot be used on {device}"):
            self._compile(lambda x: x.relu() + 1)(torch.ones(64, device=device))
            self._network, kernels = _network(model, device, self.dtype)
        graphs = ", CUDA graphs" if device.type == "cuda" else ""
        how = f"torch.compile ({compiler})" if compiler else "eager"
        name = str(self.dtype).removeprefix("torch.")
        self.description = f"{how} PyTorch {torch.__version__}, {name}{kernels}{graphs} on {device}"

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> ModelOutput:
        """`image` float32 `(B, 3, h, w)`, normalized and padded to multiples of 32.

        Raises:
            BackendError: A new size could not be compiled.
        """
        self.prepare(image.shape[0], image.shape[2], image.shape[3])
        return self._frames[tuple(image.shape)](image)

    def lacks(self, batch: int, height: int, width: int) -> str:
        """Whether compiling is missing; nothing for shapes that run uncompiled. See `Backend`."""
        if (batch, 3, height, width) in self._frames or not self._is_compiled(height, width):
            return ""
        return f"{batch}x{height}x{width} is not compiled yet"

    @torch.inference_mode()
    def prepare(
        self, batch: int, height: int, width: int, progress: Progress | None = None, *, requested: bool = True
    ) -> None:
        """Compiles the network for images of one shape; see `Backend`."""
        size = (batch, 3, height, width)
        if size not in self._frames:
            self._frames[size] = self._prepare(size)

    @torch.inference_mode()
    def uncaptured(self, image: Tensor) -> ModelOutput:
        """Runs the network neither compiled nor captured; `image` as for `__call__`."""
        return _copied(self._network(self._input(image)))

    def _is_compiled(self, height: int, width: int) -> bool:
        """Whether images of a size are compiled, or will be when they arrive."""
        return (height, width) in self._sizes or len(self._sizes) < MAX_SIZES

    def _prepare(self, size: tuple[int, ...]) -> Forward:
        """The function that runs frames of one size from now on."""
        name = "x".join(map(str, size))
        if not self._is_compiled(*size[2:]):
            _log.warning("%d image sizes are already compiled; %s runs uncompiled", MAX_SIZES, name)
            return self.uncaptured
        self._sizes.add(size[2:])
        _log.info("compiling the network for images of %s", name)
        with _as_backend_error(f"images of {name} could not be prepared by torch.compile on {self.device}"):
            image = self._input(torch.zeros(size, device=self.device))
            graph = self._compile(capture(_Fields(self._network), image))

            def forward(image: Tensor) -> ModelOutput:
                return ModelOutput(*graph(image))

            if self.device.type == "cuda":
                return _CapturedForward(forward, image)
            forward(image)
            return lambda image: _copied(forward(self._input(image)))

    def _compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if self._compiler is None:
            return function
        return torch.compile(function, backend=self._compiler, fullgraph=True, dynamic=False, options=self._options)

    def _input(self, image: Tensor) -> Tensor:
        return image.to(self.dtype).contiguous(memory_format=torch.channels_last)


class _CapturedForward:
    """A forward pass for one image size as a CUDA graph with its own input."""

    def __init__(self, forward: Forward, image: Tensor) -> None:
        """Captures `forward` on `image`, which becomes the graph's input."""
        self._image = image
        with _benchmarked_convolutions():
            self._work = CapturedWork(lambda: forward(image), image.device)

    def __call__(self, image: Tensor) -> ModelOutput:
        self._image.copy_(image)
        self._work.replay()
        return _copied(self._work.output)


@contextmanager
def _benchmarked_convolutions() -> Iterator[None]:
    """Lets cuDNN benchmark its kernels for each new convolution and choose the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def _as_backend_error(what: str) -> Iterator[None]:
    """Turns any exception inside into a `BackendError` that begins with `what`."""
    try:
        yield
    except BackendError:
        raise
    except Exception as error:
        cause = _innermost(error)
        if isinstance(cause, torch.OutOfMemoryError) or "out of memory" in str(cause).lower():
            advice = "not enough free memory: lower shorter_side, or use backend tensorrt or eager"
        else:
            advice = "torch.compile needs a C++ compiler, and on a GPU Triton; backend eager needs neither"
        raise BackendError(f"{what}: {type(cause).__name__}: {first_line(cause)}; {advice}") from error


def _innermost(error: BaseException) -> BaseException:
    """The original cause: Inductor wraps it in its own exceptions."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _default_type(device: torch.device) -> torch.dtype:
    if device.type != "cuda":
        return torch.float32
    # Older GPUs emulate bfloat16, which is slow.
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def _network(model: FCCLIP, device: torch.device, dtype: torch.dtype) -> tuple[FCCLIP, str]:
    """A copy of the network in its fastest form for `device`, and its custom kernels for the description."""
    if device.type == "cuda":
        network, kernels = for_gpu(model, device, dtype)
        return network, f", custom kernels for {', '.join(sorted(kernels))}" if kernels else ""
    network = in_precision(model, dtype).to(device).to(memory_format=torch.channels_last)
    set_sampler(network, sample_by_index)
    return network, ""


class _Fields(nn.Module):
    """The network returning the fields of `ModelOutput` as a tuple, which a captured graph supports."""

    def __init__(self, network: FCCLIP) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(vars(self.network(image)).values())


def _copied(output: ModelOutput) -> ModelOutput:
    """A copy in float32."""
    return output.map(lambda x: x.to(torch.float32 if x.is_floating_point() else x.dtype, copy=True))
