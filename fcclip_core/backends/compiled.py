"""torch.compile: fused kernels made for this network and image size; on a GPU replayed as one CUDA graph.

A form of image costs a minute or more when it is first met (less when Inductor finds its kernels in its cache on disk),
so only those of the first `MAX_SIZES` sizes are compiled; others run through the same network as it is.
"""

from __future__ import annotations

import logging
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fcclip_core.backends.interface import Progress
from fcclip_core.errors import BackendError, first_line
from fcclip_core.model.deformable_attention import Sampler, sample_by_grid, sample_by_index, set_sampler
from fcclip_core.model.fcclip import FCCLIP, ModelOutput
from fcclip_core.model.precision import in_precision

MAX_SIZES = 4
_WARM_UP_RUNS = 3

Forward = Callable[[Tensor], ModelOutput]

_log = logging.getLogger(__name__)


class CompiledBackend:
    """Runs a compiled copy of the network; the model that it is given stays as it is, where it is.

    On a GPU, weights, input and captured intermediate results stay allocated between frames, and a frame is one copy
    in, one graph launch and one copy out: results belong to the caller and are not overwritten by the next frame.
    """

    def __init__(
        self,
        model: FCCLIP,
        device: torch.device,
        *,
        dtype: torch.dtype | None = None,
        compiler: str | None = "inductor",
    ) -> None:
        """Copies the network and checks that the compiler works; networks are compiled when their size is known.

        Args:
            model: The network.
            device: Where to run.
            dtype: Precision of weights and activations; None takes float32 on a CPU, else bfloat16 where the GPU has
                it and float16 where it has not. Outputs are float32 in any case.
            compiler: torch.compile's backend; None compiles nothing, and a GPU still gets its graph.

        Raises:
            BackendError: There is no working compiler, or not enough memory.
        """
        self.device = device
        self.dtype = dtype or _default_type(device)
        self._compiler = compiler
        self._options: dict[str, Any] | None = None
        if compiler == "inductor" and device.type == "cuda":
            self._options = {"triton.cudagraphs": False}  # the graph is captured here, with an input of its own
        self._frames: dict[tuple[int, ...], Forward] = {}
        self._sizes: set[tuple[int, ...]] = set()  # height and width of what is compiled, in whatever batch
        with _explained(f"torch.compile cannot be used on {device}"):
            self._compile(lambda x: x.relu() + 1)(torch.ones(64, device=device))
            network = in_precision(model, self.dtype).to(device).to(memory_format=torch.channels_last)
        self._network: FCCLIP = network
        sampler = _sampler(device)
        set_sampler(network, sampler)
        graphs = ", CUDA graphs" if device.type == "cuda" else ""
        how = f"torch.compile ({compiler})" if compiler else "eager"
        name = str(self.dtype).removeprefix("torch.")
        self.description = f"{how} PyTorch {torch.__version__}, {name}, {sampler.__name__}{graphs} on {device}"

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> ModelOutput:
        """`image` float32 `(B, 3, h, w)`, normalised and padded to multiples of 32.

        Raises:
            BackendError: A size that was not met before could not be compiled.
        """
        self.prepare(image.shape[0], image.shape[2], image.shape[3])
        return self._frames[tuple(image.shape)](image)

    def lacks(self, batch: int, height: int, width: int) -> str:
        """The compiled network, unless such images run uncompiled; see `Backend`."""
        if (batch, 3, height, width) in self._frames or not self._is_compiled(height, width):
            return ""
        return f"{batch}x{height}x{width} is not compiled yet"

    @torch.inference_mode()
    def prepare(
        self, batch: int, height: int, width: int, progress: Progress | None = None, *, asked: bool = True
    ) -> None:
        """Compiles the network for images of one form; see `Backend`."""
        size = (batch, 3, height, width)
        if size not in self._frames:
            self._frames[size] = self._prepare(size)

    def _is_compiled(self, height: int, width: int) -> bool:
        """Whether images of a size are compiled, now or when they come."""
        return (height, width) in self._sizes or len(self._sizes) < MAX_SIZES

    def _prepare(self, size: tuple[int, ...]) -> Forward:
        """How frames of one size run from now on."""
        name = "x".join(map(str, size))
        if not self._is_compiled(*size[2:]):
            _log.warning("%d image sizes are compiled already; %s runs uncompiled", MAX_SIZES, name)
            return lambda image: _copied(self._network(self._input(image)))
        self._sizes.add(size[2:])
        _log.info("preparing the network for images of %s", name)
        with _explained(f"images of {name} could not be prepared by torch.compile on {self.device}"):
            forward = self._compile(_function_of(self._network))
            if self.device.type == "cuda":
                return _CapturedForward(forward, torch.zeros(size, dtype=self.dtype, device=self.device))
            forward(self._input(torch.zeros(size, device=self.device)))
            return lambda image: _copied(forward(self._input(image)))

    def _compile(self, function: Callable) -> Callable:
        if self._compiler is None:
            return function
        return torch.compile(function, backend=self._compiler, fullgraph=True, dynamic=False, options=self._options)

    def _input(self, image: Tensor) -> Tensor:
        return image.to(self.dtype).contiguous(memory_format=torch.channels_last)


