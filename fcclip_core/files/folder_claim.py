"""Claims a folder for one run, so that two runs do not mix their files in it without a word."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcclip_core.errors import FcclipError, FolderTakenError
from fcclip_core.files.regular_files import read_regular_file

NAME = ".fcclip-run"
"""The hidden file that says which run writes to a folder; removed when the run ends."""

_LARGEST = 4096
_SEEN_AFTER = 60.0
"""Seconds in which a file must show up on the other machines of a network file system."""


@dataclass(frozen=True)
class FolderClaim:
    """A run's right to write to a folder, which every process of the run holds.

    Attributes:
        folder: The folder.
        token: What the run calls itself.
    """

    folder: Path
    token: str

    def check(self) -> None:
        """Returns while no other run has claimed the folder.

        Raises:
            FolderTakenError: One has.
        """
        found = _read(self.folder)
        if found and found.get("token") != self.token:
            raise FolderTakenError(
                f"another run ({_described(found)}) has begun to write to {self.folder}, so this one ends; what it has "
                "written is whole. Give each run a folder of its own with --out"
            )

    def require_shared(self) -> None:
        """Checks that this process sees the folder that the first process of the run has claimed.

        Raises:
            FcclipError: It sees another one, on a disk of its own machine for example.
        """
        end = time.monotonic() + _SEEN_AFTER
        while _read(self.folder).get("token") != self.token:
            if time.monotonic() > end:
                raise FcclipError(
                    f"{self.folder} on {socket.gethostname()} is not the folder that the first process writes to; "
                    "--out must be on a file system that all machines of the run share"
                )
            time.sleep(0.1)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[FolderClaim]:
    """Claims a folder for the length of the block; a claim whose process was killed counts no more.

    A lock keeps other runs away. Some network file systems have none: there the later run takes the folder over, and
    the earlier one finds that out with `FolderClaim.check`.

    Raises:
        FolderTakenError: Another run holds the lock.
        OSError: The folder cannot be written to.
    """
    path = folder / NAME
    handle = _locked(path)
    try:
        claim = FolderClaim(folder, secrets.token_hex(8))
        about = {"token": claim.token, "host": socket.gethostname(), "pid": os.getpid()}
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps(about).encode())
        try:
            yield claim
        finally:
            if _read(folder).get("token") == claim.token:
                path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _locked(path: Path) -> int:
    """Opens a file and locks it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise FolderTakenError(
                f"another run ({_described(_read(path.parent))}) writes to {path.parent}; wait until it ends, or "
                "choose another folder with --out"
            ) from error
        except OSError:  # no locks there
            return handle
        # The run that held it has perhaps removed it in between.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        os.close(handle)


def _read(folder: Path) -> dict[str, Any]:
    """What the claim of a folder says; empty if there is none."""
    try:
        found = json.loads(read_regular_file(folder / NAME, _LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _described(claim: dict[str, Any]) -> str:
    return f"process {claim.get('pid', 'unknown')} on {claim.get('host', 'an unknown machine')}"
