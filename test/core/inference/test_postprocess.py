"""Merging by hand: small pictures whose segments, classes and instances can be worked out on paper."""

from __future__ import annotations

import resource

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fcclip_core.inference.mask_resize import MaskResizer, composed_resize
from fcclip_core.inference.postprocess import (
    InstanceMasks,
    PanopticSegments,
    instance_masks,
    panoptic_segments,
    semantic_classes,
)
from fcclip_core.inference.preprocess import FrameGeometry
from fcclip_core.settings import InferenceSettings

CPU = torch.device("cpu")
VOID = -1
THINGS = (True, True, False, False)


def same_size(height: int, width: int) -> MaskResizer:
    """A resizer that changes nothing."""
    size = (height, width)
    return MaskResizer(FrameGeometry(size, size, size), size, CPU)


def masks(*pictures: str, logit: float = 8.0) -> torch.Tensor:
    """One picture a query, rows separated by blanks: `#` inside, `.` outside, `+` barely inside, `-` barely outside."""
    levels = {"#": logit, ".": -logit, "+": 0.1, "-": -0.1}
    return torch.tensor([[[levels[pixel] for pixel in row] for row in picture.split()] for picture in pictures])


def scores(*queries: tuple[int, float], classes: int = len(THINGS)) -> torch.Tensor:
    """(class, probability) of each query; the rest is spread evenly. Class `VOID` is void."""
    table = torch.empty(len(queries), classes + 1)
    for row, (label, probability) in zip(table, queries, strict=True):
        row[:] = (1 - probability) / classes
        row[label] = probability
    return table


def merge(mask_logits: torch.Tensor, class_probs: torch.Tensor, **settings: float) -> PanopticSegments:
    resizer = same_size(*mask_logits.shape[1:])
    return panoptic_segments(
        mask_logits,
        class_probs,
        torch.tensor(THINGS),
        resizer,
        InferenceSettings(**settings),  # type: ignore[arg-type]
    )


def picture(segment_map: np.ndarray) -> str:
    """A segment map as text, rows separated by blanks, `.` for 0."""
    return " ".join("".join(str(pixel) if pixel else "." for pixel in row) for row in segment_map)


def test_two_things_side_by_side() -> None:
    merged = merge(masks("##.. ##..", "..## ..##"), scores((0, 0.9), (1, 0.8)))
    assert picture(merged.segment_map) == "1122 1122"
    assert merged.segment_map.dtype == np.int32
    assert merged.class_indices.tolist() == [0, 1]
    assert merged.queries.tolist() == [0, 1]
    np.testing.assert_allclose(merged.scores, [0.9, 0.8], rtol=1e-6)


def test_two_things_of_one_class_stay_apart() -> None:
    merged = merge(masks("##..", "..##"), scores((0, 0.9), (0, 0.9)))
    assert picture(merged.segment_map) == "1122"


def test_stuff_of_one_class_is_one_segment_that_keeps_its_best_query() -> None:
    merged = merge(masks("#...", ".#..", "..##"), scores((2, 0.7), (0, 0.9), (2, 0.8)))
    assert picture(merged.segment_map) == "1211"
    assert merged.class_indices.tolist() == [2, 0]
    assert merged.queries.tolist() == [2, 1]
    np.testing.assert_allclose(merged.scores, [0.8, 0.9], rtol=1e-6)


def test_stuff_of_two_classes_is_two_segments() -> None:
    merged = merge(masks("##..", "..##"), scores((2, 0.9), (3, 0.9)))
    assert picture(merged.segment_map) == "1122"


def test_ids_follow_query_order_not_scores() -> None:
    merged = merge(masks("#..", ".#.", "..#"), scores((0, 0.5), (1, 0.9), (0, 0.7)))
    assert picture(merged.segment_map) == "123"
    assert merged.queries.tolist() == [0, 1, 2]


def test_class_probability_decides_where_masks_overlap() -> None:
    merged = merge(masks("####", ".###"), scores((0, 0.6), (1, 0.9)), overlap_threshold=0.2)
    assert picture(merged.segment_map) == "1222"


def test_mask_probability_counts_as_much_as_class_probability() -> None:
    # At `+` the mask probability is 0.525: 0.9 * 0.525 < 0.6 * 0.9997.
    merged = merge(masks("####", "+###"), scores((0, 0.6), (1, 0.9)), overlap_threshold=0.2)
    assert picture(merged.segment_map) == "1222"


