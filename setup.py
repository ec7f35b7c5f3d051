"""Puts the files beside the code of an installed wheel where a ROS install has it; the rest is in pyproject.toml."""

from pathlib import Path

from setuptools import setup


def shared_files(folder: str) -> list[tuple[str, list[str]]]:
    """Pairs each directory below `folder`, as it lies in share/fcclip_ros, with the files in it."""
    directories = [Path(folder), *(path for path in Path(folder).rglob("*") if path.is_dir())]
    return [
        (f"share/fcclip_ros/{directory}", [str(path) for path in sorted(directory.iterdir()) if path.is_file()])
        for directory in directories
    ]


setup(data_files=[*shared_files("config"), *shared_files("launch"), *shared_files("demo/drive")])
