#!/usr/bin/env python3
"""Do things keep their segment ids and names while the camera drives? Switches, IDF1, HOTA and names against the truth.

Drives through the simulated world; every frame is segmented once, and its things are scored twice: with the ids and
names that a frame gives its segments, and with the tracker's ids and voted names. HOTA, IDF1 and MOTA are TrackEval's
(`pip install --no-deps trackeval`, and pycocotools); without it the switches are counted alone. How long a name lags is
measured by exchanges: a thing's votes go on with those of another one, as if that had come to stand in its place.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.lib import machine
from fcclip_core import Segmenter
from fcclip_core.results import PanopticResult
from fcclip_core.segments.tracking import Tracker
from fcclip_core.segments.voting import Votes, elect
from fcclip_core.simulation.drive import make_drive
from fcclip_core.simulation.frames import Frame
from fcclip_core.simulation.names import world_vocabulary
from fcclip_core.simulation.render import Renderer

WAYS = ("without", "with")
_MATCH = 0.5
_STAY = 20
"""Frames that a thing is seen before it is exchanged, and that the other one is seen after that."""


@dataclass(frozen=True)
class Sight:
    """The things of one frame.

    Attributes:
        truth: Ids of the N things that are there.
        found: Ids of the M things that were found.
        overlap: `(N, M)`, intersection over union of their masks.
        truth_names: What the N are.
        found_names: What the M are called.
    """

    truth: tuple[int, ...]
    found: tuple[int, ...]
    overlap: np.ndarray
    truth_names: tuple[str, ...]
    found_names: tuple[str, ...]

    @property
    def matches(self) -> list[tuple[int, int]]:
        """Places in `truth` and `found` of what is one thing: masks that overlap by more than one half."""
        return [(int(row), int(column)) for row, column in np.argwhere(self.overlap > _MATCH)]


def main() -> int:
    """Measures and prints."""
    args = _parser().parse_args()
    about = machine.describe()
    print(machine.headline(about))
    drives: dict[str, list[list[Sight]]] = {way: [] for way in WAYS}
    seconds: dict[str, list[float]] = {"ids": [], "ids and names": []}
    votes: dict[tuple[int, int], list[np.ndarray]] = {}
    segmenter = Segmenter.from_checkpoint(args.checkpoint, device=args.device, backend=args.backend)
    segmenter.set_vocabulary(world_vocabulary())
    for seed in args.seeds:
        trackers = {"ids": Tracker(args.lost_frames, votes=False), "ids and names": Tracker(args.lost_frames)}
        rows: dict[str, list[Sight]] = {way: [] for way in WAYS}
        for frame in _frames(seed, args):
            result = segmenter(frame.image)
            for what, tracker in trackers.items():
                began = perf_counter()
                tracked = tracker.update(result)
                seconds[what].append(perf_counter() - began)
            for way, labeled in zip(WAYS, (result, tracked), strict=True):
                rows[way].append(sight(frame, labeled))
            for thing, probabilities in _votes_in(rows["without"][-1], result):
                votes.setdefault((seed, thing), []).append(probabilities)
        for way in WAYS:
            drives[way].append(rows[way])
        print(f"seed {seed}: {len(rows['with'])} frames", flush=True)
    found: dict[str, Any] = {way: scores(drives[way]) for way in WAYS}
    _print_table(found)
    exchanged = exchanges(list(votes.values()))
    print("\nexchanges of a thing for another: " + ", ".join(f"{value:g} {what}" for what, value in exchanged.items()))
    took = {what: 1e3 * median(row) for what, row in seconds.items()}
    print(f"\ntracking a frame takes {took['ids']:.2f} ms for ids, {took['ids and names']:.2f} ms with names (medians)")
    if args.json:
        record = {
            "machine": about,
            "options": {key: value for key, value in vars(args).items() if key != "json"},
            "ways": found,
            "exchanges": exchanged,
            "tracking_ms": took,
        }
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def sight(frame: Frame, result: PanopticResult) -> Sight:
    """The things in the truth and in the result, and how their masks overlap."""
    there = [item for item in frame.segments if item.is_thing]
    seen = [item for item in result.segments if item.is_thing]
    truth, found = [item.id for item in there], [item.id for item in seen]
    found_map = np.where(_belongs_to(result, found), result.segment_map, 0)
    sizes = (int(frame.segment_map.max()) + 1, int(found_map.max()) + 1)
    pairs = frame.segment_map.astype(np.int64) * sizes[1] + found_map
    table = np.bincount(pairs.ravel(), minlength=sizes[0] * sizes[1]).reshape(sizes)
    both = table[np.ix_(truth, found)]
    union = table.sum(1)[truth][:, None] + table.sum(0)[found][None, :] - both
    return Sight(
        truth=tuple(truth),
        found=tuple(found),
        overlap=both / np.maximum(union, 1),
        truth_names=tuple(item.name for item in there),
        found_names=tuple(item.name for item in seen),
    )


def scores(drives: Sequence[Sequence[Sight]]) -> dict[str, float]:
    """Identity switches per 100 frames, names and, with TrackEval, HOTA, AssA, DetA, IDF1 and MOTA in per cent."""
    frames = sum(len(drive) for drive in drives)
    result = {
        "frames": float(frames),
        "things per frame": float(np.mean([len(item.truth) for drive in drives for item in drive])),
        "switches per 100 frames": 100 * sum(switches(drive) for drive in drives) / frames,
        "ids per thing": float(np.mean([_ids_per_thing(drive) for drive in drives])),
    }
    return result | naming(drives) | _by_trackeval(drives)


def naming(drives: Sequence[Sequence[Sight]]) -> dict[str, float]:
    """How many things were found, per cent that were named rightly, and per cent that changed their name.

    A name has changed if a thing that was found before is called otherwise than it was called then.
    """
    found = right = again = changed = 0
    for drive in drives:
        last: dict[int, str] = {}
        for item in drive:
            for row, column in item.matches:
                thing, name = item.truth[row], item.found_names[column]
                found += 1
                right += name == item.truth_names[row]
                again += thing in last
                changed += last.get(thing, name) != name
                last[thing] = name
    return {
        "things found": float(found),
        "name changes (%)": 100 * changed / max(again, 1),
        "named rightly (%)": 100 * right / max(found, 1),
    }


def exchanges(things: Sequence[Sequence[np.ndarray]]) -> dict[str, float]:
    """Frames until a thing that is exchanged for another loses the name that the first one had.

    Every thing that was seen often enough is exchanged for every other that is never called by its name.

    Args:
        things: For each its class probabilities in its frames, `(C,)` each, 0 for classes that it cannot have.

    Returns:
        Number of exchanges, and of the frames the median, the 95th percentile and the most; `_STAY + 1` where those
        did not suffice.
    """
    seen = [np.stack(rows[:_STAY]) for rows in things if len(rows) >= _STAY]
    frames = [count for first in seen for other in seen if (count := _frames_until_renamed(first, other)) is not None]
    middle, most = np.percentile(frames, (50, 95)) if frames else (0.0, 0.0)
    return {
        "exchanges": float(len(frames)),
        "frames in the median": float(middle),
        "frames in 95 %": float(most),
        "frames at most": float(max(frames, default=0)),
    }


def _frames_until_renamed(first: np.ndarray, other: np.ndarray) -> int | None:
    """None where the other one is called by the first one's name in a frame of its own."""
    votes, everything = Votes(), np.ones(first.shape[1], bool)
    for row in first:
        votes.cast(row)
    name = elect(votes.mean[None], everything)[0][0]
    if name in other.argmax(1):
        return None
    for count, row in enumerate(other, 1):
        votes.cast(row)
        if elect(votes.mean[None], everything)[0][0] != name:
            return count
    return len(other) + 1


