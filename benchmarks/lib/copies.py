"""How often an image is copied on its way through the node.

Counted by what is allocated: where an image is copied twice in a row, three of it exist at one moment, the source and
two more. So the largest amount allocated at a time, in units of the image, tells no copy, one, or more. tracemalloc
sees what numpy, OpenCV, `bytes` and `array` allocate.
"""

from __future__ import annotations

import functools
import tracemalloc
from collections.abc import Callable
from concurrent.futures import Future
from importlib import import_module
from unittest import mock

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from benchmarks.lib.node_process import image_message
from fcclip_core import InferenceSettings, PanopticResult
from fcclip_core.results import Segment
from fcclip_ros.conversions import messages
from fcclip_ros.node.frame_statistics import Statistics
from fcclip_ros.node.pipeline import Pipeline

_SEGMENTS = 12
_PATIENCE = 20.0


def copies(width: int, height: int) -> dict[str, float]:
    """Images allocated at a time while one passes: 0 is no copy, 1 is one.

    Of camera images between rclpy's message and the segmenter, through the node's own threads; of outputs between the
    result and rclpy's message.
    """
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    result, header = _result(width, height), Header(frame_id="camera")
    outputs: dict[str, Callable[[], Image]] = {
        "panoptic": lambda: messages.panoptic_message(result, header),
        "semantic": lambda: messages.semantic_message(result, range(_SEGMENTS + 1), header),
        "confidence": lambda: messages.confidence_message(result, header),
        "overlay, drawn": lambda: messages.image_message(picture, "rgb8", header),
    }
    found = {f"{encoding} in": _copies_in(image_message(picture, encoding)) for encoding in ("rgb8", "bgr8")}
    return found | {f"{name} out": _copies_out(make) for name, make in outputs.items()}


def _copies_in(message: Image) -> float:
    stream = mock.Mock(statistics=Statistics())
    for _ in range(2):  # The first time also creates modules and tables.
        peak: Future[int] = Future()
        segmenter = import_module("fake_segmenter").FakeSegmenter(InferenceSettings())
        segmenter.encode_batch = functools.partial(_note_peak, peak)
        pipeline = Pipeline(segmenter, [stream], announce=lambda _: None, lost=lambda _: None, max_batch=1)
        tracemalloc.start()
        pipeline.enqueue_frame(stream, message)
        most = peak.result(_PATIENCE)
        tracemalloc.stop()
        pipeline.close(_PATIENCE)
    return round(most / len(message.data), 2)


def _note_peak(peak: Future[int], *_: object) -> list[object]:
    """Takes the place of the segmenter when an image arrives there."""
    peak.set_result(tracemalloc.get_traced_memory()[1])
    raise RuntimeError("the image has arrived")


def _copies_out(make: Callable[[], Image]) -> float:
    make()
    tracemalloc.start()
    size = len(make().data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return round(peak / size, 2)


def _result(width: int, height: int) -> PanopticResult:
    """A segment for each of some vertical bands."""
    row = np.arange(width) * (_SEGMENTS + 1) // width
    segments = [
        Segment(number, number, f"class {number}", 0.5, True, 1, (0, 0, 1, 1), np.zeros(1, np.float32))
        for number in range(1, _SEGMENTS + 1)
    ]
    segment_map = np.repeat(row[None].astype(np.int32), height, 0)
    return PanopticResult(segment_map, segments, 1, {})
