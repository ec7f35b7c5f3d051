"""Paths in user input."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from fcclip_core.errors import FcclipError


def expanded(path: str | os.PathLike[str], error: type[FcclipError] = FcclipError) -> Path:
    """The path with a leading `~` or `~user` expanded, as in a shell.

    If there is no such user, the path is unchanged: `~draft.yaml` is a file name.

    Args:
        path: The user's path.
        error: Type of the exception.

    Raises:
        FcclipError: It begins with `~/`, and there is no home folder.
    """
    text = os.path.expanduser(path)
    if text == "~" or text.startswith("~/"):
        raise error(
            f"{os.fspath(path)}: there is no home folder (HOME is not set, and this user has no passwd entry); use an "
            "absolute path"
        )
    return Path(text)


def refuse_overwriting(what: str, outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Checks that outputs do not overwrite inputs of the same call, also through links or different spellings.

    Args:
        what: Name of the outputs for the message, such as `--json`.
        outputs: Files and folders to be written.
        inputs: Files and folders to be read, including files inside output folders.

    Raises:
        FcclipError: An output would overwrite an input; names both.
    """
    files: dict[object, Path] = {}
    folders: dict[Path, Path] = {}
    for path in inputs:
        try:
            place = Path(os.path.realpath(path))
        except ValueError:  # an invalid file name
            continue
        files |= {place: path, _identity(path) or place: path}
        folders |= dict.fromkeys(place.parents, path)
    for output in outputs:
        place = Path(os.path.realpath(output))
        found = files.get(place) or files.get(_identity(output))
        if found is None and os.path.isdir(place):
            found = folders.get(place)
        if found is not None:
            raise FcclipError(f"{what} {output} would replace an input of this call ({found}); choose another place")


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode, which are equal for hard links and different spellings; None if there is no file."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