def switches(drive: Sequence[Sight]) -> int:
    """How often a thing that was found before is found with another id than last time."""
    last: dict[int, int] = {}
    count = 0
    for item in drive:
        for row, column in item.matches:
            thing, number = item.truth[row], item.found[column]
            count += last.get(thing, number) != number
            last[thing] = number
    return count


def _ids_per_thing(drive: Sequence[Sight]) -> float:
    ids: dict[int, set[int]] = {}
    for item in drive:
        for row, column in item.matches:
            ids.setdefault(item.truth[row], set()).add(item.found[column])
    return float(np.mean([len(row) for row in ids.values()])) if ids else 0.0


def _by_trackeval(drives: Sequence[Sequence[Sight]]) -> dict[str, float]:
    try:
        from trackeval.metrics import CLEAR, HOTA, Identity
    except ImportError as error:
        print(f"no HOTA, IDF1 and MOTA: {error}; pip install --no-deps trackeval", file=sys.stderr)
        return {}
    quiet = {"PRINT_CONFIG": False, "THRESHOLD": _MATCH}
    result: dict[str, float] = {}
    for metric, names in ((HOTA(), ("HOTA", "AssA", "DetA")), (Identity(quiet), ("IDF1",)), (CLEAR(quiet), ("MOTA",))):
        parts = {str(index): metric.eval_sequence(_trackeval_data(drive)) for index, drive in enumerate(drives)}
        combined = metric.combine_sequences(parts)
        result |= {name: 100 * float(np.mean(combined[name])) for name in names}
    return result


