"""Choosing a backend, and what happens when one fails: the next answers, the log and the description say why."""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor
from waiting import wait_for

from fcclip_core import backends
from fcclip_core.backends import create_backend, graph, readiness, reference
from fcclip_core.backends.eager import EagerBackend
from fcclip_core.backends.fallback import Candidate, FallbackBackend
from fcclip_core.backends.graph import RUNNERS, Exporter, GraphBackend
from fcclip_core.backends.interface import UnsupportedInputShape
from fcclip_core.backends.reference import CheckedBackend, EagerAnswers
from fcclip_core.errors import BackendError, SettingsError
from fcclip_core.export.built_files import BuiltFiles
from fcclip_core.export.input_spec import InputSpec
from fcclip_core.model.config import TINY
from fcclip_core.model.deformable_attention import sample_by_gather
from fcclip_core.model.fcclip import FCCLIP, ModelOutput
from fcclip_core.settings import BEST_CELL

CPU = torch.device("cpu")
IMAGE = torch.zeros(1, 3, 32, 32)


def output(spec: InputSpec, offset: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Something of the right shape."""
    generator = torch.Generator().manual_seed(spec.height * spec.width)
    masks = torch.randn(spec.batch, 5, spec.height // 4, spec.width // 4, generator=generator)
    embedding = torch.randn(spec.batch, 5, 8, generator=generator)
    return masks + offset, embedding + offset, embedding, torch.ones(spec.batch, 5, dtype=torch.bool)


@dataclass
class FakeLibrary:
    """Builds at once, counts, and may fail."""

    name: str = "Fake 1.0"
    precision: str = "fp32"
    suffix: str = ".fake"
    key: dict[str, str] = field(default_factory=lambda: {"library": "Fake 1.0"})
    built: list[bytes] = field(default_factory=list)
    offset: float = 0.0
    build_error: str = ""
    when_run: Callable[[], None] = field(default=lambda: None)

    def build(self, export: Exporter, progress: Callable[[str, int, int], None]) -> bytes:
        if self.build_error:
            raise BackendError(self.build_error)
        onnx = export(sample_by_gather)
        progress("building", 1, 1)
        self.built.append(onnx)
        return b"built " + onnx

    def load(self, built: bytes, spec: InputSpec) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]:
        assert built == f"built {spec}".encode()

        def run(image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            self.when_run()
            return output(spec, self.offset)

        return run


class FakeEager:
    """Stands for eager PyTorch."""

    def __init__(self, model: FCCLIP, device: torch.device) -> None:
        self.device, self.description = device, "eager stand-in"

    def __call__(self, image: Tensor) -> ModelOutput:
        return ModelOutput(*output(InputSpec.of(image, "fp32")))

    def lacks(self, *_: int) -> str:
        return ""

    def prepare(self, *_: object, **__: object) -> None:
        pass


@pytest.fixture(scope="module")
def model() -> FCCLIP:
    return FCCLIP(TINY)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    """The library of backend `openvino`, beside eager and an exporter that are quick."""
    library = FakeLibrary()
    monkeypatch.setattr(reference, "EagerBackend", FakeEager)
    monkeypatch.setattr(backends, "EagerBackend", FakeEager)
    monkeypatch.setattr(graph, "export_onnx", lambda model, spec, sampler: str(spec).encode())
    monkeypatch.setitem(backends.LIBRARIES, "openvino", lambda device, precision: library)
    monkeypatch.setitem(backends._ORDER, "cpu", ("openvino", "eager"))
    return library


@pytest.fixture
def backend(library: FakeLibrary, model: FCCLIP, tmp_path: Path) -> GraphBackend:
    return GraphBackend(model, CPU, library, EagerAnswers(model, CPU, BuiltFiles(tmp_path)), builds=True)


def equal(one: ModelOutput, other: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(vars(one).values(), other, strict=True))


# --- graphs -------------------------------------------------------------------------------------------------------


def test_a_form_is_built_once_and_found_by_the_next_process(
    backend: GraphBackend, library: FakeLibrary, model: FCCLIP, tmp_path: Path
) -> None:
    assert equal(backend(IMAGE), output(InputSpec(1, 32, 32, "fp32")))
    backend(IMAGE)
    backend(torch.zeros(2, 3, 32, 64))
    assert library.built == [b"1x32x32-fp32", b"2x32x64-fp32"]
    again = GraphBackend(model, CPU, library, EagerAnswers(model, CPU, BuiltFiles(tmp_path)), builds=False)
    again(IMAGE)
    assert len(library.built) == 2
    assert again.description == "Fake 1.0 on cpu, ready for 1x32x32-fp32"


def test_other_weights_never_run_an_old_graph(backend: GraphBackend, library: FakeLibrary, tmp_path: Path) -> None:
    backend(IMAGE)
    other = FCCLIP(TINY)
    other.load_state_dict(backend._model.state_dict())
    with torch.no_grad():
        other.mask_decoder.query_content.weight[0, 0] += 1e-3
    GraphBackend(other, CPU, library, EagerAnswers(other, CPU, BuiltFiles(tmp_path)), builds=True)(IMAGE)
    assert len(library.built) == 2


def test_the_two_forms_of_vanished_masks_never_run_each_other_s_graph(
    backend: GraphBackend, library: FakeLibrary, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend(IMAGE)
    other = FCCLIP(TINY, BEST_CELL)
    other.load_state_dict(backend._model.state_dict())
    for model, built in ((other, 2), (backend._model, 2), (other, 2)):
        answers = EagerAnswers(model, CPU, BuiltFiles(tmp_path))
        GraphBackend(model, CPU, library, answers, builds=True)(IMAGE)
        assert len(library.built) == built
    assert len(list(tmp_path.glob("*.fake"))) == 2
    # By name one may still be taken for the other: the key tells them apart, too.
    (mine,), (others,) = tmp_path.glob("*published*.fake"), tmp_path.glob("*best_cell*.fake")
    others.write_bytes(mine.read_bytes())
    GraphBackend(other, CPU, library, EagerAnswers(other, CPU, BuiltFiles(tmp_path)), builds=True)(IMAGE)
    assert len(library.built) == 3
    assert "its vanished masks is published; expected best_cell" in caplog.text


def test_another_version_of_the_library_builds_again(
    backend: GraphBackend, library: FakeLibrary, model: FCCLIP, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend(IMAGE)
    library.key = {"library": "Fake 2.0"}
    GraphBackend(model, CPU, library, EagerAnswers(model, CPU, BuiltFiles(tmp_path)), builds=True)(IMAGE)
    assert len(library.built) == 2
    assert "its library is Fake 1.0; expected Fake 2.0" in caplog.text


def test_a_truncated_graph_is_built_again(
    backend: GraphBackend, library: FakeLibrary, model: FCCLIP, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend(IMAGE)
    (path,) = tmp_path.glob("*.fake")
    path.write_bytes(path.read_bytes()[:-3])
    GraphBackend(model, CPU, library, EagerAnswers(model, CPU, BuiltFiles(tmp_path)), builds=True)(IMAGE)
    assert len(library.built) == 2
    assert "truncated" in caplog.text


def test_no_more_forms_are_built_than_are_held(backend: GraphBackend, library: FakeLibrary) -> None:
    sizes = [32 * (index + 1) for index in range(RUNNERS + 2)]
    for size in sizes[:RUNNERS]:
        backend(torch.zeros(1, 3, size, 32))
    with pytest.raises(UnsupportedInputShape, match=rf"--size 32x{sizes[RUNNERS]} --batch 1 --precision fp32"):
        backend(torch.zeros(1, 3, sizes[RUNNERS], 32))
    backend.prepare(1, sizes[RUNNERS], 32)
    assert len(library.built) == RUNNERS + 1, "what is asked for is built"
    backend(torch.zeros(1, 3, sizes[0], 32))
    assert len(library.built) == RUNNERS + 1, "the oldest was dropped from memory, not from disk"


def test_batches_of_one_size_do_not_push_each_other_out_of_memory(backend: GraphBackend) -> None:
    """They take turns from frame to frame."""
    for width in (32, 64):
        for batch in range(1, RUNNERS + 1):
            backend.prepare(batch, 32, width)
    assert len(backend._runners) == 2 * RUNNERS
    for width in range(96, 96 + 32 * RUNNERS, 32):
        backend.prepare(1, 32, width)
    assert len(backend._runners) == RUNNERS


def test_a_batch_without_a_graph_goes_through_the_graph_for_one_image(
    library: FakeLibrary, model: FCCLIP, tmp_path: Path
) -> None:
    make("openvino", model, tmp_path)(IMAGE)
    ran: list[None] = []
    library.when_run = lambda: ran.append(None)
    together = make("auto", model, tmp_path)(IMAGE.expand(3, -1, -1, -1))
    assert library.built == [b"1x32x32-fp32"]
    single = output(InputSpec(1, 32, 32, "fp32"))
    assert equal(together, tuple(torch.cat([tensor] * 3) for tensor in single))
    # The first of them loads the graph, which is checked then.
    assert len(ran) == 4


def test_images_run_while_a_graph_is_built(backend: GraphBackend, library: FakeLibrary) -> None:
    backend(IMAGE)
    building, go_on = threading.Event(), threading.Event()

    def report(*_: object) -> None:
        building.set()
        assert go_on.wait(30)

    thread = threading.Thread(target=backend.prepare, args=(1, 64, 32, report))
    thread.start()
    assert building.wait(30)
    ran = threading.Event()
    threading.Thread(target=lambda: (backend(IMAGE), ran.set())).start()
    assert ran.wait(30)
    assert backend.lacks(1, 64, 32)
    go_on.set()
    thread.join()
    assert not backend.lacks(1, 64, 32)


def declined_images(run: Callable[[Tensor], object], count: int = 3) -> list[weakref.ref[Tensor]]:
    """Runs images of a form that has no graph, and keeps none of them."""
    seen = []
    for _ in range(count):
        image = torch.zeros(1, 3, 32, 64)
        seen.append(weakref.ref(image))
        with contextlib.suppress(UnsupportedInputShape):
            run(image)
    return seen


def test_declined_images_are_not_kept(library: FakeLibrary, model: FCCLIP, tmp_path: Path, no_collector: None) -> None:
    answers = EagerAnswers(model, CPU, BuiltFiles(tmp_path))
    declining = GraphBackend(model, CPU, library, answers, builds=False)
    assert not any(image() is not None for image in declined_images(declining))
    with_eager = make("auto", model, tmp_path)
    assert not any(image() is not None for image in declined_images(with_eager))
    assert "not openvino: no graph for 1x32x64-fp32" in with_eager.description


def test_the_reference_is_float32_and_leaves_the_model_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shortened: list[bool] = []

    class Watched(FakeEager):
        def __init__(self, model: FCCLIP, device: torch.device) -> None:
            super().__init__(model.to("meta"), device)

        def __call__(self, image: Tensor) -> ModelOutput:
            shortened.append(torch.backends.cudnn.allow_tf32)
            return super().__call__(image)

    monkeypatch.setattr(reference, "EagerBackend", Watched)
    mine = FCCLIP(TINY)
    EagerAnswers(mine, CPU, BuiltFiles(tmp_path)).to_picture(InputSpec(1, 32, 32, "fp16"))
    assert shortened == [False] and torch.backends.cudnn.allow_tf32
    assert {parameter.device for parameter in mine.parameters()} == {CPU}


def test_an_answer_of_another_device_is_not_taken_for_this_one_s(
    library: FakeLibrary, model: FCCLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []
    for name in ("cpu", "cpu", "NVIDIA Thor sm_110", "NVIDIA Thor sm_110", "NVIDIA H200 sm_90"):
        monkeypatch.setattr(reference, "device_name", lambda device, name=name: name)
        answers = EagerAnswers(model, CPU, BuiltFiles(tmp_path))
        answer = answers._answer
        monkeypatch.setattr(answers, "_answer", lambda spec, a=answer, n=name: computed.append(n) or a(spec))
        answers.to_picture(InputSpec(1, 32, 32, "fp32"))
    assert computed == ["cpu", "NVIDIA Thor sm_110", "NVIDIA H200 sm_90"]


def test_the_device_is_free_of_the_network_while_a_graph_is_built(
    backend: GraphBackend, model: FCCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    exported: list[weakref.ref[FCCLIP]] = []

    def export(network: FCCLIP, spec: InputSpec, sampler: object) -> bytes:
        assert network is not model
        exported.append(weakref.ref(network))
        return str(spec).encode()

    def free(device: torch.device) -> None:
        gc.collect()
        steps.append("freed" if exported and exported[0]() is None else "freed first")

    monkeypatch.setattr(graph, "export_onnx", export)
    monkeypatch.setattr(graph, "free_memory", free)
    backend.prepare(1, 32, 32, lambda what, done, total: steps.append(what.rpartition(": ")[2]))
    assert steps == ["freed first", "exporting the network", "freed", "exporting the network", "building"]


def test_progress_is_told(backend: GraphBackend) -> None:
    said: list[tuple[str, int, int]] = []
    backend.prepare(1, 32, 32, lambda *step: said.append(step))
    assert said[0] == ("Fake 1.0 for 1x32x32-fp32: exporting the network", 0, 1)
    assert said[-1] == ("building", 1, 1)


def test_a_wrong_answer_is_refused(backend: GraphBackend, library: FakeLibrary, tmp_path: Path) -> None:
    library.offset = 0.5
    with pytest.raises(BackendError, match="eager PyTorch on the test image"):
        backend(IMAGE)
    assert not list(tmp_path.glob("*.fake")), "a graph that failed must not be kept"


# --- falling back -------------------------------------------------------------------------------------------------


def make(name: str, model: FCCLIP, tmp_path: Path) -> FallbackBackend:
    created = create_backend(name, model, CPU, cache_dir=tmp_path)
    assert isinstance(created, FallbackBackend)
    return created


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"build_error": "out of GPU memory"}, "out of GPU memory"),
        ({"offset": 0.5}, "eager PyTorch on the test image"),
    ],
)
def test_the_image_that_meets_a_failure_is_answered_by_the_next(
    library: FakeLibrary,
    model: FCCLIP,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    broken: dict[str, object],
    says: str,
) -> None:
    vars(library).update(broken)
    created = make("openvino", model, tmp_path)
    assert equal(created(IMAGE), output(InputSpec(1, 32, 32, "fp32")))
    assert created.description.startswith("eager stand-in; not openvino: ")
    assert says in created.description
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert says in record.getMessage()
    created(IMAGE)
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1, "said once"


def test_a_missing_library_is_said_with_its_command(
    library: FakeLibrary, model: FCCLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    created = make("onnxruntime", model, tmp_path)
    assert created.description.startswith("Fake 1.0 on cpu; not onnxruntime: ONNX Runtime cannot be imported")
    assert "pip install onnxruntime" in created.description


def test_auto_misses_no_library_loudly(
    model: FCCLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setitem(backends._ORDER, "cpu", ("openvino", "eager"))
    created = make("auto", model, tmp_path)
    assert created.description.startswith("eager PyTorch")
    assert "not openvino: OpenVINO cannot be imported" in created.description
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_description_does_not_wait_for_an_image(library: FakeLibrary, model: FCCLIP, tmp_path: Path) -> None:
    """Diagnostics ask for it while the model runs."""
    created = make("openvino", model, tmp_path)
    seen: list[str] = []

    def ask() -> None:
        thread = threading.Thread(target=lambda: seen.append(created.description))
        thread.start()
        thread.join(timeout=10)

    library.when_run = ask
    created(IMAGE)
    assert seen
    assert all(text.startswith("Fake 1.0 on cpu") for text in seen)


def test_tensorrt_without_a_gpu(library: FakeLibrary, model: FCCLIP, tmp_path: Path) -> None:
    assert "TensorRT runs on cuda only, but the device is cpu" in make("tensorrt", model, tmp_path).description


def test_auto_uses_graphs_that_are_there_and_waits_for_none(
    library: FakeLibrary, model: FCCLIP, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    created = make("auto", model, tmp_path)
    created(IMAGE)
    assert not library.built
    assert created.description.startswith("eager stand-in; not openvino: no graph for 1x32x32-fp32")
    assert not [record for record in caplog.records if record.levelno > logging.INFO], "nothing is wrong"
    created.prepare(1, 32, 32)
    created(IMAGE)
    assert created.description == "Fake 1.0 on cpu, ready for 1x32x32-fp32"
    later = make("auto", model, tmp_path)
    later(IMAGE)
    assert later.description == "Fake 1.0 on cpu, ready for 1x32x32-fp32"
    assert len(library.built) == 1


def test_auto_builds_a_graph_that_is_out_of_date_again_beside_the_images(
    library: FakeLibrary, model: FCCLIP, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make("openvino", model, tmp_path)(IMAGE)
    library.key = {"library": "Fake 2.0"}
    created = make("auto", model, tmp_path)
    for _ in range(readiness.RECURS):
        created(IMAGE)
        assert created.description.startswith("eager stand-in")
    wait_for(lambda: len(library.built) == 2 and created.close())
    created(IMAGE)
    assert created.description == "Fake 1.0 on cpu, ready for 1x32x32-fp32"
    assert "its library is Fake 1.0; expected Fake 2.0" in caplog.text


def test_the_last_candidates_error_is_the_users() -> None:
    def fail() -> EagerBackend:
        raise BackendError("no more memory")

    with pytest.raises(BackendError, match="no more memory"):
        FallbackBackend([Candidate("a", fail), Candidate("b", fail)], CPU)


@pytest.mark.parametrize(
    ("name", "precision", "says"), [("cuda", "auto", "backend is"), ("auto", "f8", "precision is")]
)
def test_unknown_names(model: FCCLIP, name: str, precision: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        create_backend(name, model, CPU, precision=precision)


def test_bf16_is_refused_where_it_cannot_run(model: FCCLIP, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(BackendError, match="choose fp32, or openvino"):
        backends.create_graph_backend("onnxruntime", model, CPU, precision="bf16", cache_dir=tmp_path)


# --- checks for backends without graphs ---------------------------------------------------------------------------


class Wrong(FakeEager):
    """Answers larger pictures wrongly."""

    def __call__(self, image: Tensor) -> ModelOutput:
        return ModelOutput(*output(InputSpec.of(image, "fp32"), offset=0.0 if image.shape[2] == 32 else 0.5))


def test_a_checked_backend_is_checked_once_for_each_form(library: FakeLibrary, model: FCCLIP, tmp_path: Path) -> None:
    answers = EagerAnswers(model, CPU, BuiltFiles(tmp_path))
    checked = CheckedBackend(Wrong(model, CPU), answers, "fp32", sizes=2)
    checked(IMAGE)
    checked(IMAGE)
    with pytest.raises(BackendError, match="eager PyTorch on the test image"):
        checked(torch.zeros(1, 3, 64, 32))
    assert len(list(tmp_path.glob("*.reference"))) == 2
