#!/usr/bin/env python3
"""What the node adds over the core, how often it copies a picture, and how many frames a second come out of it.

The real node runs in a process of its own; this one is the camera and listens to the outputs. First each picture waits
for the answer to the one before, which shows what a frame costs; then they come at a rate. What a frame spends outside
the core's four stages is the node's: taking the message, threads, conversion, making and publishing the outputs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sensor_msgs.msg import Image

from benchmarks.lib import machine
from benchmarks.lib.copies import copies
from benchmarks.lib.model_arguments import add_model_arguments, make_segmenter, node_parameters
from benchmarks.lib.node_process import CORE_STAGES, OUTPUTS, NodeProcess, Stream, image_message
from benchmarks.lib.pictures import Pictures, parse_size
from fcclip_core import Vocabulary
from fcclip_core.files.atomic_write import atomic_write

ENCODINGS = ("rgb8", "bgr8")
DEFAULT_OUTPUTS = ("panoptic", "semantic", "confidence", "segments")
_PICTURES = 16
_WARM_UP = 5
_CORE_FRAMES = 50


def main() -> None:
    """Measures and prints."""
    args = parse_arguments()
    console = Console(highlight=False, soft_wrap=True)
    here = machine.describe()
    console.print(machine.headline(here))
    width, height = args.size
    source = Pictures(width, height)
    pictures = [source.next() for _ in range(_PICTURES)]
    backend, alone = core_alone(args, pictures)
    console.print(
        f"{args.checkpoint}, {width}x{height}, {backend}; outputs {', '.join(args.outputs)}; "
        f"{args.frames} frames one by one, then {args.rate:g} a second for {args.seconds:g} s"
    )
    cases = {}
    for encoding in args.encodings:
        cases[encoding] = measure(args, [image_message(picture, encoding) for picture in pictures])
    console.print(stage_table(cases, alone))
    copied = copies(width, height)
    console.print(copies_table(copied))
    for encoding, case in cases.items():
        console.print(summary(encoding, case))
    if args.json:
        record = {"program": "node", "machine": here, "checkpoint": args.checkpoint, "backend": backend}
        record |= {"size": [width, height], "shorter_side": args.shorter_side, "outputs": args.outputs}
        record |= {"node_overhead_ms_median": max(case["overhead_ms"]["median"] for case in cases.values())}
        record |= {"node_overhead_ms_p90": max(case["overhead_ms"]["p90"] for case in cases.values())}
        record |= {"core_alone_ms_median": alone, "copies": copied, "cases": cases}
        with atomic_write(args.json) as part:
            part.write_text(json.dumps(record, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument(
        "--size", type=parse_size, default="640x480", metavar="WIDTHxHEIGHT", help="the camera's pictures"
    )
    parser.add_argument("--frames", type=int, default=100, help="frames that wait for each other, for each encoding")
    parser.add_argument("--rate", type=float, default=30.0, help="frames a second of the stream")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the stream; 0 for none")
    parser.add_argument("--encodings", nargs="+", choices=ENCODINGS, default=ENCODINGS, help="of the camera")
    parser.add_argument(
        "--outputs", nargs="+", choices=tuple(OUTPUTS), default=DEFAULT_OUTPUTS, help="outputs that are listened to"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    args = parser.parse_args()
    if args.outputs[0] == "overlay":
        parser.error("--outputs begins with overlay, which not every frame has; name another one first")
    return args


def core_alone(args: argparse.Namespace, pictures: Sequence[np.ndarray]) -> tuple[str, float]:
    """The backend, and the median milliseconds of a frame in the core's stages, in a process without ROS callbacks."""
    segmenter = make_segmenter(args)
    segmenter.set_vocabulary(Vocabulary.load(args.vocabulary))
    for picture in pictures[:_WARM_UP]:
        segmenter(picture)
    frames = itertools.islice(itertools.cycle(pictures), min(args.frames, _CORE_FRAMES))
    seconds = [sum(segmenter(picture).timings.values()) for picture in frames]
    description = segmenter.backend_description
    del segmenter
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return description, 1e3 * median(seconds)


