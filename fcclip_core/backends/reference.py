"""Eager PyTorch's output for the validation image, to validate other backends before they are used."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from fcclip_core.backends.eager import EagerBackend
from fcclip_core.backends.interface import Backend, Progress
from fcclip_core.devices import device_name
from fcclip_core.export.built_files import BuiltFiles, Key
from fcclip_core.export.check import Reference, check, check_picture
from fcclip_core.export.identity import code_digest, weights_digest
from fcclip_core.export.input_spec import InputSpec
from fcclip_core.model.fcclip import FCCLIP, ModelOutput
from fcclip_core.model.precision import exact_products, movable_copy


class EagerAnswers:
    """Reference outputs of one network, each computed once and kept on disk."""

    def __init__(self, model: FCCLIP, device: torch.device, files: BuiltFiles) -> None:
        """Computes nothing yet; `model` will run on `device`, and outputs are kept in `files`."""
        self.files = files
        self._model = model
        self._device = device

    @cached_property
    def name(self) -> str:
        """Prefix of this network's file names; files of both `vanished_masks` settings coexist."""
        return f"{self._model.config.name}-{self._weights[:12]}-{self._model.vanished_masks}"

    def key(self, spec: InputSpec) -> Key:
        """Everything that a file built from this network depends on."""
        network = {"weights": self._weights, "vanished masks": self._model.vanished_masks}
        return {**network, "code": code_digest(), "form": str(spec)}

    def to_picture(self, spec: InputSpec) -> Reference:
        """Eager PyTorch's float32 output for the validation image of `spec`, regardless of the precision of `spec`."""
        exact = InputSpec(spec.batch, spec.height, spec.width, "fp32")
        name = f"{self.name}-{exact}-{self._device.type}.reference"
        key = {**self.key(exact), "device": device_name(self._device)}
        return self.files.get(name, key, lambda: self._answer(exact), Reference.from_bytes)

    def _answer(self, spec: InputSpec) -> bytes:
        picture = check_picture(spec).to(self._device)
        # A temporary copy on the device: it might not fit next to an engine that is built later.
        network = movable_copy(self._model)
        with exact_products():
            return Reference.of(EagerBackend(network, self._device)(picture)).to_bytes()

    @cached_property
    def _weights(self) -> str:
        return weights_digest(self._model)


class CheckedBackend:
    """A backend that is validated on a test image of a shape before it runs the first image of that shape."""

    def __init__(
        self,
        backend: Backend,
        answers: EagerAnswers,
        precision: str,
        *,
        sizes: int,
        size: tuple[int, int] | None = None,
    ) -> None:
        """Validates nothing yet.

        Args:
            backend: The backend to validate.
            answers: Reference outputs.
            precision: The backend's precision, a key of `TOLERANCES`.
            sizes: Number of image sizes to validate; photographs of many sizes are not all validated.
            size: Height and width of one validation image for all shapes; None: one per shape, for backends that
                generate code for each.
        """
        self.device = backend.device
        self._backend = backend
        self._answers = answers
        self._precision = precision
        self._max_sizes = sizes
        self._size = size
        self._sizes: set[tuple[int, int]] = set()
        self._checked: set[InputSpec] = set()

    @property
    def description(self) -> str:
        """Human-readable description of the backend and device."""
        return self._backend.description

    def __call__(self, image: Tensor) -> ModelOutput:
        """`image` float32 `(B, 3, h, w)`, normalized and padded to multiples of 32.

        Raises:
            BackendError: The backend fails, or its output differs from eager PyTorch's.
        """
        batch, _, height, width = image.shape
        self._check(batch, height, width)
        return self._backend(image)

    def lacks(self, batch: int, height: int, width: int) -> str:
        """What the backend or its validation still needs; see `Backend`."""
        if self._size is not None or not self._is_due(self._picture(batch, height, width)):
            return self._backend.lacks(batch, height, width)
        return self._backend.lacks(batch, height, width) or f"{batch}x{height}x{width} is being validated"

    def prepare(
        self, batch: int, height: int, width: int, progress: Progress | None = None, *, requested: bool = True
    ) -> None:
        """Prepares the backend for one shape and validates it; see `Backend`."""
        self._backend.prepare(batch, height, width, progress, requested=requested)
        self._check(batch, height, width)

    def _check(self, batch: int, height: int, width: int) -> None:
        spec = self._picture(batch, height, width)
        if not self._is_due(spec):
            return
        output = self._backend(check_picture(spec).to(self.device))
        check(self._backend.description, self._answers.to_picture(spec), output, self._precision)
        self._sizes.add((spec.height, spec.width))
        self._checked.add(spec)

    def _picture(self, batch: int, height: int, width: int) -> InputSpec:
        """The shape of the validation image for an image shape."""
        return (
            InputSpec(batch, height, width, self._precision)
            if self._size is None
            else InputSpec(1, *self._size, self._precision)
        )

    def _is_due(self, spec: InputSpec) -> bool:
        is_included = (spec.height, spec.width) in self._sizes or len(self._sizes) < self._max_sizes
        return is_included and spec not in self._checked
