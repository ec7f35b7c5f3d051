"""torch.compile as a backend: same answers, and failures that say what to do."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fcclip_core.backends import compiled
from fcclip_core.backends.compiled import CompiledBackend
from fcclip_core.backends.eager import EagerBackend
from fcclip_core.errors import BackendError
from fcclip_core.export.constants import capture
from fcclip_core.model.deformable_attention import sample_by_grid, set_sampler
from fcclip_core.model.fcclip import FCCLIP, ModelOutput
from fcclip_core.model.precision import in_precision
from fcclip_core.weights.checkpoints import load_checkpoint, load_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> FCCLIP:
    return load_model(load_checkpoint("recipe:tiny"))


def picture(height: int = 32, width: int = 32, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def assert_close(ours: ModelOutput, expected: ModelOutput, limit: float) -> None:
    for name, value in vars(expected).items():
        found = getattr(ours, name)
        if value.dtype == torch.bool:
            assert torch.equal(found, value)
        else:
            assert found.dtype == torch.float32
            assert float((found - value).norm() / value.norm()) <= limit, name


def test_traced_network_gives_eager_s_answer(model: FCCLIP) -> None:
    # The tracer is the compiler's front half: it fails on what cannot be compiled, and makes no kernels.
    image = picture()
    backend = CompiledBackend(model, CPU, compiler="eager")
    assert_close(backend(image), EagerBackend(model, CPU)(image), 1e-6)
    assert "torch.compile (eager)" in backend.description
    assert "float32" in backend.description


@pytest.mark.slow
def test_inductor_gives_eager_s_answer(model: FCCLIP) -> None:
    image = picture(64, 96)
    assert_close(CompiledBackend(model, CPU)(image), EagerBackend(model, CPU)(image), 1e-4)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 0.1), (torch.float16, 0.01)])
def test_short_numbers_leave_the_given_model_alone(model: FCCLIP, dtype: torch.dtype, limit: float) -> None:
    image = picture()
    expected = EagerBackend(model, CPU)(image)
    ours = CompiledBackend(model, CPU, dtype=dtype, compiler=None)(image)
    assert all(value.dtype == torch.float32 for value in vars(ours).values() if value.is_floating_point())
    assert float((ours.mask_logits - expected.mask_logits).abs().mean() / expected.mask_logits.std()) < limit
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert_close(EagerBackend(model, CPU)(image), expected, 0.0)


class Recorder(TorchDispatchMode):
    """Names of all operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.__name__.partition(".")[0])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_in_the_network_waits_for_the_host(model: FCCLIP, dtype: torch.dtype) -> None:
    # No CUDA graph may contain tensors made of lists (lift_fresh), numbers read back, or shapes that depend on data.
    network = in_precision(model, dtype)
    set_sampler(network, sample_by_grid)
    # Inference mode would show composite operators, not what they are made of.
    with torch.no_grad(), Recorder() as recorder:
        network(picture().to(dtype))
    assert "convolution" in recorder.names
    forbidden = {
        "lift_fresh",
        "lift_fresh_copy",
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "unique",
        "_unique2",
    }
    assert not recorder.names & forbidden


def test_results_survive_the_next_frame(model: FCCLIP) -> None:
    backend = CompiledBackend(model, CPU, compiler=None)
    first = backend(picture())
    kept = {name: value.clone() for name, value in vars(first).items()}
    backend(picture().flip(-1))
    for name, value in kept.items():
        assert torch.equal(getattr(first, name), value)


def test_further_sizes_run_uncompiled(
    model: FCCLIP, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is captured is another test's matter, and takes seconds a size.
    monkeypatch.setattr(compiled, "capture", lambda network, image: network)
    compilations = 0

    class Counting(CompiledBackend):
        def _compile(self, function: Any) -> Any:
            nonlocal compilations
            compilations += 1
            return function

    backend = Counting(model, CPU, compiler=None)
    compilations = 0
    with caplog.at_level(logging.WARNING):
        for width in (32, 64, 96, 128, 160, 160, 32):
            image = picture(32, width)
            assert_close(backend(image), EagerBackend(model, CPU)(image), 1e-6)
    assert compilations == compiled.MAX_SIZES == 4
    assert [record.getMessage().count("1x3x32x160 runs uncompiled") for record in caplog.records] == [1]


def test_backends_do_not_use_up_each_other_s_recompilations() -> None:
    # torch.compile counts versions per code object and refuses at a limit.
    class Network(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor]:
            return (image + 1,)

    for index in range(12):
        image = torch.zeros(index + 2)
        run = torch.compile(capture(Network(), image), backend="eager", fullgraph=True, dynamic=False)
        assert torch.equal(run(image)[0], image + 1)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            RuntimeError("Failed to find C compiler.\nmore"),
            r"RuntimeError: Failed to find C compiler\.; torch\.compile needs",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
            "OutOfMemoryError: CUDA.*not enough free memory: lower shorter_side",
        ),
        (RuntimeError("CUDNN: out of memory"), "not enough free memory"),
    ],
)
def test_failures_say_what_to_do(
    model: FCCLIP, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: str
) -> None:
    def compile(*_: Any, **__: Any) -> Any:
        def run(_: torch.Tensor) -> None:
            # Inductor reports what went wrong inside an error of its own.
            raise RuntimeError("backend='inductor' raised") from error

        return run

    backend = CompiledBackend(model, CPU, compiler=None)
    monkeypatch.setattr(torch, "compile", compile)
    backend._compiler = "inductor"
    with pytest.raises(BackendError, match=r"1x3x32x32 could not be prepared.*" + expected):
        backend(picture())
    with pytest.raises(BackendError, match="cannot be used on cpu.*" + expected):
        CompiledBackend(model, CPU)
