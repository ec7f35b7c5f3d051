"""Runs TensorRT engines: one CUDA graph launch per frame, and kernels that are compiled once and kept."""

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
"""Types of `OUTPUTS`."""


class EngineRunner:
    """Runs one engine with its own stream and buffers.

    Addresses never change, so the engine is captured once, after a first run, and replayed for each frame. Results are
    copied out, so later frames do not overwrite them.
    """

    def __init__(self, engine: Any, device: torch.device, log: Any, kernels: KeptFile | None = None) -> None:
        """Runs the engine once, and captures it if possible.

        Args:
            engine: TensorRT's `ICudaEngine` with fixed shapes.
            device: Device of engine and images.
            log: The library's log, which has the reasons of failures.
            kernels: Cache of the kernels that TensorRT-RTX compiles on this GPU; None: not kept.

        Raises:
            BackendError: The engine cannot be prepared, for example for lack of memory.
            RuntimeError: The engine cannot be run.
        """
        cache = _RuntimeCache(engine, kernels) if kernels else None
        self._needed = (engine, cache)  # must outlive the context
        self._device = device
        self._log = log
        context = cache.create_context() if cache else engine.create_execution_context()
        if context is None:
            raise BackendError(f"the engine cannot be prepared to run: {log.last_error()}")
        self._context: Any = context
        self._stream = torch.cuda.Stream(device)
        # Written for the life of the engine, also outside of inference mode.
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
        """`image` float32 of the engine's shape -> the graph's outputs, not overwritten later.

        Raises:
            RuntimeError: The engine cannot be run.
        """
        masks, in_vocab, out_vocab, survives = results = tuple(map(torch.empty_like, self._outputs))
        current = torch.cuda.current_stream(self._device)
        # Everything that accesses the buffers runs on one stream, whatever stream the next frame comes from.
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
        """The engine as a CUDA graph; None, with a log message, if it cannot be captured."""
        try:
            # TensorRT-RTX can tell in advance; a failed capture leaves errors behind.
            is_capturable = getattr(self._context, "is_stream_capturable", None)
            if is_capturable is not None and not is_capturable(self._stream.cuda_stream):
                raise RuntimeError("the library cannot capture this engine")
            graph = torch.cuda.CUDAGraph()
            with capturing(graph, self._stream):
                self._execute()
        except Exception as error:
            _logger.warning("the engine runs without a CUDA graph, a little slower: %s", first_line(error))
            self._stream = torch.cuda.Stream(self._device)
            return None
        return graph


class _RuntimeCache:
    """The kernels that TensorRT-RTX compiles for one engine, kept between processes.

    They are compiled on the machine that runs them, when an engine is prepared and first run. If anything fails here,
    they are only compiled again.
    """

    def __init__(self, engine: Any, kept: KeptFile) -> None:
        self._engine = engine
        self._kept = kept
        self._before = kept.read()
        self._config: Any | None = None
        self._cache: Any | None = None

    def create_context(self) -> Any | None:
        """Creates an execution context that reads and fills the cache; None if there is not enough memory."""
        try:
            config = self._engine.create_runtime_config()
            cache = config.create_runtime_cache()
            if self._before and not cache.deserialize(self._before):
                _logger.info("%s does not fit this engine: compiling kernels again", self._kept.name)
            if not config.set_runtime_cache(cache):
                raise RuntimeError("the library rejects it")
        except Exception as error:
            _logger.warning("compiling kernels without the runtime cache: %s", first_line(error))
            return self._engine.create_execution_context()
        self._config, self._cache = config, cache
        return self._engine.create_execution_context(runtime_config=config)

    def keep(self) -> None:
        """Keeps the kernels if new ones were compiled."""
        if self._cache is None:
            return
        try:
            content = bytes(self._cache.serialize())
        except Exception as error:
            _logger.warning("the runtime cache cannot be kept: %s", first_line(error))
            return
        if content != self._before:
            self._kept.write(content)
