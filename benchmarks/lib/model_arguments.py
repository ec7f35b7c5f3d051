"""The arguments that say which model runs and how, in the node or in this process; needs no ROS."""

from __future__ import annotations

import argparse
from typing import Any

from fcclip_core import InferenceSettings, Segmenter
from fcclip_core.export.input_spec import PRECISIONS


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what decides how the model runs, in the node and beside it."""
    parser.add_argument("--checkpoint", default="demo", help="weights: a file, a bundled name, or recipe:NAME")
    parser.add_argument("--backend", default="auto", help="auto, or one that `fcclip doctor` lists")
    parser.add_argument("--precision", default="auto", choices=("auto", *PRECISIONS), help="what it computes in")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--shorter-side", type=int, default=0, help="test-time size in pixels; 0: the model's own")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves torch's choice")
    parser.add_argument("--vocabulary", default="indoor_robot", help="a bundled vocabulary or a file")


def node_parameters(args: argparse.Namespace) -> dict[str, Any]:
    """The node's parameters that the arguments of `add_model_arguments` and --size stand for."""
    return {
        "checkpoint": args.checkpoint,
        "backend": args.backend,
        "precision": args.precision,
        "camera_size": "{}x{}".format(*args.size),
        "device": args.device,
        "shorter_side": args.shorter_side,
        "num_threads": args.threads,
        "vocabulary": args.vocabulary,
        "publish_overlay_rate": 120.0,  # As often as it may be: what every frame costs is to be seen.
    }


def make_segmenter(args: argparse.Namespace, **options: Any) -> Segmenter:
    """The segmenter that the node would make of the same arguments, ready for pictures of --size, without words."""
    settings = InferenceSettings(shorter_side=args.shorter_side, num_threads=args.threads)
    segmenter = Segmenter.from_checkpoint(
        args.checkpoint,
        device=args.device,
        backend=args.backend,
        precision=args.precision,
        settings=settings,
        **options,
    )
    width, height = args.size
    segmenter.prepare(height, width)
    return segmenter
