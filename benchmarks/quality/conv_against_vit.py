"""Convolutional against ViT image tower of equal size as a mask classifier, over input sizes.

Both are trained here by the small CLIP's recipe: the same windows, captions, seed and text tower's first weights. Then
each names the true masks of whole frames and crops of things, and the masks that an FC-CLIP predicts (Table 9). Run the
same command again to resume. `--picture` draws what their features tell apart in one frame, as the paper's Figure 1.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.lib.arguments import make_parser
from benchmarks.lib.patch_tower import FineGrid, PatchTower
from benchmarks.lib.rates import timed
from benchmarks.lib.report import Report, print_table, say
from benchmarks.quality.zero_shot import things_named_right
from fcclip_core.datasets.world_shards import WorldShards
from fcclip_core.devices import resolve_device
from fcclip_core.evaluation.clip_masks import name_masks
from fcclip_core.evaluation.clip_proposals import name_proposals
from fcclip_core.evaluation.clips import Clip
from fcclip_core.evaluation.features import cluster_maps, draw_clusters
from fcclip_core.images.image_files import write_image
from fcclip_core.inference.classification import MAX_LOGIT_SCALE, TextClassifier, Words
from fcclip_core.inference.preprocess import FrameGeometry
from fcclip_core.model.backbone import ImageTower
from fcclip_core.model.config import CONVNEXT_SMALL, ModelConfig
from fcclip_core.segmenter import Segmenter
from fcclip_core.settings import InferenceSettings
from fcclip_core.simulation.names import world_vocabulary
from fcclip_core.training.demo_model.clip import ClipRecipe, ClipTraining, SmallClip
from fcclip_core.vocabulary.classes import Vocabulary
from fcclip_core.vocabulary.snapshot import VocabularySnapshot
from fcclip_core.vocabulary.text_embeddings import TextEncoder, TextRows

FRAME_SIZES = "240,320,480,640,800"
CROP_SIZES = "64,96,128,160"
REPEAT = 3
CLUSTERS = 8


def vit_clip(config: ModelConfig) -> SmallClip:
    """The small CLIP with a ViT for its image tower; its text tower starts from the same weights as the other's."""
    clip = SmallClip(config)
    clip.image = PatchTower(config.embed_dim)  # type: ignore[assignment]
    return clip


@dataclass(frozen=True)
class Contender:
    """One of the two.

    Attributes:
        config: Sizes of the text tower and of the joint space; its name keeps the two runs' states apart.
        build: Makes the untrained CLIP.
        grids: Image tower -> the ways to pool masks over it, by name.
    """

    config: ModelConfig
    build: Callable[[ModelConfig], SmallClip]
    grids: Callable[[Any], dict[str, ImageTower]]


CONTENDERS = {
    "convnext": Contender(CONVNEXT_SMALL, SmallClip, lambda tower: {"stride 32": tower}),
    "vit": Contender(
        replace(CONVNEXT_SMALL, name="vit_small"),
        vit_clip,
        lambda tower: {"stride 32": tower, "stride 16": FineGrid(tower)},
    ),
}


