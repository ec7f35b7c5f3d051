"""Recognizes paths of ROS 2 bags without opening files."""

from __future__ import annotations

import re
from pathlib import Path

METADATA = "metadata.yaml"
BAG_SUFFIXES = frozenset({".mcap", ".db3"})

_PACKED = ".zstd"
"""Suffix of files compressed as a whole."""


def is_bag_file(path: Path) -> bool:
    """Whether a path has the name of a bag file: run_0.mcap, run_0.db3, run_0.mcap.zstd."""
    return storage_suffix(path) in BAG_SUFFIXES


def storage_suffix(path: Path) -> str:
    """The suffix of a bag file's storage format, without the compression suffix: .mcap, .db3, or another."""
    return (path.with_suffix("") if path.suffix.lower() == _PACKED else path).suffix.lower()


def is_packed(path: Path) -> bool:
    """Whether a bag file is compressed as a whole."""
    return path.suffix.lower() == _PACKED


def is_bag(path: Path) -> bool:
    """Whether a path is a bag: a bag file, or a folder with metadata.yaml or with only the files of one recording.

    A killed recorder writes no metadata.yaml, but numbered files. A folder of photographs that also contains a
    recording is not a bag.
    """
    if not path.is_dir():
        return is_bag_file(path)
    if (path / METADATA).is_file():
        return True
    files = files_in(path)
    names = [entry.name for entry in path.iterdir() if not entry.name.startswith(".")]
    alone = all(any(name.startswith(file.name) for file in files) for name in names)  # run_0.db3-wal, run_0.db3-journal
    return alone and len({_recording(file) for file in files}) == 1


def files_in(folder: Path) -> list[Path]:
    """The bag files in a folder, in the order of their numbers."""
    found = [path for path in folder.iterdir() if path.is_file() and is_bag_file(path) and path.name[0] != "."]
    return sorted(found, key=lambda path: [(len(part), part) for part in re.split(r"(\d+)", path.name)])


def _recording(file: Path) -> str:
    """The common name of a recording's files: run for run_0.mcap and run_10.mcap."""
    name = file.name.partition(storage_suffix(file))[0]
    return re.sub(r"_\d+$", "", name)
