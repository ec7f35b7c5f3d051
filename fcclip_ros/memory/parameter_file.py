"""config/object_memory.yaml, made from the declared parameters: `python -m fcclip_ros.memory.parameter_file`."""

from __future__ import annotations

from fcclip_core.files.resources import config_path
from fcclip_ros.memory.parameters import PARAMETERS
from fcclip_ros.node.parameter_file import file_of


def parameter_file() -> str:
    """The YAML file of the node `object_memory`."""
    return file_of(PARAMETERS, "object_memory", "memory_params_file", "fcclip_ros.memory.parameter_file")


def main() -> None:
    """Writes the file in the checkout."""
    (config_path() / "object_memory.yaml").write_text(parameter_file())


if __name__ == "__main__":
    main()
