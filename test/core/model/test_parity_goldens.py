"""Our model against numbers made by the authors' code, stage by stage and result by result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fcclip_core import Segmenter, Vocabulary
from oracle.goldens import (
    CASES,
    Case,
    check_counts,
    check_instances,
    check_label_map,
    check_stage,
    spec,
    split_synonyms,
)
from oracle.observe import OneImageBackend, class_indices, observe, vocabulary_of

FAST = ["tiny_cat_96", "tiny_cat_96_realtext", "rn50_cat_128", "convnext_l_coffee_256", "convnext_l_cat_256"]
SLOW = ["convnext_l_coffee_256_realtext", "convnext_l_coffee_800"]
# Never computed by our model, or not under this name.
NOT_OURS = ("cls.ensemble_probs", "cls.out_pooled", "cls.out_mask_area", "feat.clip_vis_dense", "post.sem_seg")


@dataclass(frozen=True)
class Run:
    case: Case
    segmenter: Segmenter
    stages: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def segmenters() -> dict[str, Segmenter]:
    return {}


@pytest.fixture(scope="module", params=[*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)], ids=str)
def run(request: pytest.FixtureRequest, segmenters: dict[str, Segmenter]) -> Run:
    case = CASES[request.param]
    if case.preset not in segmenters:
        segmenters.clear()
        segmenters[case.preset] = Segmenter.from_checkpoint(f"recipe:{case.preset}", device="cpu", backend="eager")
        segmenters[case.preset]._backend = OneImageBackend(segmenters[case.preset])
    segmenter = segmenters[case.preset]
    segmenter.settings = case.settings
    segmenter.set_vocabulary(spec_vocabulary(case), text_embeddings=case.words.rows)
    return Run(case, segmenter, observe(segmenter, case.pixels))


def spec_vocabulary(case: Case) -> Vocabulary:
    return vocabulary_of(case.words, [split_synonyms(text) for text in spec()["vocabulary"]["stuff_classes"]])


def test_every_stage_matches(run: Run) -> None:
    case, compared = run.case, 0
    for stage in case.arrays:
        if stage.startswith(("feat", "pix", "dec", "cls", "input", "post.mask_pred")) and stage not in NOT_OURS:
            if stage.endswith(".blocked"):
                continue
            ours = run.stages[stage]
            if stage == "cls.out_logits":
                # The reference carries a void column along and throws it away.
                void = torch.from_numpy(case.arrays[stage][..., -1:])
                ours = torch.cat((ours, void), dim=-1)
            check_stage(case, stage, ours)
            compared += 1
    assert compared > 40


def test_attention_masks_match(run: Run) -> None:
    for index in range(run.case.config.mask_decoder.layers):
        allowed = run.stages[f"dec.head.{index}.allowed"][0]
        stage = f"dec.head.{index}.blocked"
        # A query whose mask is empty looks everywhere; the golden counts before that rule.
        empty = torch.from_numpy(run.case.arrays[stage]) == allowed.shape[1]
        assert bool(allowed[empty].all())
        check_counts(run.case, stage, torch.where(empty, allowed.shape[1], (~allowed).sum(-1)))


def test_class_probabilities_match(run: Run) -> None:
    golden = torch.softmax(torch.from_numpy(run.case.arrays["post.mask_cls"]), -1).numpy()
    difference = np.abs(run.stages["class_probs"].numpy() - golden)
    assert difference.mean() <= (1e-6 if run.case.is_tiny else 2e-4)
    assert np.quantile(difference, 0.99) <= (1e-5 if run.case.is_tiny else 2e-3)


@pytest.mark.parametrize("pair", range(3))
def test_panoptic_map_and_segments_match(run: Run, pair: int) -> None:
    case, segmenter, golden = run.case, run.segmenter, run.case.info["panoptic"][pair]
    segmenter.settings = replace(
        case.settings,
        object_mask_threshold=golden["object_mask_threshold"],
        overlap_threshold=golden["overlap_threshold"],
    )
    result = segmenter(case.pixels)
    categories = class_indices(segmenter, np.array([s.class_id for s in result.segments], np.int64))
    found = [
        {"id": s.id, "isthing": s.is_thing, "category_id": int(category)}
        for s, category in zip(result.segments, categories, strict=True)
    ]
    assert found == golden["segments_info"]
    assert result.segment_map.dtype == np.int32
    check_label_map(f"{case.name} panoptic {pair}", result.segment_map, case.arrays[f"post.panoptic.{pair}"])


def test_semantic_map_matches(run: Run) -> None:
    run.segmenter.settings = run.case.settings
    classes = class_indices(run.segmenter, run.segmenter(run.case.pixels).semantic_map())
    check_label_map(f"{run.case.name} semantic", classes, run.case.arrays["post.sem_argmax"])


def test_instances_match(run: Run) -> None:
    run.segmenter.settings = run.case.settings
    instances = run.segmenter(run.case.pixels).instances()
    assert list(instances.scores) == sorted(instances.scores, reverse=True)
    categories = class_indices(run.segmenter, instances.class_ids)
    check_instances(run.case, instances.scores, categories, instances.masks.sum((1, 2)))


@pytest.mark.parametrize(
    "name", ["tiny_cat_96_realtext", pytest.param("convnext_l_coffee_256_realtext", marks=pytest.mark.slow)]
)
def test_words_through_the_text_tower_match(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    segmenter = Segmenter.from_checkpoint(
        f"recipe:{case.preset}", device="cpu", backend="eager", settings=case.settings, cache_dir=tmp_path
    )
    segmenter.set_vocabulary(spec_vocabulary(case))
    result = segmenter(case.pixels)
    categories = class_indices(segmenter, np.array([s.class_id for s in result.segments], np.int64))
    assert categories.tolist() == [s["category_id"] for s in case.info["panoptic"][0]["segments_info"]]
    check_label_map(f"{name} panoptic", result.segment_map, case.arrays["post.panoptic.0"])
    check_label_map(f"{name} semantic", class_indices(segmenter, result.semantic_map()), case.arrays["post.sem_argmax"])
