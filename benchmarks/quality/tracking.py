#!/usr/bin/env python3
"""Do things keep their segment ids and names while the camera drives? Switches, IDF1, HOTA and names against the truth.

Drives through the simulated world; every frame is segmented once, and its things are scored twice: with the ids and
names that a frame gives its segments, and with the tracker's ids and voted names. HOTA, IDF1 and MOTA are TrackEval's
(`pip install --no-deps trackeval`, and pycocotools); without it the switches are counted alone. How long a name lags is
measured by exchanges: a thing's votes go on with those of another one, as if that had come to stand in its place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.lib.arguments import MODEL, make_parser, make_segmenter
from benchmarks.lib.rates import timed
from benchmarks.lib.report import Report, arguments_of, print_table, progress, say
from benchmarks.lib.world import drive_frames
from fcclip_core.results import PanopticResult
from fcclip_core.segments.tracking import Tracker
from fcclip_core.segments.voting import Votes, elect
from fcclip_core.simulation.frames import Frame
from fcclip_core.simulation.names import world_vocabulary

WAYS = ("without", "with")
_MATCH = 0.5
_STAY = 20
"""Frames that a thing is seen before it is exchanged, and that the other one is seen after that."""


class Match(NamedTuple):
    """A thing that was found: its true id and name, and the id and name that it was given."""

    thing: int
    found: int
    name: str
    found_name: str


@dataclass(frozen=True)
class Sight:
    """The things of one frame.

    Attributes:
        truth: Ids of the N things that are there.
        found: Ids of the M things that were found.
        overlap: `(N, M)`, intersection over union of their masks.
        truth_names: Names of the N.
        found_names: Names that the M were given.
    """

    truth: tuple[int, ...]
    found: tuple[int, ...]
    overlap: np.ndarray
    truth_names: tuple[str, ...]
    found_names: tuple[str, ...]

    @property
    def matches(self) -> Iterator[Match]:
        """What is one thing: masks that overlap by more than one half."""
        for row, column in np.argwhere(self.overlap > _MATCH):
            yield Match(self.truth[row], self.found[column], self.truth_names[row], self.found_names[column])


def main() -> int:
    """Measures and prints."""
    parser = make_parser(__doc__, *MODEL, "kind", "rate", seeds=[21, 5, 8], frames=200, size="320x240")
    parser.add_argument("--speed", type=float, default=0.4, help="meters per second")
    parser.add_argument("--lost-frames", type=int, default=30, help="as the node's track_lost_frames")
    args = parser.parse_args()
    report = Report("tracking")
    drives: dict[str, list[list[Sight]]] = {way: [] for way in WAYS}
    seconds: dict[str, list[float]] = {"ids": [], "ids and names": []}
    votes: dict[tuple[int, int], list[np.ndarray]] = {}
    segmenter = make_segmenter(args)
    segmenter.set_vocabulary(world_vocabulary())
    for seed in args.seeds:
        trackers = {"ids": Tracker(args.lost_frames, votes=False), "ids and names": Tracker(args.lost_frames)}
        rows: dict[str, list[Sight]] = {way: [] for way in WAYS}
        for frame in drive_frames(seed, args.kind, args.frames, args.size, rate=args.rate, speed=args.speed):
            result = segmenter(frame.image)
            for what, tracker in trackers.items():
                tracked, took = timed(tracker.update, result)
                seconds[what].append(took)
            for way, labeled in zip(WAYS, (result, tracked), strict=True):
                rows[way].append(sight(frame, labeled))
            for thing, probabilities in _votes_in(rows["without"][-1], result):
                votes.setdefault((seed, thing), []).append(probabilities)
        for way in WAYS:
            drives[way].append(rows[way])
        progress(f"seed {seed}: {len(rows['with'])} frames")
    found = {way: scores(drives[way]) for way in WAYS}
    columns = {"figure": ""} | {f"{way} tracking": ".1f" for way in WAYS}
    print_table(columns, ([name, *(found[way][name] for way in WAYS)] for name in found["with"]))
    exchanged = exchanges(list(votes.values()))
    say("exchanges of a thing for another: " + ", ".join(f"{value:g} {what}" for what, value in exchanged.items()))
    medians = {what: 1e3 * median(row) for what, row in seconds.items()}
    say("tracking a frame, median: " + ", ".join(f"{what} {value:.2f} ms" for what, value in medians.items()))
    report.write(args.json, options=arguments_of(args), ways=found, exchanges=exchanged, tracking_ms=medians)
    return 0


def sight(frame: Frame, result: PanopticResult) -> Sight:
    """The things in the truth and in the result, and how their masks overlap."""
    there = [item for item in frame.segments if item.is_thing]
    seen = [item for item in result.segments if item.is_thing]
    truth, found = [item.id for item in there], [item.id for item in seen]
    found_map = np.where(np.isin(result.segment_map, found), result.segment_map, 0)
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
    """Identity switches per 100 frames, names and, with TrackEval, HOTA, AssA, DetA, IDF1 and MOTA in percent."""
    frames = sum(len(drive) for drive in drives)
    ids = [{(match.thing, match.found) for item in drive for match in item.matches} for drive in drives]
    result = {
        "frames": float(frames),
        "things per frame": float(np.mean([len(item.truth) for drive in drives for item in drive])),
        "switches per 100 frames": 100 * sum(switches(drive) for drive in drives) / frames,
        "ids per thing": float(np.mean([len(pairs) / max(len(dict(pairs)), 1) for pairs in ids])),
    }
    return result | naming(drives) | _by_trackeval(drives)


def naming(drives: Sequence[Sequence[Sight]]) -> dict[str, float]:
    """How many things were found, percent that were named right, and percent that changed their name.

    A name has changed if a thing that was found before has another name than it had then.
    """
    matches = [match for drive in drives for item in drive for match in item.matches]
    counted = [_changes(drive, attrgetter("found_name")) for drive in drives]
    changed, again = (sum(column) for column in zip(*counted, strict=True))
    return {
        "things found": float(len(matches)),
        "name changes (%)": 100 * changed / max(again, 1),
        "named rightly (%)": 100 * sum(match.found_name == match.name for match in matches) / max(len(matches), 1),
    }


def switches(drive: Sequence[Sight]) -> int:
    """How often a thing that was found before is found with another id than last time."""
    return _changes(drive, attrgetter("found"))[0]


def _changes(drive: Sequence[Sight], what: Callable[[Match], Any]) -> tuple[int, int]:
    """How often a thing that was found before is found with another value of `what`, and how often at all."""
    last: dict[int, Any] = {}
    changed = again = 0
    for match in (match for item in drive for match in item.matches):
        value = what(match)
        again += match.thing in last
        changed += last.get(match.thing, value) != value
        last[match.thing] = value
    return changed, again


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
    """None where the other one has the first one's name in one of its own frames."""
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


def _by_trackeval(drives: Sequence[Sequence[Sight]]) -> dict[str, float]:
    try:
        from trackeval.metrics import CLEAR, HOTA, Identity
    except ImportError as error:
        progress(f"no HOTA, IDF1 and MOTA: {error}; pip install --no-deps trackeval")
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
    for match in item.matches:
        yield match.thing, np.where(is_thing, rows[match.found], 0.0)


if __name__ == "__main__":
    sys.exit(main())
