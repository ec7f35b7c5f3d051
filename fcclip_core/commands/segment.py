"""`fcclip segment`: images, folders, videos and bags in; label images, overlays, JSON and labeled bags out."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcclip_core.commands.inference_arguments import (
    add_model_arguments,
    add_vocabulary_arguments,
    settings_from,
    vocabulary_from,
    with_background,
)
from fcclip_core.commands.progress_bar import progress_bar
from fcclip_core.commands.ros_modules import ros_module
from fcclip_core.commands.segment_jobs import Job, find_jobs, left_out, listed
from fcclip_core.errors import DeviceLostError, FcclipError, ImageError
from fcclip_core.files.atomic_write import atomic_folder, atomic_write, write_atomically
from fcclip_core.files.json_files import json_line, write_json
from fcclip_core.files.paths import expanded, refuse_overwriting
from fcclip_core.images.image_limits import MAX_PIXELS
from fcclip_core.quoting import first_line, printable

if TYPE_CHECKING:
    import numpy as np
    from rich.progress import Progress, TaskID

    from fcclip_core.geometry.ignore_mask import IgnoreMask
    from fcclip_core.results import PanopticResult
    from fcclip_core.segmenter import Segmenter
    from fcclip_core.terminal import Terminal
    from fcclip_core.vocabulary.snapshot import VocabularySnapshot

_JPEG_QUALITY = 92
_LABEL_IMAGE = re.compile(r"\d{6,}\.png")
_FIRST_PICTURE = "the file holds several pictures (an animation, or pages); the first one was taken"

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
        "named and skipped; exit code 1.",
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
    parser.add_argument("--with-input", action="store_true", help="copy what a bag holds into the labeled one")
    add_vocabulary_arguments(parser)
    add_model_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command.

    Returns:
        0, or 1 if some input could not be read, or some result not be written.

    Raises:
        FcclipError: Nothing can be done at all: no input, no words, no weights, nowhere to write, an ignore mask that
            cannot be read, or an input that a result would replace.
        DeviceLostError: The GPU is lost; what was written until then is whole and stays.
    """
    vocabulary = vocabulary_from(args.vocab, args.stuff)
    settings = settings_from(args)
    if not 0.0 <= args.opacity <= 1.0:
        raise FcclipError(f"--opacity is {args.opacity}; it must be between 0 and 1")
    if args.max_image_pixels < 1:
        raise FcclipError(f"--max-image-pixels is {args.max_image_pixels}; it must be at least 1")
    from fcclip_core.geometry.ignore_mask import IgnoreMask
    from fcclip_core.segments.contours import check_contour_type

    check_contour_type(args.contours)
    ignore_mask = IgnoreMask(expanded(args.ignore_mask)) if args.ignore_mask else None
    inputs = [expanded(name) for name in args.inputs]
    out = _output_folder(args.out)
    jobs = find_jobs(inputs, out)
    results = (out / name for job in jobs for name in job.results(args.overlay))
    given = (expanded(text) for text in (args.vocab, args.checkpoint, *filter(None, [args.ignore_mask])))
    refuse_overwriting("the result", results, [*(job.source for job in jobs), *given])

    # Slow to import, and none of it is needed to find out that an argument is wrong.
    from rich.text import Text

    from fcclip_core.devices import watched
    from fcclip_core.segmenter import Segmenter
    from fcclip_core.terminal import Terminal
    from fcclip_core.vocabulary.checks import find_warnings, summary

    console = Terminal(stderr=True, soft_wrap=True)
    for line in left_out(inputs):
        console.print(Text(line, style="yellow"))
    if warning := summary(find_warnings(vocabulary)):
        console.print(Text(f"words: {warning}", style="yellow"))
    with console.status(Text(f"loading {args.checkpoint}")):
        segmenter = Segmenter.from_checkpoint(
            args.checkpoint,
            device=args.device,
            backend=args.backend,
            precision=args.precision,
            vanished_masks=args.vanished_masks,
            settings=settings,
        )
    vocabulary = with_background(vocabulary, args.background, segmenter)
    with progress_bar(console) as progress:
        words = progress.add_task("words", total=len(vocabulary.synonyms), completed=len(vocabulary.synonyms))
        snapshot = segmenter.set_vocabulary(
            vocabulary, progress=lambda done, new: progress.update(words, completed=done, total=new)
        )
    writer = ResultWriter(
        out,
        segmenter,
        snapshot,
        str(args.checkpoint),
        args.overlay,
        args.opacity,
        args.max_image_pixels,
        ignore_mask,
        args.contours,
    )
    with watched(segmenter.device):
        failed = _segment_all(jobs, writer, BagOptions(args.topic, args.with_input), console)
    done = f"{len(jobs) - len(failed)} of {len(jobs)} inputs"
    console.print(f"{done} segmented into {out} ({segmenter.backend_description})")
    if failed:
        console.print(Text(f"failed: {listed(str(job.source) for job in failed)}", style="red"))
    return 1 if failed else 0


