"""config/nav2_semantic_costmap.yaml: its topics are ours, its words those it tells to start with."""

from __future__ import annotations

import re

import yaml

from fcclip_core.files.resources import config_path
from fcclip_core.vocabulary.classes import Vocabulary

TEXT = config_path("nav2_semantic_costmap.yaml").read_text()
PARAMETERS = yaml.safe_load(TEXT)
LAYER = PARAMETERS["local_costmap"]["local_costmap"]["ros__parameters"]["semantic_layer"]


def test_every_word_has_a_cost_and_every_cost_a_word() -> None:
    words = yaml.safe_load(re.search(r'vocabulary:="(\[.*\])"', TEXT).group(1))
    source = LAYER[LAYER["observation_sources"]]
    costs = [name for kind in source["class_types"] for name in source[kind]["classes"]]
    assert sorted(costs) == sorted(Vocabulary.from_names(words).names)
    for kind in source["class_types"]:
        assert 0 <= source[kind]["base_cost"] <= source[kind]["max_cost"] <= 254


def test_the_topics_are_the_nodes() -> None:
    source = LAYER[LAYER["observation_sources"]]
    topics = {key: value for key, value in source.items() if key.endswith("_topic")}
    assert topics == {
        "segmentation_topic": "/fcclip/semantic",
        "confidence_topic": "/fcclip/confidence",
        "labels_topic": "/fcclip/label_info",
        "pointcloud_topic": "/fcclip/points",
    }


def test_a_small_obstacle_is_not_hidden_by_a_sure_floor() -> None:
    """By confidence, half of the tiles that things share with the floor got the floor's cost."""
    assert LAYER[LAYER["observation_sources"]]["use_cost_selection"] is True


def test_the_highest_cost_is_reached_on_a_slow_machine() -> None:
    source = LAYER[LAYER["observation_sources"]]
    labeled_frames_a_second = 1.0
    most = labeled_frames_a_second * source["tile_map_decay_time"]
    assert all(source[kind]["samples_to_max_cost"] <= most for kind in source["class_types"])


def test_what_the_layer_does_not_see_is_left_to_another_layer() -> None:
    plugins = PARAMETERS["local_costmap"]["local_costmap"]["ros__parameters"]["plugins"]
    assert {"voxel_layer", "semantic_layer"} <= set(plugins)
    assert LAYER["combination_method"] == 1


def test_the_nodes_lifecycle_manager_waits_for_no_bond() -> None:
    manager = PARAMETERS["lifecycle_manager_perception"]["ros__parameters"]
    assert manager["node_names"] == ["fcclip"]
    assert manager["bond_timeout"] == 0.0
