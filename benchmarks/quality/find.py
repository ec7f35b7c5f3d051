#!/usr/bin/env python3
"""Does ~/find return the right object, and how fast?

Drives through the simulated world. In every picture each thing that the truth shows is asked for by its name ("blue
cone"), and a few that are not there besides. The stream's vocabulary is one of three, so that the words are its own
(world), finer than its own (shapes), or foreign to most of it (few). Right: the best segment overlaps (more than one
half) a thing of that name. Then the service itself is called while pictures keep coming, and timed.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib import machine
from fcclip_core import Segmenter, Vocabulary
from fcclip_core.segments.finding import Found, Query, find
from fcclip_core.simulation.drive import make_drive
from fcclip_core.simulation.frames import Frame, TruthSegment
from fcclip_core.simulation.names import SHAPES, pairs, thing_name, train_vocabulary, world_vocabulary
from fcclip_core.simulation.render import Renderer

_SURFACES = (
    "floor, wooden floor, tiled floor, carpet, rug",
    "wall, white wall, brick wall, wallpaper, stone wall",
    "sky",
)
_STUFF = ("floor", "wall", "sky")
STREAMS = {
    "world": world_vocabulary(),
    "shapes": Vocabulary.from_names([*SHAPES, "table", *_SURFACES], stuff=_STUFF),
    "few": Vocabulary.from_names(["ball", *_SURFACES], stuff=_STUFF),
}
_MATCH = 0.5
_TRAINED = frozenset(train_vocabulary().names)


@dataclass
class Tally:
    """What became of the questions put to one vocabulary.

    Attributes:
        visible: Things asked for: all that the truth shows, of 25 pixels and more.
        segmented: Of these, with a segment that overlaps them by more than one half.
        labeled: Of these, called by their name in the stream's own labels (only where it has such a class).
        right: Of the segmented ones, where the answer is the right one; nothing below the minimum is an answer.
        right_and_labeled: Of the labeled ones, likewise.
        ranked_first: Of the segmented ones, where the best segment is the right one, whatever its score.
        unseen_segmented: As `segmented`, of names that training left out.
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
    args = _parser().parse_args()
    about = machine.describe()
    print(machine.headline(about), flush=True)
    segmenter = Segmenter.from_checkpoint(args.checkpoint, device=args.device, backend=args.backend)
    tallies, inference = _ask_about_drives(segmenter, args)
    record: dict[str, Any] = {
        "machine": about,
        "options": {name: value for name, value in vars(args).items() if name != "json"},
        "inference_ms": _milliseconds(inference),
        "streams": {name: tally.record() for name, tally in tallies.items()},
    }
    _print_table(record)
    if args.calls:
        record["service"] = _time_service(args)
        print(f"\n~/find while pictures keep coming, {args.calls} calls: {json.dumps(record['service'])}")
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")
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


def _ask_about_drives(segmenter: Segmenter, args: argparse.Namespace) -> tuple[dict[str, Tally], list[float]]:
    tallies, inference = {name: Tally() for name in args.streams}, []
    snapshots = {name: segmenter.prepare_vocabulary(STREAMS[name]) for name in args.streams}
    names = [thing_name(*pair) for pair in pairs("all")]
    segmenter.embed_text(names)
    rng = np.random.default_rng(0)
    for seed in args.seeds:
        for frame in _frames(seed, args):
            began = time.perf_counter()
            encoded = segmenter.encode(frame.image)
            shown = {name: segmenter.decode(encoded, snapshot) for name, snapshot in snapshots.items()}
            inference.append(sum(shown[args.streams[0]].timings.values()))
            present = sorted({item.name for item in frame.segments if item.is_thing})
            absent = rng.choice([name for name in names if name not in present], args.absent, replace=False)
            for stream, snapshot in snapshots.items():
                tally = tallies[stream]
                for name in (*present, *absent):
                    began = time.perf_counter()
                    found = find(segmenter, Query.of([str(name)]), encoded, shown[stream], snapshot)
                    tally.seconds.append(time.perf_counter() - began)
                    if name in present:
                        judge(tally, frame, name, found, args.minimum_score)
                    else:
                        tally.absent += 1
                        tally.absent_found += bool(found) and found[0].score >= args.minimum_score
        print(f"seed {seed} done", flush=True)
    return tallies, inference


