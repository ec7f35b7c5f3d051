"""TensorRT's engines on the GPU: one launch of a CUDA graph a frame, and kernels that are compiled once for good."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from fcclip_core.errors import BackendError
from fcclip_core.export.built_files import KeptFile
from fcclip_core.export.onnx_export import INPUT, OUTPUTS
from fcclip_core.kernels.cuda_graph import capturing
from fcclip_core.quoting import first_line

_logger = logging.getLogger(__name__)

_TYPES = (torch.float32, torch.float32, torch.float32, torch.bool)
"""Of `OUTPUTS`."""


class EngineRunner:
    """Runs one engine on a stream and in buffers of its own.

    Addresses never change, so that the engine is captured once, after a first run, and replayed for each frame. Results
    are copied out: they belong to the caller, and no later frame overwrites them.
    """

    def __init__(self, engine: Any, device: torch.device, log: Any, kernels: KeptFile | None = None) -> None:
        """Runs the engine once, and captures it if that is possible.

        Args:
            engine: TensorRT's `ICudaEngine`, of fixed shapes.
            device: Where it was made ready and images lie.
            log: The library's log, which has its reasons.
            kernels: Where TensorRT-RTX keeps the kernels that it compiles on this GPU; None: it keeps none.

        Raises:
            BackendError: It cannot be made ready, for want of memory for example.
            RuntimeError: It does not run.
        """
        cache = _RuntimeCache(engine, kernels) if kernels else None
        self._needed = (engine, cache)  # must outlive the context
        self._device = device
        self._log = log
        context = cache.create_context() if cache else engine.create_execution_context()
        if context is None:
            raise BackendError(f"the engine cannot be made ready to run: {log.last_error()}")
        self._context: Any = context
        self._stream = torch.cuda.Stream(device)
        # Written for the life of the engine, whether or not it was made in inference mode.
        with torch.inference_mode(False):
            self._image = torch.zeros(tuple(engine.get_tensor_shape(INPUT)), device=device)
            self._outputs = [
                torch.empty(tuple(engine.get_tensor_shape(name)), dtype=dtype, device=device)
                for name, dtype in zip(OUTPUTS, _TYPES, strict=True)
            ]
        for name, tensor in zip((INPUT, *OUTPUTS), (self._image, *self._outputs), strict=True):
            self._context.set_tensor_address(name, tensor.data_ptr())
        self._stream.wait_stream(torch.cuda.current_stream(device))
        self._execute()
        self._stream.synchronize()
        if cache:
            cache.keep()
        self._graph = self._capture()

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`image` float32 of the engine's shape -> the graph's outputs, in memory of their own.

        Raises:
            RuntimeError: The engine cannot be run.
        """
        masks, in_vocab, out_vocab, survives = results = tuple(map(torch.empty_like, self._outputs))
        current = torch.cuda.current_stream(self._device)
        # All that touches the buffers runs on one stream, whichever stream the next frame comes from.
        self._stream.wait_stream(current)
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            self._image.copy_(image)
            if self._graph is not None:
                self._graph.replay()
            else:
                self._execute()
            for result, output in zip(results, self._outputs, strict=True):
                result.copy_(output)
        current.wait_stream(self._stream)
        return masks, in_vocab, out_vocab, survives

    def _execute(self) -> None:
        # On the default stream TensorRT would synchronize more often.
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise RuntimeError(f"the engine cannot be run: {self._log.last_error()}")

    def _capture(self) -> torch.cuda.CUDAGraph | None:
        """The engine as a CUDA graph; None if it cannot be captured, and the log says so."""
        try:
            # TensorRT-RTX knows beforehand; a capture that fails leaves errors behind.
            asked = getattr(self._context, "is_stream_capturable", None)
            if asked is not None and not asked(self._stream.cuda_stream):
                raise RuntimeError("the library does not capture this engine")
            graph = torch.cuda.CUDAGraph()
            with capturing(graph, self._stream):
                self._execute()
        except Exception as error:
            _logger.warning("the engine runs without a CUDA graph, a little slower: %s", first_line(error))
            self._stream = torch.cuda.Stream(self._device)
            return None
        return graph


class _RuntimeCache:
    """The kernels that TensorRT-RTX compiles for one engine, from process to process.

    They are compiled on the machine that runs them, when an engine is made ready and when it runs first. Whatever fails
    here costs compiling them again.
    """

    def __init__(self, engine: Any, kept: KeptFile) -> None:
        self._engine = engine
        self._kept = kept
        self._before = kept.read()
        self._config: Any | None = None
        self._cache: Any | None = None

    def create_context(self) -> Any | None:
        """An execution context that takes kernels from the cache and adds to it; None: there is not enough memory."""
        try:
            config = self._engine.create_runtime_config()
            cache = config.create_runtime_cache()
            if self._before and not cache.deserialize(self._before):
                _logger.info("%s holds kernels for something else: they are compiled again", self._kept.name)
            if not config.set_runtime_cache(cache):
                raise RuntimeError("the library refuses it")
        except Exception as error:
            _logger.warning("kernels are compiled without the runtime cache: %s", first_line(error))
            return self._engine.create_execution_context()
        self._config, self._cache = config, cache
        return self._engine.create_execution_context(runtime_config=config)

    def keep(self) -> None:
        """Keeps the kernels, if some were compiled."""
        if self._cache is None:
            return
        try:
            content = bytes(self._cache.serialize())
        except Exception as error:
            _logger.warning("the runtime cache cannot be kept: %s", first_line(error))
            return
        if content != self._before:
            self._kept.write(content)
