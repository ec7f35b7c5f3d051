#!/usr/bin/env python3
"""Does the node stay stable under everything at once?

Images at a rate, another vocabulary every few seconds, `find` and `segment_image` every second, and a client that is
killed every minute with goals and searches open. Counted every ten seconds: memory, threads and open files of the
node's process, which must stay flat; and of every answer whether its ids are those of the vocabulary version that it
carries.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import ROOT
from benchmarks.lib.arguments import MODEL, make_parser, node_parameters
from benchmarks.lib.memory import resident_bytes
from benchmarks.lib.node_process import image_message, node_process, stream
from benchmarks.lib.pictures import Pictures
from benchmarks.lib.report import Report, arguments_of, print_table, progress, say
from benchmarks.node.endurance import slope
from demo.peer import vocabulary_classes
from fcclip_core import Vocabulary
from fcclip_ros import msg, srv
from fcclip_ros.qos import LATCHED, OUTPUT

_NOUNS = (
    *("cup", "plate", "chair", "table", "lamp", "book", "box"),
    *("ball", "door", "floor", "wall", "plant", "cat", "car"),
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
    """Everything that asks the node for something, and what came back.

    Attributes:
        counts: How many of each kind were asked, answered, rejected, and wrong.
        wrong: The first answers whose ids are not those of their version.
    """

    def __init__(self, node: Any, next_message: Callable[[], Any]) -> None:
        """Joins the camera's node; `next_message` makes an image for `segment_image`."""
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._next_message = next_message
        self._versions: dict[int, dict[int, str]] = {}
        self._early: dict[int, list[msg.SegmentArray]] = {}
        self._lock = threading.Lock()
        self._dice = np.random.default_rng(0)
        self._words = node.create_client(srv.SetVocabulary, "/fcclip/set_vocabulary")
        self._find = node.create_client(srv.Find, "/fcclip/find")
        self._segment = node.create_client(srv.SegmentImage, "/fcclip/segment_image")
        node.create_subscription(msg.Vocabulary, "/fcclip/vocabulary", self._announced, LATCHED)
        node.create_subscription(msg.SegmentArray, "/fcclip/segments", self._heard, OUTPUT)

    def change_vocabulary(self) -> None:
        """To a few of the names, in any order."""
        classes = self._classes(2, 9)
        self._ask("set_vocabulary", self._words, srv.SetVocabulary.Request(classes=classes))

    def find(self) -> None:
        """One name, in the newest image."""
        words = self._classes(1, 2)[0].synonyms
        self._ask("find", self._find, srv.Find.Request(words=words, minimum_score=0.0))

    def segment_image(self) -> None:
        """One image with a vocabulary of its own."""

        def check(response: srv.SegmentImage.Response) -> None:
            allowed = {item.id: item.synonyms[0] for item in response.vocabulary.classes}
            self._compare("segment_image", response.segments, allowed)

        request = srv.SegmentImage.Request(image=self._next_message(), classes=self._classes(3, 4))
        self._ask("segment_image", self._segment, request, check)

    def _classes(self, least: int, end: int) -> list[msg.VocabularyClass]:
        """Some of the names, at least `least` and fewer than `end`."""
        with self._lock:
            names = self._dice.permutation(_NOUNS)[: self._dice.integers(least, end)]
        return vocabulary_classes(Vocabulary.from_names([str(name) for name in names]))

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
    parser = make_parser(__doc__, *MODEL, "vocabulary", rate=5.0, size="320x240")
    parser.add_argument("--minutes", type=float, default=20.0, help="length of the run")
    parser.add_argument("--words-every", type=float, default=5.0, help="seconds between two vocabularies")
    parser.add_argument("--ask-every", type=float, default=1.0, help="seconds between two searches and single images")
    parser.add_argument("--kill-every", type=float, default=60.0, help="seconds that a careless client lives")
    args = parser.parse_args()
    report = Report("soak")
    pictures = Pictures(*args.size)
    samples: list[Sample] = []

    def next_message() -> Any:
        return image_message(pictures.next())

    with node_process(node_parameters(args)) as node:
        camera = node.camera
        camera.listen(["segments"])
        camera.warm_up(next_message())
        load = Load(camera.node, next_message)
        with (
            stream(args.rate, lambda: camera.show(next_message())),
            stream(1 / args.words_every, load.change_vocabulary),
            stream(1 / args.ask_every, load.find),
            stream(1 / args.ask_every, load.segment_image),
            careless_clients(load, args.kill_every),
        ):
            began = time.monotonic()
            while (passed := time.monotonic() - began) < 60 * args.minutes:
                threads, files = (len(list(Path(f"/proc/{node.pid}/{kind}").iterdir())) for kind in ("task", "fd"))
                resident = resident_bytes(node.pid) / 2**20
                samples.append(Sample(passed, resident, threads, files, load.counts["frames"]))
                progress(", ".join(f"{name} {value:.1f}" for name, value in asdict(samples[-1]).items()))
                camera.forget()
                time.sleep(min(_SAMPLE_SECONDS, 60 * args.minutes - passed))
        counts = node.finish().counts
    result = result_of(samples, load, counts)
    show(result)
    report.write(args.json, **arguments_of(args, "checkpoint", "minutes"), **result)
    return 0 if result["flat"] and not load.wrong and not load.unexplained else 1


@contextlib.contextmanager
def careless_clients(load: Load, seconds: float) -> Iterator[None]:
    """A client after another, each killed after so many seconds."""
    running: list[subprocess.Popen[bytes]] = []

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
        with stream(1 / seconds, kill_and_start):
            yield
    finally:
        kill()


def result_of(samples: list[Sample], load: Load, node_counts: dict[str, int]) -> dict[str, Any]:
    """What changed between the second fifth of the time and the last; the first fifth is warm-up."""
    fifth = max(len(samples) // 5, 1)
    early, late = samples[fifth : 2 * fifth] or samples[:1], samples[-fifth:]
    figures = ("resident_mib", "threads", "files")
    before, after = ({name: median(getattr(item, name) for item in part) for name in figures} for part in (early, late))
    growth = {name: float(after[name] - before[name]) for name in figures}
    counted = samples[fifth:]
    minutes, memory = np.array([item.seconds / 60 for item in counted]), [item.resident_mib for item in counted]
    # Memory of a few hundred MiB fluctuates by a few; a client that leaks something does so once a minute.
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


def show(result: dict[str, Any]) -> None:
    """Prints what was counted, and what grew."""
    rows = [(f"growth of {name}", f"{value:+.1f}") for name, value in result["growth"].items()]
    rows += [("memory, MiB a minute", f"{result['resident_mib_per_minute']:+.2f}")]
    rows += [*sorted(result["counts"].items()), *sorted(result["node_counts"].items())]
    rows += [("frames of a version never announced", result["frames_of_unannounced_versions"])]
    rows += [("wrong", text) for text in result["wrong"]]
    print_table({"figure": "", "value": ""}, rows)
    say("flat" if result["flat"] else "NOT FLAT")


if __name__ == "__main__":
    sys.exit(main())
