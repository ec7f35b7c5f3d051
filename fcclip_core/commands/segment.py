"""`fcclip segment`: images, folders, videos and bags in; label images, overlays, JSON and labeled bags out."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcclip_core import torchrun
from fcclip_core.commands.inference_arguments import (
    add_model_arguments,
    add_vocabulary_arguments,
    settings_from,
    vocabulary_from,
    with_background,
)
from fcclip_core.commands.progress_bar import progress_bar
from fcclip_core.commands.ros_modules import ros_module
from fcclip_core.commands.segment_jobs import Job, find_jobs, left_out
from fcclip_core.commands.segment_loop import reason_of, segment_each
from fcclip_core.commands.segment_memory import (
    MemoryFiller,
    add_memory_arguments,
    check_memory_arguments,
    memory_filler,
)
from fcclip_core.commands.segment_outcomes import Display, Tally, print_summary
from fcclip_core.commands.segment_records import OutputOptions, recipe_of
from fcclip_core.commands.segment_writer import ResultWriter
from fcclip_core.errors import FcclipError
from fcclip_core.files.atomic_write import sweep
from fcclip_core.files.folder_claim import FolderClaim, claimed
from fcclip_core.files.paths import expanded, refuse_overwriting
from fcclip_core.images.image_limits import MAX_PIXELS
from fcclip_core.torchrun import Place

if TYPE_CHECKING:
    from fcclip_core.distributed import SharedStore
    from fcclip_core.geometry.ignore_mask import IgnoreMask
    from fcclip_core.settings import InferenceSettings
    from fcclip_core.terminal import Terminal
    from fcclip_core.vocabulary.classes import Vocabulary

_logger = logging.getLogger(__name__)


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser(
        "segment",
        help="segment images, folders, videos or ROS 2 bags and write label images, overlays and JSON",
        description="Per image: NAME_labels.png (16-bit, segment ids, 0 = none), NAME_semantic.png (16-bit, class "
        "ids), NAME_overlay.jpg and NAME.json. Per video: NAME_overlay.mp4, NAME_frames.jsonl (a line a frame) and "
        "NAME.json. Per ROS 2 bag (mcap, sqlite3): the same, NAME_labels/ with a label image a frame, and NAME_bag, a "
        "bag (mcap) with what the node would have published. Folders are read one level deep. Unreadable files are "
        "named and skipped; exit code 1. What a run with the same words, weights and settings has done is kept. "
        "Start it with torchrun to share the inputs among processes.",
    )
    parser.add_argument("inputs", nargs="+", metavar="IMAGE|VIDEO|BAG|DIR", help="what to segment")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results, made if need be")
    parser.add_argument("--overlay", choices=("jpg", "png", "none"), default="jpg", help="default: jpg")
    parser.add_argument("--opacity", type=float, default=0.5, metavar="N", help="of the overlay's fill (default: 0.5)")
    parser.add_argument(
        "--max-image-pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help="pixels of a picture at most; larger JPEGs are decoded and labeled at a half, a quarter or an eighth of "
        "their size, other pictures are skipped (default: %(default)s)",
    )
    parser.add_argument(
        "--ignore-mask",
        default="",
        metavar="FILE",
        help="a PNG of the images' aspect ratio; what is not black in it is never labeled: the robot's own arm",
    )
    parser.add_argument(
        "--contours",
        choices=("polygons", "rle"),
        default="",
        help="also write each segment's pixels into the JSON, as COCO's `segmentation`: polygons, or rle, which needs "
        "pycocotools",
    )
    parser.add_argument("--topic", default="", help="image topic of a bag (default: the only one)")
    parser.add_argument(
        "--gray16-range",
        default="full",
        metavar="RANGE",
        help="which values of a bag's 16-bit gray images (mono16; with a range also 16UC1) become black and white, for "
        'thermal cameras: "28000 32000", "1%% 99%%" (percentiles of each image), or full: 0 and 65535 (the default)',
    )
    parser.add_argument("--with-input", action="store_true", help="copy what a bag holds into the labeled one")
    parser.add_argument("--again", action="store_true", help="label anew what is done already")
    add_memory_arguments(parser)
    add_vocabulary_arguments(parser)
    add_model_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; with the others, if `torchrun` started this process.

    Returns:
        0, or 1 if some input could not be read, or some result not be written.

    Raises:
        FcclipError: Nothing can be done at all: no input, no words, no weights, nowhere to write, an ignore mask that
            cannot be read, or an input that a result would replace.
        DeviceLostError: The GPU is lost; what was written until then is whole and stays.
        FolderTakenError: Another run writes to the same folder.
    """
    return _run_with_others(args) if torchrun.is_started_by_torchrun() else _run_alone(args)


