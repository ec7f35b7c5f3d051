#!/usr/bin/env python3
"""Does the node stay as it is under everything at once?

Pictures at a rate, other words every few seconds, `find` and `segment_image` every second, and a client that is killed
every minute with goals and searches open. Counted each ten seconds: memory, threads and open files of the node's
process, which must stay flat; and of every answer whether its ids are those of the vocabulary version that it carries.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import ROOT
from benchmarks.lib import machine
from benchmarks.lib.model_arguments import add_model_arguments, node_parameters
from benchmarks.lib.node_process import NodeProcess, Stream, image_message
from benchmarks.lib.pictures import Pictures, parse_size
from benchmarks.node.endurance import resident_mib, slope
from fcclip_core.files.atomic_write import atomic_write
from fcclip_ros import msg, srv
from fcclip_ros.qos import LATCHED, OUTPUT

_NOUNS = (
    "cup",
    "plate",
    "chair",
    "table",
    "lamp",
    "book",
    "box",
    "ball",
    "door",
    "floor",
    "wall",
    "plant",
    "cat",
    "car",
)
_SAMPLE_SECONDS = 10.0


@dataclass(frozen=True)
class Sample:
    """What the node's process holds at one time.

    Attributes:
        seconds: Since the load began.
        resident_mib: Memory that is in RAM.
        threads: Its threads.
        files: Its open files, sockets included.
        frames: Frames heard labeled until then.
    """

    seconds: float
    resident_mib: float
    threads: int
    files: int
    frames: int


class Load:
    """Everything that asks the node for something; says what came back.

    Attributes:
        counts: How many of each kind were asked, answered, refused, and wrong.
        wrong: The first answers whose ids are not those of their version.
    """

    def __init__(self, node: Any, picture: Callable[[], Any]) -> None:
        """Joins the camera's node."""
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._picture = picture
        self._versions: dict[int, dict[int, str]] = {}
        self._early: dict[int, list[msg.SegmentArray]] = {}
        self._lock = threading.Lock()
        self._dice = np.random.default_rng(0)
        self._words = node.create_client(srv.SetVocabulary, "fcclip/set_vocabulary")
        self._find = node.create_client(srv.Find, "fcclip/find")
        self._segment = node.create_client(srv.SegmentImage, "fcclip/segment_image")
        node.create_subscription(msg.Vocabulary, "fcclip/vocabulary", self._announced, LATCHED)
        node.create_subscription(msg.SegmentArray, "fcclip/segments", self._heard, OUTPUT)

    def change_words(self) -> None:
        """A few of the names, in any order."""
        names = self._dice.permutation(_NOUNS)[: self._dice.integers(2, 9)]
        classes = [msg.VocabularyClass(synonyms=[str(name)]) for name in names]
        self._ask("set_vocabulary", self._words, srv.SetVocabulary.Request(classes=classes))

    def find(self) -> None:
        """One name, in the newest picture."""
        self._ask("find", self._find, srv.Find.Request(words=[str(self._dice.choice(_NOUNS))], minimum_score=0.0))

    def segment_image(self) -> None:
        """One picture with words of its own."""
        names = [str(name) for name in self._dice.permutation(_NOUNS)[:3]]
        classes = [msg.VocabularyClass(synonyms=[name]) for name in names]

        def check(response: srv.SegmentImage.Response) -> None:
            allowed = {item.id: item.synonyms[0] for item in response.vocabulary.classes}
            self._compare("segment_image", response.segments, allowed)

        self._ask(
            "segment_image", self._segment, srv.SegmentImage.Request(image=self._picture(), classes=classes), check
        )

    def _ask(self, kind: str, client: Any, request: Any, check: Callable[[Any], None] = lambda response: None) -> None:
        if not client.service_is_ready():
            self.counts[f"{kind}, no service"] += 1
            return
        self.counts[f"{kind} asked"] += 1

        def tell(done: Any) -> None:
            response = done.result()
            self.counts[f"{kind} {'answered' if response.success else 'refused'}"] += 1
            if response.success:
                check(response)

        client.call_async(request).add_done_callback(tell)

    def _announced(self, message: msg.Vocabulary) -> None:
        with self._lock:
            names = self._versions[message.version] = {item.id: item.synonyms[0] for item in message.classes}
            for early in self._early.pop(message.version, []):
                self._compare("frame", early, names)

    def _heard(self, message: msg.SegmentArray) -> None:
        self.counts["frames"] += 1
        with self._lock:
            names = self._versions.get(message.vocabulary_version)
            if names is None:
                self._early.setdefault(message.vocabulary_version, []).append(message)
            else:
                self._compare("frame", message, names)

    def _compare(self, kind: str, message: msg.SegmentArray, allowed: dict[int, str]) -> None:
        for item in message.segments:
            if allowed.get(item.class_id) != item.name:
                self.counts[f"{kind}s wrong"] += 1
                self.wrong.append(f"{kind} of version {message.vocabulary_version}: {item.class_id} is {item.name!r}")
                return

    @property
    def unexplained(self) -> int:
        """Frames whose version was never announced."""
        return sum(len(messages) for messages in self._early.values())


