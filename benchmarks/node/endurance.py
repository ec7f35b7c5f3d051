#!/usr/bin/env python3
"""Do memory and latency stay flat over many frames, in the core and, with --node, through the node?

Every frame is another window of the bundled photographs, and their number is cut into blocks. Memory is what the
process has in RAM at the end of each block; the first block is warm-up and does not count towards the growth.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.lib import machine
from benchmarks.lib.model_arguments import add_model_arguments, make_segmenter, node_parameters
from benchmarks.lib.pictures import Pictures, parse_size
from fcclip_core import Vocabulary
from fcclip_core.files.atomic_write import atomic_write

_CHANGES = ("indoor_robot", "warehouse")
_PERCENTILES = (50, 90, 99)


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
    console = Console(highlight=False, soft_wrap=True)
    here = machine.describe()
    console.print(machine.headline(here))
    width, height = args.size
    console.print(f"{args.checkpoint}, {width}x{height}, {args.frames} frames")
    runs = {"core": through_core}
    if args.node:
        runs["node"] = through_node
    results = {}
    for name, run in runs.items():
        results[name] = result_of(run(args, console))
        console.print(table(results[name], f"through the {name}"))
    if args.json:
        record = {"program": "endurance", "machine": here, "checkpoint": args.checkpoint, "backend": args.backend}
        record |= {"size": args.size, "shorter_side": args.shorter_side, "frames": args.frames, "runs": results}
        with atomic_write(args.json) as part:
            part.write_text(json.dumps(record, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--frames", type=int, default=10_000, help="frames in all")
    parser.add_argument("--blocks", type=int, default=20, help="blocks that they are cut into, 2 or more")
    parser.add_argument("--size", type=parse_size, default="160x120", metavar="WIDTHxHEIGHT", help="of the pictures")
    parser.add_argument("--node", action="store_true", help="afterwards through the node too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    parser.set_defaults(shorter_side=96)
    args = parser.parse_args()
    if not 2 <= args.blocks <= args.frames:
        parser.error(f"--blocks is {args.blocks}; expected 2 to {args.frames}, a frame each at least")
    return args


def through_core(args: argparse.Namespace, console: Console) -> list[Block]:
    """Frames through the segmenter in this process, which changes its words with every block."""
    segmenter = make_segmenter(args)
    vocabularies = [Vocabulary.load(name) for name in _CHANGES]
    pictures = Pictures(*args.size)
    blocks: list[Block] = []
    for number, count in enumerate(block_sizes(args)):
        segmenter.set_vocabulary(vocabularies[number % len(vocabularies)])
        seconds = []
        for _ in range(count):
            picture = pictures.next()
            began = time.perf_counter()
            segmenter(picture)
            seconds.append(time.perf_counter() - began)
        blocks.append(block_of(blocks, seconds, os.getpid()))
        console.print(f"core: {progress(blocks[-1])}")
    return blocks


def through_node(args: argparse.Namespace, console: Console) -> list[Block]:
    """Frames through the node, each after the answer to the one before; the memory is the node's process's."""
    from benchmarks.lib.node_process import NodeProcess, image_message

    vocabularies = [Vocabulary.load(name) for name in _CHANGES]
    pictures = Pictures(*args.size)
    blocks: list[Block] = []
    with NodeProcess(node_parameters(args), keep_frames=False) as node:
        camera = node.camera
        camera.listen(["panoptic", "semantic", "confidence", "segments"])
        camera.warm_up(image_message(pictures.next()))
        for number, count in enumerate(block_sizes(args)):
            answer = camera.set_vocabulary(vocabularies[number % len(vocabularies)])
            camera.wait_for(answer.done, 60.0, "the node did not answer")
            answer.result()
            camera.forget()
            stamps = [camera.show_and_wait(image_message(pictures.next())) for _ in range(count)]
            arrived = camera.arrivals("panoptic")
            blocks.append(block_of(blocks, [arrived[stamp] for stamp in stamps], node.pid))
            console.print(f"node: {progress(blocks[-1])}")
        counts = node.finish().counts
        console.print(f"node: {dict(counts)}, lost {camera.lost}")
    if counts["bad"] or counts["failed"]:
        raise SystemExit(f"the node could not label every frame: {dict(counts)}")
    return blocks


def block_sizes(args: argparse.Namespace) -> list[int]:
    """Frames of each block; they add up."""
    edges = np.linspace(0, args.frames, args.blocks + 1).astype(int)
    return np.diff(edges).tolist()


def block_of(before: Sequence[Block], seconds: Sequence[float], pid: int) -> Block:
    """The block that ended just now."""
    percentiles = np.percentile(seconds, _PERCENTILES)
    return Block(
        frames=(before[-1].frames if before else 0) + len(seconds),
        resident_mib=resident_mib(pid),
        latency_ms={f"p{rank}": 1e3 * float(value) for rank, value in zip(_PERCENTILES, percentiles, strict=True)},
    )


def resident_mib(pid: int) -> float:
    """Memory of a process that is in RAM (VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no memory any more")


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
    """Of the straight line through the points; 0 for a single one."""
    return float(np.polyfit(x, y, 1)[0]) if len(x) > 1 else 0.0


def progress(block: Block) -> str:
    """A block in a line."""
    return f"{block.frames} frames, {block.resident_mib:.1f} MiB, median {block.latency_ms['p50']:.2f} ms"


def table(result: Mapping[str, Any], title: str) -> Table:
    """A row a block, and the growth."""
    columns = ("MiB", *(f"p{rank}, ms" for rank in _PERCENTILES))
    shown = Table("frames", *columns, title=title)
    for block in result["blocks"]:
        latencies = (f"{value:.2f}" for value in block["latency_ms"].values())
        shown.add_row(str(block["frames"]), f"{block['resident_mib']:.1f}", *latencies)
    shown.add_section()
    shown.add_row("growth", f"{result['growth_mib']:+.1f}")
    shown.add_row("per 1000 frames", f"{result['growth_mib_per_1000_frames']:+.2f}")
    shown.add_row("later half", "", f"{result['latency_change_percent']:+.1f} %")
    return shown


if __name__ == "__main__":
    main()
