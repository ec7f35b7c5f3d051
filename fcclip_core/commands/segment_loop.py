"""The loop of `fcclip segment`: one input after the other, and none ends the run for the others."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from fcclip_core.commands.segment_jobs import Job
from fcclip_core.commands.segment_outcomes import Outcome, Reports
from fcclip_core.commands.segment_records import differences, state_of
from fcclip_core.commands.segment_writer import ResultWriter
from fcclip_core.errors import DeviceLostError, FcclipError, FolderTakenError, ImageError
from fcclip_core.quoting import first_line, printable

_logger = logging.getLogger(__name__)


def segment_each(
    numbers: Iterable[int], jobs: Sequence[Job], writer: ResultWriter, reports: Reports, *, again: bool = False
) -> None:
    """Segments inputs, and keeps what is done.

    Args:
        numbers: Those of the jobs; asked for one by one.
        jobs: All jobs.
        writer: Segments and writes.
        reports: Hears what becomes of each.
        again: Whether to segment also what is done.

    Raises:
        DeviceLostError: The GPU is lost; the input in work has no outcome.
        FolderTakenError: Another run writes to the folder, likewise.
    """
    from fcclip_core.devices import watched

    for number in numbers:
        job = jobs[number]
        try:
            with watched(writer.segmenter.device):
                outcome = _outcome(job, writer, reports, again)
        except (DeviceLostError, FolderTakenError):
            raise
        except Exception as error:
            _logger.info("%s failed", printable(str(job.source)), exc_info=True)
            outcome = Outcome("failed", reason=reason_of(error))
        reports.finished(number, outcome)


def reason_of(error: Exception) -> str:
    """What an error says, in one line."""
    if isinstance(error, FcclipError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        name = "" if error.filename is None else f"{Path(os.fsdecode(error.filename)).name}: "
        return f"{name}{error.strerror}"
    if isinstance(error, OSError):
        return str(error)
    return f"{type(error).__name__}: {first_line(error)}"


def _outcome(job: Job, writer: ResultWriter, reports: Reports, again: bool) -> Outcome:
    """Segments an input, unless it is done.

    Raises:
        Exception: It failed.
    """
    differing = differences(writer.out, job, writer.recipe, state_of(job.source))
    if differing == [] and not again:
        if writer.has_remembered(job):
            return Outcome("kept")
        differing = ["memory"]
    if os.path.exists(job.source) and not (os.path.isfile(job.source) or os.path.isdir(job.source)):
        raise ImageError("it is no file: a pipe, a socket or a device cannot be read")

    def advance(done: int, announced: int) -> None:
        reports.frames(job.source.name, done, announced)

    try:
        if job.kind == "image":
            notes = writer.image(job)
        else:
            notes = writer.bag(job, advance) if job.kind == "bag" else writer.video(job, advance)
    finally:
        if job.kind != "image":
            reports.frames("", 0, 0)
    return Outcome("labeled", differences=() if again else differing or (), notes=notes)
