"""Finds installed data files: vocabularies, parameters, transport profiles; and the version of what is installed."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[2]


def config_path(*parts: str) -> Path:
    """Returns the path of a file or folder in config/, in any kind of installation.

    A source checkout (also linked by `pip install -e` or `colcon build --symlink-install`) has config/ next to the
    package. An installation by pip or colcon has it in PREFIX/share/fcclip_ros/config, with the package below PREFIX at
    a depth that depends on the system.

    Args:
        parts: Path below config/, for example `"vocabularies", "indoor_robot.yaml"`. The file need not exist.

    Raises:
        FileNotFoundError: The installation has no config folder.
    """
    for folder in _candidates():
        if folder.is_dir():
            return folder.joinpath(*parts)
    raise FileNotFoundError(
        f"no share/fcclip_ros/config above {Path(__file__).parent}: the installation of fcclip_ros is incomplete; "
        "install it again, with `make setup` from a checkout or with `colcon build`"
    )


def package_version() -> str:
    """The version of this package, such as "0.2.0"."""
    try:
        return version("fcclip")
    except PackageNotFoundError:  # built by colcon, which installs package.xml instead of Python metadata
        manifest = config_path().parent / "package.xml"
        return ElementTree.parse(manifest).findtext("version", "unknown")


def _candidates() -> list[Path]:
    installed = [prefix / "share" / "fcclip_ros" / "config" for prefix in Path(__file__).absolute().parents]
    return [_CHECKOUT / "config", *installed] if (_CHECKOUT / "package.xml").is_file() else installed
