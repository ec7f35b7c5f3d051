"""`fcclip export`: the network as ONNX files, and the graphs and engines that backends run on this machine."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from fcclip_core.commands.inference_arguments import add_vanished_masks_argument
from fcclip_core.errors import BackendError, SettingsError
from fcclip_core.files.paths import expanded
from fcclip_core.images.camera_size import described_size, parse_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fcclip_core.backends.interface import Progress
    from fcclip_core.export.input_spec import InputSpec
    from fcclip_core.model.config import ModelConfig
    from fcclip_core.model.fcclip import FCCLIP
    from fcclip_core.terminal import Terminal

PRECISION_NAMES = ("fp32", "fp16", "bf16")
GRAPH_BACKENDS = ("auto", "openvino", "onnxruntime", "tensorrt")


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser(
        "export",
        help="write ONNX files; build the engines that TensorRT and others run here",
        description="The graph has no words in it: image -> mask logits at 1/4 of its size, two embeddings for each "
        "mask, and whether it survives at stride 32. Each size, batch and precision needs its own graph.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="weights: a file, a bundled name, or recipe:NAME")
    parser.add_argument("--out", type=expanded, metavar="DIR", help="write NAME-BATCHxHEIGHTxWIDTH-PRECISION.onnx here")
    parser.add_argument(
        "--engine", action="store_true", help="build for this machine, into the program's cache, where backends look"
    )
    parser.add_argument(
        "--size",
        action="append",
        default=[],
        metavar="WxH",
        help="width and height of the network's input, multiples of 32; may be given several times",
    )
    parser.add_argument(
        "--camera",
        action="append",
        default=[],
        metavar="WxH",
        help="width and height of the camera's images, instead of --size: the input's size follows from them",
    )
    parser.add_argument("--shorter-side", type=int, metavar="N", help="with --camera, as `fcclip segment` has it")
    parser.add_argument("--max-size", type=int, metavar="N", help="with --camera, as `fcclip segment` has it")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images per batch (default: 1)")
    parser.add_argument(
        "--precision",
        choices=PRECISION_NAMES,
        help="of weights and activations (default: what the backend runs fastest; without --engine fp32)",
    )
    parser.add_argument(
        "--backend",
        choices=GRAPH_BACKENDS,
        default="auto",
        help="what --engine builds for (default: tensorrt on a GPU, else openvino)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add_vanished_masks_argument(parser)
    parser.add_argument("--no-check", action="store_true", help="do not run the ONNX files that were written")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exports, builds and checks; says what it did.

    Raises:
        SettingsError: Nothing to do was named, or a size is not possible.
        BackendError: A graph cannot be exported, built or run, or does not give eager PyTorch's answer.
    """
    if not args.out and not args.engine:
        raise SettingsError("nothing to do: give --out DIR for ONNX files, --engine for this machine, or both")
    if not args.size and not args.camera:
        raise SettingsError("no size: give --size WIDTHxHEIGHT of the network's input, or --camera WIDTHxHEIGHT")
    if args.out and not args.out.is_dir():
        raise SettingsError(f"{args.out} is not a folder; make it first, or choose another")
    from fcclip_core.commands.progress_bar import progress_bar, reporter
    from fcclip_core.terminal import Terminal
    from fcclip_core.weights.checkpoints import load_checkpoint, load_model

    console = Terminal(stderr=True, soft_wrap=True)
    model = load_model(load_checkpoint(args.checkpoint), args.vanished_masks)
    for width, height in map(parse_size, (*args.size, *args.camera)):
        console.print(f"for {described_size(width, height)}")
    sizes = list(dict.fromkeys(_sizes(args, model.config)))
    with progress_bar(console) as bar:
        precision = args.precision or "fp32"
        if args.engine:
            precision = _build_engines(args, model, sizes, console, reporter(bar))
        if args.out:
            _write_graphs(args, model, sizes, precision, console, reporter(bar))
    return 0


def _sizes(args: argparse.Namespace, config: ModelConfig) -> Iterator[tuple[int, int]]:
    """Heights and widths of the network's input."""
    from fcclip_core.inference.preprocess import FrameGeometry
    from fcclip_core.settings import InferenceSettings

    for width, height in map(parse_size, args.size):
        yield height, width
    shorter_side = args.shorter_side or config.shorter_side
    max_size = args.max_size or max(InferenceSettings().max_size, shorter_side)
    settings = InferenceSettings(shorter_side=shorter_side, max_size=max_size)
    for width, height in map(parse_size, args.camera):
        yield FrameGeometry.of(height, width, settings).padded


def _build_engines(
    args: argparse.Namespace, model: FCCLIP, sizes: list[tuple[int, int]], console: Terminal, progress: Progress
) -> str:
    """Builds what is not there yet; returns the precision, which the backend may have chosen."""
    from fcclip_core.backends import create_graph_backend
    from fcclip_core.devices import resolve_device, watched
    from fcclip_core.export.built_files import BuiltFiles

    device = resolve_device(args.device)
    with watched(device):
        backend = create_graph_backend(args.backend, model, device, precision=args.precision or "auto")
        for height, width in sizes:
            backend.prepare(args.batch, height, width, progress)
    folder = BuiltFiles.default().folder
    console.print(f"{backend.description}; kept in {folder}" if folder else f"{backend.description}; not kept anywhere")
    return backend.precision


def _write_graphs(
    args: argparse.Namespace,
    model: FCCLIP,
    sizes: list[tuple[int, int]],
    precision: str,
    console: Terminal,
    progress: Progress,
) -> None:
    from fcclip_core.export.input_spec import InputSpec
    from fcclip_core.export.onnx_export import export_onnx
    from fcclip_core.files.atomic_write import atomic_write

    for height, width in sizes:
        spec = InputSpec(args.batch, height, width, precision)
        path = args.out / f"{model.config.name}-{spec}.onnx"
        progress(f"writing {path.name}", 0, 1)
        onnx = export_onnx(model, spec)
        found = "not checked" if args.no_check else _check(model, onnx, spec)
        try:
            with atomic_write(path) as part:
                part.write_bytes(onnx)
        except OSError as error:
            raise SettingsError(f"{path} cannot be written: {error.strerror or error}") from error
        progress(f"writing {path.name}", 1, 1)
        console.print(f"{path}: {len(onnx) / 1e6:,.0f} MB, {found}; vanished masks: {model.vanished_masks}")


def _check(model: FCCLIP, onnx: bytes, spec: InputSpec) -> str:
    """Runs a graph on the CPU and compares it with eager PyTorch; says with which runtime and how far they differ.

    Raises:
        BackendError: It is too far from it.
    """
    import torch

    from fcclip_core.backends import LIBRARIES
    from fcclip_core.backends.eager import EagerBackend
    from fcclip_core.export.check import Reference, check, check_picture
    from fcclip_core.model.fcclip import ModelOutput

    cpu, picture = torch.device("cpu"), check_picture(spec)
    missing = []
    for name in ("onnxruntime", "openvino"):
        try:
            library = LIBRARIES[name](cpu, spec.precision)
        except BackendError as error:
            missing.append(str(error))
            continue
        runner = library.load(library.build(lambda _: onnx, lambda *_: None), spec)
        reference = Reference.of(EagerBackend(model, cpu)(picture))
        differences = check(library.name, reference, ModelOutput(*runner(picture)), spec.precision)
        return f"run by {library.name}: differs from eager PyTorch by {differences}"
    return f"not checked: {'; '.join(missing)}"
