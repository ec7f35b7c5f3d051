"""`fcclip segment`: images, folders, videos and bags in; label images, overlays, JSON and labelled bags out."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fcclip_core.bag_paths import is_bag
from fcclip_core.commands.inference_arguments import (
    add_model_arguments,
    add_vocabulary_arguments,
    settings_from,
    vocabulary_from,
)
from fcclip_core.commands.progress import progress_bar
from fcclip_core.commands.ros_modules import ros_module
from fcclip_core.errors import FcclipError, ImageError
from fcclip_core.whole_file import WholeFolder, whole_file

if TYPE_CHECKING:
    import numpy as np
    from rich.progress import Progress, TaskID

    from fcclip_core.results import PanopticResult
    from fcclip_core.segmenter import Segmenter, VocabularySnapshot

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv"})

_JPEG_QUALITY = 92
_FALLBACK_FPS = 25.0
_LABEL_IMAGE = re.compile(r"\d{6,}\.png")


@dataclass(frozen=True)
class Job:
    """One input and the name of its outputs.

    Attributes:
        source: The file to read.
        stem: What its outputs are called, without ending; no two jobs of a run share one.
        kind: How it is read.
    """

    source: Path
    stem: str
    kind: Literal["image", "video", "bag"]


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
    parser.add_argument("--topic", default="", help="image topic of a bag (default: the only one)")
    parser.add_argument("--with-input", action="store_true", help="copy what a bag holds into the labelled one")
    add_vocabulary_arguments(parser)
    add_model_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command.

    Returns:
        0, or 1 if some input could not be read.

    Raises:
        FcclipError: Nothing can be done at all: no input, no words, no weights, nowhere to write.
        DeviceLostError: The GPU is lost; what was written until then is whole and stays.
    """
    vocabulary = vocabulary_from(args.vocab, args.stuff)
    settings = settings_from(args)
    if not 0.0 <= args.opacity <= 1.0:
        raise FcclipError(f"--opacity is {args.opacity}; it must be between 0 and 1")
    out = _output_folder(args.out)
    jobs = find_jobs([Path(name) for name in args.inputs], out)

    # Slow to import, and none of it is needed to find out that an argument is wrong.
    from rich.console import Console

    from fcclip_core.devices import watched
    from fcclip_core.segmenter import Segmenter

    console = Console(stderr=True)
    with console.status(f"loading {args.checkpoint}"):
        segmenter = Segmenter.from_checkpoint(
            args.checkpoint, device=args.device, backend=args.backend, precision=args.precision, settings=settings
        )
    with progress_bar(console) as progress:
        words = progress.add_task("words", total=len(vocabulary.synonyms), completed=len(vocabulary.synonyms))
        snapshot = segmenter.set_vocabulary(
            vocabulary, progress=lambda done, new: progress.update(words, completed=done, total=new)
        )
    writer = ResultWriter(out, segmenter, snapshot, str(args.checkpoint), args.overlay, args.opacity)
    with watched(segmenter.device):
        failed = _segment_all(jobs, writer, BagOptions(args.topic, args.with_input), console)
    console.print(
        f"{len(jobs) - len(failed)} of {len(jobs)} inputs segmented into {out} ({segmenter.backend_description})",
        highlight=False,
    )
    return 1 if failed else 0


def find_jobs(inputs: Iterable[Path], out: Path) -> list[Job]:
    """Lists what to segment and names the outputs.

    Args:
        inputs: Files, which are taken whatever they are called; bags; folders, of which images and videos are taken.
        out: Where results go; a folder may not be input and output at once.

    Raises:
        FcclipError: A folder holds nothing to segment, or is the output folder.
    """
    sources: list[Path] = []
    for path in inputs:
        if path.is_dir() and path.resolve() == out.resolve():
            raise FcclipError(f"{path} is both input and --out; the next run would segment its own results")
        sources.extend(_media_in(path) if path.is_dir() and _kind_of(path) != "bag" else [path])
    jobs: dict[str, Job] = {}
    for source in sources:
        stem = _free_stem(source, jobs)
        jobs[stem] = Job(source, stem, _kind_of(source))
    return list(jobs.values())


