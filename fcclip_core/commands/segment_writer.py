"""Segments an input of `fcclip segment` and writes what was found."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcclip_core.commands.ros_modules import ros_module
from fcclip_core.commands.segment_jobs import Job
from fcclip_core.commands.segment_records import OutputOptions, Recipe, describe, earlier, sizes_of, state_of
from fcclip_core.errors import ImageError
from fcclip_core.files.atomic_write import atomic_folder, atomic_write, write_atomically
from fcclip_core.files.folder_claim import FolderClaim
from fcclip_core.files.json_files import json_line, write_json

if TYPE_CHECKING:
    import numpy as np

    from fcclip_core.commands.segment_memory import MemoryFiller, Observe
    from fcclip_core.geometry.ignore_mask import IgnoreMask
    from fcclip_core.results import PanopticResult
    from fcclip_core.segmenter import Segmenter
    from fcclip_core.vocabulary.snapshot import VocabularySnapshot

_JPEG_QUALITY = 92
_LABEL_IMAGE = re.compile(r"\d{6,}\.png")
_FIRST_PICTURE = "the file holds several pictures (an animation, or pages); the first one was taken"


@dataclass(frozen=True)
class ResultWriter:
    """Segments inputs and writes what was found.

    Attributes:
        claim: The folder of the results.
        segmenter: Ready, with its vocabulary set.
        snapshot: That vocabulary.
        checkpoint: What the user called the weights.
        recipe: What is written, and what decides it.
        ignore_mask: Pixels that are never labeled; None: all may be.
        memory: Remembers what bags show; None: nothing does.
    """

    claim: FolderClaim
    segmenter: Segmenter
    snapshot: VocabularySnapshot
    checkpoint: str
    recipe: Recipe
    ignore_mask: IgnoreMask | None = None
    memory: MemoryFiller | None = None

    @property
    def out(self) -> Path:
        """Folder of the results."""
        return self.claim.folder

    @property
    def outputs(self) -> OutputOptions:
        """What is written."""
        return self.recipe.outputs

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

        state = state_of(job.source)
        photograph = read_photograph(job.source, self.outputs.max_pixels)
        image = photograph.pixels
        height, width = image.shape[:2]
        result = self._label(image)
        files = {"labels": f"{job.stem}_labels.png", "semantic": f"{job.stem}_semantic.png"}
        contents = {
            files["labels"]: encode_image(result.segment_map.astype(np.uint16), ".png"),
            files["semantic"]: encode_image(result.semantic_map().astype(np.uint16), ".png"),
        }
        if self.outputs.overlay != "none":
            files["overlay"] = f"{job.stem}_overlay.{self.outputs.overlay}"
            drawn = self._draw(image, result)
            contents[files["overlay"]] = encode_image(drawn, f".{self.outputs.overlay}", quality=_JPEG_QUALITY)
        self._forget(job, files)
        for name, content in contents.items():
            write_atomically(self.out / name, content)
        about = {"image": str(job.source), "height": height, "width": width, "files": files}
        about["reduced_by"] = photograph.reduced_by
        self._describe(job, state, about, describe(result, self.outputs.contours))
        notes = [_FIRST_PICTURE] if photograph.first_of_several else []
        if photograph.reduced_by > 1:
            limit = f"it has more than {self.outputs.max_pixels / 1e6:g} million pixels (--max-image-pixels)"
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

        state = state_of(job.source)
        video = VideoFile.open(job.source, self.outputs.max_pixels)
        frames = video.frames()
        first = next(frames)
        height, width = first.image.shape[:2]
        files = {"frames": f"{job.stem}_frames.jsonl"}
        with contextlib.ExitStack() as overlay:
            if self.outputs.overlay != "none":
                files["overlay"] = f"{job.stem}_overlay.mp4"
                shape = (*self._label_size(first.image), 3)
                show = overlay.enter_context(movie(self.out / files["overlay"], video.rate, shape))
            # Finished before the overlay, which may fail without them.
            with self._lines(job, files) as write:
                for index, frame in enumerate(itertools.chain([first], frames)):
                    result = self._label(frame.image)
                    where = {"frame": index, "time": round(frame.time, 6)}
                    write(where | _size(frame.image) | describe(result, self.outputs.contours))
                    if self.outputs.overlay != "none":
                        show(self._draw(frame.image, result))
                    done = index + 1
                    advance(done, video.packets)
        about = {"video": str(job.source), "height": height, "width": width, "fps": video.rate, "frames": done}
        self._describe(job, state, about | {"files": files})
        lost = video.packets - done if video.counts_frames else 0
        return [f"{lost} of {video.packets} frames could not be read"] if lost > 0 else []

    def bag(self, job: Job, advance: Callable[[int, int], None]) -> list[str]:
        """Segments a bag image by image; its JSON comes last. What an earlier run left is replaced when all is done.

        Args:
            job: The bag.
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

        bags = _bags()
        state = state_of(job.source)
        source = self._bag_images(job)
        count, rate = source.count_and_rate()
        files = {"bag": f"{job.stem}_bag", "frames": f"{job.stem}_frames.jsonl", "labels": f"{job.stem}_labels"}
        _check_replaceable(self.out / files["labels"])
        unreadable, first, show = 0, None, None
        notes: list[str] = []
        with contextlib.ExitStack() as overlay:
            # Nothing of an earlier run is replaced before all is written; then the overlay, which may fail without it.
            with contextlib.ExitStack() as stack:
                observe = stack.enter_context(self._remembering(source, notes))
                pictures = stack.enter_context(atomic_folder(self.out / files["labels"]))
                labeled = stack.enter_context(bags.LabelBag(self.out / files["bag"]))
                write = stack.enter_context(self._lines(job, files))
                for index, frame in enumerate(source.frames()):
                    if isinstance(frame, ImageError):
                        unreadable += 1
                        write({"frame": index, "error": str(frame)})
                        advance(index + 1, count)
                        continue
                    result = self._label(frame.image)
                    observe(frame, result)
                    labeled.write(frame, result, self.snapshot, self.outputs.contours)
                    picture = f"{index:06}.png"
                    write_image(pictures / picture, result.segment_map.astype(np.uint16))
                    first = frame.nanoseconds if first is None else first
                    about = {"frame": index, "time": 1e-9 * (frame.nanoseconds - first), "stamp": list(frame.stamp)}
                    about |= {"frame_id": frame.frame_id, "labels": f"{files['labels']}/{picture}"}
                    write(about | _size(frame.image) | describe(result, self.outputs.contours))
                    if self.outputs.overlay != "none":
                        if show is None:
                            files["overlay"] = f"{job.stem}_overlay.mp4"
                            shape = (*self._label_size(frame.image), 3)
                            opened = movie(self.out / files["overlay"], rate or FALLBACK_RATE, shape)
                            show = overlay.enter_context(opened)
                        show(self._draw(frame.image, result))
                    advance(index + 1, count)
                if count == unreadable:
                    left_out = "".join(f"; {text}" for text in source.left_out)
                    raise ImageError(f"none of its {count} images can be read{left_out}")
                if self.outputs.with_input:
                    labeled.copy(job.source, source.leave_out)
                labeled.finish()
            # Of an earlier run, and of other labels.
            (self.out / f"{job.stem}_overlay.mp4").unlink(missing_ok=True)
        about = {"recording": str(job.source), "topic": self.outputs.topic, "frames": count, "unreadable": unreadable}
        self._describe(job, state, about | {"left_out": source.left_out, "files": files})
        lost = [f"{unreadable} of {count} frames could not be read"] if unreadable else []
        return [*source.left_out, *lost, *notes]

    def has_remembered(self, job: Job) -> bool:
        """Whether nothing is left to remember of an input.

        Raises:
            ImageError: It is a bag that cannot be read.
        """
        return self.memory is None or self.memory.has(self._bag_images(job))

    def _bag_images(self, job: Job) -> Any:
        """The images of a bag, a `BagImages`."""
        bags = _bags()
        gray_range = bags.GrayRange.parse("--gray16-range", self.outputs.gray16_range)
        limits = {"max_pixels": self.outputs.max_pixels, "gray_range": gray_range}
        return bags.BagImages(job.source, self.outputs.topic, option="--topic", **limits)

    def _remembering(self, images: Any, notes: list[str]) -> contextlib.AbstractContextManager[Observe]:
        """Yields what takes labeled images; with a memory, it gets all of them at the end of the block."""
        if self.memory is None:
            return contextlib.nullcontext(lambda frame, result: None)
        return self.memory.filling(images, self.segmenter, self.snapshot, notes)

    @contextlib.contextmanager
    def _lines(self, job: Job, files: Mapping[str, str]) -> Iterator[Callable[[dict[str, Any]], None]]:
        """A file of JSON lines being written; yields the function that takes them."""
        with atomic_write(self.out / files["frames"]) as part:
            with part.open("wb") as file:

                def write(values: dict[str, Any]) -> None:
                    file.write(json_line(values))
                    # A disk that is full is noticed at the frame that found it so. Unbuffered files would take a part
                    # of the line and say so in a number alone.
                    file.flush()

                yield write
            self._forget(job, files)

    def _label(self, image: np.ndarray) -> PanopticResult:
        """Segments an image; ImageError if the ignore mask has another aspect ratio."""
        if self.ignore_mask is None:
            return self.segmenter(image)
        # Before the model, which takes longer.
        ignored = self.ignore_mask.at(*self._label_size(image))
        return self.segmenter(image).without_pixels(ignored)

    def _label_size(self, image: np.ndarray) -> tuple[int, int]:
        """(height, width) of the labels of an image."""
        from fcclip_core.images.label_size import label_size

        return label_size(image.shape[0], image.shape[1], self.segmenter.settings.output_stride)

    def _draw(self, image: np.ndarray, result: PanopticResult) -> np.ndarray:
        from fcclip_core.segments.visualization import draw_overlay

        colors = {row.id: row.color for row in self.snapshot.published}
        return draw_overlay(image, result, colors, self.outputs.opacity)

    def _forget(self, job: Job, files: Mapping[str, str]) -> None:
        """Takes an earlier run's description away before its other results are replaced, and files that none replaces.

        Raises:
            FolderTakenError: Another run writes there.
        """
        self.claim.check()
        found = earlier(self.out, job)
        (self.out / f"{job.stem}.json").unlink(missing_ok=True)
        for name in found.files if found else ():
            path = self.out / name
            if name not in files.values() and path.is_file():
                path.unlink()

    def _describe(
        self, job: Job, state: Mapping[str, Any], about: dict[str, Any], found: Mapping[str, Any] | None = None
    ) -> None:
        """Writes the description of an input.

        Args:
            job: The input.
            state: Of the input, as it was before it was read.
            about: What was read, and under `files` what was written.
            found: Further values.

        Raises:
            FolderTakenError: Another run writes there.
        """
        self.claim.check()
        files: Collection[str] = about["files"].values()
        record = {"input": state, "made_with": self.recipe.of(job.kind), "sizes": sizes_of(self.out, files)}
        document = about | self._run_description() | dict(found or {}) | {"record": record}
        write_json(self.out / f"{job.stem}.json", document)

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


def _bags() -> Any:
    return ros_module("fcclip_ros.bags.bag_segmentation", "labeling a bag")


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
