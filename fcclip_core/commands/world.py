"""`fcclip world`: renders the simulated world to disk, as scattered views or as a drive."""

from __future__ import annotations

import argparse
import os
from typing import Any

from fcclip_core.errors import FcclipError, SettingsError
from fcclip_core.files.paths import expanded
from fcclip_core.images.camera_size import parse_size


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser("world", help="render the simulated robot world, with exact truth")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    render = actions.add_parser(
        "render",
        help="write a COCO-panoptic directory with depth and camera poses, or shards for training",
        description="Rendered off-screen by MuJoCo. The same seed gives the same pixels; run again, it continues.",
    )
    render.add_argument("out", metavar="OUT", type=expanded, help="folder to write to, made if need be")
    render.add_argument("--scenes", type=int, required=True, metavar="N", help="how many scenes")
    _add_common(render)
    render.add_argument("--views", type=int, default=4, metavar="K", help="pictures of each scene (default: 4)")
    render.add_argument("--shards", action="store_true", help="write .npz shards instead of a COCO directory")
    render.add_argument(
        "--workers", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="processes (default: all cores)"
    )
    render.set_defaults(run=run)
    drive = actions.add_parser(
        "drive",
        help="record what a robot's camera sees on its way through one scene; sim_camera plays it",
        description="Writes a COCO-panoptic directory with depth and camera poses, frame after frame.",
    )
    drive.add_argument("out", metavar="OUT", type=expanded, help="empty folder to write to, made if need be")
    drive.add_argument("--frames", type=int, default=60, metavar="N", help="how many (default: 60)")
    drive.add_argument("--rate", type=float, default=5.0, metavar="HZ", help="frames a second (default: 5)")
    _add_common(drive)
    drive.add_argument(
        "--kind", choices=("room", "table", "yard"), default="room", help="where the robot drives (default: room)"
    )
    drive.set_defaults(run=run_drive)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, other scenes (default: 0)")
    parser.add_argument(
        "--split", choices=("train", "all"), default="all", help="train leaves the held-out classes out (default: all)"
    )
    parser.add_argument(
        "--size", type=_size, default=(320, 240), metavar="WxH", help="of the images (default: 320x240)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs `fcclip world render`.

    Raises:
        FcclipError: A value out of range, no GL library, nowhere to write, or a folder with something else in it.
    """
    from fcclip_core.commands.progress_bar import progress_bar
    from fcclip_core.simulation.dataset import WorldPlan, write_coco, write_shards
    from fcclip_core.terminal import Terminal

    plan = WorldPlan(args.scenes, args.seed, args.split, args.size, args.views)
    out = args.out
    with progress_bar(Terminal(stderr=True)) as progress:
        task = progress.add_task("frames", total=plan.frames)
        write = write_shards if args.shards else write_coco
        try:
            write(plan, out, args.workers, lambda frames: progress.advance(task, frames))
        except OSError as error:
            raise FcclipError(f"cannot write to {out}: {error.strerror or error}; run again to continue") from error
    return 0


def run_drive(args: argparse.Namespace) -> int:
    """Runs `fcclip world drive`.

    Raises:
        FcclipError: No GL library, nowhere to write, or a folder with something in it.
    """
    from fcclip_core.commands.progress_bar import progress_bar
    from fcclip_core.datasets.drive_recording import record_drive
    from fcclip_core.terminal import Terminal

    out = args.out
    with progress_bar(Terminal(stderr=True)) as progress:
        task = progress.add_task("frames", total=args.frames)
        try:
            record_drive(
                out,
                seed=args.seed,
                frames=args.frames,
                rate=args.rate,
                split=args.split,
                kind=args.kind,
                size=args.size,
                advance=lambda: progress.advance(task),
            )
        except OSError as error:
            raise FcclipError(f"cannot write to {out}: {error.strerror or error}") from error
    return 0


def _size(text: str) -> tuple[int, int]:
    try:
        return parse_size(text)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