def test_a_covered_mask_is_rejected_and_its_pixels_stay_empty() -> None:
    # The first query owns 1 of its 4 pixels, 0.25 < 0.8; nobody else gets that pixel.
    merged = merge(masks("####", ".###"), scores((0, 0.6), (1, 0.9)))
    assert picture(merged.segment_map) == ".111"
    assert merged.class_indices.tolist() == [1]


def test_pixels_of_a_rejected_winner_do_not_go_to_the_runner_up() -> None:
    # Owners are 0 0 1 2 2: query 1 owns 1 of 3 and is rejected, though query 0 holds that pixel as well.
    merged = merge(masks("###..", "..###", "...##"), scores((0, 0.7), (1, 0.8), (0, 0.9)), overlap_threshold=0.5)
    assert picture(merged.segment_map) == "11.22"


def test_share_equal_to_the_threshold_is_accepted() -> None:
    merged = merge(masks("##..", ".###"), scores((0, 0.6), (1, 0.9)), overlap_threshold=0.5)
    assert picture(merged.segment_map) == "1222"


def test_score_equal_to_the_threshold_is_dropped() -> None:
    class_probs = scores((0, 0.5), (1, 0.75))
    merged = merge(masks("##..", "..##"), class_probs, object_mask_threshold=0.5)
    assert picture(merged.segment_map) == "..11"


def test_a_pixel_that_its_winner_does_not_hold_stays_empty() -> None:
    merged = merge(masks("##-.", ".##-"[::-1]), scores((0, 0.9), (VOID, 0.9)))
    assert picture(merged.segment_map) == "11.."


def test_owned_pixels_outside_the_mask_count_for_the_overlap() -> None:
    # Query 0 holds 3 pixels; query 1 takes two of them. It also wins the two pixels nobody holds: (1 + 2) / 3 = 1.
    merged = merge(masks("###--", ".##.."), scores((0, 0.6), (1, 0.9)))
    assert picture(merged.segment_map) == "122.."


def test_a_mask_that_holds_no_pixel_is_no_segment() -> None:
    # Query 0 wins everywhere, but nowhere above one half.
    merged = merge(masks("----"), scores((0, 0.9)))
    assert picture(merged.segment_map) == "...."
    assert len(merged.queries) == 0


def test_logit_zero_is_inside() -> None:
    merged = merge(torch.zeros(1, 1, 3), scores((0, 0.9)))
    assert picture(merged.segment_map) == "111"


def test_void_queries_take_no_part() -> None:
    merged = merge(masks("####", "..##"), scores((VOID, 0.99), (0, 0.4)))
    assert picture(merged.segment_map) == "..11"
    assert merged.queries.tolist() == [1]


@pytest.mark.parametrize("class_probs", [scores((VOID, 0.9), (VOID, 0.9)), scores((0, 0.4), (1, 0.4))])
def test_no_kept_query_gives_an_empty_result(class_probs: torch.Tensor) -> None:
    merged = merge(masks("##..", "..##"), class_probs, object_mask_threshold=0.5)
    assert picture(merged.segment_map) == "...."
    assert merged.segment_map.dtype == np.int32
    assert [len(part) for part in (merged.class_indices, merged.scores, merged.queries)] == [0, 0, 0]


def test_of_two_equal_queries_the_first_owns_everything() -> None:
    merged = merge(masks("####", "####", "####"), scores((0, 0.9), (0, 0.9), (1, 0.9)))
    assert picture(merged.segment_map) == "1111"
    assert merged.queries.tolist() == [0]


def test_saturated_masks_tie_and_the_first_wins() -> None:
    # Beyond a logit of about 17 the float32 mask probability is 1, however large the logit.
    mask_logits = torch.cat((masks("####", logit=20.0), masks("####", logit=40.0)))
    merged = merge(mask_logits, scores((1, 0.9), (0, 0.9)))
    assert merged.class_indices.tolist() == [1]


def test_rejected_stuff_reserves_no_segment() -> None:
    merged = merge(masks("####", ".###", "#..."), scores((2, 0.3), (0, 0.9), (2, 0.8)))
    assert picture(merged.segment_map) == "2111"
    assert merged.class_indices.tolist() == [0, 2]


def test_later_stuff_must_pass_the_overlap_test_itself() -> None:
    merged = merge(masks("##...", "..###", "...##"), scores((2, 0.9), (2, 0.5), (0, 0.9)))
    assert picture(merged.segment_map) == "11.22"


