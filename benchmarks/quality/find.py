#!/usr/bin/env python3
"""Does ~/find return the right object, and how fast?

Drives through the simulated world. In every image each thing that the truth shows is searched by its name ("blue
cone"), and so are a few that are not there. The stream's vocabulary is one of three, so that the words are its own
(world), finer than its own (shapes), or foreign to most of it (few). Right: the best segment overlaps (more than one
half) a thing of that name. Then the service itself is called while images keep coming, and timed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.lib.arguments import MODEL, make_parser, make_segmenter, node_parameters
from benchmarks.lib.rates import timed
from benchmarks.lib.report import Report, arguments_of, print_table, progress, say
from benchmarks.lib.vocabularies import STREAMS
from benchmarks.lib.world import drive_frames
from fcclip_core import Segmenter
from fcclip_core.segments.finding import Found, find
from fcclip_core.simulation.frames import Frame, TruthSegment
from fcclip_core.simulation.names import pairs, thing_name, train_vocabulary
from fcclip_core.vocabulary.query import Query

_MATCH = 0.5
_PATIENCE = 60.0
_SERVICE_RATE = 10.0
_TRAINED = frozenset(train_vocabulary().names)


@dataclass
class Tally:
    """What the questions put to one vocabulary led to.

    Attributes:
        visible: Things searched for: all that the truth shows, of 25 pixels and more.
        segmented: Of these, with a segment that overlaps them by more than one half.
        labeled: Of these, called by their name in the stream's own labels (only where it has such a class).
        right: Of the segmented ones, where the answer is the right one; nothing below the minimum is an answer.
        right_and_labeled: Of the labeled ones, likewise.
        ranked_first: Of the segmented ones, where the best segment is the right one, whatever its score.
        unseen_segmented: As `segmented`, for names that were held out from training.
        unseen_right: As `right`, likewise.
        absent: Questions for what is not there.
        absent_found: Of these, with an answer above the service's minimum.
        seconds: Time of each answer, without text.
    """

    visible: int = 0
    segmented: int = 0
    labeled: int = 0
    right: int = 0
    right_and_labeled: int = 0
    ranked_first: int = 0
    unseen_segmented: int = 0
    unseen_right: int = 0
    absent: int = 0
    absent_found: int = 0
    seconds: list[float] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """Counts and shares, as JSON-ready values."""
        counts = {name: value for name, value in vars(self).items() if name != "seconds"}
        return counts | {
            "right_share": _share(self.right, self.segmented),
            "right_share_labeled": _share(self.right_and_labeled, self.labeled),
            "right_share_unseen": _share(self.unseen_right, self.unseen_segmented),
            "ranked_first_share": _share(self.ranked_first, self.segmented),
            "absent_found_share": _share(self.absent_found, self.absent),
            "answer_ms": _milliseconds(self.seconds),
        }


def main() -> int:
    """Measures and prints."""
    parser = make_parser(
        __doc__,
        *MODEL,
        "kind",
        seeds=[21, 5, 8, 13],
        frames=50,
        rate=1.5,
        size="320x240",
        vocabulary=["ball", "floor", "wall"],
    )
    parser.add_argument("--streams", nargs="+", choices=list(STREAMS), default=list(STREAMS), help="vocabularies")
    parser.add_argument("--absent", type=int, default=4, help="questions per frame for what is not there")
    parser.add_argument("--minimum-score", type=float, default=0.1, help="as the service's default")
    parser.add_argument("--calls", type=int, default=40, help="timed calls of the service; 0 leaves it out")
    args = parser.parse_args()
    report = Report("find")
    tallies, inference = ask_about_drives(make_segmenter(args), args)
    streams = {name: tally.record() for name, tally in tallies.items()}
    show(streams)
    record = {"options": arguments_of(args), "inference_ms": _milliseconds(inference), "streams": streams}
    say(f"one inference, labels included: {record['inference_ms']['p50']:.0f} ms (median)")
    if args.calls:
        record["service"] = time_service(args)
        say(f"~/find while images keep coming, {args.calls} calls: {json.dumps(record['service'])}")
    report.write(args.json, **record)
    return 0


def judge(tally: Tally, frame: Frame, name: str, found: Sequence[Found], minimum: float) -> None:
    """Counts the answer to a question for something that is there."""
    for thing in (item for item in frame.segments if item.name == name):
        overlaps = [_overlap(item, frame, thing) for item in found]
        tally.visible += 1
        if max(overlaps, default=0.0) <= _MATCH:
            continue
        # The best segment may be another thing of that name.
        first = any(_overlap(found[0], frame, item) > _MATCH for item in frame.segments if item.name == name)
        right = first and found[0].score >= minimum
        labeled = found[int(np.argmax(overlaps))].segment
        tally.segmented += 1
        tally.right += right
        tally.ranked_first += first
        if labeled.name == name and labeled.class_id:
            tally.labeled += 1
            tally.right_and_labeled += right
        if name not in _TRAINED:
            tally.unseen_segmented += 1
            tally.unseen_right += right


def ask_about_drives(segmenter: Segmenter, args: argparse.Namespace) -> tuple[dict[str, Tally], list[float]]:
    """What each vocabulary's answers were worth, and the seconds of each frame's inference."""
    tallies, inference = {name: Tally() for name in args.streams}, []
    snapshots = {name: segmenter.prepare_vocabulary(STREAMS[name]) for name in args.streams}
    names = [thing_name(*pair) for pair in pairs("all")]
    segmenter.embed_text(names)
    rng = np.random.default_rng(0)
    for seed in args.seeds:
        for frame in drive_frames(seed, args.kind, args.frames, args.size, rate=args.rate):
            encoded = segmenter.encode(frame.image)
            shown = {name: segmenter.decode(encoded, snapshot) for name, snapshot in snapshots.items()}
            inference.append(sum(shown[args.streams[0]].timings.values()))
            present = sorted({item.name for item in frame.segments if item.is_thing})
            absent = rng.choice([name for name in names if name not in present], args.absent, replace=False)
            for stream, snapshot in snapshots.items():
                tally = tallies[stream]
                for name in (*present, *absent):
                    query = Query.of([str(name)])
                    found, seconds = timed(find, segmenter, query, encoded, shown[stream], snapshot)
                    tally.seconds.append(seconds)
                    if name in present:
                        judge(tally, frame, name, found, args.minimum_score)
                    else:
                        tally.absent += 1
                        tally.absent_found += bool(found) and found[0].score >= args.minimum_score
        progress(f"seed {seed} done")
    return tallies, inference


def time_service(args: argparse.Namespace) -> dict[str, Any]:
    """Calls ~/find of the node while a camera publishes."""
    from benchmarks.lib.node_process import CORE_STAGES, image_message, node_process, stream
    from fcclip_ros.srv import Find

    (frame,) = drive_frames(args.seeds[0], args.kind, 1, args.size, rate=args.rate)
    message = image_message(frame.image)
    seconds: dict[str, list[float]] = {"first_time_words": [], "known_words": []}
    names = [thing_name(*pair) for pair in pairs("all")]
    with node_process(node_parameters(args)) as node:
        camera = node.camera
        camera.listen(["segments"])
        client = camera.node.create_client(Find, "fcclip/find")

        def ask(word: str) -> float:
            response, took = camera.call(client, Find.Request(words=[word]), _PATIENCE)
            if not response.success:
                raise RuntimeError(f"~/find rejected the request: {response.message}")
            return took

        camera.warm_up(message)
        with stream(_SERVICE_RATE, lambda: camera.show(message)):
            ask("ball")
            for number in range(args.calls):
                time.sleep(0.05)
                seconds["first_time_words"].append(ask(f"new {number}"))
                ask(names[number % len(names)])
                time.sleep(0.05)
                seconds["known_words"].append(ask(names[number % len(names)]))
        frames = node.finish().frames.values()
    inference = 1e3 * float(np.mean([sum(item.stages[stage] for stage in CORE_STAGES) for item in frames]))
    limit = inference + 50.0
    return {
        "inference_ms_mean": inference,
        **{kind + "_ms": _milliseconds(row) for kind, row in seconds.items()},
        "share_within_inference_plus_50_ms": {
            kind: _share(sum(1e3 * value <= limit for value in row), len(row)) for kind, row in seconds.items()
        },
    }


def _overlap(found: Found, frame: Frame, thing: TruthSegment) -> float:
    x_min, y_min, x_max, y_max = found.segment.box
    truth = frame.segment_map == thing.id
    both = int((found.mask & truth[y_min:y_max, x_min:x_max]).sum())
    return both / (int(found.mask.sum()) + int(truth.sum()) - both)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{share}": 1e3 * float(np.percentile(seconds, share)) for share in (50, 95)} if seconds else {}


def show(streams: dict[str, dict[str, Any]]) -> None:
    """Prints a row for each vocabulary."""
    counts = ("visible", "segmented", "labeled", "unseen_segmented")
    shares = ("right_share", "right_share_labeled", "right_share_unseen", "ranked_first_share", "absent_found_share")
    columns = dict.fromkeys(("stream", *counts), "") | dict.fromkeys(shares, ".1%") | {"answer, median ms": ".1f"}
    rows = [
        [name, *(row[key] for key in (*counts, *shares)), row["answer_ms"].get("p50")] for name, row in streams.items()
    ]
    print_table(columns, rows)


if __name__ == "__main__":
    sys.exit(main())
