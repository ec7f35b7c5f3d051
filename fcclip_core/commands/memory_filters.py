"""Which objects of a memory a command is about: the options --near, --area, --called, --max-age, --state, --now."""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcclip_core.errors import SettingsError
from fcclip_core.files.paths import expanded
from fcclip_core.files.regular_files import read_regular_file

if TYPE_CHECKING:
    from fcclip_core.memory.areas import Area
    from fcclip_core.memory.objects import RememberedObject, State

STATES = ("confirmed", "tentative", "gone")

_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h|d|)")
_LARGEST_FILE = 1 << 20


def add_filter_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    group = parser.add_argument_group("filters")
    where = group.add_mutually_exclusive_group()
    where.add_argument(
        "--near", default="", metavar="X,Y,RADIUS", help="only within RADIUS meters; --near=-1,2,3 if X is negative"
    )
    where.add_argument(
        "--area",
        default="",
        metavar="CORNERS|FILE.json",
        help='only inside a polygon on the floor: "0,0 4,0 4,3", meters in the map, or a JSON list of such pairs',
    )
    group.add_argument(
        "--called",
        action="append",
        default=[],
        metavar="NAME",
        help="only what frames or users called so; may be repeated",
    )
    group.add_argument(
        "--max-age", type=_duration, metavar="AGE", help="only what was seen within this time: 90s, 15min, 2h, 3d"
    )
    group.add_argument(
        "--state",
        action="append",
        default=[],
        choices=(*STATES, "all"),
        help="what is believed of it; may be repeated (default: confirmed)",
    )
    group.add_argument(
        "--now",
        default="",
        metavar="SECONDS|newest",
        help="the time that ages count from, of the clock of the images; newest: when anything was seen last, for "
        "recordings and simulated time (default: the system's clock)",
    )


@dataclass(frozen=True)
class Filters:
    """What was asked for.

    Attributes:
        area: Only objects inside; None for everywhere.
        called: Only objects called by one of these; empty for any.
        max_age: Only objects seen within so many seconds; None for any.
        states: Only objects of which this is believed.
        now: The time that ages count from, nanoseconds.
    """

    area: Area | None
    called: tuple[str, ...]
    max_age: float | None
    states: tuple[State, ...]
    now: int

    def passes(self, item: RememberedObject) -> bool:
        """Whether an object is meant; its state has been looked at before."""
        return (
            (self.area is None or bool(self.area.contains(item.position[None])[0]))
            and (not self.called or item.own_name in self.called or not item.names.keys().isdisjoint(self.called))
            and (self.max_age is None or item.age(self.now) <= self.max_age)
        )


def filters_from(args: argparse.Namespace, everything: Iterable[RememberedObject]) -> Filters:
    """Reads the options.

    Args:
        args: The parsed options.
        everything: All objects, for `--now newest`.

    Raises:
        SettingsError: An option makes no sense.
    """
    from fcclip_core.memory.areas import Circle
    from fcclip_core.memory.objects import State

    area: Area | None = None
    if args.near:
        area = Circle(*_numbers("--near", args.near, 3, "X,Y,RADIUS in meters, for example 2,1.5,3"))
    elif args.area:
        area = _polygon(args.area)
    states = STATES if "all" in args.state else tuple(args.state) or ("confirmed",)
    now = _now(args.now, everything)
    return Filters(area, tuple(args.called), args.max_age, tuple(map(State, states)), now)


def _polygon(text: str) -> Area:
    from fcclip_core.memory.areas import Polygon

    if not text.endswith(".json"):
        expected = 'X,Y of each corner with blanks between them, for example "0,0 4,0 4,3"'
        return Polygon([_pair(_numbers("--area", part, 2, expected)) for part in text.split()])
    path = expanded(text)
    try:
        corners = json.loads(read_regular_file(path, _LARGEST_FILE))
    except OSError as error:
        raise SettingsError(f"--area {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _no_corners(path) from error
    if not (isinstance(corners, list) and all(_is_pair(corner) for corner in corners)):
        raise _no_corners(path)
    return Polygon([_pair([float(value) for value in corner]) for corner in corners])


def _no_corners(path: Path) -> SettingsError:
    return SettingsError(f"--area {path} is no JSON list of corners; expected one such as [[0, 0], [4, 0], [4, 3]]")


def _is_pair(corner: Any) -> bool:
    return (
        isinstance(corner, list)
        and len(corner) == 2
        and all(isinstance(value, float) or (type(value) is int and abs(value) < 2**53) for value in corner)
    )


def _pair(values: list[float]) -> tuple[float, float]:
    return values[0], values[1]


def _numbers(option: str, text: str, count: int, expected: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count:
        raise SettingsError(f"{option} is {text!r}; expected {expected}")
    return values


def _now(text: str, everything: Iterable[RememberedObject]) -> int:
    if not text:
        return time.time_ns()
    if text == "newest":
        return max((item.last_seen for item in everything), default=0)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < 2**33:
        raise SettingsError(f"--now is {text!r}; expected seconds of the images' clock, or newest")
    return round(seconds * 1e9)


def _duration(text: str) -> float:
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; expected one such as 90s, 15min, 2h or 3d")
    return float(found[1]) * _SECONDS[found[2] or "s"]
