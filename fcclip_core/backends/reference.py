"""Eager PyTorch's answers to the check picture, which other backends are held against before they are used."""

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
    """Answers of one network, each computed once and kept on disk."""

    def __init__(self, model: FCCLIP, device: torch.device, files: BuiltFiles) -> None:
        """Takes the network, where to run it, and where to keep answers."""
        self.files = files
        self._model = model
        self._device = device

    @cached_property
    def name(self) -> str:
        """Beginning of the names of files that belong to this network; its two forms lie side by side."""
        return f"{self._model.config.name}-{self._weights[:12]}-{self._model.vanished_masks}"

    def key(self, spec: InputSpec) -> Key:
        """What everything built from this network follows from."""
        network = {"weights": self._weights, "vanished masks": self._model.vanished_masks}
        return {**network, "code": code_digest(), "form": str(spec)}

    def to_picture(self, spec: InputSpec) -> Reference:
        """Eager's float32 answer to the check picture of `spec`, on this device, whatever the precision of `spec`."""
        exact = InputSpec(spec.batch, spec.height, spec.width, "fp32")
        name = f"{self.name}-{exact}-{self._device.type}.reference"
        key = {**self.key(exact), "device": device_name(self._device)}
        return self.files.get(name, key, lambda: self._answer(exact), Reference.from_bytes)

    def _answer(self, spec: InputSpec) -> bytes:
        picture = check_picture(spec).to(self._device)
        # On the device for as long as it is needed: there may be no room for it beside an engine that is built.
        network = movable_copy(self._model)
        with exact_products():
            return Reference.of(EagerBackend(network, self._device)(picture)).to_bytes()

    @cached_property
    def _weights(self) -> str:
        return weights_digest(self._model)


class CheckedBackend:
    """A backend that answers the check picture of a form before it sees the first image of it."""

    def __init__(
        self,
        backend: Backend,
        answers: EagerAnswers,
        precision: str,
        *,
        sizes: int,
        size: tuple[int, int] | None = None,
    ) -> None:
        """Checks nothing yet.

        Args:
            backend: What is checked.
            answers: What it is held against.
            precision: What it computes in, a key of `TOLERANCES`.
            sizes: Sizes of images to check, from the first; a folder of photographs of all sizes is not checked one by
                one.
            size: Height and width of the one picture that stands for all forms; None: some backends make code for each.
        """
        self.device = backend.device
        self._backend = backend
        self._answers = answers
        self._precision = precision
        self._most = sizes
        self._size = size
        self._sizes: set[tuple[int, int]] = set()
        self._checked: set[InputSpec] = set()

    @property
    def description(self) -> str:
        """What runs where, for people."""
        return self._backend.description

    def __call__(self, image: Tensor) -> ModelOutput:
        """`image` float32 `(B, 3, h, w)`, normalized and padded to multiples of 32.

        Raises:
            BackendError: The backend fails, or does not give eager's answer.
        """
        batch, _, height, width = image.shape
        self._check(batch, height, width)
        return self._backend(image)

    def lacks(self, batch: int, height: int, width: int) -> str:
        """What the backend lacks, and the check that follows; see `Backend`."""
        if self._size is not None or not self._is_due(self._picture(batch, height, width)):
            return self._backend.lacks(batch, height, width)
        return self._backend.lacks(batch, height, width) or f"{batch}x{height}x{width} is being checked"

    def prepare(
        self, batch: int, height: int, width: int, progress: Progress | None = None, *, requested: bool = True
    ) -> None:
        """Makes the backend ready and runs the check picture of one form; see `Backend`."""
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
        """The form of the picture that stands for a form of images."""
        return (
            InputSpec(batch, height, width, self._precision)
            if self._size is None
            else InputSpec(1, *self._size, self._precision)
        )

    def _is_due(self, spec: InputSpec) -> bool:
        is_among = (spec.height, spec.width) in self._sizes or len(self._sizes) < self._most
        return is_among and spec not in self._checked