class _CapturedForward:
    """A forward pass for one image size as a CUDA graph, with an input of its own."""

    def __init__(self, forward: Forward, image: Tensor) -> None:
        """Runs `forward` a few times, so that everything is compiled and chosen, and then captures it."""
        self._image = image.contiguous(memory_format=torch.channels_last)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(image.device), _tried_convolutions():
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP_RUNS):
                    forward(self._image)
            torch.cuda.current_stream().wait_stream(stream)
            # Words may be encoded on this GPU by another thread meanwhile: its calls must not spoil the capture.
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self._output = forward(self._image)

    def __call__(self, image: Tensor) -> ModelOutput:
        self._image.copy_(image)
        self._graph.replay()
        return _copied(self._output)


@contextmanager
def _tried_convolutions() -> Iterator[None]:
    """Has cuDNN try its kernels for each convolution that is new to it, and take the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turns whatever goes wrong inside into a `BackendError` that begins with `what`."""
    try:
        yield
    except BackendError:
        raise
    except Exception as error:
        cause = _innermost(error)
        if isinstance(cause, torch.OutOfMemoryError) or "out of memory" in str(cause).lower():
            advice = "there is too little free memory: lower shorter_side, or take backend tensorrt or eager"
        else:
            advice = "torch.compile needs a C++ compiler, and Triton on a GPU; backend eager needs neither"
        raise BackendError(f"{what}: {type(cause).__name__}: {first_line(cause)}; {advice}") from error


def _innermost(error: BaseException) -> BaseException:
    """What happened in the first place: Inductor reports it inside errors of its own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _default_type(device: torch.device) -> torch.dtype:
    if device.type != "cuda":
        return torch.float32
    # Older GPUs emulate bfloat16, slowly.
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def _sampler(device: torch.device) -> Sampler:
    """The fastest form of deformable attention on `device`."""
    if device.type == "cpu":
        return sample_by_index
    try:
        from fcclip_core.model.deformable_triton import sample_by_triton
    except ImportError:
        _log.warning("Triton is not installed: deformable attention runs as grid_sample, several times slower")
        return sample_by_grid
    return sample_by_triton


def _function_of(network: FCCLIP) -> Forward:
    """The network as a function with code of its own.

    torch.compile counts versions per code object and gives up after a few: segmenters that come and go, and sizes,
    would add up.
    """

    def forward(image: Tensor) -> ModelOutput:
        return network(image)

    return types.FunctionType(forward.__code__.replace(), globals(), forward.__name__, None, forward.__closure__)


def _copied(output: ModelOutput) -> ModelOutput:
    """The same in float32 and in memory of its own."""
    return ModelOutput(
        mask_logits=output.mask_logits.to(torch.float32, copy=True),
        in_vocab_embedding=output.in_vocab_embedding.to(torch.float32, copy=True),
        out_vocab_embedding=output.out_vocab_embedding.to(torch.float32, copy=True),
        mask_survives=output.mask_survives.clone(),
    )
