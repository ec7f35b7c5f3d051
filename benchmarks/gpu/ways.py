"""Ways of running the network: is each right, and how fast is it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F

from benchmarks.gpu.run import Run, exact_answer
from benchmarks.lib.clocks import DeviceTrace, clocks, medians, network_places
from benchmarks.lib.kernel_profile import profile
from benchmarks.lib.rates import PRECISIONS as TYPES
from benchmarks.lib.rates import timed
from fcclip_core.backends.compiled import CompiledBackend
from fcclip_core.backends.eager import EagerBackend
from fcclip_core.backends.interface import Network
from fcclip_core.errors import BackendError
from fcclip_core.export.check import TOLERANCES, Differences, Reference
from fcclip_core.inference.classification import Words
from fcclip_core.inference.decoder import EagerDecoder, UndecodedFrame, create_decoder
from fcclip_core.inference.postprocess_gpu import DeviceMerger
from fcclip_core.inference.preprocess_gpu import DevicePreprocessor
from fcclip_core.inference.stage_clock import StageClock
from fcclip_core.model.deformable_attention import Sampler, set_sampler
from fcclip_core.model.fcclip import FCCLIP, ModelOutput
from fcclip_core.model.precision import exact_products, in_precision
from oracle import pipeline


def time_way(run: Run, name: str, precision: str, make: Callable[[Run], Network]) -> None:
    """One way of running the network: is it right, how long does the network take, how long a whole frame.

    Args:
        run: What was found goes here.
        name: Of the way.
        precision: Of weights and activations.
        make: Makes the way.
    """
    if run.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    image = run.input()
    way, created = timed(make, run)
    output, first = timed(way, image)
    ready = created + first
    record: dict[str, Any] = {"precision": precision, "description": way.description, "ready_s": round(ready, 1)}
    run.found.setdefault("ways", {})[name] = record
    if run.reference is not None:
        differences = Differences.between(Reference.of(run.reference), output)
        for key, limit in vars(TOLERANCES[precision]).items():
            # Seeded weights amplify rounding: short numbers, and TF32, may miss the limits of trained weights.
            run.verdict(f"{name}, {key}", getattr(differences, key), limit, binding=False)
    answer = Reference.of(output)
    way(image.flip(-1))
    repeated = Differences.between(answer, way(image))
    run.verdict(f"{name}, the same image again", repeated.mask, 1e-3)
    record["network_ms"] = 1e3 * run.seconds(lambda: way(image))
    if isinstance(way, UncompiledNetwork):
        record["stages_ms"] = way.stages_ms(image, run.repeat)
    record["frame_ms"] = 1e3 * run.seconds(frame(run, way))
    if run.on_gpu:
        record["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    record["share_of_matmul"] = share(run, record["network_ms"], precision)
    print(f"  network {record['network_ms']:.2f} ms, frame {record['frame_ms']:.2f} ms, ready after {ready:.0f} s")


def eager(run: Run, precision: str, sampler: Sampler) -> Network:
    """The modules as they are, in a precision, with a form of deformable attention."""
    return UncompiledNetwork(run.model, run.device, TYPES[precision], sampler)


def compiled(run: Run, precision: str, compiler: str | None = "inductor") -> CompiledBackend:
    """The `compiled` backend; without a compiler it is a CUDA graph of the modules as they are."""
    if run.is_dry:
        # Traces the network as Inductor would, and makes no kernels.
        compiler = compiler and "eager"
    return CompiledBackend(run.model, run.device, dtype=TYPES[precision], compiler=compiler)


class UncompiledNetwork:
    """The network in some precision, called module by module."""

    def __init__(self, model: FCCLIP, device: torch.device, dtype: torch.dtype, sampler: Sampler) -> None:
        """Copies the network."""
        self.device = device
        self.dtype = dtype
        self.description = f"eager, {dtype}, {sampler.__name__} on {device}"
        self.network = in_precision(model, dtype).to(device).to(memory_format=torch.channels_last)
        set_sampler(self.network, sampler)

    @torch.inference_mode()
    def __call__(self, image: torch.Tensor) -> ModelOutput:
        """See `Network`."""
        output = self.network(image.to(self.dtype).contiguous(memory_format=torch.channels_last))
        return ModelOutput(*(x.float() if x.is_floating_point() else x for x in vars(output).values()))

    def stages_ms(self, image: torch.Tensor, repeat: int) -> dict[str, float]:
        """Median milliseconds of the stages of `FCCLIP.forward`."""
        traces = []
        for _ in range(repeat):
            traces.append(DeviceTrace(keep=False, device=self.device))
            with clocks(network_places(self.network), traces[-1]):
                self(image)
        return {stage: 1e3 * seconds for stage, seconds in medians(traces)["wall"].items()}


def frame(run: Run, way: Network) -> Callable[[], Any]:
    """A whole frame, from the camera's bytes to segments on the host."""
    prepare_frame = DevicePreprocessor(run.device)
    label = create_decoder(run.device) if run.on_gpu else EagerDecoder(DeviceMerger(run.device))
    words = Words(run.classifier(), torch.tensor(run.words.is_thing, device=run.device))

    @torch.inference_mode()
    def run_frame() -> Any:
        tensor, geometry = prepare_frame(run.image, run.settings)
        return label(UndecodedFrame(way(tensor), words, geometry, run.settings), StageClock(run.device))()

    return run_frame


