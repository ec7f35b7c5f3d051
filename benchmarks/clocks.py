"""Clocks at the stages of code that has none: callables replaced, for one run, by themselves with a clock around."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from oracle.trace import Trace

Place = tuple[object, str, str]
"""(owner, name of its callable, stage)."""


@contextmanager
def clocks(places: Iterable[Place], trace: Trace) -> Iterator[None]:
    """Adds the time of every call at `places` to its stage in `trace`; several places may share a stage."""
    with ExitStack() as stack:
        for owner, name, stage in places:
            stack.enter_context(mock.patch.object(owner, name, _timed(getattr(owner, name), trace, stage)))
        yield


def _timed(function: Callable[..., Any], trace: Trace, stage: str) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with trace.stage(stage):
            return function(*args, **kwargs)

    return run
