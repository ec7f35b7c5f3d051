#!/usr/bin/env python3
"""What a change of the vocabulary costs, with few words and many, and whether the stream misses a frame because of it.

Cold is a name that no cache holds; the first cold change also loads the text tower. Warm names are in
memory, as after any earlier change; on disk they are in the text cache of an earlier run. In the node the change comes
by service while a camera streams.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.lib.arguments import MODEL, make_parser, make_segmenter, node_parameters
from benchmarks.lib.pictures import Pictures
from benchmarks.lib.rates import timed
from benchmarks.lib.report import Report, arguments_of, print_table
from fcclip_core import Vocabulary

if TYPE_CHECKING:
    from benchmarks.lib.node_process import Camera

_ADJECTIVES = (
    *("red", "blue", "green", "yellow", "black", "white", "wooden", "metal", "plastic", "paper", "large", "small"),
    *("old", "new", "open", "closed", "broken", "empty", "full", "round", "square", "wet", "dry", "heavy"),
)
_NOUNS = "ade20k_150"
_WORDS_PATIENCE = 3600.0
_COLUMNS = {"first": "cold, tower not loaded", "cold": "cold", "disk": "from disk", "warm": "warm"}


def main() -> None:
    """Measures and prints."""
    # A rate that is slower than the model: a faster camera drops frames anyway.
    parser = make_parser(__doc__, *MODEL, "vocabulary", repeat=20, size="320x240", rate=5.0)
    parser.add_argument("--words", type=int, nargs="+", default=[1, 20, 150, 1000], help="classes of the vocabularies")
    parser.add_argument("--no-node", action="store_true", help="the core alone")
    parser.add_argument("--steady", type=float, default=4.0, help="seconds of the stream before each change and after")
    args = parser.parse_args()
    report = Report("vocabulary")
    change_in_core(args, 1)  # What the first use of a process costs belongs to no row.
    core = {count: change_in_core(args, count) for count in args.words}
    columns = {f"new words, {args.checkpoint}": ""} | {f"{title}, ms": ".2f" for title in _COLUMNS.values()}
    print_table(columns, ([count, *(times[column] for column in _COLUMNS)] for count, times in core.items()))
    node = {} if args.no_node else changes_in_node(args)
    if node:
        show_node(node, "in the node, {}x{} at {:g} Hz".format(*args.size, args.rate))
    names = ("checkpoint", "backend", "size", "rate")
    report.write(args.json, **arguments_of(args, *names), core_ms=core, node=node)


def new_names() -> Iterator[str]:
    """Plausible names of things, all different; neighbors share no word, as in a list that somebody writes."""
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
        first, cold = (timed(segmenter.set_vocabulary, words)[1] for words in vocabularies)
        changes = [words for _ in range(-(-args.repeat // 2)) for words in vocabularies]
        warm = median(timed(segmenter.set_vocabulary, words)[1] for words in changes)
        again = make_segmenter(args, cache_dir=Path(folder))
        _, disk = timed(again.set_vocabulary, vocabularies[0])
    return {"first": 1e3 * first, "cold": 1e3 * cold, "disk": 1e3 * disk, "warm": 1e3 * warm}


def changes_in_node(args: argparse.Namespace) -> dict[int, dict[str, Any]]:
    """For each number of words the changes of one node: seconds until the answer, and the frames meanwhile."""
    from benchmarks.lib.node_process import image_message, node_process

    picture = image_message(Pictures(*args.size).next())
    names = new_names()
    found = {}
    with (
        # An empty cache of its own, so that the node's words are cold.
        tempfile.TemporaryDirectory() as cache,
        node_process(node_parameters(args), environment={"FCCLIP_CACHE_DIR": cache}) as node,
    ):
        node.camera.listen(["segments"])
        node.camera.warm_up(picture)
        for count in args.words:
            new = vocabulary_of(names, count)
            found[count] = {
                "cold": change_in_stream(args, node.camera, picture, new),
                # Another vocabulary in between, so that the second change is one.
                "other": change_in_stream(args, node.camera, picture, vocabulary_of(names, 1)),
                "warm": change_in_stream(args, node.camera, picture, new),
            }
        node.finish()
    return found


def change_in_stream(
    args: argparse.Namespace, camera: Camera, picture: Any, vocabulary: Vocabulary
) -> dict[str, float]:
    """One change while images come: its time, and the images shown before and from its beginning on."""
    from benchmarks.lib.node_process import stream

    with stream(args.rate, lambda: camera.show(picture)) as stamps:
        time.sleep(args.steady)
        began = time.time_ns()
        _, seconds = camera.set_vocabulary(vocabulary, _WORDS_PATIENCE)
        ended = time.time_ns()
        time.sleep(args.steady)
    camera.await_output("segments", stamps[-1])
    arrived = camera.arrivals("segments")
    before = [stamp for stamp in stamps if stamp < began]
    # A frame that is in work when the change begins belongs to it too.
    during = [stamp for stamp in stamps if began - 1e9 / args.rate <= stamp <= ended + 1e9 / args.rate]
    return {
        "ms": 1e3 * seconds,
        "shown": len(stamps),
        "missed": sum(stamp not in arrived for stamp in stamps),
        "shown_during": len(during),
        "missed_during": sum(stamp not in arrived for stamp in during),
        "largest_gap_ms_before": largest_gap(before, arrived),
        "largest_gap_ms_during": largest_gap(during, arrived),
    }


def largest_gap(stamps: Sequence[int], arrived: Mapping[int, float]) -> float:
    """Milliseconds between the arrivals of two answers that follow each other, at most."""
    times = sorted(stamp / 1e9 + arrived[stamp] for stamp in stamps if stamp in arrived)
    return 1e3 * max((after - before for before, after in zip(times, times[1:], strict=False)), default=0.0)


def show_node(node: Mapping[int, Mapping[str, Mapping[str, float]]], title: str) -> None:
    """Prints a row for each change."""
    shown = {
        "ms": "ms until answer",
        "shown": "frames",
        "missed": "missed",
        "shown_during": "during",
        "missed_during": "missed during",
        "largest_gap_ms_before": "gap before, ms",
        "largest_gap_ms_during": "gap during, ms",
    }
    rows = [
        [count, name, *(changes[name][key] for key in shown)]
        for count, changes in node.items()
        for name in ("cold", "warm")
    ]
    print_table({"words": "", "state": ""} | dict.fromkeys(shown.values(), ".0f"), rows, title)


if __name__ == "__main__":
    main()
