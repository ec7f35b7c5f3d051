"""The arguments that programs share, and the segmenter and the node's parameters that they stand for; needs no ROS."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fcclip_core import InferenceSettings, Segmenter
from fcclip_core.backends import BACKENDS
from fcclip_core.errors import SettingsError
from fcclip_core.export.input_spec import PRECISIONS
from fcclip_core.images.camera_size import parse_size
from fcclip_core.model.config import PRESETS
from fcclip_core.settings import OUTPUT_STRIDES

MODEL = ("checkpoint", "backend", "precision", "device", "shorter_side", "threads")
"""What decides how the model runs."""


def backend_name(text: str) -> str:
    """A backend, or a backend and a precision: NAME[:PRECISION].

    Raises:
        argparse.ArgumentTypeError: It is not one.
    """
    name, _, precision = text.partition(":")
    if name not in BACKENDS or precision not in ("", *PRECISIONS):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not one of {', '.join(BACKENDS)}, or one of them with a precision"
        )
    return text


def size(text: str) -> tuple[int, int]:
    """Width and height in pixels, from WIDTHxHEIGHT.

    Raises:
        argparse.ArgumentTypeError: It is not a size.
    """
    try:
        return parse_size(text)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


_BACKENDS_HELP = f"of {', '.join(BACKENDS)}; with a precision, {', '.join(PRECISIONS)}"
_SHARED: dict[str, dict[str, Any]] = {
    "checkpoint": {"default": "demo", "help": "weights: a file, a bundled name, or recipe:NAME"},
    "preset": {"default": "convnext_large", "choices": sorted(PRESETS), "help": "model, with seeded weights"},
    "backend": {"default": "auto", "help": "auto, or one that `fcclip doctor` lists"},
    "backends": {"nargs": "+", "type": backend_name, "metavar": "NAME[:PRECISION]", "help": _BACKENDS_HELP},
    "precision": {"default": "auto", "choices": ("auto", *PRECISIONS), "help": "what the backend computes in"},
    "device": {"default": "auto", "help": "auto, cpu, cuda or cuda:N"},
    "shorter_side": {"type": int, "default": 0, "help": "test-time size in pixels; 0: the model's own"},
    "output_stride": {"type": int, "default": 1, "choices": OUTPUT_STRIDES, "help": "image pixels per label pixel"},
    "threads": {"type": int, "default": 0, "help": "torch threads; 0 leaves torch's choice"},
    "vocabulary": {"default": "indoor_robot", "help": "a bundled vocabulary or a file"},
    "image": {"type": Path, "help": "photograph; without it, the reference's 640x480 one"},
    "size": {"type": size, "default": "640x480", "metavar": "WIDTHxHEIGHT", "help": "of the images, in pixels"},
    "frames": {"type": int, "default": 100, "help": "frames to measure"},
    "scenes": {"type": int, "default": 100, "help": "scenes to render"},
    "seed": {"type": int, "default": 0, "help": "of the scenes"},
    "seeds": {"type": int, "nargs": "+", "default": [0], "help": "of the scenes, one run each"},
    "kind": {"default": "room", "choices": ("room", "table", "yard"), "help": "of the simulated drive"},
    "repeat": {"type": int, "default": 5, "help": "repetitions, after one to warm up; their median counts"},
    "rate": {"type": float, "default": 10.0, "help": "frames per second"},
    "seconds": {"type": float, "default": 10.0, "help": "length of the measurement"},
    "json": {"type": Path, "metavar": "FILE", "help": "also write the result here"},
}


def make_parser(doc: str | None, *names: str, **defaults: Any) -> argparse.ArgumentParser:
    """A parser with --json and some of the shared arguments.

    Args:
        doc: The program's docstring.
        names: Shared arguments, with underscores, that keep their default.
        defaults: Shared arguments with a default of the program's own.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for name in (*names, *(name for name in defaults if name not in names), "json"):
        options = _SHARED[name] | ({"default": defaults[name]} if name in defaults else {})
        parser.add_argument(f"--{name.replace('_', '-')}", **options)
    return parser


def node_parameters(args: argparse.Namespace) -> dict[str, Any]:
    """The node's parameters that `MODEL`, --vocabulary and --size stand for."""
    return {
        "checkpoint": args.checkpoint,
        "backend": args.backend,
        "precision": args.precision,
        "camera_size": "{}x{}".format(*args.size),
        "device": args.device,
        "shorter_side": args.shorter_side,
        "output_stride": getattr(args, "output_stride", 1),
        "num_threads": args.threads,
        "vocabulary": args.vocabulary,
        # The maximum, so that an overlay is part of every frame's cost.
        "publish_overlay_rate": 120.0,
    }


def make_segmenter(args: argparse.Namespace, **options: Any) -> Segmenter:
    """The segmenter that the node would make of `MODEL`, prepared for images of --size, without a vocabulary.

    Args:
        args: The command line.
        options: For `Segmenter.from_checkpoint`; they override the command line.
    """
    stride = getattr(args, "output_stride", 1)
    settings = InferenceSettings(shorter_side=args.shorter_side, output_stride=stride, num_threads=args.threads)
    given = {name: getattr(args, name) for name in ("device", "backend", "precision") if name in args}
    segmenter = Segmenter.from_checkpoint(args.checkpoint, settings=settings, **given | options)
    width, height = args.size
    segmenter.prepare(height, width)
    return segmenter