def _time_service(args: argparse.Namespace) -> dict[str, Any]:
    """Calls ~/find of a node in this process from another node, while a camera publishes."""
    import rclpy
    from rclpy.executors import MultiThreadedExecutor
    from rclpy.node import Node
    from sensor_msgs.msg import Image

    from fcclip_ros.perception import Perception
    from fcclip_ros.srv import Find

    frame = next(_frames(args.seeds[0], args))
    ros_arguments = [
        "--ros-args",
        "-p",
        f"checkpoint:={args.checkpoint}",
        "-p",
        "vocabulary:=['ball', 'floor', 'wall']",
    ]
    rclpy.init(args=ros_arguments)
    perception, client_node = Perception(), Node("asker")
    executor = MultiThreadedExecutor(2)
    executor.add_node(perception)
    executor.add_node(client_node)
    threading.Thread(target=executor.spin, daemon=True).start()
    perception.begin()
    publisher = client_node.create_publisher(Image, "image", 1)
    height, width = frame.image.shape[:2]
    message = Image(height=height, width=width, step=3 * width, encoding="rgb8", data=array("B", frame.image.tobytes()))
    stop = threading.Event()

    def film() -> None:
        while not stop.wait(0.1):
            publisher.publish(message)

    threading.Thread(target=film, daemon=True).start()
    client = client_node.create_client(Find, "fcclip/find")
    seconds: dict[str, list[float]] = {"first_time_words": [], "known_words": []}
    names = [thing_name(*pair) for pair in pairs("all")]
    try:
        while not _call(client, Find.Request(words=["ball"])).success:
            time.sleep(0.5)
        for number in range(args.calls):
            for kind, words in (("first_time_words", f"new {number}"), ("known_words", names[number % len(names)])):
                if kind == "known_words":
                    _call(client, Find.Request(words=[words]))
                time.sleep(0.05)
                began = time.perf_counter()
                answer = _call(client, Find.Request(words=[words]))
                assert answer.success, answer.message
                seconds[kind].append(time.perf_counter() - began)
        latencies = perception._cameras[0].statistics.report().latencies
    finally:
        stop.set()
        # A thread that still computes when the interpreter ends would crash it.
        time.sleep(0.2)
        while (counts := perception._cameras[0].statistics.report().counts).received > counts.labeled + counts.dropped:
            time.sleep(0.05)
        perception.finish()
        executor.shutdown(timeout_sec=2.0)
        rclpy.try_shutdown()
    inference = 1e3 * sum(latencies[stage][0] for stage in ("preprocess", "model", "classify", "merge"))
    limit = inference + 50.0
    return {
        "inference_ms_mean": inference,
        **{kind + "_ms": _milliseconds(row) for kind, row in seconds.items()},
        "share_within_inference_plus_50_ms": {
            kind: _share(sum(1e3 * value <= limit for value in row), len(row)) for kind, row in seconds.items()
        },
    }


def _call(client: Any, request: Any) -> Any:
    client.wait_for_service()
    answered = threading.Event()
    future = client.call_async(request)
    future.add_done_callback(lambda _: answered.set())
    if not answered.wait(60.0):
        raise TimeoutError("~/find did not answer within a minute")
    return future.result()


def _overlap(found: Found, frame: Frame, thing: TruthSegment) -> float:
    x_min, y_min, x_max, y_max = found.segment.box
    truth = frame.segment_map == thing.id
    both = int((found.mask & truth[y_min:y_max, x_min:x_max]).sum())
    return both / (int(found.mask.sum()) + int(truth.sum()) - both)


def _frames(seed: int, args: argparse.Namespace) -> Iterator[Frame]:
    drive = make_drive(seed, kind=args.kind)
    with Renderer() as renderer:
        for index in range(args.frames):
            yield renderer.render(drive.scene, drive.camera(index / args.rate), tuple(args.size))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{share}": 1e3 * float(np.percentile(seconds, share)) for share in (50, 95)} if seconds else {}


def _print_table(record: dict[str, Any]) -> None:
    rows = ("visible", "segmented", "labeled", "unseen_segmented")
    shares = ("right_share", "right_share_labeled", "right_share_unseen", "ranked_first_share", "absent_found_share")
    print("\n| stream | " + " | ".join((*rows, *shares)) + " | answer, median ms |")
    print("|" + " --- |" * (len(rows) + len(shares) + 2))
    for name, row in record["streams"].items():
        cells = [str(row[key]) for key in rows]
        cells += ["-" if row[key] is None else f"{100 * row[key]:.1f} %" for key in shares]
        print(f"| {name} | " + " | ".join(cells) + f" | {row['answer_ms']['p50']:.1f} |")
    print(f"\none inference, labels included: {record['inference_ms']['p50']:.0f} ms (median)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="demo", help="weights (default %(default)s)")
    parser.add_argument("--streams", nargs="+", choices=list(STREAMS), default=list(STREAMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[21, 5, 8, 13], help="drives (default %(default)s)")
    parser.add_argument("--frames", type=int, default=50, help="of each drive (default %(default)s)")
    parser.add_argument("--rate", type=float, default=1.5, help="frames a second of the drive (default %(default)s)")
    parser.add_argument("--kind", default="room", help="room, table or yard (default %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=[320, 240], metavar=("W", "H"), help="pixels")
    parser.add_argument("--absent", type=int, default=4, help="questions a frame for what is not there")
    parser.add_argument("--minimum-score", type=float, default=0.1, help="as the service's default")
    parser.add_argument("--calls", type=int, default=40, help="of the service, timed; 0 leaves it out")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--json", type=Path, help="write the result here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
