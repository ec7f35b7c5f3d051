"""Several backends as one: each image goes to the first that works and is ready for it."""

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
_Answer = TypeVar("_Answer")


@dataclass
class Candidate:
    """A backend that may be tried.

    Attributes:
        name: As the user writes it.
        make: Makes it; raises `BackendError` where it cannot be had.
        requested: Whether the user named it; one that nobody named may be missing without anything being wrong.
        waits: Whether single images may wait until it is made and ready for them. Otherwise the next candidate answers
            them, and it is made ready beside.
        backend: What was made; None before.
        verified: Whether it has ever done what it was asked for.
        reason: Why it does not run, or did not run the last image; empty if it did.
        failed: Whether it is out of the question from now on.
        degraded: Whether that is a fault that somebody should look at.
        making: Held while it is made.
    """

    name: str
    make: Callable[[], Backend]
    requested: bool = False
    waits: bool = True
    backend: Backend | None = None
    verified: bool = False
    reason: str = ""
    failed: bool = False
    degraded: bool = False
    making: threading.Lock = field(default_factory=threading.Lock)


class FallbackBackend:
    """Runs each image on the first candidate that works; a failure costs no image, and is said.

    A graph may turn out not to build, or not to give eager's answer, when the first image comes, and whatever ran for
    days may fail all at once: then the next candidate runs that image and all that follow. A candidate may also leave
    images of some forms to the next. The last candidate is never given up: what is wrong may pass.

    A batch waits for nothing: where its form is not ready, it goes through the network in pieces that are.
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
        self._running = threading.RLock()
        self._preparing = threading.RLock()  # of its own, so that images run meanwhile
        self._preparations = Preparations(self._prepare)
        self._answered_last = self._candidates[-1]
        self._answered_last, _ = self._first_of(self._made)

    @property
    def description(self) -> str:
        """What ran the last image where, and why nothing better did, for people."""
        # Without a lock, which is held while an image runs: diagnostics must not wait for that.
        backend = self._answered_last.backend
        notes = [f"not {other.name}: {other.reason}" for other in self._candidates if other.reason]
        return "; ".join([backend.description if backend else "nothing", *notes])

    @property
    def problem(self) -> str:
        """What should run, and does not any more, and why; empty while there is no such thing."""
        return "; ".join(
            f"backend {other.name} is left out: {other.reason}" for other in self._candidates if other.degraded
        )

    def __call__(self, image: Tensor) -> ModelOutput:
        """`image` float32 `(B, 3, h, w)`, normalized and padded to multiples of 32.

        Raises:
            DeviceLostError: The device answers none of them any more.
            Exception: The last candidate's own. Or a batch failed on a candidate that works: it may be too large, and
                its images can be tried one by one.
        """
        lacking: list[str] = []
        with self._running:
            self._answered_last, output = self._first_of(
                lambda candidate: self._answer(candidate, image, lacking), images=len(image)
            )
            self._answered_last.reason = ""
        if lacking:
            self._preparations.meet((image.shape[0], *image.shape[2:]))
        return output

    def prepare(self, batch: int, height: int, width: int, progress: Progress | None = None) -> None:
        """Makes the first candidate that works ready for images of one form; see `Backend`."""
        self._answered_last = self._prepare((batch, height, width), True, progress)
        self._answered_last.reason = ""

    def prepare_beside(self, batches: int, height: int, width: int, *, requested: bool) -> None:
        """Makes images of one size ready, alone and together, while others run; returns at once.

        Args:
            batches: Images that may come together at most.
            height: Pixels, padding included; divisible by 32.
            width: Pixels, padding included; divisible by 32.
            requested: See `Backend.prepare`.
        """
        for batch in range(1, min(batches, LARGEST_BATCH) + 1):
            self._preparations.request((batch, height, width), requested=requested)

    def close(self, timeout: float | None = None) -> bool:
        """Makes nothing ready any more; see `Preparations.close`."""
        return self._preparations.close(timeout)

    def _prepare(self, shape: Shape, requested: bool, progress: Progress | None) -> Candidate:
        def prepare(candidate: Candidate) -> None:
            self._made(candidate).prepare(*shape, progress, requested=requested)
            candidate.verified = True

        with self._preparing:
            return self._first_of(prepare, images=shape[0])[0]

    def _first_of(self, action: Callable[[Candidate], _Answer], images: int = 1) -> tuple[Candidate, _Answer]:
        """The first candidate with which `action` succeeds, and what it gives."""
        for candidate in self._candidates:
            if candidate.failed:
                continue
            try:
                with undisturbed(), watched(self.device):
                    return candidate, action(candidate)
            except (DeviceLostError, Abandoned):  # to the other candidates, too
                raise
            except UnsupportedInputShape as error:
                candidate.reason = str(error)
                continue
            except Exception as error:  # whatever torch, CUDA and the libraries raise
                if candidate is self._candidates[-1] or (candidate.verified and images > 1):
                    raise
                self._leave_out(candidate, error)
            # Outside the handler: an error keeps alive what filled the memory. The next one may not be torch's.
            free_memory(self.device)
        raise BackendError(f"no backend works here: {self.description}")

    def _made(self, candidate: Candidate) -> Backend:
        with candidate.making:
            if candidate.backend is None:
                candidate.backend = candidate.make()
                _logger.info("backend %s: %s", candidate.name, candidate.backend.description)
            return candidate.backend

    def _answer(self, candidate: Candidate, image: Tensor, lacking: list[str]) -> ModelOutput:
        """The candidate's answer, for the whole batch or for pieces of it that are ready.

        Args:
            candidate: Who is asked.
            image: See `__call__`.
            lacking: Takes what the form of the image lacks, if it lacks something.

        Raises:
            UnsupportedInputShape: The candidate is not ready, and images do not wait for it.
        """
        if candidate.backend is None and not candidate.waits:
            lacking.append("it is not there yet")
            raise UnsupportedInputShape(lacking[-1])
        backend = self._made(candidate)
        batch, _, height, width = image.shape
        if not (lacks := backend.lacks(batch, height, width)):
            return self._run(candidate, backend, image)
        if batch == 1 and candidate.waits:
            return self._run(candidate, backend, image)
        lacking.append(lacks)
        if batch > 1 and (candidate.waits or not backend.lacks(1, height, width)):
            pieces = image.split(_pieces(batch, lambda size: not backend.lacks(size, height, width)))
            return _joined([self._run(candidate, backend, piece) for piece in pieces])
        raise UnsupportedInputShape(lacks)

    def _run(self, candidate: Candidate, backend: Backend, image: Tensor) -> ModelOutput:
        """The backend's answer; one that worked before gets a second try, because a want of memory may pass."""
        try:
            output = backend(image)
        except BackendError:  # its own verdict, and perhaps after minutes of building
            raise
        except Exception as error:
            if not candidate.verified:
                raise
            _logger.warning("backend %s failed and gets the image once more: %s", candidate.name, _described(error))
        else:
            candidate.verified = True
            return output
        free_memory(self.device)
        return backend(image)

    def _leave_out(self, candidate: Candidate, error: Exception) -> None:
        if candidate.failed:  # said by the thread that prepares, or by the one that runs images
            return
        is_fault = candidate.requested or candidate.backend is not None
        candidate.reason, candidate.failed, candidate.backend = _described(error), True, None
        candidate.degraded = is_fault
        level = logging.ERROR if is_fault else logging.INFO
        _logger.log(
            level, "backend %s does not work here, so the next one is used: %s", candidate.name, candidate.reason
        )


def _pieces(batch: int, is_ready: Callable[[int], bool]) -> list[int]:
    """Sizes of the batches that a batch is taken apart into: the largest that are ready, or single images."""
    pieces: list[int] = []
    while left := batch - sum(pieces):
        pieces.append(next((size for size in range(left, 1, -1) if is_ready(size)), 1))
    return pieces


def _joined(outputs: Sequence[ModelOutput]) -> ModelOutput:
    """Answers for the pieces of a batch as the answer for the batch."""
    return ModelOutput(
        mask_logits=torch.cat([output.mask_logits for output in outputs]),
        in_vocab_embedding=torch.cat([output.in_vocab_embedding for output in outputs]),
        out_vocab_embedding=torch.cat([output.out_vocab_embedding for output in outputs]),
        mask_survives=torch.cat([output.mask_survives for output in outputs]),
    )


def _described(error: Exception) -> str:
    """An error in one line; ours say everything in their text."""
    if isinstance(error, BackendError):
        return str(error)
    said = first_line(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