def test_segments_do_not_depend_on_how_many_rows_are_done_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    mask_logits = torch.randn(12, 30, 20, generator=generator) * 4
    class_probs = torch.randn(12, 5, generator=generator).mul(3).softmax(-1)
    answers = []
    for band_values in (1, 12 * 20 * 7, 10**9):
        resizer = same_size(30, 20)
        object.__setattr__(resizer, "_band_values", band_values)
        settings = InferenceSettings(overlap_threshold=0.1)
        answers.append(panoptic_segments(mask_logits, class_probs, torch.tensor(THINGS), resizer, settings))
        np.testing.assert_array_equal(semantic_classes(mask_logits, class_probs, resizer).shape, (30, 20))
    assert len(answers[0].queries) > 1
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer.segment_map, answers[0].segment_map)


def test_semantic_adds_up_queries() -> None:
    # 0.4 + 0.4 of class 1 beat 0.7 of class 0 where all three masks lie.
    class_probs = torch.tensor([[0.7, 0, 0, 0, 0.3], [0, 0.4, 0, 0, 0.6], [0, 0.4, 0, 0, 0.6]])
    classes = semantic_classes(masks("####", "..##", "..##"), class_probs, same_size(1, 4))
    assert classes.tolist() == [[0, 0, 1, 1]]


def test_semantic_never_answers_void() -> None:
    class_probs = torch.tensor([[0.01, 0.0, 0.02, 0.0, 0.97]])
    assert semantic_classes(masks("#."), class_probs, same_size(1, 2)).tolist() == [[2, 2]]


def pick(mask_logits: torch.Tensor, class_probs: torch.Tensor, top_k: int) -> InstanceMasks:
    return instance_masks(mask_logits, class_probs, torch.tensor(THINGS), same_size(*mask_logits.shape[1:]), top_k)


def test_instance_score_is_class_times_mean_mask_probability() -> None:
    found = pick(torch.tensor([[[2.0, 4.0, -3.0]]]), scores((1, 0.9)), top_k=1)
    mean = (torch.tensor(2.0).sigmoid() + torch.tensor(4.0).sigmoid()) / 2
    np.testing.assert_allclose(found.scores, [0.9 * float(mean)], rtol=1e-5)
    assert found.class_indices.tolist() == [1]
    assert found.masks.dtype == np.bool_
    assert found.masks.tolist() == [[[True, True, False]]]


def test_one_query_may_be_several_instances() -> None:
    class_probs = torch.tensor([[0.5, 0.4, 0.0, 0.0, 0.1], [0.3, 0.1, 0.0, 0.0, 0.6]])
    found = pick(masks("##..", "..##"), class_probs, top_k=3)
    assert found.class_indices.tolist() == [0, 1, 0]
    assert found.masks[:, 0, 0].tolist() == [True, True, False]
    np.testing.assert_allclose(found.scores, [0.5, 0.4, 0.3], rtol=1e-3)


def test_stuff_uses_up_places_among_the_best() -> None:
    class_probs = torch.tensor([[0.2, 0.0, 0.7, 0.0, 0.1], [0.0, 0.3, 0.6, 0.0, 0.1]])
    found = pick(masks("##..", "..##"), class_probs, top_k=3)
    assert found.class_indices.tolist() == [1]


def test_instances_are_ordered_by_their_final_score() -> None:
    # The better class probability lies on the weaker mask.
    mask_logits = torch.cat((masks("##..", logit=0.5), masks("..##", logit=9.0)))
    found = pick(mask_logits, scores((0, 0.8), (1, 0.7)), top_k=2)
    assert found.class_indices.tolist() == [1, 0]
    assert found.scores[0] > found.scores[1]


def test_an_empty_mask_scores_zero() -> None:
    found = pick(masks("....", "##.."), scores((0, 0.9), (1, 0.6)), top_k=2)
    assert found.class_indices.tolist() == [1, 0]
    assert found.scores[1] == 0.0
    assert not found.masks[1].any()


def test_more_places_than_pairs_takes_all_things() -> None:
    found = pick(masks("##", "#."), scores((0, 0.9), (2, 0.6)), top_k=1000)
    assert len(found.scores) == 2 * sum(THINGS)


def test_no_thing_among_the_best_gives_no_instance() -> None:
    found = pick(masks("##"), scores((2, 0.9)), top_k=1)
    assert found.masks.shape == (0, 1, 2)


