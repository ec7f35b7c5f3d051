"""Several backends as one: each image goes to the first that works and takes it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from fcclip_core.backends.interface import Backend, FormDeclined, Progress
from fcclip_core.errors import BackendError
from fcclip_core.model.fcclip import ModelOutput

_logger = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")


@dataclass
class Candidate:
    """A backend that may be tried.

    Attributes:
        name: As the user writes it.
        make: Makes it; raises `BackendError` where it cannot be had.
        wanted: Whether the user named it; one that nobody named may be missing without anything being wrong.
        backend: What was made; None before.
        note: Why it does not run, or did not run the last image; empty if it did.
        failed: Whether it is out of the question from now on.
    """

    name: str
    make: Callable[[], Backend]
    wanted: bool = False
    backend: Backend | None = None
    note: str = ""
    failed: bool = False


class FallbackBackend:
    """Runs each image on the first candidate that works; a failure costs no image, and is said.

    A graph may turn out not to build, or not to give eager's answer, when the first image comes: then the next
    candidate runs that image and all that follow. A candidate may also leave images of some forms to the next.
    """

    def __init__(self, candidates: Sequence[Candidate], device: torch.device) -> None:
        """Makes the first candidate that can be made.

        Args:
            candidates: In order of preference; the last one should work everywhere.
            device: Where all of them expect images.

        Raises:
            BackendError: None can be made.
        """
        self.device = device
        self._candidates = tuple(candidates)
        self._lock = threading.RLock()
        self._answered_last = self._candidates[-1]
        self._first_of(lambda _: None)

    @property
    def description(self) -> str:
        """What ran the last image where, and why nothing better did, for people."""
        # Without the lock, which is held while an image runs: diagnostics must not wait for that.
        backend = self._answered_last.backend
        notes = [f"not {other.name}: {other.note}" for other in self._candidates if other.note]
        return "; ".join([backend.description if backend else "nothing", *notes])

    def __call__(self, image: Tensor) -> ModelOutput:
        """`image` float32 `(B, 3, h, w)`, normalised and padded to multiples of 32.

        Raises:
            BackendError: Every candidate failed.
        """
        return self._first_of(lambda backend: backend(image))

    def prepare(self, batch: int, height: int, width: int, progress: Progress | None = None) -> None:
        """Makes the first candidate that works ready for images of one form; see `Backend`."""
        self._first_of(lambda backend: backend.prepare(batch, height, width, progress))

    def _first_of(self, action: Callable[[Backend], _Answer]) -> _Answer:
        with self._lock:
            for candidate in self._candidates:
                if candidate.failed:
                    continue
                try:
                    answer = action(self._made(candidate))
                except FormDeclined as error:
                    candidate.note = str(error)
                    continue
                except BackendError as error:
                    self._fail(candidate, error)
                    if candidate is self._candidates[-1]:
                        raise
                    continue
                candidate.note, self._answered_last = "", candidate
                return answer
        raise BackendError(f"no backend works here: {self.description}")

    def _made(self, candidate: Candidate) -> Backend:
        if candidate.backend is None:
            candidate.backend = candidate.make()
            _logger.info("backend %s: %s", candidate.name, candidate.backend.description)
        return candidate.backend

    def _fail(self, candidate: Candidate, error: BackendError) -> None:
        level = logging.ERROR if candidate.wanted or candidate.backend else logging.INFO
        _logger.log(level, "backend %s does not work here, so the next one is tried: %s", candidate.name, error)
        candidate.note, candidate.failed, candidate.backend = str(error), True, None