@dataclass(frozen=True)
class BagOptions:
    """How bags are read and written.

    Attributes:
        topic: Image topic; empty for the only one.
        with_input: Whether the labelled bag holds the other one's messages, too.
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
    """

    out: Path
    segmenter: Segmenter
    snapshot: VocabularySnapshot
    checkpoint: str
    overlay: str
    opacity: float

    def image(self, job: Job) -> None:
        """Segments an image; its JSON comes last, so where it exists the other files do."""
        import numpy as np

        from fcclip_core.image_files import read_image

        image = read_image(job.source)
        result = self.segmenter(image)
        files = {"labels": f"{job.stem}_labels.png", "semantic": f"{job.stem}_semantic.png"}
        self._save(self.out / files["labels"], result.segment_map.astype(np.uint16))
        self._save(self.out / files["semantic"], result.semantic_map().astype(np.uint16))
        if self.overlay != "none":
            files["overlay"] = f"{job.stem}_overlay.{self.overlay}"
            self._save(self.out / files["overlay"], self._draw(image, result))
        about = {"image": str(job.source), "height": image.shape[0], "width": image.shape[1], "files": files}
        self._write_json(self.out / f"{job.stem}.json", about | self._run_description() | describe(result))

    def video(self, job: Job, advance: Callable[[int, int], None]) -> None:
        """Segments a video frame by frame.

        Args:
            job: The video.
            advance: Called with (frames done, frames that the file announces; 0 if it does not).
        """
        import cv2

        capture = cv2.VideoCapture(str(job.source))
        try:
            announced = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
            fps = capture.get(cv2.CAP_PROP_FPS) or _FALLBACK_FPS
            files, size, done = self._frames(job, _frames_of(capture), fps, lambda done: advance(done, announced))
        finally:
            capture.release()
        about = {"video": str(job.source), "height": size[0], "width": size[1], "fps": fps, "frames": done}
        self._write_json(self.out / f"{job.stem}.json", about | {"files": files} | self._run_description())

    def bag(
        self, job: Job, options: BagOptions, advance: Callable[[int, int], None], say: Callable[[str], None]
    ) -> int:
        """Segments a bag image by image; its JSON comes last. What an earlier run left is replaced when all is done.

        Args:
            job: The bag.
            options: Topic, and what is copied.
            advance: Called with (images done, images of the bag).
            say: Gets what could not be read of the bag.

        Returns:
            How many of its images could not be read.
        """
        import numpy as np

        bags = ros_module("fcclip_ros.bags", "labelling a bag")
        source = bags.BagImages(job.source, options.topic, option="--topic")
        count, rate = source.count_and_rate()
        files = {"bag": f"{job.stem}_bag", "frames": f"{job.stem}_frames.jsonl", "labels": f"{job.stem}_labels"}
        overlay = f"{job.stem}_overlay.mp4"
        _check_replaceable(self.out / files["labels"])
        unreadable, first, movie = 0, None, None
        # Nothing of an earlier run is replaced before all is written; the last to be begun is the first to be replaced.
        with contextlib.ExitStack() as stack:
            pictures = stack.enter_context(WholeFolder(self.out / files["labels"]))
            labelled = stack.enter_context(bags.LabelBag(self.out / files["bag"]))
            document = stack.enter_context(whole_file(self.out / f"{job.stem}.json"))
            lines = stack.enter_context(self._lines(files["frames"]))
            for index, frame in enumerate(source.frames()):
                if isinstance(frame, ImageError):
                    unreadable += 1
                    lines({"frame": index, "error": str(frame)})
                    advance(index + 1, count)
                    continue
                result = self.segmenter(frame.image)
                labelled.write(frame, result, self.snapshot)
                picture = f"{index:06}.png"
                self._save(pictures / picture, result.segment_map.astype(np.uint16))
                first = frame.nanoseconds if first is None else first
                about = {"frame": index, "time": 1e-9 * (frame.nanoseconds - first), "stamp": list(frame.stamp)}
                about |= {"frame_id": frame.frame_id, "labels": f"{files['labels']}/{picture}"}
                lines(about | describe(result))
                if self.overlay != "none":
                    if movie is None:
                        files["overlay"] = overlay
                        movie = stack.enter_context(self._movie(overlay, rate or _FALLBACK_FPS, frame.image))
                    movie(self._draw(frame.image, result))
                advance(index + 1, count)
            if count == unreadable:
                left_out = "".join(f"; {text}" for text in source.left_out)
                raise ImageError(f"none of its {count} images can be read{left_out}")
            if options.with_input:
                labelled.copy(job.source, source.leave_out)
            labelled.finish()
            about = {"recording": str(job.source), "topic": options.topic, "frames": count, "unreadable": unreadable}
            about |= {"left_out": source.left_out, "files": files}
            self._write_json(document, about | self._run_description())
        if "overlay" not in files:
            (self.out / overlay).unlink(missing_ok=True)  # of an earlier run, and of other labels
        for text in source.left_out:
            say(text)
        return unreadable

    def _frames(
        self, job: Job, frames: Iterator[np.ndarray], fps: float, advance: Callable[[int], None]
    ) -> tuple[dict[str, str], tuple[int, ...], int]:
        """Writes the overlay video and the lines; returns their names, (height, width) and the number of frames."""
        first = next(frames, None)
        if first is None:
            raise ImageError("no frame can be read: missing, damaged, or in a format that OpenCV's ffmpeg lacks")
        files = {"frames": f"{job.stem}_frames.jsonl"}
        with contextlib.ExitStack() as stack:
            lines = stack.enter_context(self._lines(files["frames"]))
            movie = None
            if self.overlay != "none":
                files["overlay"] = f"{job.stem}_overlay.mp4"
                movie = stack.enter_context(self._movie(files["overlay"], fps, first))
            for index, frame in enumerate(itertools.chain([first], frames)):
                result = self.segmenter(frame)
                lines({"frame": index, "time": index / fps} | describe(result))
                if movie is not None:
                    movie(self._draw(frame, result))
                advance(index + 1)
        return files, first.shape[:2], index + 1

    @contextlib.contextmanager
    def _lines(self, name: str) -> Iterator[Callable[[dict[str, Any]], None]]:
        """A file of JSON lines being written; yields the function that takes them."""
        with whole_file(self.out / name) as part, part.open("w", encoding="utf-8", buffering=1) as file:
            yield lambda values: print(json.dumps(values), file=file)

    @contextlib.contextmanager
    def _movie(self, name: str, fps: float, first: np.ndarray) -> Iterator[Callable[[np.ndarray], None]]:
        """A video being written, as large as its first frame; yields the function that takes RGB frames."""
        with whole_file(self.out / name) as part, _movie(part, fps, first.shape) as write:
            yield write

    def _draw(self, image: np.ndarray, result: PanopticResult) -> np.ndarray:
        from fcclip_core.visualization import draw_overlay

        colors = dict(zip(self.snapshot.class_ids, self.snapshot.colors, strict=True))
        return draw_overlay(image, result, colors, self.opacity)

    def _save(self, path: Path, pixels: np.ndarray) -> None:
        from PIL import Image

        with whole_file(path) as part:
            Image.fromarray(pixels).save(part, quality=_JPEG_QUALITY)

    def _write_json(self, path: Path, document: dict[str, Any]) -> None:
        with whole_file(path) as part:
            part.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def _run_description(self) -> dict[str, Any]:
        classes = [
            {"id": number, "name": item.name, "synonyms": item.synonyms, "is_thing": item.is_thing, "color": color}
            for number, item, color in zip(
                self.snapshot.class_ids, self.snapshot.vocabulary.classes, self.snapshot.colors, strict=True
            )
        ]
        return {
            "checkpoint": self.checkpoint,
            "backend": self.segmenter.backend_description,
            "settings": asdict(self.segmenter.settings),
            "vocabulary": {"version": self.snapshot.version, "classes": classes},
        }


