"""Parameters of the memory node: what they accept, and where they are written down."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from fcclip_core.errors import SettingsError
from fcclip_core.files.resources import config_path
from fcclip_core.memory.settings import MemorySettings
from fcclip_core.settings import settings_of
from fcclip_ros.memory.parameter_file import parameter_file
from fcclip_ros.memory.parameters import PARAMETERS, MemoryParameters, check_change

DEFAULTS = {declaration.name: declaration.default for declaration in PARAMETERS}


def test_the_file_is_what_the_declarations_make() -> None:
    text = config_path("object_memory.yaml").read_text()
    assert text == parameter_file(), "run python -m fcclip_ros.memory.parameter_file after a parameter has changed"
    assert yaml.safe_load(text) == {"/**": {"ros__parameters": DEFAULTS}}


def test_every_setting_of_the_memory_is_a_parameter_with_its_range() -> None:
    declared = {declaration.name: declaration for declaration in PARAMETERS}
    for name, (item, about) in settings_of(MemorySettings).items():
        assert (declared[name].default, declared[name].limits) == (item.default, about.span)


def test_the_defaults_are_the_cores() -> None:
    assert MemoryParameters.defaults().settings == MemorySettings()


@pytest.mark.parametrize("text", ["1 2 3 0 0 1.5707963", "1, 2, 3, 0, 0, 0.70710678, 0.70710678"])
def test_an_offset_may_have_angles_or_a_quaternion(text: str) -> None:
    parameters = MemoryParameters.from_values({**DEFAULTS, "camera_offset": text})
    expected = [[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]
    np.testing.assert_allclose(parameters.offset_of(0), expected, atol=1e-7)


def test_a_camera_that_looks_ahead_is_given_by_rolls_as_tf2_prints_them() -> None:
    parameters = MemoryParameters.from_values({**DEFAULTS, "camera_offset": "0 0 0.3 -1.5707963 0 -1.5707963"})
    np.testing.assert_allclose(parameters.offset_of(0) @ [0, 0, 2, 1], [2, 0, 0.3, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"camera_offset": "1 2 3"}, "camera_offset is '1 2 3'; expected"),
        ({"camera_offset": "1 2 3 a b c"}, 'expected "x y z roll pitch yaw"'),
        ({"camera_offset": "1 2 3 0 0 0 0"}, "expected"),
        ({"camera_offset": ["0 0 0 0 0 0"] * 2}, "camera_offset has 2 offsets for 1 cameras"),
        ({"map_frame": ""}, "map_frame is empty"),
        ({"map_frame": "/map"}, "tf2 allows no leading slash"),
        ({"pose_source": "gps"}, "pose_source is 'gps'; it must be one of auto, tf, topic"),
        ({"approach_near": 2.0}, "it must be less than approach_far"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, object], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        MemoryParameters.from_values({**DEFAULTS, **values})


def test_only_live_parameters_change_while_the_node_works() -> None:
    assert check_change(DEFAULTS, {"publish_rate": 5.0}, "active").publish_rate == 5.0
    with pytest.raises(SettingsError, match="file cannot change while the node is configured"):
        check_change(DEFAULTS, {"file": "other.db"}, "inactive")
    assert check_change(DEFAULTS, {"file": "other.db"}, "unconfigured").file == "other.db"
