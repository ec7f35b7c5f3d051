"""Paths as users write them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from fcclip_core.errors import FcclipError


def expanded(path: str | os.PathLike[str], error: type[FcclipError] = FcclipError) -> Path:
    """The path with `~` and `~user` at its beginning replaced, as a shell does it.

    What begins with the name of no user stays as it is: `~draft.yaml` is a file name.

    Args:
        path: As the user wrote it.
        error: What to raise.

    Raises:
        FcclipError: It begins with `~/`, and there is no home folder here.
    """
    text = os.path.expanduser(path)
    if text == "~" or text.startswith("~/"):
        raise error(
            f"{os.fspath(path)}: there is no home folder here (HOME is not set, and this user has no entry in the "
            "system's list); write the path in full"
        )
    return Path(text)


def refuse_overwriting(what: str, outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuses to write where the same call reads, whatever the paths are spelled like, and through links, too.

    Args:
        what: What the outputs are called in the message, such as `--json`.
        outputs: Files and folders that are going to be written.
        inputs: Files and folders that are read. A file inside a folder that is written counts, too.

    Raises:
        FcclipError: Naming both.
    """
    files: dict[object, Path] = {}
    folders: dict[Path, Path] = {}
    for path in inputs:
        try:
            place = Path(os.path.realpath(path))
        except ValueError:  # no file has such a name
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
    """Device and inode: hard links and other spellings have the same; None where there is no file."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
