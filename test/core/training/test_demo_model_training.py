"""The small CLIP's training: loss, windows, captions, resumption, and both commands on scenes of a few squares."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.quality.zero_shot import cut_out, embed_crops, zero_shot
from fcclip_core import Vocabulary, load_checkpoint
from fcclip_core.cli import main
from fcclip_core.datasets.records import PanopticSample, TruthSegment
from fcclip_core.datasets.world_shards import WorldShards
from fcclip_core.errors import CheckpointError, DatasetError, TrainingError
from fcclip_core.model.backbone import FeaturePyramid, mask_pool
from fcclip_core.model.config import TINY, ModelConfig
from fcclip_core.simulation.names import train_vocabulary, world_vocabulary
from fcclip_core.training.config import AugmentationConfig, LossConfig
from fcclip_core.training.demo_model import clip as world_clip
from fcclip_core.training.demo_model import recipe as world
from fcclip_core.training.demo_model.clip import ClipRecipe, ClipTraining, Phase
from fcclip_core.training.demo_model.contrastive import contrastive_loss, pairings, write_caption
from fcclip_core.training.demo_model.depthwise import speed_up_depthwise
from fcclip_core.training.demo_model.windows import WindowKind, cell_masks, draw_windows

COLORS = {"red ball": (220, 20, 20), "blue box": (20, 20, 220), "grass": (20, 160, 20)}
NAMES = tuple(COLORS)
THINGS = (True, True, False)
TINY_RECIPE = ClipRecipe(
    steps=6, warmup=2, phases=(Phase(0, (WindowKind(64, 4, wide=False), WindowKind(96, 3, wide=True))),)
)


def squares(seed: int) -> PanopticSample:
    """Two colored squares on grass, 128 x 96 pixels."""
    generator = np.random.default_rng(seed)
    image = np.full((96, 128, 3), COLORS["grass"], np.uint8)
    ids = np.full((96, 128), 3, np.int32)
    for number in (1, 2):
        top, left = int(generator.integers(5, 50)), int(generator.integers(5, 25)) + 60 * (number - 1)
        image[top : top + 34, left : left + 34] = COLORS[NAMES[number - 1]]
        ids[top : top + 34, left : left + 34] = number
    return PanopticSample(f"squares {seed}", image, ids, tuple(TruthSegment(i + 1, i) for i in range(3)))


def write_shard(folder: Path, names: tuple[str, ...] = NAMES, frames: int = 4) -> Path:
    samples = [squares(seed) for seed in range(frames)]
    owner, ids = np.repeat(np.arange(frames), 3), np.tile([1, 2, 3], frames)
    folder.mkdir(exist_ok=True)
    np.savez_compressed(
        folder / "shard-00000.npz",
        images=np.stack([sample.image for sample in samples]),
        maps=np.stack([sample.segment_map for sample in samples]).astype(np.uint16),
        segment_frame=owner,
        segment_id=ids,
        segment_class=ids - 1,
        class_names=np.array(names),
        class_is_thing=np.array(THINGS),
    )
    return folder


def test_loss_of_shared_captions_by_hand() -> None:
    # Images 0 and 1 share caption 0. Logits are ln 2 times the cosine: softmax weights are 2 and 1.
    images = torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.0, 5.0]])
    captions = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    matches = torch.tensor([[True, False], [True, False], [False, True]])
    scale = torch.tensor(math.log(math.log(2)))
    loss = contrastive_loss(images, captions, scale, matches, torch.zeros_like(matches))
    over_captions = math.log(3 / 2)  # each image: 2 of 2 + 1
    over_images = (math.log(5 / 2) + math.log(4 / 2)) / 2  # weights 2, 2, 1 with two targets; 1, 1, 2 with one
    assert loss.item() == pytest.approx((over_captions + over_images) / 2, rel=1e-5)


def test_loss_leaves_ignored_pairs_out() -> None:
    images, captions = torch.eye(2), torch.eye(2)
    matches = torch.eye(2, dtype=torch.bool)
    loss = contrastive_loss(images, captions, torch.tensor(0.0), matches, ~matches)
    assert loss.item() == pytest.approx(0.0, abs=1e-6)


def test_captions_that_name_a_part_are_neither_right_nor_wrong() -> None:
    both, ball, box = frozenset((0, 1)), frozenset((0,)), frozenset((1,))
    sets, matches, ignored = pairings([both, ball, box, ball])
    assert sets == [both, ball, box]
    assert matches.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]]
    assert ignored.tolist() == [[0, 1, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0]]


def test_captions_without_an_image_are_wrong_answers_only() -> None:
    sets, matches, ignored = pairings([frozenset((0, 1)), frozenset((2,))], others=range(4))
    assert sets == [frozenset((0, 1)), frozenset((2,)), frozenset((0,)), frozenset((1,)), frozenset((3,))]
    assert ignored.tolist() == [[0, 0, 1, 1, 0], [0] * 5]
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    captions = torch.cat((images, torch.zeros(3, 2)))
    loss = contrastive_loss(images, captions, torch.tensor(math.log(math.log(2))), matches, ignored)
    # Weights over captions: 2, 1, 1 with two ignored, and 1, 2, 1, 1, 1; over images 2 and 1, unused captions left out.
    expected = (math.log(4 / 2) + math.log(6 / 2)) / 2 + math.log(3 / 2)
    assert loss.item() == pytest.approx(expected / 2, rel=1e-5)


def test_a_caption_names_everything() -> None:
    for seed in range(20):
        caption = write_caption(["red ball", "blue box", "grass"], np.random.default_rng(seed))
        assert all(name in caption for name in ("red ball", "blue box", "grass")) and "{" not in caption


def test_masks_are_those_that_inference_pools() -> None:
    ids = np.random.default_rng(0).integers(1, 3, (16, 24)).repeat(8, 0).repeat(8, 1)
    ids = np.roll(ids, (3, 5), (0, 1))
    for value, mask in zip((1, 2), cell_masks(ids, [1, 2]), strict=True):
        membership = torch.from_numpy((ids == value).astype(np.float32))[None, None]
        logits = F.avg_pool2d(membership, 4) - 0.5  # a mask at stride 4
        cells = F.interpolate(logits, scale_factor=1 / 8, mode="bilinear", align_corners=False)[0, 0]
        np.testing.assert_array_equal(mask, cells.numpy() > 1e-6)


@pytest.mark.parametrize("wide", [False, True])
def test_windows_are_named_after_what_they_show(wide: bool) -> None:
    samples = [squares(seed) for seed in range(5)]
    kind = WindowKind(96, 12, wide)
    batch = draw_windows(samples, THINGS, kind, np.random.default_rng(1))
    again = draw_windows(samples, THINGS, kind, np.random.default_rng(1))
    assert torch.equal(batch.images, again.images) and batch.named == again.named

    mean, deviation = torch.tensor((122.77, 116.75, 104.09)), torch.tensor((68.5, 66.6, 70.3))
    regions = 0
    for (window, row), named in zip(batch.positions.tolist(), batch.named, strict=True):
        cells = batch.masks[window, row]
        assert cells.any()
        if cells.all() or len(named) > 1:  # named as a whole
            continue
        centers = batch.images[window][:, 14::32, 14::32][:, cells].mean(1) * deviation + mean
        distances = torch.stack([(centers - torch.tensor(color)).norm() for color in COLORS.values()])
        assert named == {int(distances.argmin())}
        regions += 1
    assert regions > 5


def test_depthwise_gradients_are_torchs() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(4, 4, 7, padding=3, groups=4)
    x = torch.randn(2, 4, 6, 9, requires_grad=True)
    expected = torch.autograd.grad(convolution(x).square().sum(), (x, *convolution.parameters()))
    speed_up_depthwise(convolution)
    for ours, theirs in zip(
        torch.autograd.grad(convolution(x).square().sum(), (x, *convolution.parameters())), expected, strict=True
    ):
        torch.testing.assert_close(ours, theirs)


class MeanColor:
    """A tower whose embedding of a mask is its mean color."""

    def __call__(self, image: torch.Tensor) -> FeaturePyramid:
        return FeaturePyramid(*[image[..., 16::32, 16::32]] * 4)

    def embed_masks(self, features: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        weights = masks.flatten(2).float()
        return weights @ features.flatten(2).transpose(1, 2) / weights.sum(-1, keepdim=True).clamp(min=1)


def test_zero_shot_counts_right_names() -> None:
    samples = [squares(seed) for seed in range(4)]
    statistics = torch.tensor((122.77, 116.75, 104.09)), torch.tensor((68.5, 66.6, 70.3))
    rows = F.normalize((torch.tensor(tuple(COLORS.values())).float() - statistics[0]) / statistics[1], dim=-1)
    right = zero_shot(MeanColor(), rows, THINGS, samples, shorter_side=192)
    assert (right.thing_masks, right.stuff_masks, right.survive) == (1.0, 1.0, 1.0)
    swapped = zero_shot(MeanColor(), rows[[1, 0, 2]], THINGS, samples, shorter_side=192)
    assert (swapped.crops, swapped.thing_masks, swapped.stuff_masks) == (0.0, 0.0, 1.0)


def test_a_crop_shows_the_segment_with_a_margin() -> None:
    """The square is 20 pixels wide; 1.3 times that is 26, from row 17 and column 37 on."""
    image = np.zeros((96, 128, 3), np.uint8)
    image[20:40, 40:60] = COLORS["red ball"]
    box = (slice(20, 40), slice(40, 60))
    crop = cut_out(image, box, 64)
    assert crop.shape == (64, 64, 3) and crop.dtype == np.uint8
    rows, columns = (crop[..., 0] > 110).nonzero()
    # 3 of 26 pixels on each side are 7.4 of 64.
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (7, 56, 7, 56)


def test_a_crop_without_background_is_the_mean_color_around_the_segment() -> None:
    image = np.full((64, 64, 3), 255, np.uint8)
    inside = np.zeros((64, 64), bool)
    inside[20:40, 20:40] = True
    crop = cut_out(image, (slice(20, 40), slice(20, 40)), 32, inside)
    assert crop[0, 0].tolist() == [123, 117, 104] and crop[16, 16].tolist() == [255, 255, 255]
    # Normalized, the mean color is nothing: what was removed says nothing but that it is not there.
    empty = cut_out(image, (slice(20, 40), slice(20, 40)), 32, np.zeros((64, 64), bool))
    assert embed_crops(MeanColor(), [crop, empty], torch.device("cpu"))[1].abs().max() < 0.01


def training(folder: Path, recipe: ClipRecipe = TINY_RECIPE) -> ClipTraining:
    return ClipTraining([squares(seed) for seed in range(4)], NAMES, THINGS, recipe, folder, TINY)


def test_a_resumed_clip_training_continues_exactly(tmp_path: Path) -> None:
    whole = training(tmp_path / "whole")
    whole.run()
    training(tmp_path / "parts").run(until=3)
    resumed = training(tmp_path / "parts")
    assert resumed.step == 3
    resumed.run()
    for (name, ours), theirs in zip(resumed.model.state_dict().items(), whole.model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6, msg=name)


class Patches(nn.Module):
    """Another image tower: one convolution of stride 32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, dim, 32, 32)

    def forward(self, image: torch.Tensor) -> FeaturePyramid:
        return FeaturePyramid(*[self.project(image)] * 4)

    def embed_masks(self, features: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        return mask_pool(features, masks)


def test_another_image_tower_is_trained_by_the_same_recipe(tmp_path: Path) -> None:
    """With the same first text tower; and a run of one does not resume as the other."""

    def build(config: ModelConfig) -> world_clip.SmallClip:
        clip = world_clip.SmallClip(config)
        clip.image = Patches(config.embed_dim)  # type: ignore[assignment]
        return clip

    other = dataclasses.replace(TINY, name="patches")
    samples = [squares(seed) for seed in range(4)]
    ours = ClipTraining(samples, NAMES, THINGS, TINY_RECIPE, tmp_path / "a", other, build=build)
    theirs = training(tmp_path / "b")
    assert torch.equal(ours.model.text.token_embedding.weight, theirs.model.text.token_embedding.weight)
    before = ours.model.image.project.weight.clone()
    ours.run(until=3)
    assert not torch.equal(before, ours.model.image.project.weight)
    resumed = ClipTraining(samples, NAMES, THINGS, TINY_RECIPE, tmp_path / "a", other, build=build)
    assert resumed.step == 3 and torch.equal(resumed.model.image.project.weight, ours.model.image.project.weight)
    with pytest.raises(TrainingError, match="belongs to another run: sizes"):
        training(tmp_path / "a")


def test_an_exported_clip_is_read_back(tmp_path: Path) -> None:
    model = training(tmp_path).model
    world_clip.export_clip(tmp_path / "clip.safetensors", model)
    read = world_clip.SmallClip.load(tmp_path / "clip.safetensors", TINY)
    for (name, ours), theirs in zip(read.state_dict().items(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=name)
    with pytest.raises(CheckpointError, match="is not the CLIP of convnext_small"):
        world_clip.SmallClip.load(tmp_path / "clip.safetensors")


def test_a_clip_training_does_not_resume_another_recipe(tmp_path: Path) -> None:
    training(tmp_path).run(until=1)
    with pytest.raises(TrainingError, match="belongs to another run: recipe"):
        training(tmp_path, dataclasses.replace(TINY_RECIPE, seed=1))
    assert training(tmp_path, dataclasses.replace(TINY_RECIPE, steps=9)).step == 1


def test_shards_refuse_what_training_must_not_see(tmp_path: Path) -> None:
    folder = write_shard(tmp_path / "scenes", ("red mug", "blue box", "grass"))
    assert len(WorldShards(folder, world_vocabulary())) == 4
    with pytest.raises(DatasetError, match=r"shard-00000.npz contains 'red mug'.*--split train"):
        WorldShards(folder, train_vocabulary())


def test_shards_name_a_damaged_file(tmp_path: Path) -> None:
    folder = write_shard(tmp_path / "scenes")
    (folder / "shard-00001.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(DatasetError, match=r"shard-00001.npz is damaged"):
        WorldShards(folder, Vocabulary.from_names(NAMES, stuff=["grass"]))
    with pytest.raises(DatasetError, match="has no shard"):
        WorldShards(tmp_path, Vocabulary.from_names(NAMES, stuff=["grass"]))


def test_shards_give_samples_by_name(tmp_path: Path) -> None:
    vocabulary = Vocabulary.from_names(["grass", "blue box", "red ball"], stuff=["grass"])
    sample = WorldShards(write_shard(tmp_path / "scenes"), vocabulary)[1]
    np.testing.assert_array_equal(sample.image, squares(1).image)
    assert [segment.class_index for segment in sample.segments] == [2, 1, 0]
    assert np.unique(sample.class_map()[sample.segment_map == 1]).tolist() == [2]


def test_both_commands_make_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCCLIP_CACHE_DIR", str(tmp_path / "cache"))
    small = dataclasses.replace(ClipRecipe(), warmup=2, phases=TINY_RECIPE.phases)
    monkeypatch.setattr(world_clip, "ClipRecipe", lambda seed: dataclasses.replace(small, seed=seed))
    recipe = world.world_config
    monkeypatch.setattr(
        world,
        "world_config",
        lambda *given: dataclasses.replace(
            recipe(*given),
            batch_size=2,
            loss=LossConfig(num_points=64),
            augmentation=AugmentationConfig(crop=64),
        ),
    )
    scenes = str(write_shard(tmp_path / "scenes"))
    assert (
        main(["train", "world-clip", scenes, "--out", str(tmp_path / "clip"), "--steps", "2", "--device", "cpu"]) == 0
    )
    arguments = ["--clip", str(tmp_path / "clip" / "clip.safetensors"), "--steps", "2", "--device", "cpu"]
    assert main(["train", "world", scenes, "--out", str(tmp_path / "world"), *arguments]) == 0

    result = tmp_path / "world" / "demo.safetensors"
    checkpoint = load_checkpoint(result)
    assert result.stat().st_size < 25e6
    assert checkpoint.config.name == "convnext_small" and checkpoint.train_vocabulary.names == train_vocabulary().names
    clip = world_clip.SmallClip.published_state(
        ClipTraining([], world_vocabulary().names, (), dataclasses.replace(small, steps=2), tmp_path / "clip").model
    )
    key = "backbone.clip_model.visual.trunk.stages.0.blocks.0.mlp.fc1.weight"
    torch.testing.assert_close(checkpoint.state[key], clip[key].half().float())