@dataclass(frozen=True)
class BagOptions:
    """How bags are read and written.

    Attributes:
        topic: Image topic; empty for the only one.
        with_input: Whether the labeled bag holds the other one's messages, too.
    """

    topic: str = ""
    with_input: bool = False


@dataclass(frozen=True)
class ResultWriter:
    """Segments inputs and writes what was found.

    Attributes:
        out: Folder of the results.
        segmenter: Ready, with its vocabulary set.
        snapshot: That vocabulary.
        checkpoint: What the user called the weights.
        overlay: "jpg", "png" or "none".
        opacity: Of the overlay's fill, 0 to 1.
        max_pixels: Pixels of a picture at most.
        ignore_mask: Pixels that are never labeled; None: all may be.
        contours: What the JSON holds of the segments' pixels; one of `contours.CONTOUR_TYPES`.
    """

    out: Path
    segmenter: Segmenter
    snapshot: VocabularySnapshot
    checkpoint: str
    overlay: str
    opacity: float
    max_pixels: int = MAX_PIXELS
    ignore_mask: IgnoreMask | None = None
    contours: str = ""

    def image(self, job: Job) -> list[str]:
        """Segments an image; its JSON comes last, so where it exists the other files do.

        Returns:
            What the user should know.

        Raises:
            ImageError: It cannot be read.
            OSError: A result cannot be written.
        """
        import numpy as np

        from fcclip_core.images.image_files import encode_image, read_photograph

        photograph = read_photograph(job.source, self.max_pixels)
        image = photograph.pixels
        height, width = image.shape[:2]
        result = self._label(image)
        files = {"labels": f"{job.stem}_labels.png", "semantic": f"{job.stem}_semantic.png"}
        contents = {
            files["labels"]: encode_image(result.segment_map.astype(np.uint16), ".png"),
            files["semantic"]: encode_image(result.semantic_map().astype(np.uint16), ".png"),
        }
        if self.overlay != "none":
            files["overlay"] = f"{job.stem}_overlay.{self.overlay}"
            drawn = self._draw(image, result)
            contents[files["overlay"]] = encode_image(drawn, f".{self.overlay}", quality=_JPEG_QUALITY)
        self._forget(job)
        for name, content in contents.items():
            write_atomically(self.out / name, content)
        about = {"image": str(job.source), "height": height, "width": width, "files": files}
        about["reduced_by"] = photograph.reduced_by
        self._describe(job, about, describe(result, self.contours))
        notes = [_FIRST_PICTURE] if photograph.first_of_several else []
        if photograph.reduced_by > 1:
            limit = f"it has more than {self.max_pixels / 1e6:g} million pixels (--max-image-pixels)"
            notes.append(f"labeled at 1/{photograph.reduced_by} of its size, because {limit}")
        return notes

    def video(self, job: Job, advance: Callable[[int, int], None]) -> list[str]:
        """Segments a video frame by frame.

        Args:
            job: The video.
            advance: Called with (frames done, frames that the file holds; 0 if it does not say).

        Returns:
            What the user should know.

        Raises:
            ImageError: It cannot be read, or MPEG-4 cannot hold its overlay.
            OSError: A result cannot be written.
        """
        from fcclip_core.images.video_files import VideoFile, movie

        video = VideoFile.open(job.source, self.max_pixels)
        frames = video.frames()
        first = next(frames)
        height, width = first.image.shape[:2]
        files = {"frames": f"{job.stem}_frames.jsonl"}
        with contextlib.ExitStack() as overlay:
            if self.overlay != "none":
                files["overlay"] = f"{job.stem}_overlay.mp4"
                show = overlay.enter_context(movie(self.out / files["overlay"], video.rate, first.image.shape))
            # Finished before the overlay, which may fail without them.
            with self._lines(job, files["frames"]) as write:
                for index, frame in enumerate(itertools.chain([first], frames)):
                    result = self._label(frame.image)
                    where = {"frame": index, "time": round(frame.time, 6)}
                    write(where | _size(frame.image) | describe(result, self.contours))
                    if self.overlay != "none":
                        show(self._draw(frame.image, result))
                    done = index + 1
                    advance(done, video.packets)
        about = {"video": str(job.source), "height": height, "width": width, "fps": video.rate, "frames": done}
        self._describe(job, about | {"files": files})
        lost = video.packets - done if video.counts_frames else 0
        return [f"{lost} of {video.packets} frames could not be read"] if lost > 0 else []

    def bag(self, job: Job, options: BagOptions, advance: Callable[[int, int], None]) -> list[str]:
        """Segments a bag image by image; its JSON comes last. What an earlier run left is replaced when all is done.

        Args:
            job: The bag.
            options: Topic, and what is copied.
            advance: Called with (images done, images of the bag).

        Returns:
            What the user should know.

        Raises:
            ImageError: It cannot be read, MPEG-4 cannot hold its overlay, or results would replace something else.
            OSError: A result cannot be written.
        """
        import numpy as np

        from fcclip_core.images.image_files import write_image
        from fcclip_core.images.video_files import FALLBACK_RATE, movie

        bags = ros_module("fcclip_ros.bags.bag_segmentation", "labeling a bag")
        source = bags.BagImages(job.source, options.topic, option="--topic", max_pixels=self.max_pixels)
        count, rate = source.count_and_rate()
        files = {"bag": f"{job.stem}_bag", "frames": f"{job.stem}_frames.jsonl", "labels": f"{job.stem}_labels"}
        _check_replaceable(self.out / files["labels"])
        unreadable, first, show = 0, None, None
        with contextlib.ExitStack() as overlay:
            # Nothing of an earlier run is replaced before all is written; then the overlay, which may fail without it.
            with contextlib.ExitStack() as stack:
                pictures = stack.enter_context(atomic_folder(self.out / files["labels"]))
                labeled = stack.enter_context(bags.LabelBag(self.out / files["bag"]))
                write = stack.enter_context(self._lines(job, files["frames"]))
                for index, frame in enumerate(source.frames()):
                    if isinstance(frame, ImageError):
                        unreadable += 1
                        write({"frame": index, "error": str(frame)})
                        advance(index + 1, count)
                        continue
                    result = self._label(frame.image)
                    labeled.write(frame, result, self.snapshot, self.contours)
                    picture = f"{index:06}.png"
                    write_image(pictures / picture, result.segment_map.astype(np.uint16))
                    first = frame.nanoseconds if first is None else first
                    about = {"frame": index, "time": 1e-9 * (frame.nanoseconds - first), "stamp": list(frame.stamp)}
                    about |= {"frame_id": frame.frame_id, "labels": f"{files['labels']}/{picture}"}
                    write(about | _size(frame.image) | describe(result, self.contours))
                    if self.overlay != "none":
                        if show is None:
                            files["overlay"] = f"{job.stem}_overlay.mp4"
                            opened = movie(self.out / files["overlay"], rate or FALLBACK_RATE, frame.image.shape)
                            show = overlay.enter_context(opened)
                        show(self._draw(frame.image, result))
                    advance(index + 1, count)
                if count == unreadable:
                    left_out = "".join(f"; {text}" for text in source.left_out)
                    raise ImageError(f"none of its {count} images can be read{left_out}")
                if options.with_input:
                    labeled.copy(job.source, source.leave_out)
                labeled.finish()
            # Of an earlier run, and of other labels.
            (self.out / f"{job.stem}_overlay.mp4").unlink(missing_ok=True)
        about = {"recording": str(job.source), "topic": options.topic, "frames": count, "unreadable": unreadable}
        self._describe(job, about | {"left_out": source.left_out, "files": files})
        return [*source.left_out, *([f"{unreadable} of {count} frames could not be read"] if unreadable else [])]

    @contextlib.contextmanager
    def _lines(self, job: Job, name: str) -> Iterator[Callable[[dict[str, Any]], None]]:
        """A file of JSON lines being written; yields the function that takes them."""
        with atomic_write(self.out / name) as part:
            with part.open("wb") as file:

                def write(values: dict[str, Any]) -> None:
                    file.write(json_line(values))
                    # A disk that is full is noticed at the frame that found it so. Unbuffered files would take a part
                    # of the line and say so in a number alone.
                    file.flush()

                yield write
            self._forget(job)

    def _label(self, image: np.ndarray) -> PanopticResult:
        """Segments an image; ImageError if the ignore mask has another aspect ratio."""
        if self.ignore_mask is None:
            return self.segmenter(image)
        # Before the model, which takes longer.
        ignored = self.ignore_mask.at(*image.shape[:2])
        return self.segmenter(image).without_pixels(ignored)

    def _draw(self, image: np.ndarray, result: PanopticResult) -> np.ndarray:
        from fcclip_core.segments.visualization import draw_overlay

        colors = {row.id: row.color for row in self.snapshot.published}
        return draw_overlay(image, result, colors, self.opacity)

    def _forget(self, job: Job) -> None:
        """Takes an earlier run's description away before its other results are replaced."""
        (self.out / f"{job.stem}.json").unlink(missing_ok=True)

    def _describe(self, job: Job, about: dict[str, Any], found: dict[str, Any] | None = None) -> None:
        write_json(self.out / f"{job.stem}.json", about | self._run_description() | (found or {}))

    def _run_description(self) -> dict[str, Any]:
        classes = [
            {
                "id": row.id,
                "name": row.item.name,
                "synonyms": row.item.synonyms,
                "is_thing": row.item.is_thing,
                "color": row.color,
            }
            for row in self.snapshot.published
        ]
        return {
            "checkpoint": self.checkpoint,
            "backend": self.segmenter.backend_description,
            "settings": asdict(self.segmenter.settings),
            "ignore_mask": None if self.ignore_mask is None else str(self.ignore_mask.path),
            "vocabulary": {"version": self.snapshot.version, "classes": classes},
        }


