#!/usr/bin/env python3
"""What a change of words costs, with few words and many, and whether the stream misses a frame because of it.

Cold is a name that no cache holds; the first cold change also brings the text tower into memory. Warm names are in
memory, as after any earlier change; on disk they are in the text cache of an earlier run. In the node the change comes
by service while a camera streams.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks.lib import machine
from benchmarks.lib.model_arguments import add_model_arguments, make_segmenter, node_parameters
from benchmarks.lib.pictures import Pictures, parse_size
from fcclip_core import Vocabulary
from fcclip_core.files.atomic_write import atomic_write

if TYPE_CHECKING:
    from benchmarks.lib.node_process import Camera

_ADJECTIVES = (
    *("red", "blue", "green", "yellow", "black", "white", "wooden", "metal", "plastic", "paper", "large", "small"),
    *("old", "new", "open", "closed", "broken", "empty", "full", "round", "square", "wet", "dry", "heavy"),
)
_NOUNS = "ade20k_150"
_WORDS_PATIENCE = 3600.0
_WIDTH = 110
_COLUMNS = {
    "first": "cold, tower not loaded",
    "cold": "cold",
    "disk": "from disk",
    "warm": "warm",
}


def main() -> None:
    """Measures and prints."""
    args = parse_arguments()
    console = Console(highlight=False, soft_wrap=True, width=_WIDTH)
    here = machine.describe()
    console.print(machine.headline(here))
    change_in_core(args, 1)  # What the first use of a process costs belongs to no row.
    core = {count: change_in_core(args, count) for count in args.words}
    console.print(core_table(core, args.checkpoint))
    node = {} if args.no_node else changes_in_node(args)
    if node:
        width, height = args.size
        console.print(node_table(node, f"in the node, {width}x{height} at {args.rate:g} Hz"))
    if args.json:
        record = {"program": "vocabulary", "machine": here, "checkpoint": args.checkpoint, "backend": args.backend}
        record |= {"size": args.size, "rate": args.rate, "core_ms": core, "node": node}
        with atomic_write(args.json) as part:
            part.write_text(json.dumps(record, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--words", type=int, nargs="+", default=[1, 20, 150, 1000], help="classes of the vocabularies")
    parser.add_argument("--repeat", type=int, default=20, help="warm changes; their median counts")
    parser.add_argument("--no-node", action="store_true", help="the core alone")
    parser.add_argument(
        "--size", type=parse_size, default="320x240", metavar="WIDTHxHEIGHT", help="the camera's pictures"
    )
    parser.add_argument("--rate", type=float, default=5.0, help="frames a second; slower than the model is")
    parser.add_argument("--steady", type=float, default=4.0, help="seconds of the stream before each change and after")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    return parser.parse_args()


def new_names() -> Iterator[str]:
    """Names that sound like things, each another one; neighbors share no word, as in a list that somebody writes."""
    nouns = Vocabulary.load(_NOUNS).names
    return (
        f"{adjective} {nouns[(turn + place) % len(nouns)]}"
        for turn in range(len(nouns))
        for place, adjective in enumerate(_ADJECTIVES)
    )


def vocabulary_of(names: Iterator[str], count: int) -> Vocabulary:
    """The next `count` names.

    Raises:
        SystemExit: There are not so many.
    """
    taken = [name for name, _ in zip(names, range(count), strict=False)]
    if len(taken) < count:
        raise SystemExit(f"there are names for {len(list(new_names()))} classes only; ask for fewer --words")
    return Vocabulary.from_names(taken)


def change_in_core(args: argparse.Namespace, count: int) -> dict[str, float]:
    """Milliseconds of `Segmenter.set_vocabulary` by column of the table."""
    names = new_names()
    vocabularies = [vocabulary_of(names, count), vocabulary_of(names, count)]
    with tempfile.TemporaryDirectory() as folder:
        segmenter = make_segmenter(args, cache_dir=Path(folder))
        first, cold = (milliseconds(segmenter.set_vocabulary, words) for words in vocabularies)
        changes = [words for _ in range(-(-args.repeat // 2)) for words in vocabularies]
        warm = [milliseconds(segmenter.set_vocabulary, words) for words in changes]
        again = make_segmenter(args, cache_dir=Path(folder))
        disk = milliseconds(again.set_vocabulary, vocabularies[0])
    return {"first": first, "cold": cold, "disk": disk, "warm": median(warm)}


def milliseconds(change: Callable[[Vocabulary], Any], vocabulary: Vocabulary) -> float:
    """Wall time of a change."""
    began = time.perf_counter()
    change(vocabulary)
    return 1e3 * (time.perf_counter() - began)


def changes_in_node(args: argparse.Namespace) -> dict[int, dict[str, Any]]:
    """For each number of words the changes of one node: seconds until the answer, and the frames meanwhile."""
    from benchmarks.lib.node_process import NodeProcess, image_message

    width, height = args.size
    picture = image_message(Pictures(width, height).next())
    names = new_names()
    found = {}
    with ExitStack() as stack:
        # The node's words and graphs lie where nobody's else do, so that its words are cold.
        cache = stack.enter_context(tempfile.TemporaryDirectory())
        node = stack.enter_context(NodeProcess(node_parameters(args), environment={"FCCLIP_CACHE_DIR": cache}))
        node.camera.listen(["segments"])
        node.camera.warm_up(picture)
        for count in args.words:
            new = vocabulary_of(names, count)
            found[count] = {
                "cold": change_in_stream(args, node.camera, picture, new),
                # Other words in between, so that the second change is one.
                "other": change_in_stream(args, node.camera, picture, vocabulary_of(names, 1)),
                "warm": change_in_stream(args, node.camera, picture, new),
            }
        node.finish()
    return found


def change_in_stream(
    args: argparse.Namespace, camera: Camera, picture: Any, vocabulary: Vocabulary
) -> dict[str, float]:
    """One change while pictures come: its time, and the pictures shown before and from its beginning on."""
    from benchmarks.lib.node_process import Stream

    with Stream(camera, args.rate, lambda: picture) as stream:
        time.sleep(args.steady)
        began = time.time_ns()
        answer = camera.set_vocabulary(vocabulary)
        camera.wait_for(answer.done, _WORDS_PATIENCE, "the node did not answer")
        seconds = answer.result()
        ended = time.time_ns()
        time.sleep(args.steady)
    stream.await_last("segments")
    arrived = camera.arrivals("segments")
    before = [stamp for stamp in stream.stamps if stamp < began]
    # A frame that is in work when the change begins belongs to it too.
    during = [stamp for stamp in stream.stamps if began - 1e9 / args.rate <= stamp <= ended + 1e9 / args.rate]
    return {
        "ms": 1e3 * seconds,
        "shown": len(stream.stamps),
        "missed": sum(stamp not in arrived for stamp in stream.stamps),
        "shown_during": len(during),
        "missed_during": sum(stamp not in arrived for stamp in during),
        "largest_gap_ms_before": largest_gap(before, arrived),
        "largest_gap_ms_during": largest_gap(during, arrived),
    }


def largest_gap(stamps: Sequence[int], arrived: Mapping[int, float]) -> float:
    """Milliseconds between the arrivals of two answers that follow each other, at most."""
    times = sorted(stamp / 1e9 + arrived[stamp] for stamp in stamps if stamp in arrived)
    return 1e3 * max((after - before for before, after in zip(times, times[1:], strict=False)), default=0.0)


def core_table(core: Mapping[int, Mapping[str, float]], checkpoint: str) -> Table:
    """A row a number of words."""
    table = Table(f"new words, {checkpoint}", *(f"{title}, ms" for title in _COLUMNS.values()))
    for count, times in core.items():
        table.add_row(str(count), *(f"{times[column]:.2f}" for column in _COLUMNS))
    return table


def node_table(node: Mapping[int, Mapping[str, Mapping[str, float]]], title: str) -> Table:
    """A row a change."""
    columns = ("ms until answer", "frames", "missed", "during", "missed", "gap before", "gap during")
    table = Table("words", "", *columns, title=title)
    for count, changes in node.items():
        for name in ("cold", "warm"):
            change = changes[name]
            counts = (change[key] for key in ("shown", "missed", "shown_during", "missed_during"))
            gaps = (change[f"largest_gap_ms_{when}"] for when in ("before", "during"))
            table.add_row(
                str(count), name, f"{change['ms']:.1f}", *(str(n) for n in counts), *(f"{gap:.0f}" for gap in gaps)
            )
    return table


if __name__ == "__main__":
    main()
