"""config/perception.yaml is the reference that users copy: it must say what the node would do without it."""

from __future__ import annotations

import yaml

from fcclip_core.files.resources import config_path
from fcclip_ros.node.parameters import PARAMETERS


def test_lists_every_parameter_with_its_default() -> None:
    content = yaml.safe_load(config_path("perception.yaml").read_text())
    assert content == {"/**": {"ros__parameters": {parameter.name: parameter.default for parameter in PARAMETERS}}}


def test_says_which_parameters_may_change_while_the_node_works() -> None:
    blocks, comment = {}, []
    for line in map(str.strip, config_path("perception.yaml").read_text().splitlines()[4:]):
        if line.startswith("#"):
            comment = [*comment, line] if comment and comment[-1].startswith("#") else [line]
        elif line:
            blocks[line.split(":")[0]] = " ".join(comment)
            comment = [*comment, ""]
    assert {name: "Live." in text for name, text in blocks.items()} == {item.name: item.live for item in PARAMETERS}
