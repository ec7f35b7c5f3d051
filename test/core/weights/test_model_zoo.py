"""The table of published models."""

from __future__ import annotations

import re

import pytest

from fcclip_core.model.config import PRESETS
from fcclip_core.weights.model_zoo import (
    FC_CLIP,
    FURTHER_SCORES,
    MAIN_PRESET,
    PUBLISHED_MODELS,
    PublishedModel,
    bundled_checkpoints,
    model_named,
    published_as,
    published_from,
)

BY_PRESET = {model.preset: model for model in FC_CLIP}


def numbers(model: PublishedModel) -> list[float]:
    """In the order of the columns of the authors' README."""
    a, c, m, coco = model.ade20k, model.cityscapes, model.mapillary, model.coco
    others = (model.ade20k_full, model.pascal_context_59, model.pascal_context_459)
    voc = (model.pascal_voc_21, model.pascal_voc_20)
    row = [a.pq, a.ap, a.miou, c.pq, c.ap, c.miou, m.pq, m.miou]
    return [*row, *(scores.miou for scores in (*others, *voc)), coco.pq, coco.ap, coco.miou]


@pytest.mark.parametrize(
    ("preset", "row"),
    # Copied column by column from the rendered table of the authors' README.
    [
        ("rn50", "17.9 9.5 23.3 40.3 21.6 53.2 15.9 24.4 7.1 50.5 12.9 75.9 89.5 50.7 40.7 58.8"),
        ("rn101", "19.1 10.2 24.0 40.9 24.1 53.9 16.7 23.2 7.7 48.9 12.3 77.6 91.3 51.4 41.6 58.9"),
        ("rn50x4", "21.8 11.7 26.8 42.2 23.8 54.6 17.4 24.6 8.7 54.0 13.1 79.0 92.9 52.1 42.8 60.4"),
        ("rn50x16", "22.5 13.6 29.4 42.0 25.6 56.0 17.8 26.1 10.3 56.4 15.7 80.7 94.5 54.4 45.0 63.3"),
        ("rn50x64", "22.8 13.6 28.4 42.7 27.4 55.1 18.2 27.3 10.8 55.7 16.2 80.3 95.1 55.6 46.4 65.3"),
        ("convnext_large", "26.8 16.8 34.1 44.0 26.8 56.2 18.3 27.8 14.8 58.4 18.2 81.8 95.4 54.4 44.6 63.7"),
    ],
)
def test_numbers_are_the_authors(preset: str, row: str) -> None:
    assert numbers(BY_PRESET[preset]) == [float(number) for number in row.split()]


def test_further_numbers_are_of_the_datasets_of_the_table() -> None:
    """SQ and RQ only where there is a PQ, which is below both: a class's PQ is their product. Grounding is easier."""
    model = BY_PRESET[MAIN_PRESET]
    assert len(FURTHER_SCORES) == 9
    for dataset, further in FURTHER_SCORES.items():
        scores = getattr(model, dataset)
        assert (scores.pq is None) == (further.sq is None) == (further.rq is None), dataset
        assert scores.pq is None or scores.pq < further.rq < further.sq < 100, dataset
        assert further.grounding_pq is None or scores.pq < further.grounding_pq, dataset
        assert further.grounding_miou is None or scores.miou < further.grounding_miou, dataset


def test_every_preset_with_open_clips_clip_is_listed_but_those_that_nobody_published() -> None:
    published = {config.name for config in PRESETS.values() if config.open_clip_name}
    unpublished = {"convnext_base", "convnext_large_kmax", "convnext_large_kmax_deformable"}
    assert {model.preset for model in PUBLISHED_MODELS} == published - unpublished


def test_ovrcoat_is_the_best_on_ade20k_and_what_is_not_computed_here_in_full_comes_last() -> None:
    assert max(PUBLISHED_MODELS, key=lambda model: model.ade20k.pq or 0).key == "ovrcoat"
    assert [model.key for model in PUBLISHED_MODELS if not model.is_complete] == [
        "maftp_l_pano",
        "maftp_l",
        "maftp_b",
    ]
    assert all(model.note for model in PUBLISHED_MODELS if not model.is_complete)


@pytest.mark.parametrize(
    ("key", "row"),
    # A-847, A-150, PC-459, PC-59, PAS-20: the columns of MAFT+'s README.
    [("maftp_b", "13.8 34.6 16.2 57.5 95.4"), ("maftp_l", "15.1 36.1 21.6 59.4 96.5")],
)
def test_numbers_of_maft_plus_are_its_authors(key: str, row: str) -> None:
    model = model_named(key)
    assert model is not None
    scores = (model.ade20k_full, model.ade20k, model.pascal_context_459, model.pascal_context_59, model.pascal_voc_20)
    assert [item.miou for item in scores] == [float(number) for number in row.split()]


def test_weights_are_known_by_their_origin_and_else_taken_for_fc_clips() -> None:
    for model in PUBLISHED_MODELS:
        assert published_from(["elsewhere", model.url], model.preset) == model
    assert published_from([], "convnext_large") == BY_PRESET["convnext_large"]
    assert published_from([BY_PRESET["rn50"].url], "rn101") == BY_PRESET["rn101"]
    assert published_from([], "maft_plus_large") is None


def test_keys_are_names_that_are_no_paths() -> None:
    keys = [model.key for model in PUBLISHED_MODELS]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"[a-z0-9_]+", key) for key in keys)
    assert not set(keys) & set(bundled_checkpoints())


def test_files_are_different_and_lie_where_the_authors_put_them() -> None:
    urls = {model.url for model in PUBLISHED_MODELS}
    assert len(urls) == len(PUBLISHED_MODELS)
    assert all(url.startswith("https://drive.google.com/file/d/") for url in urls)


def test_a_known_file_name_tells_its_model() -> None:
    known = published_as("fcclip_cocopan_r50.pth")
    assert known is not None
    assert known.preset == "rn50"
    assert published_as("mine.pth") is None


def test_clip_names_are_open_clips_own() -> None:
    from open_clip import is_pretrained_cfg

    for config in PRESETS.values():
        if config.open_clip_name:
            assert is_pretrained_cfg(config.open_clip_name, config.open_clip_tag), config.name