def describe(result: PanopticResult) -> dict[str, Any]:
    """A result's segments and timings as JSON values; boxes are `[x_min, y_min, x_max, y_max]`, timings in seconds."""
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
            }
            for segment in result.segments
        ],
        "timings": {stage: round(seconds, 6) for stage, seconds in result.timings.items()},
    }


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
    out = Path(name).expanduser()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FcclipError(f"cannot make --out {out}: {error.strerror}; choose another folder") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise FcclipError(f"cannot write to --out {out}; choose another folder or change its permissions")
    return out


def _kind_of(source: Path) -> Literal["image", "video", "bag"]:
    if is_bag(source):
        return "bag"
    return "video" if source.suffix.lower() in VIDEO_SUFFIXES else "image"


def _media_in(folder: Path) -> list[Path]:
    from PIL import Image

    images = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    found = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    media = [path for path in found if path.suffix.lower() in images | VIDEO_SUFFIXES]
    if not media:
        raise FcclipError(f"{folder} holds no image and no video; folders are read one level deep")
    return media


def _free_stem(source: Path, taken: dict[str, Job]) -> str:
    candidates = [source.stem, f"{source.stem}_{source.suffix.lstrip('.').lower()}"]
    candidates += [f"{source.stem}_{number}" for number in range(2, len(taken) + 3)]
    return next(stem for stem in candidates if stem not in taken)


