#!/usr/bin/env python3
"""What does an object memory cost when it is large: an observation, a question, memory and file?

Objects stand in a grid, one a square meter, with random embeddings in kinds; a camera looks at them from random places.
Embeddings are of the published model's size. The file is written behind the stream meanwhile. Times are those of the
calling thread on the processor, so that other work on the machine does not count.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib.arguments import make_parser
from benchmarks.lib.memory import resident_bytes
from benchmarks.lib.rates import timed
from benchmarks.lib.report import Report, arguments_of, print_table
from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.geometry.segments import SegmentGeometry
from fcclip_core.memory.areas import Circle
from fcclip_core.memory.asking import Question
from fcclip_core.memory.object_memory import ObjectMemory
from fcclip_core.memory.observation import Observation, SeenSegment, pose_covariance
from fcclip_core.memory.settings import MemorySettings
from fcclip_core.vocabulary.embedded_text import TextEmbeddings
from fcclip_core.vocabulary.query import Query

_CAMERA = PinholeCamera(640, 480, 525.0, 525.0, 319.5, 239.5)
_HEIGHT = 1.0
_LOGIT_SCALE = 100.0
_SIDE = 0.2
_LOOKS = 3
"""Looks at each object, after which it is confirmed."""
_SETTINGS = MemorySettings(max_objects=100_000, max_range=8.0)
_WORDS = tuple(f"kind {number}" for number in range(150))
_QUESTIONS = {
    "one word": Question(Query.of(["kind 7"])),
    "three synonyms": Question(Query.of(["kind 7, sort 7, type 7"])),
    "within 20 m": Question(Query.of(["kind 7"]), area=Circle(50.0, 50.0, 20.0)),
}


def main() -> int:
    """Measures and prints."""
    parser = make_parser(__doc__, seed=0, repeat=200)
    parser.add_argument("--objects", type=int, nargs="+", default=[1000, 10_000, 100_000], help="sizes to measure")
    parser.add_argument("--dimension", type=int, default=768, help="of embeddings")
    parser.add_argument("--segments", type=int, default=15, help="of an observation")
    args = parser.parse_args()
    report = Report("memory")
    sizes = {count: measure(count, args.dimension, args.segments, args.repeat, args.seed) for count in args.objects}
    columns = {"objects": ",", "observation, ms": ".2f", "95 %": ".2f"}
    columns |= {f"asking, {name}, ms": ".1f" for name in _QUESTIONS}
    columns |= {"memory, MiB": ",.0f", "file, MiB": ",.0f", "opening, s": ".1f"}
    rows = [
        [
            count,
            *(row["observation_ms"][key] for key in ("p50", "p95")),
            *(row["asking_ms"][name]["p50"] for name in _QUESTIONS),
            *(row[key] for key in ("memory_mib", "file_mib", "opening_s")),
        ]
        for count, row in sizes.items()
    ]
    print_table(columns, rows, f"{args.segments} segments an observation, embeddings of {args.dimension} numbers")
    report.write(args.json, options=arguments_of(args), sizes=sizes)
    return 0


def measure(count: int, dimension: int, segments: int, repeat: int, seed: int) -> dict[str, Any]:
    """Fills a memory of `count` objects and times it."""
    dice = np.random.default_rng(seed)
    kinds = _units(dice.standard_normal((len(_WORDS), dimension)))
    world = World(count, kinds, dice)
    before = resident_bytes()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory.db"
        memory = ObjectMemory(_SETTINGS, path)
        for numbers in world.groups(segments):
            for _ in range(_LOOKS):
                memory.observe(world.look_from_above(numbers))
        memory.save(timeout=600.0)
        resident = (resident_bytes() - before) / 2**20
        looks = [world.random_look(segments) for _ in range(repeat)]
        observing = [timed(memory.observe, look, clock=time.thread_time)[1] for look in looks]
        memory.learn_words(*text_rows(memory, kinds))
        asking = {
            name: [timed(memory.ask, item, clock=time.thread_time)[1] for _ in range(repeat // 4 + 1)]
            for name, item in _QUESTIONS.items()
        }
        remembered = len(memory)
        memory.close(timeout=600.0)
        size = path.stat().st_size / 2**20
        opened, opening = timed(ObjectMemory, _SETTINGS, path)
        opened.close()
    return {
        "remembered": remembered,
        "observation_ms": _milliseconds(observing),
        "asking_ms": {name: _milliseconds(row) for name, row in asking.items()},
        "memory_mib": resident,
        "file_mib": size,
        "opening_s": opening,
    }


class World:
    """Objects in a square, one a square meter, and a camera that sees them."""

    def __init__(self, count: int, kinds: np.ndarray, dice: np.random.Generator) -> None:
        """Places `count` objects of kinds `(K, D)`."""
        self._side = int(np.ceil(np.sqrt(count)))
        self._kinds = dice.integers(0, len(kinds), count)
        self._embeddings = kinds
        self._dice = dice
        self._stamp = 0
        self._depth = np.full((_CAMERA.height, _CAMERA.width), 2.0, np.float32)
        self._image = dice.integers(0, 256, (_CAMERA.height, _CAMERA.width, 3), np.uint8)

    def groups(self, count: int) -> Iterator[range]:
        """All objects, so many neighbors at a time."""
        for row in range(0, len(self._kinds), self._side):
            end = min(row + self._side, len(self._kinds))
            yield from (range(start, min(start + count, end)) for start in range(row, end, count))

    def look_from_above(self, numbers: range) -> Observation:
        """A camera above some objects that looks down on them."""
        x, y = self._place(numbers[len(numbers) // 2])
        pose = np.diag([1.0, -1.0, -1.0, 1.0])
        pose[:3, 3] = x, y, _HEIGHT
        return self._observation(pose, list(numbers))

    def random_look(self, segments: int) -> Observation:
        """A camera at a random place that looks horizontally and sees the objects before it."""
        angle = self._dice.uniform(0, 2 * np.pi)
        forward, right = np.array([np.cos(angle), np.sin(angle), 0]), np.array([np.sin(angle), -np.cos(angle), 0])
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, [0, 0, -1], forward], axis=1)
        pose[:3, 3] = *self._dice.uniform(2, max(self._side - 2, 3), 2), 0.3
        column, row = (round(value) for value in pose[:2, 3] + 2 * forward[:2])
        around = [(column + i, row + j) for j in range(-3, 4) for i in range(-3, 4)]
        numbers = [j * self._side + i for i, j in around if 0 <= i < self._side and 0 <= j < self._side]
        ahead = [number for number in numbers if (np.array(self._place(number)) - pose[:2, 3]) @ forward[:2] > 0.5]
        return self._observation(pose, [number for number in ahead if number < len(self._kinds)][:segments])

    def _place(self, number: int) -> tuple[float, float]:
        return float(number % self._side), float(number // self._side)

    def _observation(self, pose: np.ndarray, numbers: list[int]) -> Observation:
        self._stamp += 100_000_000
        segments = [self._segment(index, number, pose) for index, number in enumerate(numbers, 1)]
        return Observation(
            "camera", self._stamp, pose, pose_covariance(), _CAMERA, self._depth, segments, _WORDS, self._image
        )

    def _segment(self, index: int, number: int, pose: np.ndarray) -> SeenSegment:
        kind = int(self._kinds[number])
        place = pose[:3, :3].T @ (np.array([*self._place(number), 0.1]) - pose[:3, 3])
        place += self._dice.normal(0, 0.01, 3)
        noise = self._dice.normal(0, 0.3 / np.sqrt(self._embeddings.shape[1]), self._embeddings.shape[1])
        sides = np.full(3, _SIDE)
        geometry = SegmentGeometry(
            place, float(np.linalg.norm(place)), place, sides, place, np.array([0, 0, 0, 1.0]), sides, 500
        )
        embedding = _units((self._embeddings[kind] + noise)[None])[0]
        return SeenSegment(index, kind + 1, _WORDS[kind], True, 0.8, embedding, 2500, (100, 100, 150, 150), geometry)


def text_rows(memory: ObjectMemory, kinds: np.ndarray) -> tuple[list[str], TextEmbeddings]:
    """Text embeddings of all words of the questions: those of the kinds, and random ones."""
    names = list(dict.fromkeys(word for question in _QUESTIONS.values() for word in memory.unknown_words(question)))
    dice = np.random.default_rng(1)
    known = dict(zip(_WORDS, kinds, strict=True))
    rows = [known[name] if name in known else _units(dice.standard_normal((1, kinds.shape[1])))[0] for name in names]
    return names, TextEmbeddings(np.stack(rows), _LOGIT_SCALE, "benchmark")


def _units(rows: np.ndarray) -> np.ndarray:
    units: np.ndarray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return units


def _milliseconds(seconds: list[float]) -> dict[str, float]:
    return {f"p{share}": 1e3 * float(np.percentile(seconds, share)) for share in (50, 95)}


if __name__ == "__main__":
    sys.exit(main())
