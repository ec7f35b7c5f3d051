"""Backends that take long to be ready for a form of image: images never wait for them, and use them once they are."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time

import pytest
import torch
from torch import Tensor
from waiting import wait_for

from checkout import ROOT
from fcclip_core.backends.compiled import MAX_SIZES, CompiledBackend
from fcclip_core.backends.eager import EagerBackend
from fcclip_core.backends.fallback import Candidate, FallbackBackend
from fcclip_core.backends.interface import Progress, UnsupportedInputShape
from fcclip_core.backends.readiness import LARGEST_BATCH, RECURS
from fcclip_core.errors import BackendError
from fcclip_core.model.fcclip import ModelOutput
from fcclip_core.weights.checkpoints import load_checkpoint, load_model

CPU = torch.device("cpu")

Shape = tuple[int, int, int]


def image(batch: int = 1, height: int = 32, width: int = 32) -> Tensor:
    return torch.zeros(batch, 3, height, width)


class Slow:
    """A backend that makes each form ready only while `gate` is open, and refuses to run what is not ready.

    Attributes:
        gate: While it is cleared, nothing becomes ready.
        begun: Forms that it began to make ready, in order.
        ran: Batches that it ran.
        largest: Images that it has memory for.
        reports: Whether it tells its progress while it waits for the gate.
    """

    device, description = CPU, "slow"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.begun: list[Shape] = []
        self.ready: set[Shape] = set()
        self.ran: list[int] = []
        self.largest = 64
        self.reports = False
        self.unasked = True

    def __call__(self, given: Tensor) -> ModelOutput:
        batch, _, height, width = given.shape
        if (batch, height, width) not in self.ready:
            self.prepare(batch, height, width)
        self.ran.append(batch)
        return ModelOutput(*(torch.arange(batch) for _ in range(4)))

    def lacks(self, batch: int, height: int, width: int) -> str:
        return "" if (batch, height, width) in self.ready else f"{batch}x{height}x{width} is not ready"

    def prepare(
        self, batch: int, height: int, width: int, progress: Progress | None = None, *, requested: bool = True
    ) -> None:
        if not requested and not self.unasked:
            raise UnsupportedInputShape("nobody asked")
        if (batch, height, width) in self.ready:
            return
        self.begun.append((batch, height, width))
        end = time.monotonic() + 20
        while not self.gate.wait(0.005):
            assert time.monotonic() < end, "an image waits for what only the test lets go on"
            if progress is not None and self.reports:
                progress("building", 0, 1)
        if batch > self.largest:
            raise BackendError("out of memory")
        self.ready.add((batch, height, width))


class Plain(Slow):
    """One that is always ready."""

    description = "plain"

    def lacks(self, *_: int) -> str:
        return ""

    def __call__(self, given: Tensor) -> ModelOutput:
        self.ran.append(len(given))
        return ModelOutput(*(torch.zeros(len(given)) for _ in range(4)))


def joined(slow: Slow, plain: Plain, *, waits: bool = False) -> FallbackBackend:
    return FallbackBackend([Candidate("slow", lambda: slow, blocking=waits), Candidate("plain", lambda: plain)], CPU)


def test_images_run_on_what_is_ready_until_the_form_that_recurs_is_made() -> None:
    slow, plain = Slow(), Plain()
    backend = joined(slow, plain)
    slow.gate.clear()
    for _ in range(RECURS + 3):
        backend(image())
    wait_for(lambda: slow.begun)
    backend(image())
    assert slow.begun == [(1, 32, 32)] and not slow.ran
    assert backend.description == "plain; not slow: 1x32x32 is not ready"
    slow.gate.set()
    wait_for(lambda: slow.ready)
    backend(image())
    assert slow.ran == [1] and plain.ran == [1] * (RECURS + 4)
    assert backend.description == "slow" and backend.problem == ""
    assert backend.close(30)


def test_photographs_of_all_sizes_make_nothing_ready() -> None:
    slow, plain = Slow(), Plain()
    backend = joined(slow, plain)
    for width in range(32, 32 * 20, 32):
        for _ in range(RECURS - 1):
            backend(image(1, 32, width))
    assert backend.close(30)
    assert not slow.begun


def test_no_more_sizes_are_made_ready_than_are_kept_unless_somebody_asks() -> None:
    slow, plain = Slow(), Plain()
    backend = joined(slow, plain)
    widths = [32 * number for number in range(1, MAX_SIZES + 3)]
    for width in widths:
        backend.prepare_in_background(2, 32, width, requested=False)
    backend.prepare_in_background(1, 32, widths[-1], requested=True)
    wait_for(lambda: (1, 32, widths[-1]) in slow.ready)
    kept = [(batch, 32, width) for width in widths[:MAX_SIZES] for batch in (1, 2)]
    assert slow.begun == [*kept, (1, 32, widths[-1])]


def test_the_batches_that_can_come_are_made_ready_and_others_are_put_together_of_them() -> None:
    slow, plain = Slow(), Plain()
    backend = joined(slow, plain)
    backend.prepare_in_background(8, 32, 32, requested=False)
    wait_for(lambda: len(slow.ready) == LARGEST_BATCH == 4)
    output = backend(image(7))
    assert slow.ran == [4, 3] and not plain.ran
    assert output.mask_logits.tolist() == [0, 1, 2, 3, 0, 1, 2], "in the order of the images"


@pytest.mark.parametrize("waits", [True, False])
def test_a_batch_goes_image_by_image_until_it_is_ready(waits: bool) -> None:
    slow, plain = Slow(), Plain()
    backend = joined(slow, plain, waits=waits)
    backend.prepare(1, 32, 32)
    slow.gate.clear()
    backend.prepare_in_background(2, 32, 32, requested=False)
    wait_for(lambda: (2, 32, 32) in slow.begun)
    backend(image(2))
    assert slow.ran == [1, 1] and not plain.ran
    slow.gate.set()
    wait_for(lambda: (2, 32, 32) in slow.ready)
    backend(image(2))
    assert slow.ran == [1, 1, 2]


def test_a_backend_that_was_named_lets_single_images_wait() -> None:
    slow, plain = Slow(), Plain()
    joined(slow, plain, waits=True)(image())
    assert slow.ran == [1] and not plain.ran


def test_a_batch_that_does_not_fit_costs_neither_single_images_nor_the_backend(
    caplog: pytest.LogCaptureFixture,
) -> None:
    slow, plain = Slow(), Plain()
    slow.largest = 1
    backend = joined(slow, plain)
    backend.prepare_in_background(4, 32, 32, requested=False)
    wait_for(lambda: "2x32x32 cannot be prepared: out of memory" in caplog.text)
    assert backend.close(30)
    backend(image(3))
    assert slow.begun == [(1, 32, 32), (2, 32, 32)], "larger ones would not fit either"
    assert slow.ran == [1, 1, 1] and backend.problem == ""
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_backend_that_cannot_be_made_ready_beside_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    slow, plain = Slow(), Plain()
    slow.largest = 0
    backend = joined(slow, plain)
    backend.prepare_in_background(1, 32, 32, requested=False)
    wait_for(lambda: backend.problem)
    backend(image())
    assert backend.description == "plain; not slow: out of memory"
    assert "backend slow failed, falling back to the next one: out of memory" in caplog.text


def test_nothing_is_built_that_is_built_for_those_who_ask_alone() -> None:
    slow, plain = Slow(), Plain()
    slow.unasked = False
    backend = joined(slow, plain)
    backend.prepare_in_background(1, 32, 32, requested=False)
    backend.prepare_in_background(1, 32, 64, requested=True)
    wait_for(lambda: slow.ready)
    assert slow.begun == [(1, 32, 64)]


def test_a_backend_that_is_not_made_yet_is_made_beside_the_images() -> None:
    """Copying and compiling a network takes seconds, and the one before it may work for other forms."""
    first, slow, plain, made = Slow(), Slow(), Plain(), threading.Event()
    first.unasked = False

    def make() -> Slow:
        assert made.wait(30)
        return slow

    candidates = [
        Candidate("first", lambda: first, blocking=False),
        Candidate("slow", make, blocking=False),
        Candidate("plain", lambda: plain),
    ]
    backend = FallbackBackend(candidates, CPU)
    for _ in range(RECURS + 1):
        backend(image())
    assert plain.ran == [1] * (RECURS + 1)
    made.set()
    wait_for(lambda: slow.ready)
    backend(image())
    assert slow.ran == [1]


def test_the_thread_that_prepares_keeps_to_the_number_of_threads_of_the_one_that_asks() -> None:
    used: list[int] = []

    class Counting(Slow):
        def prepare(self, *_: object, **__: object) -> None:
            used.append(torch.get_num_threads())

    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        joined(Counting(), Plain()).prepare_in_background(1, 32, 32, requested=False)
    finally:
        torch.set_num_threads(before)
    wait_for(lambda: used)
    assert used == [before + 1]


def test_closing_does_not_wait_longer_than_it_may() -> None:
    slow, plain = Slow(), Plain()
    backend = joined(slow, plain)
    slow.gate.clear()
    backend.prepare_in_background(3, 32, 32, requested=False)
    wait_for(lambda: slow.begun)
    assert not backend.close(0.0)
    slow.gate.set()
    assert backend.close(30)
    backend.prepare_in_background(1, 32, 64, requested=True)
    assert slow.begun == [(1, 32, 32)], "what waited is dropped, and nothing new is begun"


def test_what_tells_its_progress_ends_when_nobody_waits_for_it() -> None:
    slow, plain = Slow(), Plain()
    slow.reports = True
    slow.gate.clear()
    backend = joined(slow, plain)
    backend.prepare_in_background(2, 32, 32, requested=False)
    wait_for(lambda: slow.begun)
    assert backend.close(30)
    assert not slow.ready and backend.problem == "", "the backend is not to blame"


def test_a_process_ends_although_something_is_being_made_ready() -> None:
    folders = [str(ROOT / part) for part in ("", "test", "test/core", "test/core/backends")]
    program = f"""