def _trackeval_data(drive: Sequence[Sight]) -> dict[str, Any]:
    """One drive as TrackEval's metrics take it: ids numbered from 0."""
    numbers = [
        {number: index for index, number in enumerate(sorted({i for item in drive for i in getattr(item, name)}))}
        for name in ("truth", "found")
    ]
    truth = [np.array([numbers[0][i] for i in item.truth], int) for item in drive]
    found = [np.array([numbers[1][i] for i in item.found], int) for item in drive]
    return {
        "gt_ids": truth,
        "tracker_ids": found,
        "similarity_scores": [item.overlap for item in drive],
        "num_gt_ids": len(numbers[0]),
        "num_tracker_ids": len(numbers[1]),
        "num_gt_dets": sum(map(len, truth)),
        "num_tracker_dets": sum(map(len, found)),
        "num_timesteps": len(drive),
    }


def _votes_in(item: Sight, result: PanopticResult) -> Iterator[tuple[int, np.ndarray]]:
    """The things that were found, by their true ids, and the probabilities of the classes of things."""
    is_thing = np.array(result.evidence.is_thing if result.evidence else ())
    rows = dict(zip((segment.id for segment in result.segments), result.probabilities(), strict=True))
    for row, column in item.matches:
        yield item.truth[row], np.where(is_thing, rows[item.found[column]], 0.0)


def _belongs_to(result: PanopticResult, ids: Sequence[int]) -> np.ndarray:
    """Whether each pixel belongs to one of the segments, `(H, W)`."""
    table = np.zeros(max((item.id for item in result.segments), default=0) + 1, bool)
    table[list(ids)] = True
    return table[result.segment_map]


def _frames(seed: int, args: argparse.Namespace) -> Iterator[Frame]:
    drive = make_drive(seed, kind=args.kind, speed=args.speed)
    with Renderer() as renderer:
        for index in range(args.frames):
            yield renderer.render(drive.scene, drive.camera(index / args.rate), tuple(args.size))


def _print_table(found: dict[str, dict[str, float]]) -> None:
    print("\n| | " + " | ".join(f"{way} tracking" for way in WAYS) + " |\n| --- | --- | --- |")
    for name in found["with"]:
        print(f"| {name} | " + " | ".join(f"{found[way][name]:.1f}" for way in WAYS) + " |")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="demo", help="weights (default %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[21, 5, 8], help="drives (default %(default)s)")
    parser.add_argument("--frames", type=int, default=200, help="of each drive (default %(default)s)")
    parser.add_argument("--rate", type=float, default=10.0, help="frames a second of the drive (default %(default)s)")
    parser.add_argument("--speed", type=float, default=0.4, help="meters a second (default %(default)s)")
    parser.add_argument("--kind", default="room", help="room, table or yard (default %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=[320, 240], metavar=("W", "H"), help="pixels")
    parser.add_argument("--lost-frames", type=int, default=30, help="as the node's track_lost_frames")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--json", type=Path, help="write the result here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
