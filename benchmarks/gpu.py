#!/usr/bin/env python3
"""What only a GPU can tell, in one run: that its paths give the right answers, and then how fast they are.

`gpu.sh` beside this file prepares a bare machine and runs this. Parts run in order of importance, in a process of their
own. One that fails is recorded and the next begins; one for which no time is left is recorded as skipped; one that
hangs or crashes its process is recorded too, and the rest runs in a new process. Results are written after each.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.lib import machine, product
from benchmarks.lib.arguments import make_parser
from benchmarks.lib.clocks import DeviceTrace, clocks, medians, network_places
from benchmarks.lib.kernel_profile import profile
from benchmarks.lib.rates import PRECISIONS as TYPES
from benchmarks.lib.rates import machine_rates, median_seconds, timed, wait
from benchmarks.lib.report import print_table, write_record
from benchmarks.lib.work import gflop_by_stage
from benchmarks.speed.against_published import read_image, reference_words
from benchmarks.speed.training_step import measure
from fcclip_core import InferenceSettings, load_checkpoint
from fcclip_core.backends.compiled import CompiledBackend
from fcclip_core.backends.eager import EagerBackend
from fcclip_core.backends.interface import Network
from fcclip_core.errors import BackendError
from fcclip_core.export.check import TOLERANCES, Differences, Reference
from fcclip_core.inference.classification import TextClassifier, Words
from fcclip_core.inference.decoder import EagerDecoder, UndecodedFrame, create_decoder
from fcclip_core.inference.mask_resize import MaskResizer
from fcclip_core.inference.ownership import FrameTaps, owned_pixels
from fcclip_core.inference.postprocess import ClassifiedMasks, panoptic_segments
from fcclip_core.inference.postprocess_gpu import DeviceMerger
from fcclip_core.inference.preprocess import FrameGeometry, preprocess
from fcclip_core.inference.preprocess_gpu import DevicePreprocessor
from fcclip_core.inference.stage_clock import StageClock
from fcclip_core.model.deformable_attention import Sampler, sample_by_grid, sample_by_index, set_sampler
from fcclip_core.model.fcclip import FCCLIP, ModelOutput
from fcclip_core.model.precision import exact_products, in_precision
from fcclip_core.weights.checkpoints import load_model
from oracle import pipeline

_BEGUN = "begun"
_PREPARATION_S = 180.0
"""Seconds that a process has to load the model, and to end."""
_UNUSABLE = 3
"""Exit status of a process whose GPU no longer responds."""


class NoTime(Exception):
    """The budget does not allow this part."""


@dataclass
class Run:
    """One run: what is measured, on what, and what was found so far.

    Attributes:
        device: Where networks run.
        settings: Size and thresholds.
        image: uint8 RGB `(H, W, 3)`.
        model: The network, seeded weights.
        words: The vocabulary.
        state: The network's weights by their published names.
        is_dry: Only check that everything runs: no GPU, small sizes, numbers mean nothing.
        deadline: `time.monotonic()` at which to be done.
        out: Where results go.
        found: The record so far.
        wrong: What decides that the run failed.
        reference: The answer of eager float32.
    """

    device: torch.device
    settings: InferenceSettings
    image: np.ndarray
    model: FCCLIP
    words: pipeline.Words
    state: Mapping[str, torch.Tensor]
    is_dry: bool
    deadline: float
    out: Path
    found: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    reference: ModelOutput | None = None

    def __post_init__(self) -> None:
        """Seeds the numbers that parts draw."""
        self.generator = torch.Generator(self.device).manual_seed(0)

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU."""
        return self.device.type == "cuda"

    @property
    def geometry(self) -> FrameGeometry:
        """Sizes of the frame."""
        return FrameGeometry.of(self.image.shape[0], self.image.shape[1], self.settings)

    @property
    def repeat(self) -> int:
        """Measured repetitions."""
        return 2 if self.is_dry else 30

    def input(self, batch: int = 1) -> torch.Tensor:
        """The network's input: the image, and shifted copies of it."""
        tensor = preprocess(self.image, self.settings, self.device)[0]
        return torch.cat([tensor.roll(37 * index, -1) for index in range(batch)])

    def random(self, *shape: int) -> torch.Tensor:
        """Normally distributed numbers on the device; a run draws the same ones each time."""
        return torch.randn(*shape, generator=self.generator, device=self.device)

    def classifier(self) -> TextClassifier:
        """The vocabulary, on the device."""
        self.model.to(self.device)
        seen = torch.tensor(self.words.seen)
        return TextClassifier.build(self.model, self.words.rows, self.words.synonym_counts, seen)

    def seconds(self, run: Callable[[], Any]) -> float:
        """Median time of `run`."""
        return median_seconds(run, self.device, repeat=self.repeat, warm_up=1 if self.is_dry else 3)

    def verdict(self, name: str, value: float, limit: float, *, binding: bool = True) -> None:
        """Records a check: `value` must not exceed `limit`; NaN fails. A binding one decides the exit status."""
        right = bool(value <= limit)
        self.found.setdefault("correctness", {})[name] = {"value": value, "limit": limit, "right": right}
        if not right and binding:
            self.wrong.append(name)
        print(
            f"  {name}: {value:.3g} (at most {limit:g}) {'ok' if right else 'WRONG' if binding else 'ABOVE'}",
            flush=True,
        )

    def part(self, name: str, needs_s: float, work: Callable[[Run], None]) -> None:
        """Runs a part, if `needs_s` seconds are left, and writes the record."""
        left = self.deadline - time.monotonic()
        record: dict[str, Any] = {"status": _BEGUN}
        self.found.setdefault("parts", {})[name] = record
        self.write()
        print(f"{name} ({left:.0f} s left)", flush=True)
        began = time.monotonic()
        try:
            if left < needs_s and not self.is_dry:
                raise NoTime(f"skipped: it needs about {needs_s:.0f} s, {left:.0f} s were left")
            work(self)
            record["status"] = "done"
        except (NoTime, BackendError) as reason:
            record["status"] = str(reason)
            print(f"  {reason}", flush=True)
        except Exception as error:
            record["status"] = f"failed: {type(error).__name__}: {error}"[:2000]
            self.wrong.append(name)
            traceback.print_exc()
        record["seconds"] = round(time.monotonic() - began, 1)
        self.write()

    def answers_still(self) -> bool:
        """Whether the device still works after what the parts did to it."""
        try:
            wait(self.device)
        except RuntimeError as error:
            print(f"  the GPU no longer responds: {error}", flush=True)
            return False
        return True

    def write(self) -> None:
        """Writes the record so far."""
        write_record(self.out, self.found | {"wrong": self.wrong})


