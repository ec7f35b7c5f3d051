"""Runs the demo: three processes, three vocabularies, one report."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import rclpy
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.live import Live

from fcclip_core.errors import FcclipError
from fcclip_core.resources import config_path
from fcclip_core.vocabulary import Vocabulary
from fcclip_ros.demo.children import Children, unused_domain_id
from fcclip_ros.demo.pictures import Album
from fcclip_ros.demo.report import VocabularyChange, table, write_report
from fcclip_ros.demo.watcher import Watcher

PHOTOS = Path(__file__).resolve().parents[2] / "demo" / "photos"

VOCABULARIES = (
    Vocabulary.from_names(
        ["person, astronaut", "cat", "cup, coffee cup", "table", "rocket", "flag", "sky", "wall"],
        stuff=["sky", "wall"],
    ),
    Vocabulary.from_names(
        ["face", "eye", "fur", "saucer", "spoon", "coffee", "space suit", "launch tower", "flame", "sky"],
        stuff=["fur", "coffee", "sky"],
    ),
    Vocabulary.from_names(["living being", "tableware", "vehicle", "background, anything else"], stuff=["background"]),
)

# With seeded weights no class is ever probable and masks overlap; at the published 0.0 and 0.8 nearly all is void.
SEEDED_THRESHOLDS = {"object_mask_threshold": 0.1, "overlap_threshold": 0.02}

START_PATIENCE = 300.0
CALL_PATIENCE = 120.0
REST_PATIENCE = 30.0
_PLAIN_PERIOD = 10.0
_SECONDS_PER_PHOTO = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo.

    Args:
        argv: Arguments; None takes the process's.

    Returns:
        0 if frames were labelled under every vocabulary and every check passed, 1 if not, 130 after Ctrl-C.
    """
    args = _parser().parse_args(argv)
    console = Console()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return Demo(args, console).run()
    except FcclipError as error:
        console.print(f"[bold red]demo failed:[/] {error}", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; the node and the camera have been stopped")
        return 130


class Demo:
    """One run.

    Attributes:
        args: The command line.
        console: Where to say what happens.
        changes: The vocabularies that have been in force.
    """

    def __init__(self, args: argparse.Namespace, console: Console) -> None:
        """Checks the arguments and prepares the folder."""
        self.args = args
        self.console = console
        self.changes: list[VocabularyChange] = []
        self._album = Album(args.photos)
        self._seeded = args.checkpoint.startswith("recipe:")
        _prepare_folder(args.out)

    def run(self) -> int:
        """Starts everything, shows three vocabularies, ends everything, reports."""
        _prepare_environment()
        self._introduce()
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        try:
            with Children(self.args.out) as children:
                children.start("image_source", *self._image_source_command())
                children.start("perception", *self._perception_command())
                watcher = Watcher(self._album.put)
                try:
                    self._show(watcher, children)
                finally:
                    watcher.close()
                statuses = children.stop()
            return self._report(watcher, [f"{name} ended with {code}" for name, code in statuses.items() if code])
        finally:
            rclpy.try_shutdown()

    def _introduce(self) -> None:
        say = self.console.print
        say(f"scenes: {', '.join(self._album.scenes)} at {self.args.rate:g} Hz (credits: demo/CREDITS.md)")
        say(f"model: {self.args.checkpoint}, shorter side {self.args.shorter_side}")
        say(f"ROS domain {os.environ['ROS_DOMAIN_ID']}, logs and pictures in {self.args.out}")
        if self._seeded:
            say(
                "[bold yellow]Seeded weights: no training, no download. Everything works and takes as long as with "
                "trained ones, but the segments and labels that come out mean nothing.[/]"
            )
            thresholds = ", ".join(f"{name} {value}" for name, value in SEEDED_THRESHOLDS.items())
            say(
                f"Thresholds are lowered for them ({thresholds}); at the published ones nearly all would be unlabelled."
            )

    def _image_source_command(self) -> list[str]:
        hold = max(1, round(_SECONDS_PER_PHOTO * self.args.rate))
        parameters = {"source": str(self.args.photos), "rate": self.args.rate, "hold_frames": hold}
        return ["-m", "fcclip_ros.image_source", "--ros-args", *_parameters(parameters)]

    def _perception_command(self) -> list[str]:
        first = VOCABULARIES[0]
        parameters = {
            "checkpoint": self.args.checkpoint,
            "shorter_side": self.args.shorter_side,
            "vocabulary": [", ".join(item.synonyms) for item in first.classes],
            "stuff": [item.name for item in first.classes if not item.is_thing],
            "publish_overlay_rate": 120.0,
            **(SEEDED_THRESHOLDS if self._seeded else {}),
        }
        return ["-m", "fcclip_ros.perception", "--ros-args", *_parameters(parameters)]

    def _show(self, watcher: Watcher, children: Children) -> None:
        began = time.monotonic()
        if not self._wait(watcher, children, "loading the model", START_PATIENCE, lambda: watcher.ledger.labelled > 0):
            raise FcclipError(
                f"no labelled frame within {START_PATIENCE:.0f} s; {self.args.out}/perception.log may say why"
            )
        self.console.print(f"first labelled frame after {time.monotonic() - began:.0f} s")
        self.changes.append(VocabularyChange(1, VOCABULARIES[0]))
        self._watch(watcher, children, 1)
        for vocabulary in VOCABULARIES[1:]:
            labelled = watcher.ledger.labelled
            version, seconds = watcher.set_vocabulary(vocabulary, CALL_PATIENCE)
            meanwhile = watcher.ledger.labelled - labelled
            self.changes.append(VocabularyChange(version, vocabulary, seconds, meanwhile))
            self.console.print(
                f"vocabulary {version} ({', '.join(vocabulary.names)}) in force {seconds:.2f} s after the request; "
                f"{meanwhile} frames were labelled meanwhile",
                highlight=False,
            )
            self._watch(watcher, children, version)
        self._come_to_rest(watcher, children)

    def _watch(self, watcher: Watcher, children: Children, version: int) -> None:
        """Lets a third of the time pass, and more if a scene has not been seen yet, up to twice that."""
        seconds = self.args.seconds / len(VOCABULARIES)
        earliest = time.monotonic() + seconds

        def done() -> bool:
            return time.monotonic() > earliest and not self._album.missing(version)

        self._wait(watcher, children, f"vocabulary {version}", 2 * seconds, done)

    def _come_to_rest(self, watcher: Watcher, children: Children) -> None:
        """Stops the camera and lets the node finish what it has, so that all counts are final."""
        children.stop("image_source")
        stopped = time.monotonic()

        def done() -> bool:
            return watcher.diagnosed_at > stopped + 0.5 and not watcher.frames_in_work()

        self._wait(watcher, children, "last frames", REST_PATIENCE, done)

    def _wait(self, watcher: Watcher, children: Children, what: str, seconds: float, done: Callable[[], bool]) -> bool:
        """Shows the table until something is done, and returns whether it was done in time.

        Raises:
            FcclipError: A process ended, or the node says that it cannot work.
        """
        deadline, next_line = time.monotonic() + seconds, 0.0
        with Live(console=self.console, auto_refresh=False, transient=True) as live:
            while not done():
                children.check()
                if watcher.trouble:
                    raise FcclipError(f"the perception node reports: {watcher.trouble}")
                now = time.monotonic()
                if now > deadline:
                    return False
                with watcher.lock:
                    live.update(table(watcher.ledger, watcher.diagnostics, what), refresh=self.console.is_terminal)
                    if not self.console.is_terminal and now > next_line:
                        next_line = now + _PLAIN_PERIOD
                        self.console.print(f"{what}: {watcher.ledger.photos} in, {watcher.ledger.labelled} labelled")
                time.sleep(0.25)
        return True

    def _report(self, watcher: Watcher, problems: list[str]) -> int:
        ledger = watcher.ledger
        ledger.finish()
        problems += ledger.problems
        for change in self.changes:
            if not ledger.frames_of.get(change.version):
                problems.append(f"no frame was labelled with vocabulary {change.version}")
            elif missing := self._album.missing(change.version):
                problems.append(f"vocabulary {change.version} was not seen on {', '.join(missing)}")
        pictures = self._album.save(self.args.out, ledger.vocabularies)
        path = self.args.out / "report.md"
        write_report(
            path,
            settings=[
                ("checkpoint", self.args.checkpoint + (" (seeded: labels mean nothing)" if self._seeded else "")),
                ("shorter side", str(self.args.shorter_side)),
                ("camera", f"{self.args.rate:g} Hz, {', '.join(self._album.scenes)}"),
                *((name, f"{value} (for seeded weights)") for name, value in SEEDED_THRESHOLDS.items() if self._seeded),
            ],
            changes=self.changes,
            ledger=ledger,
            diagnostics=watcher.diagnostics,
            pictures=pictures,
            problems=problems,
        )
        self.console.print(table(ledger, watcher.diagnostics, "what this process and the node counted"))
        self.console.print(f"{len(pictures)} pictures and {path}", highlight=False)
        for problem in problems[:20]:
            self.console.print(f"[bold red]check failed:[/] {problem}", highlight=False)
        if not problems:
            self.console.print(f"[bold green]all checks passed[/] on {ledger.labelled} labelled frames")
        return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fcclip_ros.demo",
        description="Publishes photographs as a camera topic, runs the perception node on it, changes its vocabulary "
        "twice while frames flow, checks every output from this process, and writes pictures and a report.",
    )
    parser.add_argument("--checkpoint", default="recipe:convnext_large", help="default: %(default)s")
    parser.add_argument("--photos", type=Path, default=PHOTOS, metavar="DIR", help="default: demo/photos")
    parser.add_argument("--seconds", type=float, default=90.0, help="with frames, after set-up (default: %(default)g)")
    parser.add_argument("--rate", type=float, default=10.0, help="camera frames per second (default: %(default)g)")
    parser.add_argument(
        "--shorter-side", type=int, default=256, help="pixels of the model's input (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("demo_output"), metavar="DIR", help="default: %(default)s")
    return parser


def _prepare_folder(folder: Path) -> None:
    """Makes the folder and takes away what an earlier run left, so that old pictures are not taken for new ones."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in [*folder.glob("*_v[0-9]*.jpg"), folder / "report.md"]:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise FcclipError(f"cannot use --out {folder}: {error.strerror or error}; choose another folder") from error


def _prepare_environment() -> None:
    """What the processes of the demo have in common; what the user has set is left alone."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(unused_domain_id()))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    # Fast DDS 3 renamed the variable.
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        os.environ.setdefault(name, str(config_path("fastdds.xml")))


def _parameters(values: dict[str, object]) -> list[str]:
    """Command-line arguments that give a node its parameters; lists are written as YAML."""
    return [part for name, value in values.items() for part in ("-p", f"{name}:={_yaml(value)}")]


def _yaml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(f"'{item}'" for item in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