def time_published(run: Run) -> None:
    """The published order of operations (test/oracle) on the same device, by stage."""
    state = {key: value.to(run.device) for key, value in run.state.items()}
    words = replace(run.words, rows=run.words.rows.to(run.device))
    traces = []
    plain_prepare = pipeline.prepare

    def prepare_on_host(*args: Any) -> tuple[torch.Tensor, tuple[int, int]]:
        with torch.device("cpu"):
            tensor, size = plain_prepare(*args)
        return tensor.to(run.device), size

    with mock.patch.object(pipeline, "prepare", prepare_on_host), torch.device(run.device):
        for _ in range(3 if run.is_dry else 6):
            trace = DeviceTrace(keep=False, device=run.device)
            with trace.stage("total"):
                pipeline.segment(state, run.model.config, run.image, words, run.settings, trace)
            traces.append(trace)
    stages = {name: 1e3 * seconds for name, seconds in medians(traces[1:])["wall"].items()}
    parts = ("backbone", "pixel decoder", "mask decoder")
    # Semantic and instance results are not part of what our ways are timed for.
    total = stages["total"] - stages["semantic"] - stages["instances"]
    run.found.setdefault("ways", {})["published fp32"] = {
        "precision": "fp32",
        "stages_ms": stages,
        "network_ms": sum(stages[name] for name in parts),
        "frame_ms": total,
    }
    print(f"  frame {total:.2f} ms")


def check_capture(run: Run) -> None:
    """The captured network against itself uncaptured, with the convolutions that cuDNN chose for both."""
    way, image = compiled(run, "bf16", None), run.input()
    captured = Reference.of(way(image))
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        plain = way.uncaptured(image)
    finally:
        torch.backends.cudnn.benchmark = before
    run.verdict("captured and uncaptured", Differences.between(captured, plain).mask, 1e-3)


def profile_network(run: Run) -> None:
    """Which kernels the compiled network is made of."""
    way, image = compiled(run, "bf16"), run.input()
    for _ in range(2):
        way(image)
    run.found["profile"] = found = profile(lambda: way(image), run.device)
    print(f"  {found['kernels']} kernels, busy {found['busy_us'] / 1e3:.2f} of {found['span_us'] / 1e3:.2f} ms")


def time_batch(run: Run) -> None:
    """Four cameras at once."""
    images = run.input(4)
    way = compiled(run, "bf16")
    seconds = run.seconds(lambda: way(images))
    run.found["batch_of_4"] = {"network_ms": 1e3 * seconds, "ms_an_image": 250 * seconds}
    print(f"  {1e3 * seconds:.2f} ms, {250 * seconds:.2f} an image")


def time_tensorrt(run: Run) -> None:
    """An engine, where TensorRT is installed and takes this GPU: a network of one layer decides."""
    from fcclip_core.backends.graph import GraphBackend
    from fcclip_core.backends.reference import EagerAnswers
    from fcclip_core.backends.tensorrt import TensorRt
    from fcclip_core.backends.tensorrt_builder import EngineBuilder
    from fcclip_core.backends.tensorrt_library import find_library
    from fcclip_core.export.built_files import BuiltFiles

    module, title = find_library()
    if not run.on_gpu:
        raise BackendError(f"{title} {module.__version__} is here, a GPU is not")
    probe = EngineBuilder(module, title).build(one_layer(), "fp16", lambda *_: None)
    runtime = module.Runtime(module.Logger(module.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(probe)
    if engine is None or engine.create_execution_context() is None:
        raise BackendError(f"{title} {module.__version__} does not run a network of one layer on this GPU")
    answers = EagerAnswers(run.model, run.device, BuiltFiles(None))
    time_way(
        run,
        f"{title} fp16",
        "fp16",
        lambda run: GraphBackend(run.model, run.device, TensorRt(run.device, "fp16"), answers, builds=True),
    )


def one_layer() -> bytes:
    """An ONNX file with one ReLU in it."""
    import onnx
    from onnx import TensorProto, helper

    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [1, 8]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", sides[:1], sides[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def compute_reference(run: Run) -> None:
    """Eager float32 without TF32, which every other way is compared with; itself against the CPU, at a small size."""
    run.reference = exact_answer(run)
    with exact_products():
        if run.on_gpu:
            small = F.interpolate(run.input(), size=(256, 352), mode="bilinear")
            on_gpu = EagerBackend(run.model, run.device)(small)
            on_cpu = EagerBackend(run.model, torch.device("cpu"))(small.cpu())
            run.model.to(run.device)
            differences = Differences.between(Reference.of(on_cpu), on_gpu)
            for name, limit in vars(TOLERANCES["fp32"]).items():
                run.verdict(f"GPU and CPU, fp32, {name}", getattr(differences, name), limit)


def share(run: Run, milliseconds: float, precision: str) -> float | None:
    """Share of the measured matmul rate that the network's arithmetic comes to."""
    limit = run.found.get("rates", {}).get("matmul", {}).get(precision)
    return sum(run.found["gflop"].values()) * 1e9 / (milliseconds * 1e-3) / limit if limit else None
