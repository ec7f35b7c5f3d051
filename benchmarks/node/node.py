#!/usr/bin/env python3
"""What the node adds over the core, how often it copies an image, and how many frames a second come out of it.

The real node runs in a process of its own; this one is the camera and listens to the outputs. First each image waits
for the answer to the one before, which shows what a frame costs; then they come at a rate. What a frame spends outside
the core's four stages is the node's: taking the message, threads, conversion, making and publishing the outputs.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from sensor_msgs.msg import Image

from benchmarks.lib.arguments import MODEL, make_parser, make_segmenter, node_parameters
from benchmarks.lib.copies import copies
from benchmarks.lib.node_process import CORE_STAGES, OUTPUTS, FrameRecord, image_message, node_process, stream
from benchmarks.lib.pictures import Pictures
from benchmarks.lib.report import Report, arguments_of, print_table, say
from fcclip_core import Vocabulary

ENCODINGS = ("rgb8", "bgr8")
DEFAULT_OUTPUTS = ("panoptic", "semantic", "confidence", "segments")
_PICTURES = 16
_WARM_UP = 5
_CORE_FRAMES = 50


def main() -> None:
    """Measures and prints."""
    args = parse_arguments()
    report = Report("node")
    pictures = list(Pictures(*args.size).several(_PICTURES))
    backend, alone = core_alone(args, pictures)
    say(
        "{}, {}x{}, {}; ".format(args.checkpoint, *args.size, backend)
        + f"{args.frames} frames one by one, then {args.rate:g} a second for {args.seconds:g} s"
    )
    cases = {}
    for encoding in args.encodings:
        cases[encoding] = measure(args, [image_message(picture, encoding) for picture in pictures])
    show_stages(cases, alone)
    copied = copies(*args.size)
    print_table({"image": "", "allocated at a time, in images": ".2f"}, copied.items())
    for encoding, case in cases.items():
        say(summary(encoding, case))
    overheads = {
        f"node_overhead_ms_{row}": max(case["overhead_ms"][row] for case in cases.values()) for row in ("median", "p90")
    }
    names = ("checkpoint", "size", "shorter_side", "output_stride", "outputs")
    report.write(
        args.json,
        **arguments_of(args, *names) | overheads,
        backend=backend,
        core_alone_ms_median=alone,
        copies=copied,
        cases=cases,
    )


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = make_parser(__doc__, *MODEL, "output_stride", "vocabulary", "size", "frames", "seconds", rate=30.0)
    parser.add_argument("--encodings", nargs="+", choices=ENCODINGS, default=ENCODINGS, help="of the camera")
    parser.add_argument(
        "--outputs", nargs="+", choices=tuple(OUTPUTS), default=DEFAULT_OUTPUTS, help="outputs that are listened to"
    )
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
    with node_process(node_parameters(args)) as node:
        camera = node.camera
        camera.listen(args.outputs)
        for message in messages[:_WARM_UP]:
            camera.warm_up(message)
        shown = itertools.cycle(messages)
        single = [camera.show_and_wait(next(shown)) for _ in range(args.frames)]
        round_trips = {stamp: camera.arrivals(args.outputs[0])[stamp] for stamp in single}
        stamps: list[int] = []
        if args.seconds:
            with stream(args.rate, lambda: camera.show(next(shown))) as stamps:
                time.sleep(args.seconds)
            camera.await_output(args.outputs[0], stamps[-1])
        arrived = camera.arrivals(args.outputs[0])
        lost = camera.lost
        record = node.finish()
    frames = [record.frames[stamp] for stamp in single]
    overheads = [overhead(frame) for frame in frames]
    stages = {stage: 1e3 * median(frame.stages[stage] for frame in frames) for stage in frames[0].stages}
    core = [sum(frame.stages[stage] for stage in CORE_STAGES) for frame in frames]
    return {
        "overhead_ms": {"median": 1e3 * median(overheads), "p90": 1e3 * float(np.quantile(overheads, 0.9))},
        "take_is_counted": "take" in stages,
        "stages_ms_median": stages,
        "core_ms_median": 1e3 * median(core),
        "round_trip_ms_median": 1e3 * median(round_trips.values()),
        "frames": record.counts,
        "lost": lost,
        "stream": stream_result(stamps, arrived, record.frames) if args.seconds else None,
    }


def overhead(frame: FrameRecord) -> float:
    """Seconds of a frame that the core did not spend."""
    stages = frame.stages
    return stages.get("take", 0.0) + stages["total"] - sum(stages[stage] for stage in CORE_STAGES)


def stream_result(
    stamps: Sequence[int], arrived: Mapping[int, float], labeled: Mapping[int, object]
) -> dict[str, float]:
    """How many of a stream's images came back, at what rate, and how late."""
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


def show_stages(cases: Mapping[str, Mapping[str, Any]], alone: float) -> None:
    """Prints median milliseconds by stage, a column for each encoding."""
    stages = next(iter(cases.values()))["stages_ms_median"]
    first = [stage for stage in ("take", "wait", "convert", *CORE_STAGES) if stage in stages]
    rest = [stage for stage in stages if stage not in (*first, "total")]
    ordered = (*first, *sorted(rest, key=lambda stage: stage.endswith("cpu")))
    rows = [[stage, *(case["stages_ms_median"][stage] for case in cases.values())] for stage in ordered]
    rows.append(["the core in the node", *(case["core_ms_median"] for case in cases.values())])
    rows.append(["the core without a node", *(alone for _ in cases)])
    for name in ("median", "p90"):
        rows.append([f"the node adds, {name}", *(case["overhead_ms"][name] for case in cases.values())])
    rows.append(["from camera to listener", *(case["round_trip_ms_median"] for case in cases.values())])
    print_table({"one by one, ms (median)": ""} | dict.fromkeys(cases, ".3f"), rows)


def summary(encoding: str, case: Mapping[str, Any]) -> str:
    """Counts, and the stream, in a line."""
    counts = ", ".join(f"{what} {number}" for what, number in case["frames"].items())
    line = f"{encoding}: the node counts {counts}; lost one by one {case['lost']}"
    if case["stream"]:
        found = case["stream"]
        line += (
            f"; of the stream's {found['shown']} frames {found['came_back']} came back, "
            f"{found['frames_per_second']:.1f} a second, {found['age_ms_median']:.0f} ms after they were taken"
        )
    return line


if __name__ == "__main__":
    main()