def main() -> int:
    """Runs all parts.

    Returns:
        0, or 1 if an answer was wrong or a part failed; 2 without a GPU.
    """
    parser = make_parser(__doc__, preset=None, shorter_side=None)
    parser.add_argument("--budget", type=float, default=540, help="seconds for everything")
    parser.add_argument("--parts", nargs="+", help="only these")
    parser.add_argument("--dry-run", action="store_true", help="tiny model on the CPU: check that everything runs")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not torch.cuda.is_available() and not args.dry_run:
        print("torch finds no GPU here; --dry-run shows on a CPU that the program works", file=sys.stderr)
        return 2
    if args.work:
        return work(args)
    with tempfile.TemporaryDirectory() as folder:
        return supervise(args, args.json or Path(folder) / "gpu.json")


def supervise(args: argparse.Namespace, out: Path) -> int:
    """Runs the parts in other processes, one after the other: a new one continues after one that broke."""
    deadline = time.monotonic() + args.budget
    chosen = {
        part.name: part
        for part in PARTS
        if part.name in (args.parts or [part.name]) and not (args.dry_run and part.like_another)
    }
    write_record(out, {})
    while left := [name for name in chosen if name not in read_record(out).get("parts", {})]:
        budget = deadline - time.monotonic()
        # The command line of this process, whose options the later ones override.
        command = [sys.executable, *sys.orig_argv[1:], "--work", "--budget", str(budget), "--json", str(out)]
        command += ["--parts", *left]
        limits = {name: part.limit_s(dry=args.dry_run) for name, part in chosen.items()}
        reason = watch(command, out, limits, deadline)
        found = read_record(out)
        broken = current_part(found)
        if broken:
            found["parts"][broken]["status"] = reason
            found["wrong"].append(broken)
            write_record(out, found)
            print(f"  {broken}: {reason}", flush=True)
        if not found.get("parts", {}).keys() & set(left):
            print(f"no part could begin: {reason}", file=sys.stderr)
            return 1
    found = read_record(out)
    show(found)
    if found["wrong"]:
        print(f"WRONG: {', '.join(found['wrong'])}", file=sys.stderr)
    return 1 if found["wrong"] else 0