def _segment_all(jobs: list[Job], writer: ResultWriter, bag_options: BagOptions, console: Any) -> list[Job]:
    """Runs the jobs under a progress bar and returns those that could not be read."""
    failed = []
    with progress_bar(console) as progress:
        whole = progress.add_task("inputs", total=len(jobs))
        for job in jobs:
            try:
                _segment_one(job, writer, bag_options, progress)
            except ImageError as error:
                failed.append(job)
                progress.console.print(f"[red]skipped[/] {job.source}: {error}", highlight=False, soft_wrap=True)
            progress.advance(whole)
    return failed


def _segment_one(job: Job, writer: ResultWriter, bag_options: BagOptions, progress: Progress) -> None:
    if job.kind == "image":
        writer.image(job)
        return
    task: TaskID = progress.add_task(job.source.name, total=None)
    seen = (0, 0)

    def say(text: str) -> None:
        progress.console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)

    def advance(done: int, announced: int) -> None:
        nonlocal seen
        seen = (done, announced)
        progress.update(task, completed=done, total=announced or None)

    try:
        if job.kind == "bag":
            unreadable = writer.bag(job, bag_options, advance, say)
        else:
            writer.video(job, advance)
            unreadable = max(seen[1] - seen[0], 0)
    finally:
        progress.remove_task(task)
    if unreadable:
        text = f"[yellow]{job.source}: {unreadable} of {seen[1]} frames could not be read[/]"
        progress.console.print(text, highlight=False, soft_wrap=True)


def _frames_of(capture: Any) -> Iterator[np.ndarray]:
    """RGB frames of an OpenCV capture until it ends."""
    while True:
        good, frame = capture.read()
        if not good:
            return
        yield frame[:, :, ::-1].copy()


@contextlib.contextmanager
def _movie(path: Path, fps: float, size: tuple[int, ...]) -> Iterator[Callable[[np.ndarray], None]]:
    """An mp4 file being written; yields the function that takes RGB frames."""
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (size[1], size[0]))
    if not writer.isOpened():
        raise FcclipError(f"cannot write video {path}: this OpenCV has no mp4v encoder; use --overlay none")

    def write(frame: np.ndarray) -> None:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    try:
        yield write
    finally:
        writer.release()
