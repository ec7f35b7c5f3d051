#!/usr/bin/env python3
"""How far is each backend and precision from eager float32, stage by stage and end to end, on the reference's images?

The images, sizes and words are those of the reference numbers (test/reference); networks have seeded weights, as
there, or the trained ones of `demo`. A stage is compared within its own network, so that it carries the errors of all
stages before it. Backends run as they do behind a segmenter; to see inside a graph or a compiled network, they are
given a network that ends after the stage.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.lib.arguments import make_parser
from benchmarks.lib.report import Report, print_table, progress, say
from benchmarks.quality.accuracy import EVERY, equal_share
from fcclip_core import PanopticResult, Segmenter
from fcclip_core.backends import LIBRARIES
from fcclip_core.backends.compiled import CompiledBackend
from fcclip_core.backends.eager import EagerBackend
from fcclip_core.backends.onednn import OneDnnBackend
from fcclip_core.errors import BackendError
from fcclip_core.export.input_spec import PRECISIONS, InputSpec
from fcclip_core.export.onnx_export import export_onnx
from fcclip_core.inference.preprocess import preprocess
from fcclip_core.model.fcclip import FCCLIP, ModelOutput
from oracle.goldens import CASES, Case, spec, split_synonyms
from oracle.observe import vocabulary_of

CPU = torch.device("cpu")
BACKENDS = EVERY["cpu"]
TRAINED = replace(CASES["convnext_l_coffee_256"], name="demo_coffee_256")
"""The trained network on an image of the reference, with its words; the preset is ignored."""
ALL_CASES = {case.name: case for case in (*CASES.values(), TRAINED) if not case.real_text}

STAGES = {
    "backbone": ("res2", "res3", "res4", "res5"),
    "pixel decoder": ("stride 32", "stride 16", "stride 8", "mask features"),
    "answer": ("mask logits", "in-vocabulary embedding", "out-of-vocabulary embedding"),
}
"""Stage -> the tensors that it gives."""


LIMITS = {
    "fp32": {"backbone": 1e-5, "pixel decoder": 1e-5, "mask logits": 1e-4, "embeddings": 1e-4},
    "fp16": {"backbone": 0.003, "pixel decoder": 0.005, "mask logits": 0.02, "embeddings": 0.1},
    "bf16": {"backbone": 0.02, "pixel decoder": 0.03, "mask logits": 0.05, "embeddings": 0.3},
}
"""Precision -> largest error (rms, relative to the tensor's own) by stage; see docs/reference/performance.md.

A mask that loses its last pixel embeds something else altogether, which is what the embeddings' limit allows for.
"""

HELD = {"fp32": ("tiny", "convnext_large", "demo"), "fp16": ("tiny", "demo"), "bf16": ("tiny", "demo")}
"""Precision -> networks that are held to its limits. Seeded weights of many layers blow up rounding, those of ResNets
a hundred times in float32 already."""

Answer = Callable[[Tensor, str], ModelOutput]
"""(image, stage) -> what the stage gives, in the fields of `ModelOutput`."""


class Watched(nn.Module):
    """A network that ends after a stage, whose tensors take the fields of `ModelOutput` in their order."""

    def __init__(self, network: FCCLIP, stage: str) -> None:
        """Watches `network`, which stays as it is."""
        super().__init__()
        self.network = network
        self._stage = stage

    def forward(self, image: Tensor) -> ModelOutput:
        """`image` as for `FCCLIP`."""
        if self._stage == "answer":
            return self.network(image)
        features = self.network.backbone(image)
        if self._stage == "backbone":
            found = (features.res2, features.res3, features.res4, features.res5)
        else:
            pixels = self.network.pixel_decoder(features)
            found = (*pixels.levels, pixels.mask_features)
        return ModelOutput(*(tensor.float() for tensor in found))


def make_answer(name: str, model: FCCLIP) -> Answer:
    """A backend, stage by stage.

    Args:
        name: `eager`, or one of `BACKENDS`.
        model: The network.

    Raises:
        BackendError: It is not available here.
    """
    kind, _, precision = name.partition(":")

    def watched(stage: str) -> FCCLIP:
        return cast(FCCLIP, Watched(model, stage))

    if kind == "eager":
        return lambda image, stage: EagerBackend(watched(stage), CPU)(image)
    if kind == "compiled":
        return lambda image, stage: CompiledBackend(watched(stage), CPU, dtype=PRECISIONS[precision])(image)
    if kind == "onednn":
        backend = OneDnnBackend(model, CPU, precision, None)

        @torch.inference_mode()
        def answer(image: Tensor, stage: str) -> ModelOutput:
            network = Watched(backend._network, stage)
            return network(image.to(PRECISIONS[precision]).contiguous(memory_format=torch.channels_last))

        return answer
    library = LIBRARIES[kind](CPU, precision)

    def run(image: Tensor, stage: str) -> ModelOutput:
        spec = InputSpec.of(image, library.precision)
        graph = library.build(lambda sampler: export_onnx(watched(stage), spec, sampler), lambda *_: None)
        return ModelOutput(*library.load(graph, spec)(image))

    return run


def errors(expected: ModelOutput, found: ModelOutput, stage: str) -> dict[str, dict[str, float]]:
    """Tensor -> `max` and `rms` of the error, in units of the expected tensor's root mean square."""
    result = {}
    # The answer's last field says which masks are empty, which the others show.
    for name, one, other in zip(STAGES[stage], vars(expected).values(), vars(found).values(), strict=False):
        error = (one.double() - other.double()).abs() / one.double().square().mean().sqrt()
        result[name] = {"max": float(error.max()), "rms": float(error.square().mean().sqrt())}
    return result


def complaints(name: str, network: str, tensors: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Which tensors are further from eager than they may be.

    Args:
        name: The backend, with its precision.
        network: Whose tensors they are; not all are held to limits.
        tensors: From `errors`.
    """
    precision = name.partition(":")[2]
    if network not in HELD[precision]:
        return []
    found = []
    for stage, names in STAGES.items():
        for tensor in names:
            kind = stage if stage != "answer" else tensor if tensor == "mask logits" else "embeddings"
            limit, error = LIMITS[precision][kind], tensors[tensor]["rms"]
            # Written so that NaN fails.
            if not error <= limit:
                found.append(f"{tensor} is off by {error:.2g}, allowed is {limit:g}")
    return found


class Measurement:
    """One image, one network: eager's answers, and how far others are from them.

    Attributes:
        network: Its name.
        model: The network itself.
    """

    def __init__(self, case: Case) -> None:
        """Loads the network and runs eager."""
        self.network = "demo" if case == TRAINED else case.preset
        source = "demo" if case == TRAINED else f"recipe:{case.preset}"
        self._segmenter = Segmenter.from_checkpoint(source, device="cpu", backend="eager", settings=case.settings)
        self.model = self._segmenter._model
        names = [split_synonyms(text) for text in spec()["vocabulary"]["stuff_classes"]]
        # The rows of the other networks are drawn from a rule; theirs are not the demo's.
        rows = None if case == TRAINED else case.words.rows.numpy()
        self._segmenter.set_vocabulary(vocabulary_of(case.words, names), rows)
        self._pixels = case.pixels
        self._image = preprocess(case.pixels, case.settings, CPU)[0]
        eager = make_answer("eager", self.model)
        self._expected = {stage: eager(self._image, stage) for stage in STAGES}
        self._result = self._labeled(self._expected["answer"])

    def compare(self, name: str) -> dict[str, Any]:
        """Errors of the backend `name` by tensor, the share of panoptic pixels that are equal, and what is wrong.

        Raises:
            BackendError: It is not available here.
        """
        answer = make_answer(name, self.model)
        found = {stage: answer(self._image, stage) for stage in STAGES}
        tensors: dict[str, dict[str, float]] = {}
        for stage, expected in self._expected.items():
            tensors |= errors(expected, found[stage], stage)
        equal = equal_share(self._result, self._labeled(found["answer"]))
        return {"tensors": tensors, "equal_pixels": equal, "complaints": complaints(name, self.network, tensors)}

    def _labeled(self, output: ModelOutput) -> PanopticResult:
        # A backend that gives this answer to any image.
        self._segmenter._backend = mock.Mock(return_value=output, device=CPU)
        return self._segmenter(self._pixels)


def main() -> int:
    """Measures and prints.

    Returns:
        0, or 1 if a stage is further from eager than it may be.
    """
    parser = make_parser(__doc__)
    parser.add_argument(
        "--cases",
        nargs="+",
        choices=sorted(ALL_CASES),
        default=["tiny_cat_96", TRAINED.name],
        metavar="CASE",
        help=f"of {', '.join(sorted(ALL_CASES))}; those with convnext_l need 8 GB of memory",
    )
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS, metavar="NAME", help="all of them")
    args = parser.parse_args()
    report = Report("stages")
    results: dict[str, dict[str, Any]] = {}
    for name in args.cases:
        progress(f"eager on {name}")
        measurement = Measurement(ALL_CASES[name])
        results[name] = {}
        for backend in args.backends:
            progress(f"{backend} on {name}")
            try:
                results[name][backend] = measurement.compare(backend)
            except BackendError as error:
                say(f"{backend} is left out: {error}")
        show(name, results[name])
        report.write(args.json, limits=LIMITS, held=HELD, cases=results)
    wrong = [
        f"{case}, {backend}: {text}"
        for case, ways in results.items()
        for backend, way in ways.items()
        for text in way["complaints"]
    ]
    for text in wrong:
        say(f"WRONG: {text}")
    return 1 if wrong else 0


def show(case: str, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints a row for each tensor, a column for each backend: root mean square and largest error."""
    rows = []
    for tensor in (name for names in STAGES.values() for name in names):
        errors_of = (way["tensors"][tensor] for way in results.values())
        rows.append([tensor, *(f"{error['rms']:.1e} {error['max']:.0e}" for error in errors_of)])
    rows.append(["equal pixels", *(f"{way['equal_pixels']:.3%}" for way in results.values())])
    title = f"{case}: error against eager float32, rms and max, relative to the tensor"
    print_table(dict.fromkeys(("tensor", *results), ""), rows, title)


if __name__ == "__main__":
    sys.exit(main())
