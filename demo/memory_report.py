"""The report's section about the object memory: a table of questions and answers, their pictures, the map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from demo.map_picture import MAP
from demo.questions import COUNT, Asked
from demo.recall import ENOUGH_FRAMES, MAY_BE_WRONG, NEAR, SURE, MemoryWatcher, Recalled
from fcclip_core.files.atomic_write import write_atomically


def memory_section(
    folder: Path, kept_out: Sequence[Asked], memory: MemoryWatcher, answers: Sequence[Recalled], *, judged: bool
) -> list[str]:
    """Lines of Markdown; writes the pictures of the answers, answer_NUMBER.jpg, into the report's folder.

    Args:
        folder: The report's folder.
        kept_out: What could have been asked.
        memory: What is remembered.
        answers: The answers.
        judged: Whether wrong ones fail the demo.
    """
    text = [
        "## Asked afterwards",
        "",
        f"The node `object_memory` remembers {len(memory.objects)} things. No vocabulary of the drive had these words:",
        f"{', '.join(asked.words for asked in kept_out)}.",
        f"After the drive it was asked for {COUNT} of them, those that most frames had a segment of, whatever it was",
        f"called, from different rooms first; and for the last, which is nowhere. Below {SURE:g} nothing is an answer.",
        "",
        "| question | answer, as frames called it | place, m | off the truth | seen | segmented in | probability | |",
        "| --- " * 8 + "|",
    ]
    for number, answer in enumerate(answers, 1):
        text.append("| " + " | ".join([*_cells(answer), _picture(folder, number, answer)]) + " |")
    rule = f"Right is an answer within {100 * NEAR:.0f} cm of the true thing's center, and none for what is not there."
    if judged:
        rule += f" What was segmented in fewer than {ENOUGH_FRAMES} frames need not be known."
        rule += (
            f" The demo fails with more than {MAY_BE_WRONG} wrong answer about what is there, or any about what is not."
        )
    else:
        rule += " Answers are not part of the checks: the checkpoint is not the one that was trained on this world."
    return [*text, "", rule, "", f"![map]({MAP})", ""]


def _cells(answer: Recalled) -> list[str]:
    probability, frames = f"{answer.probability:.2f}", f"{answer.shown_in} frames" if answer.asked.thing else ""
    if answer.best is None:
        return [f"`{answer.asked.words}`", answer.sentence, "", _truth(answer), "", frames, probability]
    x, y, z = answer.best.place
    what = f"{answer.best.name or 'unnamed'} (object {answer.best.id})"
    place = f"({x:.2f}, {y:.2f}, {z:.2f})"
    return [f"`{answer.asked.words}`", what, place, _truth(answer), f"{answer.age:.0f} s ago", frames, probability]


def _truth(answer: Recalled) -> str:
    if answer.distance is not None:
        return f"{100 * answer.distance:.0f} cm"
    return "nothing of that name is there" if answer.asked.thing is None else "it is there"


def _picture(folder: Path, number: int, answer: Recalled) -> str:
    if not answer.crop:
        return ""
    path = folder / f"answer_{number}.jpg"
    write_atomically(path, answer.crop)
    return f"![{answer.asked.words}]({path.name})"
