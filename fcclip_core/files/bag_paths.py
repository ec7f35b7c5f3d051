"""Which paths are ROS 2 bags, told without opening any file of them."""

from __future__ import annotations

import re
from pathlib import Path

METADATA = "metadata.yaml"
BAG_SUFFIXES = frozenset({".mcap", ".db3"})

_PACKED = ".zstd"
"""Ending of a file that was compressed as a whole."""


def is_bag_file(path: Path) -> bool:
    """Whether a path is named as the file of a bag is: run_0.mcap, run_0.db3, run_0.mcap.zstd."""
    return storage_suffix(path) in BAG_SUFFIXES


def storage_suffix(path: Path) -> str:
    """The ending that says how a bag's file is written, without the one for compression: .mcap, .db3, or another."""
    return (path.with_suffix("") if path.suffix.lower() == _PACKED else path).suffix.lower()


def is_packed(path: Path) -> bool:
    """Whether a bag's file is compressed as a whole."""
    return path.suffix.lower() == _PACKED


def is_bag(path: Path) -> bool:
    """Whether a path is a bag: one of its files, or a folder with metadata.yaml or the files of one recording alone.

    A recorder that was killed writes no metadata.yaml; its files are numbered all the same, and a folder of photographs
    with a recording among them is no bag.
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
    """The bag files in a folder, in the order in which a recorder numbers them."""
    found = [path for path in folder.iterdir() if path.is_file() and is_bag_file(path) and path.name[0] != "."]
    return sorted(found, key=lambda path: [(len(part), part) for part in re.split(r"(\d+)", path.name)])


def _recording(file: Path) -> str:
    """What the files of one recording have in common: run of run_0.mcap and run_10.mcap."""
    name = file.name.partition(storage_suffix(file))[0]
    return re.sub(r"_\d+$", "", name)
