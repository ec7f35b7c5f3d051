"""The bundled checkpoint `demo` on freshly rendered scenes: it must see, seen words and unseen ones alike."""

from __future__ import annotations

import numpy as np
import pytest
from gl_here import needs_gl

from fcclip_core import Segmenter, Vocabulary
from fcclip_core.datasets.world import WorldScenes
from fcclip_core.evaluation.averages import class_groups
from fcclip_core.evaluation.overlaps import segment_overlaps
from fcclip_core.evaluation.panoptic import PanopticQuality
from fcclip_core.evaluation.recall import MaskRecall
from fcclip_core.simulation.dataset import WorldPlan
from fcclip_core.simulation.names import train_vocabulary, world_vocabulary
from fcclip_core.weights.checkpoints import load_checkpoint
from fcclip_core.weights.model_zoo import bundled_checkpoints

SCENES = WorldPlan(scenes=60, seed=1234, views=1)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return Segmenter.from_checkpoint("demo", device="cpu", cache_dir=tmp_path_factory.mktemp("cache"))


def test_it_is_small_and_says_where_it_comes_from() -> None:
    assert bundled_checkpoints()["demo"].stat().st_size < 25e6
    checkpoint = load_checkpoint("demo")
    assert checkpoint.train_vocabulary.names == train_vocabulary().names
    assert not checkpoint.provenance.seeded
    assert checkpoint.provenance.license == "Apache-2.0"
    assert "steps on world" in checkpoint.provenance.note


@needs_gl
def test_quality_on_scenes_that_nobody_trained_on(segmenter: Segmenter) -> None:
    words = world_vocabulary()
    snapshot = segmenter.set_vocabulary(words)
    index_of = {class_id: index for index, class_id in enumerate(snapshot.class_ids)}
    quality, recall = PanopticQuality(len(words)), MaskRecall(len(words))
    dataset = WorldScenes(SCENES)
    for number in range(len(dataset)):
        truth = dataset[number]
        result = segmenter(truth.image)
        quality.update(truth, result.segment_map, [index_of[segment.class_id] for segment in result.segments])
        recall.update(truth, segment_overlaps(truth, result.segment_map, len(result.segments)))
    groups = class_groups(words.things, snapshot.seen)
    scores = quality.scores(groups) | recall.scores("recall", groups)
    said = {name: round(value, 3) for name, value in scores.items() if value is not None}
    assert scores["pq.seen"] >= 50, said
    assert scores["pq.unseen"] >= 35, said


@needs_gl
def test_a_few_words_are_enough(segmenter: Segmenter) -> None:
    """With three words alone, stuff is found where it is; what nobody asked for does not become a thing."""
    dataset = WorldScenes(WorldPlan(scenes=12, seed=77, views=1))
    names = world_vocabulary().names
    floors = ("wooden floor", "tiled floor", "carpet", "grass", "sand", "road", "table")
    vocabulary = Vocabulary.from_names(
        [", ".join(("ground", *floors)), "sky", "ceiling"], stuff=["ground", "sky", "ceiling"]
    )
    snapshot = segmenter.prepare_vocabulary(vocabulary)
    ground = snapshot.class_ids[0]
    hits = []
    for number in range(len(dataset)):
        truth = dataset[number]
        is_ground = np.isin(truth.class_map(), [names.index(name) for name in floors])
        if is_ground.mean() > 0.1:
            called = segmenter(truth.image, snapshot).class_map() == ground
            hits.append(called[is_ground].mean())
    assert len(hits) > 4
    assert np.mean(hits) > 0.7, hits
