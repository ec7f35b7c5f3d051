"""Finds the files that are installed beside the code: vocabularies, parameters, transport profiles."""

from __future__ import annotations

from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[2]


def config_path(*parts: str) -> Path:
    """Returns the path of a file or folder in config/, wherever this package was installed.

    A source checkout (also one linked by `pip install -e` or `colcon build --symlink-install`) has config/ beside the
    package. An install by pip or colcon has it in PREFIX/share/fcclip_ros/config, the package being somewhere below
    PREFIX; how deep differs between systems.

    Args:
        parts: Path below config/, for example `"vocabularies", "indoor_robot.yaml"`. The file need not exist.

    Raises:
        FileNotFoundError: If the installation has no config folder.
    """
    for folder in _candidates():
        if folder.is_dir():
            return folder.joinpath(*parts)
    raise FileNotFoundError(
        f"no share/fcclip_ros/config above {Path(__file__).parent}: the installation of fcclip_ros is incomplete; "
        "install it again, with `make setup` from a checkout or with `colcon build`"
    )


def _candidates() -> list[Path]:
    installed = [prefix / "share" / "fcclip_ros" / "config" for prefix in Path(__file__).absolute().parents]
    return [_CHECKOUT / "config", *installed] if (_CHECKOUT / "package.xml").is_file() else installed
