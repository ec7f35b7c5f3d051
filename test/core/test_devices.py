"""A GPU that is lost to the process: recognized by asking it, and told from errors that pass. CUDA is played here."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from fcclip_core.backends.fallback import Candidate, FallbackBackend
from fcclip_core.devices import watched
from fcclip_core.errors import DeviceLostError
from fcclip_core.model.fcclip import ModelOutput

GPU = torch.device("cuda")
IMAGE = torch.zeros(1, 3, 32, 32)
ILLEGAL = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported"


class Cuda:
    """What torch.cuda says: `error` is raised by whatever asks the GPU for something."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: Exception | None = None
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(synchronize=self.ask))
        monkeypatch.setattr(torch.cuda, "empty_cache", self.ask)

    def ask(self) -> None:
        if self.error is not None:
            raise self.error


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


class Runs:
    """A backend that answers what `action` returns."""

    description, device = "stand-in", GPU

    def __init__(self, action: Callable[[], ModelOutput]) -> None:
        self.action, self.runs = action, 0

    def __call__(self, image: torch.Tensor) -> ModelOutput:
        self.runs += 1
        return self.action()

    def lacks(self, *_: int) -> str:
        return ""

    def prepare(self, *_: object, **__: object) -> None:
        self.action()


def raising(error: Exception) -> Callable[[], ModelOutput]:
    def action() -> ModelOutput:
        raise error

    return action


def answer() -> ModelOutput:
    return ModelOutput(*(torch.zeros(1) for _ in range(4)))


def joined(*backends: Runs) -> FallbackBackend:
    return FallbackBackend([Candidate(str(number), lambda b=one: b) for number, one in enumerate(backends)], GPU)


def test_a_lost_gpu_is_said_and_no_backend_is_blamed_for_it(cuda: Cuda, caplog: pytest.LogCaptureFixture) -> None:
    first, second = Runs(answer), Runs(answer)
    backend = joined(first, second)
    backend(IMAGE)
    cuda.error = RuntimeError(ILLEGAL)
    first.action = raising(RuntimeError("CUDNN_STATUS_EXECUTION_FAILED"))
    for _ in range(2):
        with pytest.raises(
            DeviceLostError, match="cuda is lost .* must be started again: CUDA error: an illegal"
        ) as at:
            backend(IMAGE)
        assert "first met as RuntimeError: CUDNN_STATUS_EXECUTION_FAILED" in str(at.value)
    with pytest.raises(DeviceLostError):
        backend.prepare(1, 32, 32)
    assert second.runs == 0 and backend.problem == ""
    assert "falling back" not in caplog.text


def test_a_cache_that_cannot_be_emptied_does_not_hinder_the_next_backend(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", raising(RuntimeError("CUDA driver error: out of memory")))
    first, second = Runs(raising(RuntimeError("out of memory"))), Runs(answer)
    backend = joined(first, second)
    backend(IMAGE)
    assert second.runs == 1 and "backend 0 is disabled: RuntimeError: out of memory" in backend.problem


@pytest.mark.parametrize(
    ("at", "error"),
    [
        pytest.param("run", ValueError("shapes differ"), id="answers"),
        pytest.param("ask", torch.OutOfMemoryError("CUDA out of memory"), id="full"),
    ],
)
def test_an_error_of_a_gpu_that_answers_stays_what_it_is(cuda: Cuda, at: str, error: Exception) -> None:
    if at == "ask":
        cuda.error = error
    with pytest.raises(type(error)), watched(GPU):
        raise error


def test_other_devices_are_not_asked(cuda: Cuda) -> None:
    cuda.error = RuntimeError(ILLEGAL)
    with pytest.raises(ValueError, match="shapes"), watched(torch.device("cpu")):
        raise ValueError("shapes differ")
