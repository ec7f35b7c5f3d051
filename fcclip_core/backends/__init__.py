"""Backends that run the network, behind one interface: normalized image in, `ModelOutput` out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import torch

from fcclip_core.backends.compiled import MAX_SIZES, CompiledBackend
from fcclip_core.backends.eager import EagerBackend
from fcclip_core.backends.fallback import Candidate, FallbackBackend
from fcclip_core.backends.graph import GraphBackend, Library
from fcclip_core.backends.interface import Backend
from fcclip_core.backends.onednn import OneDnnBackend
from fcclip_core.backends.onnxruntime import OnnxRuntime
from fcclip_core.backends.openvino import OpenVino
from fcclip_core.backends.reference import CheckedBackend, EagerAnswers
from fcclip_core.backends.tensorrt import TensorRt
from fcclip_core.errors import SettingsError
from fcclip_core.export.built_files import BuiltFiles
from fcclip_core.export.input_spec import PRECISIONS, precision_of
from fcclip_core.files.cache_folder import guard_compilers
from fcclip_core.model.fcclip import FCCLIP

__all__ = ["BACKENDS", "LIBRARIES", "Backend", "FallbackBackend", "create_backend", "create_graph_backend"]

BACKENDS = ("auto", "eager", "onednn", "compiled", "openvino", "onnxruntime", "tensorrt")

LIBRARIES: dict[str, Callable[[torch.device, str], Library]] = {
    "openvino": OpenVino,
    "onnxruntime": OnnxRuntime,
    "tensorrt": TensorRt,
}
"""Backends that run an exported graph: name -> constructor of the library, given device and precision (or "auto")."""

_ORDER = {"cuda": ("tensorrt", "compiled", "eager"), "cpu": ("onednn", "eager")}
"""Device type -> backends, fastest first; the last one always works."""

_NOTHING_TO_BUILD = ("onednn", "eager")
"""Backends that run images of any shape without preparation."""

_GRAPH_LIBRARY = {"cuda": "tensorrt", "cpu": "openvino"}
"""Device type -> the fastest of `LIBRARIES`."""

_CHECKED_SIZE = (256, 320)
"""Height and width of the validation image of backends that run the same code for all sizes."""


def create_backend(
    name: str, model: FCCLIP, device: torch.device, *, precision: str = "auto", cache_dir: Path | None = None
) -> FallbackBackend:
    """Creates a backend, with the device's other backends as fallback.

    Args:
        name: One of `BACKENDS`. `auto` runs each image on the fastest backend that is ready for its shape and never
            blocks: recurring shapes are compiled in the background, and only graphs that are already built are used. A
            backend requested by name builds what it needs when the first image of a shape arrives; batch shapes are
            prepared in the background. `eager`, the reference, has no fallback.
        model: The network; it is not copied, and eager PyTorch moves it to `device`.
        device: Device of images and outputs.
        precision: "auto" (the backend chooses) or a key of `PRECISIONS`. Eager PyTorch always runs in fp32.
        cache_dir: Where to keep built graphs; None: the program's cache.

    Raises:
        SettingsError: Unknown backend or precision.
    """
    if name not in BACKENDS:
        raise SettingsError(f"backend is {name!r}; it must be one of {', '.join(BACKENDS)}")
    if precision not in ("auto", *PRECISIONS):
        raise SettingsError(f"precision is {precision!r}; it must be auto or one of {', '.join(PRECISIONS)}")
    if device.type == "cuda":  # every backend may run Triton kernels there
        guard_compilers()
    answers = _answers(model, device, cache_dir)

    def make(candidate: str) -> Backend:
        if candidate == "eager":
            return EagerBackend(model, device)
        if candidate == "compiled":
            compiled = CompiledBackend(model, device, dtype=PRECISIONS.get(precision))
            return CheckedBackend(compiled, answers, precision_of(compiled.dtype), sizes=MAX_SIZES)
        if candidate == "onednn":
            onednn = OneDnnBackend(model, device, precision, answers.files.folder)
            return CheckedBackend(onednn, answers, onednn.precision, sizes=1, size=_CHECKED_SIZE)
        library = _library(candidate, device, precision, answers)
        return GraphBackend(model, device, library, answers, builds=candidate == name)

    order = _ORDER[device.type]
    names = order if name == "auto" else (name, *(other for other in order if name not in ("eager", other)))
    candidates = [
        Candidate(
            other,
            functools.partial(make, other),
            requested=other == name,
            blocking=other == name or other in _NOTHING_TO_BUILD,
        )
        for other in names
    ]
    return FallbackBackend(candidates, device)


def create_graph_backend(
    name: str, model: FCCLIP, device: torch.device, *, precision: str = "auto", cache_dir: Path | None = None
) -> GraphBackend:
    """Creates a backend that runs an exported graph, without fallback.

    Args:
        name: Key of `LIBRARIES`, or `auto` for the fastest on `device`.
        model: The network.
        device: Device of images and outputs.
        precision: "auto" or a key of `PRECISIONS`.
        cache_dir: As for `create_backend`.

    Raises:
        SettingsError: Unknown backend.
        BackendError: It is not available on this machine.
    """
    if name == "auto":
        name = _GRAPH_LIBRARY[device.type]
    if name not in LIBRARIES:
        raise SettingsError(f"backend {name!r} does not run exported graphs; choose one of {', '.join(LIBRARIES)}")
    answers = _answers(model, device, cache_dir)
    return GraphBackend(model, device, _library(name, device, precision, answers), answers, builds=True)


def _library(name: str, device: torch.device, precision: str, answers: EagerAnswers) -> Library:
    if name == "tensorrt":  # also keeps timing or kernel caches
        return TensorRt(device, precision, answers.files)
    return LIBRARIES[name](device, precision)


def _answers(model: FCCLIP, device: torch.device, cache_dir: Path | None) -> EagerAnswers:
    return EagerAnswers(model, device, BuiltFiles.below(cache_dir))
