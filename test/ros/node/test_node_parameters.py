"""Parameters: defaults, ranges, choices, what may change when, and the vocabulary in all its forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_harness import Peer

from fcclip_core.errors import FcclipError, SettingsError, VocabularyError
from fcclip_core.settings import InferenceSettings
from fcclip_ros.declarations import declare, unknown_parameters
from fcclip_ros.node.parameters import PARAMETERS, NodeParameters, check_change

DEFAULTS: dict[str, Any] = {parameter.name: parameter.default for parameter in PARAMETERS} | {"valid_mask_only": "auto"}


def parameters(**changes: Any) -> NodeParameters:
    return NodeParameters.from_values({**DEFAULTS, **changes})


def test_defaults_are_the_published_settings_at_the_models_own_size() -> None:
    assert parameters().settings == InferenceSettings(shorter_side=0)


def test_the_cameras_size_is_read_or_refused() -> None:
    assert parameters().camera_size is None
    assert parameters(camera_size="640x480").camera_size == (640, 480)
    with pytest.raises(SettingsError, match="WIDTHxHEIGHT"):
        parameters(camera_size="640")


def test_every_inference_setting_is_a_parameter_with_its_own_type() -> None:
    by_name = {parameter.name: parameter for parameter in PARAMETERS}
    for name in InferenceSettings.names():
        assert by_name[name].live, name
        if name != "valid_mask_only":
            assert type(by_name[name].default) is type(getattr(InferenceSettings(), name)), name


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda parameter: parameter.name)
def test_every_parameter_is_described_and_every_number_has_a_range(parameter: Any) -> None:
    descriptor = parameter.descriptor()
    assert descriptor.description.endswith(".")
    if isinstance(parameter.default, float):
        (limits,) = descriptor.floating_point_range
        assert limits.from_value <= parameter.default <= limits.to_value
    elif isinstance(parameter.default, int) and not isinstance(parameter.default, bool) and not parameter.choices:
        (limits,) = descriptor.integer_range
        assert limits.from_value <= parameter.default <= limits.to_value
    if parameter.choices:
        assert all(str(choice) in descriptor.additional_constraints for choice in parameter.choices)


def test_declared_ranges_are_no_narrower_than_the_settings_own() -> None:
    for parameter in PARAMETERS:
        if parameter.name in InferenceSettings.names() and parameter.limits is not None:
            for limit in parameter.limits:
                value = type(parameter.default)(limit)
                partner = {"shorter_side": {"max_size": 8192}, "max_size": {"shorter_side": 32}}
                parameters(**{parameter.name: value}, **partner.get(parameter.name, {}))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"image_transport": "theora"}, "image_transport is 'theora'; it must be one of raw, compressed"),
        ({"image_reliability": "maybe"}, "it must be one of auto, reliable, best_effort"),
        ({"ensemble": "harmonic"}, "ensemble is 'harmonic'"),
        ({"valid_mask_only": "perhaps"}, "valid_mask_only is 'perhaps'; it must be one of auto, true, false"),
        ({"vanished_masks": "nearest"}, "vanished_masks is 'nearest'; it must be one of published, best_cell"),
        ({"shorter_side": 1500}, "max_size is 1333; it must be between shorter_side"),
        ({"vocabulary": 5}, "vocabulary is 5; it must be a text or a list of texts"),
        ({"stuff": [1.5]}, "stuff is .1.5.; it must be"),
    ],
)
def test_wrong_values_are_named_with_what_was_expected(changes: dict, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        parameters(**changes)


@pytest.mark.parametrize(("given", "meant"), [("auto", None), ("true", True), (True, True), (False, False)])
def test_valid_mask_only_may_be_written_as_yaml_writes_it(given: object, meant: bool | None) -> None:
    assert parameters(valid_mask_only=given).settings.valid_mask_only is meant


@pytest.mark.parametrize(
    ("lifecycle", "name", "value", "allowed"),
    [
        ("active", "alpha", 0.1, True),
        ("active", "publish_overlay_rate", 1.0, True),
        ("active", "max_image_pixels", 100_000_000, True),
        ("inactive", "vocabulary", ["cup"], True),
        ("active", "checkpoint", "other", False),
        ("inactive", "device", "cuda", False),
        ("active", "vanished_masks", "best_cell", False),
        ("unconfigured", "checkpoint", "other", True),
        ("active", "checkpoint", "auto", True),  # No change.
        ("configuring", "alpha", 0.1, False),
        ("configuring", "use_sim_time", True, True),
        ("active", "use_sim_time", True, True),
    ],
)
def test_what_may_change_when(lifecycle: str, name: str, value: object, allowed: bool) -> None:
    if allowed:
        changed = check_change(DEFAULTS, {name: value}, lifecycle)
        assert name != "alpha" or changed.settings.alpha == 0.1
    else:
        with pytest.raises(SettingsError, match="cannot change while the node is configured|being configured"):
            check_change(DEFAULTS, {name: value}, lifecycle)


def test_changes_are_checked_together_with_what_stays() -> None:
    with pytest.raises(SettingsError, match="max_size"):
        check_change({**DEFAULTS, "shorter_side": 800}, {"max_size": 700}, "active")
    both = check_change(DEFAULTS, {"max_size": 700, "shorter_side": 600}, "active")
    assert (both.settings.shorter_side, both.settings.max_size) == (600, 700)


def test_a_list_of_names_with_synonyms_and_stuff() -> None:
    given = parameters(vocabulary=["pallet, wooden pallet", "floor", " "], stuff=["floor", "elsewhere"])
    vocabulary = given.load_words().with_stuff(given.stuff)
    assert vocabulary.names == ("pallet", "floor")
    assert vocabulary.classes[0].synonyms == ("pallet", "wooden pallet")
    assert vocabulary.things == (True, False)


def test_one_text_with_semicolons_is_a_list_too() -> None:
    assert parameters(vocabulary="cup, mug; floor").load_words().names == ("cup", "floor")
    assert parameters(vocabulary="cup").load_words().names == ("cup",)


@pytest.mark.parametrize("form", [str, lambda text: [text]])
def test_bundled_names_and_files(form: Any, tmp_path: Path) -> None:
    assert len(parameters(vocabulary=form("pascal_voc_20")).load_words()) == 20
    path = tmp_path / "words.yaml"
    path.write_text("classes:\n- {name: cup}\n- {name: floor, stuff: true}\n")
    assert parameters(vocabulary=form(str(path))).load_words().things == (True, False)


@pytest.mark.parametrize(
    ("vocabulary", "complaint"),
    [
        ("", "vocabulary is empty"),
        ([""], "vocabulary is empty"),
        ([], "vocabulary is empty"),
        ("indoor_robt", "there is no vocabulary 'indoor_robt'"),
        ("/nowhere/words.yaml", "cannot read vocabulary /nowhere/words.yaml"),
        ("missing.txt", "cannot read vocabulary missing.txt"),
        (["cup", "cup"], "both have the name 'cup'"),
        (["cup", "x" * 10_000], "has 10000 characters"),
    ],
)
def test_vocabularies_that_cannot_be(vocabulary: object, complaint: str) -> None:
    with pytest.raises(VocabularyError, match=complaint):
        parameters(vocabulary=vocabulary).load_words()


def test_names_in_any_script_are_fine() -> None:
    assert parameters(vocabulary=["стол", "椅子", "كرسي"]).load_words().names == ("стол", "椅子", "كرسي")


def test_unknown_parameters_are_named_with_what_was_perhaps_meant() -> None:
    known = {"alpha", "use_sim_time"}.__contains__
    complaints = unknown_parameters(
        ["alpha", "shorter_sid", "xyz", "use_sim_time", "qos_overrides./image.depth"], known, PARAMETERS
    )
    assert complaints == [
        "there is no parameter shorter_sid, its value is ignored; did you mean shorter_side?",
        "there is no parameter xyz, its value is ignored",
    ]


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("alpha", 2.0, InvalidParameterValueException),
        ("alpha", 1, InvalidParameterTypeException),
        ("shorter_side", -1, InvalidParameterValueException),
        ("checkpoint", 5, InvalidParameterTypeException),
    ],
)
def test_a_wrong_value_given_at_start_is_refused_by_name(name: str, value: object, error: type[Exception]) -> None:
    def make_node(**options: Any) -> Node:
        return Node("declares", parameter_overrides=[Parameter(name, value=value)], **options)

    peer = Peer(make_node)
    try:
        with pytest.raises(error, match=name):
            declare(peer.node, PARAMETERS)
    finally:
        peer.close()


def test_errors_are_the_package_s_own() -> None:
    assert issubclass(SettingsError, FcclipError) and issubclass(VocabularyError, FcclipError)
