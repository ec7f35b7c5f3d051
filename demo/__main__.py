"""Runs the demo: a simulated robot drives, its camera is labeled, the vocabulary changes twice, one report."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.live import Live
from rich.text import Text

from demo.children import Children, ros_arguments, ros_environment
from demo.film import FILM, Film
from demo.frames import Frame
from demo.map_picture import MAP, draw_map
from demo.memory_report import memory_section
from demo.questions import choose_questions, keep_out
from demo.recall import MemoryWatcher, Recalled, problems_of
from demo.report import VocabularyChange, quality_note, table, write_report
from demo.truth import things_of_recording, things_of_rooms
from demo.vocabularies import chapters
from demo.watcher import Watcher
from fcclip_core.commands.interruption import exit_status, interruptible
from fcclip_core.errors import FcclipError
from fcclip_core.files.paths import expanded
from fcclip_core.simulation.bundled_drive import bundled_drive, rendering_problem
from fcclip_core.terminal import Terminal

MODEL = "demo"
"""The checkpoint whose answers are checked; what another one knows of the simulated world is its own matter."""

MEMORY_FILE = "objects.db"
START_SEED = 3
SCENES = 3
START_PATIENCE = 300.0
CALL_PATIENCE = 120.0
REST_PATIENCE = 30.0
_PLAIN_PERIOD = 10.0
_SETTLING = 2.0
"""Seconds in which the memory takes in the last frame and publishes what it remembers."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo.

    Args:
        argv: Arguments; None takes the process's.

    Returns:
        0 if frames were labeled under every vocabulary and every check passed, 1 if not; 130 after Ctrl-C, 143 after
        SIGTERM.
    """
    console = Terminal(soft_wrap=True)
    try:
        with interruptible():
            return Demo(_parser().parse_args(argv), console).run()
    except (FcclipError, OSError) as error:
        console.print(Text.assemble(("demo failed:", "bold red"), f" {error}"))
        return 1
    except KeyboardInterrupt as error:
        console.print("interrupted; the node and the camera have been stopped")
        return exit_status(error)


class Demo:
    """One run.

    Attributes:
        args: The command line.
        console: Where to print progress.
        changes: The vocabularies that have been active.
    """

    def __init__(self, args: argparse.Namespace, console: Terminal) -> None:
        """Prepares the output folder, and finds out whether the world can be rendered here."""
        self.args = args
        self.console = console
        self.changes: list[VocabularyChange] = []
        self._film = Film()
        _prepare_folder(args.out)
        self._answers: list[Recalled] = []
        self._recording: Path | None = args.recording
        if self._recording is None and (obstacle := rendering_problem()):
            said = "The world cannot be rendered here, a recorded drive is played:"
            console.print(Text.assemble((said, "yellow"), f" {obstacle}"))
            self._recording = bundled_drive()
        recording = self._recording
        self._things = things_of_rooms(args.seed, SCENES) if recording is None else things_of_recording(recording)
        self._kept_out = keep_out(self._things)
        self._chapters = chapters([asked.words for asked in self._kept_out])

    def run(self) -> int:
        """Starts everything, shows three vocabularies, asks for what none of them named, ends everything, reports."""
        _prepare_environment()
        self.console.print(f"camera: {self._camera}\nmodel: {self.args.checkpoint}")
        self.console.print(f"ROS domain {os.environ['ROS_DOMAIN_ID']}, logs and pictures in {self.args.out}")
        with Children(self.args.out) as children:
            children.start("sim_camera", *self._camera_command())
            children.start("perception", *self._perception_command())
            children.start("object_memory", *self._memory_command())
            with Watcher(children.check) as watcher:
                memory = MemoryWatcher(watcher)
                watcher.on_frame = lambda stamp, frame: self._capture(watcher, memory, stamp, frame)
                self._show(watcher, children)
                self._ask(watcher, memory, children)
            statuses = children.stop()
        problems = [f"{name} ended with {code}" for name, code in statuses.items() if code]
        return self._report(watcher, memory, problems)

    @property
    def _camera(self) -> str:
        if self._recording is not None:
            return f"the recorded drive {self._recording}, {self.args.rate:g} frames a second"
        return f"drives through {SCENES} rooms of the simulated world, {self.args.rate:g} frames a second"

    def _camera_command(self) -> list[str]:
        parameters: dict[str, object] = {"rate": self.args.rate}
        if self._recording is not None:
            parameters |= {"recording": str(self._recording)}
        else:
            # A third of each vocabulary's time in each room.
            frames = max(1, round(self.args.rate * self.args.seconds / len(self._chapters) / SCENES))
            parameters |= {"seed": self.args.seed, "scenes": SCENES, "frames_per_scene": frames}
        return ["-m", "fcclip_ros.sim_camera", *ros_arguments(parameters)]

    def _perception_command(self) -> list[str]:
        first = self._chapters[0].vocabulary
        parameters = {
            "checkpoint": self.args.checkpoint,
            "vocabulary": [", ".join(item.synonyms) for item in first.classes],
            "stuff": [item.name for item in first.classes if not item.is_thing],
            "publish_overlay_rate": 120.0,
            "use_depth": True,
            "publish_embeddings": "float16",
        }
        return ["-m", "fcclip_ros.perception", *ros_arguments(parameters)]

    def _memory_command(self) -> list[str]:
        # Not by TF, which wheels do not have.
        parameters = {"map_frame": "world", "pose_source": "topic", "file": str(self.args.out / MEMORY_FILE)}
        return ["-m", "fcclip_ros.object_memory", *ros_arguments(parameters)]

    def _capture(self, watcher: Watcher, memory: MemoryWatcher, stamp: int, frame: Frame) -> None:
        assert frame.segments is not None
        memory.note(frame)
        version = frame.segments.version
        classes = watcher.log.vocabularies.get(version)
        if classes is not None:
            self._film.add(stamp, frame, classes, quality_note(watcher.log, version))

    def _show(self, watcher: Watcher, children: Children) -> None:
        began = time.monotonic()
        if not self._wait(watcher, children, "loading the model", START_PATIENCE, lambda: watcher.log.labeled > 0):
            raise FcclipError(
                f"no labeled frame within {START_PATIENCE:.0f} s; {self.args.out}/perception.log may say why"
            )
        self.console.print(f"first labeled frame after {time.monotonic() - began:.0f} s")
        first, *others = self._chapters
        self._announce(VocabularyChange(1, first.title, first.vocabulary))
        self._watch(watcher, children, 1)
        for chapter in others:
            labeled = watcher.log.labeled
            version, seconds = watcher.set_vocabulary(chapter.vocabulary, CALL_PATIENCE)
            meanwhile = watcher.log.labeled - labeled
            self._announce(VocabularyChange(version, chapter.title, chapter.vocabulary, seconds, meanwhile))
            self._watch(watcher, children, version)
        self._come_to_rest(watcher, children)

    def _announce(self, change: VocabularyChange) -> None:
        self.changes.append(change)
        took = f"active {change.seconds:.2f} s after the request, " if change.seconds else ""
        self.console.print(
            Text.assemble(
                (f"vocabulary {change.version}: {change.title}", "bold"), f" ({took}{len(change.vocabulary)} classes)"
            )
        )

    def _watch(self, watcher: Watcher, children: Children, version: int) -> None:
        """Waits a third of the time."""
        until = time.monotonic() + self.args.seconds / len(self._chapters)
        self._wait(watcher, children, f"vocabulary {version}", self.args.seconds, lambda: time.monotonic() > until)

    def _come_to_rest(self, watcher: Watcher, children: Children) -> None:
        """Stops the camera and lets the node finish what it has, so that all counts are final."""
        children.stop("sim_camera")
        stopped = time.monotonic()

        def done() -> bool:
            return watcher.diagnosed_at > stopped + 0.5 and not watcher.frames_in_work()

        self._wait(watcher, children, "last frames", REST_PATIENCE, done)

    def _ask(self, watcher: Watcher, memory: MemoryWatcher, children: Children) -> None:
        """Asks for things in words that no frame was labeled with."""
        until = time.monotonic() + _SETTLING
        self._wait(watcher, children, "the memory", REST_PATIENCE, lambda: time.monotonic() > until)
        self.console.print(Text.assemble(("asked in words that were in no vocabulary:", "bold")))
        self._answers = memory.ask(choose_questions(self._kept_out, memory.shown), CALL_PATIENCE)
        for answer in self._answers:
            self.console.print(Text(f"  {answer.sentence}{_against_truth(answer)}"))

    def _wait(self, watcher: Watcher, children: Children, what: str, seconds: float, done: Callable[[], bool]) -> bool:
        """Shows the table until something is done, and returns whether it was done in time.

        Raises:
            FcclipError: A process ended, or the node reports an error.
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
                with watcher.changed:
                    live.update(table(watcher.log, watcher.diagnostics, what), refresh=self.console.is_terminal)
                    if not self.console.is_terminal and now > next_line:
                        next_line = now + _PLAIN_PERIOD
                        self.console.print(f"{what}: {watcher.log.images} in, {watcher.log.labeled} labeled")
                time.sleep(0.25)
        return True

    def _report(self, watcher: Watcher, memory: MemoryWatcher, problems: list[str]) -> int:
        log = watcher.log
        log.finish()
        problems += log.problems
        for change in self.changes:
            if not log.frames_of.get(change.version):
                problems.append(f"no frame was labeled with vocabulary {change.version}")
        if self.args.checkpoint == MODEL:
            problems += problems_of(self._answers)
        film, stills = self._film.save(self.args.out)
        draw_map(self.args.out / MAP, self._things, memory, self._answers)
        path = self.args.out / "report.md"
        write_report(
            path,
            settings=[("checkpoint", self.args.checkpoint), ("camera", self._camera)],
            changes=self.changes,
            log=log,
            diagnostics=watcher.diagnostics,
            film=film,
            stills=stills,
            asked=memory_section(
                self.args.out, self._kept_out, memory, self._answers, judged=self.args.checkpoint == MODEL
            ),
            problems=problems,
        )
        self.console.print(table(log, watcher.diagnostics, "what this process and the node counted"))
        self.console.print(f"film {film}, map {self.args.out / MAP}, report {path}")
        for problem in problems[:20]:
            self.console.print(Text.assemble(("check failed:", "bold red"), f" {problem}"))
        if not problems:
            passed = ("all checks passed", "bold green")
            self.console.print(Text.assemble(passed, f" on {log.labeled} labeled frames"))
        return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="Drives a simulated robot's camera, runs the perception node on it, changes its vocabulary twice, "
        "the second time to words that the model was never trained to segment, checks every output from this process, "
        "measures panoptic quality against the camera's truth, asks the object memory for things in words that were in "
        "no vocabulary, and writes a film, a map and a report.",
    )
    parser.add_argument("--checkpoint", default=MODEL, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=90.0, help="with frames, after set-up (default: %(default)g)")
    parser.add_argument("--rate", type=float, default=4.0, help="camera frames per second (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=START_SEED, help="another seed, other rooms (default: %(default)s)")
    parser.add_argument(
        "--recording", type=expanded, metavar="DIR", help="play a drive of `fcclip world drive`, not a live one"
    )
    parser.add_argument("--out", type=expanded, default=Path("demo_output"), metavar="DIR", help="default: %(default)s")
    return parser


def _prepare_folder(folder: Path) -> None:
    """Creates the folder and removes the results of an earlier run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        former = ("vocabulary_[0-9]*.png", "answer_[0-9]*.jpg", f"{MEMORY_FILE}*", FILM, MAP, "report.md")
        for path in (path for pattern in former for path in folder.glob(pattern)):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise FcclipError(f"cannot use --out {folder}: {error.strerror or error}; choose another folder") from error


def _against_truth(answer: Recalled) -> str:
    return "" if answer.distance is None else f"; {100 * answer.distance:.0f} cm from where it is"


def _prepare_environment() -> None:
    """What the demo's processes share; variables that the user has set are left alone."""
    for name, value in ros_environment().items():
        os.environ.setdefault(name, value)


if __name__ == "__main__":
    sys.exit(main())