@dataclass(frozen=True)
class Request:
    """The arguments, as far as they need no weights, checked.

    Attributes:
        vocabulary: The words, without what competes.
        settings: Inference settings.
        outputs: What is written.
        ignore_mask: Pixels that are never labeled; None: all may be.
    """

    vocabulary: Vocabulary
    settings: InferenceSettings
    outputs: OutputOptions
    ignore_mask: IgnoreMask | None


def _run_alone(args: argparse.Namespace) -> int:
    request = _checked(args)
    out, jobs = _planned(args)
    # Slow to import, and none of it is needed to find out that an argument is wrong.
    from fcclip_core.devices import watched
    from fcclip_core.terminal import Terminal

    console = Terminal(stderr=True, soft_wrap=True)
    with _ours(out) as claim, memory_filler(args) as memory:
        _warn(args, request, console)
        tally = Tally(jobs)
        writer = _writer(args, request, claim, args.device, console, memory)
        tally.backends.append(writer.segmenter.backend_description)
        with watched(writer.segmenter.device), Display(tally, console) as display:
            display.show()
            segment_each(range(len(jobs)), jobs, writer, display, again=args.again)
    print_summary(tally, out, console)
    return 1 if tally.failed else 0


def _run_with_others(args: argparse.Namespace) -> int:
    """Takes part in a run of several processes; the first one plans, talks and sums up."""
    from fcclip_core.commands.segment_sharing import Collector, Plan, end_together, largest_first
    from fcclip_core.distributed import SharedStore
    from fcclip_core.terminal import Terminal

    place, store = torchrun.place(), SharedStore.joined()
    console = Terminal(stderr=True, soft_wrap=True, quiet=not place.is_first)
    if not place.is_first:
        plan = Plan.asked_for(store, place)
        claim, ours = FolderClaim(expanded(args.out), plan.token), store.section(plan.token)
        _take_part(args, claim, plan.jobs, ours, place, console)
        return end_together(ours, place)
    request = _checked(args)
    out, jobs = _planned(args)
    with contextlib.ExitStack() as stack:
        claim = stack.enter_context(_ours(out))
        plan, ours = Plan(largest_first(jobs), claim.token), store.section(claim.token)
        _warn(args, request, console)
        tally = Tally(plan.jobs)
        display = stack.enter_context(Display(tally, console))
        wait_for_all = stack.enter_context(Collector(store, place, plan, display, tally).running())
        _take_part(args, claim, plan.jobs, ours, place, console, display)
        display.show()
        wait_for_all()
    print_summary(tally, out, console)
    return end_together(ours, place, 1 if tally.failed else 0)


def _take_part(
    args: argparse.Namespace,
    claim: FolderClaim,
    jobs: Sequence[Job],
    store: SharedStore,
    place: Place,
    console: Terminal,
    display: Display | None = None,
) -> None:
    """Segments what this process gets; if it cannot go on, the others do without it."""
    from fcclip_core.commands.segment_sharing import StoreReports, handed_out
    from fcclip_core.devices import resolve_device, watched
    from fcclip_core.distributed import own_device

    reports, backend = StoreReports(store, place), ""
    try:
        claim.require_shared()
        device = own_device(resolve_device(args.device))
        writer = _writer(args, _checked(args), claim, str(device), console)
        backend = writer.segmenter.backend_description
        if display is not None:
            display.show()
        with watched(device):
            segment_each(handed_out(store, len(jobs)), jobs, writer, reports, again=args.again)
    except Exception as error:
        _logger.info("this process gives up", exc_info=True)
        reports.ended(backend, reason_of(error))
    else:
        reports.ended(backend)


