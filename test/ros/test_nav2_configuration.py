"""config/nav2_semantic_costmap.yaml: its topics are ours, its words those it tells to start with."""

from __future__ import annotations

import re

import yaml

from fcclip_core.resources import config_path
from fcclip_core.vocabulary import Vocabulary

TEXT = config_path("nav2_semantic_costmap.yaml").read_text()
LAYER = yaml.safe_load(TEXT)["local_costmap"]["local_costmap"]["ros__parameters"]["semantic_layer"]


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