def main() -> None:
    """Trains, evaluates, prints."""
    parser = make_parser(__doc__, "checkpoint", "seed", device="cpu", threads=1)
    parser.add_argument("clip_shards", type=Path, help="shards to train on (`fcclip world render --shards`)")
    parser.add_argument("val_shards", type=Path, help="shards of other scenes to evaluate on")
    parser.add_argument("--steps", type=int, required=True, metavar="N", help="optimizer steps of each tower")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="state and log of both runs")
    early = ClipRecipe().phases[0].steps
    parser.add_argument("--early-steps", type=int, default=early, metavar="N", help="of these, on 64-pixel crops alone")
    parser.add_argument("--train-only", choices=CONTENDERS, help="train this one and stop: one process on each core")
    parser.add_argument("--sizes", type=_sizes, default=FRAME_SIZES, help="shorter sides in pixels")
    parser.add_argument("--crops", type=_sizes, default=CROP_SIZES, help="multiples of 32 pixels")
    parser.add_argument("--limit", type=int, default=300, help="frames to evaluate")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw clusters of features of one frame")
    parser.add_argument("--picture-frame", type=int, default=0, metavar="N", help="which frame")
    parser.add_argument("--train-shards", type=int, metavar="N", help="read no more than N training shards")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report = Report("conv_against_vit")
    device, vocabulary = resolve_device(args.device), world_vocabulary()
    first, *_, last = ClipRecipe().phases
    recipe = ClipRecipe(steps=args.steps, seed=args.seed, phases=(replace(first, steps=args.early_steps), last))
    frames = WorldShards(args.clip_shards, vocabulary, args.train_shards)
    trained = {}
    for name in [args.train_only] if args.train_only else CONTENDERS:
        contender = CONTENDERS[name]
        training = ClipTraining(
            frames,
            vocabulary.names,
            vocabulary.things,
            recipe,
            args.out / name,
            contender.config,
            device,
            contender.build,
        )
        training.run()
        trained[name] = training.model.eval()
    if args.train_only:
        return
    del frames

    samples = WorldShards(args.val_shards, vocabulary)
    clips = [clip_of(model, name, device) for name, model in trained.items()]
    if args.picture:
        image = samples[args.picture_frame].image
        rows = cluster_maps(image, clips[::-1], args.sizes, CLUSTERS, args.seed)
        write_image(args.picture, draw_clusters(image, rows), optimize=True)
    results = {
        name: evaluate(model, CONTENDERS[name], samples, vocabulary, args, device) for name, model in trained.items()
    }
    for name, result in results.items():
        say(f"{name}: {result['parameters'] / 1e6:.2f} million parameters, {args.steps} steps")
    show_frames(results)
    show_crops(results)
    predicted = predicted_masks(samples, clips, args, device)
    show_predicted(predicted)
    report.write(
        args.json,
        recipe=recipe.fixed() | {"steps": recipe.steps},
        training_frames=args.clip_shards,
        frames=min(args.limit, len(samples)),
        units="per cent; CPU seconds of one forward pass of the image tower in float32, one image",
        towers=results,
        predicted_masks={"checkpoint": args.checkpoint, "towers": predicted},
    )


def clip_of(model: SmallClip, name: str, device: torch.device) -> Clip:
    """A trained CLIP, its image tower on its own, finest grid."""
    *_, tower = CONTENDERS[name].grids(model.image).values()

    def embed(image: Tensor) -> Tensor:
        features = tower(image).res5
        return tower.embed_masks(features, torch.ones_like(features[:, :1], dtype=torch.bool))[:, 0]

    scale = min(model.logit_scale.exp().item(), MAX_LOGIT_SCALE)
    return Clip(name, tower, embed, TextEncoder(lambda: model.text, device), scale, False, device)


@torch.inference_mode()
def evaluate(
    model: SmallClip,
    contender: Contender,
    samples: WorldShards,
    vocabulary: Vocabulary,
    args: argparse.Namespace,
    device: torch.device,
) -> dict[str, Any]:
    """What one trained CLIP names right, and what a forward pass of its image tower costs on the CPU.

    Returns:
        parameters; frames: grid -> size -> accuracy.* and pq.*; crops: size -> accuracy; cpu_seconds: of frames and
        crops, by size.
    """
    tower = model.image
    rows = TextRows(TextEncoder(lambda: model.text, device), contender.config.name).rows(vocabulary.synonyms)
    snapshot = snapshot_of(vocabulary, rows.to(device), model.logit_scale)
    flags = vocabulary.things, snapshot.seen
    frames = {
        grid: {
            # This CLIP saw all classes: there are no groups of seen and unseen ones.
            str(size): {key: value for key, value in named.scores(*flags).items() if not key.endswith("seen")}
            for size, named in name_masks(samples, view, snapshot, args.sizes, limit=args.limit).items()
        }
        for grid, view in contender.grids(tower).items()
    }
    crops = {
        str(size): crop_accuracy(tower, snapshot.classifier.rows, samples, args.limit, size) for size in args.crops
    }
    tower.cpu()
    height, width = samples[0].image.shape[:2]
    shapes = {
        size: FrameGeometry.of(height, width, InferenceSettings(shorter_side=size, max_size=4 * size)).padded
        for size in args.sizes
    }
    return {
        "parameters": sum(parameter.numel() for parameter in tower.parameters()),
        "frames": frames,
        "crops": crops,
        "cpu_seconds": {
            "frames": {str(size): forward_seconds(tower, shape) for size, shape in shapes.items()},
            "crops": {str(size): forward_seconds(tower, (size, size)) for size in args.crops},
        },
    }


