"""Ways to run the network, behind one interface: a normalized image in, a `ModelOutput` out."""

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
"""Backends that run an exported graph: name -> makes the library for a device and a precision ("auto" leaves it)."""

_ORDER = {"cuda": ("tensorrt", "compiled", "eager"), "cpu": ("onednn", "eager")}
"""Type of device -> backends, the fastest first; the last one runs everywhere."""

_NOTHING_TO_BUILD = ("onednn", "eager")
"""Backends that run images of any form at once."""

_GRAPH_LIBRARY = {"cuda": "tensorrt", "cpu": "openvino"}
"""Type of device -> the fastest of `LIBRARIES`."""

_CHECKED_SIZE = (256, 320)
"""Where one code serves all sizes, a small picture tells as much as a large one."""


def create_backend(
    name: str, model: FCCLIP, device: torch.device, *, precision: str = "auto", cache_dir: Path | None = None
) -> FallbackBackend:
    """Builds a backend, and has the next ones of the device's order ready for when it fails.

    Args:
        name: One of `BACKENDS`. `auto` takes the fastest that is ready for each form of image, and makes nobody wait:
            forms that recur are compiled beside the images, and of exported graphs those are taken that are there. A
            backend that is named builds what it lacks when the first image of a form comes; batches are made ready
            beside. `eager`, the reference, has nothing to fall back to.
        model: The network; it is not copied, and eager PyTorch moves it to `device`.
        device: Where images will be and outputs shall be.
        precision: "auto" leaves it to the backend, or a key of `PRECISIONS`. Eager PyTorch is always fp32.
        cache_dir: Where built graphs are kept; None takes the program's cache.

    Raises:
        SettingsError: No such backend or precision.
    """
    if name not in BACKENDS:
        raise SettingsError(f"backend is {name!r}; it must be one of {', '.join(BACKENDS)}")
    if precision not in ("auto", *PRECISIONS):
        raise SettingsError(f"precision is {precision!r}; it must be auto or one of {', '.join(PRECISIONS)}")
    if device.type == "cuda":  # kernels of Triton's run below every backend there
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
            waits=other == name or other in _NOTHING_TO_BUILD,
        )
        for other in names
    ]
    return FallbackBackend(candidates, device)


def create_graph_backend(
    name: str, model: FCCLIP, device: torch.device, *, precision: str = "auto", cache_dir: Path | None = None
) -> GraphBackend:
    """Builds one of the backends that run an exported graph, without any to fall back to.

    Args:
        name: Key of `LIBRARIES`, or `auto` for the fastest on `device`.
        model: The network.
        device: Where images will be.
        precision: "auto" or a key of `PRECISIONS`.
        cache_dir: As for `create_backend`.

    Raises:
        SettingsError: No such backend.
        BackendError: It cannot be had on this machine.
    """
    if name == "auto":
        name = _GRAPH_LIBRARY[device.type]
    if name not in LIBRARIES:
        raise SettingsError(f"{name!r} runs no exported graph; choose one of {', '.join(LIBRARIES)}")
    answers = _answers(model, device, cache_dir)
    return GraphBackend(model, device, _library(name, device, precision, answers), answers, builds=True)


def _library(name: str, device: torch.device, precision: str, answers: EagerAnswers) -> Library:
    if name == "tensorrt":  # which keeps more than its engines
        return TensorRt(device, precision, answers.files)
    return LIBRARIES[name](device, precision)


def _answers(model: FCCLIP, device: torch.device, cache_dir: Path | None) -> EagerAnswers:
    return EagerAnswers(model, device, BuiltFiles.below(cache_dir))