def _checked(args: argparse.Namespace) -> Request:
    vocabulary = vocabulary_from(args.vocab, args.stuff)
    settings = settings_from(args)
    if not 0.0 <= args.opacity <= 1.0:
        raise FcclipError(f"--opacity is {args.opacity}; it must be between 0 and 1")
    if args.max_image_pixels < 1:
        raise FcclipError(f"--max-image-pixels is {args.max_image_pixels}; it must be at least 1")
    from fcclip_core.geometry.ignore_mask import IgnoreMask
    from fcclip_core.segments.contours import check_contour_type

    check_contour_type(args.contours)
    if args.gray16_range != "full":
        gray_range = ros_module("fcclip_ros.conversions.gray_range", "--gray16-range")
        gray_range.GrayRange.parse("--gray16-range", args.gray16_range)
    outputs = OutputOptions(
        overlay=args.overlay,
        opacity=args.opacity,
        contours=args.contours,
        max_pixels=args.max_image_pixels,
        topic=args.topic,
        gray16_range=args.gray16_range,
        with_input=args.with_input,
    )
    ignore_mask = IgnoreMask(expanded(args.ignore_mask)) if args.ignore_mask else None
    return Request(vocabulary, settings, outputs, ignore_mask)


def _planned(args: argparse.Namespace) -> tuple[Path, list[Job]]:
    """The folder of the results, and what to segment; nothing of it is replaced."""
    inputs = [expanded(name) for name in args.inputs]
    out = _output_folder(args.out)
    jobs = find_jobs(inputs, out)
    check_memory_arguments(args, jobs, alone=not torchrun.is_started_by_torchrun())
    results = (out / name for job in jobs for name in job.results(args.overlay))
    given = (expanded(text) for text in (args.vocab, args.checkpoint, *filter(None, [args.ignore_mask, args.memory])))
    refuse_overwriting("the result", results, [*(job.source for job in jobs), *given])
    return out, jobs


@contextlib.contextmanager
def _ours(out: Path) -> Iterator[FolderClaim]:
    """Claims the folder of the results, and removes what a killed run has left half written."""
    with claimed(out) as claim:
        sweep(out)
        yield claim


def _warn(args: argparse.Namespace, request: Request, console: Terminal) -> None:
    """Says what is not going to be read, and what is questionable in the words."""
    from rich.text import Text

    from fcclip_core.vocabulary.checks import find_warnings, summary

    for line in left_out(map(expanded, args.inputs)):
        console.print(Text(line, style="yellow"))
    if warning := summary(find_warnings(request.vocabulary)):
        console.print(Text(f"words: {warning}", style="yellow"))


def _writer(
    args: argparse.Namespace,
    request: Request,
    claim: FolderClaim,
    device: str,
    console: Terminal,
    memory: MemoryFiller | None = None,
) -> ResultWriter:
    """Loads the weights and encodes the words."""
    from rich.text import Text

    from fcclip_core.segmenter import Segmenter

    with console.status(Text(f"loading {args.checkpoint}")):
        segmenter = Segmenter.from_checkpoint(
            args.checkpoint,
            device=device,
            backend=args.backend,
            precision=args.precision,
            vanished_masks=args.vanished_masks,
            settings=request.settings,
        )
    vocabulary = with_background(request.vocabulary, args.background, segmenter)
    with progress_bar(console) as progress:
        words = progress.add_task("words", total=len(vocabulary.synonyms), completed=len(vocabulary.synonyms))
        snapshot = segmenter.set_vocabulary(
            vocabulary, progress=lambda done, new: progress.update(words, completed=done, total=new)
        )
    recipe = recipe_of(segmenter, snapshot, request.ignore_mask, request.outputs)
    return ResultWriter(claim, segmenter, snapshot, str(args.checkpoint), recipe, request.ignore_mask, memory)


def _output_folder(name: str) -> Path:
    out = expanded(name)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FcclipError(f"cannot make --out {out}: {error.strerror}; choose another folder") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise FcclipError(f"cannot write to --out {out}; choose another folder or change its permissions")
    return out
