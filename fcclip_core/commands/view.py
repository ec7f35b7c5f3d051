"""`fcclip view`: what a node publishes, a bag holds, or an object memory knows, in the Rerun viewer."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fcclip_core.commands.progress_bar import progress_bar
from fcclip_core.commands.ros_modules import ros_module
from fcclip_core.errors import FcclipError
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.files.paths import expanded, refuse_overwriting

if TYPE_CHECKING:
    import rerun

VIEWER = "rerun+http://127.0.0.1:9876/proxy"
"""Where a viewer listens that was started as `rerun` on this machine."""

_PATIENCE = 3.0
"""Seconds that a viewer has to answer."""

_CHUNK = 1 << 20


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser(
        "view",
        help="look at a running node, at ROS 2 bags or at an object memory, in Rerun",
        description="Without BAG the topics of a running node are shown until Ctrl-C. With BAG, what was recorded; "
        "labels and camera may lie in different bags. Where frames were labeled without depth, but depth and "
        "camera_info were recorded, cloud and boxes are worked out from those. With --memory, its objects, "
        "as boxes with pictures in the map. Needs rerun-sdk.",
    )
    parser.add_argument("bags", nargs="*", type=expanded, metavar="BAG", help="mcap, sqlite3 (default: a running node)")
    parser.add_argument("--memory", type=expanded, metavar="FILE", help="an object memory instead of a node or bags")
    parser.add_argument("--node", default="/fcclip", metavar="NAME", help="whose labels (default: /fcclip)")
    parser.add_argument("--camera", action="append", default=[], metavar="NAME", help="of several; may be repeated")
    parser.add_argument("--image", action="append", default=[], metavar="TOPIC", help="images; one for each camera")
    parser.add_argument(
        "--depth", action="append", default=[], metavar="TOPIC", help="depth topic of a bag; may be repeated"
    )
    parser.add_argument("--point-step", type=int, default=1, metavar="N", help="every Nth row and column of clouds")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--save", type=expanded, metavar="FILE.rrd", help="write a recording, open no viewer")
    where.add_argument(
        "--connect",
        nargs="?",
        const=VIEWER,
        metavar="URL",
        help=f"send to a viewer that runs already, here or on another machine (default: {VIEWER})",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command.

    Returns:
        0, or 1 if the node for looking could not be made.

    Raises:
        FcclipError: There is nothing to look at, or nothing to look with.
    """
    if args.point_step < 1:
        raise FcclipError(f"--point-step is {args.point_step}; it must be at least 1")
    if args.save is not None:
        inside = (file for bag in args.bags if bag.is_dir() for file in bag.iterdir())
        refuse_overwriting("--save", [args.save], [*args.bags, *inside, *filter(None, [args.memory])])
    if args.memory is not None:
        if args.bags:
            raise FcclipError("--memory shows a map, bags are shown from their camera; look at one after the other")
        _show_memory(args)
        return 0
    topics = ros_module("fcclip_ros.view.topics", "looking at topics")
    wanted = topics.Wanted(args.node, tuple(args.camera), tuple(args.image), tuple(args.depth))
    with _recording(args.save, args.connect) as recording:
        scene = ros_module("fcclip_ros.view.scene", "looking at topics").Scene(recording, args.point_step)
        if not args.bags:
            return int(ros_module("fcclip_ros.view.live", "looking at a running node").show(scene, wanted))
        _show_bags(args.bags, scene, wanted)
    return 0


def _show_memory(args: argparse.Namespace) -> None:
    from fcclip_core.memory.object_memory import ObjectMemory
    from fcclip_core.terminal import Terminal

    memory = ObjectMemory(path=args.memory, read_only=True)
    with _recording(args.save, args.connect) as recording:
        said = importlib.import_module("fcclip_core.commands.view_memory").show(recording, memory)
    Terminal(stderr=True).print(f"{args.memory}: {said}", soft_wrap=True)


