"""The cache folder, and checks that its files can be trusted.

Cached files run as code (kernels, engines) or determine labels (text embeddings). A folder is used only if nobody but
this user and root can write to it or replace it, and a file only if one of the two owns it.
"""

from __future__ import annotations

import contextlib
import functools
import grp
import logging
import os
import pwd
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from fcclip_core.files.regular_files import open_regular

_logger = logging.getLogger(__name__)

_NAME = "fcclip_ros"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cache_folder(wanted: Path | None = None) -> Path | None:
    """The cache folder; folders that others can modify are not used, which is logged once.

    Args:
        wanted: The user's choice; None: $FCCLIP_CACHE_DIR, $XDG_CACHE_HOME/fcclip_ros or ~/.cache/fcclip_ros.

    Returns:
        The first safe folder of these, created if possible, or finally this user's own folder in the system's temporary
        folder. None if none is safe.
    """
    refused = []
    for folder in _candidates(wanted):
        if why := why_unsafe(folder):
            refused.append((folder, why))
            continue
        for other, reason in refused:
            _say_once(
                f"nothing is loaded from {other}, because {reason}, and cached files run as code; {folder} is used "
                "instead. To use it, take ownership (chown) and remove write permission for others (chmod go-w), or "
                "set FCCLIP_CACHE_DIR to a folder of your own"
            )
        return folder
    for other, reason in refused:
        _say_once(f"nothing is cached for the next start: {other} is not used, because {reason}; set FCCLIP_CACHE_DIR")
    return None


def open_ours(path: Path) -> BinaryIO:
    """Opens a regular file that belongs to this user or root and is not writable by others.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It belongs to another user, is writable by others, or cannot be read.
    """
    file = open_regular(path)
    if why := _foreign(os.fstat(file.fileno())):
        file.close()
        raise PermissionError(f"{path} is not used: {why}")
    return file


def keep_ours(part: Path) -> None:
    """Removes write permission for others from a cache file, regardless of the umask."""
    part.chmod(stat.S_IMODE(part.stat().st_mode) & ~_OTHERS_WRITE)


def guard_compilers() -> None:
    """Redirects the code caches of torch.compile and Triton to a safe folder, unless theirs are safe."""
    user_folders: dict[str, Callable[[], Path]] = {
        "TORCHINDUCTOR_CACHE_DIR": _inductor_folder,
        "TRITON_CACHE_DIR": lambda: Path.home() / ".triton" / "cache",
    }
    for variable, usual in user_folders.items():
        try:
            folder = Path(os.environ[variable]) if os.environ.get(variable) else usual()
            why = why_unsafe(folder) or _not_writable(folder)
        except (RuntimeError, KeyError, OSError):  # no home folder or user name
            folder, why = None, "this user has no folder for it"
        if not why:
            continue
        own = cache_folder()
        place = own / variable.split("_")[0].lower() if own else Path(tempfile.mkdtemp(prefix=f"{_NAME}-"))
        os.environ[variable] = str(place)
        if folder is not None:
            _say_once(f"{variable}: {folder} is not used, because {why}; compiled code is kept in {place}")


def _inductor_folder() -> Path:
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    return Path(default_cache_dir())


def _candidates(wanted: Path | None) -> Iterator[Path]:
    """Folders in order of preference, created if possible."""
    own, shared = os.environ.get("FCCLIP_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")
    if wanted is not None:
        yield _made(wanted)
    elif own:
        yield _made(Path(own))
    elif shared:
        yield _made(Path(shared) / _NAME)
    with contextlib.suppress(RuntimeError):  # no home
        folder = _made(Path.home() / ".cache" / _NAME)
        if not _not_writable(folder):
            yield folder
    last = Path(tempfile.gettempdir()) / f"{_NAME}-{os.geteuid()}"
    folder = _made(last)
    if folder.is_dir() and not last.is_symlink():
        yield folder


def _made(folder: Path) -> Path:
    """The folder with links resolved, created for this user only if missing and possible."""
    with contextlib.suppress(RuntimeError):
        folder = folder.expanduser()
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return folder.resolve()
    except (OSError, RuntimeError):  # a link loop
        return folder.absolute()


def why_unsafe(folder: Path) -> str:
    """Why others could write to a folder or replace it; empty if only this user and root can.

    Args:
        folder: An absolute path without links. If it does not exist, its existing parents are checked.
    """
    for place in (folder, *folder.parents):
        if place == place.parent:  # the root folder
            return ""
        try:
            about = place.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            return f"{place} cannot be checked ({error.strerror})"
        # In a sticky folder, others can create entries, but not change this user's.
        is_shared = place != folder and bool(about.st_mode & stat.S_ISVTX) and about.st_uid in _trusted()
        if not is_shared and (why := _foreign(about)):
            return f"{place}: {why}"
    return ""


def _foreign(about: os.stat_result) -> str:
    """Why a file or folder can be written by others than this user and root; empty if it cannot."""
    if about.st_uid not in _trusted():
        return f"it belongs to user {about.st_uid}, not to user {os.geteuid()} or root"
    if about.st_mode & stat.S_IWOTH:
        return f"everybody can write to it (mode {stat.S_IMODE(about.st_mode):o})"
    if about.st_mode & stat.S_IWGRP and not _is_private(about.st_gid):
        return f"group {about.st_gid} can write to it (mode {stat.S_IMODE(about.st_mode):o})"
    return ""


def _trusted() -> tuple[int, int]:
    return 0, os.geteuid()


@functools.cache
def _is_private(group: int) -> bool:
    """Whether a group has no members but this user and root: many systems have one group per user."""
    if group == 0:
        return True
    try:
        me, about = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return about.gr_name == me.pw_name and me.pw_gid == group and not set(about.gr_mem) - {me.pw_name, "root"}


def _not_writable(folder: Path) -> str:
    """Why a folder, existing or not, cannot be written to; empty if it can."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return "" if os.access(there, os.W_OK | os.X_OK) else f"{there} cannot be written"


@functools.cache
def _say_once(text: str) -> None:
    _logger.warning("%s", text)
