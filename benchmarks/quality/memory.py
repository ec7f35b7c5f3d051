#!/usr/bin/env python3
"""Does the object memory find again what the robot saw, in its place, once, and only while it is there?

Drives through the simulated world, three rooms each, every room twice; in between one thing of each room is taken away
and one is put elsewhere. Depth is noisy, and so are the poses that the memory is told. Each drive is remembered four
times: under the world's names and under a vocabulary of shapes, in which no thing is called by the name that is asked
later; and each with and without negative evidence.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib.arguments import MODEL, make_parser, make_segmenter
from benchmarks.lib.depth_noise import NOISE
from benchmarks.lib.memory_drives import (
    DriveFrame,
    Noise,
    RecordedDrive,
    TrueThing,
    record_drive,
    rightly_segmented,
)
from benchmarks.lib.rates import timed
from benchmarks.lib.report import Report, arguments_of, print_table, progress, say
from benchmarks.lib.vocabularies import STREAMS
from fcclip_core.memory.asking import Question
from fcclip_core.memory.object_memory import Embed, ObjectMemory
from fcclip_core.memory.objects import RememberedObject
from fcclip_core.memory.settings import MemorySettings
from fcclip_core.simulation.names import STUFF
from fcclip_core.vocabulary.query import Query

MIN_PIXELS, MIN_LOOKS = 40, 3
"""A thing counts if it was visible over so many pixels and rightly segmented so often."""

NEAR = 0.3
"""Meters from a true thing within which an answer names its place."""

STILL_THERE = 0.2
"""Meters from its former place within which a removed thing is still believed in."""

WORLD, NEW_WORDS = "world", "shapes"
Key = tuple[int, int]


@dataclass
class Tally:
    """What the memories of all drives were worth; lists have an entry for each thing that counts.

    Attributes:
        right: Whether the best answer to its name lies where a thing of that name is.
        errors: Meters between the object and the center of the true thing.
        objects: Number of confirmed objects.
        duplicates: Of these, further ones of a thing that has one.
        phantoms: Of these, those that no true thing was seen as.
        removed: Whether a thing that was taken away is gone after its place was seen again.
        moved: Whether a thing that was put elsewhere has its id there.
        query_s: Seconds of each question.
        update_s: Seconds of each observation.
    """

    right: list[bool] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    objects: int = 0
    duplicates: int = 0
    phantoms: int = 0
    removed: list[bool] = field(default_factory=list)
    moved: list[bool] = field(default_factory=list)
    query_s: list[float] = field(default_factory=list)
    update_s: list[float] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """The figures, None where nothing was counted."""
        return {
            "things": len(self.right),
            "recall_at_1": _mean(self.right),
            "position_error_median_m": float(np.median(self.errors)) if self.errors else None,
            "position_error_p90_m": float(np.percentile(self.errors, 90)) if self.errors else None,
            "objects": self.objects,
            "duplicates_share": self.duplicates / max(self.objects, 1),
            "phantoms_share": self.phantoms / max(self.objects, 1),
            "removed": len(self.removed),
            "removed_noticed_share": _mean(self.removed),
            "moved": len(self.moved),
            "moved_kept_share": _mean(self.moved),
            "query_ms": 1e3 * float(np.median(self.query_s)) if self.query_s else None,
            "update_ms": 1e3 * float(np.median(self.update_s)) if self.update_s else None,
        }


def main() -> int:
    """Measures and prints."""
    parser = make_parser(__doc__, *MODEL, seed=40, frames=30, size="320x240")
    parser.add_argument("--drives", type=int, default=6, help="drives; their seeds follow --seed")
    parser.add_argument("--cache", type=Path, help="folder that keeps what the model said, for a second run")
    args = parser.parse_args()
    report, noise = Report("memory"), Noise()
    segmenter = make_segmenter(args)
    vocabularies = {name: segmenter.prepare_vocabulary(STREAMS[name]) for name in (WORLD, NEW_WORDS)}
    ways = {"with": MemorySettings(), "without": MemorySettings(absence=0.0, displaced=0.0, miss=0.0)}
    tallies = {(name, way): Tally() for name in vocabularies for way in ways}
    for seed in range(args.seed, args.seed + args.drives):
        drive = record_drive(segmenter, vocabularies, seed, args.frames, args.size, noise, args.cache)
        for (name, way), tally in tallies.items():
            remember(drive, name, ways[way], segmenter.embed_text, tally)
        progress(f"drive {seed}: {len(drive.frames)} frames")
    figures = {f"{name}, {way} absence": tally.record() for (name, way), tally in tallies.items()}
    show(figures)
    say(f"depth: {NOISE}\nposes: {noise.translation:g} m and {noise.rotation:g} rad off (standard deviations)")
    best = figures[f"{WORLD}, with absence"]
    keys = {name: best[name] for name in best if name not in ("things", "objects", "removed", "moved")}
    keys["recall_at_1_new_words"] = figures[f"{NEW_WORDS}, with absence"]["recall_at_1"]
    report.write(args.json, options=arguments_of(args), **keys, pose_noise=vars(noise), depth_noise=NOISE, ways=figures)
    return 0


def remember(
    drive: RecordedDrive, vocabulary: str, settings: MemorySettings, embed: Embed, tally: Tally
) -> ObjectMemory:
    """Remembers a drive, lap by lap, and judges the memory after each.

    Returns:
        The memory.
    """
    memory = ObjectMemory(settings)
    owners: dict[int, Counter[Key | None]] = defaultdict(Counter)
    laps = [[frame for frame in drive.frames if frame.lap == lap] for lap in (0, 1)]
    _drive(memory, laps[0], vocabulary, owners, tally)
    often = _often(laps[0], vocabulary, 0)
    _judge_places(memory, drive.things[0], often, owners, tally)
    _judge_answers(memory, drive.things[0], often, embed, tally)
    before = {key: item.id for key, item in _first_of_each(memory, owners).items()}
    again: dict[int, Counter[Key | None]] = defaultdict(Counter)
    _drive(memory, laps[1], vocabulary, again, tally)
    for key in drive.removed:
        if key in before and _seen_empty(laps[1], drive.things[0][key]):
            place = drive.things[0][key].position
            tally.removed.append(not _believed_at(memory, place, key, owners))
    often = _often(laps[1], vocabulary, 1)
    for key in drive.moved:
        if key in before and key in often:
            tally.moved.append(_is_at(memory, before[key], drive.things[1][key].position))
    return memory


def _drive(
    memory: ObjectMemory,
    frames: Sequence[DriveFrame],
    vocabulary: str,
    owners: dict[int, Counter[Key | None]],
    tally: Tally,
) -> None:
    """Observes, and counts for each object which true things its segments showed."""
    for frame in frames:
        observation = frame.observations[vocabulary]
        outcome, seconds = timed(memory.observe, observation)
        tally.update_s.append(seconds)
        for former, number in outcome.joined.items():
            owners[number].update(owners.pop(former, Counter()))
        true = {item.segment: item.key for item in frame.seen[vocabulary] if item.segment}
        for segment, number in zip(observation.segments, outcome.ids, strict=True):
            if number:
                owners[number][true.get(segment.id)] += 1


def _often(frames: Sequence[DriveFrame], vocabulary: str, lap: int) -> set[Key]:
    counts = rightly_segmented(frames, vocabulary, lap, MIN_PIXELS)
    return {key for key, count in counts.items() if count >= MIN_LOOKS}


def _owner(number: int, owners: Mapping[int, Counter[Key | None]]) -> Key | None:
    """The thing that most looks at an object showed; None if they showed none."""
    counts = owners.get(number, Counter())
    return max(counts, key=lambda key: counts[key], default=None)


def _first_of_each(memory: ObjectMemory, owners: Mapping[int, Counter[Key | None]]) -> dict[Key, RememberedObject]:
    """The object of each thing; of several the one with the most looks."""
    found: dict[Key, RememberedObject] = {}
    for item in sorted(memory.objects(), key=lambda item: -item.looks):
        key = _owner(item.id, owners)
        if key is not None:
            found.setdefault(key, item)
    return found


def _judge_places(
    memory: ObjectMemory,
    things: Mapping[Key, TrueThing],
    often: set[Key],
    owners: Mapping[int, Counter[Key | None]],
    tally: Tally,
) -> None:
    # The vocabulary of shapes calls tables things, which the truth does not.
    keys = [_owner(item.id, owners) for item in memory.objects() if item.called not in STUFF]
    tally.objects += len(keys)
    tally.phantoms += keys.count(None)
    known = [key for key in keys if key is not None]
    tally.duplicates += len(known) - len(set(known))
    for key, item in _first_of_each(memory, owners).items():
        if key in often:
            tally.errors.append(float(np.linalg.norm(item.position - things[key].position)))


def _judge_answers(
    memory: ObjectMemory, things: Mapping[Key, TrueThing], often: set[Key], embed: Embed, tally: Tally
) -> None:
    positions = np.array([thing.position for thing in things.values()])
    names = [thing.name for thing in things.values()]
    for key in sorted(often):
        question = Question(Query.of([things[key].name]))
        memory.ask(question, embed)  # words are embedded once
        reply, seconds = timed(memory.ask, question)
        tally.query_s.append(seconds)
        right = False
        if reply.best is not None:
            away = np.linalg.norm(positions - reply.best.object.position, axis=1)
            right = bool(away.min() <= NEAR) and names[int(away.argmin())] == things[key].name
        tally.right.append(right)


def _seen_empty(frames: Sequence[DriveFrame], thing: TrueThing) -> bool:
    """Whether at least three frames show, unblocked and in range, what is behind a thing's former place."""
    return sum(_shows(frame, thing) for frame in frames if frame.room == thing.key[0]) >= MIN_LOOKS