def describe(result: PanopticResult, contours: str = "") -> dict[str, Any]:
    """A result's segments and timings as JSON values; boxes are `[x_min, y_min, x_max, y_max]`, timings in seconds.

    Args:
        result: The result.
        contours: What else is said of a segment's pixels, under `segmentation`; one of `contours.CONTOUR_TYPES`.
    """
    from fcclip_core.segments.contours import coco_segmentations

    pixels = coco_segmentations(result, contours)
    return {
        "vocabulary_version": result.vocabulary_version,
        "segments": [
            {
                "id": segment.id,
                "class_id": segment.class_id,
                "name": segment.name,
                "is_thing": segment.is_thing,
                "score": round(segment.score, 6),
                "area": segment.area,
                "box": list(segment.box),
                **({"segmentation": pixels[segment.id]} if contours else {}),
            }
            for segment in result.segments
        ],
        "timings": {stage: round(seconds, 6) for stage, seconds in result.timings.items()},
    }


def _size(image: np.ndarray) -> dict[str, int]:
    return {"height": image.shape[0], "width": image.shape[1]}


def _check_replaceable(folder: Path) -> None:
    """A folder of label images is replaced as a whole, so nothing else may be in it.

    Raises:
        ImageError: Something else is.
    """
    if not folder.exists():
        return
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else [folder.name]
    other = next((name for name in names if not _LABEL_IMAGE.fullmatch(name)), "")
    if other:
        raise ImageError(
            f"{folder} is something else than label images of an earlier run ({other}); remove it, or choose another "
            "folder with --out"
        )


