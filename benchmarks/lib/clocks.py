"""Clocks at the stages of code that has none: for one run, callables are wrapped in a clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any
from unittest import mock

import torch

import fcclip_core.segmenter as segmenter_module
from benchmarks.lib.rates import wait
from fcclip_core import Segmenter
from fcclip_core.inference import decoder as device_labels
from oracle.trace import Trace

Place = tuple[object, str, str]
"""(owner, name of its callable, stage)."""


@dataclass
class DeviceTrace(Trace):
    """A trace whose stages wait for the device at both ends, so that each includes all of its work.

    Attributes:
        device: Where the work happens.
    """

    device: torch.device = torch.device("cpu")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of the block to stage `name`; see `Trace.stage`."""
        wait(self.device)
        with super().stage(name):
            yield
            wait(self.device)


@contextmanager
def clocks(places: Iterable[Place], trace: Trace) -> Iterator[None]:
    """Adds the time of every call at `places` to its stage in `trace`; several places may share a stage."""
    with ExitStack() as stack:
        for owner, name, stage in places:
            stack.enter_context(mock.patch.object(owner, name, _timed(getattr(owner, name), trace, stage)))
        yield


def network_places(network: Any) -> tuple[Place, ...]:
    """The stages of `FCCLIP.forward`, for `clocks`; they run in PyTorch alone, not in graphs and compiled networks."""
    return (
        (network.backbone, "forward", "backbone"),
        (network.pixel_decoder, "forward", "pixel decoder"),
        (network.mask_decoder, "forward", "mask decoder"),
        (network.backbone, "embed_masks", "mask embedding"),
    )


def medians(traces: Sequence[Trace]) -> dict[str, dict[str, float]]:
    """Median `wall` and `cpu` seconds of every stage."""
    return {
        kind: {stage: median(getattr(trace, kind)[stage] for trace in traces) for stage in getattr(traces[0], kind)}
        for kind in ("wall", "cpu")
    }


def decoding_places(segmenter: Segmenter, classifying: str, merging: str) -> tuple[Place, ...]:
    """Where a segmenter that launches no graphs names and merges masks, for `clocks`.

    Args:
        segmenter: On any device; a graph that a GPU replays passes none of these places.
        classifying: Stage of the classification.
        merging: Stage of everything behind it.
    """
    decoder: Any = segmenter._decoder
    return (
        (device_labels, "classify", classifying),
        (getattr(decoder, "_eager", decoder), "_merge", merging),
        (segmenter_module, "_describe", merging),
    )


def _timed(function: Callable[..., Any], trace: Trace, stage: str) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with trace.stage(stage):
            return function(*args, **kwargs)

    return run