def _show_bags(paths: list[Path], scene: Any, wanted: Any) -> None:
    from fcclip_core.terminal import Terminal

    console = Terminal(stderr=True)

    def say(text: str) -> None:
        console.print(text, soft_wrap=True)

    reader = ros_module("fcclip_ros.view.recorded", "looking at a bag")
    with progress_bar(console) as progress:
        task = progress.add_task("messages", total=None)
        reader.show(paths, scene, wanted, say, lambda done: progress.update(task, completed=done))


@contextlib.contextmanager
def _recording(save: Path | None, connect: str | None) -> Iterator[rerun.RecordingStream]:
    """What is logged goes to a file, to a viewer that runs, or to one that is started here.

    Raises:
        FcclipError: Rerun is missing, or there is no such place.
    """
    try:
        rr = importlib.import_module("rerun")
    except ImportError as error:
        raise FcclipError(f"fcclip view shows things with Rerun ({error}): pip install rerun-sdk") from error
    recording = rr.RecordingStream("fcclip_view")
    with contextlib.ExitStack() as stack:
        if save is not None:
            stack.enter_context(_saved(recording, save))
        elif connect:
            _check_viewer(connect)
            recording.connect_grpc(connect)
            stack.callback(recording.disconnect)
        else:
            _check_display()
            recording.spawn()
            stack.callback(recording.disconnect)
        yield recording


@contextlib.contextmanager
def _saved(recording: rerun.RecordingStream, path: Path) -> Iterator[None]:
    """What is logged goes to a file, which is whole or not there.

    Raises:
        FcclipError: It cannot be written.
    """
    if not path.parent.is_dir():
        raise FcclipError(f"--save {path}: there is no folder {path.parent}")
    with atomic_write(path) as part, tempfile.TemporaryDirectory() as folder:
        # Rerun says in its log alone that a disk is full, and may then wait for ever. So it writes to a pipe.
        pipe = Path(folder) / path.name
        os.mkfifo(pipe)
        # Open for reading first: to open for writing waits for that.
        source = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        recording.save(pipe)
        os.set_blocking(source, True)
        copy = _Copy(source, part)
        copy.start()
        try:
            yield
        finally:
            recording.disconnect()
            copy.join()
        if copy.error is not None:
            said = copy.error.strerror or copy.error
            raise FcclipError(f"--save {path} cannot be written: {said}; choose another place") from copy.error


class _Copy(threading.Thread):
    """Copies a pipe to a file, and takes what comes also when the file takes no more.

    Attributes:
        error: Why the file is not whole.
    """

    def __init__(self, source: int, path: Path) -> None:
        super().__init__(name="recording", daemon=True)
        self.error: OSError | None = None
        self._source = source
        self._path = path

    def run(self) -> None:
        with open(self._source, "rb", buffering=0) as source:
            try:
                with self._path.open("wb") as target:
                    shutil.copyfileobj(source, target, _CHUNK)
            except OSError as error:
                self.error = error
            while source.read(_CHUNK):
                pass


def _check_viewer(url: str) -> None:
    """Checks that a viewer listens; Rerun itself would retry for a while and only log that.

    Raises:
        FcclipError: No viewer listens, or the URL is not a viewer's.
    """
    parts = urlsplit(url)
    with contextlib.suppress(ValueError):
        if parts.scheme.startswith("rerun") and parts.hostname and parts.path == "/proxy":
            try:
                socket.create_connection((parts.hostname, parts.port or 443), _PATIENCE).close()
            except OSError as error:
                raise FcclipError(f"no viewer listens at --connect {url} ({error}); start one there: rerun") from error
            return
    raise FcclipError(f"--connect {url!r} is no URL of a viewer; expected one such as {VIEWER}")


def _check_display() -> None:
    """The viewer is a program of its own, whose complaints would come after this one has ended."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise FcclipError(
            "there is no display here; write a recording with --save FILE.rrd, or send to a viewer on another machine: "
            "--connect rerun+http://ITS_ADDRESS:9876/proxy"
        )