def _output_folder(name: str) -> Path:
    out = expanded(name)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FcclipError(f"cannot make --out {out}: {error.strerror}; choose another folder") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise FcclipError(f"cannot write to --out {out}; choose another folder or change its permissions")
    return out


def _segment_all(jobs: list[Job], writer: ResultWriter, bag_options: BagOptions, console: Terminal) -> list[Job]:
    """Runs the jobs under a progress bar and returns those that failed: one never ends the run for the others."""
    from rich.text import Text

    from fcclip_core.devices import watched

    failed = []
    with progress_bar(console) as progress:
        whole = progress.add_task("inputs", total=len(jobs))
        for job in jobs:
            try:
                with watched(writer.segmenter.device):
                    notes = _segment_one(job, writer, bag_options, progress)
            except DeviceLostError:
                raise
            except Exception as error:
                _logger.info("%s failed", printable(str(job.source)), exc_info=True)
                failed.append(job)
                console.print(Text.assemble(("skipped", "red"), f" {job.source}: {_reason(error)}"))
            else:
                for note in notes:
                    console.print(Text(f"{job.source}: {note}", style="yellow"))
            progress.advance(whole)
    return failed


def _reason(error: Exception) -> str:
    if isinstance(error, FcclipError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        name = "" if error.filename is None else f"{Path(os.fsdecode(error.filename)).name}: "
        return f"{name}{error.strerror}"
    if isinstance(error, OSError):
        return str(error)
    return f"{type(error).__name__}: {first_line(error)}"


def _segment_one(job: Job, writer: ResultWriter, bag_options: BagOptions, progress: Progress) -> list[str]:
    """Runs a job; returns what the user should know.

    Raises:
        Exception: It failed.
    """
    if os.path.exists(job.source) and not (os.path.isfile(job.source) or os.path.isdir(job.source)):
        raise ImageError("it is no file: a pipe, a socket or a device cannot be read")
    if job.kind == "image":
        return writer.image(job)
    task: TaskID = progress.add_task(printable(job.source.name), total=None)

    def advance(done: int, announced: int) -> None:
        progress.update(task, completed=done, total=announced or None)

    try:
        return writer.bag(job, bag_options, advance) if job.kind == "bag" else writer.video(job, advance)
    finally:
        progress.remove_task(task)