def published_resize(mask_logits: torch.Tensor, geometry: FrameGeometry) -> torch.Tensor:
    large = F.interpolate(mask_logits[None], size=geometry.padded, mode="bilinear", align_corners=False)
    large = large[:, :, : geometry.resized[0], : geometry.resized[1]]
    return F.interpolate(large, size=geometry.output, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize(
    ("image", "resized", "padded", "stride"),
    [
        ((120, 181), (96, 145), (96, 160), 1),
        ((120, 181), (96, 145), (96, 160), 2),
        ((120, 181), (96, 145), (96, 160), 4),
        ((480, 640), (256, 341), (256, 352), 1),
        ((1, 1), (32, 32), (32, 32), 1),
        ((1, 1), (32, 32), (32, 32), 4),
        ((1, 300), (1, 64), (32, 64), 1),
        ((37, 11), (64, 19), (64, 32), 1),
        ((50, 70), (64, 90), (64, 96), 1),
    ],
)
def test_masks_are_enlarged_as_by_two_bilinear_resizes(
    image: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int], stride: int
) -> None:
    geometry = FrameGeometry(image, resized, padded, stride)
    size = (padded[0] // 4, padded[1] // 4)
    mask_logits = torch.randn(3, *size, generator=torch.Generator().manual_seed(1)) * 10
    resizer = MaskResizer(geometry, size, CPU)
    bands = [(rows, band.clone()) for rows, band in resizer.bands(mask_logits)]
    assert [rows.start for rows, _ in bands[1:]] == [rows.stop for rows, _ in bands[:-1]]
    ours = torch.cat([band for _, band in bands], dim=1)
    # In double precision: torch's float32 resize rounds its coordinates, which alone moves values by some 3e-4.
    expected = published_resize(mask_logits.double(), geometry)
    torch.testing.assert_close(ours.double(), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "sizes",
    [
        (200, 800, 800, 480),
        (336, 1344, 1333, 640),
        (336, 1344, 1333, 8000),
        (8, 32, 1, 7),
        (8, 32, 32, 1),
        (50, 50, 50, 50),
        (64, 32, 20, 90),
        (16, 64, 33, 17),
    ],
)
def test_taps_of_a_resize_are_those_of_two_dense_resizes(sizes: tuple[int, int, int, int]) -> None:
    mask, padded, resized, image = sizes

    def dense(source: int, target: int) -> torch.Tensor:
        rows = torch.eye(source, dtype=torch.float64).unsqueeze(1)
        return F.interpolate(rows, size=target, mode="linear", align_corners=False).squeeze(1).T

    expected = dense(resized, image) @ dense(mask, padded)[:resized]
    taps = composed_resize(*sizes)
    found = taps.matrix(slice(0, image), slice(0, mask))
    torch.testing.assert_close(found.double(), expected, atol=1e-7, rtol=0)
    assert taps.weights.shape[1] <= 4
    assert bool((taps.weights[:, 0] != 0).all())


@pytest.mark.parametrize("image", [(1, 400_000), (400_000, 1), (3, 65_500), (1_000_000, 1)])
def test_masks_of_a_line_cost_what_its_pixels_do(image: tuple[int, int]) -> None:
    """Dense matrices of such sides took gigabytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    geometry = FrameGeometry.of(*image, InferenceSettings())
    size = (geometry.padded[0] // 4, geometry.padded[1] // 4)
    resizer = MaskResizer(geometry, size, CPU)
    # The left or upper half is one thing, the rest another.
    across, down = np.mgrid[: size[0], : size[1]]
    half = torch.from_numpy((across / size[0] if image[1] == 1 else down / size[1]) < 0.5).float() * 16 - 8
    found = panoptic_segments(
        torch.stack((half, -half)), scores((0, 0.9), (1, 0.8)), torch.tensor(THINGS), resizer, InferenceSettings()
    )
    assert found.segment_map.shape == image
    assert found.class_indices.tolist() == [0, 1]
    line = found.segment_map.ravel() if 1 in image else found.segment_map[0]
    assert abs(int(np.argmax(line == 2)) - len(line) // 2) < len(line) // 50
    assert semantic_classes(torch.stack((half, -half)), scores((0, 0.9), (1, 0.8)), resizer).shape == image
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700_000  # kilobytes


def test_a_row_that_is_too_long_for_all_masks_comes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = FrameGeometry.of(3, 1000, InferenceSettings())
    size = (geometry.padded[0] // 4, geometry.padded[1] // 4)
    logits = torch.randn(5, *size, generator=torch.Generator().manual_seed(2))
    whole = torch.cat([band for _, band in MaskResizer(geometry, size, CPU).bands(logits)], 1)
    monkeypatch.setattr("fcclip_core.inference.mask_resize.BAND_VALUES_CPU", 5 * 130)
    pieces = torch.full_like(whole, torch.nan)
    for rows, columns, logits_there in MaskResizer(geometry, size, CPU).tiles(logits):
        assert logits_there.numel() <= 5 * 130
        pieces[:, rows, columns] = logits_there
    assert torch.equal(pieces, whole)
