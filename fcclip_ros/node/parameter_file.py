"""A node's parameter file, made from its declarations; config/perception.yaml by `python -m` with this module."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

import yaml

from fcclip_core.files.resources import config_path
from fcclip_core.settings import listed, spanned
from fcclip_ros.declarations import Declaration
from fcclip_ros.node.parameters import PARAMETERS

_HEAD = """\
# Every parameter of the node {node}, with its default. Change a copy, start with {argument}:=FILE.
# "Live": may change while the node works (ros2 param set). Made by `python -m {module}`.
/**:
  ros__parameters:
"""


def parameter_file() -> str:
    """The YAML file of the perception node."""
    return file_of(PARAMETERS, "fcclip", "params_file", "fcclip_ros.node.parameter_file")


def file_of(declarations: Iterable[Declaration], node: str, argument: str, module: str) -> str:
    """A YAML file: each parameter with its help, its range and its default.

    Args:
        declarations: The parameters.
        node: Name of the node.
        argument: Argument of the launch file that takes such a file.
        module: The module that writes the file in the checkout.
    """
    return _HEAD.format(node=node, argument=argument, module=module) + "\n".join(map(_entry, declarations))


def _entry(parameter: Declaration) -> str:
    comment = textwrap.fill(about(parameter), 120, initial_indent="    # ", subsequent_indent="    # ")
    value = yaml.safe_dump(parameter.default, default_flow_style=True).removesuffix("...\n").strip()
    return f"{comment}\n    {parameter.name}: {value}\n"


def about(parameter: Declaration) -> str:
    """A parameter's help with its choices or its range, and whether it is live."""
    choices = f" One of: {listed(parameter.choices)}." if parameter.choices else ""
    span = f" {spanned(parameter.limits)}." if parameter.limits else ""
    return f"{parameter.description}{choices}{span}{' Live.' if parameter.live else ''}"


def main() -> None:
    """Writes the file in the checkout."""
    config_path("perception.yaml").write_text(parameter_file())


if __name__ == "__main__":
    main()