def _shows(frame: DriveFrame, thing: TrueThing) -> bool:
    x, y, z = frame.pose[:3, :3].T @ (thing.position - frame.pose[:3, 3])
    camera = next(iter(frame.observations.values())).camera
    if not 0.3 < z < MemorySettings().max_range - 1:
        return False
    column, row = round(x / z * camera.fx + camera.cx), round(y / z * camera.fy + camera.cy)
    margin = thing.radius / z * camera.fx
    inside = margin < column < camera.width - margin and margin < row < camera.height - margin
    return bool(inside and frame.depth[row, column] > z)


def _believed_at(memory: ObjectMemory, place: np.ndarray, key: Key, owners: Mapping[int, Counter[Key | None]]) -> bool:
    """Whether an object of a thing is still believed to be at a place."""
    return any(
        _owner(item.id, owners) == key and np.linalg.norm(item.position - place) <= STILL_THERE
        for item in memory.objects()
    )


def _is_at(memory: ObjectMemory, number: int, place: np.ndarray) -> bool:
    return any(item.id == number and np.linalg.norm(item.position - place) <= NEAR for item in memory.objects())


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def show(figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints a row for each way."""
    columns = {"vocabulary while driving": "", "things": "", "recall@1": ".1%", "median, cm": ".1f", "90 %, cm": ".1f"}
    columns |= {"objects": "", "duplicates": ".1%", "phantoms": ".1%", "removed": "", "noticed": ".1%"}
    columns |= {"moved": "", "kept": ".1%", "query, ms": ".1f", "update, ms": ".2f"}
    rows = []
    for name, row in figures.items():
        errors = [100 * row[f"position_error_{key}_m"] if row["things"] else None for key in ("median", "p90")]
        rows.append([name, row["things"], row["recall_at_1"], *errors, *list(row.values())[4:]])
    print_table(columns, rows)


if __name__ == "__main__":
    sys.exit(main())
