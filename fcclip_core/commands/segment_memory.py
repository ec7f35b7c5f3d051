"""`fcclip segment BAG --memory FILE`: what the labeled images show is remembered, a recording as a whole and once."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcclip_core.commands.ros_modules import ros_module
from fcclip_core.commands.segment_jobs import Job
from fcclip_core.errors import FcclipError
from fcclip_core.files.paths import expanded, refuse_overwriting

if TYPE_CHECKING:
    from fcclip_core.memory.object_memory import ObjectMemory
    from fcclip_core.results import PanopticResult
    from fcclip_core.segmenter import Segmenter
    from fcclip_core.vocabulary.snapshot import VocabularySnapshot

Observe = Callable[[Any, "PanopticResult"], None]
"""Takes an image of a bag, and its labels."""


def add_memory_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --memory, --map-frame and --depth."""
    group = parser.add_argument_group("object memory (bags with depth, camera_info and transforms)")
    group.add_argument(
        "--memory",
        type=expanded,
        metavar="FILE",
        help="remember where things are, for `fcclip memory ask`; made if it is not there, else added to: all bags are "
        "of one map. A recording that it has is not observed again",
    )
    group.add_argument("--map-frame", metavar="FRAME", help="frame in which things keep their places (default: map)")
    group.add_argument("--depth", metavar="TOPIC", help="depth registered to the images (default: the only one)")


def check_memory_arguments(args: argparse.Namespace, jobs: Sequence[Job], *, alone: bool) -> None:
    """Checks the options as far as that needs no bag to be opened.

    Args:
        args: The parsed options.
        jobs: The inputs.
        alone: Whether this process works alone.

    Raises:
        FcclipError: They cannot be meant.
    """
    if args.memory is None:
        for option in ("map_frame", "depth"):
            if getattr(args, option) is not None:
                raise FcclipError(f"--{option.replace('_', '-')} is for --memory FILE, which is not given")
        return
    if not alone:
        raise FcclipError("--memory cannot be filled by several processes; start fcclip segment without torchrun")
    other = next((job for job in jobs if job.kind != "bag"), None)
    if other is not None:
        raise FcclipError(
            f"--memory needs depth and the camera's pose, which only bags have; {other.source} is none: segment it in "
            "a run of its own"
        )
    refuse_overwriting("--memory", [args.memory], [job.source for job in jobs])


@contextlib.contextmanager
def memory_filler(args: argparse.Namespace) -> Iterator[MemoryFiller | None]:
    """Opens the memory for a run; None without --memory.

    Raises:
        MemoryFileError: It is in use, corrupt, or cannot be made.
    """
    if args.memory is None:
        yield None
        return
    from fcclip_core.memory.object_memory import ObjectMemory

    if args.memory.exists():
        ObjectMemory(path=args.memory, read_only=True)  # refuses a corrupt file, which would be moved aside below
    with ObjectMemory(path=args.memory) as memory:
        yield MemoryFiller(memory, args.memory, args.map_frame or "map", args.depth or "")


@dataclass(frozen=True)
class MemoryFiller:
    """Fills a memory from bags.

    Attributes:
        memory: The memory.
        path: Its file.
        map_frame: The frame of its coordinates.
        depth_topic: Topic of depth; empty for the only one.
    """

    memory: ObjectMemory
    path: Path
    map_frame: str
    depth_topic: str

    def has(self, images: Any) -> bool:
        """Whether the memory has seen a recording, a `BagImages`.

        Raises:
            ImageError: The bag cannot be read.
        """
        return _observations().recording_key(images) in self.memory.recordings

    @contextlib.contextmanager
    def filling(
        self, images: Any, segmenter: Segmenter, snapshot: VocabularySnapshot, notes: list[str]
    ) -> Iterator[Observe]:
        """Yields the function that takes the labeled images of a bag; the memory gets all of them, or none.

        Args:
            images: The bag's, a `BagImages`.
            segmenter: Embeds the words, so that questions come from the same model.
            snapshot: The words.
            notes: Gets what the user should know.

        Raises:
            ImageError: The bag lacks depth, camera_info or transforms, or no image has them all.
            VocabularyError: The memory is of another model.
        """
        if self.has(images):
            notes.append(f"{self.path} has seen this recording already; it was not observed again")
            yield lambda frame, result: None
            return
        key = _observations().recording_key(images)
        source = _observations().BagObservations(images, self.depth_topic, self.map_frame)
        words = [row.item.name for row in snapshot.published]
        with self.memory.recording(key):
            self.memory.learn_words(words, segmenter.embed_text(words))

            def observe(frame: Any, result: PanopticResult) -> None:
                observation = source.observation(frame, result, words)
                if observation is not None:
                    self.memory.observe(observation)

            yield observe
            notes += filter(None, [source.report()])
        notes.append(f"{self.path} remembers {len(self.memory.objects())} objects now")


def _observations() -> Any:
    return ros_module("fcclip_ros.bags.bag_observations", "filling a memory")
