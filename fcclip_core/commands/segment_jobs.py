"""What `fcclip segment` is going to read, and what the results are called."""

from __future__ import annotations

import hashlib
import itertools
import os
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fcclip_core.errors import FcclipError
from fcclip_core.files.bag_paths import is_bag

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".3g2", ".3gp", ".asf", ".avi", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
    ".mxf", ".ogv", ".vob", ".webm", ".wmv",
})

FOREIGN_SUFFIXES = frozenset({
    ".264", ".265", ".arw", ".avif", ".bag", ".cr2", ".cr3", ".dng", ".exr", ".h264", ".h265", ".hdr", ".heic",
    ".heif", ".hevc", ".hif", ".jp2", ".jxl", ".mjpeg", ".mjpg", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rm",
    ".rmvb", ".rw2", ".srw", ".svg", ".ts", ".webp", ".y4m", ".yuv",
})
"""Pictures and videos that a folder's run leaves out, unless this Pillow reads them; named, they are tried."""
# fmt: on

_STUBS = frozenset({"BUFR", "GRIB", "HDF5", "MPEG", "WMF"})
"""Formats that Pillow recognizes, and cannot read."""

_LONGEST_ENDING = len("_semantic.png")
_LISTED = 10


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

    def results(self, overlay: str) -> list[str]:
        """The names of its outputs; the description, which is written last, is the first."""
        endings = {
            "image": ["_labels.png", "_semantic.png", f"_overlay.{overlay}"],
            "video": ["_frames.jsonl", "_overlay.mp4"],
            "bag": ["_frames.jsonl", "_overlay.mp4", "_labels", "_bag"],
        }[self.kind]
        wanted = [ending for ending in endings if overlay != "none" or not ending.startswith("_overlay")]
        return [self.stem + ending for ending in (".json", *wanted)]


def find_jobs(inputs: Iterable[Path], out: Path) -> list[Job]:
    """Lists what to segment and names the outputs.

    Args:
        inputs: Files, which are taken whatever they are called; bags; folders, of which images and videos are taken.
        out: Where results go; a folder may not be input and output at once.

    Raises:
        FcclipError: A folder holds nothing to segment, cannot be listed, or is the output folder.
    """
    sources: list[Path] = []
    for path in inputs:
        if os.path.isdir(path) and os.path.realpath(path) == os.path.realpath(out):
            raise FcclipError(f"{path} is both input and --out; the next run would segment its own results")
        sources.extend(_media_in(path) if os.path.isdir(path) and _kind_of(path) != "bag" else [path])
    longest = _longest_name(out) - _LONGEST_ENDING
    jobs: dict[str, Job] = {}
    for source in sources:
        stem = _free_stem(source, jobs, longest)
        jobs[_folded(stem)] = Job(source, stem, _kind_of(source))
    return list(jobs.values())


def left_out(inputs: Iterable[Path]) -> list[str]:
    """A line for each folder of `inputs` with pictures, videos, bags or folders in it that are not going to be read."""
    lines = []
    foreign_suffixes = FOREIGN_SUFFIXES - _image_suffixes()
    for folder in inputs:
        if not os.path.isdir(folder) or _kind_of(folder) == "bag":
            continue
        foreign, bags, inner = [], [], []
        for path in _entries(folder):
            if _kind_of(path) == "bag":
                bags.append(path.name)
            elif os.path.isdir(path):
                inner.append(path.name)
            elif path.suffix.lower() in foreign_suffixes:
                foreign.append(path.name)
        about = {
            "convert them to PNG, JPEG or MP4, or name them to have them tried": foreign,
            "bags are read where they are named": bags,
            "folders are read one level deep": inner,
        }
        lines += [f"left out of {folder}: {listed(names)} ({advice})" for advice, names in about.items() if names]
    return lines


def _kind_of(source: Path) -> Literal["image", "video", "bag"]:
    if is_bag(source):
        return "bag"
    return "video" if source.suffix.lower() in VIDEO_SUFFIXES else "image"


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, but for what is hidden, sorted."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise FcclipError(f"cannot list {folder}: {error.strerror or error}") from error


def _media_in(folder: Path) -> list[Path]:
    readable = _image_suffixes() | VIDEO_SUFFIXES
    media = [path for path in _entries(folder) if path.suffix.lower() in readable and os.path.isfile(path)]
    if not media:
        about = "; ".join([f"{folder} holds no image and no video that can be read", *left_out([folder])])
        raise FcclipError(f"{about}; folders are read one level deep")
    return media


def _image_suffixes() -> frozenset[str]:
    from PIL import Image

    found = Image.registered_extensions().items()
    return frozenset(suffix for suffix, kind in found if kind in Image.OPEN and kind not in _STUBS)


def _free_stem(source: Path, taken: Collection[str], longest: int) -> str:
    numbered = (f"{source.stem}_{number}" for number in itertools.count(2))
    candidates = itertools.chain([source.stem, f"{source.stem}_{source.suffix.lstrip('.').lower()}"], numbered)
    return next(stem for stem in (_fitted(text, longest) for text in candidates) if _folded(stem) not in taken)


def _folded(name: str) -> str:
    """Equal for names that some file systems take for one: those of USB sticks, for example."""
    return unicodedata.normalize("NFC", name).casefold()


def _fitted(stem: str, longest: int) -> str:
    """The stem, or its beginning and a checksum where it has more than `longest` bytes."""
    encoded = os.fsencode(stem)
    if len(encoded) <= longest:
        return stem
    digest = hashlib.blake2b(encoded, digest_size=4).hexdigest()
    return f"{encoded[: longest - len(digest) - 1].decode('utf-8', 'ignore')}_{digest}"


def _longest_name(folder: Path) -> int:
    """Bytes that a file's name may have there."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError):
        return 255


def listed(names: Iterable[str]) -> str:
    """Names in a line; of more than ten it says how many."""
    names = list(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