import sys
sys.path[:0] = {folders!r}
from test_readiness import Plain, Slow, joined
slow = Slow()
slow.reports = True
slow.gate.clear()
joined(slow, Plain()).prepare_in_background(4, 32, 32, requested=True)
"""
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, check=False)
    assert ended.returncode == 0 and not ended.stderr


def test_a_network_is_compiled_beside_the_images_and_answers_the_same() -> None:
    model = load_model(load_checkpoint("recipe:tiny"))
    compiled = CompiledBackend(model, CPU, compiler="eager")
    candidates = [
        Candidate("compiled", lambda: compiled, blocking=False),
        Candidate("eager", lambda: EagerBackend(model, CPU)),
    ]
    backend = FallbackBackend(candidates, CPU)
    picture = torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    expected = backend(picture)
    assert backend.description.startswith("eager PyTorch")
    assert "not compiled: 2x32x64 is not compiled yet" in backend.description
    backend.prepare_in_background(2, 32, 64, requested=False)
    while compiled.lacks(2, 32, 64):
        during = backend(picture)
    assert backend.close(60)
    found = backend(picture)
    assert backend.description.startswith("torch.compile (eager)")
    for answer in (during, found):
        torch.testing.assert_close(answer.mask_logits, expected.mask_logits, rtol=1e-4, atol=1e-4)