def watch(command: list[str], out: Path, limits: Mapping[str, float], deadline: float) -> str:
    """Runs a process until it ends, or a part takes longer than its limit.

    Args:
        command: Runs parts.
        out: Where it writes which one it is at.
        limits: Seconds, by part.
        deadline: `time.monotonic()` at which it is stopped in any case.

    Returns:
        How it ended.
    """
    process = subprocess.Popen(command)
    part, since = "", time.monotonic()
    try:
        while process.poll() is None:
            time.sleep(0.2)
            now = current_part(read_record(out))
            if now != part:
                part, since = now, time.monotonic()
            took = time.monotonic() - since
            if took > limits.get(part, _PREPARATION_S) or time.monotonic() > deadline:
                return f"failed: stopped after {took:.0f} s"
        return f"failed: its process ended with status {process.returncode}"
    finally:
        process.kill()
        process.wait()


def work(args: argparse.Namespace) -> int:
    """Runs parts, and goes on with the record that another process began.

    Returns:
        0, or `_UNUSABLE` if the GPU no longer responds: after an illegal access everything fails.
    """
    run = prepare(args, time.monotonic() + args.budget)
    print(machine.headline(run.found["machine"]))
    for part in PARTS:
        if part.name in args.parts:
            run.part(part.name, part.needs_s, part.work)
            if not run.answers_still():
                return _UNUSABLE
    return 0


def read_record(path: Path) -> dict[str, Any]:
    """What was found so far."""
    return json.loads(path.read_text())


def current_part(found: Mapping[str, Any]) -> str:
    """The part that was begun and is not done; empty if there is none."""
    parts = found.get("parts", {})
    return next((name for name, record in parts.items() if record["status"] == _BEGUN), "")


def prepare(args: argparse.Namespace, deadline: float) -> Run:
    """Loads the model and describes the machine."""
    preset = args.preset or ("tiny" if args.dry_run else "convnext_large")
    side = args.shorter_side or (64 if args.dry_run else 800)
    device = torch.device("cpu" if args.dry_run else "cuda")
    checkpoint = load_checkpoint(f"recipe:{preset}")
    config = checkpoint.config
    settings = InferenceSettings(shorter_side=side, valid_mask_only=config.valid_mask_only)
    words, _ = reference_words(config.embed_dim)
    image = read_image(None)
    image = np.ascontiguousarray(image[::6, ::6]) if args.dry_run else image
    run = Run(
        device, settings, image, load_model(checkpoint), words, checkpoint.state, args.dry_run, deadline, args.json
    )
    height, width = run.geometry.padded
    before = read_record(args.json)
    run.wrong = before.get("wrong", [])
    if before.get("parts", {}).get("reference", {}).get("status") == "done":
        run.reference = exact_answer(run)
    run.found |= before | {
        "program": "gpu",
        "dry_run": args.dry_run,
        "machine": machine.describe() | gpu_software(),
        "preset": preset,
        "image": list(image.shape[:2]),
        "input": [height, width],
        "classes": len(words.synonym_counts),
        "gflop": gflop_by_stage(config, 1, height, width),
    }
    return run


