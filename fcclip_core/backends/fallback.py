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
from fcclip_core.devices import free_memory, watched
from fcclip_core.errors import BackendError, DeviceLostError, first_line
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
        proven: Whether it has ever done what it was asked for.
        note: Why it does not run, or did not run the last image; empty if it did.
        failed: Whether it is out of the question from now on.
        missed: Whether that is a fault that somebody should look at.
    """

    name: str
    make: Callable[[], Backend]
    wanted: bool = False
    backend: Backend | None = None
    proven: bool = False
    note: str = ""
    failed: bool = False
    missed: bool = False


class FallbackBackend:
    """Runs each image on the first candidate that works; a failure costs no image, and is said.

    A graph may turn out not to build, or not to give eager's answer, when the first image comes, and whatever ran for
    days may fail all at once: then the next candidate runs that image and all that follow. A candidate may also leave
    images of some forms to the next. The last candidate is never given up: what is wrong may pass.
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
        self._first_of(self._made)

    @property
    def description(self) -> str:
        """What ran the last image where, and why nothing better did, for people."""
        # Without the lock, which is held while an image runs: diagnostics must not wait for that.
        backend = self._answered_last.backend
        notes = [f"not {other.name}: {other.note}" for other in self._candidates if other.note]
        return "; ".join([backend.description if backend else "nothing", *notes])

    @property
    def problem(self) -> str:
        """What should run, and does not any more, and why; empty while there is no such thing."""
        return "; ".join(
            f"backend {other.name} is left out: {other.note}" for other in self._candidates if other.missed
        )

    def __call__(self, image: Tensor) -> ModelOutput:
        """`image` float32 `(B, 3, h, w)`, normalised and padded to multiples of 32.

        Raises:
            DeviceLostError: The device answers none of them any more.
            Exception: The last candidate's own. Or a batch failed on a candidate that works: it may be too large, and
                its images can be tried one by one.
        """
        return self._first_of(lambda candidate: self._answer(candidate, image), images=len(image))

    def prepare(self, batch: int, height: int, width: int, progress: Progress | None = None) -> None:
        """Makes the first candidate that works ready for images of one form; see `Backend`."""

        def prepare(candidate: Candidate) -> None:
            self._made(candidate).prepare(batch, height, width, progress)
            candidate.proven = True

        self._first_of(prepare)

    def _first_of(self, action: Callable[[Candidate], _Answer], images: int = 1) -> _Answer:
        with self._lock:
            for candidate in self._candidates:
                if candidate.failed:
                    continue
                try:
                    with watched(self.device):
                        answer = action(candidate)
                except DeviceLostError:  # to the other candidates, too
                    raise
                except FormDeclined as error:
                    candidate.note = str(error)
                    continue
                except Exception as error:  # whatever torch, CUDA and the libraries raise
                    if candidate is self._candidates[-1] or (candidate.proven and images > 1):
                        raise
                    self._leave_out(candidate, error)
                else:
                    candidate.note, self._answered_last = "", candidate
                    return answer
                # Outside the handler: an error keeps alive what filled the memory. The next one may not be torch's.
                free_memory(self.device)
        raise BackendError(f"no backend works here: {self.description}")

    def _made(self, candidate: Candidate) -> Backend:
        if candidate.backend is None:
            candidate.backend = candidate.make()
            _logger.info("backend %s: %s", candidate.name, candidate.backend.description)
        return candidate.backend

    def _answer(self, candidate: Candidate, image: Tensor) -> ModelOutput:
        """The candidate's answer; one that worked before gets a second try, because a want of memory may pass."""
        backend = self._made(candidate)
        try:
            output = backend(image)
        except BackendError:  # its own verdict, and perhaps after minutes of building
            raise
        except Exception as error:
            if not candidate.proven:
                raise
            _logger.warning("backend %s failed and gets the image once more: %s", candidate.name, _described(error))
        else:
            candidate.proven = True
            return output
        free_memory(self.device)
        return backend(image)

    def _leave_out(self, candidate: Candidate, error: Exception) -> None:
        is_fault = candidate.wanted or candidate.backend is not None
        candidate.note, candidate.failed, candidate.backend = _described(error), True, None
        candidate.missed = is_fault
        level = logging.ERROR if is_fault else logging.INFO
        _logger.log(level, "backend %s does not work here, so the next one is used: %s", candidate.name, candidate.note)


def _described(error: Exception) -> str:
    """An error in one line; ours say everything in their text."""
    if isinstance(error, BackendError):
        return str(error)
    said = first_line(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