def predicted_masks(
    samples: WorldShards, clips: Sequence[Clip], args: argparse.Namespace, device: torch.device
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Tower -> size -> PQ and mIoU of the checkpoint's masks, made once, under the tower's names."""
    segmenter = Segmenter.from_checkpoint(args.checkpoint, device=str(device), backend="eager")
    words = segmenter.set_vocabulary(world_vocabulary())
    snapshots = {clip.name: clip.words_for(words) for clip in clips}
    boards = name_proposals(samples, segmenter, snapshots, clips, args.sizes, limit=args.limit)
    return {
        name: {str(size): {key: board.scores()[key] for key in ("pq.all", "miou.all")} for size, board in by.items()}
        for name, by in (boards or {}).items()
    }


def snapshot_of(vocabulary: Vocabulary, rows: Tensor, logit_scale: Tensor) -> VocabularySnapshot:
    """The vocabulary for CLIP alone: it was trained on every class, and nothing of FC-CLIP takes part."""
    scale = min(logit_scale.exp().item(), MAX_LOGIT_SCALE)
    count = len(vocabulary)
    classifier = TextClassifier(
        rows=rows,
        void=torch.zeros_like(rows[:1]),
        class_of_row=torch.arange(count).repeat_interleave(torch.tensor(vocabulary.synonym_counts)).to(rows.device),
        seen=torch.ones(count, dtype=torch.bool, device=rows.device),
        in_vocab_scale=scale,
        out_vocab_scale=scale,
    )
    things = torch.tensor([item.is_thing for item in vocabulary.classes], device=rows.device)
    words = Words(classifier, things)
    return VocabularySnapshot(0, vocabulary, tuple(range(1, count + 1)), vocabulary.colors, (True,) * count, words)


def crop_accuracy(tower: ImageTower, rows: Tensor, samples: WorldShards, limit: int, size: int) -> float:
    """Percent of the things of at least 25 pixels that are named right from crops of `size` pixels."""
    things, frames = samples.classes.things, min(limit, len(samples))
    right = [one for index in range(frames) for one in things_named_right(tower, rows, things, samples[index], size)]
    return 100 * float(np.mean(right)) if right else float("nan")


@torch.inference_mode()
def forward_seconds(tower: nn.Module, shape: tuple[int, int]) -> float:
    """CPU seconds of one image through the tower: the median of three, after one to warm up."""
    image = torch.zeros(1, 3, *shape).contiguous(memory_format=torch.channels_last)
    seconds = [timed(tower, image, clock=time.process_time)[1] for _ in range(REPEAT + 1)]
    return statistics.median(seconds[1:])


def show_frames(results: dict[str, Any]) -> None:
    """Prints a row for each input size, tower and grid: share of true masks named right, PQ, tower's cost."""
    measures = {"things": "accuracy.things", "stuff": "accuracy.stuff", "PQ": "pq.all"}
    rows = [
        [size, name, grid, *(scores[size][key] for key in measures.values()), result["cpu_seconds"]["frames"][size]]
        for size in next(iter(results.values()))["cpu_seconds"]["frames"]
        for name, result in results.items()
        for grid, scores in result["frames"].items()
    ]
    columns = dict.fromkeys(("shorter side", "tower", "masks"), "") | dict.fromkeys(measures, ".1f") | {"CPU s": ".3f"}
    print_table(columns, rows, "true masks of whole frames: percent named right, PQ under these names")


def show_crops(results: dict[str, Any]) -> None:
    """Prints a row for each crop size and tower: share of things named right, tower's cost."""
    rows = [
        [size, name, result["crops"][size], 1e3 * result["cpu_seconds"]["crops"][size]]
        for size in next(iter(results.values()))["crops"]
        for name, result in results.items()
    ]
    columns = {"crop": "", "tower": "", "things": ".1f", "CPU ms": ".2f"}
    print_table(columns, rows, "crops of things: percent named right")


def show_predicted(predicted: dict[str, Any]) -> None:
    """Prints a row for each input size: PQ and mIoU of the predicted masks under each tower's names."""
    columns = {"shorter side": ""} | {f"{name} {label}": ".1f" for name in predicted for label in ("PQ", "mIoU")}
    rows = [
        [size, *(score for by_size in predicted.values() for score in by_size[size].values())]
        for size in next(iter(predicted.values()))
    ]
    print_table(columns, rows, "the same predicted masks, named by each tower alone: per cent")


def _sizes(text: str) -> Sequence[int]:
    return [int(size) for size in text.split(",")]


if __name__ == "__main__":
    main()
