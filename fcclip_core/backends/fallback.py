"""Several backends as one: each image runs on the first backend that works and is ready for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from fcclip_core.backends.interface import Backend, Progress, UnsupportedInputShape
from fcclip_core.backends.readiness import LARGEST_BATCH, Abandoned, Preparations, Shape
from fcclip_core.devices import free_memory, undisturbed, watched
from fcclip_core.errors import BackendError, DeviceLostError
from fcclip_core.model.fcclip import ModelOutput
from fcclip_core.quoting import first_line

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")


@dataclass
class Candidate:
    """A backend that may be used.

    Attributes:
        name: Its name in the settings.
        make: Creates it; raises `BackendError` if it is not available.
        requested: Whether the user named it; a missing backend that was not requested is not a fault.
        blocking: Whether single images wait until it is created and ready for them. Otherwise the next candidate runs
            them, while this one is prepared in the background.
        backend: The backend, None until it is created.
        verified: Whether it has worked at least once.
        reason: Why it does not run, or did not run the last image; empty if it did.
        failed: Whether it is disabled for good.
        degraded: Whether its failure is a fault that the user should look at.
        making: Held while it is created.
    """

    name: str
    make: Callable[[], Backend]
    requested: bool = False
    blocking: bool = True
    backend: Backend | None = None
    verified: bool = False
    reason: str = ""
    failed: bool = False
    degraded: bool = False
    making: threading.Lock = field(default_factory=threading.Lock)


class FallbackBackend:
    """Runs each image on the first candidate that works; a failure is reported and loses no image.

    A graph may fail to build or to pass validation when the first image arrives, and a backend may fail after days.
    Then the next candidate runs that image and all later ones. A candidate may also decline image shapes that it does
    not support. The last candidate is never disabled, because its failure may be temporary.

    A batch never blocks: if its shape is not ready, it runs in smaller batches that are.
    """

    def __init__(self, candidates: Sequence[Candidate], device: torch.device) -> None:
        """Creates the first candidate that is available.

        Args:
            candidates: In order of preference; the last one should always work.
            device: Device of the images for all candidates.

        Raises:
            BackendError: No candidate is available.
        """
        self.device = device
        self._candidates = tuple(candidates)
        self._running = threading.RLock()
        self._preparing = threading.RLock()  # separate, so that images run during preparation
        self._preparations = Preparations(self._prepare)
        self._last_used = self._candidates[-1]
        self._last_used, _ = self._first_of(self._made)

    @property
    def description(self) -> str:
        """Human-readable: the backend and device of the last image, and why no better backend ran it."""
        # No lock: it is held while an image runs, and diagnostics must not wait for that.
        backend = self._last_used.backend
        notes = [f"not {other.name}: {other.reason}" for other in self._candidates if other.reason]
        return "; ".join([backend.description if backend else "nothing", *notes])

    @property
    def problem(self) -> str:
        """Backends that should run but were disabled, with reasons; empty if there are none."""
        return "; ".join(
            f"backend {other.name} is disabled: {other.reason}" for other in self._candidates if other.degraded
        )

    def __call__(self, image: Tensor) -> ModelOutput:
        """`image` float32 `(B, 3, h, w)`, normalized and padded to multiples of 32.

        Raises:
            DeviceLostError: The device no longer responds.
            Exception: The last candidate's error. Or a batch failed on a candidate that works: it may be too large, and
                its images can be run one by one.
        """
        missing: list[str] = []
        with self._running:
            self._last_used, output = self._first_of(
                lambda candidate: self._answer(candidate, image, missing), images=len(image)
            )
            self._last_used.reason = ""
        if missing:
            self._preparations.count((image.shape[0], *image.shape[2:]))
        return output

    def prepare(self, batch: int, height: int, width: int, progress: Progress | None = None) -> None:
        """Prepares the first candidate that works for images of one shape; see `Backend`."""
        self._last_used = self._prepare((batch, height, width), True, progress)
        self._last_used.reason = ""

    def prepare_in_background(self, batches: int, height: int, width: int, *, requested: bool) -> None:
        """Prepares one image size in the background, for all batch sizes; returns at once.

        Args:
            batches: Largest batch size.
            height: Pixels, padding included; divisible by 32.
            width: Pixels, padding included; divisible by 32.
            requested: See `Backend.prepare`.
        """
        for batch in range(1, min(batches, LARGEST_BATCH) + 1):
            self._preparations.request((batch, height, width), requested=requested)

    def close(self, timeout: float | None = None) -> bool:
        """Stops preparing in the background; see `Preparations.close`."""
        return self._preparations.close(timeout)

    def _prepare(self, shape: Shape, requested: bool, progress: Progress | None) -> Candidate:
        def prepare(candidate: Candidate) -> None:
            self._made(candidate).prepare(*shape, progress, requested=requested)
            candidate.verified = True

        with self._preparing:
            return self._first_of(prepare, images=shape[0])[0]

    def _first_of(self, action: Callable[[Candidate], _Result], images: int = 1) -> tuple[Candidate, _Result]:
        """The first candidate for which `action` succeeds, and the result."""
        for candidate in self._candidates:
            if candidate.failed:
                continue
            try:
                with undisturbed(), watched(self.device):
                    return candidate, action(candidate)
            except (DeviceLostError, Abandoned):  # other candidates would not help
                raise
            except UnsupportedInputShape as error:
                candidate.reason = str(error)
                continue
            except Exception as error:  # torch, CUDA and the libraries raise various types
                if candidate is self._candidates[-1] or (candidate.verified and images > 1):
                    raise
                self._disable(candidate, error)
            # Outside the handler: the error keeps tensors alive. The next backend may not use torch's allocator.
            free_memory(self.device)
        raise BackendError(f"no backend works on this machine: {self.description}")

    def _made(self, candidate: Candidate) -> Backend:
        with candidate.making:
            if candidate.backend is None:
                candidate.backend = candidate.make()
                _logger.info("backend %s: %s", candidate.name, candidate.backend.description)
            return candidate.backend

    def _answer(self, candidate: Candidate, image: Tensor, missing: list[str]) -> ModelOutput:
        """Runs the candidate on the whole batch, or on smaller batches that are ready.

        Args:
            candidate: The candidate to run.
            image: See `__call__`.
            missing: Receives what the image's shape still lacks, if anything.

        Raises:
            UnsupportedInputShape: The candidate is not ready and does not block.
        """
        if candidate.backend is None and not candidate.blocking:
            missing.append("it is not created yet")
            raise UnsupportedInputShape(missing[-1])
        backend = self._made(candidate)
        batch, _, height, width = image.shape
        lacks = backend.lacks(batch, height, width)
        if not lacks or (batch == 1 and candidate.blocking):
            return self._run(candidate, backend, image)
        missing.append(lacks)
        if batch > 1 and (candidate.blocking or not backend.lacks(1, height, width)):
            pieces = image.split(_split_sizes(batch, lambda size: not backend.lacks(size, height, width)))
            outputs = [vars(self._run(candidate, backend, piece)).values() for piece in pieces]
            return ModelOutput(*map(torch.cat, zip(*outputs, strict=True)))
        raise UnsupportedInputShape(lacks)

    def _run(self, candidate: Candidate, backend: Backend, image: Tensor) -> ModelOutput:
        """Runs the backend; retries once if it worked before, because a lack of memory may be temporary."""
        try:
            output = backend(image)
        except BackendError:  # final, and perhaps after minutes of building
            raise
        except Exception as error:
            if not candidate.verified:
                raise
            _logger.warning("backend %s failed, retrying the image once: %s", candidate.name, _described(error))
        else:
            candidate.verified = True
            return output
        free_memory(self.device)
        return backend(image)

    def _disable(self, candidate: Candidate, error: Exception) -> None:
        if candidate.failed:  # already reported by the other thread (background preparation or inference)
            return
        is_fault = candidate.requested or candidate.backend is not None
        candidate.reason, candidate.failed, candidate.backend = _described(error), True, None
        candidate.degraded = is_fault
        level = logging.ERROR if is_fault else logging.INFO
        _logger.log(level, "backend %s failed, falling back to the next one: %s", candidate.name, candidate.reason)


def _split_sizes(batch: int, is_ready: Callable[[int], bool]) -> list[int]:
    """Splits a batch size into the largest sizes that are ready, or into single images."""
    sizes: list[int] = []
    while left := batch - sum(sizes):
        sizes.append(next((size for size in range(left, 1, -1) if is_ready(size)), 1))
    return sizes


def _described(error: Exception) -> str:
    """An error in one line; a `BackendError` needs no type name."""
    if isinstance(error, BackendError):
        return str(error)
    text = first_line(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
