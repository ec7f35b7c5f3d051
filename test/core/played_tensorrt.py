"""Stand-ins for TensorRT and for torch.cuda, for what needs a GPU: what is called, in which order, and what may fail.

The engine's outputs are twice the picture's mean. It computes when it is executed, from the addresses that it has;
within a capture it does nothing until the graph is replayed, as on a GPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fcclip_core.export.onnx_export import INPUT, OUTPUTS

SHAPES = {
    INPUT: (1, 3, 8, 8),
    OUTPUTS[0]: (1, 2, 2, 2),
    OUTPUTS[1]: (1, 2, 4),
    OUTPUTS[2]: (1, 2, 4),
    OUTPUTS[3]: (1, 2),
}
NULL_POINTER = "pybind11::init(): factory function returned nullptr"


def played_module(
    name: str = "tensorrt", version: str = "10.13.3.9", *, starts: bool = True, said: str = "", **parts: Any
) -> Any:
    """A module like `tensorrt`.

    Args:
        name: Of the module.
        version: Its `__version__`.
        starts: Whether `Runtime` and `Builder` can be made.
        said: The error that the library writes to its log before it fails to start.
        parts: Further attributes, or others than those below.
    """
    module: Any = ModuleType(name)
    module.__version__ = version
    module.logs = []  # each log that an object was made with, in order

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class Starting:
        def __init__(self, log: Any) -> None:
            module.logs.append(log)
            if not starts:
                if said:
                    log.log(ILogger.ERROR, said)
                raise TypeError(NULL_POINTER)

    class Builder(Starting):
        def create_network(self, flags: int) -> object:
            return object()

        def create_builder_config(self) -> PlayedConfig:
            return module.make_config()

        def build_serialized_network(self, network: object, config: PlayedConfig) -> bytes:
            config.measure()
            return b"engine"

    class Runtime(Starting):
        def deserialize_cuda_engine(self, content: bytes) -> object | None:
            return module.make_engine()

    module.ILogger, module.Builder, module.Runtime = ILogger, Builder, Runtime
    module.IProgressMonitor = object
    module.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    module.BuilderFlag = SimpleNamespace()
    module.OnnxParser = lambda network, log: SimpleNamespace(parse=lambda onnx: True)
    module.init_libnvinfer_plugins = lambda log, namespace: True
    module.get_plugin_registry = lambda: SimpleNamespace(all_creators=[])
    module.make_config = PlayedConfig
    module.make_engine = PlayedEngine
    vars(module).update(parts)
    return module


@dataclass
class PlayedConfig:
    """Of `IBuilderConfig`, the timing cache: bytes that grow by one with each build.

    Attributes:
        accepts: Whether content of an earlier build may be used.
        broken: Raised by whatever has to do with the cache.
    """

    accepts: bool = True
    broken: Exception | None = None
    cache: Any = None

    def create_timing_cache(self, content: bytes) -> Any:
        if self.broken:
            raise self.broken
        return SimpleNamespace(content=content, serialize=lambda: self.cache.content)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch, "times of another GPU are no times of this one"
        if cache.content and not self.accepts:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.cache

    def measure(self) -> None:
        if self.cache is not None:
            self.cache.content += b"."


@dataclass
class PlayedRuntimeCache:
    """Of TensorRT-RTX's `IRuntimeCache`: kernels, and whether those of an earlier process fit."""

    accepts: bool = True
    content: bytes = b""

    def deserialize(self, content: bytes) -> bool:
        if self.accepts:
            self.content = content
        return self.accepts

    def serialize(self) -> bytes:
        return self.content


@dataclass
class PlayedEngine:
    """Of `ICudaEngine`, what is asked of it; one that runs as often as it is told, and may refuse to be captured."""

    runs: Callable[[int], bool] = lambda count: True
    capturable: bool | None = None
    cache: PlayedRuntimeCache | None = None
    compiled: int = 0
    contexts: list[PlayedContext] = field(default_factory=list)

    num_io_tensors = len(SHAPES)

    def get_tensor_name(self, index: int) -> str:
        return list(SHAPES)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return SHAPES[name]

    def create_runtime_config(self) -> Any:
        assert self.cache is not None
        config = SimpleNamespace(create_runtime_cache=lambda: self.cache, cache=None)
        config.set_runtime_cache = lambda cache: setattr(config, "cache", cache) or True
        return config

    def create_execution_context(self, runtime_config: Any = None) -> PlayedContext:
        self.contexts.append(PlayedContext(self, runtime_config.cache if runtime_config else None))
        return self.contexts[-1]