def main() -> int:
    """Runs the load, prints and writes what was seen; 1 if anything grew or was wrong."""
    args = parse_arguments()
    console = Console(highlight=False, soft_wrap=True, markup=False)
    here = machine.describe()
    console.print(machine.headline(here))
    pictures = Pictures(*args.size)
    samples: list[Sample] = []
    with NodeProcess(node_parameters(args), keep_frames=False) as node:
        camera = node.camera
        camera.listen(["segments"])
        camera.warm_up(image_message(pictures.next()))
        load = Load(camera.node, lambda: image_message(pictures.next()))
        with Stream(camera, args.rate, lambda: image_message(pictures.next())):
            for sample in under_load(args, node.pid, load, camera.forget):
                samples.append(sample)
                console.print(line(sample))
        counts = dict(node.finish().counts)
    result = result_of(samples, load, counts)
    console.print(table(result))
    if args.json:
        record = {"program": "soak", "machine": here, "checkpoint": args.checkpoint, "minutes": args.minutes, **result}
        with atomic_write(args.json) as part:
            part.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if result["flat"] and not load.wrong and not load.unexplained else 1


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long")
    parser.add_argument("--rate", type=float, default=5.0, help="pictures a second")
    parser.add_argument("--size", type=parse_size, default="320x240", metavar="WIDTHxHEIGHT", help="of the pictures")
    parser.add_argument("--words-every", type=float, default=5.0, help="seconds between two vocabularies")
    parser.add_argument("--ask-every", type=float, default=1.0, help="seconds between two searches and single images")
    parser.add_argument("--kill-every", type=float, default=60.0, help="seconds that a careless client lives")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    return parser.parse_args()


def under_load(args: argparse.Namespace, pid: int, load: Load, forget: Callable[[], None]) -> Iterator[Sample]:
    """Asks as often as it is due, and looks at the process every ten seconds."""
    began = time.monotonic()
    turns = [Turn(args.words_every, load.change_words), Turn(args.ask_every, load.find)]
    turns += [Turn(args.ask_every, load.segment_image)]
    with careless_clients(load) as kill_and_start:
        turns.append(Turn(args.kill_every, kill_and_start))
        look = Turn(_SAMPLE_SECONDS, forget)
        while (passed := time.monotonic() - began) < 60 * args.minutes:
            for turn in turns:
                turn.take(passed)
            if look.take(passed):
                yield sample_of(pid, passed, load.counts["frames"])
            time.sleep(0.02)


class Turn:
    """Something that is due again and again; first at once."""

    def __init__(self, seconds: float, act: Callable[[], None]) -> None:
        """`act` is called every `seconds`."""
        self._seconds, self._act, self._due = seconds, act, 0.0

    def take(self, passed: float) -> bool:
        """Acts if it is due after `passed` seconds; returns whether it did."""
        if passed < self._due:
            return False
        self._due += self._seconds
        self._act()
        return True


@contextlib.contextmanager
def careless_clients(load: Load) -> Iterator[Callable[[], None]]:
    """What kills the client that runs, if one does, and starts the next."""
    running: list[subprocess.Popen] = []

    def kill() -> None:
        while running:
            client = running.pop()
            client.kill()
            client.wait()
            load.counts["clients killed"] += 1

    def kill_and_start() -> None:
        kill()
        running.append(subprocess.Popen([sys.executable, "-m", "benchmarks.node.careless_client"], cwd=ROOT))

    try:
        yield kill_and_start
    finally:
        kill()


def sample_of(pid: int, seconds: float, frames: int) -> Sample:
    """Looks at a process."""
    return Sample(
        seconds=seconds,
        resident_mib=resident_mib(pid),
        threads=len(list(Path(f"/proc/{pid}/task").iterdir())),
        files=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        frames=frames,
    )


def result_of(samples: list[Sample], load: Load, node_counts: dict[str, int]) -> dict[str, Any]:
    """What changed between the second fifth of the time and the last; the first fifth is warm-up."""
    fifth = max(len(samples) // 5, 1)
    early, late = samples[fifth : 2 * fifth] or samples[:1], samples[-fifth:]
    growth = {name: middle(late, name) - middle(early, name) for name in ("resident_mib", "threads", "files")}
    counted = samples[fifth:]
    minutes, memory = np.array([item.seconds / 60 for item in counted]), [item.resident_mib for item in counted]
    # A process of some hundred MiB breathes by a few; a client that leaves something does so once a minute.
    flat = growth["resident_mib"] < 0.02 * early[0].resident_mib and growth["threads"] <= 2 and growth["files"] <= 4
    return {
        "flat": bool(flat),
        "growth": growth,
        "resident_mib_per_minute": slope(minutes, np.array(memory)),
        "counts": dict(load.counts),
        "node_counts": node_counts,
        "frames_of_unannounced_versions": load.unexplained,
        "wrong": load.wrong[:10],
        "samples": [asdict(item) for item in samples],
    }


def middle(samples: list[Sample], name: str) -> float:
    """Median of one of the figures."""
    return float(np.median([getattr(item, name) for item in samples]))


def line(sample: Sample) -> str:
    """A sample in a line."""
    return (
        f"{sample.seconds:6.0f} s  {sample.resident_mib:7.1f} MiB  {sample.threads:3d} threads  {sample.files:3d} files"
        f"  {sample.frames} frames"
    )


def table(result: dict[str, Any]) -> Table:
    """What was counted, and what grew."""
    shown = Table("", "", title="flat" if result["flat"] else "NOT FLAT")
    for name, value in result["growth"].items():
        shown.add_row(f"growth of {name}", f"{value:+.1f}")
    shown.add_row("memory, MiB a minute", f"{result['resident_mib_per_minute']:+.2f}")
    for name, value in sorted(result["counts"].items()) + sorted(result["node_counts"].items()):
        shown.add_row(name, str(value))
    shown.add_row("frames of a version never announced", str(result["frames_of_unannounced_versions"]))
    for text in result["wrong"]:
        shown.add_row("wrong", text)
    return shown


if __name__ == "__main__":
    sys.exit(main())
