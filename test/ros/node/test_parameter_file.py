"""Each setting is written down once: command line, descriptors, config/perception.yaml and docs say the same."""

from __future__ import annotations

import argparse

import pytest
import yaml

from fcclip_core.commands.inference_arguments import add_model_arguments, add_vocabulary_arguments
from fcclip_core.files.resources import config_path
from fcclip_core.settings import InferenceSettings, ModelSettings, WordSettings, settings_of
from fcclip_ros.node.parameter_file import parameter_file
from fcclip_ros.node.parameters import PARAMETERS

PARSER = argparse.ArgumentParser()
add_model_arguments(PARSER)
add_vocabulary_arguments(PARSER)
OPTIONS = {action.dest: action for action in PARSER._actions}
SETTINGS = {
    name: one for kind in (ModelSettings, WordSettings, InferenceSettings) for name, one in settings_of(kind).items()
}
BY_NAME = {parameter.name: parameter for parameter in PARAMETERS}


def test_lists_every_parameter_with_its_default() -> None:
    content = yaml.safe_load(config_path("perception.yaml").read_text())
    assert content == {"/**": {"ros__parameters": {parameter.name: parameter.default for parameter in PARAMETERS}}}


def test_the_file_is_what_the_declarations_make() -> None:
    assert config_path("perception.yaml").read_text() == parameter_file(), (
        "run python -m fcclip_ros.node.parameter_file after a parameter has changed"
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_command_line_and_descriptor_say_of_a_setting_what_its_field_says(name: str) -> None:
    item, about = SETTINGS[name]
    option, parameter = OPTIONS["vocab" if name == "vocabulary" else name], BY_NAME[name]
    assert about.help in option.help and about.help in parameter.descriptor().description
    if about.choices:
        assert tuple(option.choices) == parameter.choices == about.choices
    if about.span:
        assert parameter.limits == about.span and f"{about.span[0]:g} to {about.span[1]:g}" in option.help
    if name == "shorter_side":
        assert (option.default, parameter.default) == (None, 0), "the model's own size"
    elif item.default is None:
        assert (option.default, parameter.default) == (None, "auto")
    elif name in InferenceSettings.names():
        assert option.default is None and f"(default: {item.default})" in option.help
        assert parameter.default == item.default
    elif name not in ("vocabulary", "stuff"):
        assert option.default == parameter.default == item.default