def measure(args: argparse.Namespace, messages: Sequence[Image]) -> dict[str, Any]:
    """One node: frames one by one, then a stream."""
    with NodeProcess(node_parameters(args)) as node:
        camera = node.camera
        camera.listen(args.outputs)
        for message in messages[:_WARM_UP]:
            camera.warm_up(message)
        shown = itertools.cycle(messages)
        single = [camera.show_and_wait(next(shown)) for _ in range(args.frames)]
        round_trips = {stamp: camera.arrivals(args.outputs[0])[stamp] for stamp in single}
        stream = Stream(camera, args.rate, lambda: next(shown))
        if args.seconds:
            with stream:
                time.sleep(args.seconds)
            stream.await_last(args.outputs[0])
        arrived = camera.arrivals(args.outputs[0])
        lost = camera.lost
        record = node.finish()
    frames = [record.frames[stamp] for stamp in single]
    overheads = [overhead(frame) for frame in frames]
    stages = {stage: 1e3 * median(frame[stage] for frame in frames) for stage in frames[0]}
    core = [sum(frame[stage] for stage in CORE_STAGES) for frame in frames]
    return {
        "overhead_ms": {"median": 1e3 * median(overheads), "p90": 1e3 * float(np.quantile(overheads, 0.9))},
        "take_is_counted": "take" in stages,
        "stages_ms_median": stages,
        "core_ms_median": 1e3 * median(core),
        "round_trip_ms_median": 1e3 * median(round_trips.values()),
        "frames": dict(record.counts),
        "lost": lost,
        "stream": stream_result(stream.stamps, arrived, record.frames) if args.seconds else None,
    }


def overhead(frame: Mapping[str, float]) -> float:
    """Seconds of a frame that the core did not spend."""
    return frame.get("take", 0.0) + frame["total"] - sum(frame[stage] for stage in CORE_STAGES)


def stream_result(
    stamps: Sequence[int], arrived: Mapping[int, float], labeled: Mapping[int, object]
) -> dict[str, float]:
    """What became of a stream's pictures, and how many a second came back."""
    ages = [arrived[stamp] for stamp in stamps if stamp in arrived]
    times = [stamp / 1e9 + arrived[stamp] for stamp in stamps if stamp in arrived]
    length = max(times) - min(times) if len(times) > 1 else 0.0
    return {
        "shown": len(stamps),
        "labeled": sum(stamp in labeled for stamp in stamps),
        "came_back": len(times),
        "frames_per_second": (len(times) - 1) / length if length else 0.0,
        "age_ms_median": 1e3 * median(ages) if ages else 0.0,
        "age_ms_p90": 1e3 * float(np.quantile(ages, 0.9)) if ages else 0.0,
    }


def stage_table(cases: Mapping[str, Mapping[str, Any]], alone: float) -> Table:
    """Median milliseconds by stage, a column an encoding."""
    table = Table("one by one, ms (median)", *cases)
    stages = next(iter(cases.values()))["stages_ms_median"]
    first = [stage for stage in ("take", "wait", "convert", *CORE_STAGES) if stage in stages]
    rest = [stage for stage in stages if stage not in (*first, "total")]
    for stage in (*first, *sorted(rest, key=lambda stage: stage.endswith("cpu"))):
        table.add_row(stage, *(f"{case['stages_ms_median'][stage]:.3f}" for case in cases.values()))
    table.add_section()
    table.add_row("the core in the node", *(f"{case['core_ms_median']:.2f}" for case in cases.values()))
    table.add_row("the core without a node", *(f"{alone:.2f}" for _ in cases))
    for row in ("median", "p90"):
        table.add_row(f"the node adds, {row}", *(f"{case['overhead_ms'][row]:.2f}" for case in cases.values()))
    table.add_row("from camera to listener", *(f"{case['round_trip_ms_median']:.2f}" for case in cases.values()))
    return table


def copies_table(copied: Mapping[str, float]) -> Table:
    """Pictures allocated while one passes."""
    table = Table("picture", "allocated at a time, in pictures")
    for name, count in copied.items():
        table.add_row(name, f"{count:.2f}")
    return table


def summary(encoding: str, case: Mapping[str, Any]) -> str:
    """Counts, and the stream, in a line."""
    counts = ", ".join(f"{what} {number}" for what, number in case["frames"].items())
    line = f"{encoding}: the node counts {counts}; lost one by one {case['lost']}"
    if case["stream"]:
        stream = case["stream"]
        line += (
            f"; of the stream's {stream['shown']} frames {stream['came_back']} came back, "
            f"{stream['frames_per_second']:.1f} a second, {stream['age_ms_median']:.0f} ms after they were taken"
        )
    return line


if __name__ == "__main__":
    main()
