#!/usr/bin/env python3
"""Do memory and latency stay flat over many frames, in the core and, with --node, through the node?

Every frame is another window of the bundled photographs, and their number is cut into blocks. Memory is what the
process has in RAM at the end of each block; the first block is warm-up and does not count towards the growth.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.lib.arguments import MODEL, make_parser, make_segmenter, node_parameters
from benchmarks.lib.memory import resident_bytes
from benchmarks.lib.pictures import Pictures
from benchmarks.lib.rates import timed
from benchmarks.lib.report import Report, arguments_of, print_table, progress, say
from fcclip_core import Vocabulary

_CHANGES = ("indoor_robot", "warehouse")
_PERCENTILES = (50, 90, 99)
_VOCABULARY_PATIENCE = 60.0


@dataclass(frozen=True)
class Block:
    """Frames that followed each other.

    Attributes:
        frames: Frames since the start, this block's included.
        resident_mib: Memory at its end.
        latency_ms: Percentile -> latency of a frame.
    """

    frames: int
    resident_mib: float
    latency_ms: dict[str, float]


def main() -> None:
    """Measures and prints."""
    args = parse_arguments()
    report = Report("endurance")
    say("{}, {}x{}, {} frames".format(args.checkpoint, *args.size, args.frames))
    runs = {"core": through_core} | ({"node": through_node} if args.node else {})
    results = {}
    for name, run in runs.items():
        results[name] = result_of(run(args))
        show(results[name], f"through the {name}")
    names = ("checkpoint", "backend", "size", "shorter_side", "frames")
    report.write(args.json, **arguments_of(args, *names), runs=results)


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = make_parser(__doc__, *MODEL, "vocabulary", shorter_side=96, frames=10_000, size="160x120")
    parser.add_argument("--blocks", type=int, default=20, help="blocks that the frames are cut into, 2 or more")
    parser.add_argument("--node", action="store_true", help="then through the node too")
    args = parser.parse_args()
    if not 2 <= args.blocks <= args.frames:
        parser.error(f"--blocks is {args.blocks}; expected 2 to {args.frames}, a frame each at least")
    return args


def through_core(args: argparse.Namespace) -> list[Block]:
    """Frames through the segmenter in this process, whose vocabulary changes with every block."""
    segmenter = make_segmenter(args)
    pictures = Pictures(*args.size)
    blocks: list[Block] = []
    for vocabulary, count in blocks_of(args):
        segmenter.set_vocabulary(vocabulary)
        seconds = [timed(segmenter, picture)[1] for picture in pictures.several(count)]
        add_block(blocks, seconds, "self")
    return blocks


def through_node(args: argparse.Namespace) -> list[Block]:
    """Frames through the node, each after the answer to the one before; the memory is the node's process's."""
    from benchmarks.lib.node_process import image_message, node_process

    pictures = Pictures(*args.size)
    blocks: list[Block] = []
    with node_process(node_parameters(args)) as node:
        camera = node.camera
        camera.listen(["panoptic", "semantic", "confidence", "segments"])
        camera.warm_up(image_message(pictures.next()))
        for vocabulary, count in blocks_of(args):
            camera.set_vocabulary(vocabulary, _VOCABULARY_PATIENCE)
            camera.forget()
            stamps = [camera.show_and_wait(image_message(picture)) for picture in pictures.several(count)]
            arrived = camera.arrivals("panoptic")
            add_block(blocks, [arrived[stamp] for stamp in stamps], node.pid)
        counts = node.finish().counts
        say(f"node: {counts}, lost {camera.lost}")
    if counts["bad"] or counts["failed"]:
        raise SystemExit(f"the node could not label every frame: {counts}")
    return blocks


def blocks_of(args: argparse.Namespace) -> list[tuple[Vocabulary, int]]:
    """Vocabulary and number of frames of each block."""
    vocabularies = [Vocabulary.load(name) for name in _CHANGES]
    edges = np.linspace(0, args.frames, args.blocks + 1).astype(int)
    return [(vocabularies[number % len(_CHANGES)], int(count)) for number, count in enumerate(np.diff(edges))]


def add_block(blocks: list[Block], seconds: Sequence[float], pid: int | str) -> None:
    """Adds the block that ended just now."""
    percentiles = np.percentile(seconds, _PERCENTILES)
    block = Block(
        frames=(blocks[-1].frames if blocks else 0) + len(seconds),
        resident_mib=resident_bytes(pid) / 2**20,
        latency_ms={f"p{rank}": 1e3 * float(value) for rank, value in zip(_PERCENTILES, percentiles, strict=True)},
    )
    blocks.append(block)
    progress(f"{block.frames} frames, {block.resident_mib:.1f} MiB, median {block.latency_ms['p50']:.2f} ms")


def result_of(blocks: Sequence[Block]) -> dict[str, Any]:
    """Growth from the end of the first block to the last; the slope by least squares, without the first block."""
    counted = blocks[1:]
    frames = np.array([block.frames for block in counted], float)
    memory = np.array([block.resident_mib for block in counted])
    halves = np.array_split([block.latency_ms["p50"] for block in counted], 2)
    early, late = (float(np.mean(half)) for half in (halves if len(counted) > 1 else halves[:1] * 2))
    return {
        "resident_mib_after_warm_up": blocks[0].resident_mib,
        "resident_mib_at_the_end": blocks[-1].resident_mib,
        "growth_mib": blocks[-1].resident_mib - blocks[0].resident_mib,
        "growth_mib_per_1000_frames": 1000 * slope(frames, memory),
        "latency_change_percent": 100 * (late / early - 1),
        "blocks": [asdict(block) for block in blocks],
    }


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Slope of the straight line through the points; 0 for a single one."""
    return float(np.polyfit(x, y, 1)[0]) if len(x) > 1 else 0.0


def show(result: dict[str, Any], title: str) -> None:
    """Prints a row for each block, and the growth."""
    columns = {"frames": "", "MiB": ".1f"} | {f"p{rank} ms": ".2f" for rank in _PERCENTILES}
    rows = ([block["frames"], block["resident_mib"], *block["latency_ms"].values()] for block in result["blocks"])
    print_table(columns, rows, title)
    say(
        f"growth {result['growth_mib']:+.1f} MiB, {result['growth_mib_per_1000_frames']:+.2f} per 1000 frames; "
        f"median latency of the later half {result['latency_change_percent']:+.1f} %"
    )


if __name__ == "__main__":
    main()
