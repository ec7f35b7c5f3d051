"""What the description of an input says, and whether an input is done: made from this file, by such a run, whole."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcclip_core.commands.segment_jobs import Job
from fcclip_core.files.regular_files import read_regular_file
from fcclip_core.files.resources import package_version

if TYPE_CHECKING:
    from fcclip_core.geometry.ignore_mask import IgnoreMask
    from fcclip_core.results import PanopticResult
    from fcclip_core.segmenter import Segmenter
    from fcclip_core.vocabulary.snapshot import VocabularySnapshot

_LARGEST = 1 << 30
"""Bytes of a description that is read; contours make large ones."""

_SPEED_ONLY = frozenset({"num_threads"})
"""Settings that decide no label."""


@dataclass(frozen=True)
class OutputOptions:
    """What is written.

    Attributes:
        overlay: "jpg", "png" or "none".
        opacity: Of the overlay's fill, 0 to 1.
        contours: What the JSON holds of the segments' pixels; one of `contours.CONTOUR_TYPES`.
        max_pixels: Pixels of a picture at most.
        topic: Image topic of a bag; empty for the only one.
        gray16_range: Which values of a bag's 16-bit gray images become black and white, as the node's parameter.
        with_input: Whether a labeled bag holds the other one's messages, too.
    """

    overlay: str
    opacity: float
    contours: str = ""
    max_pixels: int = 0
    topic: str = ""
    gray16_range: str = "full"
    with_input: bool = False

    def of(self, kind: str) -> dict[str, Any]:
        """Those that matter to a kind of input, as JSON values."""
        values = asdict(self)
        if self.overlay == "none":
            del values["opacity"]
        if kind != "bag":
            del values["topic"], values["gray16_range"], values["with_input"]
        if kind != "image" and self.overlay != "none":
            values["overlay"] = "mp4"
        return values


@dataclass(frozen=True)
class Recipe:
    """What decides the labels beside the input: backend, precision and number of processes do not.

    Attributes:
        version: This package's.
        weights: Hash of the weights.
        words: Hash of the vocabulary with ids and colors, and of what competes with it.
        settings: Hash of the inference settings.
        ignore_mask: Hash of the mask's pixels; empty without one.
        outputs: What is written.
    """

    version: str
    weights: str
    words: str
    settings: str
    ignore_mask: str
    outputs: OutputOptions

    def of(self, kind: str) -> dict[str, Any]:
        """As JSON values, for a kind of input."""
        return asdict(self) | {"outputs": self.outputs.of(kind)}


def recipe_of(
    segmenter: Segmenter, snapshot: VocabularySnapshot, ignore_mask: IgnoreMask | None, outputs: OutputOptions
) -> Recipe:
    """The recipe of a run."""
    settings = asdict(segmenter.settings) | {"vanished_masks": segmenter.vanished_masks}
    classes = [asdict(item) for item in snapshot.vocabulary.classes]
    return Recipe(
        version=package_version(),
        weights=segmenter.weights_id,
        words=_hashed([classes, snapshot.class_ids, snapshot.vocabulary.colors, snapshot.seen]),
        settings=_hashed({name: value for name, value in settings.items() if name not in _SPEED_ONLY}),
        ignore_mask="" if ignore_mask is None else ignore_mask.content_id,
        outputs=outputs,
    )


def state_of(source: Path) -> dict[str, Any]:
    """What tells whether an input has changed: absolute path, size in bytes, time of the last change.

    Of a folder, the sum of the sizes and the latest time of its files. Empty for what cannot be looked at.
    """
    try:
        found = os.stat(source)
        size, changed = found.st_size, found.st_mtime_ns
        if os.path.isdir(source):
            with os.scandir(source) as entries:
                files = [entry.stat() for entry in entries if entry.is_file()]
            size = sum(file.st_size for file in files)
            changed = max((file.st_mtime_ns for file in files), default=changed)
    except (OSError, ValueError):
        return {}
    return {"path": os.path.abspath(source), "size": size, "mtime_ns": changed}


def sizes_of(out: Path, names: Collection[str]) -> dict[str, Any]:
    """Sizes of results, by name: bytes; of a folder the number of its files and their bytes.

    Raises:
        OSError: One is missing.
    """
    return {name: _size(out / name) for name in names}


@dataclass(frozen=True)
class Earlier:
    """What the description of an earlier run says.

    Attributes:
        record: What it recorded; empty if it did not.
        files: The names of its other files.
    """

    record: Mapping[str, Any]
    files: tuple[str, ...] = ()


def earlier(out: Path, job: Job) -> Earlier | None:
    """Reads the description that a run has left for an input; None if there is none.

    It may be of any origin: names that are not those of this job's results are not taken from it.
    """
    try:
        found = json.loads(read_regular_file(out / f"{job.stem}.json", _LARGEST))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return Earlier({})
    files, record = (_mapping(_mapping(found).get(name)) for name in ("files", "record"))
    own = {name for overlay in ("jpg", "png", "mp4") for name in job.results(overlay)}
    return Earlier(record, tuple(name for name in files.values() if isinstance(name, str) and name in own))


def differences(out: Path, job: Job, recipe: Recipe, state: Mapping[str, Any]) -> list[str] | None:
    """Why the results of an input are not those that this run would write.

    Args:
        out: Folder of the results.
        job: The input.
        recipe: Of this run.
        state: Of the input, as `state_of` gives it.

    Returns:
        What differs, such as ["words"]; nothing if it is done and whole; None if no run has finished it.
    """
    found = earlier(out, job)
    if found is None:
        return None
    if not found.record:
        return ["unknown"]
    made = _mapping(found.record.get("made_with"))
    expected = recipe.of(job.kind)
    differing = [name.replace("_", " ") for name, value in expected.items() if made.get(name) != value]
    if found.record.get("input") != state:
        differing.insert(0, "input")
    if not differing and not _is_whole(out, found):
        differing.append("files are missing or cut")
    return differing


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


def _is_whole(out: Path, found: Earlier) -> bool:
    sizes = _mapping(found.record.get("sizes"))
    try:
        return set(sizes) == set(found.files) and sizes == sizes_of(out, found.files)
    except OSError:
        return False


def _size(path: Path) -> int | list[int]:
    if not path.is_dir():
        return path.stat().st_size
    with os.scandir(path) as entries:
        sizes = [entry.stat().st_size for entry in entries]
    return [len(sizes), sum(sizes)]


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _hashed(values: Any) -> str:
    return blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()