class PlayedContext:
    """Of `IExecutionContext`, what runs an engine."""

    def __init__(self, engine: PlayedEngine, cache: PlayedRuntimeCache | None) -> None:
        self.count = 0
        self._engine = engine
        self._cache = cache
        self._addresses: dict[str, int] = {}
        if engine.capturable is not None:
            self.is_stream_capturable = lambda stream: engine.capturable

    def set_tensor_address(self, name: str, address: int) -> None:
        self._addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        self.count += 1
        if not self._engine.runs(self.count):
            return False
        if self._cache is None or not self._cache.content:
            self._engine.compiled += 1
            if self._cache is not None:
                self._cache.content = b"kernels"
        PlayedCuda.here.does(stream, self._compute)
        return True

    def _compute(self) -> None:
        value = 2 * self._array(INPUT, np.float32).mean()
        for name in OUTPUTS:
            kind = np.bool_ if name == OUTPUTS[-1] else np.float32
            self._array(name, kind)[...] = value

    def _array(self, name: str, kind: type) -> np.ndarray:
        size = int(np.prod(SHAPES[name])) * np.dtype(kind).itemsize
        memory = (ctypes.c_char * size).from_address(self._addresses[name])
        return np.frombuffer(memory, kind).reshape(SHAPES[name])


class PlayedCuda:
    """Of torch.cuda, streams and graphs, with tensors in the processor's memory.

    Attributes:
        waits: Pairs of streams (waiting, waited for), in order.
        capturing: What was done within the capture that is under way; None: there is none.
        spoils: Raised when a capture ends.
    """

    here: PlayedCuda

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        PlayedCuda.here = self
        self.waits: list[tuple[int, int]] = []
        self.capturing: list[Callable[[], None]] | None = None
        self.spoils: Exception | None = None
        self.replays = 0
        self.mode = ""
        self._streams = 0
        self._current = self.stream()
        for name, part in {
            "Stream": lambda device=None: self.stream(),
            "current_stream": lambda device=None: self._current,
            "device": _nothing,
            "stream": self._on,
            "CUDAGraph": lambda: PlayedGraph(self),
            "graph": self._capture,
            "get_device_capability": lambda device=None: (8, 9),
            "get_device_properties": lambda device=None: SimpleNamespace(name="Played 4090", major=8, minor=9),
        }.items():
            monkeypatch.setattr(torch.cuda, name, part)

    def stream(self) -> Any:
        self._streams += 1
        number = self._streams
        return SimpleNamespace(
            cuda_stream=number,
            wait_stream=lambda other: self.waits.append((number, other.cuda_stream)),
            synchronize=lambda: None,
        )

    def does(self, stream: int, work: Callable[[], None]) -> None:
        """Work on a stream: kept for the graph within a capture, else done."""
        if self.capturing is None:
            work()
        else:
            self.capturing.append(work)

    @contextmanager
    def _on(self, stream: Any) -> Iterator[None]:
        before, self._current = self._current, stream
        yield
        self._current = before

    @contextmanager
    def _capture(self, graph: PlayedGraph, stream: Any, capture_error_mode: str) -> Iterator[None]:
        self.capturing, self.mode = graph.work, capture_error_mode
        try:
            yield
        finally:
            self.capturing = None
        if self.spoils:
            raise self.spoils


@dataclass
class PlayedGraph:
    """Of `torch.cuda.CUDAGraph`, what replays one."""

    cuda: PlayedCuda
    work: list[Callable[[], None]] = field(default_factory=list)

    def replay(self) -> None:
        self.cuda.replays += 1
        for step in self.work:
            step()


@contextmanager
def _nothing(*_: object) -> Iterator[None]:
    yield