def gpu_software() -> dict[str, Any]:
    """Versions that matter on a GPU."""
    versions: dict[str, Any] = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    for name in ("triton", "tensorrt", "tensorrt_rtx", "timm"):
        try:
            versions[name] = importlib.import_module(name).__version__
        except (ImportError, OSError, RuntimeError) as error:  # one without its shared libraries raises any of them
            versions[name] = f"none: {error}"
    if torch.cuda.is_available():
        versions["capability"] = list(torch.cuda.get_device_capability())
        versions["gpu_memory_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
    return versions


def measure_rates(run: Run) -> None:
    """The machine's own limits."""
    run.found["rates"] = rates = machine_rates(run.device, small=run.is_dry)
    for kind, values in rates.items():
        print(f"  {kind}: " + ", ".join(f"{name} {value / 1e12:.4g} T/s" for name, value in values.items()))


def check_kernels(run: Run) -> None:
    """Both Triton kernels at the model's own sizes, against their plain forms; and their speed."""
    config, (height, width) = run.model.config, run.geometry.padded
    shapes = [(height // stride, width // stride) for stride in (32, 16, 8)]
    tokens = sum(h * w for h, w in shapes)
    normal = run.random
    heads, channels = config.num_heads, config.hidden_dim // config.num_heads
    value = normal(1, tokens, heads, channels)
    grid = (1, tokens, heads, len(shapes), config.encoder_points)
    # Around the token itself, some of them over the border, as in the network.
    centers = torch.rand(1, tokens, 1, 1, 1, 2, generator=run.generator, device=run.device)
    locations = centers + normal(*grid, 2) * 0.05
    weights = normal(*grid).flatten(3).softmax(-1).unflatten(3, grid[3:])
    exact = sample_by_grid(value.double(), shapes, locations.double(), weights.double())
    times = run.found.setdefault("sampling_ms", {})
    for precision, limit in (("fp32", 1e-5), ("fp16", 2e-3), ("bf16", 1.5e-2)):
        short = value.to(TYPES[precision])
        for name, sampler in (("grid", sample_by_grid), ("fastest", fastest_sampler(run))):
            found = sampler(short, shapes, locations, weights)
            run.verdict(f"sampling {sampler.__name__} {precision}", relative(exact, found), limit)
            work = functools.partial(sampler, short, shapes, locations, weights)
            times[f"{name} {precision}"] = 1e3 * run.seconds(work)

    queries, mask_size = config.num_queries, (height // 4, width // 4)
    coarse = normal(1, queries, height // 32, width // 32) * 10 - 4
    logits = F.interpolate(coarse, size=mask_size, mode="bicubic")[0]
    probs = (normal(queries, len(run.words.seen) + 1) * 2).softmax(-1)
    embeddings, is_thing = normal(queries, config.embed_dim), torch.tensor(run.words.is_thing, device=run.device)
    resizer = MaskResizer(run.geometry, mask_size, run.device)
    scores, kept = probs.max(-1).values, torch.rand(queries, generator=run.generator, device=run.device) < 0.6
    plain = owned_pixels(logits, scores, kept, resizer)
    merging = run.found.setdefault("merging_ms", {})
    if run.on_gpu:
        from fcclip_core.inference.ownership_triton import owned_pixels_by_triton

        taps = FrameTaps.of(run.geometry, mask_size, run.device)
        kernel = owned_pixels_by_triton(logits, scores, kept, taps)
        run.verdict("owners that differ", float((kernel.owner != plain.owner).double().mean()), 1e-4)
        run.verdict("mask areas that differ, pixels", int((kernel.mask_areas - plain.mask_areas).abs().max()), 3)
        merging["owners, kernel"] = 1e3 * run.seconds(lambda: owned_pixels_by_triton(logits, scores, kept, taps))
    merging["owners, bands"] = 1e3 * run.seconds(lambda: owned_pixels(logits, scores, kept, resizer))
    merger = DeviceMerger(run.device)
    masks = ClassifiedMasks(logits, probs, embeddings, is_thing, run.geometry, run.settings)
    merge = functools.partial(merger, masks)
    merge_plainly = functools.partial(panoptic_segments, logits, probs, is_thing, resizer, run.settings)
    differ = merge().segment_map != merge_plainly().segment_map
    run.verdict("merged pixels that differ", float(differ.mean()), 1e-3)
    merging["device"] = 1e3 * run.seconds(merge)
    merging["panoptic_segments"] = 1e3 * run.seconds(merge_plainly)


def check_network_kernels(run: Run) -> None:
    """The network's own kernels at a large model's sizes, against their plain forms; and both forms' speed."""
    if not run.on_gpu:
        raise NoTime("only on a GPU")
    from fcclip_core.kernels.attention_triton import attend_in_parts
    from fcclip_core.kernels.depthwise_triton import depthwise_norm

    normal = run.random
    (height, width), times = run.geometry.padded, run.found.setdefault("network_kernels_ms", {})
    for side, channels in ((4, 192), (8, 384), (16, 768), (32, 1536)):
        x, weight = normal(1, height // side, width // side, channels).bfloat16(), normal(channels, 1, 7, 7) / 7
        bias, scale, shift = normal(channels).bfloat16(), normal(channels), normal(channels)
        taps, short = weight.flatten(1).T.contiguous(), weight.bfloat16()
        image = x.permute(0, 3, 1, 2)
        convolved = F.conv2d(image.float(), weight, bias.float(), padding=3, groups=channels).permute(0, 2, 3, 1)
        expected = F.layer_norm(convolved, (channels,), scale, shift, 1e-6)
        own = functools.partial(depthwise_norm, x, taps, bias, scale, shift, 1e-6)
        run.verdict(f"convolution and norm, {channels} channels", relative(expected.double(), own()), 1e-2)
        times[f"convolution and norm, {channels}"] = 1e3 * run.seconds(own)
        plain = functools.partial(F.conv2d, image, short, bias, padding=3, groups=channels)
        times[f"cuDNN's convolution alone, {channels}"] = 1e3 * run.seconds(plain)
    config = run.model.config
    for side in (8, 16, 32):
        keys, channels = (height // side) * (width // side), config.hidden_dim // config.num_heads
        query, key, value = (
            normal(1, config.num_heads, count, channels).bfloat16() for count in (config.num_queries, keys, keys)
        )
        allowed = normal(1, 1, config.num_queries, keys) > 1
        allowed[..., 0] = True
        expected = F.scaled_dot_product_attention(query.double(), key.double(), value.double(), allowed)
        own = functools.partial(attend_in_parts, query, key, value, allowed)
        run.verdict(f"attention to {keys} keys", relative(expected, own()), 1e-2)
        times[f"attention to {keys} keys"] = 1e3 * run.seconds(own)
        plain = functools.partial(F.scaled_dot_product_attention, query, key, value, allowed)
        times[f"torch's attention to {keys} keys"] = 1e3 * run.seconds(plain)


def check_frames(run: Run) -> None:
    """Pre-processing on the device, bit for bit, and its speed."""
    prepare_frame = DevicePreprocessor(run.device)
    expected, found = preprocess(run.image, run.settings, run.device)[0], prepare_frame(run.image, run.settings)[0]
    run.verdict("input values that differ", float((expected != found).double().mean()), 0.0)
    run.found["preprocess_ms"] = {
        "host": 1e3 * run.seconds(lambda: preprocess(run.image, run.settings, run.device)),
        "device": 1e3 * run.seconds(lambda: prepare_frame(run.image, run.settings)),
    }


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


def exact_answer(run: Run) -> ModelOutput:
    """Eager float32's answer to the frame."""
    with exact_products():
        return EagerBackend(run.model, run.device)(run.input())


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


def use_product(run: Run) -> None:
    """The public API, with the bundled model and with a large one."""
    small = replace(run.settings, shorter_side=96) if run.is_dry else InferenceSettings()
    chosen = {"demo": small, f"recipe:{run.model.config.name}": run.settings}
    for checkpoint, settings in chosen.items():
        found = product.use(checkpoint, run.image, settings, device=run.device.type, repeat=run.repeat)
        run.found.setdefault("product", {})[checkpoint] = found
        print(f"  {checkpoint}: {found['frame_ms']:.2f} ms a frame; {found['description']} {found['problem']}")
        # Seeded weights give masks without margins: there rounding moves many pixels.
        binding = checkpoint == "demo"
        for nth, apart in enumerate(found["classes_apart"]):
            run.verdict(f"{checkpoint}, words {nth}, classes apart", apart, 0.02, binding=binding)
        run.verdict(f"{checkpoint}, pairs apart", found["pair_apart"], 0.02, binding=binding)


def time_training(run: Run) -> None:
    """Steps of the full recipe, at as many images as fit."""
    options = {"preset": run.model.config.name, "precision": "auto", "train_backbone": False}
    batch, crop, steps = (1, 64, 1) if run.is_dry else (16, 1024, 3)
    run.model.to("cpu")
    while batch:
        if run.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            found = measure(argparse.Namespace(**options, crop=crop, batch_size=batch, steps=steps), run.device)
        except torch.OutOfMemoryError:
            print(f"  {batch} images do not fit", flush=True)
            batch //= 2
            continue
        run.found["training"] = found
        print(f"  {batch} images of {crop}: {found['images_per_second']:.2f} a second, {found['peak_gib']:.1f} GiB")
        return
    raise NoTime("not one image fits into memory")


def time_pieces(run: Run) -> None:
    """Where the backbone's time goes: the depthwise convolution and the two products of a block of each stage."""
    trunk: Any = getattr(run.model.backbone, "trunk", None)
    if trunk is None:
        raise NoTime("only for ConvNeXt")
    height, width = run.geometry.padded
    pieces = run.found.setdefault("pieces_ms", {})
    for index, stage in enumerate(trunk.stages):
        side = 4 << index
        block = in_precision(stage.blocks[0], torch.bfloat16).to(run.device)
        channels = block.conv_dw.weight.shape[0]
        pixels = torch.randn(1, channels, height // side, width // side, device=run.device).bfloat16()
        tokens = pixels.permute(0, 2, 3, 1).contiguous()
        last = pixels.contiguous(memory_format=torch.channels_last)
        conv_last = in_precision(block.conv_dw, torch.bfloat16).to(memory_format=torch.channels_last)
        works: dict[str, Callable[[], Any]] = {
            "depthwise, channels last": functools.partial(conv_last, last),
            "depthwise, channels first": functools.partial(block.conv_dw, pixels),
            "norm": functools.partial(block.norm, tokens),
            "products": functools.partial(block.mlp, tokens),
        }
        with torch.inference_mode():
            pieces[f"stage {index + 1}, {len(stage.blocks)} blocks"] = {
                name: 1e3 * run.seconds(work) for name, work in works.items()
            }


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


def fastest_sampler(run: Run) -> Sampler:
    """Triton's on a GPU."""
    if not run.on_gpu:
        return sample_by_index
    from fcclip_core.kernels.deformable_triton import sample_by_triton

    return sample_by_triton


def relative(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Length of the difference over the length of what was expected."""
    return float((expected - found.double()).norm() / expected.norm())


def share(run: Run, milliseconds: float, precision: str) -> float | None:
    """Share of the measured matmul rate that the network's arithmetic comes to."""
    limit = run.found.get("rates", {}).get("matmul", {}).get(precision)
    return sum(run.found["gflop"].values()) * 1e9 / (milliseconds * 1e-3) / limit if limit else None


def show(found: Mapping[str, Any]) -> None:
    """Prints a row for each way."""
    ways = found.get("ways", {})
    published = ways.get("published fp32", {}).get("frame_ms")
    columns = dict.fromkeys(("way", "network", "frame", "times published", "share of matmul", "GiB"), ".3g")
    rows = []
    for name, way in ways.items():
        faster = published / way["frame_ms"] if published and "frame_ms" in way else None
        cells = (way.get("network_ms"), way.get("frame_ms"), faster, way.get("share_of_matmul"), way.get("peak_gib"))
        rows.append((name, *cells))
    print_table(columns, rows, f"{found['preset']}, input {found['input'][0]}x{found['input'][1]}, milliseconds")
    if found["dry_run"]:
        print("dry run: nothing was measured, everything ran")


@dataclass(frozen=True)
class Part:
    """A part of the run.

    Attributes:
        name: Of the part.
        needs_s: Seconds that it takes on a fast GPU, generously.
        work: What it does.
        like_another: Whether it runs the same code as another part; a dry run leaves it out.
    """

    name: str
    needs_s: float
    work: Callable[[Run], None]
    like_another: bool = False

    def limit_s(self, *, dry: bool) -> float:
        """Seconds after which it hangs rather than works; a processor may take long for a dry run."""
        return 300.0 if dry else 2 * self.needs_s + 30


def _way(name: str, needs_s: float, make: Callable[[Run], Network], *, like_another: bool = False) -> Part:
    """The part that times a way; the last word of its name is the precision."""
    return Part(name, needs_s, lambda run: time_way(run, name, name.split()[-1], make), like_another)


PARTS = (
    Part("rates", 10, measure_rates),
    Part("kernels", 30, check_kernels),
    Part("network kernels", 20, check_network_kernels),
    Part("frames", 15, check_frames),
    Part("reference", 20, compute_reference),
    Part("capture", 20, check_capture),
    _way("graph bf16", 20, lambda run: compiled(run, "bf16", None)),
    _way("compiled bf16", 120, lambda run: compiled(run, "bf16")),
    Part("profile", 100, profile_network, like_another=True),
    Part("product", 200, use_product),
    Part("pieces", 15, time_pieces),
    Part("training", 60, time_training),
    Part("published", 30, time_published),
    _way("eager fp32", 20, lambda run: eager(run, "fp32", sample_by_grid)),
    _way("eager bf16", 15, lambda run: eager(run, "bf16", sample_by_grid)),
    _way("Triton bf16", 15, lambda run: eager(run, "bf16", fastest_sampler(run))),
    _way("compiled fp16", 90, lambda run: compiled(run, "fp16"), like_another=True),
    Part("batch of 4", 100, time_batch, like_another=True),
    Part("tensorrt fp16", 150, time_tensorrt),
)

if __name__ == "__main__":
    sys.exit(main())
